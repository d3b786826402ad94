"""The likeliest tokens of shown rollouts: against full softmaxes, and which rollouts are shown."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from corpora import scored

from rockstudy.config.overrides import from_parameters
from rockstudy.errors import StudyError
from rockstudy.models import loading
from rockstudy.rocks import likeliest
from rockstudy.rocks import steps as rocks_steps
from rockstudy.runs import NotStored, Run, open_run
from rockstudy.sampling.rollout import Rollouts


@pytest.fixture(scope="module")
def models(tiny_pair_dir):
    names = {"teacher": "teacher", "pre": "student", "post": "student"}
    folders = {one: str(tiny_pair_dir / name) for one, name in names.items()}
    made = {one: loading.load_model(folder, device="cpu") for one, folder in folders.items()}
    with torch.no_grad():
        for p in made["post"].parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    return made


@pytest.fixture(scope="module")
def rollouts():
    generator = np.random.default_rng(0)
    prompts = [generator.integers(3, 320, n) for n in (4, 9)]
    mask = np.arange(7) < np.array([[7], [1], [3], [5]])
    ids = np.where(mask, generator.integers(3, 320, mask.shape), 0).astype(np.int32)
    index, sample = np.array([0, 1, 1, 0], np.int32), np.array([0, 0, 1, 1], np.int16)
    return Rollouts(prompts, ids, mask, index, sample, mask.any(1))


ROWS = np.array([2, 0, 3, 1])


def softmaxes(model, rollouts, rows):
    """Probabilities (N, V) at the positions of some rows, a forward pass of its own for each."""
    found = []
    for r in rows:
        prompt = rollouts.prompt_ids[rollouts.prompt_index[r]]
        written = rollouts.completion_ids[r][rollouts.mask[r]]
        read = torch.from_numpy(np.concatenate([prompt, written]))[None].long()
        logits = model(read).logits[0].detach().double()
        # column t is about the prediction of token t, which the position before it makes
        found += [logits[len(prompt) + t - 1].softmax(-1) for t in range(len(written))]
    return torch.stack(found)


def test_they_are_those_of_full_softmaxes_one_rollout_at_a_time(models, rollouts, monkeypatch):
    monkeypatch.setattr(likeliest, "BATCH_TOKENS", 24)  # one or two rows at a time
    frame = likeliest.of_rows(rollouts, ROWS, models.get)
    assert frame.prompt_index.tolist() == [1] * 3 + [0] * 12 + [1]
    assert frame.sample_index.tolist() == [1] * 3 + [0] * 7 + [1] * 5 + [0]
    assert frame.position.tolist() == [*range(3), *range(7), *range(5), 0]
    assert (
        frame.token_id.tolist() == np.concatenate([rollouts.completions[r] for r in ROWS]).tolist()
    )
    for name, model in models.items():
        wanted = softmaxes(model, rollouts, ROWS)
        top = wanted.topk(likeliest.TOP)
        ids, found = (np.stack(frame[f"top_{what}_{name}"]) for what in ("ids", "probs"))
        assert np.array_equal(ids, top.indices)
        assert np.abs(found - top.values.numpy()).max() < 1e-6
        assert (np.diff(found, axis=1) <= 0).all() and (found.sum(1) <= 1 + 1e-6).all()
        assert (ids.dtype, found.dtype) == (np.int32, np.float32)


def test_the_three_models_are_loaded_one_after_another(models, rollouts):
    asked = []
    likeliest.of_rows(rollouts, ROWS, lambda name: asked.append(name) or models[name])
    assert asked == ["teacher", "pre", "post"]


@pytest.fixture(scope="module")
def corpus():
    tokens, made = scored()
    right = np.random.default_rng(3).random(len(made)) < 0.3
    return replace(made, correct=right), tokens


def means(made, tokens):
    """The mean loss of each rollout, by a loop."""
    rows = zip(made.prompt_index, made.sample_index, strict=True)
    of = [(tokens.prompt_index == p) & (tokens.sample_index == s) for p, s in rows]
    return np.array([tokens.rkl_post[one].mean() for one in of])


@pytest.mark.parametrize("n", [1, 2, 7, 12])
def test_half_of_the_shown_are_right_and_they_range_from_the_least_to_the_most_loss(corpus, n):
    made, tokens = corpus
    rows, loss = likeliest.chosen(made, tokens, n), means(made, tokens)
    assert len(rows) == len(set(rows.tolist())) == n
    assert made.correct[rows].sum() == n // 2
    for kind in (True, False):
        some, every = loss[rows][made.correct[rows] == kind], loss[made.correct == kind]
        if len(some) > 1:
            assert (some.min(), some.max()) == (every.min(), every.max())
    assert rows.tolist() == likeliest.chosen(made, tokens, n).tolist()
    place = made.prompt_index[rows].astype(int) * 10 + made.sample_index[rows]
    assert (np.diff(place) > 0).all()


def test_one_kind_fills_up_what_the_other_lacks_and_nothing_is_shown_twice(corpus):
    made, tokens = corpus
    few = np.zeros(len(made), bool)
    few[5] = True
    rows = likeliest.chosen(replace(made, correct=few), tokens, 10)
    assert len(rows) == 10 and 5 in rows
    assert len(likeliest.chosen(replace(made, correct=~few), tokens, 10)) == 10
    assert len(likeliest.chosen(replace(made, correct=None), tokens, 10)) == 10
    assert len(likeliest.chosen(made, tokens, 1_000)) == len(made)


def test_a_rollout_without_a_token_is_never_shown(corpus):
    made, tokens = corpus
    mask = made.mask.copy()
    mask[4] = False
    gone = (tokens.prompt_index == made.prompt_index[4]) & (
        tokens.sample_index == made.sample_index[4]
    )
    rows = likeliest.chosen(replace(made, mask=mask), tokens[~gone], 1_000)
    assert len(rows) == len(made) - 1 and 4 not in rows


def test_no_rollout_at_all_is_refused(corpus):
    with pytest.raises(StudyError, match="rollouts: must be a whole number >= 1; got 0"):
        likeliest.chosen(*corpus, 0)


def test_a_run_stores_them_once_and_a_reference_without_them_needs_models(tmp_path, monkeypatch):
    run = Run(from_parameters("tiny"), tmp_path / "tiny")
    frame = likeliest.shown(run, 3)
    assert len(list((run.path / "tables").glob("rocks.likeliest.shown-*"))) == 2
    corpus = rocks_steps.measured(run)
    rows = likeliest.chosen(corpus.rollouts, corpus.tokens, 3)
    keys = ["prompt_index", "sample_index", "position", "token_id"]
    wanted = corpus.tokens.merge(frame[keys[:2]].drop_duplicates(), on=keys[:2])
    pd.testing.assert_frame_equal(frame[keys], wanted[keys])
    assert len(frame) == corpus.rollouts.lengths[rows].sum()

    def load(name):
        raise AssertionError(name)

    monkeypatch.setattr(rocks_steps.Measured, "model", load)
    again = likeliest.shown(Run(run.config, run.path), 3)
    assert np.array_equal(np.stack(again.top_ids_post), np.stack(frame.top_ids_post))


def test_a_reference_without_them_says_so_in_one_line():
    with pytest.raises(
        NotStored, match="likeliest tokens: needs models, which the reference of lab"
    ):
        likeliest.shown(open_run("lab"), 3)
