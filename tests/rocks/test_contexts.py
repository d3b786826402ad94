"""Windows, encodings and the share of similar contexts, against double loops over pairs."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import tiny_model
from scipy import sparse

from rockstudy.errors import StudyError
from rockstudy.rocks import contexts, neighbours
from rockstudy.sampling.rollout import Rollouts

PAD = 3  # also a token of the corpora, so that padding in a window would be found


def rollouts(lengths, types=12, seed=0):
    """Completions of tokens drawn with probability 1 / (k + 1), padded with a real token's id."""
    rng = np.random.default_rng(seed)
    chance = 1 / np.arange(1, types + 1)
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    ids = rng.choice(types, size=mask.shape, p=chance / chance.sum()).astype(np.int32)
    prompts = [rng.integers(0, types, n) for n in (1, 4, 2)]
    index = (np.arange(len(lengths)) % 3).astype(np.int32)
    ids[~mask] = PAD
    return Rollouts(prompts, ids, mask, index, index.astype(np.int16), np.zeros(len(mask), bool))


def every_token(corpus):
    """Rows, columns and types of all positions, in shuffled order."""
    rows, columns = np.random.default_rng(9).permutation(np.argwhere(corpus.mask)).T
    return rows, columns, corpus.completion_ids[rows, columns]


def window(corpus, row, column, radius):
    ids = corpus.completion_ids[row, : corpus.mask[row].sum()].tolist()
    return ids[max(0, column - radius) : column] + ids[column + 1 : column + 1 + radius]


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
def test_share_of_similar_windows_equals_a_double_loop_over_multisets(path, radius, gamma):
    corpus = rollouts([30, 1, 2, 25, 40, 7])
    rows, columns, types = every_token(corpus)
    windows = [window(corpus, r, c, radius) for r, c in zip(rows, columns, strict=True)]
    expected = by_double_loop(of_windows(windows), types, gamma)
    bags = contexts.bag_of_ids(corpus, rows, columns, radius)
    for block in (1, 50, neighbours.BLOCK):
        found = contexts.consistency(bags, types, gamma, block=block)
        np.testing.assert_allclose(found, expected, atol=0, rtol=1e-15)
    assert np.nanmax(expected) > 0  # the case is no trivial one


@pytest.mark.parametrize("most", [1, 256])
def test_weighted_and_negative_sparse_features_equal_a_double_loop(path, most, monkeypatch):
    monkeypatch.setattr(neighbours, "_MAX_FREQUENT", most)
    rng = np.random.default_rng(1)
    dense = rng.integers(-2, 4, (150, 9)) * (rng.random((150, 9)) < 0.4)
    dense[::3] = dense[0]  # many copies
    dense[5] = 0
    groups = rng.integers(0, 5, 150) * 1_000_000_007
    expected = by_double_loop(of_rows(dense), groups, 0.3)
    found = contexts.consistency(sparse.coo_array(dense), groups, 0.3, block=64)
    np.testing.assert_allclose(found, expected, rtol=1e-15)


def test_large_groups_take_the_table_and_the_sparse_correction(monkeypatch):
    """The real thresholds on groups of more than a thousand, against one whole product."""
    corpus = rollouts([1500] * 3, types=60)
    rows, columns, types = every_token(corpus)
    bags = contexts.bag_of_ids(corpus, rows, columns, 4)
    called = []
    count = neighbours._correction
    monkeypatch.setattr(neighbours, "_correction", lambda *a: called.append(len(a[1])) or count(*a))
    found = contexts.consistency(bags, types, 0.6, block=100_000)
    assert len(called) > 3
    norms = np.sqrt(np.asarray(bags.sum(1)).ravel())
    similar = (bags @ bags.T).toarray() >= 0.6 * np.outer(norms, norms) - 1e-4
    same = (types[:, None] == types) & ~np.eye(len(types), dtype=bool)
    np.testing.assert_allclose(found, (similar & same).sum(1) / same.sum(1), rtol=1e-15)


@pytest.mark.parametrize("block", [1, 70, neighbours.BLOCK])
def test_share_of_similar_dense_rows_equals_a_double_loop(block):
    rng = np.random.default_rng(2)
    features = rng.normal(size=(120, 6)).astype(np.float32)
    features[::7] = 0
    groups = rng.choice([4, -2, 70, 71, 72, 999], 120, p=[0.5, 0.3, 0.1, 0.04, 0.03, 0.03])
    groups[0] = 12345  # alone
    expected = by_double_loop(of_rows(features), groups, 0.2)
    found = contexts.consistency(features, groups, 0.2, block=block)
    np.testing.assert_allclose(found, expected, rtol=1e-15)
    assert np.isnan(found[0]) and np.isnan(found).sum() == 1


def test_dense_and_sparse_rows_give_the_same_shares(path):
    corpus = rollouts([40, 33])
    rows, columns, types = every_token(corpus)
    bags = contexts.bag_of_ids(corpus, rows, columns, 2)
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


def test_windows_stop_at_the_completions_edges_and_hold_no_padding():
    corpus = rollouts([6, 1, 3])
    rows, columns, _ = every_token(corpus)
    bags = contexts.bag_of_ids(corpus, rows, columns, 2)
    for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
        found = Counter((bags[[i]].indices // 4).tolist())
        assert found == Counter(window(corpus, row, column, 2))
    assert bags.dtype == np.float32 and (bags.data == 1).all()


def test_encodings_do_not_depend_on_how_many_windows_are_held(monkeypatch):
    corpus = rollouts([20, 9])
    rows, columns, _ = every_token(corpus)
    table = np.random.default_rng(3).normal(size=(12, 5))
    bags = contexts.bag_of_ids(corpus, rows, columns, 3)
    means = contexts.mean_embedding(corpus, rows, columns, 3, table)
    monkeypatch.setattr(contexts, "_WINDOWS", 4)
    assert (bags != contexts.bag_of_ids(corpus, rows, columns, 3)).nnz == 0
    again = contexts.mean_embedding(corpus, rows, columns, 3, torch.tensor(table))
    np.testing.assert_array_equal(means, again)


def test_mean_embedding_is_the_mean_over_the_window_without_its_centre():
    corpus = rollouts([20, 1, 9])
    rows, columns, _ = every_token(corpus)
    table = np.random.default_rng(4).normal(size=(12, 5)).astype(np.float32)
    found = contexts.mean_embedding(corpus, rows, columns, 2, table)
    assert found.dtype == np.float32
    for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
        ids = window(corpus, row, column, 2)
        expected = table[ids].mean(0) if ids else np.zeros(5)
        np.testing.assert_allclose(found[i], expected, atol=1e-6)


def test_hidden_states_equal_a_forward_of_each_row_alone(tiny_tokenizer):
    model = tiny_model(tiny_tokenizer, 32, seed=0).train()
    corpus = rollouts([12, 5, 8, 1, 12])
    rows, columns, _ = every_token(corpus)
    rows, columns = rows[rows != 2][:25], columns[rows != 2][:25]  # one rollout is not needed
    found = contexts.hidden_states(corpus, rows, columns, model, 2)
    assert found.dtype == np.float32 and model.training
    for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
        prompt = corpus.prompt_ids[corpus.prompt_index[row]]
        ids = np.concatenate([prompt, corpus.completion_ids[row, :column]])
        with torch.no_grad():
            states = model(torch.tensor(ids)[None], output_hidden_states=True).hidden_states
        np.testing.assert_allclose(found[i], states[-1][0, -1].numpy(), atol=2e-5)
    for batch_size in (1, 100):
        again = contexts.hidden_states(corpus, rows, columns, model, batch_size)
        np.testing.assert_allclose(again, found, atol=2e-5)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"gamma": 0.0}, r"gamma: must be in \(0, 1\]; got 0.0"),
        ({"gamma": 1.5}, r"gamma: must be in \(0, 1\]; got 1.5"),
        ({"gamma": math.nan}, r"gamma: must be in \(0, 1\]; got nan"),
        ({"block": 0}, "block: must be a whole number of at least 1; got 0"),
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


@pytest.mark.parametrize(
    ("row", "column", "radius", "line"),
    [
        (0, 0, 0, "radius: must be a whole number of at least 1; got 0"),
        (0, 0, 1.5, "radius: must be a whole number of at least 1; got 1.5"),
        (2, 0, 1, r"rows: must be in \[0, 2\); got 2"),
        (1, 3, 1, r"columns: must be in \[0, 3\), the completion of row 1; got 3"),
        (1, -1, 1, r"columns: must be in \[0, 3\), the completion of row 1; got -1"),
    ],
)
def test_encodings_refuse_what_is_not_a_window_of_a_completion(row, column, radius, line):
    corpus = rollouts([6, 3])
    with pytest.raises(StudyError, match=line):
        contexts.bag_of_ids(corpus, [row], [column], radius)
    with pytest.raises(StudyError, match=line):
        contexts.mean_embedding(corpus, [row], [column], radius, np.ones((12, 2)))


def test_encodings_refuse_lengths_ids_and_prompts_that_do_not_fit(tiny_tokenizer):
    corpus = rollouts([6, 3])
    with pytest.raises(StudyError, match=r"rows, columns: must have one length; got \(1,\), \(2,"):
        contexts.bag_of_ids(corpus, [0], [0, 1], 1)
    with pytest.raises(StudyError, match="embeddings: must have a row for every token id"):
        contexts.mean_embedding(corpus, [0] * 6, range(6), 1, np.ones((1, 2)))
    model = tiny_model(tiny_tokenizer, 32, seed=0)
    with pytest.raises(StudyError, match="batch_size: must be a whole number of at least 1"):
        contexts.hidden_states(corpus, [0], [0], model, 0)
    corpus.prompt_ids[0] = np.empty(0, np.int64)
    with pytest.raises(StudyError, match="prompt_ids: prompt 0 must have at least one token"):
        contexts.hidden_states(corpus, [0], [0], model, 1)
