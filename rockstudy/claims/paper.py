"""The numbers of the paper (arXiv 2605.09253), each with its place: what ``data/paper/`` holds.

Nothing else in the study repeats a number of the paper. A table of a file is a number and its name
is the id; a value that is itself a table holds a number for each label, with the id ``name/label``.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from rockstudy import paths
from rockstudy.errors import StudyError

ARXIV = "2605.09253"
BOUNDS = {"": "", "about": "≈", "above": ">", "below": "<"}
DISAGREEMENTS = "disagreements"  # the file that holds no numbers


@dataclass(frozen=True)
class Number:
    """A number of the paper.

    ``bound`` says how it is stated (`BOUNDS`), ``error`` is the half width of a reading off a plot;
    shares and accuracies are fractions of 1, divergences are in nats.
    """

    id: str
    value: float
    unit: str
    locator: str
    what: str
    bound: str = ""
    error: float | None = None
    file: str = ""

    @property
    def where(self) -> str:
        """The locator for readers, with how the number is stated where that is not plainly."""
        said = f"paper, {self.locator}"
        if self.error is not None:
            return f"{said}, read off within {self.error:g}"
        return (
            f"{said}: {BOUNDS[self.bound]}\N{NO-BREAK SPACE}{self.value:g}" if self.bound else said
        )


def number(name: str) -> Number:
    """Return a number by its id, such as ``coverage/100``.

    Raises
    ------
    StudyError
        An unknown id; the line names the nearest ones.
    """
    known = numbers()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"the nearest are {', '.join(map(repr, near))}" if near else "none is near"
        raise StudyError(f"paper: must be the id of a number in data/paper; got {name!r}, {hint}")
    return known[name]


def labelled(name: str) -> dict[str, Number]:
    """Return the numbers of a table of values by their labels, such as the steps of a curve.

    Raises
    ------
    StudyError
        No number under that name.
    """
    found = {
        i.removeprefix(f"{name}/"): n for i, n in numbers().items() if i.startswith(f"{name}/")
    }
    if not found:
        number(f"{name}/")  # raises, with the nearest ids
    return found


def numbers() -> Mapping[str, Number]:
    """Return every number by its id, in the order of the files."""
    return _numbers(paths.data_dir() / "paper")


def table() -> pd.DataFrame:
    """Return every number as a row: ``id, value, unit, locator, what, bound, error, file``."""
    return pd.DataFrame([vars(one) for one in numbers().values()], columns=_names(Number))


def disagreements() -> pd.DataFrame:
    """Return what text and figure or code say differently: ``question, text, other, ours``.

    Raises
    ------
    StudyError
        A malformed file, or a row that refers to a number that is not there.
    """
    rows = _read(paths.data_dir() / "paper" / f"{DISAGREEMENTS}.toml")
    columns = ["question", "text", "other", "ours"]
    for name, row in rows.items():
        _check(name, row, {*columns, "numbers"}, set(), DISAGREEMENTS)
        for one in row["numbers"]:
            number(one)
    return pd.DataFrame(list(rows.values()), columns=columns)


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
    required = {"what", "value", "unit", "locator"}
    _check(name, row, required, {"bound", "error"}, file)
    about = {key: row[key] for key in row if key != "value"}
    for label, value in _leaves(row["value"]):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise StudyError(f"data/paper/{file}.toml: {name + label} must be a number")
        yield Number(id=name + label, value=float(value), file=file, **about)


def _leaves(value: Any, label: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        yield label, value
        return
    for key, inner in value.items():
        yield from _leaves(inner, f"{label}/{key}")


def _check(
    name: str, row: Mapping[str, Any], required: set[str], optional: set[str], file: str
) -> None:
    wrong = sorted((row.keys() - required - optional) | (required - row.keys()))
    empty = sorted(key for key in required - {"unit", "numbers"} if row.get(key) == "")
    if wrong or empty or row.get("bound", "") not in BOUNDS:
        raise StudyError(
            f"data/paper/{file}.toml: {name} must have {', '.join(sorted(required))} and may have "
            f"{', '.join(sorted(optional)) or 'nothing else'}; missing, empty or unknown: "
            f"{', '.join([*wrong, *empty]) or 'bound ' + repr(row['bound'])}"
        )


def _read(file: Path) -> dict[str, dict[str, Any]]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise StudyError(f"{file}: must be a TOML file that can be read; {error}") from None


def _names(kind: type) -> list[str]:
    return [field.name for field in fields(kind)]
