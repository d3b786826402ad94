"""What the paper's own figure 4 can say: 400 integer differences of counts of right answers.

The bars are integers over 500 and 541 problems, so each is one rollout a problem. The smallest
p-value of a benchmark belongs to its lowest bar, x right answers: with z of that p-value the
standard error of the bar is x / z, and its square plus x^2 / n the number of problems on which
the two rollouts differ. Half of that variance is the knockout's own, the other half the baseline's,
which all candidates share:

    noise = sqrt(discordant / 2) / n            of one knockout, and of the shared baseline
    reliability = 1 - noise^2 / var(bars)       share of the spread that is no noise, at least 0
    z_shared = mean(bars) / noise               the common shift in units of one shared baseline
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from rockstudy.claims import paper
from rockstudy.intervals import LEVEL


def of_paper() -> pd.DataFrame:
    """`implied` of the paper's points and p-values, with ``base``, its accuracy without a ban."""
    smallest, base = (
        {name: one.value for name, one in paper.labelled(number).items()}
        for number in ("smallest-p", "base-accuracy")
    )
    table = implied(paper.points("figure4"), smallest)
    return table.assign(base=table.benchmark.map(base))


def implied(points: pd.DataFrame, smallest_p: dict[str, float]) -> pd.DataFrame:
    """Spread of the bars against the noise that the p-values imply, a row per benchmark.

    `points` has ``benchmark, delta_correct, problems``; `smallest_p` the smallest p-value of each
    benchmark. Columns: ``benchmark, candidates, below, zero, above, mean, sd, lowest`` (accuracy),
    ``discordant`` (problems), ``noise`` (accuracy), ``reliability`` with its interval over
    candidates ``reliability_lo, reliability_hi``, ``largest_r`` (its square root), ``z_shared``.
    """
    rows = []
    for name, some in points.groupby("benchmark", sort=False):
        n, counts = int(some.problems.iloc[0]), some.delta_correct.to_numpy(np.float64)
        lowest, z = counts.min(), stats.norm.isf(smallest_p[str(name)] / 2)
        discordant = (lowest / z) ** 2 + lowest**2 / n
        noise, spread = np.sqrt(discordant / 2) / n, counts.std(ddof=1) / n
        share, lo, hi = (max(0.0, 1 - noise**2 / v) for v in _variances(spread, len(counts)))
        signs = {"below": (counts < 0).sum(), "zero": (counts == 0).sum()}
        signs |= {"above": (counts > 0).sum(), "mean": counts.mean() / n, "sd": spread}
        row = {"benchmark": name, "candidates": len(counts)} | signs | {"lowest": lowest / n}
        row |= {"discordant": discordant, "noise": noise, "reliability": share}
        row |= {"reliability_lo": lo, "reliability_hi": hi, "largest_r": np.sqrt(share)}
        rows.append(row | {"z_shared": counts.mean() / n / noise})
    return pd.DataFrame(rows)


def _variances(sd: float, n: int) -> list[float]:
    """A variance with its chi-squared interval over n candidates."""
    ends = stats.chi2.ppf([(1 + LEVEL) / 2, (1 - LEVEL) / 2], n - 1)
    return [sd**2, *(sd**2 * (n - 1) / ends)]


def reading(table: pd.DataFrame) -> str:
    """Sentences on `of_paper`."""
    told = []
    for one in table.itertuples():
        most = -one.lowest / one.base
        told.append(
            f"{one.benchmark} in the paper: the bars spread by {100 * one.sd:.2f} points, and one "
            f"knockout's noise is about {100 * one.noise:.2f} (about {one.discordant:.0f} problems "
            f"differ), so that {one.reliability:.0%} [{one.reliability_lo:.0%}, "
            f"{one.reliability_hi:.0%}] of their variance is more than noise: correlations near 0 "
            f"follow from that alone. The common shift of {100 * one.mean:.2f} points is that of "
            f"one shared baseline (z = {one.z_shared:.1f}). The lowest bar is "
            f"{100 * one.lowest:.1f} points, so that no banned type can be in more than {most:.1%} "
            "of the right answers; a digit is in many more, so either digits were not banned or "
            "their bans did not act."
        )
    return "\n".join(told)
