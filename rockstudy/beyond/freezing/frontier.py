r"""Learning against forgetting: what an arm forgets beyond a baseline that has learnt as much.

With accuracies at the start of stage 2 and after it, of a benchmark that training uses and of
another one,

    gain   = change of the accuracy on the trained benchmark
    change = change of the accuracy on the other one

An arm that learns less may forget less for that reason alone. So it is compared with a baseline
that has learnt the same: the plain loss at the learning rates of the study and at smaller ones (the
arms ``rate-<number>``), at the start and at every graded checkpoint. Along each of these curves r
the change at a gain g is interpolated where the curve first reaches g, between points a and b:

    f_r(g) = (1 - w) change_a + w change_b,    w = (g - gain_a) / (gain_b - gain_a)

and f(g) is the mean over the curves that reach g. The **excess** of an arm is change - f(gain),
positive where it forgets less. An arm whose gain no curve reaches is compared with the point of the
nearest gain, and is marked (``beyond``): what a baseline that learnt as much would forget is not
known.

All of this is measured, the gains too. To first order the excess is a mean over seeds and problems,

    e = [change - sum_j l_j change_j] - s [gain - sum_j l_j gain_j]

over the points j with their weights l_j in f, and with the slope s_r of each curve's segment: the
cells of the first bracket are problems of the other benchmark, those of the second of the trained
one (0 in the mean). They are independent problems of the same trainings. With as many of each (the
first ones, where one has more) a cell of the two-way table is their sum, and its interval is that
of `rockstudy.intervals`.

How this can mislead: where the curve is flat in gain, w and s are hardly known, which the interval
has only to first order; few checkpoints make a bent curve of straight pieces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from rockstudy import intervals
from rockstudy.beyond.freezing.arms import RATE

BASELINE = "baseline"
POWER = 0.8  # ours: of the least effect that a row could have seen
Points = Mapping[tuple[str, int], np.ndarray]  # (arm, step): cells (S, P), minus those of the start


def is_baseline(arm: str) -> bool:
    """Whether an arm has the plain loss: the baseline at some learning rate."""
    return arm == BASELINE or arm.startswith(RATE)


def cells(accuracy: pd.DataFrame, benchmark: str) -> dict[str, dict[int, pd.DataFrame]]:
    """Accuracy minus that of the start of each arm and step: seeds (rows) by problems.

    `accuracy` is the table of the steps, which has every arm's start as step 0.
    """
    found: dict[str, dict[int, pd.DataFrame]] = {}
    some = accuracy[accuracy.benchmark == benchmark]
    for (arm, step), rows in some.groupby(["arm", "step"], sort=False):
        grid = rows.pivot(index="seed", columns="prompt_index", values="accuracy")
        found.setdefault(str(arm), {})[int(step)] = grid
    return {
        arm: {step: grid - by_step[0].loc[grid.index] for step, grid in sorted(by_step.items())}
        for arm, by_step in found.items()
    }


@dataclass(frozen=True)
class Curve:
    """The baseline at one learning rate: gain and change of its points, from the start on."""

    gain: np.ndarray  # (K,), the first one 0
    change: np.ndarray

    def at(self, gain: float) -> tuple[np.ndarray, float] | None:
        """Weights of the points (K,) and the slope where the curve first reaches a gain.

        None where it never does.
        """
        for k, (a, b) in enumerate(zip(self.gain, self.gain[1:], strict=False)):
            if min(a, b) <= gain <= max(a, b) and a != b:
                w, weights = (gain - a) / (b - a), np.zeros(len(self.gain))
                weights[[k, k + 1]] = 1 - w, w
                return weights, float((self.change[k + 1] - self.change[k]) / (b - a))
        return None


@dataclass(frozen=True)
class Frontier:
    """The curves of the baseline by their learning rate, for arms with the same seeds."""

    curves: Mapping[str, Curve]

    def at(self, gain: float) -> tuple[dict[str, tuple[np.ndarray, float]], bool]:
        """Weights of every point and slope of each curve that reaches a gain; whether none does.

        The weights add up to 1 over all curves, and so do the curves' parts of their slopes to
        that of the mean. Outside all curves it is the point of the nearest gain, with slope 0.
        """
        found = {name: curve.at(gain) for name, curve in self.curves.items()}
        reached = {name: one for name, one in found.items() if one is not None}
        if reached:
            n = len(reached)
            return {name: (w / n, slope / n) for name, (w, slope) in reached.items()}, False
        away = {name: np.abs(curve.gain - gain) for name, curve in self.curves.items()}
        name = min(away, key=lambda one: away[one].min())
        nearest = np.arange(len(away[name])) == away[name].argmin()
        return {name: (nearest.astype(float), 0.0)}, True

    def change(self, gain: float) -> float:
        """The baseline's change on the other benchmark where it has gained as much."""
        at, _ = self.at(gain)
        return sum(float(w @ self.curves[name].change) for name, (w, _) in at.items())


def frontier(
    gains: Mapping[str, Mapping[int, pd.DataFrame]],
    changes: Mapping[str, Mapping[int, pd.DataFrame]],
    seeds: Sequence[int],
    without: str = "",
) -> Frontier:
    """The curves of every baseline that has all of the seeds; `without` leaves one of them out."""
    known = [arm for arm in gains if is_baseline(arm) and arm != without]
    whole = [arm for arm in known if _has(gains[arm], seeds)]

    def means(by_step: Mapping[int, pd.DataFrame]) -> np.ndarray:
        return np.array([by_step[step].loc[seeds].to_numpy().mean() for step in sorted(by_step)])

    return Frontier({arm: Curve(means(gains[arm]), means(changes[arm])) for arm in whole})


def curves(accuracy: pd.DataFrame, trained: str, other: str) -> dict[str, pd.DataFrame]:
    """``step, gain, change`` of the baseline at each learning rate, over the seeds of all rates."""
    gains, changes = cells(accuracy, trained), cells(accuracy, other)
    rates = [arm for arm in gains if is_baseline(arm)]
    seeds = sorted(set.intersection(*(set(gains[arm][0].index) for arm in rates)))
    found = frontier(gains, changes, seeds).curves
    return {
        arm: pd.DataFrame({"step": sorted(gains[arm]), "gain": one.gain, "change": one.change})
        for arm, one in found.items()
    }


def _has(by_step: Mapping[int, pd.DataFrame], seeds: Sequence[int]) -> bool:
    return all(set(seeds) <= set(grid.index) for grid in by_step.values())


def excess(accuracy: pd.DataFrame, trained: str, other: str) -> pd.DataFrame:
    """Gain, change and excess of every arm at the end of training.

    Columns: ``arm, seeds`` and for each of ``gain, change, excess`` the value with ``_lo, _hi``
    (95%), of the excess ``_lo90, _hi90`` as well; ``at_equal_gain`` (the baseline's change there),
    ``curves`` (the number that it is a mean of), ``beyond``, and ``detectable`` (the least excess
    that a test at 5% finds with a power of 80%). A single seed has no intervals (NaN). A baseline
    at another rate is compared with the other rates; without any that has an arm's seeds, as for
    the baseline alone, there is no excess (NaN).
    """
    gains, changes = cells(accuracy, trained), cells(accuracy, other)
    rows = []
    for arm in gains:
        end = max(gains[arm])
        if end == 0:
            continue
        seeds = sorted(set(gains[arm][end].index) & set(gains[BASELINE][0].index))
        own = [one[arm][end].loc[seeds].to_numpy() for one in (gains, changes)]
        row: dict[str, Any] = {"arm": arm, "seeds": len(seeds)}
        for name, grid in zip(("gain", "change"), own, strict=True):
            row |= _named(name, grid)
        curves = frontier(gains, changes, seeds, without=arm)
        if curves.curves:
            at, beyond = curves.at(float(own[0].mean()))
            row |= {"at_equal_gain": curves.change(float(own[0].mean())), "curves": len(at)}
            row |= {"beyond": beyond} | _named("excess", _linear(*own, at, gains, changes, seeds))
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.reindex(columns=[*table.columns, *(set(_EXCESS) - set(table.columns))])


_EXCESS = ("excess", "excess_lo", "excess_hi", "excess_lo90", "excess_hi90", "detectable")


def _linear(
    gain: np.ndarray,
    change: np.ndarray,
    at: Mapping[str, tuple[np.ndarray, float]],
    gains: Mapping[str, Mapping[int, pd.DataFrame]],
    changes: Mapping[str, Mapping[int, pd.DataFrame]],
    seeds: Sequence[int],
) -> np.ndarray:
    """Cells (S, P) whose mean is the excess and whose spread is that of its linear form."""
    n = min(gain.shape[1], change.shape[1])
    of_other, of_trained = change.copy(), np.zeros_like(gain)
    for arm, (weights, slope) in at.items():
        whole = weights.sum()  # of this curve
        reached = np.zeros_like(gain)
        for step, weight in zip(sorted(gains[arm]), weights, strict=True):
            of_other = of_other - weight * changes[arm][step].loc[seeds].to_numpy()
            reached = reached + weight / whole * gains[arm][step].loc[seeds].to_numpy()
        of_trained = of_trained - slope * (gain - reached)
    if gain.shape[1] == change.shape[1]:
        return of_other + of_trained
    # of the first problems alone, with the mean of all
    of_other = of_other[:, :n] + (of_other.mean() - of_other[:, :n].mean())
    return of_other + of_trained[:, :n] - of_trained[:, :n].mean()


def _named(name: str, grid: np.ndarray) -> dict[str, Any]:
    """A mean over seeds and problems with its interval as columns."""
    if len(grid) < 2:
        return {name: float(grid.mean()), f"{name}_lo": np.nan, f"{name}_hi": np.nan}
    mean, error, degrees = (float(x) for x in intervals.two_way_error(grid))
    ends = {"": intervals.LEVEL}
    ends |= {"90": intervals.EQUIVALENCE} if name == "excess" else {}
    row = {name: mean}
    for label, wide in ends.items():
        half = float(stats.t.ppf((1 + wide) / 2, degrees)) * error if error else 0.0
        row |= {f"{name}_lo{label}": mean - half, f"{name}_hi{label}": mean + half}
    if name == "excess":
        t = stats.t.ppf([(1 + intervals.LEVEL) / 2, POWER], degrees) if error else np.zeros(2)
        row["detectable"] = float(t.sum() * error)
    return row


def contrast(
    accuracy: pd.DataFrame, trained: str, other: str, arm: str, against: str
) -> dict[str, Any]:
    """Excess of an arm minus that of another, over the seeds of both, paired in every cell.

    The keys are ``value, lo, hi, lo90, hi90, unit, n, detectable``; empty where an arm is not
    trained or there is no baseline to compare with.
    """
    gains, changes = cells(accuracy, trained), cells(accuracy, other)
    if not {arm, against, BASELINE} <= set(gains):
        return {}
    ends = {one: max(gains[one]) for one in (arm, against)}
    common = [set(gains[one][end].index) for one, end in ends.items()]
    seeds = sorted(set.intersection(*common, set(gains[BASELINE][0].index)))
    parts = []
    for one, end in ends.items():
        own = [grids[one][end].loc[seeds].to_numpy() for grids in (gains, changes)]
        curves = frontier(gains, changes, seeds, without=one)
        if not seeds or not curves.curves:
            return {}
        at, _ = curves.at(float(own[0].mean()))
        parts.append(_linear(*own, at, gains, changes, seeds))
    return as_claim(_named("excess", parts[0] - parts[1]), len(seeds), parts[0].shape[1])


def as_claim(row: Mapping[str, Any], seeds: int, problems: int) -> dict[str, Any]:
    """The excess of a row as a measured value of a claim."""
    names = {"value": "excess", "lo": "excess_lo", "hi": "excess_hi"}
    names |= {"lo90": "excess_lo90", "hi90": "excess_hi90", "detectable": "detectable"}
    unit = f"problems x {seeds} seeds"
    return {k: row.get(v, np.nan) for k, v in names.items()} | {"unit": unit, "n": problems}
