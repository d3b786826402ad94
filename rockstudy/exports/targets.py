"""Where exports go: a file whose suffix is its format, or a folder; written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rockstudy.errors import StudyError, one_of
from rockstudy.store import files

SUFFIXES: dict[str, tuple[str, ...]] = {  # legal formats of each export; none: a folder
    "rocks": (".json",),
    "tokens": (),
    "rollouts": (".jsonl", ".parquet"),
    "weights": (".jsonl", ".parquet"),
    "claims": (".csv", ".json", ".parquet"),
}
CARD = "README.md"  # of an exported folder, by which it is known
MARK = "<!-- written by rockstudy export -->"


def check(what: str, to: Path, overwrite: bool) -> None:
    """Refuse a target before anything is computed.

    `StudyError`: an unknown export, a name whose suffix is none of its formats, a folder that is
    not there, or a target that exists: without `overwrite`, or as something else than what it
    replaces. A folder is replaced only if an export wrote it and it holds nothing else.
    """
    if what not in SUFFIXES:
        raise StudyError(f"WHAT: {one_of(what, SUFFIXES)}")
    legal = SUFFIXES[what]
    every = {one for some in SUFFIXES.values() for one in some}
    if legal and to.suffix not in legal:
        raise StudyError(f"--to: must end in {' or '.join(legal)} for {what}; got {str(to)!r}")
    if not legal and to.suffix in every:
        raise StudyError(f"--to: must name a folder for {what}; got {str(to)!r}")
    if not to.parent.is_dir():
        raise StudyError(f"--to: must be in a folder that exists; got {str(to)!r}")
    if not os.path.lexists(to):
        return
    if not overwrite:
        raise StudyError(f"--to: must not exist unless --overwrite is given; got {str(to)!r}")
    if legal and not to.is_file():
        raise StudyError(f"--to: must be a file to be overwritten; got {str(to)!r}")
    if not legal and not _is_export(to):
        must = "must be a folder that an export wrote, with nothing else in it, to be overwritten"
        raise StudyError(f"--to: {must}; got {str(to)!r}")


def _is_export(folder: Path) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        return False
    try:
        marked = MARK in (folder / CARD).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    inside = {path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}
    return marked and inside == {folder / CARD, *folder.glob("data/*.parquet")}


def write_frame(frame: pd.DataFrame, to: Path) -> None:
    """Write a table in the format of the suffix; lists only as parquet or JSONL."""
    with files.writing(to), files.temporary(to) as waiting:
        if to.suffix == ".parquet":
            files.write_frame(frame.reset_index(drop=True), waiting, to.name)
        elif to.suffix == ".csv":
            frame.to_csv(waiting, index=False)
        else:
            _WRITERS[to.suffix](frame, waiting)
        files.sync(waiting)
        files.put(waiting, to)


def _jsonl(frame: pd.DataFrame, file: Path) -> None:
    with file.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in _rows(frame))


def _json(frame: pd.DataFrame, file: Path) -> None:
    file.write_text(json.dumps(list(_rows(frame)), indent=1) + "\n", encoding="utf-8")


_WRITERS: dict[str, Callable[[pd.DataFrame, Path], None]] = {".jsonl": _jsonl, ".json": _json}


def _rows(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The rows as plain values; a missing number is null."""
    columns = [map(_plain, frame[name].tolist()) for name in frame]
    return (dict(zip(frame.columns, row, strict=True)) for row in zip(*columns, strict=True))


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return None if isinstance(value, float) and not np.isfinite(value) else value


@contextlib.contextmanager
def folder(to: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `to` that takes its place at the end, and is gone on failure."""
    waiting, old = (to.with_name(f".{to.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    with files.writing(to):
        try:
            files.remove(waiting)
            waiting.mkdir()
            yield waiting
            if os.path.lexists(to):
                to.rename(old)
            waiting.rename(to)
        except BaseException:
            if old.is_dir() and not os.path.lexists(to):
                old.rename(to)
            raise
        finally:
            files.remove(waiting, old)
