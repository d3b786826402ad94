"""Tasks: prompts, reference answers and grading, one task a file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from rockstudy.config import TaskConfig


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
        A file that is missing, empty or malformed (named, with the line).
    """
    n = task.n_train if split == "train" else task.n_eval
    if task.name == "lab_math":
        from rockstudy.tasks import lab_math

        return lab_math.load(split, n)
    if task.name == "lab_instruct":
        from rockstudy.tasks import lab_instruct

        return lab_instruct.load(split, n)
    from rockstudy.tasks import math

    return math.load(task, split)


def grade(task: TaskConfig, problems: Sequence[Problem], texts: Sequence[str]) -> np.ndarray:
    """Grade completions, one per problem: bool (len(problems),)."""
    if task.name == "lab_instruct":
        from rockstudy.tasks.lab_instruct import follows

        graded = [follows(t, p.kwargs) for p, t in zip(problems, texts, strict=True)]
    else:
        graded = [grade_math(p.answer, t) for p, t in zip(problems, texts, strict=True)]
    return np.array(graded, dtype=bool)


def boxed(text: str) -> str | None:
    r"""The content of the last closed ``\boxed{...}``, or None."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for i in range(start + 6, len(text)):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return text[start + 7 : i].strip()
    return None


@lru_cache(maxsize=65_536)
def _same(answer: str, given: str) -> bool:
    from math_verify import parse, verify

    gold = parse(f"$\\boxed{{{answer}}}$")
    got = parse(f"$\\boxed{{{given}}}$")
    return bool(verify(gold, got))


def grade_math(answer: str, text: str) -> bool:
    r"""Whether the last ``\boxed{...}`` of `text` equals `answer`, by math-verify.

    A completion without a closed box is wrong: the prompt's convention asks for one. Two plain
    integers are compared as such, which is what math-verify would say, without its parser's cost.
    """
    given = boxed(text)
    if given is None:
        return False
    if given == answer:
        return True
    if re.fullmatch(r"-?\d{1,12}", given) and re.fullmatch(r"-?\d{1,12}", answer):
        return int(given) == int(answer)
    return len(given) < 200 and _same(answer, given)
