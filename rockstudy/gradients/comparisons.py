"""Comparisons of groups of token types by their gradients (paper 2.6, figure 3a, b).

The unit is a token type. The effect size is the rank-biserial correlation: the probability that a
type of one group has the larger value, minus the opposite. Intervals of medians come from
half-samples of the prompts instead, because the types of a group are then fixed.

Rare types have large norms because a mean of few occurrences holds more noise. Of two answers to
this bias, one is the unbiased square of `type_gradients`, the other is here: the norm that a rock's
mean gradient would have with as few occurrences as a high-KL type has. Over all samples of n of N
occurrences without replacement (Cochran, Sampling Techniques, theorem 2.2),

    E |g_bar_n|^2 = |g_bar|^2 + (mean |g_i|^2 - |g_bar|^2) / n x (N - n) / (N - 1)

exactly, so nothing needs to be drawn. Its root is the root mean square of the norms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.random import Generator
from scipy import stats

Arrays = Mapping[str, np.ndarray]
ORDER = ("rock", "high-KL", "random")  # paper 2.6, figure 3b: by falling cosine
_BOOT = 2_000  # ours: end points to about 2% of the width


def rank_biserial(first: np.ndarray, second: np.ndarray, rng: Generator) -> dict[str, float]:
    """P(first > second) minus P(first < second) for one value drawn from each.

    The effect size of the Mann-Whitney test, 2 U / (n m) - 1. The interval resamples the values of
    both samples (token types). Where the samples do not overlap that would have no width: then it
    is the exact one (Clopper and Pearson) of as many pairs as the smaller sample has values. Values
    that are not finite are left out.

    Returns ``rank_biserial, lo, hi, mann_whitney_p`` (two-sided), ``n``; NaN where a sample has
    fewer than 2 values.
    """
    a, b = (np.asarray(v)[np.isfinite(v)] for v in (first, second))
    effect = _dominance(np.sign(a[:, None] - b), rng)
    p = float(stats.mannwhitneyu(a, b).pvalue) if np.isfinite(effect["lo"]) else float("nan")
    return effect | {"mann_whitney_p": p, "n": len(a) + len(b)}


def _dominance(signs: np.ndarray, rng: Generator) -> dict[str, float]:
    """Mean of the signs (n, m) of all pairs, with an interval that resamples rows and columns."""
    if min(signs.shape) < 2:
        return dict.fromkeys(("rank_biserial", "lo", "hi"), float("nan"))
    rows, columns = (rng.multinomial(n, np.full(n, 1 / n), _BOOT) for n in signs.shape)
    drawn = np.einsum("bn,bn->b", rows, columns @ signs.T) / signs.size
    value, (lo, hi) = float(signs.mean()), np.quantile(drawn, [0.025, 0.975])
    if abs(value) == 1:
        n = min(signs.shape)
        end = 2 * stats.binomtest(n, n).proportion_ci().low - 1
        lo, hi = (end, 1.0) if value > 0 else (-1.0, -end)
    return {"rank_biserial": value, "lo": float(lo), "hi": float(hi)}


def effects(values: Arrays, rng: Generator) -> pd.DataFrame:
    """Compare the rocks with each other group: ``group``, and the columns of `rank_biserial`."""
    return pd.DataFrame(
        {"group": name} | rank_biserial(values["rock"], other, rng)
        for name, other in values.items()
        if name != "rock"
    )


def in_order(values: Arrays, rng: Generator) -> pd.DataFrame:
    """Compare each group of `ORDER` with the next: ``above, below`` and `rank_biserial`.

    The order holds where both effects are positive, so both intervals must lie above 0 (an
    intersection-union test, which needs no correction for two tests).
    """
    return pd.DataFrame(
        {"above": a, "below": b} | rank_biserial(values[a], values[b], rng)
        for a, b in pairwise(ORDER)
    )


def square_at(types: pd.DataFrame, counts: np.ndarray) -> np.ndarray:
    """Expected |g_bar|^2 of every type with each of some counts (types, counts), logit space.

    `types` has ``count, norm_logit, mean_square_logit``. Beyond a type's count it has them all.
    """
    every = types["count"].to_numpy(np.float64)[:, None]
    n = np.minimum(np.asarray(counts, np.float64), every)
    whole = types.norm_logit.to_numpy()[:, None] ** 2
    variance = types.mean_square_logit.to_numpy()[:, None] - whole
    return whole + variance / n * (every - n) / np.maximum(every - 1, 1)


def norms_at_counts(types: pd.DataFrame, rng: Generator) -> pd.DataFrame:
    """Norms of rocks and high-KL types, as they are and with rocks at the high-KL types' counts.

    `types` has a row per type with ``group`` and the columns of `square_at`.

    Returns a row for ``counts`` (``own, high-KL``): medians over types of the count, ``n_rock,
    n_high_kl``, and the norm, ``rock, high_kl``; and of rocks against high-KL types `rank_biserial`
    with ``lo, hi``. At equal counts every pair is compared at the count of its high-KL type.
    """
    rocks, rare = (types[types.group == name] for name in ("rock", "high-KL"))
    counts = rare["count"].to_numpy()
    plain, less = rocks.norm_logit.to_numpy(), np.sqrt(square_at(rocks, counts))
    drawn = np.minimum(counts, rocks["count"].to_numpy()[:, None])
    rows = []
    for name, norms, n in (("own", plain[:, None], rocks["count"]), ("high-KL", less, drawn)):
        row = {"counts": name, "n_rock": np.median(n), "n_high_kl": np.median(counts)}
        row |= {"rock": np.median(norms), "high_kl": rare.norm_logit.median()}
        rows.append(row | _dominance(np.sign(norms - rare.norm_logit.to_numpy()), rng))
    return pd.DataFrame(rows)


def half_sample_medians(
    types: pd.DataFrame, replicates: Arrays, chosen: Arrays, columns: Sequence[str]
) -> pd.DataFrame:
    """Medians over a group's types of gradient statistics, errors from half-samples of prompts.

    `types` and `replicates` are those of `type_gradients.TypeGradients`, on random halves of the
    folds, (R, types). `chosen` has token ids by group, `columns` the statistics.

    Returns a row per group and column: ``group, statistic, median, lo, hi, n`` (types), and then
    one for each step of `ORDER` whose groups are there, such as ``rock - high-KL``, with the
    difference of the medians. The interval is the value plus and minus 1.96 standard errors; NaN
    with fewer than two replicates, and the median is NaN where no type has the statistic.

    The spread of the replicates is that of halves, which for independent prompts is the standard
    error of the whole (delete-half jackknife, Shao and Wu 1989). Norms of halves are larger on
    average, since less noise cancels: so the interval is centred on the whole.
    """
    places = {name: types.token_id.searchsorted(ids) for name, ids in chosen.items()}
    rows = []
    for column in columns:
        values = np.vstack([types[column].to_numpy(), replicates[column]])
        by = {name: _medians(values[:, at]) for name, at in places.items()}
        size = {name: len(at) for name, at in places.items()}
        for a, b in pairwise(ORDER):
            if a in by and b in by:
                by[f"{a} - {b}"], size[f"{a} - {b}"] = by[a] - by[b], size[a] + size[b]
        for name, medians in by.items():
            halves = medians[1:][~np.isnan(medians[1:])]
            half = 1.96 * np.std(halves) if len(halves) > 1 else np.nan
            row = {"group": name, "statistic": column, "median": medians[0]}
            ends = {"lo": medians[0] - half, "hi": medians[0] + half}
            rows.append(row | ends | {"n": size[name]})
    return pd.DataFrame(rows)


def _medians(values: np.ndarray) -> np.ndarray:
    """Median of each row over what is not NaN; NaN where everything is."""
    medians = np.full(len(values), np.nan)
    some = ~np.isnan(values).all(1)
    medians[some] = np.nanmedian(values[some], axis=1)
    return medians


def largest(types: pd.DataFrame, column: str) -> dict[str, float]:
    """The largest value of some types with a 95% interval, from ``<column>`` and ``<column>_se``.

    Intervals for all types at once (Bonferroni) hold the largest true value between their largest
    lower and their largest upper end, which the choice of the largest estimate does not bias.
    Types without a standard error are left out: ``value, lo, hi, n``, NaN with none.
    """
    known = types[[column, f"{column}_se"]].dropna().to_numpy()
    if not len(known):
        return {"value": float("nan"), "lo": float("nan"), "hi": float("nan"), "n": 0}
    value, half = known[:, 0], known[:, 1] * stats.norm.isf(0.025 / len(known))
    ends = {"lo": float((value - half).max()), "hi": float((value + half).max())}
    return {"value": float(value.max())} | ends | {"n": len(known)}
