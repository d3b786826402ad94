"""Tasks and their problems."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rockstudy.config.fields import TaskConfig

Split = Literal["train", "eval"]


@dataclass(frozen=True)
class Problem:
    """One prompt with the data for grading.

    `family` groups problems in tables; `key` identifies the problem independently of its wording;
    `kwargs` are a checker's arguments.
    """

    prompt: str
    answer: str
    family: str
    key: str
    kwargs: dict


@dataclass(frozen=True)
class Task:
    """A registered task.

    Attributes
    ----------
    load
        Returns ``task.size(split)`` problems of a split.
    grade
        Whether each text answers its problem, (len(texts),); None for a task without reference
        answers, which serves only for training.
    columns
        Columns of the file in ``task.path``; empty for a task without a file.
    instruction
        Text that the task adds to its prompts, such as how to give the answer.
    """

    load: Callable[[TaskConfig, Split], list[Problem]]
    grade: Callable[[TaskConfig, Sequence[Problem], Sequence[str]], Sequence[bool] | np.ndarray] | (
        None
    ) = None
    columns: tuple[str, ...] = ()
    instruction: str = ""
