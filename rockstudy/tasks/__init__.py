"""Tasks: prompts, reference answers and grading, one task a file."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rockstudy.config.fields import TaskConfig
from rockstudy.errors import StudyError
from rockstudy.store.files import hash_file
from rockstudy.tasks import grading

NO_ANSWERS = (
    "benchmarks: must be tasks with reference answers; got openthoughts3, which has prompts alone"
)


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


def load(task: TaskConfig, split: Literal["train", "eval"]) -> list[Problem]:
    """Load the problems of a task's split; the number comes from the configuration.

    Raises
    ------
    StudyError
        A file that is missing, empty or malformed (named, with the line); evaluation problems of a
        task without reference answers.
    """
    n = task.n_train if split == "train" else task.n_eval
    if task.name == "lab_math":
        from rockstudy.tasks.lab import maths

        return maths.load(split, n)
    if task.name == "lab_instruct":
        from rockstudy.tasks.lab import instructions

        return instructions.load(split, n)
    if task.name == "arithmetic":
        from rockstudy.tasks import arithmetic

        return arithmetic.load(split, n)
    if task.name == "ifeval":
        from rockstudy.tasks import ifeval

        return ifeval.load(task, split)
    if task.name == "openthoughts3":
        from rockstudy.tasks import openthoughts3

        if split == "eval":
            raise StudyError(NO_ANSWERS)
        return openthoughts3.load(task)
    from rockstudy.tasks import math

    return math.load(task, split)


def identity(task: TaskConfig) -> dict[str, Any]:
    """What a task's problems depend on: its configuration, and the bytes of a file of its own."""
    found = task.model_dump(mode="json")
    file = Path(task.path or "").expanduser()
    return found | ({"sha256": hash_file(file)} if file.is_file() else {})


def grade(task: TaskConfig, problems: Sequence[Problem], texts: Sequence[str]) -> np.ndarray:
    """Grade completions, one per problem: bool (len(problems),).

    A completion cut at the token limit is graded as it stands. Answers that math-verify cannot
    compare in time are wrong, and a warning counts them.

    Raises
    ------
    StudyError
        A task without reference answers, or IFEval without its checkers.
    """
    pairs = zip(problems, texts, strict=True)
    if task.name == "openthoughts3":
        raise StudyError(NO_ANSWERS)
    if task.name == "ifeval":
        from rockstudy.tasks import ifeval

        return np.array(ifeval.follows(problems, texts), dtype=bool)
    if task.name == "lab_instruct":
        from rockstudy.tasks.lab.instructions import follows

        return np.array([follows(t, p.kwargs) for p, t in pairs], dtype=bool)
    if task.name in ("lab_math", "arithmetic"):
        return np.array([grading.grade_number(p.answer, t) for p, t in pairs], dtype=bool)
    graded = grading.grade_math([p.answer for p in problems], texts)
    late = np.flatnonzero(graded.timed_out)
    if len(late):
        warnings.warn(
            f"{task.label}: {len(late)} of {len(texts)} answers are graded wrong: comparing "
            f"them takes over {grading.LIMIT_S} s; the first: "
            f"{grading.boxed(texts[late[0]])!r:.80}",
            stacklevel=2,
        )
    return graded.correct
