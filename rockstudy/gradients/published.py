"""Readings of early against late losses that need a point for each type only (figure 3c).

The paper's figure holds the mean KL of each type at both checkpoints, so its points and ours are
read by the same functions. Intervals resample types, because the figure has nothing else.

A type whose early mean is high by chance has a lower one late. How much of a group's fall this
explains, the random types tell: Galton's regression line of their late on their early means,
taken at the early means of the high-KL types. The paper's random types all lie below its high-KL
ones, so there the line is extrapolated.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

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


def regression_to_the_mean(types: pd.DataFrame, rng: Generator) -> pd.DataFrame:
    """What the random types tell of the high-KL types' fall; `types` has ``group, early, late``.

    Returns ``types, n, early, late, relative`` (of medians) for the random types by their early
    mean (at `EDGES`), which rise where they start low and fall where they start high, and for the
    high-KL types; then ``high-KL by the line``, with the late loss that the line gives at their
    median. The last two have ``relative_lo, relative_hi``, and the row ``beyond the line`` is their
    difference. The n of the line counts random types.
    """
    known = types.dropna(subset=["early", "late"])
    random, high = (known[known.group == name] for name in ("random", "high-KL"))
    bins = np.searchsorted(EDGES, random.early, side="right")
    names = np.array([f"random, early {name}" for name in _ranges()])
    tables = [_row(names[b], random[bins == b]) for b in np.unique(bins)]
    line, observed = _line(random, high, rng), _row("high-KL", high)
    tables.append(observed | _interval(line["observed"]))
    expected = {"types": "high-KL by the line", "n": len(random), "early": observed["early"]}
    expected["late"] = observed["early"] * (1 + line["expected"][0])
    tables.append(expected | _interval(line["expected"]))
    beyond = {"types": "beyond the line", "n": len(high)}
    tables.append(beyond | _interval(line["observed"] - line["expected"]))
    return pd.DataFrame(tables)


def in_words(table: pd.DataFrame) -> str:
    """A sentence on `regression_to_the_mean`: how much of the fall selection explains."""
    rows = table.set_index("types")
    fall, line, beyond = (
        rows.loc[name] for name in ("high-KL", "high-KL by the line", "beyond the line")
    )
    text = (
        f"high-KL types change by {fall.relative:+.0%}; random types of the same early loss would "
        f"by {line.relative:+.0%} [{line.relative_lo:+.0%}, {line.relative_hi:+.0%}]: "
    )
    if pd.isna(beyond.relative_lo):
        return text + "too few types for an interval"
    if beyond.relative_hi < 0:
        return text + "they fall by more than selection explains"
    if beyond.relative_lo > 0:
        return text + "they fall by less than selection explains"
    return text + "selection may explain all of it"


def _ranges() -> list[str]:
    """The ranges between `EDGES` in words."""
    middle = [f"{a:g} to {b:g}" for a, b in pairwise(EDGES)]
    return [f"below {EDGES[0]:g}", *middle, f"from {EDGES[-1]:g}"]


def _row(name: str, types: pd.DataFrame) -> dict[str, Any]:
    early, late = types.early.median(), types.late.median()
    row = {"types": str(name), "n": len(types), "early": early, "late": late}
    return row | {"relative": late / early - 1}


def _interval(drawn: np.ndarray) -> dict[str, float]:
    lo, hi = intervals.ends(drawn[1:])
    return {"relative": float(drawn[0]), "relative_lo": float(lo), "relative_hi": float(hi)}


def _line(random: pd.DataFrame, high: pd.DataFrame, rng: Generator) -> dict[str, np.ndarray]:
    """Relative change of the high-KL types, observed and by the random types' line, with draws."""
    some, chosen = (
        np.concatenate([pairs[None], _resampled(pairs, rng)])
        for pairs in (one[["early", "late"]].to_numpy() for one in (random, high))
    )
    x, y = some[..., 0], some[..., 1]
    dx = x - x.mean(1, keepdims=True)
    early = np.median(chosen[..., 0], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = (dx * y).sum(1) / (dx**2).sum(1)
    late = y.mean(1) + slope * (early - x.mean(1))
    return {"observed": _relative(chosen), "expected": late / early - 1}


def _resampled(pairs: np.ndarray, rng: Generator) -> np.ndarray:
    """Bootstrap samples (B, n, 2) of types (n, 2)."""
    return pairs[rng.integers(len(pairs), size=(_BOOT, len(pairs)))]


def _relative(pairs: np.ndarray) -> np.ndarray:
    """Median late over median early, minus 1, of samples (B, n, 2)."""
    early, late = np.median(pairs, axis=1).T
    return late / early - 1
