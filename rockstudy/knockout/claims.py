"""Claims of notebooks 05 and 06: the census against chance and controls, predictors, agreement.

The first benchmark of a run corresponds to the paper's MATH-500, the second to its IFEval. What is
said of candidates in general is judged by the swaps of bans and nulls (`calibrated`), because
candidates share a baseline; what is said of rocks, by the knockouts of their matched controls.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import stats

from rockstudy.claims import verdicts
from rockstudy.claims.verdicts import ClaimRow
from rockstudy.knockout import calibrated, census, tables

BENCHMARKS = ("MATH-500", "IFEval")  # paper 3, in the order of a run's benchmarks
PILLAR, NEUTRAL, STUMBLING = census.CLASSES
WIDE_SHARE = 0.1  # ours: half width of a share of candidates, or of its difference from another
WIDE_DELTA = 0.05  # ours: half width of a difference of accuracies
DETECTED = 0.02  # ours: twice a Strong effect; a screen that misses it cannot say that nothing is
R_MARGIN = 0.3  # ours: a property that explains less than a tenth of the spread predicts nothing
CENSUS = "section 3, appendix D.4"
NO_NULL = "there are no null knockouts with top-p below 1, where prefix reuse is not exact"
NEVER = "the student is never right there, so that a knockout cannot lower its accuracy"


def of_screen(
    screen: pd.DataFrame,
    *,
    swaps: pd.DataFrame,
    tested: pd.DataFrame,
    matched: pd.DataFrame,
    modes: pd.DataFrame,
    digits: pd.DataFrame,
) -> list[ClaimRow]:
    """Claims of notebook 05.

    `screen` is that of `rockstudy.knockout.steps`, the others are the tables `swaps`, `tests`,
    `against_controls`, `modes` and `digit_bans` of `rockstudy.knockout.tables`.
    """
    classes = census.census(screen)
    base = screen.drop_duplicates("benchmark").set_index("benchmark")
    benchmarks = dict(zip(BENCHMARKS, base.index, strict=False))
    able = {name: bool(base.base[name] > 0) for name in base.index}
    rows = []
    for theirs, ours in benchmarks.items():
        some = classes[classes.benchmark == ours]
        rows.append(_pillars(theirs, ours, some, swaps, able[ours]))
        single = screen[(screen.benchmark == ours) & (screen.level == "token")]
        rows.append(_neutral(theirs, ours, some, single, able[ours]))
        rows.append(_corrected(theirs, ours, single, tested))
        rows.append(_redundant(theirs, ours, matched, able[ours]))
    rows.append(_more_pillars(classes, swaps))
    rows.append(_disjoint(classes))
    for theirs, ours in benchmarks.items():
        n = int(base.get("n_planned", base.n_problems)[ours])  # a baseline has all problems
        one = {"value": base.base[ours], "unit": "problems", "n": n}
        words = f"Accuracy of the student after OPD on {ours} without any knockout."
        rows.append(verdicts.shown(f"census-base-{ours}", words, one, f"base-accuracy/{theirs}"))
    first = digits[digits.benchmark == base.index[0]]  # whose answers are numbers
    return [*rows, *_checks(modes, first)]


def _share(some: pd.DataFrame, kind: str) -> ClaimRow:
    return verdicts.share(int((some["class"] == kind).sum()), len(some), "candidates")


def _swapped(swaps: pd.DataFrame, benchmark: str, statistic: str) -> pd.Series | None:
    """A row of `tables.swaps`; of one benchmark alone where there is no second."""
    name = benchmark if (swaps.benchmark == benchmark).any() else None
    if benchmark == tables.BOTH and name is None and len(swaps):
        name = swaps.benchmark.iloc[0]
    found = swaps[(swaps.benchmark == name) & (swaps.statistic == statistic)]
    return None if found.empty else found.iloc[0]


def _tested(one: pd.Series | None, side: int, able: bool = True) -> verdicts.Verdict:
    """The verdict of a row of swaps: the statistic lies beyond what swaps give, on a side."""
    if not able:
        return verdicts.not_run(NEVER)
    if one is None:
        return verdicts.not_run(NO_NULL)
    return verdicts.rejects(one.p, same_side=side * (one.observed - one.expected) > 0)


def _pillars(
    theirs: str, ours: str, some: pd.DataFrame, swaps: pd.DataFrame, able: bool
) -> ClaimRow:
    one = _swapped(swaps, ours, "pillars")
    beside = ""
    if one is not None:
        beside = (
            f" (at token level, without the baseline: {one.observed:.0f}, and {one.expected:.1f} "
            "where bans and nulls are swapped)"
        )
    return verdicts.finding(
        f"pillars-{ours}",
        f"There are more Strong Pillars on {ours} than chance gives{beside}: their share of the "
        "candidates.",
        _share(some, PILLAR),
        direction=_tested(one, 1, able),
        size=verdicts.near(f"pillar-share/{theirs}", widest=WIDE_SHARE)
        if able
        else verdicts.not_run(NEVER),
        number=f"pillar-share/{theirs}",
        headline=theirs == BENCHMARKS[0],
    )


def _neutral(
    theirs: str, ours: str, some: pd.DataFrame, single: pd.DataFrame, able: bool
) -> ClaimRow:
    """The direction is that of testable candidates: the others could hardly be anything else."""
    number, never = f"neutral-share/{theirs}", verdicts.not_run(NEVER)
    testable = single.target[census.reach(single).testable]
    share = _share(some[some.target.isin(testable)], NEUTRAL)
    direction = verdicts.not_testable("no candidate reaches what this screen detects")
    if len(testable):
        judged = verdicts.above(0.5, widest=WIDE_SHARE * 2)(share)
        direction = judged._replace(rule=f"of the {len(testable)} testable ones, {judged.rule}")
    return verdicts.finding(
        f"neutral-{ours}",
        f"Most candidates are neutral on {ours}: their share ({share['value']:.2f} of the "
        f"{len(testable)} that reach what the screen detects).",
        _share(some, NEUTRAL),
        direction=direction if able else never,
        size=verdicts.near(number, widest=WIDE_SHARE) if able else never,
        number=number,
    )


def _corrected(theirs: str, ours: str, single: pd.DataFrame, tested: pd.DataFrame) -> ClaimRow:
    """No test of a candidate survives; without power that decides nothing."""
    left = tested[tested.benchmark == ours].set_index(["method", "level"]).exact
    bonferroni, fdr = (int(left[one]) for one in (("bonferroni", census.ALPHA), ("fdr_bh", 0.20)))
    least = census.least_detectable(single, census.ALPHA / len(single)).median()
    rule = (
        "none may be left after either; one after Bonferroni contradicts (without any effect one "
        "is left after the other in a fifth of screens); the median candidate must be found at "
        f"{DETECTED:g} with 80% power after Bonferroni, which takes {least:.3f}"
    )
    verdict = verdicts.DIFFERS if bonferroni else verdicts.INCONCLUSIVE
    if not bonferroni + fdr and least <= DETECTED:
        verdict = verdicts.REPRODUCED
    return verdicts.finding(
        f"corrected-{ours}",
        f"No candidate is left after a correction for many tests on {ours}: left after "
        f"Benjamini-Hochberg at q = 0.20 (after Bonferroni {bonferroni}).",
        {"value": fdr, "unit": "tests", "n": len(single)},
        direction=verdicts.Verdict(verdict, rule),
        number=f"fdr-survivors/{theirs}",
    )


def _redundant(theirs: str, ours: str, matched: pd.DataFrame, able: bool) -> ClaimRow:
    about = (
        f"redundant-{ours}",
        f"On {ours} accuracy falls less without a rock than without a type as frequent that is no "
        "rock: difference of their Delta",
    )
    found = matched[matched.benchmark == ours] if len(matched) else matched
    more = {"locator": "section 3; the control is ours", "headline": theirs == BENCHMARKS[0]}
    if found.empty or not able:
        why = NEVER if not able else "fewer than two rocks have a control"
        return verdicts.finding(*about, None, direction=verdicts.not_run(why), **more)
    parts = found.set_index("pairs")
    one = parts.loc["all"]
    told = f" ({one.rock_pillars} of {one.n_pairs} rocks and {one.control_pillars} controls are "
    told += f"pillars, Fisher's exact p = {one.fisher:.2g})"
    if tables.WITHOUT_ANSWERS in parts.index:
        rest = parts.loc[tables.WITHOUT_ANSWERS]
        told += f"; {rest.difference:+.3f} [{rest.lo:+.3f}, {rest.hi:+.3f}] without answer-bearing"
    measured = {"value": one.difference} | {name: one[name] for name in ("lo", "hi", "unit", "n")}
    rule = verdicts.above(0, widest=WIDE_DELTA)
    return verdicts.finding(about[0], f"{about[1]}{told}.", measured, direction=rule, **more)


def _more_pillars(classes: pd.DataFrame, swaps: pd.DataFrame) -> ClaimRow:
    """Pillars against stumbling blocks without the baseline, the paper's test beside it."""
    one = _swapped(swaps, tables.BOTH, "strong")
    counts = classes["class"].value_counts()
    p = census.sign_test(classes["class"].tolist())
    measured = None
    if one is not None:
        ends = {"lo": one.observed - one.hi, "hi": one.observed - one.lo}
        measured = {"value": one.observed} | ends
        measured = {name: value / one.candidates for name, value in measured.items()}
        measured |= {"unit": "candidates x benchmarks (swaps)", "n": int(one.candidates)}
    return verdicts.finding(
        "more-pillars",
        "More candidates are pillars than stumbling blocks: the difference of their shares at token"
        f" level, without the baseline (by the paper's rule {counts.get(PILLAR, 0)} to "
        f"{counts.get(STUMBLING, 0)}, and p = {p:.2g} by its sign test, which takes candidates with"
        " one baseline for independent).",
        measured,
        direction=_tested(one, 1),
        locator="section 3, appendix D.2",
        headline=True,
    )


def _disjoint(classes: pd.DataFrame) -> ClaimRow:
    about = ("disjoint", "The pillars of the two benchmarks are different types")
    more = {"number": "cross-task-share/P|P"}
    if classes.benchmark.nunique() < 2:
        return verdicts.finding(
            *about, None, direction=verdicts.not_run("the run has one benchmark"), **more
        )
    found = calibrated.agreement_test(classes)
    told = (
        f": {found['both']} of {found['first']} and {found['second']} pillars are the same, and "
        f"{found['expected']:.1f} would be if the benchmarks were independent; their share of the "
        "candidates."
    )
    if not found["first"] * found["second"]:
        rule = verdicts.not_testable("one of the benchmarks has no pillar")
    else:
        fewer = found["both"] < found["expected"]
        rule = verdicts.rejects(found["p"], same_side=fewer)
    share = verdicts.share(found["both"], found["candidates"], "candidates")
    return verdicts.finding(about[0], about[1] + told, share, direction=rule, **more)


def _checks(modes: pd.DataFrame, digits: pd.DataFrame) -> Iterator[ClaimRow]:
    """Controls of the method, and what holds by construction."""
    for one in modes[modes["mode"] == "null"].itertuples():
        interval = {"value": one.delta, "lo": one.lo, "hi": one.hi, "unit": "problems", "n": one.n}
        yield verdicts.check(
            f"null-knockout-{one.benchmark}",
            f"Resampling the same suffixes on {one.benchmark} without a ban changes nothing (mean "
            f"Delta of {one.candidates} candidates).",
            interval,
            passed=one.lo <= 0 <= one.hi,
            rule="the interval must hold 0",
        )
    few = modes.drop_duplicates("mode").set_index("mode")
    if {"naive", "reuse"} <= set(few.index):
        naive, reuse = few.loc["naive"], few.loc["reuse"]
        _, lo, hi = verdicts.two_samples(
            *reuse[["delta", "lo", "hi"]], *naive[["delta", "lo", "hi"]]
        )
        yield verdicts.check(
            "reuse-naive",
            f"Prefix reuse and writing everything anew give the same Delta (mean of "
            f"{reuse.candidates} candidates, reuse minus naive).",
            {"value": reuse.delta - naive.delta, "lo": lo, "hi": hi}
            | {"unit": "problems", "n": int(reuse.n)},
            passed=lo <= 0 <= hi,
            rule="the interval must hold 0",
        )
    for one in digits.itertuples():
        interval = {"value": one.value, "lo": one.lo, "hi": one.hi, "unit": "problems", "n": one.n}
        yield verdicts.check(
            f"digits-{one.benchmark}",
            f"A student that may not write a digit loses the answers that hold it: mean Delta of "
            f"{one.digits} digits on {one.benchmark}. No bar of the paper's figure 4 is that low.",
            interval,
            passed=one.hi < 0,
            rule="the interval must lie below 0, by construction; otherwise bans do not act",
        )


def of_predictors(
    correlations: pd.DataFrame, power: pd.DataFrame, together: pd.DataFrame
) -> list[ClaimRow]:
    """Claims of notebook 06 from the tables of `rockstudy.knockout.tables` of these names."""
    rows, reliable = [], power.set_index("benchmark").reliability
    of_d = correlations[correlations["of"] == "D"]
    for ours, some in of_d.groupby("benchmark", sort=False):
        rows.append(_predicted(ours, some, reliable[ours]))
    for one in together[together["of"] == "D"].itertuples() if len(together) else ():
        words = "Spearman's rho of a candidate's D on one benchmark with that on the other."
        interval = {"value": one.rho, "lo": one.lo, "hi": one.hi, "unit": "candidates", "n": one.n}
        rows.append(verdicts.shown("benchmarks-rho", words, interval, locator="section 3"))
    return rows


def _predicted(ours: str, some: pd.DataFrame, reliable: float) -> ClaimRow:
    """The largest correlation, as it would be without the noise of D."""
    about = (f"predictors-{ours}", f"No property of a type predicts what its ban does on {ours}")
    more = {"locator": "section 3, appendix D.1"}
    known = some.dropna(subset=["r"])
    if known.empty or np.isnan(reliable):
        why = NO_NULL if np.isnan(reliable) else "no property and D both vary"
        return verdicts.finding(*about, None, direction=verdicts.not_run(why), **more)
    one = known.loc[known.r.abs().idxmax()]
    size = np.sqrt(reliable)
    told = (
        f": the largest |r| with D, of {tables.PREDICTORS[one.predictor]} (reliability of D "
        f"{reliable:.2f}, so that a perfect predictor would have {size:.2f})."
    )
    measured = {"value": one.r, "lo": one.lo, "hi": one.hi, "unit": "candidates", "n": int(one.n)}
    rule = _equivalent(one.r, int(one.n), size, len(known))
    return verdicts.finding(about[0], about[1] + told, measured, direction=rule, **more)


def _equivalent(r: float, n: int, size: float, tests: int) -> verdicts.Verdict:
    """Whether the largest of some correlations, over the r of a perfect predictor, is small.

    All lie inside the margin if the largest does; that one of them lies outside is a choice among
    `tests`, whose interval is widened by Bonferroni.
    """
    if not size:
        rule = f"|r| over that of a perfect predictor must lie inside ±{R_MARGIN:g}; D has no "
        return verdicts.Verdict(verdicts.INCONCLUSIVE, f"{rule}reliability that shows")

    def ends(tail: float) -> np.ndarray:
        half = stats.norm.isf(tail) / np.sqrt(n - 3)
        return np.tanh(np.arctanh(r) + half * np.array([-1, 1])) / size

    lo, hi = ends(0.05)
    if lo > R_MARGIN or hi < -R_MARGIN:
        lo, hi = ends(0.05 / tests)
    return verdicts.within(R_MARGIN, float(lo), float(hi))
