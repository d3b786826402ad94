r"""From outcomes of choices to effects: the local ban effect L, the teacher's gain H, their errors.

With P(correct | c) the share of right continuations where a place is set by choice c,

    L       P(correct | without) - P(correct | stands)     local ban effect
    H       P(correct | teacher) - P(correct | fresh)      the teacher's gain
    H_best  P(correct | best)    - P(correct | fresh)
    null    P(correct | again)   - P(correct | stands)     0 but for chance

A mean over places weighs each by the places of its group and side that it stands for, so that right
and wrong completions together count as they occur. Every estimate here is a ratio of sums or a
slope, and so, up to terms that vanish with the sample, the sum of one number for each training seed
and problem (linearisation; Woodruff 1971). Of these numbers, 0 where a problem has no place, the
error is that of two crossed random effects (`intervals.two_way_error`); of one seed that of
independent problems. A difference of two estimates on the same problems is the sum of their
numbers, and so paired.

**Right and wrong apart.** What stands in a right completion was part of a success, so that it is a
better choice than a fresh one on average whatever kind of token it is, and a worse one in a wrong
completion. L apart from the other side has this selection in it; L of both sides together, and H of
either, whose choices are both drawn anew, have not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from rockstudy.intervals import EQUIVALENCE, LEVEL, two_way_error
from rockstudy.knockout.census import POWER
from rockstudy.knockout.tables import WITHOUT_ANSWERS

MEASURES = {  # what minus what
    "L": ("without", "stands"),
    "H": ("teacher", "fresh"),
    "H_best": ("best", "fresh"),
    "null": ("again", "stands"),
}
GROUPS = ("rock", "control")
SIDES = {"right": True, "wrong": False}  # of completions, with the values of `right`
BOTH = "both"  # sides, weighted as they occur
APART = "rock - control"
PARTS = 4  # ours: equally many positions by KL, from low to high
KL = ("kl_from", "kl_to", "kl", "tv")
CELL = ["seed", "prompt_index"]
ESTIMATE = ("value", "lo", "hi", "lo90", "hi90", "se", "detectable", "unit", "n", "places")
SHARES = ("before", "after")
EVERY = "all"  # types


@dataclass(frozen=True)
class Linear:
    """An estimate and its influence: a number for each seed and problem that adds up to 0."""

    value: float
    cells: pd.Series  # by seed and prompt_index
    places: int

    def __sub__(self, other: Linear) -> Linear:
        cells = self.cells.sub(other.cells, fill_value=0)
        return Linear(self.value - other.value, cells, self.places + other.places)


def of_places(places: pd.DataFrame, outcomes: pd.DataFrame) -> pd.DataFrame:
    """`places` with the mean of each of `MEASURES` over draws, and ``<measure>_within``.

    `outcomes` is that of `continuations.outcomes`, its ``place`` the row of `places`; ``_within``
    is the variance over the draws of a place. A ``p_<choice>`` is the share of right continuations.
    """
    by = outcomes.groupby("place")
    columns: dict[str, Any] = {}
    for name, (what, minus) in MEASURES.items():
        apart = outcomes[what].astype(float) - outcomes[minus].astype(float)
        grouped = apart.groupby(outcomes.place)
        columns |= {name: grouped.mean(), f"{name}_within": grouped.var()}
    for name in dict.fromkeys(one for pair in MEASURES.values() for one in pair):
        columns[f"p_{name}"] = by[name].mean()
    return places.join(pd.DataFrame(columns))


def ratio(some: pd.DataFrame, above: str, below: str | None = None) -> Linear:
    """Weighted sum of a column over that of another one; without one, the weighted mean."""
    w, y = some.weight.to_numpy(float), some[above].to_numpy(float)
    x = np.ones(len(some)) if below is None else some[below].to_numpy(float)
    total = (w * x).sum()
    if not total > 0:
        return Linear(np.nan, _cells(some, np.full(len(some), np.nan)), len(some))
    value = (w * y).sum() / total
    return Linear(value, _cells(some, w * (y - value * x) / total), len(some))


def slope(some: pd.DataFrame, y: str, x: str) -> Linear:
    """Weighted least-squares slope of column `y` on column `x`."""
    w, a, b = (some[name].to_numpy(float) for name in ("weight", x, y))
    if len(some) < 3 or np.ptp(a) == 0:
        return Linear(np.nan, _cells(some, np.full(len(some), np.nan)), len(some))
    a, b = a - np.average(a, weights=w), b - np.average(b, weights=w)
    total = (w * a * a).sum()
    value = (w * a * b).sum() / total
    return Linear(value, _cells(some, w * a * (b - value * a) / total), len(some))


def _cells(some: pd.DataFrame, influence: np.ndarray) -> pd.Series:
    return pd.Series(influence).groupby([some[name].to_numpy() for name in CELL]).sum()


def estimate(one: Linear) -> dict[str, Any]:
    """Columns of an estimate: ``value, lo, hi, lo90, hi90, se, detectable, unit, n, places``.

    ``detectable`` is the smallest effect that a two-sided test at 5% finds with 80% power, ``n``
    the number of problems with a place. NaN where nothing is defined or one problem has all.
    """
    error, degrees, seeds, problems = _error(one.cells)
    tails = {name: stats.t.ppf((1 + x) / 2, degrees) for name, x in _LEVELS.items()}
    made = {
        "value": one.value,
        "lo": one.value - tails["95"] * error,
        "hi": one.value + tails["95"] * error,
        "lo90": one.value - tails["90"] * error,
        "hi90": one.value + tails["90"] * error,
        "se": error,
        "detectable": (tails["95"] + stats.t.ppf(POWER, degrees)) * error,
    }
    unit = f"problems x {seeds} seeds" if seeds > 1 else "problems"
    return made | {"unit": unit, "n": problems, "places": one.places}


_LEVELS = {"95": LEVEL, "90": EQUIVALENCE}


def _error(cells: pd.Series) -> tuple[float, float, int, int]:
    """Standard error, degrees of freedom, number of seeds and of problems."""
    if cells.empty or cells.isna().any():
        return np.nan, np.nan, 0, 0
    grid = cells.unstack(fill_value=0.0).to_numpy()
    seeds, problems = grid.shape
    if problems < 2:
        return np.nan, np.nan, seeds, problems
    if seeds == 1:
        return float(np.sqrt(problems * grid[0].var(ddof=1))), problems - 1, seeds, problems
    _, error, degrees = two_way_error(grid * grid.size)
    return float(error), float(degrees), seeds, problems


def sides(some: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The places of both sides together, and of each."""
    return {BOTH: some} | {name: some[some.right == right] for name, right in SIDES.items()}


def counted(some: pd.DataFrame) -> pd.DataFrame:
    """Places by group and side: how many, what they stand for, problems, and means at them.

    ``kl`` is the mean reverse KL (nats), ``differ`` how often the draws of the two models differ,
    ``student, teacher`` the mean probability of what stands there.
    """
    side = some.right.map({right: name for name, right in SIDES.items()}).rename("side")
    return some.groupby([some.group, side]).agg(
        places=("weight", "size"),
        of=("weight", "sum"),
        problems=("prompt_index", "nunique"),
        kl=("rkl", "mean"),
        differ=("tv", "mean"),
        student=("student_p", "mean"),
        teacher=("teacher_p", "mean"),
    )


def table(some: pd.DataFrame, answers: Collection[int] | None = None) -> pd.DataFrame:
    """Each of `MEASURES` at rocks, at controls and their difference, by side of the completion.

    `some` is that of `of_places`, `answers` are the ids of the answer-bearing types. Columns:
    ``measure, types`` (all, or those that are not answer-bearing where these are known) ``, group,
    side``, those of `estimate`, and ``before, after`` (shares of right continuations that the value
    is the difference of; NaN for the difference of the groups). What has no place is left out.
    """
    kinds = {EVERY: some}
    if answers is not None:
        kinds[WITHOUT_ANSWERS] = some[~some.token_id.isin(list(answers))]
    rows = [
        {"measure": measure, "types": kind, "side": side} | row
        for measure in MEASURES
        for kind, rest in kinds.items()
        for side, these in sides(rest).items()
        for row in _groups(these, measure)
    ]
    return pd.DataFrame(rows, columns=["measure", "types", "group", "side", *ESTIMATE, *SHARES])


def _groups(some: pd.DataFrame, measure: str) -> Iterator[dict[str, Any]]:
    """The rows of `table` for one measure and the groups that have a place."""
    what, minus = MEASURES[measure]
    found = {}
    for group in GROUPS:
        mine = some[some.group == group]
        if len(mine):
            found[group] = ratio(mine, measure)
            shares = (ratio(mine, f"p_{choice}").value for choice in (minus, what))
            yield {"group": group} | estimate(found[group]) | dict(zip(SHARES, shares, strict=True))
    if len(found) == len(GROUPS):
        yield {"group": APART} | estimate(found["rock"] - found["control"])


def by_kl(some: pd.DataFrame) -> pd.DataFrame:
    """The teacher's gain by the reverse KL at the place, in `PARTS` equal parts of the positions.

    Columns: ``part`` (from 1, the lowest), ``kl_from, kl_to, kl`` (nats: ends and mean), ``tv``
    (how often the draws differ), and for ``what``: `"H"`, and `"H per change"`, H over ``tv``, the
    columns of `estimate`.
    """
    part, rows = parts(some), []
    for number in range(1, PARTS + 1):
        mine = some[part == number]
        if mine.empty:
            continue
        ends = {"kl_from": mine.rkl.min(), "kl_to": mine.rkl.max()}
        means = {"kl": ratio(mine, "rkl").value, "tv": ratio(mine, "tv").value}
        for what, below in (("H", None), ("H per change", "tv")):
            about = {"what": what, "part": number} | ends | means
            rows.append(about | estimate(ratio(mine, "H", below)))
    return pd.DataFrame(rows, columns=["what", "part", *KL, *ESTIMATE])


def parts(some: pd.DataFrame) -> np.ndarray:
    """The part by KL of each place, from 1; each has an equal share of the weight."""
    order = np.argsort(some.rkl.to_numpy(), kind="stable")
    w = some.weight.to_numpy(float)[order]
    middle = (w.cumsum() - w / 2) / max(w.sum(), 1e-300)
    found = np.empty(len(some), int)
    found[order] = np.minimum((middle * PARTS).astype(int), PARTS - 1) + 1
    return found


def on_kl(some: pd.DataFrame) -> pd.DataFrame:
    """Whether a high KL marks a useful correction: ``what`` and the columns of `estimate`.

    ``H, top`` is H in the highest part by KL, ``H, top - rest`` minus that of the others; ``H per
    change, top - rest`` the same of H over the share of draws that differ, which takes out that a
    higher KL changes more tokens; ``slope``, of H on the KL, in accuracy a nat. ``L, top`` and ``L,
    top - rest`` tell the same of the local ban: whether the token matters there.
    """
    top = parts(some) == PARTS
    high, rest = some[top], some[~top]
    found = {
        "H, top": ratio(high, "H"),
        "H, top - rest": ratio(high, "H") - ratio(rest, "H"),
        "H per change, top - rest": ratio(high, "H", "tv") - ratio(rest, "H", "tv"),
        "slope": slope(some, "H", "rkl"),
        "L, top": ratio(high, "L"),
        "L, top - rest": ratio(high, "L") - ratio(rest, "L"),
    }
    return pd.DataFrame([{"what": what} | estimate(one) for what, one in found.items()])


def by_type(some: pd.DataFrame, screen: pd.DataFrame) -> pd.DataFrame:
    """L and H of each token type beside the Delta of its ban everywhere (notebook 05).

    `screen` has the knockouts of one benchmark: ``level, target, delta, se, holding, n_problems,
    samples``. Columns: ``group, token_id, places``; ``L, L_se, H, H_se`` (NaN where one problem has
    all places); ``delta, delta_se``; ``holding``, the share of completions that hold the type; and
    ``delta_held``, Delta over that share: the change of a completion that holds it.
    """
    rows = []
    for (group, token), mine in some.groupby(["group", "token_id"], sort=True):
        row: dict[str, Any] = {"group": group, "token_id": int(token), "places": len(mine)}
        for measure in ("L", "H"):
            one = estimate(ratio(mine, measure))
            row |= {measure: one["value"], f"{measure}_se": one["se"]}
        rows.append(row)
    made = pd.DataFrame(rows, columns=["group", "token_id", "places", "L", "L_se", "H", "H_se"])
    level = {"token": "rock", "control": "control"}
    known = screen[screen.level.isin(level)].assign(group=lambda one: one.level.map(level))
    known = known.rename(columns={"target": "token_id", "se": "delta_se"})
    known["holding"] = known.holding / (known.n_problems * known.samples)
    columns = ["group", "token_id", "delta", "delta_se", "holding"]
    table = made.merge(known[columns], on=["group", "token_id"], how="left")
    held = table.holding.where(table.holding > 0)
    return table.assign(delta_held=table.delta / held)


def together(types: pd.DataFrame) -> pd.DataFrame:
    """Rank correlation over types of L with Delta, and of L with Delta of what holds the type.

    `types` is that of `by_type`. Columns: ``of, value`` (Spearman's rho) ``, lo, hi, p, n``, and
    ``reliability``, the share of the spread of L over types that is not noise. Without rows for
    fewer than four types, or where either side is constant.
    """
    rows = []
    for of in ("delta", "delta_held"):
        known = types.dropna(subset=["L", "L_se", of])
        if len(known) < 4 or known[["L", of]].nunique().min() < 2:
            continue
        # rounded, so that -0.005 / 0.215 and -0.01 / 0.43 share a rank
        rho, p = stats.spearmanr(known.L.round(12), known[of].round(12))
        # Fisher's z with the variance of a rank correlation (Fieller, Hartley, Pearson 1957)
        half = stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt(1.06 / max(len(known) - 3, 1))
        lo, hi = np.tanh(np.arctanh(np.clip(rho, -1 + 1e-9, 1 - 1e-9)) + half * np.array([-1, 1]))
        noise = float((known.L_se**2).mean()) / float(known.L.var(ddof=1))
        row = {"of": of, "value": float(rho), "lo": float(lo), "hi": float(hi), "p": float(p)}
        rows.append(row | {"n": len(known), "reliability": max(0.0, 1 - noise)})
    columns = ["of", "value", "lo", "hi", "p", "n", "reliability"]
    return pd.DataFrame(rows, columns=columns)
