"""One text for equal values, and its hash."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

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
