"""Sampling against exact enumeration and transformers' own generate; alignment; bad input."""

import itertools
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from conftest import tiny_model
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rockstudy import tasks
from rockstudy.config.fields import EvalConfig, TaskConfig
from rockstudy.errors import StudyError
from rockstudy.sampling import decoding, engines
from rockstudy.sampling.rollout import Rollouts, evaluate, generate, prompt_ids
from rockstudy.store import cache

END = 1
TOKENIZER = SimpleNamespace(eos_token_id=END)


def small_llama(vocab_size=50, seed=0):
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.4,
        bos_token_id=None,
        eos_token_id=END,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def model():
    return small_llama()


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(0)
    return [rng.integers(2, 50, n).tolist() for n in (3, 9, 5, 9, 1, 7, 12, 4)]


def sample(model, prompts, **kwargs):
    return generate(
        model, TOKENIZER, prompts, **({"max_new_tokens": 12, "batch_size": 32, "seed": 0} | kwargs)
    )


def completions(rollouts):
    return [ids[m].tolist() for ids, m in zip(rollouts.completion_ids, rollouts.mask, strict=True)]


def same(a, b):
    return completions(a) == completions(b)


@torch.no_grad()
def next_probabilities(model, prefix, temperature=1.0, top_p=1.0, top_k=0):
    """Next-token distribution in float64 by a plain forward, truncated by definition."""
    p = (model(torch.tensor([prefix])).logits[0, -1].double() / temperature).softmax(-1).numpy()
    order = np.argsort(-p, kind="stable")
    if top_k:
        p[order[top_k:]] = 0
        p /= p.sum()
    ahead = np.cumsum(p[order]) - p[order]
    p[order[ahead >= top_p]] = 0
    return p / p.sum()


def enumerate_completions(model, prompt, length, **how):
    """Every completion of at most `length` tokens with its exact probability."""
    found = {}
    open_ = {(): 1.0}
    for _ in range(length):
        longer = {}
        for prefix, p in open_.items():
            for token, q in enumerate(next_probabilities(model, [*prompt, *prefix], **how)):
                if q > 0:
                    (found if token == END else longer)[(*prefix, token)] = p * q
        open_ = longer
    return found | open_


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"temperature": 0.6},
        {"temperature": 1.7, "top_p": 0.8},
        {"top_k": 2},
        {"top_k": 4, "top_p": 0.7},
    ],
    ids=str,
)
def test_sampled_frequencies_are_those_of_exact_enumeration(how):
    model = small_llama(vocab_size=5, seed=3)
    expected = enumerate_completions(model, [2, 3], 3, **how)
    assert sum(expected.values()) == pytest.approx(1)
    n = 6000
    drawn = sample(model, [[2, 3]], samples=n, max_new_tokens=3, batch_size=1500, **how)
    seen = Counter(map(tuple, completions(drawn)))
    assert seen.keys() <= expected.keys()
    counts = np.array([(seen[ids], n * p) for ids, p in expected.items()])
    rare = counts[:, 1] < 5
    table = np.vstack([counts[~rare], counts[rare].sum(0)[None][: int(rare.any())]])
    assert scipy.stats.chisquare(*table.T).pvalue > 1e-3


def test_a_token_of_probability_zero_is_never_drawn():
    probs = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]]).expand(4, 5)
    u = torch.tensor([0.0, 0.25, 1 - 2**-53, 0.2499], dtype=torch.float64)
    assert decoding._invert(probs, u)[0].tolist() == [1, 3, 3, 1]


def test_greedy_equals_transformers_generate_token_by_token(model, prompts):
    greedy = sample(model, prompts, temperature=0)
    config = GenerationConfig(do_sample=False, max_new_tokens=12, eos_token_id=END, pad_token_id=0)
    for prompt, ours in zip(prompts, completions(greedy), strict=True):
        theirs = model.generate(torch.tensor([prompt]), generation_config=config)[0]
        assert ours == theirs[len(prompt) :].tolist()


def test_a_row_is_the_same_alone_and_in_a_padded_batch(model, prompts):
    for temperature in (0, 1):
        together = sample(model, prompts, samples=2, temperature=temperature)
        for batch_size in (1, 5):
            how = {"samples": 2, "temperature": temperature, "batch_size": batch_size}
            assert same(together, sample(model, prompts, **how))
    assert (
        completions(sample(model, prompts[:1], temperature=0))
        == completions(sample(model, prompts, temperature=0))[:1]
    )


def test_finished_rows_leave_the_batch(model, prompts, monkeypatch):
    widths = []
    forward = decoding._forward

    def counting(model, ids, *args):
        widths.append(ids.numel())
        return forward(model, ids, *args)

    monkeypatch.setattr(decoding, "_forward", counting)
    drawn = sample(model, prompts, samples=8, max_new_tokens=60)
    assert drawn.stopped.mean() > 0.5
    decoded = sum(widths) - widths[0]
    padded = len(drawn) * drawn.completion_ids.shape[1]
    assert decoded <= 1.2 * drawn.n_tokens < 0.7 * padded


def test_a_prompt_is_prefilled_once_for_all_its_samples(model, prompts, monkeypatch):
    shapes = []
    forward = decoding._forward
    monkeypatch.setattr(
        decoding, "_forward", lambda m, ids, *a: shapes.append(ids.shape) or forward(m, ids, *a)
    )
    sample(model, prompts[:1], samples=16)
    assert shapes[0] == (1, len(prompts[0]) - 1)  # the last token is decoded
    assert shapes[1] == (16, 1)


NESTED = [[4, 9, 7, 3, 8, 2, 6], [4, 9, 7], [4, 9, 7, 3, 8], [4], [4, 9, 5, 5], [4, 9, 7], [6]]


def windowed():
    """Attention over the last 6 columns, in every other layer."""
    config = Qwen3Config(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        initializer_range=0.4,
        eos_token_id=END,
        use_sliding_window=True,
        sliding_window=6,
        max_window_layers=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Qwen3ForCausalLM(config).eval()


@pytest.mark.parametrize("make", [small_llama, windowed])
def test_prompts_that_begin_each_other_are_continued_as_each_alone(make):
    model = make()
    config = GenerationConfig(do_sample=False, max_new_tokens=12, eos_token_id=END, pad_token_id=0)
    for prompt, ours in zip(NESTED, completions(sample(model, NESTED, temperature=0)), strict=True):
        theirs = model.generate(torch.tensor([prompt]), generation_config=config)[0]
        assert ours == theirs[len(prompt) :].tolist()
    drawn = sample(model, NESTED, samples=3)
    assert same(drawn, sample(model, NESTED, samples=3, batch_size=1))


def test_a_prompt_that_another_begins_with_is_not_read_again(model, monkeypatch):
    read = []
    forward = decoding._forward
    monkeypatch.setattr(
        decoding, "_forward", lambda m, ids, *a: read.append(ids) or forward(m, ids, *a)
    )
    sample(model, NESTED)
    assert sorted(read[0].tolist()) == [[0, 0, 0, 4, 9, 5], [4, 9, 7, 3, 8, 2]]


def test_a_ban_holds_in_its_row_alone():
    logits = torch.arange(8.0).reshape(2, 4)
    banned = decoding._without(logits, torch.tensor([[3, 0], [1, -1]]))
    inf = np.inf
    assert banned.tolist() == [[-inf, 1, 2, -inf], [4, -inf, 6, 7]]
    assert logits.isfinite().all()


def test_a_stopped_row_ends_with_its_end_token_and_a_truncated_row_has_none(model, prompts):
    drawn = sample(model, prompts, samples=16)
    assert 0 < drawn.stopped.sum() < len(drawn)
    for ids, stopped in zip(completions(drawn), drawn.stopped, strict=True):
        assert (ids[-1] == END) == stopped
        assert END not in ids[:-1]
        assert stopped or len(ids) == 12


def test_every_end_token_of_the_generation_config_ends_a_row(prompts):
    model = small_llama()
    model.generation_config.eos_token_id = [END, 7]
    drawn = sample(model, prompts, samples=16, max_new_tokens=40)
    last = {ids[-1] for ids in itertools.compress(completions(drawn), drawn.stopped)}
    assert last == {END, 7}


def test_column_t_is_the_prediction_of_completion_token_t(model, prompts, monkeypatch):
    """The distribution that drew column t is that of a plain forward on all that comes before."""
    used = {}
    decode = decoding.decode

    def recording(model, batch, uniforms, choose, *args):
        def choose_and_keep(logits, u):
            t = len(used)
            used[t] = logits.log_softmax(-1)
            return choose(logits, u)

        return decode(model, batch, uniforms, choose_and_keep, *args)

    monkeypatch.setattr(engines, "decode", recording)
    monkeypatch.setattr(decoding, "COMPACT_SHARE", 2.0)  # rows stay where they are
    drawn = sample(model, prompts, max_new_tokens=8)
    order = sorted(range(len(prompts)), key=lambda r: (len(prompts[r]), r))
    for place, row in enumerate(order):
        ids = completions(drawn)[row]
        start = len(prompts[row])
        with torch.no_grad():
            logits = model(torch.tensor([[*prompts[row], *ids]])).logits[0]
        for t, token in enumerate(ids):
            plain = logits[start + t - 1].log_softmax(-1)[token]
            assert used[t][place, token] == pytest.approx(plain.item(), abs=2e-5)


def test_the_same_seed_gives_the_same_rollouts_and_another_does_not(model, prompts):
    a, b, c = (sample(model, prompts, samples=4, seed=s) for s in (5, 5, 6))
    assert same(a, b)
    assert not same(a, c)


def test_more_samples_or_a_longer_limit_keep_the_rollouts_that_were_there(model, prompts):
    few = sample(model, prompts, samples=2, max_new_tokens=6)
    many = sample(model, prompts, samples=5, max_new_tokens=12)
    rows = np.flatnonzero(many.sample_index < 2)
    assert [completions(many)[r][:6] for r in rows] == completions(few)


def test_samples_of_one_prompt_differ_and_prompts_are_in_order(model, prompts):
    drawn = sample(model, prompts, samples=3)
    assert drawn.prompt_index.tolist() == np.repeat(np.arange(len(prompts)), 3).tolist()
    assert drawn.sample_index.tolist() == [0, 1, 2] * len(prompts)
    assert len({tuple(ids) for ids in completions(drawn)}) > 2 * len(prompts)
    assert [ids.tolist() for ids in drawn.prompt_ids] == prompts


def test_torchs_generator_and_the_models_mode_are_left_alone(prompts):
    model = small_llama().train()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    sample(model, prompts)
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_logits_that_are_not_finite_stop_the_rollout_in_one_line(prompts):
    model = small_llama()
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    for temperature in (0, 1):
        with pytest.raises(StudyError, match="logits: must be finite") as error:
            sample(model, prompts, temperature=temperature)
        assert "\n" not in str(error.value)


def test_a_prompt_that_does_not_fit_the_context_is_refused(model):
    with pytest.raises(StudyError, match=r"context of 128 tokens.*prompt 1 has 120 tokens"):
        sample(model, [[2], [2] * 120])


@pytest.mark.parametrize("bad", [[], [[2], []]])
def test_nothing_to_continue_is_refused(model, bad):
    with pytest.raises(StudyError, match=r"prompt_ids: .* at least one"):
        sample(model, bad)


def test_prompts_go_through_the_chat_template(tiny_tokenizer):
    (ids,) = prompt_ids(tiny_tokenizer, ["What is 1 + 2?"], 64)
    assert tiny_tokenizer.decode(ids) == (
        "<|im_start|>user\nWhat is 1 + 2?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_prompt_over_the_limit_is_named_with_its_length(tiny_tokenizer):
    long = "What is 1 + 2? " * 20
    with pytest.raises(StudyError, match=r"prompt 1 must have at most 30 tokens.* it has \d+"):
        prompt_ids(tiny_tokenizer, ["Hi", long], 30)


def test_no_prompts_and_no_template_are_refused(tiny_tokenizer):
    with pytest.raises(StudyError, match="at least one prompt"):
        prompt_ids(tiny_tokenizer, [], 30)
    bare = SimpleNamespace(chat_template=None)
    with pytest.raises(StudyError, match="chat template"):
        prompt_ids(bare, ["Hi"], 30)


def test_rollouts_survive_the_disk(tmp_path, model, prompts):
    drawn = sample(model, prompts, samples=2)
    drawn = replace(drawn, correct=drawn.stopped)
    cache.save(tmp_path / "r", drawn.to_frame(), config={"seed": 0}, inputs={})
    read = Rollouts.from_frame(cache.load(tmp_path / "r"))
    for name in ("completion_ids", "mask", "prompt_index", "sample_index", "stopped", "correct"):
        assert np.array_equal(getattr(read, name), getattr(drawn, name))
        assert getattr(read, name).dtype == getattr(drawn, name).dtype
    assert [ids.tolist() for ids in read.prompt_ids] == prompts
    assert (
        read.n_tokens
        == drawn.n_tokens
        == cache.load(tmp_path / "r")["completion_ids"].map(len).sum()
    )


def test_rollouts_refuse_wrong_dtypes_and_masks_with_holes(model, prompts):
    fields = vars(sample(model, prompts))
    with pytest.raises(ValueError, match=r"completion_ids: must be .*int32"):
        Rollouts(**fields | {"completion_ids": fields["completion_ids"].astype(np.int64)})
    holes = fields["mask"].copy()
    holes[:, 0] = False
    with pytest.raises(ValueError, match="up to the end"):
        Rollouts(**fields | {"mask": holes})
    with pytest.raises(ValueError, match="prompt_index"):
        Rollouts(**fields | {"prompt_index": fields["prompt_index"] + 100})
    with pytest.raises(StudyError, match="at least one row"):
        Rollouts.from_frame(pd.DataFrame())


def test_evaluation_keeps_an_outcome_for_every_completion(tiny_tokenizer):
    model = tiny_model(tiny_tokenizer, 32, seed=0)
    task = TaskConfig(name="lab_math", n_train=4, n_eval=6, max_prompt_tokens=400)
    how = EvalConfig(n_prompts=5, samples=2, max_new_tokens=16, batch_size=4)
    frame = evaluate(model, tiny_tokenizer, task, how, seed=0)
    problems = tasks.load(task, "eval")
    assert frame["prompt_index"].tolist() == np.repeat(np.arange(5), 2).tolist()
    assert frame["family"].tolist() == [p.family for p in problems[:5] for _ in range(2)]
    assert (frame["benchmark"] == "lab_math").all()
    assert frame["correct"].dtype == bool
    assert frame["n_new_tokens"].between(1, 16).all()
    pd.testing.assert_frame_equal(
        frame, evaluate(model, tiny_tokenizer, task, how.model_copy(update={"batch_size": 3}), 0)
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_draws_what_the_cpu_draws(prompts):
    cpu = sample(small_llama(), prompts, samples=8, max_new_tokens=40)
    cuda = sample(small_llama().cuda(), prompts, samples=8, max_new_tokens=40)
    agree = [a == b for a, b in zip(completions(cpu), completions(cuda), strict=True)]
    assert np.mean(agree) > 0.9  # a draw within rounding of a boundary may fall to the other side
