"""The authors' own order of selectors, which is not published, beside ours.

A branch of the authors' public code (``horse-race`` in ``data/paper/code.toml``) trains with
several selectors frozen and with the rocks at part of the weight. It is one training of each with
shares that are not equal, so that a difference of theirs may be one of the share. The paper has
none of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from rockstudy import intervals
from rockstudy.claims import paper

DRAWS = 10_000  # ours: of both orders
THEIRS = {  # arms of the authors' branch, and ours that are nearest
    "top-frequency": "equal-positions-frequency",
    "top-mean-kl": "equal-positions-rkl",
    "top-gradient-norm": "equal-positions-gradient-norm",
    "top-gradient-alignment": "equal-positions-gradient-alignment",
    "rocks-at-0.3": "lambda-0.3",
    "rocks-at-0.5": "lambda-0.5",
    "rocks-at-0.7": "lambda-0.7",
}


def orders(accuracy: pd.DataFrame, benchmark: str) -> pd.DataFrame:
    """The authors' arms beside ours, in the order of their accuracies.

    Columns: ``theirs, arm, their_accuracy, problems``, and of ours ``value``, the accuracy at the
    end of training on a benchmark, ``error``, the standard error over seeds and problems of its
    difference to the mean of all these arms, and ``seeds``; NaN where an arm was not trained.
    """
    grids = {}
    some = accuracy[(accuracy.benchmark == benchmark) & (accuracy.step > 0)]
    for arm in THEIRS.values():
        rows = some[(some["arm"] == arm)]
        if len(rows):
            rows = rows[rows.step == rows.step.max()]
            grids[arm] = rows.pivot(index="seed", columns="prompt_index", values="accuracy")
    seeds = sorted(set.intersection(*(set(one.index) for one in grids.values()))) if grids else []
    known = {arm: grid.loc[seeds].to_numpy() for arm, grid in grids.items() if seeds}
    common = np.mean(list(known.values()), 0) if known else np.zeros((1, 1))
    table = []
    for name, arm in THEIRS.items():
        theirs = paper.number(f"horse-race/{name}")
        row: dict[str, Any] = {"theirs": name, "arm": arm, "their_accuracy": theirs.value}
        row |= {"problems": theirs.n, "value": np.nan, "error": np.nan, "seeds": len(seeds)}
        if arm in known:
            row["value"] = known[arm].mean()
            if len(seeds) > 1:
                row["error"] = float(intervals.two_way_error(known[arm] - common)[1])
        table.append(row)
    return pd.DataFrame(table).sort_values("their_accuracy", ascending=False, ignore_index=True)


def rank_correlation(table: pd.DataFrame, rng: np.random.Generator) -> dict[str, Any]:
    """Spearman's correlation of our order with the authors', with an interval.

    `table` is that of `orders`. The interval holds 95% of the correlations of draws in which every
    arm's accuracy has its own error: ours that over seeds and problems; theirs, which is not
    published, that of as many independent problems. The keys are ``value, lo, hi, unit, n``; empty
    with fewer than three arms, or where all of them are alike.
    """
    known = table.dropna(subset=["value", "error"])
    if len(known) < 3:
        return {}
    theirs, ours = known.their_accuracy.to_numpy(), known.value.to_numpy()
    spread = np.sqrt(theirs * (1 - theirs) / known.problems.to_numpy())
    both = [
        rng.normal(mean, sd, (DRAWS, len(known)))
        for mean, sd in ((theirs, spread), (ours, known.error.to_numpy()))
    ]
    ranks = [stats.rankdata(one, axis=1) for one in both]
    drawn = _pearson(*ranks)
    lo, hi = np.quantile(drawn, [(1 - intervals.LEVEL) / 2, (1 + intervals.LEVEL) / 2])
    value = float(stats.spearmanr(theirs, ours).statistic)
    if np.isnan(value):
        return {}
    ends = {"lo": min(float(lo), value), "hi": max(float(hi), value)}
    return {"value": value} | ends | {"unit": "arms, errors drawn", "n": len(known)}


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Correlation of the rows of two arrays (B, N)."""
    x, y = (one - one.mean(1, keepdims=True) for one in (x, y))
    return (x * y).sum(1) / np.sqrt((x**2).sum(1) * (y**2).sum(1))
