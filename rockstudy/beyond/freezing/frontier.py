r"""Learning against forgetting: what an arm forgets beyond a baseline that has learnt as much.

With accuracies at the start of stage 2 and after it, of a benchmark that training uses and of
another one,

    gain   = change of the accuracy on the trained benchmark
    change = change of the accuracy on the other one

An arm that learns less may forget less for that reason alone. So it is compared with a baseline
that has learnt the same: the plain loss at the learning rate of the study and at smaller ones (the
arms ``rate-<number>``), at every graded checkpoint. Its points (gain_j, change_j) are interpolated
by one curve through the start, in least squares,

    f(g) = a g + b g^2

(a line with fewer than three points), and the **excess** of an arm is change - f(gain): positive
where it forgets less. Straight pieces from checkpoint to checkpoint would do without a form of the
curve. Yet where the baseline stops gaining, two neighbours have almost the same gain, the slope
between them is noise, and the interval of an arm beside them is several times as wide. An arm that
gains more than every point, or less than nothing, is marked (``beyond``): its f is extrapolated.

All of this is measured, the gains too. To first order, with x(g) = (g, g^2), the weights l of the
points in f(gain), the residuals r of the curve and X of the rows x(gain_j),

    d excess = d change - f'(gain) d gain - sum_j l_j d change_j - sum_j k_j d gain_j
    l = x(gain)' (X'X)^-1 X',   k_j = x(gain)' (X'X)^-1 x'(gain_j) r_j - l_j f'(gain_j)

so that the excess has the spread of a mean over seeds and problems: of the changes those of the
other benchmark, of the gains those of the trained one. They are independent problems of the same
trainings. With as many of each (the first ones, where one has more) a cell of the two-way table is
their sum, and its interval is that of `rockstudy.intervals`.

How this can mislead: if forgetting is no such curve of the gain, f is biased between its points;
that a baseline at one rate has an excess over the others would show it. The interval holds only to
first order.
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
FEWEST = 3  # ours: points of a bent curve
Grids = Mapping[str, Mapping[int, pd.DataFrame]]  # of `cells`


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
class Frontier:
    """The change of a baseline as a function of its gain: a curve through 0 and its points."""

    gain: np.ndarray  # (J,), without the start
    change: np.ndarray

    @property
    def degree(self) -> int:
        """2, and 1 where the points do not suffice."""
        return 2 if len(np.unique(self.gain)) >= FEWEST else 1

    def _row(self, gain: Any) -> np.ndarray:
        """x(g), (..., degree)."""
        return np.stack([np.asarray(gain) ** (n + 1) for n in range(self.degree)], -1)

    def _slopes(self, gain: Any) -> np.ndarray:
        """x'(g), (..., degree)."""
        powers = [(n + 1) * np.asarray(gain, np.float64) ** n for n in range(self.degree)]
        return np.stack(powers, -1)

    @property
    def coefficients(self) -> np.ndarray:
        """The coefficients of g and g^2, in least squares."""
        return np.linalg.lstsq(self._row(self.gain), self.change, rcond=None)[0]

    def at(self, gain: Any) -> Any:
        """The baseline's change where it has gained as much."""
        return self._row(gain) @ self.coefficients

    def slope(self, gain: Any) -> Any:
        """How much more it changes as it gains more."""
        return self._slopes(gain) @ self.coefficients

    def holds(self, gain: float) -> bool:
        """Whether a gain lies between the start and the largest gain of a point."""
        return min(0.0, self.gain.min()) <= gain <= max(0.0, self.gain.max())

    def weights(self, gain: float) -> tuple[np.ndarray, np.ndarray]:
        """How `at` moves with the changes of the points, and with their gains: (J,) each."""
        x, rows = self._row(gain), self._row(self.gain)
        inverse = np.linalg.pinv(rows.T @ rows)
        of_changes = x @ inverse @ rows.T
        left = self.change - rows @ self.coefficients
        of_gains = self._slopes(self.gain) @ inverse @ x * left
        return of_changes, of_gains - of_changes * self.slope(self.gain)


def frontier(
    gains: Grids, changes: Grids, seeds: Sequence[int], without: str = ""
) -> tuple[list[tuple[str, int]], Frontier] | None:
    """The points of every baseline that has all of the seeds, and the curve through them.

    A point is an arm and a step. `without` leaves one of the baselines out; None without any left.
    """
    known = [
        (arm, step)
        for arm in gains
        if is_baseline(arm) and arm != without
        for step, grid in gains[arm].items()
        if step > 0 and set(seeds) <= set(grid.index)
    ]
    if not known:
        return None
    means = [
        np.array([of[arm][step].loc[seeds].to_numpy().mean() for arm, step in known])
        for of in (gains, changes)
    ]
    return known, Frontier(*means)


def curves(accuracy: pd.DataFrame, trained: str, other: str) -> pd.DataFrame:
    """The points of the frontier over the seeds that all rates have: ``arm, step, gain, change``.

    With the start of each, and ``fitted``, the curve at the gain of the point.
    """
    gains, changes = cells(accuracy, trained), cells(accuracy, other)
    rates = [arm for arm in gains if is_baseline(arm)]
    seeds = sorted(set.intersection(*(set(gains[arm][0].index) for arm in rates)))
    found = frontier(gains, changes, seeds)
    rows = [(arm, 0, 0.0, 0.0) for arm in rates]
    if found is not None:
        points, curve = found
        rows += [
            (arm, step, *pair)
            for (arm, step), *pair in zip(points, curve.gain, curve.change, strict=True)
        ]
    table = pd.DataFrame(rows, columns=["arm", "step", "gain", "change"])
    table["fitted"] = 0.0 if found is None else found[1].at(table.gain.to_numpy())
    return table.sort_values(["arm", "step"], ignore_index=True)


def excess(accuracy: pd.DataFrame, trained: str, other: str) -> pd.DataFrame:
    """Gain, change and excess of every arm at the end of training.

    Columns: ``arm, seeds`` and for each of ``gain, change, excess`` the value with ``_lo, _hi``
    (95%), of the excess ``_lo90, _hi90`` as well; ``at_equal_gain`` (the baseline's change there),
    ``points`` (of the frontier), ``beyond``, and ``detectable`` (the least excess that a test at 5%
    finds with a power of 80%). A single seed has no intervals (NaN). A baseline at one rate is
    compared with the other rates; without any that has an arm's seeds there is no excess (NaN).
    """
    gains, changes = cells(accuracy, trained), cells(accuracy, other)
    rows = []
    for arm in gains:
        end = max(gains[arm])
        seeds = sorted(set(gains[arm][end].index) & set(gains[BASELINE][0].index))
        own = [one[arm][end].loc[seeds].to_numpy() for one in (gains, changes)]
        row: dict[str, Any] = {"arm": arm, "seeds": len(seeds)}
        for name, grid in zip(("gain", "change"), own, strict=True):
            row |= _named(name, grid)
        if (found := frontier(gains, changes, seeds, without=arm)) is not None:
            curve, gain = found[1], float(own[0].mean())
            row |= {"at_equal_gain": float(curve.at(gain)), "points": len(found[0])}
            row |= {"beyond": not curve.holds(gain)}
            row |= _named("excess", _linear(*own, *found, gains, changes, seeds))
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.reindex(columns=[*table.columns, *(set(_EXCESS) - set(table.columns))])


_EXCESS = ("excess", "excess_lo", "excess_hi", "excess_lo90", "excess_hi90", "detectable", "beyond")


def _linear(
    gain: np.ndarray,
    change: np.ndarray,
    points: Sequence[tuple[str, int]],
    curve: Frontier,
    gains: Grids,
    changes: Grids,
    seeds: Sequence[int],
) -> np.ndarray:
    """Cells (S, P) whose mean is the excess and whose spread is that of its linear form."""
    at = float(gain.mean())
    of_other, of_trained = change.copy(), -curve.slope(at) * (gain - at)
    for (arm, step), w, k in zip(points, *curve.weights(at), strict=True):
        of_other = of_other - w * changes[arm][step].loc[seeds].to_numpy()
        of_trained = of_trained - k * gains[arm][step].loc[seeds].to_numpy()
    n = min(gain.shape[1], change.shape[1])  # of the first problems alone, with the mean of all
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
        found = frontier(gains, changes, seeds, without=one) if seeds else None
        if found is None:
            return {}
        parts.append(_linear(*own, *found, gains, changes, seeds))
    return as_claim(_named("excess", parts[0] - parts[1]), len(seeds), parts[0].shape[1])


def as_claim(row: Mapping[str, Any], seeds: int, problems: int) -> dict[str, Any]:
    """The excess of a row as a measured value of a claim."""
    names = {"value": "excess", "lo": "excess_lo", "hi": "excess_hi"}
    names |= {"lo90": "excess_lo90", "hi90": "excess_hi90", "detectable": "detectable"}
    unit = f"problems x {seeds} seeds" if seeds > 1 else "problems, one training seed"
    return {k: row.get(v, np.nan) for k, v in names.items()} | {"unit": unit, "n": problems}
