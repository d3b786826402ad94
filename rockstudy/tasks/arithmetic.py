r"""Arithmetic: procedural word problems of one step, easy enough for a small real model.

A model of a hundred million parameters solves some of them, so that knockouts can lower its
accuracy. Each prompt begins with one worked example, because such a model writes a box only after
seeing one; the example is short, since reading prompts dominates the cost on a CPU. The last
``\boxed{...}`` is graded.

A hash of family and numbers separates training and evaluation problems, as in `lab_math`.
"""

import operator
import random
from collections.abc import Callable, Iterator

from rockstudy.config.fields import TaskConfig
from rockstudy.config.registry import TASKS
from rockstudy.errors import StudyError
from rockstudy.tasks import grading
from rockstudy.tasks.lab.maths import first_distinct, split_of
from rockstudy.tasks.problem import Problem, Split, Task

NAMES = (
    "Mia Ben Zoe Sam Ana Leo Eva Tom Ida Max Nora Finn Lena Omar Rosa Hugo Vera Ivan Cleo Yara "
    "Emil Kate Noah Ruth Alma Boris Clara David Elena Felix Greta Henry Irene Jonas Karin Lukas "
    "Marta Nils Olga Peter Quinn Robin Sofia Tariq Ursula Victor Wendy Xavier"
).split()
THINGS = (
    "apples coins books cards pens shells stamps beads cups keys nuts pears buttons marbles "
    "tickets pebbles ribbons candles lemons feathers magnets plates rulers stickers"
).split()
EXAMPLE = (
    "Question: Sam has 5 pens and buys 2 more. How many pens does Sam have?\n"
    "Answer: Sam has 5 + 2 = 7 pens. The answer is \\boxed{7}.\n\n"
)
MOST = {"train": 100_000, "eval": 30_000}  # ours: of the 125,568 and 39,168 there are
# story, range of the first number, largest second number (from 2) by the first, answer
FAMILIES: dict[
    str, tuple[str, tuple[int, int], Callable[[int], int], Callable[[int, int], int]]
] = {
    "more": ("{who} has {a} {what} and buys {b} more.", (2, 9), lambda a: 9, operator.add),
    "fewer": ("{who} has {a} {what} and loses {b}.", (4, 12), lambda a: a - 1, operator.sub),
    "bags": ("{who} has {a} bags with {b} {what} in each.", (2, 6), lambda a: 6, operator.mul),
}


def load(task: TaskConfig, split: Split) -> list[Problem]:
    """One-step arithmetic word problems, distinct and always the same.

    `StudyError`: more than there are.
    """
    n = task.size(split)
    if n > MOST[split]:
        raise StudyError(f"n_{split}: must be at most {MOST[split]} for arithmetic; got {n}")
    return first_distinct(_problems(split), n, lambda problem: problem.prompt)


TASKS.add("arithmetic", Task(load, grading.grade_numbers, instruction=EXAMPLE))


def _problems(split: str) -> Iterator[Problem]:
    """Yield endless problems of a split, families in turn."""
    rng = random.Random(f"arithmetic-{split}")
    while True:
        for family, (story, first, second, answer) in FAMILIES.items():
            key = ""
            while not key or split_of(key) != split:
                who, what = rng.choice(NAMES), rng.choice(THINGS)
                a = rng.randint(*first)
                b = rng.randint(2, second(a))
                key = f"{family}:{a},{b}"
            told = story.format(who=who, what=what, a=a, b=b)
            prompt = f"{EXAMPLE}Question: {told} How many {what} does {who} have?\nAnswer:"
            yield Problem(prompt, str(answer(a, b)), family, key, {})
