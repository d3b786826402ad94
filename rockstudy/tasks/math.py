r"""Maths with reference answers from a file or the Hub, such as MATH-500, AIME, HMMT or GSM8K.

A row has a ``problem`` (or ``question``) and an ``answer``. From a GSM8K solution, which ends in
``#### 1,450``, only the number after the mark is taken, without thousands separators. `INSTRUCTION`
follows each problem that does not ask for a box, unless ``task.instruction`` gives one: that one
follows all. `rows` selects the rows of evaluation and training; `grading` compares answers.
"""

import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from rockstudy.config.fields import TaskConfig
from rockstudy.config.registry import TASKS
from rockstudy.tasks import grading, rows
from rockstudy.tasks.problem import Problem, Split, Task

# ours: `grading` looks for the box
INSTRUCTION = "\n\nReason step by step, and write the final answer inside \\boxed{}."
COLUMNS = ("problem", "answer")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def load(task: TaskConfig, split: Split) -> list[Problem]:
    """Maths problems with answers, from a file or the Hub.

    Errors as in `rows.problems`.
    """
    return rows.problems(task, split, lambda place, row: _problem(place, row, task))


def grade(task: TaskConfig, problems: Sequence[Problem], texts: Sequence[str]) -> np.ndarray:
    """Whether the last box of each text equals the answer (`grading`): bool (len(texts),).

    Answers that cannot be compared in time are wrong; a warning counts them and shows the first.
    """
    graded = grading.grade_math([problem.answer for problem in problems], texts)
    late = np.flatnonzero(graded.timed_out)
    if len(late):
        many = f"{task.label}: {len(late)} of {len(texts)} answers are graded wrong"
        first = f"the first: {grading.boxed(texts[late[0]])!r:.80}"
        why = f"comparing them takes over {grading.LIMIT_S} s"
        warnings.warn(f"{many}: {why}; {first}", stacklevel=3)
    return graded.correct


TASKS.add("math", Task(load, grade, COLUMNS, INSTRUCTION, fields=("instruction",)))


def instructed(text: str, instruction: str) -> str:
    """A prompt and an instruction, a blank line between them unless it brings its own white space.

    An empty instruction changes nothing.
    """
    blank = "" if not instruction or instruction[0].isspace() else "\n\n"
    return text + blank + instruction


def final_number(answer: str) -> str:
    """The part of a reference answer after GSM8K's mark, without thousands separators."""
    last = answer.rsplit("####", 1)
    return _THOUSANDS.sub("", last[1]) if len(last) > 1 else answer


def _problem(place: str, row: Any, task: TaskConfig) -> Problem:
    cells = rows.check(place, row, COLUMNS, also=("subject",), instead={"problem": "question"})
    text, answer = rows.text(f"{place}: problem", cells["problem"]), cells["answer"]
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    answer = rows.text_or_number(f"{place}: answer", answer)
    if "####" in answer:
        answer = rows.text(f"{place}: answer", final_number(answer))
    family, subject = task.label, cells.get("subject")
    if not rows.is_empty(subject):
        family = rows.text_or_number(f"{place}: subject", subject)
    if task.instruction is not None:
        prompt = instructed(text, task.instruction)
    else:
        prompt = text if "\\boxed" in text else text + INSTRUCTION  # some contain the instruction
    return Problem(prompt, answer, family, rows.key_of(text), {})
