"""Windows and encodings of contexts, against loops over positions."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import tiny_model
from corpora import every_token, rollouts, window

from rockstudy.errors import StudyError
from rockstudy.rocks import encoders


def with_embeddings(table):
    """A student of which only the input embeddings are looked at."""
    weight = torch.tensor(np.asarray(table, np.float32))
    return SimpleNamespace(get_input_embeddings=lambda: SimpleNamespace(weight=weight))


def test_windows_stop_at_the_completions_edges_and_hold_no_padding():
    corpus = rollouts([6, 1, 3])
    rows, columns, _ = every_token(corpus)
    bags = encoders.bag_of_ids(corpus, rows, columns, 2)
    for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
        found = Counter((bags[[i]].indices // 4).tolist())
        assert found == Counter(window(corpus, row, column, 2))
    assert bags.dtype == np.float32 and (bags.data == 1).all()


def test_encodings_do_not_depend_on_how_many_windows_are_held(monkeypatch):
    corpus = rollouts([20, 9])
    rows, columns, _ = every_token(corpus)
    table = np.random.default_rng(3).normal(size=(12, 5))
    bags = encoders.bag_of_ids(corpus, rows, columns, 3)
    means = encoders.mean_embedding(corpus, rows, columns, 3, with_embeddings(table))
    monkeypatch.setattr(encoders, "_WINDOWS", 4)
    assert (bags != encoders.bag_of_ids(corpus, rows, columns, 3)).nnz == 0
    again = encoders.mean_embedding(corpus, rows, columns, 3, with_embeddings(table))
    np.testing.assert_array_equal(means, again)


def test_mean_embedding_is_the_mean_over_the_window_without_its_centre():
    corpus = rollouts([20, 1, 9])
    rows, columns, _ = every_token(corpus)
    table = np.random.default_rng(4).normal(size=(12, 5)).astype(np.float32)
    found = encoders.mean_embedding(corpus, rows, columns, 2, with_embeddings(table))
    assert found.dtype == np.float32
    for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
        ids = window(corpus, row, column, 2)
        expected = table[ids].mean(0) if ids else np.zeros(5)
        np.testing.assert_allclose(found[i], expected, atol=1e-6)


def test_hidden_states_equal_a_forward_of_each_row_alone(tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(encoders, "ROLLOUTS", 2)
    model = tiny_model(tiny_tokenizer, 32, seed=0).train()
    corpus = rollouts([12, 5, 8, 1, 12])
    rows, columns, _ = every_token(corpus)
    rows, columns = rows[rows != 2][:25], columns[rows != 2][:25]  # one rollout is not needed
    found = encoders.hidden_states(corpus, rows, columns, 1, model)
    assert found.dtype == np.float32 and model.training
    for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
        prompt = corpus.prompt_ids[corpus.prompt_index[row]]
        ids = np.concatenate([prompt, corpus.completion_ids[row, :column]])
        with torch.no_grad():
            states = model(torch.tensor(ids)[None], output_hidden_states=True).hidden_states
        np.testing.assert_allclose(found[i], states[-1][0, -1].numpy(), atol=2e-5)
    for batch_size in (1, 100):
        monkeypatch.setattr(encoders, "ROLLOUTS", batch_size)
        again = encoders.hidden_states(corpus, rows, columns, 1, model)
        np.testing.assert_allclose(again, found, atol=2e-5)


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
        encoders.bag_of_ids(corpus, [row], [column], radius)
    with pytest.raises(StudyError, match=line):
        encoders.mean_embedding(corpus, [row], [column], radius, with_embeddings(np.ones((12, 2))))


def test_encodings_refuse_lengths_ids_and_prompts_that_do_not_fit(tiny_tokenizer):
    corpus = rollouts([6, 3])
    with pytest.raises(StudyError, match=r"rows, columns: must have one length; got \(1,\), \(2,"):
        encoders.bag_of_ids(corpus, [0], [0, 1], 1)
    with pytest.raises(StudyError, match="embeddings: must have a row for every token id"):
        encoders.mean_embedding(corpus, [0] * 6, range(6), 1, with_embeddings(np.ones((1, 2))))
    model = tiny_model(tiny_tokenizer, 32, seed=0)
    corpus.prompt_ids[0] = np.empty(0, np.int64)
    with pytest.raises(StudyError, match="prompt_ids: prompt 0 must have at least one token"):
        encoders.hidden_states(corpus, [0], [0], 1, model)
