"""Batches that the decoder writes with a cache, against forward passes without one."""

import numpy as np
import pytest
import torch
from architectures import model as random_model
from transformers import MptConfig, MptForCausalLM

from rockstudy.sampling.decoding import Chooser, decode

DECODED = [
    "llama",
    "gpt2",
    "gpt_neox",
    "opt",
    "gemma2",
    "gemma3_text",
    "phi",
    "mistral",
    "mixtral",
    "bloom",
    "gemma3n_text",
    "qwen3_next",
    "qwen3_5_text",
    "jamba",
    "lfm2",
]
LIMITS = np.array([12, 3, 7, 12, 5])
END = 2


def prompts():
    rng = np.random.default_rng(0)
    made = [rng.integers(3, 64, size=n).tolist() for n in (9, 4, 13, 10)]
    return [*made, made[2][:7]]  # the last is the beginning of a longer one


@torch.no_grad()
def greedy(model, prompt, limit):
    ids = list(prompt)
    while len(ids) < len(prompt) + limit and ids[-1] != END:
        ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@torch.no_grad()
def decoded(model, limits=LIMITS):
    rows = prompts()
    uniforms, ends = np.zeros((len(rows), max(limits))), torch.tensor([END])
    done = dict(decode(model, rows, uniforms, Chooser(0.0), ends, limits))
    return [done[row].tolist() for row in range(len(rows))]


@pytest.mark.parametrize("kind", DECODED)
def test_a_batch_is_decoded_as_each_of_its_rows_without_a_cache(kind):
    model = random_model(kind)
    wanted = [greedy(model, *row) for row in zip(prompts(), LIMITS.tolist(), strict=True)]
    assert decoded(model) == wanted


def test_a_model_without_position_ids_is_decoded_as_without_a_cache():
    config = MptConfig(d_model=32, n_heads=4, n_layers=2, vocab_size=64, max_seq_len=64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MptForCausalLM(config).eval()
    with torch.no_grad():
        model.transformer.wte.weight.mul_(20)
    wanted = [greedy(model, *row) for row in zip(prompts(), LIMITS.tolist(), strict=True)]
    assert decoded(model) == wanted


def test_sliding_windows_are_decoded_as_transformers_generates():
    model = random_model("gemma3_text")
    for prompt, given in zip(prompts(), decoded(model, np.full(5, 12)), strict=True):
        made = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)
        assert made[0, len(prompt) :].tolist() == given
