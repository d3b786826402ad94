"""What a task is, and what it consists of: problems to load, and a way to grade answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rockstudy.config.fields import TaskConfig

Split = Literal["train", "eval"]


@dataclass(frozen=True)
class Problem:
    """One prompt with what grading needs.

    `family` groups problems in tables; `key` identifies the problem whatever its wording; `kwargs`
    carries a checker's arguments.
    """

    prompt: str
    answer: str
    family: str
    key: str
    kwargs: dict


@dataclass(frozen=True)
class Task:
    """What is registered as a task.

    Attributes
    ----------
    load
        Gives the problems of a split, ``task.size(split)`` of them.
    grade
        Whether each text answers its problem, (len(texts),); None where there are no answers to
        compare with, so that the task is for training only.
    columns
        Columns of the file that ``task.path`` names; none where the task reads no file.
    """

    load: Callable[[TaskConfig, Split], list[Problem]]
    grade: Callable[[TaskConfig, Sequence[Problem], Sequence[str]], Sequence[bool] | np.ndarray] | (
        None
    ) = None
    columns: tuple[str, ...] = ()
