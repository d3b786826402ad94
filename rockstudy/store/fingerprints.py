"""One text for equal values, its hash, and what a value adds to a key."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel

from rockstudy.errors import StudyError


def canonical_json(value: Any) -> str:
    """One text for equal values; models, numpy values, sets and paths have their plain form."""
    try:
        return json.dumps(
            value, sort_keys=True, separators=(",", ":"), default=_plain, allow_nan=False
        )
    except (TypeError, ValueError) as error:
        raise StudyError(f"config: must be plain JSON values; got {error}") from None


def fingerprint(value: Any) -> str:
    """16 hex digits of the SHA-256 of `canonical_json`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, PurePath):
        return value.as_posix()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return value.tolist()
    raise TypeError(f"{type(value).__name__} {value!r}")


def content(value: Any) -> Any:
    """What a value that is handed to a table's function adds to its key: plain JSON, or a hash.

    Frames count by their columns, types and values; an index counts where it has a name.
    `StudyError`: a value whose content cannot be read.
    """
    if isinstance(value, pd.DataFrame):
        named = value if value.index.name is None else value.reset_index()
        columns = [[str(name), _column(named[name])] for name in named.columns]
        return {"columns": fingerprint([len(named), columns])}
    if isinstance(value, pd.Series):
        return content(value.to_frame("values"))
    if isinstance(value, np.ndarray):
        return {"array": _column(pd.Series(value.ravel())), "shape": list(value.shape)}
    if isinstance(value, Mapping):
        return {str(name): content(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [content(one) for one in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [one.name for one in dataclasses.fields(value)]
        return {"class": type(value).__name__} | {n: content(getattr(value, n)) for n in names}
    canonical_json(value)  # refuses what is no plain value
    return value


def _column(values: pd.Series) -> str:
    """Type and hash of a column."""
    if values.dtype.kind in "biufM":
        data = np.ascontiguousarray(values.to_numpy())
        return f"{data.dtype.str} {hashlib.sha256(data.tobytes()).hexdigest()[:16]}"
    return f"text {fingerprint([_cell(value) for value in values])}"


def _cell(value: Any) -> Any:
    """A value of a column of texts or lists; what is missing has one form."""
    if isinstance(value, np.ndarray | list | tuple):
        return list(value)
    return None if pd.isna(value) else value
