"""Rows of the claims table: findings with verdicts, numbers that are only shown, and checks.

A **finding** of the paper has two verdicts, one on its direction and one on its size:

    reproduced          this run satisfies the rule, and its interval is narrow enough to tell
    differs             this run contradicts the rule
    inconclusive        neither: the interval is too wide, or holds both answers
    not testable here   this run cannot answer, for the reason that the row gives
    not run             nothing was measured; the row gives the reason
    (empty)             the paper states no such thing

Every rule on an interval has a half width beyond which it reproduces nothing, so that no row is
reproduced because its interval is wide. An interval without any width decides nothing either:
resampling units that are all equal tells nothing. Sizes are compared by the interval of the
difference of two samples, ours and the paper's. Numbers that depend on our own settings or compare
two worlds' levels are *shown*, and what holds by construction is a *check*: neither has a verdict
on the paper.

A verdict is about this run. The paper has different models, data and vocabulary, so `differs` does
not mean that the paper is wrong, and `reproduced` does not mean that it is right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from rockstudy import intervals
from rockstudy.claims import paper
from rockstudy.errors import StudyError
from rockstudy.intervals import Estimate

REPRODUCED, DIFFERS, INCONCLUSIVE = "reproduced", "differs", "inconclusive"
NOT_TESTABLE, NOT_RUN = "not testable here", "not run"
UNMEASURED = (NOT_RUN, NOT_TESTABLE)
VERDICTS = (REPRODUCED, DIFFERS, INCONCLUSIVE, NOT_TESTABLE, NOT_RUN)
PASSED, FAILED = "passed", "failed"  # of checks
FINDING, SHOWN, CHECK = KINDS = ("finding", "shown", "check")
ALPHA = 0.05  # paper 3
ClaimRow = dict[str, Any]
Measured = Estimate | Mapping[str, Any]  # value, lo, hi (95%), unit, n


class Verdict(NamedTuple):
    """A verdict and the rule behind it."""

    verdict: str
    rule: str


Judge = Verdict | Callable[[ClaimRow], Verdict]  # a rule of the measured number


def above(bound: float, *, widest: float) -> Judge:
    """The interval must lie above `bound`, with a half width of at most `widest`."""
    _check_width(widest)
    return lambda ours: _side(ours, bound, 1, widest)


def below(bound: float, *, widest: float) -> Judge:
    """The interval must lie below `bound`, with a half width of at most `widest`."""
    _check_width(widest)
    return lambda ours: _side(ours, bound, -1, widest)


def within(margin: float, lo: float, hi: float) -> Verdict:
    """Equivalence: the 90% interval from `lo` to `hi` must lie inside plus and minus `margin`.

    This is two one-sided tests at 5% (Schuirmann 1987). A half width above the margin can never
    lie inside.
    """
    _check_width(margin)
    rule = f"the 90% interval must lie inside ±{margin:g}"
    if not _has_width(lo, hi):
        return Verdict(INCONCLUSIVE, f"{rule}; there is none")
    rule = f"{rule}; it is [{lo:.3g}, {hi:.3g}]"
    if lo > margin or hi < -margin:
        return Verdict(DIFFERS, rule)
    return Verdict(REPRODUCED if -margin <= lo and hi <= margin else INCONCLUSIVE, rule)


def rejects(p: float, *, same_side: bool = True, level: float = ALPHA) -> Verdict:
    """A test that rejects in the paper must reject here too, on the same side, at `level`.

    `p` is two-sided.
    """
    rule = f"a test must reject at {level:.2g} on the paper's side"
    if pd.isna(p):
        return Verdict(INCONCLUSIVE, f"{rule}; it is not defined here")
    rule = f"{rule}; p = {p:.2g}{'' if same_side else ', on the other side'}"
    if not p < level:
        return Verdict(INCONCLUSIVE, rule)
    return Verdict(REPRODUCED if same_side else DIFFERS, rule)


def near(number: str, *, widest: float) -> Judge:
    """The two-sample interval of ours minus the paper's `number` must hold 0.

    The interval is that of `two_samples`. To reproduce anything it must have a half width of at
    most `widest`, and must not also hold what it would be were ours 0, no effect at all: a share of
    0 of 40 does not reproduce one of 7 in 200. A number of the paper without an interval of its own
    is not testable: as an exact number it would make the interval of the difference too narrow.

    `StudyError`: a number that the paper gives as a bound, which `above` and `below` are for.
    """
    _check_width(widest)
    theirs = paper.number(number)
    if theirs.bound not in ("", "about"):
        rule = "must be a number and no bound, which verdicts.above and verdicts.below are for"
        raise StudyError(f"near: {rule}; got {number!r}, {theirs.bound} {theirs.value:g}")
    return lambda ours: _near(ours, theirs, widest)


def not_testable(why: str) -> Verdict:
    """The run cannot answer, for a reason."""
    return Verdict(NOT_TESTABLE, why)


def not_run(why: str) -> Verdict:
    """Nothing was measured, for a reason."""
    return Verdict(NOT_RUN, why)


def finding(
    claim: str,
    statement: str,
    measured: Measured | None,
    *,
    direction: Judge | None,
    size: Judge | None = None,
    number: str | None = None,
    locator: str = "",
    headline: bool = False,
) -> ClaimRow:
    """A finding of the paper with its verdicts.

    `number` is the id of the paper's number (`rockstudy.claims.paper`); without one `locator` names
    the place in the paper. `measured` is None where both verdicts are ``not run`` or ``not testable
    here``; what is not defined (NaN) is ``not run`` by every other rule.
    """
    row = _row(FINDING, claim, statement, measured, number, locator)
    undefined = measured is not None and pd.isna(row["value"])
    judged = {
        name: judge(row) if callable(judge) else judge
        for name, judge in (("direction", direction), ("size", size))
        if judge is not None
    }
    for name, one in judged.items():
        if undefined and one.verdict not in UNMEASURED:
            judged[name] = not_run("it is not defined here")
    rules = dict.fromkeys(one.rule for one in judged.values())
    if len(rules) > 1:
        rules = [f"{name}: {one.rule}" for name, one in judged.items()]
    row |= {name: one.verdict for name, one in judged.items()}
    return row | {"reason": "; ".join(rules), "headline": headline}


def shown(
    claim: str,
    statement: str,
    measured: Measured,
    number: str | None = None,
    locator: str = "",
    why: str = "",
) -> ClaimRow:
    """A number beside the paper's, without a verdict; `why` tells what forbids one."""
    return _row(SHOWN, claim, statement, measured, number, locator) | {"reason": why}


def check(
    claim: str, statement: str, measured: Measured, *, passed: bool, rule: str, locator: str = ""
) -> ClaimRow:
    """A test of this study itself, or what holds by construction: ``passed`` or ``failed``."""
    row = _row(CHECK, claim, statement, measured, None, locator or "ours")
    return row | {"direction": PASSED if passed else FAILED, "reason": rule}


def share(count: int, n: int, unit: str) -> ClaimRow:
    """A count of a sample as a share with Wilson's interval; not defined (NaN) for no sample.

    The interval of a single success already lies above 0, so `above(0)` is no rule for a share.
    """
    ours: ClaimRow = {"value": float("nan"), "unit": f"{unit} (Wilson)", "n": n}
    if not n:
        return ours
    interval = stats.binomtest(count, n).proportion_ci(method="wilson")
    lo, hi = min(float(interval.low), count / n), max(float(interval.high), count / n)
    return ours | {"value": count / n, "lo": lo, "hi": hi}


def two_samples(
    value: float, lo: float, hi: float, other: float, other_lo: float, other_hi: float
) -> tuple[float, float, float]:
    """Difference of two independent estimates with its interval (Zou and Donner 2008, MOVER).

    For two shares with Wilson's intervals this is Newcombe's (1998) tenth method. An interval that
    does not hold its own value, as that of a bootstrap may, is extended to it.
    """
    down, other_down = max(value - lo, 0.0), max(other - other_lo, 0.0)
    up, other_up = max(hi - value, 0.0), max(other_hi - other, 0.0)
    difference = value - other
    return (
        difference,
        difference - float(np.hypot(down, other_up)),
        difference + float(np.hypot(up, other_down)),
    )


def _row(
    kind: str,
    claim: str,
    statement: str,
    measured: Measured | None,
    number: str | None,
    locator: str,
) -> ClaimRow:
    row: ClaimRow = {"kind": kind, "claim": claim, "statement": statement, "locator": locator}
    if number is not None:
        theirs = paper.number(number)
        row |= {"locator": locator or theirs.where, "paper": theirs.value}
        row |= {"paper_lo": theirs.lo, "paper_hi": theirs.hi}
    return row | ({} if measured is None else _columns(measured))


def _columns(measured: Measured) -> ClaimRow:
    """Value, interval, unit and n; an interval that is not defined is None."""
    if isinstance(measured, Estimate):
        measured = intervals.as_columns(measured)
    ours = {name: measured[name] for name in ("value", "lo", "hi", "unit", "n") if name in measured}
    undefined = pd.isna(ours.get("lo")) or pd.isna(ours.get("hi"))
    return ours | (dict.fromkeys(("lo", "hi")) if undefined else {})


def _check_width(widest: float) -> None:
    if not 0 < widest < float("inf"):
        raise StudyError(f"half width: must be above 0 and finite; got {widest}")


def _has_width(lo: float | None, hi: float | None) -> bool:
    return lo is not None and hi is not None and lo < hi  # NaN is not below anything


def _side(ours: ClaimRow, bound: float, side: int, widest: float) -> Verdict:
    where = "above" if side > 0 else "below"
    rule = f"the interval must lie {where} {bound:g}, with a half width of at most {widest:g}"
    lo, hi = ours.get("lo"), ours.get("hi")
    if lo is None or hi is None or not _has_width(lo, hi):
        return Verdict(INCONCLUSIVE, f"{rule}; there is none")
    if side < 0:
        lo, hi, bound = -hi, -lo, -bound
    if hi < bound:
        return Verdict(DIFFERS, rule)
    told = lo > bound and (hi - lo) / 2 <= widest
    return Verdict(REPRODUCED if told else INCONCLUSIVE, rule)


def _near(ours: ClaimRow, theirs: paper.Number, widest: float) -> Verdict:
    rule = (
        f"the interval of ours minus the paper's must hold 0 and exclude {-theirs.value:g} (no "
        f"effect at all), with a half width of at most {widest:g}"
    )
    alone = theirs.over is None and not _has_width(theirs.lo, theirs.hi)
    if alone:
        return not_testable("the paper's number has no interval, and two samples are compared")
    lo, hi = ours.get("lo"), ours.get("hi")
    if lo is None or hi is None or not _has_width(lo, hi):
        return Verdict(INCONCLUSIVE, f"{rule}; there is none here")
    value, ends = ours["value"], (theirs.lo, theirs.hi)
    if theirs.over is not None:
        scale = np.sqrt(ours["n"] / theirs.over)
        ends = (theirs.value + scale * (lo - value), theirs.value + scale * (hi - value))
        rule = f"{rule}, the paper's spread over its {theirs.over} units taken to be ours"
    _, low, high = two_samples(value, lo, hi, theirs.value, *ends)
    rule = f"{rule}; it is [{low:.3g}, {high:.3g}]"
    if low > 0 or high < 0:
        return Verdict(DIFFERS, rule)
    told = (high - low) / 2 <= widest and not low <= -theirs.value <= high
    return Verdict(REPRODUCED if told else INCONCLUSIVE, rule)
