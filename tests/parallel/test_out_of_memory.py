"""Every way in which memory runs out becomes one line, and nothing else does."""

import numpy as np
import pytest
import torch

from rockstudy.errors import StudyError
from rockstudy.parallel.out_of_memory import advised

PETABYTE = 10**15
KNOBS = {"micro_batch": 16, "max_new_tokens": 8000, "gradient_checkpointing": False}


def cuda() -> None:
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def cublas() -> None:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


@pytest.mark.parametrize(
    "failing", [cuda, cublas, lambda: torch.empty(PETABYTE), lambda: np.ones(PETABYTE)]
)
def test_memory_that_ran_out_is_one_line_with_the_parameters_to_change(failing):
    with pytest.raises(StudyError) as caught, advised("stage2 step 3", KNOBS):
        failing()
    assert str(caught.value) == (
        "stage2 step 3: out of memory; lower micro_batch (now 16) or max_new_tokens (now 8000), "
        "or set gradient_checkpointing true"
    )


def test_what_cannot_be_changed_is_not_advised_and_the_place_is_asked_when_memory_runs_out():
    step = []
    with (
        pytest.raises(StudyError, match=r"^step 1: out of memory; lower batch \(now 2\)$"),
        advised(lambda: f"step {len(step)}", {"batch": 2, "samples": 1, "checkpointing": True}),
    ):
        step.append(1)
        raise MemoryError
    with pytest.raises(StudyError, match="take a larger device"), advised("x", {"on": True}):
        raise MemoryError


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), StudyError("lr: bad"), OSError()])
def test_other_errors_pass_unchanged(error):
    with pytest.raises(type(error)) as caught, advised("x", KNOBS):
        raise error
    assert caught.value is error
