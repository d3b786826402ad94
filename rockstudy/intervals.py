r"""Estimates with intervals that resample the unit that was sampled.

Prompts (or training seeds) were drawn at random. Rollouts of one prompt, and tokens of one rollout,
depend on each other. So rollouts are averaged within their prompt first, and the percentile
bootstrap resamples whole prompts,

    value* = sum_c w_c s_c / sum_c w_c n_c,   w ~ Multinomial(U, 1/U),

with s_c and n_c the sum and the count of unit c. Differences are paired: both sides of a unit move
together. Two crossed factors (training seeds x problems) are resampled independently of each other.
Weights are drawn in chunks, so memory does not grow with the number of bootstrap samples.

How these can mislead: with fewer than about ten units a percentile interval is too narrow; with
three training seeds the seed part of an interval is hardly estimated at all. Every estimate
therefore carries its n.
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
FACTORS = ["seed", "prompt_index"]
N_BOOT = 10_000  # ours: Monte Carlo error of an end point about 1% of the interval's width
_CHUNK_CELLS = 4_000_000  # ours: weights in memory at once, about 32 MB


@dataclass(frozen=True)
class Estimate:
    """A value with its interval, the unit of resampling and the number of units.

    ``n`` is one count, or one per factor where ``unit`` names several ("seeds x problems").
    """

    value: float
    lo: float
    hi: float
    unit: str
    n: int | tuple[int, ...]
    n_boot: int

    def __str__(self) -> str:
        counts = (self.n,) if isinstance(self.n, int) else self.n
        units = " x ".join(f"{n} {u}" for n, u in zip(counts, self.unit.split(" x "), strict=True))
        interval = f"[{self.lo:.3g}, {self.hi:.3g}]"
        return f"{self.value:.3g} {interval} ({LEVEL:.0%} bootstrap over {units})"


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


def crossed_mean(frame: pd.DataFrame, value: str, rng: Generator) -> Estimate:
    """Mean over a complete grid of seeds x problems, both factors resampled independently.

    The factors are the columns ``seed`` and ``prompt_index``. Rows of one cell are averaged first,
    so every cell counts the same. `StudyError` as `cluster_mean`, and where a seed lacks a problem
    that a different one has.
    """
    return _crossed(_grouped(frame, value, FACTORS).mean(), rng)


def crossed_difference(
    before: pd.DataFrame, after: pd.DataFrame, value: str, rng: Generator
) -> Estimate:
    """Mean of after minus before over seeds x problems, paired in every cell.

    ``before`` may lack the seed column: it is then one evaluation of a model that all seeds start
    from, and is paired with each of them. `StudyError` as `crossed_mean`, and where the two frames
    have different cells.
    """
    if "seed" not in before.columns:
        before = before.merge(after[["seed"]].drop_duplicates(), how="cross")
    return _crossed(_difference(before, after, value, FACTORS), rng)


def seed_mean(values: np.ndarray, unit: str = "seeds") -> Estimate:
    """Mean over a handful of independent values with Student's t interval.

    For training seeds: with three to five of them a bootstrap interval is far too narrow. A single
    value has no interval (NaN). ``n_boot`` is 0.
    """
    n, mean, half = len(values), float(values.mean()), float("nan")
    if n > 1:
        half = stats.t.ppf((1 + LEVEL) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n)
    return Estimate(mean, float(mean - half), float(mean + half), unit, n, 0)


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


def _crossed(cells: pd.Series, rng: Generator) -> Estimate:
    grid, unit = cells.unstack().to_numpy(), "seeds x problems"  # (seeds, problems)
    if np.isnan(grid).any():
        raise StudyError(f"{unit}: must form a complete grid; {np.isnan(grid).sum()} cells missing")
    _check_units(min(grid.shape), unit)

    def mean(w: np.ndarray) -> np.ndarray:
        seeds = _weights(len(grid), rng, len(w))
        return np.einsum("bs,bs->b", seeds, w @ grid.T) / grid.size

    samples = resample(mean, grid.shape[1], rng, N_BOOT)
    return _estimate(grid.mean(), samples, unit, grid.shape)


def _weights(n: int, rng: Generator, size: int) -> np.ndarray:
    """Multinomial counts (size, n), by counting draws: half the time of `Generator.multinomial`."""
    drawn = rng.integers(n, size=(size, n), dtype=np.int64)
    drawn += n * np.arange(size)[:, None]
    return np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def _estimate(value: Any, samples: np.ndarray, unit: str, n: int | tuple[int, ...]) -> Estimate:
    lo, hi = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(value), float(lo), float(hi), unit, n, len(samples))


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
