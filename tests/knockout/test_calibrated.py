"""Tests without the shared baseline against enumeration and simulation with a known truth."""

import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from rockstudy.errors import StudyError
from rockstudy.knockout import calibrated, census

STRONG = scipy.stats.norm.ppf(0.975)


def screens(rng, n, candidates=100, problems=200, effect=0.0):
    """Bans, nulls and baselines of `n` screens: one completion a problem, each token in half.

    Every problem has a chance of its own to be solved. A ban lowers it by `effect`; candidates and
    their nulls share the baseline, and nothing else. Both are differences from it.
    """
    chance = rng.beta(0.6, 0.3, (n, 1, problems))
    base = rng.random((n, 1, problems)) < chance
    shape = (n, candidates, problems)
    holds = rng.random(shape) < 0.5
    ban = rng.random(shape, np.float32) < chance - effect
    null = rng.random(shape, np.float32) < chance
    return tuple(np.where(holds, side.astype(np.int8) - base, 0) for side in (ban, null))


def paper_sign_p(delta):
    """The paper's sign test of all candidates with a difference: binomial, as if independent."""
    means = delta.mean(-1)
    below, above = (means < 0).sum(-1), (means > 0).sum(-1)
    return np.array(
        [
            scipy.stats.binomtest(int(b), int(b + a)).pvalue
            for b, a in zip(below, above, strict=True)
        ]
    )


def swapped(differences, rng):
    """P-values of the swap test, a row per screen."""
    tests = [calibrated.swap_test([d.astype(float)], rng, 199) for d in differences]
    return pd.DataFrame([one.set_index("statistic").p for one in tests])


def test_without_an_effect_the_papers_sign_test_rejects_too_often_and_the_swap_test_does_not():
    rng, n = np.random.default_rng(0), 200
    ban, null = screens(rng, n)
    assert (paper_sign_p(ban) < 0.05).mean() > 0.35  # a shared baseline and nothing else
    rejected = (swapped(ban - null, rng) < 0.05).mean()
    most = 0.05 + 2.6 * np.sqrt(0.05 * 0.95 / n)  # 99% of the simulation
    assert (rejected <= most).all(), rejected
    assert rejected[["mean", "sign"]].min() > 0.01  # and is not conservative without need


def test_the_swap_test_finds_an_effect_that_all_candidates_have():
    rng = np.random.default_rng(1)
    ban, null = screens(rng, 40, effect=0.05)
    p = swapped(ban - null, rng)
    assert (p[["mean", "sign"]] < 0.05).mean().min() > 0.9


def test_swaps_are_those_of_enumeration():
    rng = np.random.default_rng(2)
    d = rng.integers(-1, 2, (3, 10)).astype(float)
    d[0] -= 0.4
    found = calibrated.swap_test([d], rng, 40_000).set_index("statistic")
    signs = np.array(list(itertools.product([-1, 1], repeat=10)), float)
    means = (signs @ d.T / 10).round(12)
    every = {"mean": means.mean(1), "sign": (means < 0).sum(1) - (means > 0).sum(1)}
    z = means / (np.sqrt((d**2).sum(1)) / 10)
    low, high = ((side * means <= -0.01) & (side * z < -STRONG) for side in (1, -1))
    every |= {"strong": low.sum(1) - high.sum(1), "pillars": low.sum(1)}
    for name, values in every.items():
        values, observed = values.round(12), found.observed[name]
        assert observed == pytest.approx(values[-1])  # the last one swaps nothing
        tails = (values <= round(observed, 12)).mean(), (values >= round(observed, 12)).mean()
        assert found.p[name] == pytest.approx(min(1, 2 * min(tails)), abs=0.01), name
        assert found.expected[name] == pytest.approx(values.mean(), abs=0.02)


def test_two_benchmarks_are_swapped_independently_and_added():
    rng = np.random.default_rng(3)
    d = np.ones((2, 30))
    one, both = (calibrated.swap_test(of, rng, 999).set_index("statistic") for of in ([d], [d, -d]))
    assert one.observed["sign"] == -2 and one.p["mean"] < 0.01
    assert both.observed["sign"] == 0 and both.p["sign"] == 1
    assert both.observed["pillars"] == 2 and both.observed["mean"] == 0


def test_a_screen_without_candidates_is_refused_and_one_without_changes_rejects_nothing():
    rng = np.random.default_rng(4)
    with pytest.raises(StudyError, match="candidates: a test needs at least one; got none"):
        calibrated.swap_test([np.zeros((0, 5))], rng)
    assert (calibrated.swap_test([np.zeros((3, 5))], rng, 99).p == 1).all()


@pytest.mark.parametrize("truth", [0.0, 0.5, 0.8])
def test_reliability_is_the_share_of_the_spread_that_is_an_effect(truth):
    rng, candidates, problems = np.random.default_rng(5), 400, 300
    noise = 1.0
    spread = np.sqrt(noise**2 / problems * truth / (1 - truth))
    d = rng.normal(0, noise, (candidates, problems)) + rng.normal(0, spread, (candidates, 1))
    found = calibrated.reliabilities(d, rng)
    assert found["reliability"] == pytest.approx(truth, abs=0.12)
    assert found["split_half"] == pytest.approx(truth, abs=0.12)


def test_the_shared_baseline_hides_the_reliability_of_delta_and_not_that_of_d():
    """The errors of Delta hold the baseline's noise, which does not spread candidates apart."""
    rng, candidates, problems = np.random.default_rng(6), 400, 300
    effect = rng.normal(0, 1 / np.sqrt(problems), (candidates, 1))
    ban, null = (rng.normal(0, 1, (candidates, problems)) for _ in "bn")
    base = rng.normal(0, 1, problems)
    delta = ban + effect - base
    raw = census.reliability(delta.mean(1), calibrated.standard_errors(delta))
    found = calibrated.reliabilities(ban + effect - null, rng)["reliability"]
    assert raw < 0.1  # 1/2 of the spread of Delta is an effect
    assert found == pytest.approx(1 / 3, abs=0.12)


def classes(first, second):
    rows = [("a", i, kind) for i, kind in enumerate(first)]
    rows += [("b", i, kind) for i, kind in enumerate(second)]
    named = [(b, i, {"P": "Strong Pillar", "N": "Neutral"}[k]) for b, i, k in rows]
    return pd.DataFrame(named, columns=["benchmark", "target", "class"])


def test_pillars_of_two_benchmarks_are_compared_with_independence():
    found = calibrated.agreement_test(classes("PPPPNNNN", "PPPNPNNN"))
    assert (found["first"], found["second"], found["both"]) == (4, 4, 3)
    assert found["expected"] == 2 and found["candidates"] == 8
    table = scipy.stats.contingency.crosstab([1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 1, 0, 0, 0])
    assert found["p"] == pytest.approx(scipy.stats.fisher_exact(table.count).pvalue)
