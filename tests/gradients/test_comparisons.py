"""Comparisons of groups of types: effect sizes, equal counts, errors, the largest of many."""

import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from rockstudy.gradients import comparisons
from rockstudy.gradients.type_gradients import half_samples


def test_the_effect_size_is_that_of_the_mann_whitney_statistic():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, size=40), rng.normal(size=60)
    effect = comparisons.rank_biserial(a, b, np.random.default_rng(1))
    u = scipy.stats.mannwhitneyu(a, b).statistic
    assert effect["rank_biserial"] == pytest.approx(2 * u / (40 * 60) - 1)
    exact = scipy.stats.bootstrap(
        (a, b),
        lambda x, y, axis: np.sign(x[..., :, None] - y[..., None, :]).mean((-1, -2)),
        n_resamples=2_000, method="percentile", rng=np.random.default_rng(2), vectorized=True,
    ).confidence_interval  # fmt: skip
    assert (effect["lo"], effect["hi"]) == pytest.approx(exact, abs=0.03)
    values = {"rock": a, "random": b, "control": b + 1}
    table = comparisons.effects(values, np.random.default_rng(1)).set_index("group")
    assert table.loc["random", "rank_biserial"] == pytest.approx(effect["rank_biserial"])
    assert table.loc["random", "mann_whitney_p"] == scipy.stats.mannwhitneyu(a, b).pvalue
    alone = comparisons.rank_biserial(a[:1], np.append(b, np.nan), rng)
    assert np.isnan([alone[name] for name in ("rank_biserial", "lo", "mann_whitney_p")]).all()
    assert alone["n"] == 61


def test_samples_that_do_not_overlap_have_the_interval_of_the_smaller_one():
    high, low = np.arange(10.0) + 100, np.arange(20.0)
    effect = comparisons.rank_biserial(high, low, np.random.default_rng(0))
    least = scipy.stats.beta.ppf(0.025, 10, 1)  # 10 of 10 pairs
    ends = (effect["rank_biserial"], effect["lo"], effect["hi"])
    assert ends == pytest.approx((1, 2 * least - 1, 1))
    other = comparisons.rank_biserial(low, high, np.random.default_rng(0))
    assert (other["lo"], other["hi"]) == (-1, -effect["lo"])


def test_the_error_from_half_samples_is_that_of_a_mean():
    rng = np.random.default_rng(3)
    folds = rng.normal(size=20)  # one value a fold; the statistic is their mean
    keep = half_samples(20, 4_000, rng)
    halves = (keep @ folds) / 10
    types = pd.DataFrame({"token_id": [7], "x": [folds.mean()]})
    table = comparisons.half_sample_medians(
        types, {"x": halves[:, None]}, {"one": np.array([7])}, ["x"]
    )
    half = 1.96 * folds.std(ddof=1) / np.sqrt(20)
    assert table["median"][0] == pytest.approx(folds.mean())
    assert table.hi[0] - table["median"][0] == pytest.approx(half, rel=0.05)


def test_differences_of_medians_have_the_error_of_both_groups():
    rng = np.random.default_rng(3)
    types = pd.DataFrame({"token_id": [1, 2, 3], "x": [5.0, 2.0, 1.0]})
    halves = rng.normal(size=(4_000, 3)) * [0.3, 0.4, 0.1] + types.x.to_numpy()
    ids = {"rock": np.array([1]), "high-KL": np.array([2]), "random": np.array([3])}
    table = comparisons.half_sample_medians(types, {"x": halves}, ids, ["x"]).set_index("group")
    row = table.loc["rock - high-KL"]
    assert row["median"] == 3 and row.hi - 3 == pytest.approx(1.96 * 0.5, rel=0.05)
    assert table.n["high-KL - random"] == 2


def test_a_group_without_the_statistic_has_no_median():
    types = pd.DataFrame({"token_id": [1, 2], "x": [np.nan, 1.0]})
    halves = np.array([[np.nan, 1.0], [np.nan, 2.0]])
    ids = {"rock": np.array([1]), "random": np.array([2])}
    table = comparisons.half_sample_medians(types, {"x": halves}, ids, ["x"]).set_index("group")
    assert np.isnan(table["median"]["rock"]) and table["median"]["random"] == 1


def _type(g):
    """A row of the type table for gradients (N, V)."""
    norm, squares = np.linalg.norm(g.mean(0)), (g**2).sum(1).mean()
    return {"count": len(g), "norm_logit": norm, "mean_square_logit": squares}


def test_the_norm_with_fewer_occurrences_is_that_of_all_subsets():
    g = np.random.default_rng(0).normal(0.4, size=(6, 3))
    found = comparisons.square_at(pd.DataFrame([_type(g)]), np.array([1, 2, 4, 6, 9]))[0]
    for value, n in zip(found, (1, 2, 4, 6, 6), strict=True):
        subsets = g[list(itertools.combinations(range(6), n))]
        assert value == pytest.approx((subsets.mean(1) ** 2).sum(1).mean())
    alone = comparisons.square_at(pd.DataFrame([_type(g[:1])]), np.array([1, 3]))
    assert alone == pytest.approx((g[0] ** 2).sum())


def test_at_equal_counts_groups_with_one_distribution_do_not_differ_and_plain_norms_do():
    rng = np.random.default_rng(1)
    sizes = [("rock", 300)] * 40 + [("high-KL", 4)] * 40
    types = pd.DataFrame([{"group": g, **_type(rng.normal(0.02, size=(n, 30)))} for g, n in sizes])
    table = comparisons.norms_at_counts(types, rng).set_index("counts")
    assert table.rank_biserial["own"] == -1
    assert table.lo["high-KL"] < 0 < table.hi["high-KL"]
    assert table.n_rock.tolist() == [300, 4] and (table.n_high_kl == 4).all()
    assert table.rock["high-KL"] == pytest.approx(table.high_kl["high-KL"], rel=0.05)


def test_the_order_of_groups_is_that_of_their_means_and_a_tie_is_not_an_order():
    rng = np.random.default_rng(0)
    draw = {"rock": 2.0, "high-KL": 0.0, "random": 0.0}
    values = {name: rng.normal(mean, size=100) for name, mean in draw.items()}
    table = comparisons.in_order(values, rng)
    assert table.above.tolist() == ["rock", "high-KL"]
    assert table.below.tolist() == ["high-KL", "random"]
    expected = 2 * scipy.stats.norm.cdf(2 / np.sqrt(2)) - 1  # P(X > Y) of two normals
    assert table.rank_biserial[0] == pytest.approx(expected, abs=0.1) and table.lo[0] > 0
    assert table.lo[1] < 0 < table.hi[1]


def test_the_interval_of_the_largest_of_many_holds_the_largest_truth():
    rng, inside, draws = np.random.default_rng(0), 0, 200
    truth = np.linspace(0, 0.3, 20)
    for estimate in rng.normal(truth, 0.2, size=(draws, 20)):
        found = comparisons.largest(pd.DataFrame({"x": estimate, "x_se": 0.2}), "x")
        inside += found["lo"] <= 0.3 <= found["hi"]
        assert found["value"] == estimate.max() and found["n"] == 20
    assert inside / draws >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / draws)
    assert np.isnan(comparisons.largest(pd.DataFrame({"x": [1.0], "x_se": [np.nan]}), "x")["lo"])
