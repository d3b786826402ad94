r"""Estimates with intervals over the unit that was sampled.

Prompts (or training seeds) were drawn at random. Rollouts of one prompt, and tokens of one rollout,
depend on each other. So rollouts are averaged within their prompt first, and the percentile
bootstrap resamples whole prompts,

    value* = sum_c w_c s_c / sum_c w_c n_c,   w ~ Multinomial(U, 1/U),

with s_c and n_c the sum and the count of unit c. Differences are paired: both sides of a unit move
together. Weights are drawn in chunks, so memory does not grow with the number of bootstrap samples.

Training seeds and problems are two crossed random effects. A cell is the mean of the rows of one
seed and problem,

    y_sp = m + a_s + b_p + e_sp,   s = 1 .. S,   p = 1 .. P

with independent effects of mean 0: of the training, of the problem, and the noise of the cell. The
mean of all cells has the variance s_a^2 / S + s_b^2 / P + s_e^2 / (S P). It is estimated by the
mean squares of the two-way table (Searle, Casella and McCulloch 1992, chapter 4), whose
expectations are

    MS_a = P var(seed means)     s_e^2 + P s_a^2        S - 1 degrees of freedom
    MS_b = S var(problem means)  s_e^2 + S s_b^2        P - 1
    MS_e of the residuals        s_e^2                  (S - 1) (P - 1)

as V = (MS_e + max(MS_a - MS_e, 0) + max(MS_b - MS_e, 0)) / (S P), since a component is not
negative. The interval is m +- t sqrt(V), with the degrees of freedom of Satterthwaite (1946) for
the mean squares M_i that are left in the sum, (sum of M_i with their signs)^2 / sum(M_i^2 / f_i).
A bootstrap that resamples both factors counts the noise of the cells three times, and takes a
normal quantile for the part of a few trainings.

How these can mislead: with fewer than about ten units a percentile interval is too narrow. The seed
part of an interval over three trainings is hardly estimated at all: on answers that are right or
wrong, with three to five seeds, 95% intervals of the two-way model hold the truth in 93% (trainings
differ much) to 97% (not at all) of simulations. Every estimate therefore carries its n.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.random import Generator
from scipy import stats

from rockstudy.errors import StudyError

LEVEL = 0.95  # ours: the level of every interval
EQUIVALENCE = 0.9  # of the second interval: two one-sided tests at 5% (Schuirmann 1987)
FACTORS = ["seed", "prompt_index"]
N_BOOT = 10_000  # ours: Monte Carlo error of an end point about 1% of the interval's width
_CHUNK_CELLS = 4_000_000  # ours: weights in memory at once, about 32 MB


@dataclass(frozen=True)
class Estimate:
    """A value with its interval, the unit that was sampled and the number of units.

    ``n`` is one count, or one per factor where ``unit`` names several ("seeds x problems").
    ``n_boot`` is 0 where nothing was resampled. ``lo90`` and ``hi90`` are the ends of the 90%
    interval, which tests of equivalence at 5% look at.
    """

    value: float
    lo: float
    hi: float
    unit: str
    n: int | tuple[int, ...]
    n_boot: int
    lo90: float = float("nan")
    hi90: float = float("nan")

    def __str__(self) -> str:
        counts = (self.n,) if isinstance(self.n, int) else self.n
        units = " x ".join(f"{n} {u}" for n, u in zip(counts, self.unit.split(" x "), strict=True))
        interval = f"[{self.lo:.3g}, {self.hi:.3g}]"
        how = "bootstrap " if self.n_boot else ""
        return f"{self.value:.3g} {interval} ({LEVEL:.0%} {how}over {units})"


def cluster_mean(
    frame: pd.DataFrame, value: str, cluster: str, rng: Generator, *, unit: str = "problems"
) -> Estimate:
    """Mean of a column over rows, with whole clusters resampled; booleans count as 0 and 1.

    `cluster` is the column that identifies the unit of resampling, `unit` its name for readers.

    `StudyError`: no rows, a missing column, a missing or infinite value, or a single cluster.

    Every row counts the same, so a prompt with more rollouts weighs more. With equal counts this is
    also the mean of cluster means.
    """
    grouped = _grouped(frame, value, [cluster])
    return _ratio(grouped.sum(), grouped.size(), rng, unit)


def prompt_ratio(frame: pd.DataFrame, numerator: str, denominator: str, rng: Generator) -> Estimate:
    """Sum of one column over the sum of another, with whole prompts resampled.

    `StudyError` as `cluster_mean`, and where the denominator adds up to 0.
    """
    above, below = (_grouped(frame, c, ["prompt_index"]).sum() for c in (numerator, denominator))
    if len(below) > 1 and below.sum() == 0:
        raise StudyError(f"{denominator}: must not add up to 0")
    return _ratio(above, below, rng, "prompts")


def prompt_median(frame: pd.DataFrame, value: str, rng: Generator) -> Estimate:
    """Median over prompts of the mean within a prompt, by scipy's percentile bootstrap.

    `StudyError` as `cluster_mean`.
    """
    means = _grouped(frame, value, ["prompt_index"]).mean().to_numpy()
    _check_units(len(means), "prompts")
    samples = stats.bootstrap(
        (means,), np.median, n_resamples=N_BOOT, method="percentile", rng=rng, batch=500
    ).bootstrap_distribution
    return _estimate(np.median(means), samples, "prompts", len(means))


def ratio_draws(above: np.ndarray, below: np.ndarray, rng: Generator) -> tuple[Any, Any]:
    """Ratios of sums over prompts, with draws in which whole prompts are resampled for all at once.

    `above` and `below` are the sums of each prompt, (U, ...) of one shape. Returns the ratios (...)
    and their draws (`N_BOOT`, ...). A ratio is NaN where nothing is below, and so is a draw whose
    prompts have nothing below, or every draw where one prompt alone has something: it cannot tell
    how prompts vary. A difference of two ratios has the difference of their draws, since the same
    prompts are in both. `StudyError`: fewer than two prompts.
    """
    _check_units(len(below), "prompts")
    shape, flat = below.shape[1:], (len(below), -1)
    top, bottom = (np.asarray(part, np.float64).reshape(flat) for part in (above, below))
    with np.errstate(divide="ignore", invalid="ignore"):
        value = top.sum(0) / bottom.sum(0)
        samples = resample(lambda w: (w @ top) / (w @ bottom), len(below), rng, N_BOOT)
    samples[:, (bottom > 0).sum(0) < 2] = np.nan
    return value.reshape(shape), samples.reshape(-1, *shape)


def ends(samples: np.ndarray) -> np.ndarray:
    """Ends of the intervals of draws (B, ...): (2, ...).

    Draws that are not defined are left out: the interval is that of the prompts that have something
    to measure. NaN where no draw is defined.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        return np.nanquantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)


def paired_difference(
    before: pd.DataFrame,
    after: pd.DataFrame,
    value: str,
    cluster: str,
    rng: Generator,
    *,
    unit: str = "problems",
) -> Estimate:
    """Mean over units of after minus before, rows averaged within a unit on each side first.

    `StudyError` as `cluster_mean`, and where the two frames have different units.
    """
    difference = _difference(before, after, value, [cluster])
    return _ratio(difference, np.ones(len(difference)), rng, unit)


def two_way_mean(frame: pd.DataFrame, value: str) -> Estimate:
    """Mean over a complete grid of seeds x problems, both random (the model of this module).

    The factors are the columns ``seed`` and ``prompt_index``. Rows of one cell are averaged first,
    so every cell counts the same. `StudyError` as `cluster_mean`, and where a seed lacks a problem
    that a different one has.
    """
    return _two_way(_grouped(frame, value, FACTORS).mean())


def two_way_difference(before: pd.DataFrame, after: pd.DataFrame, value: str) -> Estimate:
    """Mean of after minus before over seeds x problems, paired in every cell.

    `StudyError` as `two_way_mean`, and where the two frames have different cells.
    """
    return _two_way(_difference(before, after, value, FACTORS))


def seed_mean(values: np.ndarray, unit: str = "seeds") -> Estimate:
    """Mean over a handful of independent values with Student's t interval.

    For training seeds: with three to five of them a bootstrap interval is far too narrow. A single
    value has no interval (NaN). ``n_boot`` is 0.
    """
    n = len(values)
    error = values.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return _students(values.mean(), error, n - 1, unit, n)


def resample(
    statistic: Callable[[np.ndarray], np.ndarray], n: int, rng: Generator, n_boot: int
) -> np.ndarray:
    """Apply a statistic of the weights (b, n) to `n_boot` bootstrap draws, in chunks."""
    if n_boot < 1:
        raise StudyError(f"n_boot: must be at least 1; got {n_boot}")
    step = max(1, _CHUNK_CELLS // n)
    sizes = [min(step, n_boot - start) for start in range(0, n_boot, step)]
    return np.concatenate([statistic(_weights(n, rng, size)) for size in sizes])


def as_columns(estimate: Estimate) -> dict:
    """An estimate as columns; a crossed one has the problems in ``n`` and the seeds in ``unit``."""
    shown = {name: getattr(estimate, name) for name in ("value", "lo", "hi", "unit", "n")}
    if isinstance(estimate.n, tuple):
        seeds, problems = estimate.n
        shown |= {"n": problems, "unit": f"problems x {seeds} seeds"}
    return shown


def _ratio(above: Any, below: Any, rng: Generator, unit: str) -> Estimate:
    """Sum of `above` over the sum of `below`, a value for each unit in both."""
    above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
    _check_units(len(below), unit)
    samples = resample(lambda w: (w @ above) / (w @ below), len(below), rng, N_BOOT)
    return _estimate(above.sum() / below.sum(), samples, unit, len(below))


def _two_way(cells: pd.Series) -> Estimate:
    grid, unit = cells.unstack().to_numpy(), "seeds x problems"  # (S, P)
    if np.isnan(grid).any():
        raise StudyError(f"{unit}: must form a complete grid; {np.isnan(grid).sum()} cells missing")
    _check_units(min(grid.shape), unit)
    return _students(*two_way_error(grid), unit, grid.shape)


def two_way_error(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of each table (..., S, P), its standard error and its degrees of freedom, (...) each.

    The model is that of this module: two crossed random effects and the noise of the cells.
    """
    seeds, problems = cells.shape[-2:]
    of_seed, of_problem = cells.mean(-1, keepdims=True), cells.mean(-2, keepdims=True)
    mean = of_seed.mean(-2, keepdims=True)
    free = np.array([seeds - 1, problems - 1, (seeds - 1) * (problems - 1)])
    parts = (of_seed - mean, of_problem - mean, cells - of_seed - of_problem + mean)
    repeats = (problems, seeds, 1)  # how often each part is in the table
    sums = [n * (part**2).sum((-2, -1)) for n, part in zip(repeats, parts, strict=True)]
    squares = np.stack(sums, -1) / free
    a, b, e = np.moveaxis(squares, -1, 0)
    # the mean squares that are left in the sum, with their signs
    left = np.stack([a > e, b > e, 1.0 - (a > e) - (b > e)], -1)
    variance, spread = (left * squares).sum(-1), (left**2 * squares**2 / free).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        degrees = np.where(spread > 0, variance**2 / spread, np.inf)
    return mean[..., 0, 0], np.sqrt(variance / (seeds * problems)), degrees


def _students(
    value: Any, error: Any, degrees: Any, unit: str, n: int | tuple[int, ...]
) -> Estimate:
    """A value with intervals by Student's t, from its standard error."""
    half, half90 = (stats.t.ppf((1 + x) / 2, degrees) * error for x in (LEVEL, EQUIVALENCE))
    ends = (float(value + sign * one) for one in (half, half90) for sign in (-1, 1))
    lo, hi, lo90, hi90 = ends
    return Estimate(float(value), lo, hi, unit, n, 0, lo90, hi90)


def _weights(n: int, rng: Generator, size: int) -> np.ndarray:
    """Multinomial counts (size, n), by counting draws: half the time of `Generator.multinomial`."""
    drawn = rng.integers(n, size=(size, n), dtype=np.int64)
    drawn += n * np.arange(size)[:, None]
    return np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def _estimate(value: Any, samples: np.ndarray, unit: str, n: int | tuple[int, ...]) -> Estimate:
    levels = [(1 + sign * level) / 2 for level in (LEVEL, EQUIVALENCE) for sign in (-1, 1)]
    lo, hi, lo90, hi90 = map(float, np.quantile(samples, levels))
    return Estimate(float(value), lo, hi, unit, n, len(samples), lo90, hi90)


def _difference(
    before: pd.DataFrame, after: pd.DataFrame, value: str, cluster: list[str]
) -> pd.Series:
    """After minus before for each unit; both frames must have the same units."""
    old, new = (_grouped(frame, value, cluster).mean() for frame in (before, after))
    if not old.index.equals(new.index):
        unpaired = old.index.symmetric_difference(new.index)
        raise StudyError(
            f"{' x '.join(cluster)}: before and after must have the same units;"
            f" {len(unpaired)} are on one side only, such as {unpaired[0]}"
        )
    return new - old


def _grouped(frame: pd.DataFrame, value: str, cluster: list[str]) -> Any:
    """The values of each unit as float64, checked."""
    missing = [name for name in (value, *cluster) if name not in frame]
    if missing:
        raise StudyError(f"columns: must include {missing[0]}; got {', '.join(map(str, frame))}")
    if frame.empty:
        raise StudyError(f"{value}: must have at least one row; got none")
    numbers = frame[value].to_numpy(dtype=np.float64, na_value=np.nan)
    bad = int((~np.isfinite(numbers)).sum())
    if bad or frame[cluster].isna().to_numpy().any():
        raise StudyError(f"{value}: must be finite in every row of a unit; {bad} rows are not")
    return frame[cluster].assign(_value=numbers).groupby(cluster)["_value"]


def _check_units(n: int, unit: str) -> None:
    if n < 2:
        raise StudyError(f"{unit}: an interval needs at least 2 units to resample; got {n}")
