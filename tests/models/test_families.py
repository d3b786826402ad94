"""Families of models, loaded from their files as users load them: right, or refused in one line.

Every number is compared with one from full logits (R, L, V) of the model as transformers loads it,
without a cache, without padding, and with the vocabulary renormalised by hand.
"""

import numpy as np
import pytest
import torch
from architectures import configuration, nested
from architectures import model as random_model
from transformers import AutoModelForCausalLM

from rockstudy.config.fields import PairConfig
from rockstudy.errors import StudyError
from rockstudy.models.configuration import undecodable, vocabulary
from rockstudy.models.divergence import (
    Head,
    States,
    token_divergence,
    token_log_prob,
    token_statistics,
)
from rockstudy.models.loading import load_model, load_pair
from rockstudy.models.pruning import depth_pruned
from rockstudy.sampling.decoding import Chooser, decode
from rockstudy.sampling.rollout import Rollouts, completion_states, generate

DENSE = "llama qwen2 qwen3 qwen3_moe gemma2 gemma3_text gemma3 mistral phi3 gpt2 granite".split()
HYBRID = ["lfm2", "granitemoehybrid", "qwen3_next"]
FAMILIES = [*DENSE, *HYBRID]
PADDED = 8  # rows of a head beyond the tokenizer's ids
NEAR = {"rtol": 1e-5, "atol": 1e-5}


def random_of(kind, size):
    """A random model of a family whose head has `size` rows."""
    sizes = {"vocab_size": size, "max_position_embeddings": 128, "initializer_range": 0.1}
    if kind == "gemma3":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return AutoModelForCausalLM.from_config(nested(**sizes)).eval()
    return random_model(kind, **sizes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_tokenizer):
    """A function that writes a family with its tokenizer once: ``folder(kind, padding)``."""
    made = {}

    def write(kind, padding=0):
        if (kind, padding) not in made:
            place = tmp_path_factory.mktemp(kind)
            random_of(kind, len(tiny_tokenizer) + padding).save_pretrained(place)
            tiny_tokenizer.save_pretrained(place)
            made[kind, padding] = str(place)
        return made[kind, padding]

    return write


def rollouts(size):
    """Random prompts and completions of different lengths."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, size, n) for n in (5, 2, 11)]
    lengths = np.array([6, 9, 1, 4])
    mask = np.arange(9) < lengths[:, None]
    ids = (rng.integers(3, size, mask.shape) * mask).astype(np.int32)
    index, samples = np.array([0, 1, 1, 2], np.int32), np.array([0, 0, 1, 0], np.int16)
    return Rollouts(prompts, ids, mask, index, samples, np.ones(4, bool))


@torch.no_grad()
def naive(place, rows, size):
    """Log-probabilities float64 (N, V) of the completions' positions, over the first `size` ids."""
    model = AutoModelForCausalLM.from_pretrained(place).eval()
    found = []
    for row, written in enumerate(rows.completions):
        prompt = rows.prompt_ids[rows.prompt_index[row]]
        ids = torch.from_numpy(np.concatenate([prompt, written]).astype(np.int64))[None]
        whole = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1, :size]
        found.append(whole.double().log_softmax(-1))
    return torch.cat(found)


@pytest.mark.filterwarnings("ignore:vocabulary. of the ids")
@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_family_is_measured_as_from_full_logits(kind, role, folder, tiny_tokenizer):
    size = len(tiny_tokenizer)
    names = {"teacher": folder("qwen3"), "student": folder("qwen3")}
    names[role] = folder(kind, PADDED)
    pair, rows = load_pair(PairConfig(**names), device="cpu"), rollouts(size)
    q, p = (naive(names[one], rows, size) for one in ("teacher", "student"))
    targets = torch.from_numpy(np.concatenate(rows.completions)).long()
    both = (pair.teacher, pair.student)
    teacher, student = (States(completion_states(m, rows, range(4)), Head.of(m)) for m in both)
    found = token_statistics(teacher, [student], targets)
    (one,) = found.students
    expected = {
        "rkl": (p.exp() * (p - q)).sum(-1),
        "fkl": (q.exp() * (q - p)).sum(-1),
        "log_ratio": (p - q).gather(1, targets[:, None])[:, 0],
        "entropy": -(p.exp() * p).sum(-1),
    }
    for name, wanted in expected.items():
        torch.testing.assert_close(getattr(one, name).double(), wanted, **NEAR)
    torch.testing.assert_close(found.entropy_teacher.double(), -(q.exp() * q).sum(-1), **NEAR)
    rank = (q > q.gather(1, targets[:, None])).sum(-1).int()
    assert torch.equal(found.rank_teacher, rank)
    with torch.no_grad():  # what training computes
        rkl, _ = token_divergence(*student, *teacher)
        log_prob, _ = token_log_prob(*student, targets)
    torch.testing.assert_close(rkl.double(), expected["rkl"], **NEAR)
    torch.testing.assert_close(log_prob.double(), p.gather(1, targets[:, None])[:, 0], **NEAR)


class Recorder(Chooser):
    """A chooser that keeps the log-probabilities that it is given, float32 (B, V) a step."""

    def __call__(self, logits, u):
        seen.append(logits.float().log_softmax(-1))
        return super().__call__(logits, u)


seen: list[torch.Tensor] = []
LENGTHS = (9, 4, 13, 1, 7)
NEW = 10


@pytest.mark.parametrize("kind", FAMILIES)
@torch.no_grad()
def test_a_batch_with_padding_is_decoded_as_from_full_logits(kind, folder, tiny_tokenizer):
    size = len(tiny_tokenizer)
    place = folder(kind, PADDED)
    model = load_model(place, device="cpu", vocabulary=size)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, size, n).tolist() for n in LENGTHS]
    prompts[-1] = prompts[2][:7]  # the beginning of a longer one
    seen.clear()
    never, limits = torch.empty(0, dtype=torch.long), np.full(len(prompts), NEW)
    done = dict(decode(model, prompts, rng.random((5, NEW)), Recorder(), never, limits))
    given = torch.stack(seen, 1)  # (B, T, V)
    whole = AutoModelForCausalLM.from_pretrained(place).eval()
    for row, prompt in enumerate(prompts):
        ids = torch.tensor([[*prompt, *done[row].tolist()]])
        logits = whole(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1, :size]
        torch.testing.assert_close(given[row], logits.log_softmax(-1), **NEAR)


@pytest.mark.parametrize("kind", FAMILIES)
def test_rollouts_do_not_depend_on_their_batch(kind, folder, tiny_tokenizer):
    model = load_model(folder(kind), device="cpu")
    rows = rollouts(len(tiny_tokenizer))
    how = {"samples": 2, "max_new_tokens": 8, "seed": 3, "desc": None}
    one, all_ = (
        generate(model, tiny_tokenizer, rows.prompt_ids, batch_size=n, **how) for n in (1, 6)
    )
    assert np.array_equal(one.completion_ids, all_.completion_ids)
    assert one.mask.sum() > 20


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_family_loses_layers_and_is_saved_or_says_why_not(kind, folder, tmp_path):
    model = load_model(folder(kind), device="cpu")
    try:
        pruned = depth_pruned(model, 3)
    except StudyError as error:
        assert kind in UNPRUNABLE, error
        assert UNPRUNABLE[kind] in str(error)
        return
    assert kind not in UNPRUNABLE
    pruned.save_pretrained(tmp_path)
    ids = torch.arange(3, 19)[None]
    again = load_model(str(tmp_path), device="cpu")
    with torch.no_grad():
        assert torch.equal(again(ids).logits, pruned(ids).logits)


UNPRUNABLE: dict[str, str] = {}


@pytest.mark.parametrize("kind", ["mamba", "falcon_mamba", "rwkv", "recurrent_gemma", "nemotron_h"])
def test_recurrent_models_that_batches_change_are_refused_by_their_configuration(kind):
    assert kind in (undecodable(configuration(kind)) or "")


def test_recurrent_layers_that_read_padding_are_refused_before_sampling(
    folder, tiny_tokenizer, monkeypatch
):
    from transformers.models.lfm2 import modeling_lfm2

    def written():
        model = load_model(folder("lfm2"), device="cpu")
        with torch.no_grad():  # the token that pads is none of zeros, which would change no state
            model.get_input_embeddings().weight[0] = 0.3
        how = {"max_new_tokens": 2, "batch_size": 2, "seed": 0, "desc": None}
        return generate(model, tiny_tokenizer, [[5, 6, 7], [8]], **how)

    assert len(written()) == 2
    as_it_is = "apply_mask_to_padding_states"
    monkeypatch.setattr(modeling_lfm2, as_it_is, lambda hidden, mask: hidden)
    with pytest.raises(StudyError, match="lfm2 has recurrent layers whose logits differ") as error:
        written()
    assert "\n" not in str(error.value)


def test_the_head_of_a_nested_model_counts_its_text(folder, tiny_tokenizer):
    model = load_model(folder("gemma3", PADDED), device="cpu", vocabulary=len(tiny_tokenizer))
    assert type(model).__name__ == "Gemma3ForCausalLM"
    assert vocabulary(model.config) == len(tiny_tokenizer)
