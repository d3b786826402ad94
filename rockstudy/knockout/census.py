"""From differences per problem to a census of pillars and stumbling blocks (paper 3, appendix D).

For a candidate v on a benchmark, Delta(v) = accuracy without v minus accuracy with it, the mean
over problems of the paired difference. A candidate is a

    Strong Pillar            min over levels (token, window) of Delta <= -0.01, and a paired
                             bootstrap over problems rejects Delta = 0 for the level that has it
    Strong Stumbling Block   the mirror image
    Neutral                  otherwise

How this can mislead. With 200 candidates and alpha = 0.05 about 10 false rejections are expected
where nothing has an effect: `multiplicity` counts those that survive a correction. Taking the
better of two levels raises the rate further. All candidates share one baseline, so that tests of
several of them are not independent: `calibrated` takes it out. A null result needs its size:
`reach` has the most that a candidate could change and what this many problems and rollouts would
find, and `reliability` is the share of the spread over candidates that is not noise, which bounds
every correlation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from rockstudy.errors import StudyError
from rockstudy.intervals import LEVEL, N_BOOT, resample

LEAST = 0.01  # paper 3: a Strong effect is at least a percentage point
ALPHA = 0.05  # paper 3
SPEARMAN_DRAWS = 2_000  # ours: each draw ranks anew, so fewer than the N_BOOT of a mean
CORRECTIONS = (("bonferroni", ALPHA), ("holm", ALPHA), ("fdr_bh", ALPHA), ("fdr_bh", 0.20))
POWER = 0.8  # ours: the usual convention
KEYS = ["benchmark", "mode", "level", "target"]  # of a knockout
CLASSES = ("Strong Pillar", "Neutral", "Strong Stumbling Block")


def deltas(changes: pd.DataFrame, knockouts: pd.DataFrame) -> np.ndarray:
    """Delta of some knockouts on every problem: float64 (knockouts, problems).

    `changes` has ``benchmark, mode, level, target, prompt_index, change`` of what is not 0, in
    completions; `knockouts` has a row for each knockout, all of as many problems: the same keys,
    ``n_problems`` and ``samples``.
    """
    (n_problems,) = knockouts.n_problems.unique()
    place = pd.MultiIndex.from_frame(knockouts[KEYS]).get_indexer(
        pd.MultiIndex.from_frame(changes[KEYS])
    )
    known = place >= 0
    delta = np.zeros((len(knockouts), n_problems))
    delta[place[known], changes.prompt_index[known]] = changes.change[known]
    return delta / knockouts.samples.to_numpy()[:, None]


def bootstrap(delta: np.ndarray, rng: np.random.Generator, n_boot: int = N_BOOT) -> pd.DataFrame:
    """Delta of every candidate with its interval and p-value, problems resampled, paired.

    `delta` is float64 (candidates, problems), with rollouts averaged within a problem.

    A row per candidate: ``delta, se, lo, hi, p``. The p-value is two-sided and at most 1,
    2 min(#(Delta* <= 0) + 1, #(Delta* >= 0) + 1) / (n_boot + 1); it is 1 where nothing changes.

    `StudyError`: fewer than 2 problems, or differences that are not finite.
    """
    n_problems, undefined = delta.shape[1], int((~np.isfinite(delta)).sum())
    if n_problems < 2 or undefined:
        raise StudyError(
            f"delta: must be finite over at least 2 problems; got {n_problems} problems, "
            f"{undefined} values not finite"
        )
    drawn = resample(lambda w: (w @ delta.T) / n_problems, n_problems, rng, n_boot)  # (B, C)
    drawn = np.round(drawn, 12)  # so that sums that cancel are 0
    low, high = (drawn <= 0).sum(0) + 1, (drawn >= 0).sum(0) + 1
    lo, hi = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    se = delta.std(1, ddof=1) / np.sqrt(n_problems)
    p = np.minimum(2 * np.minimum(low, high) / (n_boot + 1), 1.0)
    return pd.DataFrame({"delta": delta.mean(1), "se": se, "lo": lo, "hi": hi, "p": p})


def exact_p(change: np.ndarray) -> np.ndarray:
    """Exact two-sided p-value of no effect for each knockout, from the problems that it changes.

    `change` is int (knockouts, problems): right completions with the knockout minus without. Given
    the sizes, the signs of a problem's change are a coin's: p = P(|sum| >= |observed sum|), by
    convolution of binomials. With one completion a problem this is the exact McNemar test.
    """
    return np.array([_sign_flip(row[row != 0]) for row in change])


def _sign_flip(changes: np.ndarray) -> float:
    probability = np.ones(1)  # of the sums from -most to most
    for size, n in zip(*np.unique(np.abs(changes), return_counts=True), strict=True):
        one = np.zeros(2 * size * n + 1)
        one[:: 2 * size] = stats.binom.pmf(np.arange(n + 1), n, 0.5)
        probability = np.convolve(probability, one)
    most = len(probability) // 2
    far = np.abs(np.arange(-most, most + 1)) >= abs(int(changes.sum()))
    return float(min(1.0, probability[far].sum()))


def reach(screen: pd.DataFrame) -> pd.DataFrame:
    """What a knockout could change, and what this screen would find.

    `screen` has ``holding, holding_correct`` (completions of the baseline with a banned id, and the
    right ones among them), ``n_problems, samples, se``. Columns, in its order: ``reach_down,
    reach_up``, the most that accuracy can fall (right completions that hold the token) and rise;
    ``detectable``, `detectable` at 80% power, and at least the share of the fewest completions that
    the exact test can reject with; ``able``, whether it could be Strong at all (the bootstrap
    rejects where a draw without any of the changed problems is rare); ``testable``, whether it
    reaches what is detectable.
    """
    n = screen.n_problems * screen.samples
    down, up = screen.holding_correct / n, (screen.holding - screen.holding_correct) / n
    least = least_detectable(screen)
    most = np.maximum(down, up)
    missed = 1 - np.minimum(most * screen.samples, 1)  # problems that cannot change
    return pd.DataFrame(
        {
            "reach_down": down,
            "reach_up": up,
            "detectable": least,
            "able": (most >= LEAST) & (2 * missed**screen.n_problems < ALPHA),
            "testable": most >= np.maximum(least, LEAST),
        }
    )


def least_detectable(screen: pd.DataFrame, alpha: float = ALPHA) -> pd.Series:
    """`detectable`, and at least what the exact test needs.

    It rejects from m problems on that all change the same way, with 2 / 2^m < alpha: 6 at 0.05.
    """
    fewest = np.floor(np.log2(2 / alpha)) + 1
    return np.maximum(detectable(screen.se, alpha), fewest / (screen.n_problems * screen.samples))


def census(screen: pd.DataFrame) -> pd.DataFrame:
    """Classify every candidate on every benchmark by its knockouts at token and window level.

    `screen` has a row per benchmark and knockout: ``benchmark, level, target, delta, p``; those of
    controls, which are no candidates, are left out. The result has ``benchmark, target, class``,
    and ``delta, p, level`` of the level that decided it; of a neutral one, of that with the largest
    |Delta|.
    """
    rows, candidates = [], screen[screen.level != "control"]
    for (benchmark, target), group in candidates.groupby(["benchmark", "target"], sort=False):
        lowest, highest = group.loc[group.delta.idxmin()], group.loc[group.delta.idxmax()]
        kind, level = CLASSES[1], group.loc[group.delta.abs().idxmax()]
        if lowest.delta <= -LEAST and lowest.p < ALPHA:
            kind, level = CLASSES[0], lowest
        elif highest.delta >= LEAST and highest.p < ALPHA:
            kind, level = CLASSES[2], highest
        rows.append((benchmark, target, kind, *level[["delta", "p", "level"]]))
    return pd.DataFrame(rows, columns=["benchmark", "target", "class", "delta", "p", "level"])


def multiplicity(p: Sequence[float] | np.ndarray) -> pd.DataFrame:
    """Rejections that are left after correction: ``method, level, rejected, smallest``.

    Bonferroni, Holm and Benjamini-Hochberg through statsmodels, at `ALPHA` and at q = 0.20 (paper
    appendix D.2); ``expected_false`` is `ALPHA` times the number of tests, were nothing to have an
    effect; ``smallest`` the smallest adjusted p-value.
    """
    p = np.asarray(p, np.float64)
    rows = [("none", ALPHA, (p < ALPHA).sum(), p.min())]
    for method, level in CORRECTIONS:
        rejected, adjusted, *_ = multipletests(p, level, method)
        rows.append((method, level, rejected.sum(), adjusted.min()))
    table = pd.DataFrame(rows, columns=["method", "level", "rejected", "smallest"])
    return table.assign(expected_false=ALPHA * len(p), tests=len(p))


def sign_test(classes: Sequence[str]) -> float:
    """P-value of pillars against stumbling blocks as the paper has it; 1 without either.

    Exact, two-sided, and **not valid**: candidates share their baseline (`calibrated.swap_test`).
    """
    pillars, n = (sum(c in kinds for c in classes) for kinds in (CLASSES[:1], CLASSES[::2]))
    return float(stats.binomtest(pillars, n).pvalue) if n else 1.0


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """Candidates by class on the first and on the second benchmark: ``first, second, count``."""
    wide = table.pivot(index="target", columns="benchmark", values="class")
    first, second = list(dict.fromkeys(table.benchmark))[:2]
    counts = wide.groupby([first, second]).size()
    rows = [(a, b, int(counts.get((a, b), 0))) for a in CLASSES for b in CLASSES]
    return pd.DataFrame(rows, columns=["first", "second", "count"])


def predictors(table: pd.DataFrame, names: Sequence[str], rng: np.random.Generator) -> pd.DataFrame:
    """Correlation of Delta with properties of token types.

    `table` has ``delta`` and the properties `names`, a row per candidate. The result has
    ``predictor, r, p, lo, hi`` (Pearson, Fisher's interval), ``rho, rho_p, rho_lo, rho_hi``
    (Spearman, candidates resampled), ``n``. NaN where a property or Delta is constant.
    """
    rows = []
    for name in names:
        some = table[["delta", name]].dropna()
        numbers = (np.nan,) * 8
        if len(some) >= 4 and some.nunique().min() >= 2:
            x, y = some[name].to_numpy(np.float64), some.delta.to_numpy(np.float64)
            pearson = stats.pearsonr(x, y)
            drawn = _spearman_draws(x, y, rng)
            ends = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            interval = pearson.confidence_interval(LEVEL)
            numbers = (*pearson, *interval, *stats.spearmanr(x, y), *ends)
        rows.append((name, len(some), *numbers))
    columns = ["predictor", "n", "r", "p", "lo", "hi", "rho", "rho_p", "rho_lo", "rho_hi"]
    return pd.DataFrame(rows, columns=columns)


def _spearman_draws(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Spearman's rho of resampled pairs, ranks anew in every draw."""
    draws = rng.integers(len(x), size=(SPEARMAN_DRAWS, len(x)))
    a, b = (stats.rankdata(v[draws], axis=1) for v in (x, y))
    a, b = (r - r.mean(1, keepdims=True) for r in (a, b))
    norm = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    with np.errstate(invalid="ignore"):
        return (a * b).sum(1) / norm


def detectable(se: Any, alpha: float = ALPHA) -> Any:
    """Smallest |Delta| that a two-sided test finds with `POWER`: (z_alpha/2 + z_power) SE."""
    return (stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(POWER)) * se


def reliability(delta: np.ndarray, se: np.ndarray) -> float:
    """Share of the spread of Delta over candidates that is not sampling noise, from 0 to 1.

    1 - mean(SE^2) / var(Delta), cut off at 0. The correlation of Delta with anything is at most its
    square root (attenuation): with reliability 0.04 a perfect predictor would show r = 0.2.
    """
    spread = float(np.var(delta, ddof=1))
    return max(0.0, 1 - float(np.mean(np.square(se))) / spread) if spread > 0 else 0.0
