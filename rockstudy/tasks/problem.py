"""Tasks and their problems."""

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


Grade = Callable[[TaskConfig, Sequence[Problem], Sequence[str]], Sequence[bool] | np.ndarray]


@dataclass(frozen=True)
class Task:
    """A registered task.

    ``load`` returns ``task.size(split)`` problems of a split. ``grade`` gives for each text whether
    it answers its problem, (len(texts),); a task without reference answers, which serves only for
    training, has none.
    """

    load: Callable[[TaskConfig, Split], list[Problem]]
    grade: Grade | None = None
    columns: tuple[str, ...] = ()  # of the file in ``task.path``; empty for a task without a file
    causes: tuple[str, ...] = ()
    annotate: Callable[[Problem, str], np.ndarray] | None = None
    instruction: str = ""  # what the task adds to its prompts, such as how to give the answer
