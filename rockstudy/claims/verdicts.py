"""Rows of the claims table. Each has a verdict and states the rule behind it.

    reproduced     this run satisfies the rule
    differs        this run contradicts it
    inconclusive   neither, or the two numbers cannot mean the same thing
    not run        nothing was measured; the row gives the reason

A verdict is about this run. The paper has different models, data and vocabulary, so `differs` does
not mean that the paper is wrong, and `reproduced` does not mean that it is right.
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
ClaimRow = dict[str, Any]
Measured = Estimate | Mapping[str, Any]  # value, lo, hi, unit, n


def holds(claim: str, statement: str, number: str, measured: Measured, **more: Any) -> ClaimRow:
    """Compare a number: ``reproduced`` where our interval contains the paper's, else ``differs``.

    Without an interval the two must lie within a tenth of each other. `number` is the id of the
    paper's number (`rockstudy.claims.paper`), and `more` are further columns such as ``headline``.
    """
    ours, theirs = _columns(measured), paper.number(number).value
    if ours["lo"] is None:
        same = abs(ours["value"] - theirs) <= TENTH * abs(theirs)
        reason = "no interval: must be within a tenth of the paper's number"
    else:
        same = ours["lo"] <= theirs <= ours["hi"]
        reason = "the interval must contain the paper's number"
    verdict = "reproduced" if same else "differs"
    return judged(claim, statement, number, ours, verdict=verdict, reason=reason, **more)


def equals(claim: str, statement: str, number: str, measured: Measured, **more: Any) -> ClaimRow:
    """Compare a count: ``reproduced`` where ours is the paper's, else ``differs``."""
    same = _columns(measured)["value"] == paper.number(number).value
    about = {"verdict": "reproduced" if same else "differs", "reason": "must be the paper's count"}
    return judged(claim, statement, number, measured, **about, **more)


def exceeds(claim: str, statement: str, number: str, measured: Measured, **more: Any) -> ClaimRow:
    """Compare with a lower bound: ``reproduced`` where our interval lies above it."""
    verdict = _side(measured, paper.number(number).value)
    reason = "the interval must lie above the number that the paper exceeds"
    return judged(claim, statement, number, measured, verdict=verdict, reason=reason, **more)


def sign(
    claim: str,
    statement: str,
    number: str | None,
    measured: Measured,
    *,
    positive: bool = True,
    **more: Any,
) -> ClaimRow:
    """Compare a direction: ``reproduced`` where our interval lies on the claimed side of 0.

    `number` may be None where the paper gives only a direction; ``locator`` then names its place.
    """
    verdict = _side(measured, 0.0)
    if not positive:
        verdict = {"reproduced": "differs", "differs": "reproduced"}.get(verdict, verdict)
    reason = f"the interval must lie {'above' if positive else 'below'} 0"
    return judged(claim, statement, number, measured, verdict=verdict, reason=reason, **more)


def concludes(
    claim: str,
    statement: str,
    number: str,
    measured: Measured,
    *,
    same_side: bool = True,
    level: float = ALPHA,
    **more: Any,
) -> ClaimRow:
    """Compare the conclusion of a test at a level, not the size of its p-value.

    ``reproduced`` where both reject on the same side, or neither rejects. ``inconclusive`` where
    only the paper rejects, because an effect that is not seen may still exist. Else ``differs``.
    """
    rejected = _columns(measured)["value"] < level
    if paper.number(number).value < level:
        verdict = "inconclusive" if not rejected else "reproduced" if same_side else "differs"
    else:
        verdict = "differs" if rejected else "reproduced"
    reason = f"must come to the paper's conclusion at {level:.2g}"
    return judged(claim, statement, number, measured, verdict=verdict, reason=reason, **more)


def shown(
    claim: str, statement: str, number: str | None, measured: Measured, why: str, **more: Any
) -> ClaimRow:
    """Show two numbers without judging them: ``inconclusive``, with the reason."""
    about = {"verdict": "inconclusive", "reason": f"not judged: {why}"}
    return judged(claim, statement, number, measured, **about, **more)


def judged(
    claim: str,
    statement: str,
    number: str | None,
    measured: Measured | None,
    *,
    verdict: str,
    reason: str,
    **more: Any,
) -> ClaimRow:
    """Record a verdict by the caller's own rule, which ``reason`` states."""
    ours = {} if measured is None else _columns(measured)
    if ours.get("value", 0.0) != ours.get("value", 0.0):
        verdict, reason = "not run", "it is not defined here"
    if number is not None:
        ours |= {"locator": paper.number(number).where, "paper": paper.number(number).value}
    row = {"claim": claim, "statement": statement, "verdict": verdict, "reason": reason}
    return row | ours | more


def not_run(claim: str, statement: str, number: str | None, why: str, **more: Any) -> ClaimRow:
    """Record that nothing was measured, with the reason."""
    return judged(claim, statement, number, None, verdict="not run", reason=why, **more)


def share(count: int, n: int, unit: str) -> ClaimRow:
    """A count of a sample as a share with Wilson's interval."""
    interval = stats.binomtest(count, n).proportion_ci(method="wilson")
    lo, hi = min(float(interval.low), count / n), max(float(interval.high), count / n)
    return {"value": count / n, "lo": lo, "hi": hi, "unit": f"{unit} (Wilson)", "n": n}


def _columns(measured: Measured) -> ClaimRow:
    """Value, interval, unit and n; an interval that is not defined is None."""
    names = ("value", "lo", "hi", "unit", "n")
    if isinstance(measured, Estimate):
        return {name: getattr(measured, name) for name in names}
    ours = {"lo": None, "hi": None} | {name: measured[name] for name in names if name in measured}
    undefined = pd.isna(ours["lo"]) or pd.isna(ours["hi"])
    return ours | (dict.fromkeys(("lo", "hi")) if undefined else {})


def _side(measured: Measured, bound: float) -> str:
    """Whether an interval lies above a bound; without an interval, ``inconclusive``."""
    lo, hi = (_columns(measured)[end] for end in ("lo", "hi"))
    if lo is None or hi is None:
        return "inconclusive"
    return "reproduced" if lo > bound else "differs" if hi < bound else "inconclusive"
