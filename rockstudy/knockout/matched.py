"""Rocks against matched controls: types as frequent that are no rocks, knocked out as they are.

Every frequent type is needed for something. That banning a rock costs nothing says that rocks are
redundant only if banning a type that is as frequent costs more. The difference of a pair on a
problem, Delta of the rock minus Delta of its control, varies over pairs and over problems, and
both are samples: of the types that could be rocks, and of the problems. The interval of its mean is
that of a two-way random-effects model,

    d_ki = mu + pair_k + problem_i + e_ki,      var(mean) = (MS_pair + MS_problem - MS_e) / (K P),

with Satterthwaite's degrees of freedom. A bootstrap that resamples both factors would count the
noise of the cells three times (Owen 2007). A component that comes out negative counts as 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from rockstudy.errors import StudyError
from rockstudy.intervals import LEVEL
from rockstudy.knockout.census import CLASSES


def two_way_mean(cells: np.ndarray, level: float = LEVEL) -> dict[str, Any]:
    """Mean of (pairs, problems) with its two-way interval: ``value, lo, hi, unit, n``.

    `StudyError`: fewer than two pairs or problems.
    """
    k, p = cells.shape
    if min(k, p) < 2:
        raise StudyError(f"pairs, problems: must be at least 2 of each; got {k} and {p}")
    mean, rows, columns = cells.mean(), cells.mean(1), cells.mean(0)
    residual = cells - rows[:, None] - columns + mean
    ms = np.array([p * rows.var(ddof=1), k * columns.var(ddof=1), 0.0])
    degrees = np.array([k - 1, p - 1, (k - 1) * (p - 1)])
    ms[2] = (residual**2).sum() / degrees[2]
    total, freedom = ms[0] + ms[1] - ms[2], np.inf
    if total >= ms.max():
        freedom = total**2 / max((ms**2 / degrees).sum(), 1e-300)
    else:
        total, freedom = ms.max(), degrees[ms.argmax()]
    half = stats.t.ppf((1 + level) / 2, freedom) * np.sqrt(total / cells.size) if total else 0.0
    ends = {"value": float(mean), "lo": float(mean - half), "hi": float(mean + half)}
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
