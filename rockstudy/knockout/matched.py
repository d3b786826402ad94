"""Rocks against matched controls: types as frequent that are no rocks, knocked out as they are.

Every frequent type is needed for something. That banning a rock costs nothing says that rocks are
redundant only if banning a type that is as frequent costs more. The difference of a pair on a
problem, Delta of the rock minus Delta of its control, varies over pairs and over problems, and
both are samples: of the types that could be rocks, and of the problems. The interval of its mean is
that of two crossed random effects (`rockstudy.intervals.two_way_error`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from rockstudy.errors import StudyError
from rockstudy.intervals import LEVEL, two_way_error
from rockstudy.knockout.census import CLASSES


def two_way_mean(cells: np.ndarray) -> dict[str, Any]:
    """Mean of (pairs, problems) with its two-way interval: ``value, lo, hi, unit, n``.

    `StudyError`: fewer than two pairs or problems.
    """
    k, p = cells.shape
    if min(k, p) < 2:
        raise StudyError(f"pairs, problems: must be at least 2 of each; got {k} and {p}")
    mean, error, degrees = map(float, two_way_error(cells))
    half = stats.t.ppf((1 + LEVEL) / 2, degrees) * error
    ends = {"value": mean, "lo": mean - half, "hi": mean + half}
    return ends | {"unit": f"problems x {k} pairs", "n": p}


def pillars(rocks: pd.Series, controls: pd.Series) -> dict[str, float]:
    """Pillars among rocks and among their controls, with two exact tests.

    Both have the class of each pair, in the same order. ``fisher`` compares the two shares,
    ``mcnemar`` the pairs in which one side alone is a pillar; both p-values are two-sided.
    """
    rock, control = (side.to_numpy() == CLASSES[0] for side in (rocks, controls))
    counts = [[int(side.sum()), int((~side).sum())] for side in (rock, control)]
    apart = int((rock != control).sum())
    mcnemar = stats.binomtest(int((rock & ~control).sum()), apart).pvalue if apart else 1.0
    shown = {"rock_pillars": counts[0][0], "control_pillars": counts[1][0], "pairs": len(rock)}
    return shown | {
        "fisher": float(stats.fisher_exact(counts).pvalue),
        "mcnemar": float(mcnemar),
    }
