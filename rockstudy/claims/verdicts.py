"""Rows of the claims table with their verdicts, each by a rule that the row states.

    reproduced     the rule holds here
    differs        it is contradicted here
    inconclusive   it is neither, or the two numbers cannot mean the same thing
    not run        nothing was measured; the row says why

A verdict is about this run. The paper's models, data and vocabulary are others, so that `differs`
does not say that the paper is wrong, nor `reproduced` that it is right.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from scipy import stats

from rockstudy.claims import paper
from rockstudy.intervals import Estimate

VERDICTS = ("reproduced", "differs", "inconclusive", "not run")
ALPHA = 0.05  # paper 3
TENTH = 0.1  # ours: what counts as the same number where neither side has an interval
Row = dict[str, Any]
Measured = Estimate | Mapping[str, Any]  # value, lo, hi, unit, n


def holds(claim: str, statement: str, number: str, measured: Measured, **more: Any) -> Row:
    """Compare a number: ``reproduced`` where our interval holds the paper's, else ``differs``.

    Without an interval: where ours is within a tenth of the paper's.

    Parameters
    ----------
    claim, statement
        Id of the row, and what is claimed in our words.
    number
        Id of the paper's number (`rockstudy.claims.paper`).
    measured
        Ours.
    **more
        Further columns, such as ``headline``.
    """
    ours, theirs = _columns(measured), paper.number(number).value
    if ours["lo"] is None:
        same = abs(ours["value"] - theirs) <= TENTH * abs(theirs)
        reason = "no interval: must be within a tenth of the paper's number"
    else:
        same = ours["lo"] <= theirs <= ours["hi"]
        reason = "the interval must hold the paper's number"
    verdict = "reproduced" if same else "differs"
    return _row(claim, statement, number, **ours, verdict=verdict, reason=reason, **more)


def equals(claim: str, statement: str, number: str, measured: Measured, **more: Any) -> Row:
    """Compare a count: ``reproduced`` where ours is the paper's, else ``differs``."""
    ours = _columns(measured)
    verdict = "reproduced" if ours["value"] == paper.number(number).value else "differs"
    reason = "must be the paper's count"
    return _row(claim, statement, number, **ours, verdict=verdict, reason=reason, **more)


def exceeds(claim: str, statement: str, number: str, measured: Measured, **more: Any) -> Row:
    """Compare with a lower bound: ``reproduced`` where our interval lies above it."""
    ours, bound = _columns(measured), paper.number(number).value
    verdict = _side(ours["lo"], ours["hi"], bound)
    reason = "the interval must lie above the number that the paper exceeds"
    return _row(claim, statement, number, **ours, verdict=verdict, reason=reason, **more)


def sign(
    claim: str,
    statement: str,
    number: str | None,
    measured: Measured,
    *,
    positive: bool = True,
    **more: Any,
) -> Row:
    """Compare a direction: ``reproduced`` where our interval lies on the claimed side of 0.

    ``number`` may be None for a direction without one; ``locator`` then says where it is claimed.
    """
    ours = _columns(measured)
    verdict = _side(ours["lo"], ours["hi"])
    if not positive:
        verdict = {"reproduced": "differs", "differs": "reproduced"}.get(verdict, verdict)
    reason = f"the interval must lie {'above' if positive else 'below'} 0"
    return _row(claim, statement, number, **ours, verdict=verdict, reason=reason, **more)


def concludes(
    claim: str,
    statement: str,
    number: str,
    measured: Measured,
    *,
    same_side: bool = True,
    level: float = ALPHA,
    **more: Any,
) -> Row:
    """Compare the conclusion of a test at a level, not the size of its p-value.

    ``reproduced`` where both reject on the same side, or neither does; ``inconclusive`` where only
    the paper rejects, since not to see an effect is not to see its absence; else ``differs``.
    """
    ours, theirs = _columns(measured), paper.number(number).value
    rejected = ours["value"] < level
    if theirs < level:
        verdict = "inconclusive" if not rejected else "reproduced" if same_side else "differs"
    else:
        verdict = "differs" if rejected else "reproduced"
    reason = f"must come to the paper's conclusion at {level:.2g}"
    return _row(claim, statement, number, **ours, verdict=verdict, reason=reason, **more)


def shown(
    claim: str, statement: str, number: str | None, measured: Measured, why: str, **more: Any
) -> Row:
    """Show two numbers side by side without judging: ``inconclusive``, and why."""
    ours = _columns(measured)
    reason = f"not judged: {why}"
    return _row(claim, statement, number, **ours, verdict="inconclusive", reason=reason, **more)


def judged(
    claim: str,
    statement: str,
    number: str | None,
    measured: Measured,
    *,
    verdict: str,
    reason: str,
    **more: Any,
) -> Row:
    """A verdict by a rule of the caller's, which ``reason`` states."""
    ours = _columns(measured)
    return _row(claim, statement, number, **ours, verdict=verdict, reason=reason, **more)


def not_run(claim: str, statement: str, number: str | None, why: str, **more: Any) -> Row:
    """A row that says why nothing was measured."""
    return _row(claim, statement, number, verdict="not run", reason=why, **more)


def share(count: int, n: int, unit: str) -> Row:
    """A count of a sample as a share with Wilson's interval."""
    found = stats.binomtest(count, n)
    interval = found.proportion_ci(method="wilson")
    lo, hi = min(float(interval.low), count / n), max(float(interval.high), count / n)
    return {"value": count / n, "lo": lo, "hi": hi, "unit": f"{unit} (Wilson)", "n": n}


def _row(claim: str, statement: str, number: str | None, **columns: Any) -> Row:
    row: Row = {"claim": claim, "statement": statement}
    if number is not None:
        found = paper.number(number)
        row |= {"locator": found.where, "paper": found.value}
    if columns.get("value", 0.0) != columns.get("value", 0.0):
        columns |= {"verdict": "not run", "reason": "it is not defined here"}
    return row | columns


def _columns(measured: Measured) -> Row:
    """Value, interval, unit and n; an interval that is not defined is none."""
    names = ("value", "lo", "hi", "unit", "n")
    if isinstance(measured, Estimate):
        return {name: getattr(measured, name) for name in names}
    found = {"lo": None, "hi": None} | {name: measured[name] for name in names if name in measured}
    ends = [found["lo"], found["hi"]]
    return found | (dict.fromkeys(("lo", "hi")) if any(pd.isna(end) for end in ends) else {})


def _side(lo: float | None, hi: float | None, bound: float = 0.0) -> str:
    """Whether an interval lies above a bound; without an interval nothing is concluded."""
    if lo is None or hi is None:
        return "inconclusive"
    return "reproduced" if lo > bound else "differs" if hi < bound else "inconclusive"
