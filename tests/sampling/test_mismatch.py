"""Logged against recomputed log-probabilities: full logits, closed forms and known noise."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny_model

from rockstudy.errors import StudyError
from rockstudy.sampling import mismatch
from rockstudy.sampling.given import GivenRollouts
from rockstudy.sampling.rollout import Rollouts


def rollouts(rng, vocab=300, prompts=6, samples=2):
    rows = [
        {
            "prompt_index": p,
            "sample_index": s,
            "prompt_ids": np.arange(3, 6 + p),
            "completion_ids": rng.integers(3, vocab, int(rng.integers(1, 12))),
            "stopped": False,
        }
        for p in range(prompts)
        for s in range(samples)
    ]
    return Rollouts.from_frame(pd.DataFrame(rows))


def logged(made, values):
    return GivenRollouts(made, values.astype(np.float32), None, {}, False, "", "r.jsonl")


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_those_of_full_logits(tiny_tokenizer, temperature, monkeypatch):
    monkeypatch.setattr(mismatch, "TILE", (7, 50))
    monkeypatch.setattr(mismatch, "BATCH_TOKENS", 64)
    model, made = tiny_model(tiny_tokenizer, 32, 0), rollouts(np.random.default_rng(0))
    found = mismatch.log_probs(model, made, temperature=temperature)
    assert (np.isnan(found) == ~made.mask).all()
    for row, ids in enumerate(made.completions):
        prompt = made.prompt_ids[made.prompt_index[row]]
        read = torch.from_numpy(np.concatenate([prompt, ids]))[None]
        with torch.no_grad():
            full = (model(read).logits[0].double() / temperature).log_softmax(-1)
        expected = full[len(prompt) - 1 : -1].gather(1, read[0, len(prompt) :, None])[:, 0]
        assert np.allclose(found[row][: len(ids)], expected, atol=1e-5)


def test_a_known_perturbation_is_found_by_type_and_overall():
    rng = np.random.default_rng(1)
    made = rollouts(rng, vocab=8, prompts=40, samples=4)
    own = np.where(made.mask, -rng.gamma(2, 1, made.mask.shape), np.nan)
    shift = np.array([0, 0, 0, 0.0, -0.5, 0.05, 0.3, 0.0])[made.completion_ids]
    tokens = mismatch.table(logged(made, own - shift), own)
    assert np.allclose(tokens.difference, shift[made.mask], atol=1e-5)
    assert len(tokens) == made.n_tokens and (tokens.position >= 0).all()
    types = mismatch.by_type(tokens, np.random.default_rng(0)).set_index("token_id")
    assert np.allclose(types["mean"], [0, -0.5, 0.05, 0.3, 0], atol=1e-5)
    assert np.allclose(types.absolute_mean, [0, 0.5, 0.05, 0.3, 0], atol=1e-5)
    assert types.share_beyond.tolist() == [0, 1, 0, 1, 0]
    assert np.allclose(types.largest, [0, 0.5, 0.05, 0.3, 0], atol=1e-5)
    counts = tokens.groupby("token_id").prompt_index
    assert types["count"].tolist() == counts.size().tolist()
    assert types.n_prompts.tolist() == counts.nunique().tolist()
    whole = mismatch.overall(tokens, np.random.default_rng(0)).set_index("measure").value
    d = shift[made.mask]
    expected = {
        "difference": d.mean(),
        "absolute difference": np.abs(d).mean(),
        "share beyond": (np.abs(d) > 0.2).mean(),
        "importance weight": np.exp(d).mean(),
        "k3": (np.exp(d) - 1 - d).mean(),
        "largest": 0.5,
    }
    assert np.allclose(whole[list(expected)], list(expected.values()), atol=1e-5)


def test_samples_of_the_logged_distribution_give_weight_1_and_the_kl():
    """On a five-token vocabulary: mean weight 1, and k3 the KL that enumeration gives."""
    rng = np.random.default_rng(2)
    mu, pi = np.array([0.1, 0.2, 0.3, 0.25, 0.15]), np.array([0.15, 0.15, 0.35, 0.2, 0.15])
    drawn = rng.choice(5, 60_000, p=mu)
    tokens = pd.DataFrame(
        {
            "prompt_index": np.arange(60_000) // 100,
            "token_id": drawn,
            "difference": np.log(pi / mu)[drawn],
        }
    )
    whole = mismatch.overall(tokens, rng).set_index("measure")
    kl = (mu * np.log(mu / pi)).sum()
    for measure, truth in (("importance weight", 1), ("k3", kl), ("difference", -kl)):
        row = whole.loc[measure]
        assert row.lo < truth < row.hi and row.hi - row.lo < 0.01
    assert set(whole.unit) == {"prompts"} and set(whole.n) == {600}


def test_intervals_have_the_width_of_the_ratio_estimator():
    rng = np.random.default_rng(3)
    n = rng.integers(5, 30, 300)
    prompt = np.repeat(np.arange(300), n)
    difference = rng.normal(0, 0.3, 300)[prompt] + rng.normal(0, 0.2, n.sum())
    tokens = pd.DataFrame({"prompt_index": prompt, "token_id": 7, "difference": difference})
    row = mismatch.by_type(tokens, rng).iloc[0]
    sums, mean = np.bincount(prompt, weights=difference), difference.mean()
    se = np.sqrt(300 / 299 * ((sums - mean * n) ** 2).sum()) / n.sum()
    assert row["mean"] == pytest.approx(mean)
    assert (row.hi - row.lo) == pytest.approx(2 * 1.96 * se, rel=0.1)


def test_types_are_measured_in_parts_as_in_the_whole(monkeypatch):
    rng = np.random.default_rng(4)
    tokens = pd.DataFrame(
        {
            "prompt_index": rng.integers(0, 20, 500),
            "token_id": rng.integers(0, 30, 500) * 7,
            "difference": rng.normal(size=500),
        }
    )
    whole = mismatch.by_type(tokens, np.random.default_rng(0))
    monkeypatch.setattr(mismatch, "TYPES", 4)
    parts = mismatch.by_type(tokens, np.random.default_rng(0))
    exact = ["token_id", "count", "n_prompts", "absolute_mean", "share_beyond", "largest"]
    assert parts[exact].equals(whole[exact])
    assert np.allclose(parts["mean"], tokens.groupby("token_id").difference.mean())
    assert np.allclose(parts[["lo", "hi"]], whole[["lo", "hi"]], atol=0.3)


def test_one_prompt_has_no_interval():
    tokens = pd.DataFrame({"prompt_index": 3, "token_id": [1, 2, 2], "difference": [0.1, 0.2, 0.4]})
    types = mismatch.by_type(tokens, np.random.default_rng(0))
    assert np.allclose(types["mean"], [0.1, 0.3]) and types[["lo", "hi"]].isna().to_numpy().all()
    whole = mismatch.overall(tokens, np.random.default_rng(0))
    assert whole[["lo", "hi"]].isna().to_numpy().all() and set(whole.n) == {1}
    assert "no type whose interval excludes 0" in mismatch.reading(whole, types, ["a", "b"])


def test_one_line_reads_the_mismatch_and_doubts_a_wrong_checkpoint():
    rng = np.random.default_rng(5)
    tokens = pd.DataFrame(
        {
            "prompt_index": np.repeat(np.arange(50), 20),
            "token_id": np.tile([1, 2], 500),
            "difference": np.tile([0.5, 0.0], 500) + rng.normal(0, 0.01, 1000),
        }
    )

    def line(frame):
        types = mismatch.by_type(frame, np.random.default_rng(0))
        whole = mismatch.overall(frame, np.random.default_rng(0))
        return mismatch.reading(whole, types, [" a\n", "b"])

    near = line(tokens)
    assert "50.00% of tokens by more than 0.18" in near and "' a\\n' +0.5" in near
    assert "look for another checkpoint" not in near and "\n" not in near
    assert "look for another checkpoint" in line(tokens.assign(difference=tokens.difference - 4))


def test_rollouts_without_log_probabilities_and_a_temperature_of_0_are_refused(tiny_tokenizer):
    made = rollouts(np.random.default_rng(0))
    given = GivenRollouts(made, None, None, {}, False, "", "r.jsonl")
    with pytest.raises(StudyError, match=r"log_probs: must have been logged; r\.jsonl has none"):
        mismatch.table(given, np.zeros(made.mask.shape))
    with pytest.raises(StudyError, match="temperature: must be above 0; got 0"):
        mismatch.log_probs(tiny_model(tiny_tokenizer, 32, 0), made, temperature=0)
