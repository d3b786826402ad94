r"""Maths with reference answers from a file or the Hub: MATH-500, AIME, HMMT, GSM8K and their like.

A row has a ``problem`` (or ``question``) and an ``answer``. An answer in GSM8K's form, a solution
that ends in ``#### 1,450``, is reduced to the number after the mark, without thousands separators.
`rows` says which rows evaluation and training take; `grading` compares answers.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from rockstudy.config.fields import TaskConfig
from rockstudy.tasks import Problem, rows

# ours: the box is what `grading` looks for
INSTRUCTION = "\n\nReason step by step, and write the final answer inside \\boxed{}."
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def load(task: TaskConfig, split: Literal["train", "eval"]) -> list[Problem]:
    """Return the problems of one split, the same ones every time.

    Raises
    ------
    StudyError
        A file that is missing, empty or damaged; a malformed line; a missing column; an empty
        problem or answer; fewer rows than asked for.
    """
    return rows.problems(task, split, lambda place, row: _problem(place, row, task))


def _problem(place: str, row: Any, task: TaskConfig) -> Problem:
    if isinstance(row, dict) and "problem" not in row and "question" in row:
        row = row | {"problem": row["question"]}
    rows.check(place, row, ("problem", "answer"))
    answer = str(row["answer"])
    if "####" in answer:
        answer = _THOUSANDS.sub("", answer.rsplit("####", 1)[1])
        rows.check(place, {"answer": answer}, ("answer",))
    text = str(row["problem"]).strip()
    asks = "\\boxed" in text  # some files carry the instruction with the problem
    family = str(row.get("subject") or task.label)
    prompt = text if asks else text + INSTRUCTION
    return Problem(prompt, answer.strip(), family, rows.key_of(text), {})
