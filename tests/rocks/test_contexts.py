"""The share of similar contexts, against double loops over pairs."""

import math
from collections import Counter

import numpy as np
import pytest
from corpora import every_token, rollouts, window
from scipy import sparse, stats

from rockstudy.errors import StudyError
from rockstudy.rocks import contexts, encoders, neighbours


def by_double_loop(similarity, groups, gamma):
    """Rho from all pairs, one at a time."""
    rho = []
    for i, g in enumerate(groups):
        others = [j for j in range(len(groups)) if groups[j] == g and j != i]
        hits = sum(similarity(i, j) >= max(gamma - 1e-6, 1e-12) for j in others)
        rho.append(hits / len(others) if others else math.nan)
    return np.array(rho)


def of_windows(windows):
    """Cosine of two multisets of tokens."""
    bags = [Counter(w) for w in windows]

    def similarity(i, j):
        norms = [math.sqrt(sum(c for c in bags[k].values())) for k in (i, j)]
        return (bags[i] & bags[j]).total() / (norms[0] * norms[1]) if all(norms) else 0.0

    return similarity


def of_rows(features):
    norms = np.linalg.norm(features.astype(float), axis=1)

    def similarity(i, j):
        product = norms[i] * norms[j]
        return float(features[i].astype(float) @ features[j]) / product if product else 0.0

    return similarity


@pytest.fixture(params=["small groups", "large groups"])
def path(request, monkeypatch):
    """Both ways to count sparse pairs, on corpora small enough for a double loop."""
    if request.param == "large groups":
        monkeypatch.setattr(neighbours, "_LARGE", 3)
        monkeypatch.setattr(neighbours, "_FREQUENT", 0.3)
    else:
        monkeypatch.setattr(neighbours, "_RUN", 40)
    return request.param


@pytest.mark.parametrize("radius", [1, 3])
@pytest.mark.parametrize("gamma", [1e-7, 0.4, 0.5, 0.75, 1.0])
def test_share_of_similar_windows_equals_a_double_loop_over_multisets(
    path, radius, gamma, monkeypatch
):
    corpus = rollouts([30, 1, 2, 25, 40, 7])
    rows, columns, types = every_token(corpus)
    windows = [window(corpus, r, c, radius) for r, c in zip(rows, columns, strict=True)]
    expected = by_double_loop(of_windows(windows), types, gamma)
    bags = encoders.bag_of_ids(corpus, rows, columns, radius)
    for block in (1, 50, neighbours.BLOCK):
        monkeypatch.setattr(neighbours, "BLOCK", block)
        found = contexts.consistency(bags, types, gamma)
        np.testing.assert_allclose(found, expected, atol=0, rtol=1e-15)
    assert np.nanmax(expected) > 0  # the case is no trivial one


@pytest.mark.parametrize("most", [1, 256])
def test_weighted_and_negative_sparse_features_equal_a_double_loop(path, most, monkeypatch):
    monkeypatch.setattr(neighbours, "_MAX_FREQUENT", most)
    monkeypatch.setattr(neighbours, "BLOCK", 64)
    rng = np.random.default_rng(1)
    dense = rng.integers(-2, 4, (150, 9)) * (rng.random((150, 9)) < 0.4)
    dense[::3] = dense[0]  # many copies
    dense[5] = 0
    groups = rng.integers(0, 5, 150) * 1_000_000_007
    expected = by_double_loop(of_rows(dense), groups, 0.3)
    found = contexts.consistency(sparse.coo_array(dense), groups, 0.3)
    np.testing.assert_allclose(found, expected, rtol=1e-15)


def test_large_groups_take_the_table_and_the_sparse_correction(monkeypatch):
    """The real thresholds on groups of more than a thousand, against one whole product."""
    corpus = rollouts([1500] * 3, types=60)
    rows, columns, types = every_token(corpus)
    bags = encoders.bag_of_ids(corpus, rows, columns, 4)
    called = []
    count = neighbours._correction
    monkeypatch.setattr(neighbours, "_correction", lambda *a: called.append(len(a[1])) or count(*a))
    monkeypatch.setattr(neighbours, "BLOCK", 100_000)
    found = contexts.consistency(bags, types, 0.6)
    assert len(called) > 3
    norms = np.sqrt(np.asarray(bags.sum(1)).ravel())
    similar = (bags @ bags.T).toarray() >= 0.6 * np.outer(norms, norms) - 1e-4
    same = (types[:, None] == types) & ~np.eye(len(types), dtype=bool)
    np.testing.assert_allclose(found, (similar & same).sum(1) / same.sum(1), rtol=1e-15)


@pytest.mark.parametrize("block", [1, 70, neighbours.BLOCK])
def test_share_of_similar_dense_rows_equals_a_double_loop(block, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", block)
    rng = np.random.default_rng(2)
    features = rng.normal(size=(120, 6)).astype(np.float32)
    features[::7] = 0
    groups = rng.choice([4, -2, 70, 71, 72, 999], 120, p=[0.5, 0.3, 0.1, 0.04, 0.03, 0.03])
    groups[0] = 12345  # alone
    expected = by_double_loop(of_rows(features), groups, 0.2)
    found = contexts.consistency(features, groups, 0.2)
    np.testing.assert_allclose(found, expected, rtol=1e-15)
    assert np.isnan(found[0]) and np.isnan(found).sum() == 1


def test_dense_and_sparse_rows_give_the_same_shares(path):
    corpus = rollouts([40, 33])
    rows, columns, types = every_token(corpus)
    bags = encoders.bag_of_ids(corpus, rows, columns, 2)
    found = [contexts.consistency(x, types, 0.5) for x in (bags, bags.toarray())]
    np.testing.assert_array_equal(*found)


def test_copies_of_a_context_count_one_by_one(path):
    features = sparse.csr_matrix(np.eye(3)[[0, 0, 0, 0, 1, 2, 0]])
    groups = np.array([5, 5, 5, 5, 5, 8, 8])
    expected = [0.75] * 4 + [0.0] * 3
    assert contexts.consistency(features, groups, 1.0).tolist() == expected


@pytest.mark.parametrize("dense", [True, False])
def test_an_occurrence_alone_has_no_share_and_an_empty_window_is_similar_to_nothing(path, dense):
    features = np.array([[1, 0], [0, 0], [0, 0], [1, 0], [0, 1], [0, 0]], np.float32)
    groups = np.array([0, 0, 0, 0, 7, 8])
    found = contexts.consistency(features if dense else sparse.csr_array(features), groups, 0.5)
    np.testing.assert_array_equal(found, [1 / 3, 0, 0, 1 / 3, math.nan, math.nan])


@pytest.mark.parametrize("encode", [np.empty((0, 4), np.float32), sparse.csr_matrix((0, 4))])
def test_no_occurrences_give_no_shares(encode):
    assert contexts.consistency(encode, np.empty(0, int), 0.5).shape == (0,)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"gamma": 0.0}, r"gamma: must be in \(0, 1\]; got 0.0"),
        ({"gamma": 1.5}, r"gamma: must be in \(0, 1\]; got 1.5"),
        ({"gamma": math.nan}, r"gamma: must be in \(0, 1\]; got nan"),
        ({"groups": np.zeros(3, int)}, r"groups: must be 4 integers; got int64 \(3,\)"),
        ({"groups": np.zeros(4)}, r"groups: must be 4 integers; got float64 \(4,\)"),
        ({"features": np.full((4, 2), np.nan)}, "features: must be finite; got NaN or infinity"),
        ({"features": sparse.csr_array(np.full((4, 2), np.inf))}, "features: must be finite"),
        ({"features": np.ones(4)}, r"features: must have two axes; got \(4,\)"),
    ],
)
def test_consistency_refuses_what_it_cannot_count(change, line):
    given = {"features": np.ones((4, 2)), "groups": np.zeros(4, int), "gamma": 0.5} | change
    with pytest.raises(StudyError, match=line):
        contexts.consistency(**given)


def test_few_occurrences_pass_the_bound_no_more_often_than_its_level_and_the_share_they_do():
    """Contexts of 20 equal kinds: two are similar with probability 0.05, half of eta."""
    rng, eta, passed = np.random.default_rng(4), 0.1, {}
    for size in (3, 6, 11, 51, 201):
        groups = np.repeat(np.arange(12_000 // size), size)
        features = sparse.csr_matrix(np.eye(20)[rng.integers(20, size=len(groups))])
        rho = contexts.consistency(features, groups, 0.5)
        for test in ("share", "bound"):
            passed[test, size] = contexts.repeats(rho, groups, eta, test).mean()
    assert passed["share", 11] == pytest.approx(0.4, abs=0.05)  # 1 - 0.95 ** 10
    assert passed["share", 51] < 0.15
    # occurrences of a group depend on each other: at least 59 groups, so a wide tolerance
    assert max(passed["bound", size] for size in (3, 6, 11, 51, 201)) < contexts.LEVEL


@pytest.mark.parametrize("others", [1, 2, 5, 10, 50, 1000])
@pytest.mark.parametrize("eta", [0.0, 0.1, 0.4, 1.0])
def test_the_bound_is_that_of_clopper_and_pearson(others, eta):
    for similar in {0, 1, 2, others // 10, others // 4, others // 2, others} & {*range(others + 1)}:
        found = contexts.repeats(np.full(others + 1, similar / others), np.zeros(others + 1), eta,
                                 "bound")  # fmt: skip
        test = stats.binomtest(similar, others, alternative="greater")
        assert (found == (test.proportion_ci(1 - contexts.LEVEL).low > eta)).all()
        exact = stats.binom.sf(stats.binom.isf(contexts.LEVEL, others, eta), others, eta)
        assert exact <= contexts.LEVEL  # the rate at which a similarity of eta passes


def test_an_occurrence_without_others_does_not_repeat():
    for test in ("share", "bound"):
        assert not contexts.repeats(np.array([math.nan]), np.array([7]), 0.1, test).any()
