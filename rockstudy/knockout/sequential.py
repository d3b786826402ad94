r"""Knockouts that stop once their verdict is decided (`knockout__stop_early`), and what that costs.

Problems come in an order that is drawn before any outcome. After each look k, a fixed share t_k of
the n problems, a knockout has the mean difference m_k and its standard error s_k on those that it
had. It stops as

    strong    |m_k| is at least `LEAST` and m_k +- s_k C / sqrt(t_k) leaves out 0
    neutral   this interval lies inside +-`LEAST`
    neutral   the full sample would reject with a probability of at most `FUTILE`, given what was
              seen, were the effect one that a test of all n problems finds with 80% power, of
              either sign

and otherwise goes on to all problems, where the interval decides. The boundary is that of O'Brien
and Fleming (1979, Biometrics 35): with B_k = sqrt(t_k) m_k / s_k, which without an effect is a
Brownian motion at t_k, P(max |B_k| >= C) = `ALPHA`. Stated errors:

    no effect         P(strong at any look) <= ALPHA, whatever the neutral rule does
    the interval      all looks hold the effect together with a probability of 1 - ALPHA: a
                      repeated confidence interval (Jennison and Turnbull 1989, JRSS B 51), valid
                      however a knockout stopped
    p                 P(max |B_k| >= |B| observed), over all planned looks; it is below ALPHA where
                      the interval leaves out 0
    neutral too soon  the third rule raises the misses of such an effect from beta to at most
                      beta / (1 - FUTILE) (Lan, Simon and Halperin 1982, Sequential Analysis 1)

They hold for a mean that is normal. Differences of right and wrong are 0 on most problems, and m_k
and s_k of the interval therefore have two problems more, which change by a half to either side in
mean square (Agresti and Min 2005, Statistics in Medicine 24): an interval has a width where nothing
has changed yet. `simulated` tells what is left of the guarantees at a size.

How this can mislead. A mean that stopped as strong is larger than its truth on average. Therefore
what compares knockouts with each other (controls, nulls, predictors) uses the problems of the first
look alone, which all of them have; no single-token ban stops before half of the problems. Windows,
which are in no comparison and often have large effects, may stop after a fifth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy import interpolate, optimize, stats

from rockstudy.config.fields import FEWEST_STOPPING as FEWEST
from rockstudy.errors import StudyError
from rockstudy.knockout.census import ALPHA, LEAST, POWER
from rockstudy.store.seeds import generator

FIRST = 0.5  # ours: share of the problems that comparisons have
EARLIER = 0.2  # ours: an earlier look at windows
LATER = (0.6, 0.7, 0.8, 0.9, 1.0)  # ours: further looks, in which batches are still large
FUTILE = 0.2  # ours: misses rise by a quarter at most
DRIFT = float(stats.norm.ppf(1 - ALPHA / 2) + stats.norm.ppf(POWER))  # what all problems find
NODES = 64  # ours: of the integral over B; errors below 1e-6 for steps of a tenth
GRID = np.linspace(0, 8, 161)  # ours: values of B with a p-value, between which it is interpolated


@dataclass(frozen=True)
class Plan:
    """The looks of a knockout: their numbers of problems, and the boundary C of B."""

    sizes: tuple[int, ...]
    bound: float

    @property
    def times(self) -> np.ndarray:
        """Shares of the problems, increasing to 1."""
        return np.array(self.sizes) / self.sizes[-1]


@lru_cache
def plan(n: int, level: str = "token") -> Plan:
    """The plan of a kind of knockout with n problems; `StudyError` for fewer than `FEWEST`."""
    if n < FEWEST:
        raise StudyError(
            f"knockout__stop_early: must be False with fewer than {FEWEST} problems; got {n}"
        )
    shares = (EARLIER,) * (level == "window") + (FIRST, *LATER)
    sizes = tuple(int(np.ceil(round(share * n, 6))) for share in shares)
    times = np.array(sizes) / n
    bound = optimize.brentq(lambda b: crossing(b, times) - ALPHA, 1.5, 3.5, xtol=1e-10)
    return Plan(sizes, float(bound))


def first_look(n: int) -> int:
    """Number of problems that all knockouts have, which comparisons use."""
    return plan(n).sizes[0]


def sizes(n: int, levels: Sequence[str]) -> list[int]:
    """Numbers of problems of all looks at some kinds of knockouts, in order."""
    return sorted({size for level in set(levels) for size in plan(n, level).sizes})


def order(seed: int, benchmark: str, n: int) -> np.ndarray:
    """The problems in the order of screening: int64 (n,), of the study's seed alone."""
    return generator(seed, f"knockout-order-{benchmark}").permutation(n)


def crossing(b: float, times: np.ndarray) -> float:
    """P(max over looks of |B(t)| >= b) of a Brownian motion, by integration from look to look.

    `times` increase to 1 (Armitage, McPherson and Rowe 1969, JRSS A 132).
    """
    if b <= 0:
        return 1.0
    x, weight = np.polynomial.legendre.leggauss(NODES)
    x, weight = b * x, b * weight
    step = np.sqrt(np.diff(times, prepend=0.0))
    left = 2 * stats.norm.sf(b / step[0])  # has crossed
    inside = stats.norm.pdf(x / step[0]) / step[0]
    for size in step[1:]:
        tails = stats.norm.sf((b - x) / size) + stats.norm.cdf((-b - x) / size)
        left += float((inside * weight) @ tails)
        inside = (inside * weight) @ (stats.norm.pdf((x - x[:, None]) / size) / size)
    return float(min(left, 1.0))


@lru_cache
def _p_values(looks: Plan) -> interpolate.PchipInterpolator:
    """Interpolated logarithm of `crossing`, exact at the boundary: p and interval agree."""
    at = np.unique([*GRID, looks.bound])
    return interpolate.PchipInterpolator(at, np.log([crossing(b, looks.times) for b in at]))


def at_look(delta: np.ndarray, looks: Plan, number: int) -> pd.DataFrame:
    """Where knockouts stand at a look: ``delta, se, lo, hi, moved`` (B), ``strong, neutral``.

    `delta` is float64 (knockouts, problems), of the problems that the look has, in their order. A
    knockout stops where it is ``strong`` or ``neutral``.
    """
    n, time = looks.sizes[number], looks.times[number]
    if delta.shape[1] != n:
        raise StudyError(f"delta: must have the {n} problems of the look; got {delta.shape[1]}")
    mean = delta.mean(1)
    centre = delta.sum(1) / (n + 2)
    error = np.sqrt((((delta**2).sum(1) + 1) / (n + 2) - centre**2) / (n + 2))
    moved, reach = np.sqrt(time) * centre / error, error * looks.bound / np.sqrt(time)
    lo, hi = centre - reach, centre + reach
    frame = {"delta": mean, "se": delta.std(1, ddof=1) / np.sqrt(n), "lo": lo, "hi": hi}
    strong = (np.abs(moved) >= looks.bound) & (np.abs(mean) >= LEAST)
    neutral = (lo > -LEAST) & (hi < LEAST)
    if time < 1:
        neutral |= _hopeless(moved, time, looks.bound)
    return pd.DataFrame(frame | {"moved": moved, "strong": strong, "neutral": neutral & ~strong})


def _hopeless(moved: np.ndarray, time: float, bound: float) -> np.ndarray:
    """Whether the full sample hardly rejects, were there a `DRIFT` of either sign."""
    left = 1 - time
    ends = moved + np.array([[DRIFT], [-DRIFT]]) * left  # expected at 1
    chance = stats.norm.sf((bound - ends) / np.sqrt(left))
    chance += stats.norm.cdf((-bound - ends) / np.sqrt(left))
    return chance.max(0) <= FUTILE


def decided(delta: np.ndarray, looks: Plan) -> pd.DataFrame:
    """Stop knockouts by their differences: float64 (knockouts, n problems), in their order.

    What lies after a knockout's stop is not looked at. A row for each: ``delta, se, lo, hi, p``,
    those of the module's text at its stop, ``n_problems`` that it had, and ``stopped``, whether
    that was before all of them.
    """
    n, frames, going = looks.sizes[-1], [], np.arange(len(delta))
    for number, size in enumerate(looks.sizes):
        found = at_look(delta[going, :size], looks, number).set_index(going)
        done = (found.strong | found.neutral).to_numpy() | (size == n)
        frames.append(found[done].assign(n_problems=size, stopped=size < n))
        going = going[~done]
    made = pd.concat(frames).sort_index()
    made["p"] = np.exp(_p_values(looks)(made.moved.abs().clip(upper=GRID[-1])))
    return made[["delta", "se", "lo", "hi", "p", "n_problems", "stopped"]]


def had(delta: np.ndarray, levels: Sequence[str]) -> pd.DataFrame:
    """`decided` for knockouts of several levels, each by its own plan, in their order."""
    n, names = delta.shape[1], np.asarray(levels)
    parts = []
    for level in dict.fromkeys(levels):
        rows = np.flatnonzero(names == level)
        parts.append(decided(delta[rows], plan(n, level)).set_index(rows))
    return pd.concat(parts).sort_index()


def going_on(delta: np.ndarray, levels: Sequence[str], size: int, n: int) -> np.ndarray:
    """Which knockouts go on after `size` of n problems, if they were going on before: bool.

    `delta` is float64 (knockouts, size).
    """
    going = np.ones(len(delta), bool)
    names = np.asarray(levels)
    for level in dict.fromkeys(levels):
        looks, rows = plan(n, level), np.flatnonzero(names == level)
        if size in looks.sizes:
            found = at_look(delta[rows], looks, looks.sizes.index(size))
            going[rows] = ~(found.strong | found.neutral)
    return going


def simulated(
    effects: Sequence[float],
    problems: Sequence[int],
    changing: Sequence[float],
    draws: int,
    rng: np.random.Generator,
    level: str = "token",
) -> pd.DataFrame:
    """Errors of the rule on knockouts whose effect is known.

    A knockout changes a share `changing` of the problems, each by one completion, from right to
    wrong more often than back, so that its Delta is minus the effect.

    Returns
    -------
    DataFrame
        A row for each size, share and effect, shares of `draws` knockouts:

        ``pillar, block``       strong by the rule, with the effect's sign and with the other
        ``pillar_all``          strong with the effect's sign on all problems without looks, by the
                                normal test, which the bootstrap of a census is close to
        ``differ``              the two verdicts differ
        ``covered``             the interval holds the effect, at the stop
        ``stopped, problems``   stopped before all; mean share of the problems, which is that of
                                the tokens where they do not depend on the order
        ``bias``                mean estimate minus the effect

    `StudyError`: an effect above the share that changes; too few problems.
    """
    rows = []
    for n in problems:
        for share in changing:
            for effect in effects:
                if not 0 <= effect <= share <= 1:
                    raise StudyError(
                        f"effects: must be from 0 to the share that changes, {share}; got {effect}"
                    )
                row = {"n": n, "changing": share, "effect": effect}
                rows.append(row | _errors(effect, n, share, draws, rng, level))
    return pd.DataFrame(rows)


def _errors(
    effect: float, n: int, share: float, draws: int, rng: np.random.Generator, level: str
) -> dict[str, float]:
    chances = [(share + effect) / 2, 1 - share, (share - effect) / 2]
    delta = rng.choice([-1.0, 0.0, 1.0], (draws, n), p=chances)
    found, whole = decided(delta, plan(n, level)), _without_looks(delta)
    by_rule, by_all = (_side(one) for one in (found, whole))
    held = (found.lo <= -effect) & (-effect <= found.hi)
    shares = {
        "pillar": by_rule == -1,
        "block": by_rule == 1,
        "pillar_all": by_all == -1,
        "differ": by_rule != by_all,
        "covered": held,
        "stopped": found.stopped,
        "problems": found.n_problems / n,
        "bias": found.delta + effect,
    }
    return {name: float(np.mean(values)) for name, values in shares.items()}


def _without_looks(delta: np.ndarray) -> pd.DataFrame:
    mean, spread = delta.mean(1), np.maximum(delta.std(1, ddof=1), 1e-12)
    z = mean / spread * np.sqrt(delta.shape[1])
    return pd.DataFrame({"delta": mean, "p": 2 * stats.norm.sf(np.abs(z))})


def _side(found: pd.DataFrame) -> np.ndarray:
    """The verdict of `census.census` on one level: -1 a pillar, 1 a stumbling block, else 0."""
    large = (found.delta.abs() >= LEAST) & (found.p < ALPHA)
    return np.where(large, np.sign(found.delta), 0).astype(int)
