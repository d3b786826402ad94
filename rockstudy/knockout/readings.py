"""Notebooks 05 and 06 in words: what each table shows, how sure that is, what it cannot tell.

Every function takes the tables of `rockstudy.knockout.tables` and returns a sentence or a few, a
line for each benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from rockstudy.display import p_equals
from rockstudy.intervals import LEVEL
from rockstudy.knockout import census, tables

PILLAR, NEUTRAL, STUMBLING = census.CLASSES
SMALL_RELIABILITY = 0.2  # ours: a perfect predictor would show r = 0.45 at most


def _many(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def of_modes(modes: pd.DataFrame) -> str:
    """Sentences on `tables.modes`: the null knockouts, and reuse against naive."""
    told = []
    for one in modes[modes["mode"] == "null"].itertuples():
        holds = "holds 0, as it must" if one.lo <= 0 <= one.hi else "does not hold 0: look into it"
        told.append(
            f"{one.benchmark}: written again without a ban, the texts of {one.candidates} "
            f"candidates change accuracy by {one.delta:+.4f} [{one.lo:+.4f}, {one.hi:+.4f}] "
            f"({one.n} problems). The interval {holds}."
        )
    by = modes.drop_duplicates("mode").set_index("mode")
    if {"naive", "reuse"} <= set(by.index):
        naive, reuse = by.loc["naive"], by.loc["reuse"]
        told.append(
            f"{naive.candidates} candidates written anew from the start change it by "
            f"{naive.delta:+.3f} [{naive.lo:+.3f}, {naive.hi:+.3f}], by reuse by "
            f"{reuse.delta:+.3f} [{reuse.lo:+.3f}, {reuse.hi:+.3f}], with "
            f"{reuse.tokens_vs_naive:.0%} of the tokens."
        )
    return "\n".join(told)


def of_stops(screen: pd.DataFrame) -> str:
    """A sentence on a screen that stops early; empty for one that does not."""
    if "stopped" not in screen:
        return ""
    early = screen[screen.stopped]
    strong = int(((early.delta.abs() >= census.LEAST) & (early.p < census.ALPHA)).sum())
    share = (screen.n_problems / screen.n_planned).mean()
    return (
        f"{len(early)} of {len(screen)} knockouts stopped early, {strong} as strong and "
        f"{len(early) - strong} as {NEUTRAL.lower()}, so that they have {share:.0%} of the "
        "problems on average. Their intervals and p-values are those of the sequential rule "
        "(`knockout.sequential`), and what compares knockouts has the first half of the problems."
    )


def of_census(counted: pd.DataFrame) -> str:
    """Sentences on `tables.census_table`: pillars of each benchmark with and without answers."""
    rows = counted[counted.benchmark != tables.BOTH].set_index(["candidates", "benchmark"])
    sizes, told = rows[["n", PILLAR, STUMBLING]], []
    for name, every in sizes.loc["all"].iterrows():
        line = f"{name}: among {every.n} candidates, by the stronger of both levels, there are "
        line += f"{_many(every[PILLAR], PILLAR)} and {_many(every[STUMBLING], STUMBLING)}"
        if tables.WITHOUT_ANSWERS in rows.index:
            rest = sizes.loc[(tables.WITHOUT_ANSWERS, name)]
            line += (
                f"; without the {every.n - rest.n} whose ban holds an answer-bearing type, "
                f"{rest[PILLAR]} and {rest[STUMBLING]} of {rest.n}"
            )
        told.append(f"{line}.")
    if tables.WITHOUT_ANSWERS not in rows.index:
        told.append("Which candidates are answer-bearing is not in this reference.")
    return "\n".join(told)


def of_levels(levels: pd.DataFrame) -> str:
    """Sentences on `tables.level_table`: what each kind of knockout alone finds."""
    told = []
    for name, some in levels.groupby("benchmark", sort=False):
        by = some.set_index("level")
        one, window = by.loc["token"], by.loc["window"]
        n = int(one[[PILLAR, NEUTRAL, STUMBLING]].sum())
        told.append(
            f"{name}: with one of {n} tokens banned there are {_many(one[PILLAR], 'pillar')} and "
            f"{_many(one[STUMBLING], 'stumbling block')} (mean Delta {one.mean_delta:+.3f}); with "
            f"all candidates of its windows banned, {window.banned:.0f} ids in the median, "
            f"{window[PILLAR]} and {window[STUMBLING]} (mean {window.mean_delta:+.3f})."
        )
    most = levels[levels.level == "window"].banned.max()
    if most > 1:
        told.append(
            "A window-level effect is that of all these ids together, and says little of the "
            "candidate it is named after."
        )
    return "\n".join(told)


def of_controls(table: pd.DataFrame) -> str:
    """Sentences on `tables.against_controls`."""
    told = []
    for one in table.itertuples():
        if one.lo > 0:
            means = "the ban of a rock costs less"
        elif one.hi < 0:
            means = "the ban of a rock costs more"
        else:
            means = f"no difference is shown, and up to {max(-one.lo, one.hi):.3f} is possible"
        told.append(
            f"{one.benchmark}, {one.pairs} pairs: without a rock accuracy changes by "
            f"{one.rock:+.3f}, without a type as frequent that is no rock by {one.control:+.3f}; "
            f"difference {one.difference:+.3f} [{one.lo:+.3f}, {one.hi:+.3f}]: {means}. "
            f"{one.rock_pillars} of {one.n_pairs} rocks and {one.control_pillars} of their "
            f"controls are pillars (Fisher's exact {p_equals(one.fisher)}, McNemar's "
            f"{p_equals(one.mcnemar)})."
        )
    return "\n".join(told) or "Fewer than two rocks have a control, so that nothing is compared."


def of_swaps(swaps: pd.DataFrame) -> str:
    """Sentences on `tables.swaps`: all candidates together against no effect."""
    if swaps.empty:
        return "There are no null knockouts, so that the shared baseline cannot be taken out."
    told = []
    for name, some in swaps.groupby("benchmark", sort=False):
        by = some.set_index("statistic")
        mean, pillars, strong = by.loc["mean"], by.loc["pillars"], by.loc["strong"]
        shown = "an effect is shown" if mean.p < 1 - LEVEL else "no effect is shown"
        which = "on both benchmarks" if name == tables.BOTH else f"on {name}"
        told.append(
            f"Without the shared baseline, {which}: the mean effect of {mean.candidates} bans is "
            f"{mean.observed:+.4f}; where bans and nulls are swapped at random 95% lie in "
            f"[{mean.lo:+.4f}, {mean.hi:+.4f}] ({p_equals(mean.p)}): {shown}. There are "
            f"{pillars.observed:.0f} pillars, and chance gives {pillars.expected:.1f}; pillars "
            f"minus stumbling blocks: {strong.observed:+.0f} ({p_equals(strong.p)})."
        )
    return "\n".join(told)


def of_strongest(named: pd.DataFrame) -> str:
    """A sentence for each benchmark on its strongest candidates at token level.

    `named` has ``benchmark, spelling, delta, p``.
    """
    told = []
    for name, some in named.groupby("benchmark", sort=False):
        first = some.reindex(some.delta.abs().sort_values(ascending=False).index).head(3)
        words = ", ".join(f"⟦{one.spelling}⟧ ({one.delta:+.3f})" for one in first.itertuples())
        told.append(
            f"{name}: the largest effects of {len(some)} single tokens are those of {words}. Being "
            "the largest of many, they are larger than the true ones."
        )
    return "\n".join(told)


def of_reach(reach: pd.DataFrame) -> str:
    """Sentences on `tables.reach_table`: what this screen could have found."""
    return "\n".join(
        f"{one.benchmark}: {one.able} of {one.candidates} candidates are in enough completions to "
        f"be strong at all, and {one.testable} reach what this screen finds. The smallest Delta "
        f"that it finds for a median candidate (80% power) is {one.detectable_median:.3f}, and "
        f"{one.detectable_corrected:.3f} after Bonferroni; smaller effects cannot be excluded."
        for one in reach.itertuples()
    )


def of_tests(tested: pd.DataFrame) -> str:
    """Sentences on `tables.tests`: what is left of the rejections after correction."""
    told = []
    for name, some in tested.groupby("benchmark", sort=False):
        by = some.set_index(["method", "level"])
        plain = by.loc[("none", census.ALPHA)]
        left = {method: by.loc[(method, level)] for method, level in census.CORRECTIONS[:2]}
        fdr = by.loc[("fdr_bh", census.CORRECTIONS[-1][1])]
        kind = plain.get("test", "exact")
        told.append(
            f"{name}: {plain.exact:.0f} of {plain.tests:.0f} {kind} tests reject at "
            f"{census.ALPHA:g}, and {plain.expected_false:.1f} would without any effect; "
            f"left after correction: {left['bonferroni'].exact:.0f} by Bonferroni and "
            f"{fdr.exact:.0f} by Benjamini-Hochberg at q = {census.CORRECTIONS[-1][1]:g}."
        )
    return "\n".join(told)


def of_correlations(correlations: pd.DataFrame) -> str:
    """Sentences on `tables.correlations`: the largest of each benchmark, for Delta and for D."""
    told = []
    for (name, of), some in correlations.groupby(["benchmark", "of"], sort=False):
        known = some.dropna(subset=["r"])
        if known.empty:
            told.append(f"{name}: no correlation with {of} is defined.")
            continue
        one = known.loc[known.r.abs().idxmax()]
        bound = census.ALPHA / len(known)
        kept = int((known.p < bound).sum())
        told.append(
            f"{name}: of {len(known)} properties {tables.PREDICTORS[one.predictor]} has the "
            f"largest correlation with {of}, r = {one.r:+.2f} [{one.lo:+.2f}, {one.hi:+.2f}] over "
            f"{one.n} candidates; {kept} of them {'is' if kept == 1 else 'are'} beyond chance "
            f"after Bonferroni (p < {bound:.2g})."
        )
    return "\n".join(told)


def of_power(power: pd.DataFrame) -> str:
    """Sentences on `tables.power`: what these correlations could show at all."""
    told = []
    for one in power.itertuples():
        if pd.isna(one.reliability):
            told.append(f"{one.benchmark}: without nulls the reliability is not known.")
            continue
        means = "so that a correlation near 0 says nothing about a property"
        if one.reliability >= SMALL_RELIABILITY:
            means = "so that a property which matters would show"
        told.append(
            f"{one.benchmark}: {one.reliability:.0%} of the spread of D over {one.candidates} "
            f"candidates is more than noise (by halves of the problems {one.split_half:.0%}). A "
            f"perfect predictor would show r = {one.largest_r:.2f}, {means}."
        )
    return "\n".join(told)


def of_agreement(found: Mapping[str, float], together: pd.DataFrame) -> str:
    """Sentences on `calibrated.agreement_test` and `tables.together`."""
    fewer = "fewer" if found["both"] < found["expected"] else "more"
    shown = f"{fewer} than chance gives" if found["p"] < 1 - LEVEL else "as chance may give"
    told = [
        f"{found['first']} candidates are pillars of the first benchmark and {found['second']} of "
        f"the second; {found['both']} are pillars of both, and {found['expected']:.1f} would be if "
        f"the benchmarks were independent (Fisher's exact {p_equals(found['p'])}): {shown}."
    ]
    for one in together.itertuples():
        told.append(
            f"The ranks by {one.of} agree at rho = {one.rho:+.2f} [{one.lo:+.2f}, {one.hi:+.2f}] "
            f"over {one.n} candidates."
        )
    return "\n".join(told)


def of_followed(table: pd.DataFrame, followed: int) -> str:
    """Sentences on the followed type among the candidates of `tables.with_predictors`."""
    told = []
    for name, some in table.groupby("benchmark", sort=False):
        one = some[some.target == followed]
        if one.empty:
            told.append(f"{name}: the followed token is no candidate there.")
            continue
        row = one.iloc[0]
        lower = int((some.delta < row.delta).sum())
        told.append(
            f"{name}: without ⟦{row.spelling}⟧ accuracy changes by {row.delta:+.3f} "
            f"[{row.lo:+.3f}, {row.hi:+.3f}] (95% over {row.n_problems} problems); the bans of "
            f"{lower} of the {len(some) - 1} other candidates cost more. By occurrences it is "
            f"number {_place(some, row, 'frequency')} of {len(some)}, by loss after OPD number "
            f"{_place(some, row, 'rkl_post_mean')}, by the teacher's entropy number "
            f"{_place(some, row, 'entropy_teacher_mean')}."
        )
    return "\n".join(told)


def _place(some: pd.DataFrame, row: pd.Series, column: str) -> int:
    return int((some[column] > row[column]).sum()) + 1
