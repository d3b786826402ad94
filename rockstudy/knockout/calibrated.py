"""What a knockout does once the baseline, which all candidates share, is taken out.

Delta compares every candidate with the same baseline, whose luck moves all of them together: with
200 candidates and no effect at all most differences often have the same sign, and a sign test over
candidates (paper appendix D.2) rejects far too often. The null knockout resamples the same suffixes
without a ban, so

    D_v = Delta_v(ban) - Delta_v(null)

has the same mean as Delta_v and no baseline in it. Under no effect the ban and the null of a
completion are exchangeable given its kept prefix, whatever the other candidates do. `swap_test`
therefore swaps them at random, **one swap a problem for all candidates together**: completions of a
problem share their prefixes, so candidates may depend on each other within a problem in any way;
problems are independent. The price is the noise of the null: D varies about as much as two
knockouts do, so that its power is that of half as many problems.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from rockstudy.errors import StudyError
from rockstudy.intervals import LEVEL
from rockstudy.knockout.census import ALPHA, CLASSES, LEAST, reliability

SWAPS = 4_999  # ours: Monte Carlo error of a p-value near 0.05 about 0.003
HALVES = 200  # ours: random halves of the problems
STATISTICS = ("mean", "sign", "strong", "pillars")


def swap_test(
    differences: Sequence[np.ndarray], rng: np.random.Generator, swaps: int = SWAPS
) -> pd.DataFrame:
    """Randomisation test of no effect, by swapping bans with nulls.

    `differences` has D of every candidate and problem of each benchmark, float64 (candidates,
    problems); swaps of benchmarks are independent.

    Returns
    -------
    DataFrame
        A row per statistic with ``observed``, ``expected, lo, hi`` (mean and 95% range under
        swaps) and ``p`` (two-sided, twice the smaller tail):

        ``mean``     mean D of the candidates
        ``sign``     candidates with D < 0 minus those with D > 0
        ``strong``   candidates with D <= -0.01 whose z is below -1.96, minus the mirror image
        ``pillars``  the first of these two counts

    `StudyError`: no candidates.
    """
    if not sum(len(one) for one in differences):
        raise StudyError("candidates: a test needs at least one; got none")
    total = np.zeros((swaps + 1, len(STATISTICS)))
    for one in differences:
        signs = rng.choice(np.array([-1.0, 1.0]), (swaps + 1, one.shape[1]))
        signs[0] = 1  # as observed
        total += _statistics(signs @ one.T / one.shape[1], one)
    total[:, 0] /= sum(len(one) for one in differences)
    total = total.round(12)  # sums in another order are equal
    tails = [
        (op(total[1:], total[0]).sum(0) + 1) / (swaps + 1)
        for op in (np.less_equal, np.greater_equal)
    ]
    lo, hi = np.quantile(total[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    columns = {"statistic": STATISTICS, "observed": total[0], "expected": total[1:].mean(0)}
    p = np.minimum(1, 2 * np.minimum(*tails))
    return pd.DataFrame(columns | {"lo": lo, "hi": hi, "p": p})


def _statistics(means: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """The `STATISTICS` of means (draws, candidates); the mean as a sum."""
    means = means.round(12)  # differences that cancel are 0
    spread = np.sqrt((difference**2).sum(1)) / difference.shape[1]  # its SE without an effect
    size = stats.norm.ppf(1 - ALPHA / 2) * spread
    pillars = ((means <= -LEAST) & (means < -size)).sum(1)
    blocks = ((means >= LEAST) & (means > size)).sum(1)
    signs = (means < 0).sum(1) - (means > 0).sum(1)
    return np.stack([means.sum(1), signs, pillars - blocks, pillars], axis=1)


def split_half(difference: np.ndarray, rng: np.random.Generator, halves: int = HALVES) -> float:
    """Reliability of the candidates' mean D by random halves of the problems (Spearman-Brown).

    The mean over halves of their covariance over that of their variances, r, stepped up to all
    problems as 2r / (1 + r). Cut off at 0; NaN where nothing varies.
    """
    n = difference.shape[1] // 2
    order = rng.permuted(np.tile(np.arange(difference.shape[1]), (halves, 1)), axis=1)
    weights = np.zeros((2, halves, difference.shape[1]))
    for side in (0, 1):
        np.put_along_axis(weights[side], order[:, side * n : (side + 1) * n], 1 / n, axis=1)
    first, second = (w @ difference.T for w in weights)  # (halves, candidates)
    first, second = (m - m.mean(1, keepdims=True) for m in (first, second))
    spread = ((first**2).mean() + (second**2).mean()) / 2
    if not spread:
        return float("nan")
    r = max(0.0, float((first * second).mean() / spread))
    return 2 * r / (1 + r)


def standard_errors(difference: np.ndarray) -> np.ndarray:
    """Standard error of each candidate's mean over problems."""
    return difference.std(1, ddof=1) / np.sqrt(difference.shape[1])


def reliabilities(difference: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """`census.reliability` of D, and the same by `split_half`."""
    mean, se = difference.mean(1), standard_errors(difference)
    return {"reliability": reliability(mean, se), "split_half": split_half(difference, rng)}


def agreement_test(classes: pd.DataFrame) -> dict[str, float]:
    """Pillars of both of two benchmarks against independence.

    `classes` has ``benchmark, target, class``. Returns the number of ``candidates``, of pillars on
    the ``first``, the ``second`` and ``both``, the number ``expected`` on both if the benchmarks
    were independent, and ``p`` of Fisher's exact test, two-sided.
    """
    wide = classes.pivot(index="target", columns="benchmark", values="class") == CLASSES[0]
    one, two = (wide[name].to_numpy() for name in list(dict.fromkeys(classes.benchmark))[:2])
    counts = [[(one & two).sum(), (one & ~two).sum()], [(~one & two).sum(), (~one & ~two).sum()]]
    sizes = {"first": int(one.sum()), "second": int(two.sum()), "both": int((one & two).sum())}
    expected = one.sum() * two.sum() / len(wide)
    p = float(stats.fisher_exact(counts).pvalue)
    return {"candidates": len(wide)} | sizes | {"expected": float(expected), "p": p}
