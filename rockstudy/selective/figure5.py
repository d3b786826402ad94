"""What the paper's figure 5 can tell: counts of right answers, one run of each regime.

All of its points are whole numbers of problems, so a point is one sampled answer to each problem of
the three competitions and no average over runs. Which problems are right is not published, so the
regimes are compared as independent samples: Newcombe's (1998) interval of a difference, and
Fisher's exact test.
"""

from __future__ import annotations

import pandas as pd
from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from rockstudy.intervals import LEVEL

ARMS = {"baseline": "baseline", "rock_freeze": "rock-freeze", "random_windows": "random-windows"}
PAIRS = (  # as the claims compare them
    ("rock-freeze", "baseline"),
    ("random-windows", "baseline"),
    ("rock-freeze", "random-windows"),
)


def curves(points: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each regime along training with Wilson's 95% interval over problems.

    `points` has ``regime, step, correct, problems`` (`rockstudy.claims.paper.points`). Columns:
    ``arm`` (our name of the regime), ``step, correct, value, lo, hi, n``.
    """
    right, n = points.correct.to_numpy(), points.problems.to_numpy()
    lo, hi = proportion_confint(right, n, 1 - LEVEL, method="wilson")
    arm = points.regime.map(ARMS)
    table = points[["step", "correct"]].assign(arm=arm, value=right / n, lo=lo, hi=hi, n=n)
    return table[["arm", "step", "correct", "value", "lo", "hi", "n"]]


def differences(points: pd.DataFrame) -> pd.DataFrame:
    """Final accuracy of a regime minus that of another one, as independent samples.

    Columns: ``arm, against, difference`` (in problems), ``n, value, lo, hi`` (Newcombe, 95%), and
    ``p`` of Fisher's exact test, two-sided.
    """
    last = points[points.step == points.step.max()]
    final = last.assign(arm=last.regime.map(ARMS)).set_index("arm")
    rows = []
    for arm, against in PAIRS:
        (a, n), (b, m) = (final.loc[name, ["correct", "problems"]] for name in (arm, against))
        lo, hi = confint_proportions_2indep(a, n, b, m, method="newcomb", alpha=1 - LEVEL)
        row = {"arm": arm, "against": against, "difference": a - b, "n": n}
        row |= {"value": a / n - b / m, "lo": lo, "hi": hi}
        rows.append(row | {"p": stats.fisher_exact([[a, n - a], [b, m - b]]).pvalue})
    return pd.DataFrame(rows)


def differences_along(points: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of the frozen regimes minus the baseline's at every step, as independent samples.

    Columns: ``arm, step, value, lo, hi`` (Newcombe, 95%), ``n``.
    """
    rows = []
    for step, some in points[points.step > 0].groupby("step"):
        by = some.assign(arm=some.regime.map(ARMS)).set_index("arm")
        b, m = by.loc["baseline", ["correct", "problems"]]
        for arm in [name for name in by.index if name != "baseline"]:
            a, n = by.loc[arm, ["correct", "problems"]]
            lo, hi = confint_proportions_2indep(a, n, b, m, method="newcomb", alpha=1 - LEVEL)
            rows.append(
                {"arm": arm, "step": step, "value": a / n - b / m, "lo": lo, "hi": hi, "n": n}
            )
    return pd.DataFrame(rows)


def reading(differences: pd.DataFrame) -> str:
    """A line for each row of `differences`: whether the figure alone shows a difference."""
    lines = []
    for row in differences.itertuples():
        shows = "shows a difference" if row.p < 1 - LEVEL else "shows no difference"
        lines.append(
            f"{row.arm} minus {row.against}: {row.difference:+d} of {row.n} problems, "
            f"{row.value:+.3f} [{row.lo:+.3f}, {row.hi:+.3f}], p = {row.p:.2g}: {shows} by itself."
        )
    return "\n".join(lines)
