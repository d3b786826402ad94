"""The numbers of the paper (arXiv 2605.09253) with their places, from ``data/paper/``.

No other file of the study repeats a number of the paper. A table of a file is a number, and its
name is the id. A value that is itself a table gives a number for each label: ``name/label``.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from rockstudy import paths
from rockstudy.errors import StudyError

BOUNDS = {"": "", "about": "≈", "above": ">", "below": "<"}
DISAGREEMENTS = "disagreements"  # the file that holds no numbers
STRICT = ConfigDict(extra="forbid", strict=True)
T = TypeVar("T")
Text = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, config=STRICT)
class Number:
    """A number of the paper.

    ``bound`` says how it is stated (`BOUNDS`), ``error`` is the half width of a reading off a plot;
    shares and accuracies are fractions of 1, divergences are in nats.
    """

    id: str
    value: float
    unit: str
    locator: Text
    what: Text
    bound: Literal["", "about", "above", "below"] = ""
    error: float | None = None
    file: str = ""

    @property
    def where(self) -> str:
        """The locator for readers, with how the number is stated where that is not plainly."""
        how = f": {BOUNDS[self.bound]}\N{NO-BREAK SPACE}{self.value:g}" if self.bound else ""
        if self.error is not None:
            how = f", read off within {self.error:g}"
        return f"paper, {self.locator}{how}"


class Disagreement(BaseModel):
    """What text and figure or code say differently, our stance, and the numbers that are meant."""

    model_config = STRICT

    question: Text
    text: Text
    other: Text
    ours: Text
    numbers: list[str]


def number(name: str) -> Number:
    """Return a number by its id, such as ``coverage/100``; `StudyError` names the nearest ids."""
    known = numbers()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"the nearest are {', '.join(map(repr, near))}" if near else "none is near"
        raise StudyError(f"paper: must be the id of a number in data/paper; got {name!r}, {hint}")
    return known[name]


def labelled(name: str) -> dict[str, Number]:
    """Return the numbers of a table of values by their labels, such as the steps of a curve.

    `StudyError`: no number under that name.
    """
    prefix = f"{name}/"
    by_label = {i.removeprefix(prefix): n for i, n in numbers().items() if i.startswith(prefix)}
    if not by_label:
        number(prefix)  # raises, with the nearest ids
    return by_label


def numbers() -> Mapping[str, Number]:
    """Return every number by its id, in the order of the files."""
    return _numbers(paths.data_dir() / "paper")


def table() -> pd.DataFrame:
    """Return every number as a row: ``id, value, unit, locator, what, bound, error, file``."""
    return pd.DataFrame([asdict(one) for one in numbers().values()])


def disagreements() -> pd.DataFrame:
    """Return what text and figure or code say differently: ``question, text, other, ours``.

    `StudyError`: a malformed file, or a row that refers to a number that is not there.
    """
    file = paths.data_dir() / "paper" / f"{DISAGREEMENTS}.toml"
    rows = [_made(Disagreement, file.stem, name, row) for name, row in _read(file).items()]
    for one in rows:
        for name in one.numbers:
            number(name)
    return pd.DataFrame([one.model_dump(exclude={"numbers"}) for one in rows])


@cache
def _numbers(folder: Path) -> dict[str, Number]:
    known: dict[str, Number] = {}
    for file in sorted(folder.glob("*.toml")):
        if file.stem == DISAGREEMENTS:
            continue
        for name, row in _read(file).items():
            for one in _of_row(name, row, file.stem):
                if one.id in known:
                    raise StudyError(f"data/paper: an id must be unique; got {one.id!r} twice")
                known[one.id] = one
    if not known:
        raise StudyError(f"data/paper: must hold the paper's numbers; got none in {folder}")
    return known


def _of_row(name: str, row: Mapping[str, Any], file: str) -> Iterator[Number]:
    for label, value in _leaves(row.get("value")):
        about = {**row, "id": name + label, "value": value, "file": file}
        yield _made(Number, file, name + label, about)


def _made(kind: Callable[..., T], file: str, name: str, row: Mapping[str, Any]) -> T:
    try:
        return kind(**row)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        got = "nothing" if first["type"].startswith("missing") else repr(first["input"])
        line = f"data/paper/{file}.toml: {name}: {field}: {first['msg']}; got {got}"
        raise StudyError(line) from None


def _leaves(value: Any, label: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        yield label, value
        return
    for key, inner in value.items():
        yield from _leaves(inner, f"{label}/{key}")


def _read(file: Path) -> dict[str, dict[str, Any]]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise StudyError(f"{file}: must be a TOML file that can be read; {error}") from None
