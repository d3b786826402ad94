r"""Competition maths from a file or the Hub: rows with a ``problem`` and an ``answer``.

A path to JSONL or parquet, or a Hub id with its revision, such as MATH-500. Evaluation takes the
first ``n_eval`` rows and training the ``n_train`` rows after them, so that one file serves both
without overlap, repeated problems included; a Hub dataset that has splits ``train`` and ``test`` is
used by its splits. Whatever is wrong with a file is a `StudyError` that names it and the line.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from rockstudy.config import StudyError, TaskConfig
from rockstudy.tasks import Problem

COLUMNS = ("problem", "answer")
# ours: the box is what `grade_math` looks for
INSTRUCTION = "\n\nReason step by step, and write the final answer inside \\boxed{}."


def load(task: TaskConfig, split: Literal["train", "eval"]) -> list[Problem]:
    """Return the problems of one split, the same ones every time.

    Raises
    ------
    StudyError
        A file that is missing, empty or damaged; a malformed line; a missing column; an empty
        problem or answer; fewer rows than asked for.
    """
    if task.path is None:
        raise StudyError("path: must be a JSONL or parquet file or a Hub id; got none")
    where, rows, by_split = _open(task, split)
    if by_split or split == "eval":
        problems = _take(rows, task, split, where)
    else:
        held_out = {p.key for p in _take(rows, task, "eval", where)}
        problems = _take(rows, task, split, where, held_out)
    return problems


def _open(task: TaskConfig, split: str) -> tuple[str, Iterator[tuple[str, Any]], bool]:
    """Return a name for errors, rows as (place, row), and whether they are of this split alone."""
    path = Path(str(task.path)).expanduser()
    if path.is_file():
        read = {".jsonl": _jsonl, ".parquet": _parquet}.get(path.suffix)
        if read is None:
            raise StudyError(f"path: must end in .jsonl or .parquet; got {str(path)!r}")
        return str(path), read(path), False
    if path.suffix in (".jsonl", ".json", ".parquet") or path.is_dir() or path.is_absolute():
        raise StudyError(f"path: must be an existing file or a Hub id; got {task.path!r}")
    rows, by_split = _hub(str(task.path), task.revision, split)
    return str(task.path), rows, by_split


def _take(
    rows: Iterator[tuple[str, Any]],
    task: TaskConfig,
    split: str,
    where: str,
    held_out: Iterable[str] = (),
) -> list[Problem]:
    """Consume the rows of a split; `held_out` keys are passed over."""
    wanted = task.n_eval if split == "eval" else task.n_train
    fresh = (
        p for p in (_problem(place, row, task) for place, row in rows) if p.key not in held_out
    )
    problems = list(itertools.islice(fresh, wanted))
    if len(problems) < wanted:
        what = "no problems" if not problems else f"{len(problems)} problems"
        left = f" beside the {task.n_eval} of n_eval" if held_out else ""
        raise StudyError(f"n_{split}: must not exceed the file; {where} has {what}{left}")
    return problems


def _problem(place: str, row: Any, task: TaskConfig) -> Problem:
    if not isinstance(row, dict):
        raise StudyError(f"{place}: must be an object with {' and '.join(COLUMNS)}")
    for column in COLUMNS:
        if column not in row:
            raise StudyError(
                f"{place}: must have the columns {' and '.join(COLUMNS)}; {column} is missing"
            )
        if _is_empty(row[column]):
            raise StudyError(f"{place}: {column} must not be empty")
    text = str(row["problem"]).strip()
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    family = str(row.get("subject") or task.label)
    return Problem(text + INSTRUCTION, str(row["answer"]).strip(), family, key, {})


def _is_empty(value: Any) -> bool:
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return missing or not str(value).strip()


def _jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            place = f"{path}, line {number}"
            if line.strip():
                try:
                    yield place, json.loads(line.decode("utf-8"))
                except ValueError as error:  # not JSON, or not UTF-8
                    reason = getattr(error, "msg", "not UTF-8")
                    raise StudyError(f"{place}: must be one JSON object ({reason})") from None


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise StudyError(f"{path}: must be a readable parquet file ({reason})") from None
    for number, row in enumerate(table.to_pylist(), 1):
        yield f"{path}, row {number}", row


def _hub(name: str, revision: str | None, split: str) -> tuple[Iterator[tuple[str, Any]], bool]:
    import datasets

    try:
        found = datasets.load_dataset(name, revision=revision)
    except Exception as error:  # the loader's own, the Hub client's and the network's errors
        reason = " ".join(str(error).split())[:160]
        raise StudyError(
            f"path: must be an existing file or a Hub id; {name!r} cannot be loaded ({reason})"
        ) from None
    by_split = {"train", "test"} <= found.keys()
    rows = found[{"train": "train", "eval": "test"}[split] if by_split else next(iter(found))]
    return ((f"{name}, row {i}", row) for i, row in enumerate(rows, 1)), by_split
