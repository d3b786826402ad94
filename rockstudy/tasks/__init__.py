"""Tasks: prompts, reference answers and grading, one file per task."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rockstudy.config import identity as configured
from rockstudy.config.fields import GRADERS, TaskConfig
from rockstudy.config.registry import TASKS
from rockstudy.errors import StudyError
from rockstudy.store import code
from rockstudy.store.files import hash_file
from rockstudy.store.fingerprints import fingerprint
from rockstudy.tasks import arithmetic, ifeval, math, openthoughts3, own
from rockstudy.tasks.lab import instructions, register
from rockstudy.tasks.problem import Problem, Split, Task

# registered on import
BUILT_IN = (arithmetic, ifeval, instructions, math, openthoughts3, own, register)
__all__ = ["BUILT_IN", "Problem", "Split", "Task", "grade", "has_answers", "identity", "load"]


def load(task: TaskConfig, split: Split) -> list[Problem]:
    """Load as many problems of a task's split as the configuration sets.

    `StudyError`: a missing, empty or malformed file, with name and line; evaluation problems of a
    task without reference answers.
    """
    if split == "eval":
        _check_answers(task)
    return TASKS[task.name].load(task, split)


def has_answers(task: TaskConfig, problems: Sequence[Problem]) -> bool:
    """Whether `grade` can grade these problems of a task; prompts as given may have no answers."""
    return TASKS[task.name].grade is not None and all(p.answer is not None for p in problems)


def identity(task: TaskConfig) -> dict[str, Any]:
    """Identity of a task's problems: its configuration, a local file's bytes, its instruction.

    A grader of the user's counts by its code, wherever it lies.
    """
    file, instruction = os.path.expanduser(task.path or ""), TASKS[task.name].instruction
    contents = {"sha256": hash_file(Path(file))} if os.path.isfile(file) else {}
    added = {"instruction": instruction} if instruction and task.instruction is None else {}
    if task.grader is not None and task.grader not in GRADERS:
        added |= {"grader": code.identity(own.function_of(task.grader))}
    return configured.identity(task) | contents | added


def grade(task: TaskConfig, problems: Sequence[Problem], texts: Sequence[str]) -> np.ndarray:
    """Grade completions, one per problem: bool (len(problems),).

    A completion cut at the token limit is graded unchanged. Answers that the
    verifier cannot compare in time are wrong, and a warning counts them.

    `StudyError`: a task without reference answers, IFEval without its checkers, or a plugin's task
    that does not return a verdict for each text.
    """
    _check_answers(task)
    verdicts = np.asarray(TASKS[task.name].grade(task, problems, texts), dtype=bool)
    if verdicts.shape != (len(texts),) or len(problems) != len(texts):
        of = f"each of {len(problems)} problems and {len(texts)} texts"
        raise StudyError(f"{task.name}: grade must give one verdict for {of}; got {verdicts.shape}")
    return verdicts


def causes(task: TaskConfig) -> tuple[str, ...]:
    """The names of why a token can be hard, in the order of display; most tasks have none."""
    return TASKS[task.name].causes


def annotate(task: TaskConfig, problem: Problem, text: str) -> np.ndarray:
    """Place in `causes` of each character of a completion: int8 (len(text),).

    `StudyError`: a plugin's task that does not give a place for each character.
    """
    of = TASKS[task.name]
    found = np.asarray(of.annotate(problem, text))
    whole = found.shape == (len(text),) and (found.dtype.kind in "iu" or not text)
    if not whole or ((found < 0) | (found >= len(of.causes))).any():
        must = f"must give a place in {len(of.causes)} causes for each of {len(text)} characters"
        got = f"{found.dtype} {found.shape}"
        raise StudyError(f"{task.name}: annotate {must}; got {got}")
    return found.astype(np.int8)


def annotator(task: TaskConfig) -> str:
    """Identity of the causes of a task that has some: their names, and the code that finds them."""
    return fingerprint([causes(task), code.identity(TASKS[task.name].annotate)])


def _check_answers(task: TaskConfig) -> None:
    if TASKS[task.name].grade is None:
        must = "must be tasks with reference answers"
        raise StudyError(f"benchmarks: {must}; got {task.name}, which has only prompts")
