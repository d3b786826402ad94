"""The first sentences of a report: what a run says of the paper's main claims, in plain English.

A sentence is made from the numbers of a claim, and its ending from the claim's verdict. `SENTENCES`
are in the order in which a report tells them; headline claims that have none follow in their own
words, until there are `MOST`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from rockstudy.claims.verdicts import DIFFERS, INCONCLUSIVE, NOT_RUN, NOT_TESTABLE, REPRODUCED
from rockstudy.report import listing

MOST = 5
ENDINGS = {
    REPRODUCED: "as in the paper",
    DIFFERS: "unlike the paper",
    INCONCLUSIVE: "undecided",
    NOT_TESTABLE: "not testable here",
    NOT_RUN: "not run",
}
Row = Mapping[str, Any]
Sentence = Callable[[Row, Mapping[str, Row]], str | None]


@dataclass(frozen=True)
class Told:
    """A finding in words, the claim that it is made from, and the verdict on it in words."""

    text: str
    claim: str
    notebook: str
    verdict: str  # one of `VERDICTS`
    ending: str  # the verdict in words


def told(claims: pd.DataFrame) -> list[Told]:
    """Return the main findings of a run as sentences, at most `MOST`; none without a claim."""
    rows = {row["claim"]: row for row in claims.to_dict("records")}
    known = [name for name in _named(rows) if not pd.isna(rows[name]["value"])]
    sentences = {name: SENTENCES[_base(name)](rows[name], rows) for name in known}
    said = {name: sentence for name, sentence in sentences.items() if sentence}
    others = [name for name, row in rows.items() if row["headline"] and name not in said]
    others.sort(key=lambda name: bool(pd.isna(rows[name]["value"])))  # what is measured first
    said |= {name: listing.sentence(rows[name]) for name in others}
    return [_told(text, rows[name]) for name, text in [*said.items()][:MOST]]


def _told(text: str, row: Row) -> Told:
    verdict = row["direction"] or row["size"]
    return Told(text, row["claim"], row["notebook"], verdict, ENDINGS.get(verdict, verdict))


def _named(rows: Mapping[str, Row]) -> list[str]:
    """The claims that have a sentence, the first one of each, in the order of the sentences."""
    found = {base: next((n for n in rows if _base(n) == base), None) for base in SENTENCES}
    return [name for name in found.values() if name]


def _base(claim: str) -> str:
    """A claim without the benchmark that its name ends with."""
    return claim if claim in SENTENCES else "redundant" if claim.startswith("redundant-") else ""


def _share(row: Row) -> str:
    return f"{row['value']:.0%}{_ends(row['lo'], row['hi'], '.0%')}"


def _points(value: float) -> str:
    return f"{abs(100 * value):.1f} points"


def _ends(lo: float, hi: float, how: str) -> str:
    return "" if pd.isna(lo) else f" [{lo:{how}}, {hi:{how}}]"


def _in_points(row: Row, sign: int = 1) -> str:
    lo, hi = sorted((100 * sign * row["lo"], 100 * sign * row["hi"]))
    return f"{_points(row['value'])}{_ends(lo, hi, '.1f')}"


def _paper(row: Row, how: Callable[[float], str]) -> str:
    return "" if pd.isna(row["paper"]) else f"; in the paper, {how(row['paper'])}"


def _open(row: Row) -> bool:
    """Whether the interval holds zero."""
    return bool(row["lo"] <= 0 <= row["hi"])


def _gain(row: Row, rows: Mapping[str, Row]) -> str:
    verb = "raises" if row["value"] > 0 else "lowers"
    numbers = _in_points(row, 1 if row["value"] > 0 else -1)
    theirs = _paper(row, lambda v: f"{100 * v:+.1f} points")
    return f"Distillation {verb} the student's accuracy by {numbers}{theirs}."


def _coverage(row: Row, rows: Mapping[str, Row]) -> str | None:
    observed, share = rows.get("rock-observed-types"), rows.get("rock-share-of-observed")
    if observed is None or share is None or pd.isna(observed["value"] * share["value"]):
        return None
    count = round(observed["value"] * share["value"])
    theirs = _paper(row, lambda v: f"{v:.0%}")
    first = (
        "Rocks carry most of the loss that is left"
        if row["value"] > 0.5
        else "Rocks carry much of the loss that is left, but not most of it"
    )
    return (
        f"{first}: {count} of {observed['value']:,.0f} types have {_share(row)} of it, on prompts"
        f" that did not choose them{theirs}."
    )


def _persistence(row: Row, rows: Mapping[str, Row]) -> str:
    numbers = f"{row['value']:+.0%}{_ends(row['lo'], row['hi'], '+.0%')}"
    first = "More training hardly helps" if _open(row) else "More training changes the rocks"
    theirs = _paper(row, lambda v: f"{v:+.0%}")
    return (
        f"{first}: from an early to a late checkpoint, the median loss of rocks changes by "
        f"{numbers}{theirs}."
    )


def _redundant(row: Row, rows: Mapping[str, Row]) -> str:
    numbers = _in_points(row, 1 if row["value"] > 0 else -1)
    less = "less" if row["value"] > 0 else "more"
    where = row["claim"].removeprefix("redundant-")
    start = "Whether rocks are needed less than other tokens is open" if _open(row) else (
        f"Rocks are needed {less} than other tokens"
    )  # fmt: skip
    return (
        f"{start}: banning one costs {numbers} {less} accuracy on {where} than banning"
        " an equally frequent token that is no rock."
    )


def _freeze(row: Row, rows: Mapping[str, Row]) -> str:
    higher = row["value"] > 0
    numbers = _in_points(row, 1 if higher else -1)
    theirs = _paper(row, lambda v: f"{100 * v:+.1f} points")
    first = "helps" if higher else "is not free"
    first = "makes no difference that could be seen" if _open(row) else first
    return (
        f"Leaving rocks out of training {first}: the student ends {numbers} "
        f"{'above' if higher else 'below'} one that is trained on everything{theirs}."
    )


def _matched(row: Row, rows: Mapping[str, Row]) -> str:
    higher = row["value"] > 0
    numbers = _in_points(row, 1 if higher else -1)
    return (
        f"Leaving out rocks ends {numbers} {'above' if higher else 'below'} leaving out random"
        " windows that carry as much loss."
    )


SENTENCES: dict[str, Sentence] = {
    "opd-accuracy-rises": _gain,
    "rock-coverage": _coverage,
    "persistence-rock": _persistence,
    "redundant": _redundant,
    "rock-freeze-keeps-accuracy": _freeze,
    "rock-freeze-beats-loss-matched-windows": _matched,
}
