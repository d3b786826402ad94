"""Five findings of a run as sentences that a colleague would say, with numbers and verdicts.

README, `rockstudy claims --five` and the first screen of a report show them.

One for each question of the study: what distillation gains, how much of the loss rocks carry,
whether that loss persists, what a ban of a rock costs, and what it costs to leave rocks out of the
loss. The words follow the interval: a change whose interval holds zero is not called one.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from rockstudy.claims.verdicts import DIFFERS, INCONCLUSIVE, NOT_RUN, NOT_TESTABLE, REPRODUCED
from rockstudy.report import listing

Row = Mapping[str, Any]
MOST = 5
CLAIM = {  # by the verdict on the direction, which is what the paper claims
    REPRODUCED: "which agrees with the paper's claim",
    DIFFERS: "which contradicts the paper's claim",
}
AGREES = {  # by the verdict, where no claim is named or only the size has a verdict
    REPRODUCED: "in line with the paper",
    DIFFERS: "against the paper",
    INCONCLUSIVE: "which decides nothing here",
    NOT_TESTABLE: "not testable here",
    NOT_RUN: "not run",
}


class Told(NamedTuple):
    """How a finding is told: by a rise, by a fall, and where the interval holds zero."""

    claim: str  # or the beginning of its id, before the name of a benchmark
    rises: str
    falls: str
    unclear: str
    claimed: str  # after "the paper's claim"; empty where the comparison is ours
    unit: str = " points"


TOLD = (
    Told(
        "opd-accuracy-rises",
        "On-policy distillation raises the student's accuracy by {size}",
        "On-policy distillation lowers the student's accuracy by {size}",
        "On-policy distillation changes the student's accuracy by {size}, which may be nothing",
        "of a rise",
    ),
    Told(
        "rock-coverage",
        "Rocks ({subject}) carry {size} of the loss that remains after distillation",
        "",
        "",
        "that they carry most of it",
        "%",
    ),
    Told(
        "persistence-rock",
        "The loss of rocks rises by {size} between an early and the last checkpoint of training",
        "The loss of rocks falls by {size} between an early and the last checkpoint of training",
        "Between an early and the last checkpoint of training the loss of rocks changes by {size}",
        "that it persists",
        "%",
    ),
    Told(
        "redundant-",
        "Banning a rock from the student's answers lowers the accuracy by {size} less than banning "
        "an equally frequent token that is no rock",
        "Banning a rock from the student's answers lowers the accuracy by {size} more than banning "
        "an equally frequent token that is no rock",
        "Banning a rock from the student's answers and banning an equally frequent token that is "
        "no rock differ in accuracy by {size}, which may be nothing",
        "",  # the paper bans no control: it has no such comparison
    ),
    Told(
        "rock-freeze-keeps-accuracy",
        "Leaving rocks and the hard tokens around them out of training raises the accuracy by "
        "{size}",
        "Leaving rocks and the hard tokens around them out of training lowers the accuracy by "
        "{size}",
        "Leaving rocks and the hard tokens around them out of training changes the accuracy by "
        "{size}, which may be nothing",
        "that it keeps the accuracy",
    ),
)


class Finding(NamedTuple):
    """A finding in words with its numbers, and the verdict on it."""

    words: str
    numbers: str  # the sample, and the paper's number where there is one
    agrees: str  # with the paper or not, in words; empty without a verdict
    verdict: str  # one of `VERDICTS`

    def __str__(self) -> str:
        """Return the finding as one sentence."""
        agrees = f", {self.agrees}" if self.agrees else ""
        return f"{self.words}{agrees} ({self.numbers})."


def five(claims: pd.DataFrame) -> list[Finding]:
    """Return the five findings of a table of claims, fewer where a run has not measured some."""
    rows = claims[claims.headline & claims.value.notna()].to_dict("records")
    return [_finding(told, row) for told in TOLD for row in rows if _is(told, row)][:MOST]


def numbered(claims: pd.DataFrame) -> list[str]:
    """Return the five findings as the lines of a numbered list."""
    return [f"{number}. {one}" for number, one in enumerate(five(claims), start=1)]


def sizes(claims: pd.DataFrame) -> list[str]:
    """Return the five findings as lines of a table, to stand under the sentences of another run.

    Each has the question's number, the size as it is, a fall below zero, and the verdict.
    """
    rows = claims[claims.headline & claims.value.notna()].to_dict("records")
    found = [
        (number, _number(row, ("value", "lo", "hi"), 1, told.unit), row)
        for number, told in enumerate(TOLD, start=1)
        for row in rows
        if _is(told, row)
    ]
    lines = [f"| {number} | {size} | {_verdict(row)} |" for number, size, row in found]
    return ["| finding | here | verdict |", "|---|---|---|", *lines] if lines else []


def told(claims: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Return findings for the first screen of a report: sentence, agreement in words, verdict.

    They are the five, and headline claims in their own words where a run has fewer.
    """
    known = [(f"{one.words} ({one.numbers}).", one.agrees, one.verdict) for one in five(claims)]
    rows = claims[claims.headline].to_dict("records")
    others = [row for row in rows if pd.isna(row["value"]) or not any(_is(t, row) for t in TOLD)]
    others.sort(key=lambda row: bool(pd.isna(row["value"])))  # what is measured first
    known += [(listing.sentence(row), _agrees(row), _verdict(row)) for row in others]
    return [
        (words, agrees.removeprefix("which "), verdict) for words, agrees, verdict in known[:MOST]
    ]


def _verdict(row: Row) -> str:
    return row["direction"] or row["size"]


def _agrees(row: Row, claimed: str = "") -> str:
    if claimed and row["direction"] in CLAIM:
        return f"{CLAIM[row['direction']]} {claimed}"
    return AGREES.get(_verdict(row), "")


def _is(told: Told, row: Row) -> bool:
    claim = row["claim"]
    return claim.startswith(told.claim) if told.claim.endswith("-") else claim == told.claim


def _finding(told: Told, row: Row) -> Finding:
    if row["lo"] > 0:
        words, sign = told.rises, 1
    elif row["hi"] < 0:
        words, sign = told.falls, -1
    else:
        words, sign = told.unclear, 1
    ours = _number(row, ("value", "lo", "hi"), sign, told.unit)
    subject = row["statement"].split(" carry ")[0].rstrip(",")  # who carries, in the claim's words
    subject = subject.removeprefix("The first ").replace(" types", " token types")
    sample = f"{row['n']} {row['unit']}".replace(" x ", ", ").partition(" (")[0]
    parts = [sample]
    if row["paper"] == row["paper"]:
        theirs = _number(row, ("paper", "paper_lo", "paper_hi"), sign, told.unit)
        parts.append(f"the paper: {theirs}")
    if row["lo"] != row["lo"]:  # no interval: nothing tells what it may be
        words = words.partition(", which")[0]
    words = words.format(size=ours, subject=subject)
    return Finding(words, "; ".join(parts), _agrees(row, told.claimed), _verdict(row))


def _number(row: Row, names: tuple[str, str, str], sign: int, unit: str) -> str:
    """A share in percent or points, with its interval where it is known."""
    value, *ends = (100 * sign * row[name] for name in names)
    if any(end != end for end in ends):
        return f"{value:.1f}{unit}"
    lo, hi = sorted(ends)
    return f"{value:.1f}{unit} [{lo:.1f}, {hi:.1f}]"
