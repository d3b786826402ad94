"""The numbers of the paper (arXiv 2605.09253) with their places, from ``data/paper/``.

No other file of the study repeats a number of the paper. A table of a file is a number, and its
name is the id. A value that is itself a table gives a number for each label: ``name/label``. The
points of the paper's figures are tables of their own (`points`).
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import cache
from math import isnan, nan
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from scipy import stats

from rockstudy import paths
from rockstudy.errors import StudyError

BOUNDS = {"": "", "about": "≈", "above": ">", "below": "<", "at least": "≥"}
DISAGREEMENTS = "disagreements"  # the file that holds no numbers
POINTS = {  # the figures whose points are shipped, and their columns
    "figure2": ("curve", "k", "value"),
    "figure3c": ("group", "mean_kl_early", "mean_kl_late"),
    "figure4": ("benchmark", "bar", "delta_correct", "problems"),
    "figure5": ("regime", "step", "correct", "problems"),
}
NAMES_A_POINT = ("curve", "group", "benchmark", "regime")  # the columns of text
SHARES = ("accuracy", "share of")  # units, or their beginnings, of counts over ``n``
STRICT = ConfigDict(extra="forbid", strict=True)
T = TypeVar("T")
Text = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, config=STRICT)
class Number:
    """A number of the paper.

    ``bound`` says how it is stated (`BOUNDS`); shares and accuracies are fractions of 1,
    divergences are in nats. ``n`` is the size of its sample, ``lo`` and ``hi`` its own 95%
    interval: the file's, or Wilson's for an accuracy or a share of ``n``, else NaN. ``over`` is how
    many units, such as prompts, a number without an interval averages over.
    """

    id: str
    value: float
    unit: str
    locator: Text
    what: Text
    bound: Literal["", "about", "above", "below", "at least"] = ""
    n: Annotated[int, Field(ge=1)] | None = None
    over: Annotated[int, Field(ge=1)] | None = None
    lo: float = nan
    hi: float = nan
    file: str = ""

    @property
    def where(self) -> str:
        """The locator for readers, with how the number is stated where that is not plainly."""
        how = f": {BOUNDS[self.bound]}\N{NO-BREAK SPACE}{self.value:g}" if self.bound else ""
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
        raise _unknown(name, known, "the id of a number")
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


def points(figure: str) -> pd.DataFrame:
    """Return the points of a figure of the paper, with its columns in `POINTS`.

    The figures are vector graphics, so these are exact up to the digits shown.

    `StudyError`: an unknown figure (with the nearest names), or a file with other columns or with a
    number that is not finite.
    """
    if figure not in POINTS:
        raise _unknown(figure, POINTS, "a figure")
    return _points(paths.data_dir() / "paper" / f"{figure}.csv").copy()


def table() -> pd.DataFrame:
    """Return every number as a row, with the fields of `Number` as columns."""
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
def _points(file: Path) -> pd.DataFrame:
    try:
        frame = pd.read_csv(file)
    except (OSError, ValueError) as error:
        raise StudyError(f"{file}: must be a CSV file that can be read; {error}") from None
    legal, got = POINTS[file.stem], tuple(map(str, frame.columns))
    if got != legal:
        raise StudyError(f"{file}: columns must be {', '.join(legal)}; got {', '.join(got)}")
    for name in (name for name in legal if name not in NAMES_A_POINT):
        read = pd.to_numeric(frame[name], errors="coerce").to_numpy(np.float64)
        bad = frame[name][~np.isfinite(read)]
        if len(bad):
            raise StudyError(f"{file}: {name}: must be finite numbers; got {bad.iloc[0]!r}")
    return frame


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
    fields = {field: dict(_leaves(value)) for field, value in row.items()}
    labels = fields.get("value", {"": None})
    for field, of in fields.items():
        unknown = [label for label in of if label and label not in labels]
        if unknown:
            line = f"must have labels of the value; got {unknown[0].removeprefix('/')!r}"
            raise StudyError(f"data/paper/{file}.toml: {name}: {field}: {line}")
    for label in labels:
        about = {field: of[at] for field, of in fields.items() for at in {"", label} & of.keys()}
        about |= {"id": name + label, "file": file}
        yield _with_interval(_made(Number, file, name + label, about))


def _with_interval(one: Number) -> Number:
    """The number with the interval that its sample gives it, unless it has one."""
    if not isnan(one.lo) or not isnan(one.hi):
        if not one.lo <= one.value <= one.hi:
            line = f"must be ends around {one.value:g}; got {one.lo:g} and {one.hi:g}"
            raise StudyError(f"data/paper/{one.file}.toml: {one.id}: lo, hi: {line}")
        return one
    if one.n is not None and one.unit.startswith(SHARES):
        wilson = stats.binomtest(round(one.value * one.n), one.n).proportion_ci(method="wilson")
        # Rounding may put an end of 0 or 1 past the share itself.
        return replace(one, lo=min(wilson.low, one.value), hi=max(wilson.high, one.value))
    return one


def _made(kind: Callable[..., T], file: str, name: str, row: Mapping[str, Any]) -> T:
    try:
        return kind(**row)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        got = "nothing" if first["type"].startswith("missing") else repr(first["input"])
        line = f"data/paper/{file}.toml: {name}: {field}: {first['msg']}; got {got}"
        raise StudyError(line) from None


def _unknown(name: str, known: Iterable[str], what: str) -> StudyError:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"the nearest are {', '.join(map(repr, near))}" if near else "none is near"
    return StudyError(f"paper: must be {what} in data/paper; got {name!r}, {hint}")


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
