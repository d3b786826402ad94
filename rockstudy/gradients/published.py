"""Readings of early against late losses that need a point for each type only (figure 3c).

The paper's figure holds the mean KL of each type at both checkpoints, so its points and ours are
read by the same functions. Intervals resample types, because the figure has nothing else.

A type whose early mean is high by chance has a lower one late. How much of a group's fall this
explains, the random types tell: Galton's regression line of their late on their early means,
taken at the early means of the high-KL types. The paper's random types all lie below its high-KL
ones, so there the line is extrapolated.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.random import Generator
from scipy import stats

from rockstudy import intervals
from rockstudy.claims import paper

EDGES = (0.1, 0.3, 1.0)  # ours: nats; the highest has 4 of the paper's 150 random types
_BOOT = 2_000  # ours: end points to about 2% of the width


def figure_types() -> pd.DataFrame:
    """The paper's types in figure 3c: ``group, early, late`` (mean KL in nats)."""
    points = paper.points("figure3c").replace({"group": {"high_kl": "high-KL"}})
    return points.rename(columns={"mean_kl_early": "early", "mean_kl_late": "late"})


def changes(types: pd.DataFrame, rng: Generator) -> pd.DataFrame:
    """Change of each group's median from early to late; `types` has ``group, early, late``.

    Returns ``group, n, early, late`` (medians), ``relative`` (late / early - 1 of the medians) with
    ``relative_lo, relative_hi``, ``n_fall`` (types) and ``wilcoxon_p`` (two-sided).
    """
    rows = []
    for group, some in types.groupby("group", sort=False):
        pairs = some[["early", "late"]].dropna().to_numpy()
        relative = _relative(pairs[None])[0]
        lo, hi = np.quantile(_relative(_resampled(pairs, rng)), [0.025, 0.975])
        difference = pairs[:, 1] - pairs[:, 0]
        p = float(stats.wilcoxon(difference).pvalue) if difference.any() else float("nan")
        row = {"group": group, "n": len(pairs), "relative": relative}
        row |= dict(zip(("early", "late"), np.median(pairs, axis=0), strict=True))
        row |= {"relative_lo": lo, "relative_hi": hi}
        rows.append(row | {"n_fall": int((difference < 0).sum()), "wilcoxon_p": p})
    return pd.DataFrame(rows)


def by_early(types: pd.DataFrame) -> pd.DataFrame:
    """The random types by their early mean: ``early_from, n, early, late, relative`` of medians.

    Types that are alike rise where they start low and fall where they start high: regression to
    the mean, without any choice of ours.
    """
    random = types[types.group == "random"]
    bins = np.searchsorted(EDGES, random.early, side="right")
    table = random.assign(early_from=np.array((0.0, *EDGES))[bins]).groupby("early_from")
    medians = table[["early", "late"]].median().assign(n=table.size())
    return medians.assign(relative=medians.late / medians.early - 1).reset_index()


def by_selection(types: pd.DataFrame, rng: Generator) -> dict[str, float]:
    """Relative change of the high-KL types' median that the random types' line predicts.

    Returns ``observed, expected`` and ``beyond`` (observed minus expected), each with ``_lo, _hi``;
    ``n_random``, and ``n_overlap``, the random types in the high-KL types' range of early means.
    """
    random, high = (
        types.loc[types.group == name, ["early", "late"]].dropna().to_numpy()
        for name in ("random", "high-KL")
    )
    some, chosen = (np.concatenate([one[None], _resampled(one, rng)]) for one in (random, high))
    x, y = some[..., 0], some[..., 1]
    dx = x - x.mean(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = (dx * y).sum(1) / (dx**2).sum(1)
    line = y.mean(1) + slope * (np.median(chosen[..., 0], axis=1) - x.mean(1))
    expected = line / np.median(chosen[..., 0], axis=1) - 1
    found = {"observed": _relative(chosen), "expected": expected}
    found["beyond"] = found["observed"] - expected
    row: dict[str, float] = {}
    for name, (value, *drawn) in found.items():
        lo, hi = intervals.ends(np.array(drawn))
        row |= {name: value, f"{name}_lo": lo, f"{name}_hi": hi}
    overlap = int((random[:, 0] >= high[:, 0].min()).sum())
    return row | {"n_random": len(random), "n_overlap": overlap}


def _resampled(pairs: np.ndarray, rng: Generator) -> np.ndarray:
    """Bootstrap samples (B, n, 2) of types (n, 2)."""
    return pairs[rng.integers(len(pairs), size=(_BOOT, len(pairs)))]


def _relative(pairs: np.ndarray) -> np.ndarray:
    """Median late over median early, minus 1, of samples (B, n, 2)."""
    early, late = np.median(pairs, axis=1).T
    return late / early - 1
