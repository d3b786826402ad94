"""Rows of a task's data: a JSONL or parquet file, or a dataset of the Hub.

Evaluation takes the first ``n_eval`` rows and training the ``n_train`` rows after them, so that one
file serves both without overlap, even with repeated problems. A Hub dataset with splits ``train``
and ``test`` is used by its splits. A `StudyError` names the file and the wrong line.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import Any

from rockstudy.config.fields import TaskConfig
from rockstudy.errors import StudyError
from rockstudy.tasks.problem import Problem, Split

Placed = tuple[str, Any]  # its place, for errors, and its content
Make = Callable[[str, Any], Problem | None]


def problems(task: TaskConfig, split: Split, make: Make) -> list[Problem]:
    """Return the problems of one split, always the same ones.

    Parameters
    ----------
    task, split
        The task and its split.
    make
        Turns a place and its row into a problem, or into None to skip the row.

    Raises
    ------
    StudyError
        A missing, empty or damaged file; a malformed line; too few rows; an error of `make`.
    """
    where, rows, by_split = _open(task, split)
    made = (p for p in itertools.starmap(make, rows) if p is not None)
    if by_split or split == "eval":
        return _take(made, task, split, where)
    held_out = {p.key for p in _take(made, task, "eval", where)}
    return _take(made, task, split, where, held_out)


def leading(task: TaskConfig, make: Make) -> list[Problem]:
    """Return the first ``n_train`` problems of a huge set without reading on; errors as above."""
    where, rows, _ = _open(task, "train", stream=True)
    made = (p for p in itertools.starmap(make, rows) if p is not None)
    return _take(made, task, "train", where)


def is_local(path: str) -> bool:
    """Whether a task's path names a file, present or not, rather than a dataset of the Hub."""
    given = Path(path).expanduser()
    named = given.suffix in (".jsonl", ".json", ".parquet")
    return named or given.exists() or given.is_absolute()


def check(place: str, row: Any, columns: Sequence[str]) -> None:
    """Refuse a row that is no object, or in which one of `columns` is missing or empty."""
    named = " and ".join(columns)
    if not isinstance(row, dict):
        raise StudyError(f"{place}: must be an object with {named}")
    for column in columns:
        if column not in row:
            raise StudyError(f"{place}: must have the columns {named}; {column} is missing")
        if is_empty(row[column]):
            raise StudyError(f"{place}: {column} must not be empty")


def is_empty(value: Any) -> bool:
    """Whether a cell is empty: null, NaN, an empty list, or white space."""
    missing = value is None or (isinstance(value, float) and math.isnan(value)) or value == []
    return missing or not str(value).strip()


def key_of(text: str) -> str:
    """Return a key of a prompt that does not depend on its file."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _open(
    task: TaskConfig, split: Split, stream: bool = False
) -> tuple[str, Iterator[Placed], bool]:
    """Return a name for errors, the rows, and whether all rows belong to this split."""
    if task.path is None:
        raise StudyError("path: must be a JSONL or parquet file or a Hub id; got none")
    path = Path(task.path).expanduser()
    if path.is_file():
        read = {".jsonl": _jsonl, ".parquet": _parquet}.get(path.suffix)
        if read is None:
            raise StudyError(f"path: must end in .jsonl or .parquet; got {str(path)!r}")
        return str(path), read(path), False
    if is_local(task.path):
        folder = ", a folder" if path.is_dir() else ""
        raise StudyError(f"path: must be an existing file or a Hub id; got {task.path!r}{folder}")
    found = _hub(task, stream)
    name, by_split = _hub_split(task, split, list(found))
    return task.path, _hub_rows(task, found[name]), by_split


def _take(
    made: Iterator[Problem],
    task: TaskConfig,
    split: Split,
    where: str,
    held_out: Container[str] = (),
) -> list[Problem]:
    """Consume the problems of a split, without the `held_out` keys."""
    wanted = task.size(split)
    taken = list(itertools.islice((p for p in made if p.key not in held_out), wanted))
    if len(taken) < wanted:
        what = f"{len(taken)} problems" if taken else "no problems"
        left = f" beside the {task.n_eval} of n_eval" if held_out else ""
        raise StudyError(f"n_{split}: must not exceed the file; {where} has {what}{left}")
    return taken


def _jsonl(path: Path) -> Iterator[Placed]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            place = f"{path}, line {number}"
            if line.strip():
                try:
                    yield place, json.loads(line.decode("utf-8"))
                except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
                    other = "not UTF-8" if isinstance(error, UnicodeError) else _reason(error)
                    reason = getattr(error, "msg", other)
                    raise StudyError(f"{place}: must be one JSON object ({reason})") from None


def _parquet(path: Path) -> Iterator[Placed]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches(1000) for row in batch.to_pylist())
            for number, row in enumerate(rows, 1):
                yield f"{path}, row {number}", row
    except (pa.ArrowException, OSError) as error:
        raise StudyError(f"{path}: must be a readable parquet file ({_reason(error)})") from None


def _hub(task: TaskConfig, stream: bool) -> Any:
    """Return the splits of a dataset of the Hub, by name."""
    import datasets

    try:
        return datasets.load_dataset(
            task.path, task.subset, revision=task.revision, streaming=stream
        )
    except Exception as error:  # errors of the loader, the Hub client and the network
        raise StudyError(
            "path: must be an existing file or a Hub id; "
            f"{task.path!r} cannot be loaded ({_reason(error)})"
        ) from None


def _hub_split(task: TaskConfig, split: Split, found: list[str]) -> tuple[str, bool]:
    """Return the dataset's split to read, and whether it has separate splits for both of ours."""
    if task.split in found:
        return task.split, False
    if task.split is None and {"train", "test"} <= set(found):
        return {"train": "train", "eval": "test"}[split], True
    if task.split is None and len(found) == 1:
        return found[0], False
    legal = f"one of {', '.join(found)} in {task.path!r}"
    raise StudyError(f"split: must be {legal}; got {task.split!r}")


def _hub_rows(task: TaskConfig, rows: Any) -> Iterator[Placed]:
    try:
        for number, row in enumerate(rows, 1):
            yield f"{task.path}, row {number}", row
    except Exception as error:  # a streamed set is read over the network
        raise StudyError(f"path: {task.path!r} cannot be read on ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
