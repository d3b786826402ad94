"""Out-of-memory errors as one line that names the parameters to lower."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from rockstudy.errors import StudyError

# texts of plain RuntimeErrors: torch's CPU allocator, CUDA outside torch's allocator, cuBLAS
_TEXTS = ("DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


@contextmanager
def advised(where: str | Callable[[], str], knobs: Mapping[str, int | bool]) -> Iterator[None]:
    """Turn a failed allocation into a `StudyError` that names the parameters to change.

    `where` is the activity, or a function that returns it. `knobs` are current values by parameter,
    in order of preference; the line advises to lower counts above 1 and to set False to true.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        place = where if isinstance(where, str) else where()
        numbers = [f"{name} (now {value})" for name, value in knobs.items() if value > 1]
        advice = [f"lower {' or '.join(numbers)}"] if numbers else []
        advice += [f"set {name} true" for name, value in knobs.items() if value is False]
        told = ", or ".join(advice) or "nothing is left to lower: take a larger device"
        raise StudyError(f"{place}: out of memory; {told}") from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on a CUDA device or on the CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)
