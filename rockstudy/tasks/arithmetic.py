r"""Arithmetic: procedural word problems of one step, easy enough for a small real model.

A model of a hundred million parameters solves some of them, so that knockouts can lower its
accuracy. Each prompt begins with one worked example, because such a model writes a box only after
seeing one; the example is short, since reading prompts dominates the cost on a CPU. The last
``\boxed{...}`` is graded.

A hash of family and numbers separates training and evaluation problems, as in `lab_math`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from rockstudy.config.fields import TaskConfig
from rockstudy.config.registry import TASKS
from rockstudy.errors import StudyError
from rockstudy.tasks import grading
from rockstudy.tasks.lab.maths import NAMES, THINGS, split_of
from rockstudy.tasks.problem import Problem, Split, Task

EXAMPLE = (
    "Question: Sam has 5 pens and buys 2 more. How many pens does Sam have?\n"
    "Answer: Sam has 5 + 2 = 7 pens. The answer is \\boxed{7}.\n\n"
)
MOST = {"train": 100_000, "eval": 30_000}  # ours: of the 125,568 and 39,168 there are
Numbers = tuple[int, int]


def _more(rng: random.Random, who: str, what: str) -> tuple[str, Numbers, int]:
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    return f"{who} has {a} {what} and buys {b} more.", (a, b), a + b


def _fewer(rng: random.Random, who: str, what: str) -> tuple[str, Numbers, int]:
    a = rng.randint(4, 12)
    b = rng.randint(2, a - 1)
    return f"{who} has {a} {what} and loses {b}.", (a, b), a - b


def _bags(rng: random.Random, who: str, what: str) -> tuple[str, Numbers, int]:
    a, b = rng.randint(2, 6), rng.randint(2, 6)
    return f"{who} has {a} bags with {b} {what} in each.", (a, b), a * b


FAMILIES: dict[str, Callable[[random.Random, str, str], tuple[str, Numbers, int]]] = {
    "more": _more,
    "fewer": _fewer,
    "bags": _bags,
}


def load(task: TaskConfig, split: Split) -> list[Problem]:
    """One-step arithmetic word problems, distinct and always the same.

    `StudyError`: more than there are.
    """
    n = task.size(split)
    if n > MOST[split]:
        raise StudyError(f"n_{split}: must be at most {MOST[split]} for arithmetic; got {n}")
    picked: dict[str, Problem] = {}
    for problem in _problems(split):
        if len(picked) == n:
            break
        picked.setdefault(problem.prompt, problem)
    return list(picked.values())


TASKS.add("arithmetic", Task(load, grading.grade_numbers, instruction=EXAMPLE))


def _problems(split: str) -> Iterator[Problem]:
    """Yield endless problems of a split, families in turn."""
    rng = random.Random(f"arithmetic-{split}")
    while True:
        for family, draw in FAMILIES.items():
            key = None
            while key is None or split_of(key) != split:
                who, what = rng.choice(NAMES), rng.choice(THINGS)
                story, numbers, answer = draw(rng, who, what)
                key = f"{family}:{numbers[0]},{numbers[1]}"
            question = f"{story} How many {what} does {who} have?"
            prompt = f"{EXAMPLE}Question: {question}\nAnswer:"
            yield Problem(prompt, str(answer), family, key, {})
