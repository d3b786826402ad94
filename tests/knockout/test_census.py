"""Bootstrap, classes, multiplicity and correlations against scipy, statsmodels and simulation."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests

from rockstudy.errors import StudyError
from rockstudy.knockout import census


def differences(rng, n_candidates, n_problems=500, samples=4, shift=0.0, share=0.3):
    """Paired differences where a share of the problems is touched: -1, 0 or 1 a rollout."""
    shape = (n_candidates, n_problems, samples)
    touched = rng.random(shape) < share
    step = rng.choice([-1, 0, 1], shape, p=[0.2 - shift / 2, 0.6, 0.2 + shift / 2])
    return (touched * step).mean(2)


def test_the_interval_and_p_value_are_those_of_scipys_bootstrap():
    delta = differences(np.random.default_rng(0), 5, 200, shift=0.1)
    table = census.bootstrap(delta, np.random.default_rng(1))
    for row, values in zip(table.itertuples(), delta, strict=True):
        exact = scipy.stats.bootstrap(
            (values,), np.mean, n_resamples=9_999, method="percentile",
            rng=np.random.default_rng(2),
        )  # fmt: skip
        assert row.delta == pytest.approx(values.mean())
        assert row.se == pytest.approx(scipy.stats.sem(values))
        assert (row.lo, row.hi) == pytest.approx(exact.confidence_interval, abs=2e-3)
        normal = 2 * scipy.stats.norm.sf(abs(values.mean() / scipy.stats.sem(values)))
        assert row.p == pytest.approx(normal, abs=0.08)  # ties at 0 make it conservative


def test_a_candidate_that_changes_nothing_is_never_rejected():
    table = census.bootstrap(np.zeros((2, 50)), np.random.default_rng(0), 500)
    assert (table.p == 1).all() and (table[["delta", "lo", "hi"]] == 0).all(axis=None)


def test_without_an_effect_the_share_of_rejections_is_nominal_and_of_strong_ones_below():
    rng = np.random.default_rng(3)
    table = census.bootstrap(differences(rng, 2_000), rng, 2_000)
    rejected = (table.p < census.ALPHA).mean()
    assert rejected == pytest.approx(0.05, abs=0.015)
    arms = table.assign(benchmark="b", target=range(2_000), level="token")
    strong = (census.census(arms)["class"] != "Neutral").mean()
    assert strong <= rejected


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(4)
    shift = 0.1
    table = census.bootstrap(differences(rng, 2_000, shift=shift), rng, 2_000)
    truth = 0.3 * shift
    covered = ((table.lo <= truth) & (truth <= table.hi)).mean()
    assert covered == pytest.approx(0.95, abs=0.015)


def test_classes_follow_the_definition_of_the_paper():
    rows = [
        ("pillar", "token", -0.02, 0.01),
        ("pillar", "window", 0.0, 1.0),
        ("by its window", "token", 0.0, 1.0),
        ("by its window", "window", -0.01, 0.04),
        ("too small", "token", -0.009, 0.001),
        ("not rejected", "token", -0.05, 0.06),
        ("stumbling", "token", 0.03, 0.001),
    ]
    arms = pd.DataFrame(rows, columns=["target", "level", "delta", "p"]).assign(benchmark="b")
    table = census.census(arms).set_index("target")
    assert table.loc["by its window", ["level", "delta"]].tolist() == ["window", -0.01]
    found = table["class"]
    assert found["pillar"] == found["by its window"] == "Strong Pillar"
    assert found["too small"] == found["not rejected"] == "Neutral"
    assert found["stumbling"] == "Strong Stumbling Block"


def test_corrections_are_those_of_statsmodels():
    p = np.random.default_rng(0).random(200) ** 3
    table = census.multiplicity(p).set_index(["method", "level"])
    for method, level in (("bonferroni", 0.05), ("fdr_bh", 0.05), ("fdr_bh", 0.20)):
        rejected, adjusted, *_ = multipletests(p, level, method)
        assert table.loc[(method, level), "rejected"] == rejected.sum()
        assert table.loc[(method, level), "smallest"] == pytest.approx(adjusted.min())
    assert table.expected_false.unique().tolist() == [10.0]


@pytest.mark.parametrize(
    ("pillars", "stumbling", "p"), [(10, 0, 0.00195), (7, 0, 0.016), (3, 0, 0.25), (6, 0, 0.031)]
)
def test_the_sign_test_gives_the_papers_p_values(pillars, stumbling, p):
    classes = ["Strong Pillar"] * pillars + ["Neutral"] * 5
    classes += ["Strong Stumbling Block"] * stumbling
    assert census.sign_test(classes) == pytest.approx(p, abs=6e-4)
    assert census.sign_test(["Neutral"]) == 1


def test_agreement_counts_pairs_of_classes():
    table = pd.DataFrame(
        {
            "benchmark": ["m", "m", "i", "i"],
            "target": [1, 2, 1, 2],
            "class": ["Strong Pillar", "Neutral", "Neutral", "Neutral"],
        }
    )
    found = census.agreement(table).set_index(["first", "second"])["count"]
    assert found["Strong Pillar", "Neutral"] == found["Neutral", "Neutral"] == 1
    assert found.sum() == 2 and len(found) == 9


def test_correlations_are_those_of_scipy_and_constants_have_none():
    rng = np.random.default_rng(5)
    table = pd.DataFrame({"delta": rng.normal(size=60), "x": rng.normal(size=60), "flat": 1.0})
    table["x"] += 0.5 * table.delta
    found = census.predictors(table, ["x", "flat"], rng).set_index("predictor")
    exact = scipy.stats.pearsonr(table.x, table.delta)
    assert found.r["x"] == pytest.approx(exact.statistic)
    assert found.p["x"] == pytest.approx(exact.pvalue)
    assert (found.lo["x"], found.hi["x"]) == pytest.approx(exact.confidence_interval(0.95))
    assert found.rho["x"] == pytest.approx(scipy.stats.spearmanr(table.x, table.delta).statistic)
    assert found.rho_lo["x"] < found.rho["x"] < found.rho_hi["x"]
    assert np.isnan(found.r["flat"])


def test_a_detectable_difference_is_found_with_the_power_that_is_promised():
    rng = np.random.default_rng(6)
    se = 0.004
    least = census.detectable(np.array([se]))[0]
    drawn = rng.normal(least, se, 20_000)
    assert (np.abs(drawn / se) > 1.959964).mean() == pytest.approx(0.8, abs=0.01)


def test_reliability_bounds_the_correlation_that_can_be_seen():
    rng = np.random.default_rng(7)
    truth = rng.normal(0, 0.01, 4_000)
    se = np.full(4_000, 0.02)
    delta = truth + rng.normal(0, se)
    found = census.reliability(delta, se)
    assert found == pytest.approx(0.01**2 / (0.01**2 + 0.02**2), abs=0.04)
    assert np.corrcoef(delta, truth)[0, 1] == pytest.approx(np.sqrt(found), abs=0.07)
    assert census.reliability(rng.normal(0, 0.02, 500) * 0.9, np.full(500, 0.02)) == 0
    assert census.reliability(np.zeros(5), np.ones(5)) == 0


@pytest.mark.parametrize("delta", [np.zeros((2, 1)), np.array([[0.0, np.nan]])])
def test_too_few_problems_or_values_that_are_not_finite_are_refused(delta):
    with pytest.raises(StudyError, match="delta: must be finite over at least 2 problems"):
        census.bootstrap(delta, np.random.default_rng(0))


@pytest.mark.parametrize("seed", range(5))
def test_with_one_completion_the_exact_test_is_mcnemars(seed):
    change = np.random.default_rng(seed).integers(-1, 2, (4, 30))
    for row, p in zip(change, census.exact_p(change), strict=True):
        below, above = (row < 0).sum(), (row > 0).sum()
        assert p == pytest.approx(scipy.stats.binomtest(int(below), int(below + above)).pvalue)


def test_with_several_completions_the_exact_test_is_scipys_permutation_test():
    change = np.random.default_rng(1).integers(-3, 4, (3, 9))
    change[0] = np.abs(change[0])
    for row, p in zip(change, census.exact_p(change), strict=True):
        exact = scipy.stats.permutation_test(
            (row, 0 * row), lambda a, b: np.sum(a - b), permutation_type="samples",
            n_resamples=np.inf,
        )  # fmt: skip
        assert p == pytest.approx(min(exact.pvalue, 1))
    assert census.exact_p(np.zeros((1, 5), int)).tolist() == [1]


def test_reach_bounds_what_a_candidate_can_be():
    screen = pd.DataFrame(
        {
            "holding": [0, 3, 40, 200],
            "holding_correct": [0, 3, 10, 100],
            "n_problems": 300,
            "samples": 1,
            "se": [0.0, 0.002, 0.01, 0.02],
        }
    )
    found = census.reach(screen)
    assert found.reach_down.tolist() == pytest.approx([0, 0.01, 1 / 30, 1 / 3])
    assert found.reach_up.tolist() == pytest.approx([0, 0, 0.1, 1 / 3])
    # three problems cannot make the bootstrap reject: a draw has none of them with 2 * 5%
    assert found.able.tolist() == [False, False, True, True]
    assert found.testable.tolist() == [False, False, True, True]
    assert found.detectable.tolist() == pytest.approx([0.02, 0.02, 0.028016, 0.056032], rel=1e-4)


def test_a_candidate_that_is_not_able_is_never_strong():
    change = np.zeros((1, 300))
    change[0, :3] = -1  # the most that three right completions can lose
    table = census.bootstrap(change, np.random.default_rng(0))
    assert table.delta[0] == -0.01 and table.p[0] > census.ALPHA
    change[0, :4] = -1
    assert census.bootstrap(change, np.random.default_rng(0)).p[0] < census.ALPHA
