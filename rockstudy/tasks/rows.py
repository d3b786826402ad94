"""Rows of a task's data: a JSONL, parquet or CSV file, or a dataset of the Hub.

Evaluation takes the first ``n_eval`` rows and training the ``n_train`` rows after them, so that one
file serves both without overlap, even with repeated problems. A Hub dataset with splits ``train``
and ``test`` is used by its splits. Column names match in any case. A `StudyError` names the file
and the wrong line; it shows lists and objects by their kind alone, since they may be huge.
"""

import codecs
import csv
import hashlib
import itertools
import json
import math
import os
import re
import stat
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from rockstudy.config.fields import TaskConfig
from rockstudy.errors import StudyError, shortened
from rockstudy.tasks.problem import Problem, Split

HALF = re.compile("[\ud800-\udfff]")  # of a surrogate pair: half a character
MOST = 1_000_000  # ours: characters of one cell; no model reads as long a prompt
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
DATA = (".jsonl", ".json", ".parquet", ".csv", ".tsv", ".txt", ".arrow", ".gz", ".zst", ".zip")
Placed = tuple[str, Any]  # its place, for errors, and its content
Make = Callable[[str, Any], Problem | None]


def problems(
    task: TaskConfig, split: Split, make: Make, *, stream: bool = False, fewer: bool = False
) -> list[Problem]:
    """Return the problems of one split, always the same ones.

    `make` turns a place and its row into a problem, or into None to skip the row. With `stream` a
    huge set serves one split, whose first problems are returned without reading on. With `fewer` a
    file that has less than the split's size gives what it has.

    `StudyError`: a missing, empty or damaged file; a malformed line; too few rows; an error of
    `make`.
    """
    where, rows, by_split = _open(task, split, stream)
    made = filter(None, itertools.starmap(make, rows))
    whole = by_split or stream or split == "eval"
    held_out = () if whole else {p.key for p in _take(made, task, "eval", where, fewer=fewer)}
    return _take(made, task, split, where, held_out, fewer=fewer)


def of_file(path: Path) -> Iterator[Placed]:
    """Yield the place and the content of each row of a file whose name ends as one of `READERS`.

    `StudyError`: a file that cannot be read, or a row that cannot be parsed.
    """
    return READERS[path.suffix.lower()](path)


def regular(path: str, kinds: Sequence[str], legal: str) -> Path:
    """Return the path of a regular file whose name has one of these endings.

    `StudyError`: anything else; `legal` names what else `path` may be.
    """
    given, shown_as = Path(os.path.expanduser(path)), shortened(path)
    try:
        mode = given.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise StudyError(f"path: must be {legal}; got {shown_as}") from None
    except (OSError, ValueError) as error:  # too long a name, a null character, no permission
        raise StudyError(f"path: must be a file; got {shown_as} ({_reason(error)})") from None
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise StudyError(f"path: must be {legal}; got {shown_as}, {what}")
    if given.suffix.lower() not in kinds:
        raise StudyError(f"path: must end in {' or '.join(kinds)}; got {shown_as}")
    return given


def is_local(path: str) -> bool:
    """Whether a task's path names a file, present or not, rather than a dataset of the Hub."""
    given = Path(os.path.expanduser(path))
    if given.suffix.lower() in DATA or os.path.exists(given):
        return True
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(path)
    except HFValidationError:
        return True
    return False


def check(
    place: str,
    row: Any,
    columns: Sequence[str],
    *,
    also: Sequence[str] = (),
    instead: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the cells of a row by the names that are asked for, in lower case.

    The row must have the `columns`, with cells that are not empty, and may have those in `also`.
    ``Problem`` serves as ``problem``, and so does a column's name in `instead`.

    `StudyError`: a row that is no object; a column that is missing, empty, or there twice.
    """
    named = " and ".join(columns)
    if not isinstance(row, dict):
        raise wrong(f"{place}:", f"be an object with {named}", row)
    cells = {}
    for column in (*columns, *also):
        name = _name(place, row, column) or _name(place, row, (instead or {}).get(column))
        if name is not None:
            cells[column] = row[name]
        elif column in columns:
            raise StudyError(f"{place}: must have the columns {named}; {column} is missing")
    for column in columns:
        if is_empty(cells[column]):
            raise StudyError(f"{place}: {column} must not be empty")
    return cells


def _name(place: str, row: dict[str, Any], column: str | None) -> str | None:
    """The row's own name of a column."""
    if column is None or column in row:
        return column
    alike = [name for name in row if isinstance(name, str) and name.strip().lower() == column]
    if len(alike) > 1:
        both = " and ".join(map(shown, alike[:2]))
        raise StudyError(f"{place}: must have one column {column}; got {both}")
    return alike[0] if alike else None


def cell(place: str, row: Any, name: str) -> Any:
    """A cell by a name in any case, None without it; dots lead into nested objects.

    `StudyError`: a name that is there twice.
    """
    if not isinstance(row, dict):
        return None
    known = _name(place, row, name) or _name(place, row, name.lower())
    if known in row:
        return row[known]
    outer, _, inner = name.partition(".")
    return cell(place, cell(place, row, outer), inner) if inner else None


def is_empty(value: Any) -> bool:
    """Whether a cell is empty: null, NaN, a list without items, or text without a visible sign."""
    if isinstance(value, str):  # half a character is not printable, yet something
        return not any(c.isprintable() and not c.isspace() for c in HALF.sub("x", value))
    return value is None or value == [] or (isinstance(value, float) and math.isnan(value))


def text(what: str, value: Any) -> str:
    """Return a cell that must be text, without white space around it; `what` names the cell.

    `StudyError`: a different kind, nothing visible, over `MOST` characters, half a surrogate pair.
    """
    if not isinstance(value, str):
        raise wrong(what, "be text", value)
    if is_empty(value):
        raise StudyError(f"{what} must not be empty")
    if len(value) > MOST:
        raise StudyError(f"{what} must have at most {MOST:,} characters; got {len(value):,}")
    if half := HALF.search(value):
        raise StudyError(f"{what} must be Unicode; got {shown(half[0])}, half a character")
    return value.strip()


def text_or_number(what: str, value: Any) -> str:
    """Return a cell that must be text or a number, as text: 2.0 as ``2``, 1e-7 as ``0.0000001``.

    `StudyError`: a different kind, a number that is not finite, errors of `text`.
    """
    if isinstance(value, str):
        return text(what, value)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise wrong(what, "be text or a number", value)
    if not math.isfinite(value):
        raise StudyError(f"{what} must be finite; got {value}")
    if isinstance(value, float):
        return np.format_float_positional(value, trim="-")
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def wrong(what: str, must: str, value: Any) -> StudyError:
    """The error of a cell that is not what it must be."""
    return StudyError(f"{what} must {must}; got {shown(value)}")


def shown(value: Any) -> str:
    """Return a cell for an error line: a text or a number as it is, the rest by its kind."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str | int | float):
        return shortened(value)
    return f"a value of type {type(value).__name__}"


def key_of(text: str) -> str:
    """Return a key of a prompt that does not depend on its file."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _open(task: TaskConfig, split: Split, stream: bool) -> tuple[str, Iterator[Placed], bool]:
    """Return a name for errors, the rows, and whether all rows belong to this split."""
    if task.path is None:
        raise StudyError("path: must be a JSONL, parquet or CSV file or a Hub id; got none")
    if is_local(task.path):
        path = _file(task)
        return str(path), of_file(path), False
    splits = _hub(task, stream)
    name, by_split = _hub_split(task, split, list(splits))
    return task.path, _hub_rows(task, splits[name]), by_split


def _file(task: TaskConfig) -> Path:
    """Return the task's file, which must be a regular one of a known kind."""
    path = regular(task.path or "", list(READERS), "an existing file or a Hub id")
    for field in ("revision", "subset", "split"):
        if (value := getattr(task, field)) is not None:
            raise wrong(f"{field}:", "be None for a file", value)
    return path


def _take(
    made: Iterator[Problem],
    task: TaskConfig,
    split: Split,
    where: str,
    held_out: Container = (),
    *,
    fewer: bool,
) -> list[Problem]:
    """Consume the problems of a split, without the `held_out` keys."""
    wanted = task.size(split)
    taken = list(itertools.islice((p for p in made if p.key not in held_out), wanted))
    if len(taken) < (1 if fewer else wanted):
        what = f"{len(taken)} problems" if taken else "no problems"
        left = f" beside the {task.n_eval} of n_eval" if held_out else ""
        raise StudyError(f"n_{split}: must not exceed the file; {where} has {what}{left}")
    if len(taken) > 1 and len({problem.text for problem in taken}) == 1:
        raise StudyError(f"path: must have different problems; the {len(taken)} of {where} are one")
    return taken


def _jsonl(path: Path) -> Iterator[Placed]:
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line.strip():
                    place = f"{path}, line {number}"
                    yield place, _parsed(place, line)
    except OSError as error:
        raise StudyError(f"{path}: must be a file that can be read ({_reason(error)})") from None


def _parsed(place: str, line: bytes) -> Any:
    if line.startswith(UTF16) or b"\0" in line:
        raise StudyError(f"{place}: must be UTF-8; got zero bytes or a mark, as UTF-16 has them")
    try:
        return json.loads(line.decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        reason = "not UTF-8" if isinstance(error, UnicodeError) else _reason(error)
        raise StudyError(f"{place}: must be one JSON object ({reason})") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has {shown(twice)} twice")
    return made


def _parquet(path: Path) -> Iterator[Placed]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _once([(name, None) for name in file.schema_arrow.names])
            batches = (batch.to_pylist() for batch in file.iter_batches(1000))
            for number, row in enumerate(itertools.chain.from_iterable(batches), 1):
                yield f"{path}, row {number}", row
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise StudyError(f"{path}: must be a readable parquet file ({_reason(error)})") from None


def _csv(path: Path) -> Iterator[Placed]:
    """Rows with every cell as text; quoted cells may hold line ends and commas."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = csv.reader(stream, strict=True)
            names = next(lines, None)
            if names is None:
                return
            _once([(name, None) for name in names])
            for cells in filter(None, lines):
                place = f"{path}, line {lines.line_num}"
                if len(cells) != len(names):
                    both = f"{len(names)} cells, as its first line has; got {len(cells)}"
                    raise StudyError(f"{place}: must have {both}")
                yield place, dict(zip(names, cells, strict=True))
    except StudyError:
        raise
    except (csv.Error, OSError, ValueError) as error:
        reason = "not UTF-8" if isinstance(error, UnicodeError) else _reason(error)
        raise StudyError(f"{path}: must be a CSV file that can be read ({reason})") from None


READERS = {".jsonl": _jsonl, ".parquet": _parquet, ".csv": _csv}


def _hub(task: TaskConfig, stream: bool) -> Any:
    """Return the splits of a dataset of the Hub, by name."""
    import datasets

    try:
        how = {"revision": task.revision, "streaming": stream}
        return datasets.load_dataset(task.path, task.subset, **how)
    except Exception as error:  # errors of the loader, the Hub client and the network
        given = f"{task.path!r} cannot be loaded ({_reason(error)})"
        raise StudyError(f"path: must be an existing file or a Hub id; {given}") from None


def _hub_split(task: TaskConfig, split: Split, names: list[str]) -> tuple[str, bool]:
    """Return the dataset's split to read, and whether it has separate splits for both of ours."""
    if task.split in names:
        return task.split, False
    if task.split is None and {"train", "test"} <= set(names):
        return {"train": "train", "eval": "test"}[split], True
    if task.split is None and len(names) == 1:
        return names[0], False
    legal = f"one of {', '.join(names)} in {task.path!r}"
    raise StudyError(f"split: must be {legal}; got {task.split!r}")


def _hub_rows(task: TaskConfig, rows: Any) -> Iterator[Placed]:
    try:
        for number, row in enumerate(rows, 1):
            yield f"{task.path}, row {number}", row
    except Exception as error:  # a streamed set is read over the network
        raise StudyError(f"path: {task.path!r} cannot be read on ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    own = getattr(error, "strerror", None) or getattr(error, "msg", None)  # of the system, of JSON
    return (own or " ".join(str(error).split()))[:160] or type(error).__name__
