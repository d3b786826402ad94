"""Out of memory, said in one line that names what to lower."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from rockstudy.errors import StudyError

# What a RuntimeError of no class of its own says: torch's CPU allocator, CUDA outside of torch's
# allocator, cuBLAS for its workspace.
_SAYS = ("DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


@contextmanager
def advised(where: str | Callable[[], str], knobs: Mapping[str, int | bool]) -> Iterator[None]:
    """Turn an allocation that failed inside into an error that names the parameters to change.

    Parameters
    ----------
    where
        What was being done, or a function that says so when it is asked.
    knobs
        Current values by parameter, the first to try first. A count is to be lowered, a boolean to
        be made true; a count of 1 and True are left out.

    Raises
    ------
    StudyError
        In the place of a MemoryError, and of what torch raises on CUDA and on the CPU.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        place = where if isinstance(where, str) else where()
        raise StudyError(f"{place}: out of memory; {_advice(knobs)}") from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a CUDA device or on the CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _SAYS)


def _advice(knobs: Mapping[str, int | bool]) -> str:
    numbers = [f"{name} (now {value})" for name, value in knobs.items() if value > 1]
    switches = [f"set {name} true" for name, value in knobs.items() if value is False]
    lower = [f"lower {' or '.join(numbers)}"] if numbers else []
    return ", or ".join(lower + switches) or "nothing is left to lower: take a larger device"
