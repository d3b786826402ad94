"""Prompts of OpenThoughts3 (arXiv 2506.04178), the paper's training data, without answers.

A row has a ``domain`` and ``conversations``, turns with ``from`` and ``value``. The prompt is the
first human turn of a row of domain ``math``. The set has sixteen rows per question, of which the
first is taken. It has 28 GB, so it is read from the start and only as far as needed. Without
reference answers it serves only for training.
"""

from typing import Any

from rockstudy.config.fields import TaskConfig
from rockstudy.config.registry import TASKS
from rockstudy.errors import StudyError
from rockstudy.tasks import rows
from rockstudy.tasks.problem import Problem, Split, Task

COLUMNS = ("domain", "conversations")


def load(task: TaskConfig, split: Split) -> list[Problem]:
    """Maths prompts of OpenThoughts3 without answers: the first ``n_train`` distinct ones.

    Errors as in `rows.problems`, and `StudyError` for a row without a human turn.
    """
    seen: set[str] = set()

    def once(place: str, row: Any) -> Problem | None:
        prompt = _prompt(place, row)
        if prompt is None or prompt in seen:
            return None
        seen.add(prompt)
        return Problem(prompt, "", "math", rows.key_of(prompt), {})

    return rows.problems(task, "train", once, stream=True)


TASKS.add("openthoughts3", Task(load, columns=COLUMNS))


def _prompt(place: str, row: Any) -> str | None:
    """The first human turn of a maths row; None for a different domain."""
    cells = rows.check(place, row, COLUMNS)
    if rows.text(f"{place}: domain", cells["domain"]) != "math":
        return None
    turns = cells["conversations"]
    for turn in turns if isinstance(turns, list) else []:
        if isinstance(turn, dict) and turn.get("from") == "human":
            return rows.text(f"{place}: value", rows.check(place, turn, ("value",))["value"])
    raise StudyError(f"{place}: conversations must have a turn with from 'human'; it has none")
