"""Compiled layers give what the layers give as they are written."""

import copy

import pandas as pd
import pytest
import torch
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

from rockstudy.config.overrides import from_parameters
from rockstudy.errors import StudyError
from rockstudy.models import compiled, loading
from rockstudy.runs import Run
from rockstudy.training import stages

# torch's compiler reads the .grad of every tensor, and hides what torch then says to others
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_disable`:FutureWarning"),
]


def _has_compiler():
    try:
        compiled.check_compiler("")
    except StudyError:
        return False
    return True


needs_compiler = pytest.mark.skipif(not _has_compiler(), reason="no C++ compiler is here")


@pytest.fixture(scope="module")
def plain():
    return loading.load_model("tiny:student", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def ours(plain):
    made = copy.deepcopy(plain)
    compiled.compile_layers(made)
    return made


def states_and_gradients(model, ids):
    """Last hidden states, and the gradients of a sum of their squares, by name."""
    model.zero_grad()
    states = model.get_decoder()(ids, use_cache=False).last_hidden_state
    states.square().sum().backward()
    return states.detach(), {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }


@needs_compiler
def test_states_and_gradients_are_those_of_the_layers_as_they_are_written(plain, ours):
    for rows, length in ((4, 24), (3, 17), (4, 40)):
        ids = torch.randint(0, plain.config.vocab_size, (rows, length))
        (states, gradients), (same, alike) = (states_and_gradients(m, ids) for m in (plain, ours))
        torch.testing.assert_close(same, states, rtol=1e-4, atol=1e-5)
        assert alike.keys() == gradients.keys()
        largest = max(gradient.abs().max() for gradient in gradients.values())
        for name, gradient in gradients.items():
            torch.testing.assert_close(alike[name], gradient, rtol=1e-3, atol=1e-5 * float(largest))


@needs_compiler
def test_all_layers_and_lengths_share_what_was_compiled_and_sampling_compiles_nothing(plain, ours):
    texts = [torch.randint(0, plain.config.vocab_size, (2, n)) for n in (19, 23, 37)]
    with torch.no_grad():
        ours.get_decoder()(texts[0], use_cache=False)
        with torch.compiler.set_stance("fail_on_recompile"):
            for ids in texts:
                ours.get_decoder()(ids, use_cache=False)
            for model in (plain, ours):
                cache = DynamicCache(config=model.config)
                model(texts[2][:, :-1], past_key_values=cache)
                last = model(texts[2][:, -1:], past_key_values=cache).logits[:, -1]
                whole = plain(texts[2], use_cache=False).logits[:, -1]
                torch.testing.assert_close(last, whole, rtol=1e-4, atol=1e-5)


@needs_compiler
def test_plain_attention_is_for_whole_texts_and_a_checkpointed_layer_runs_again_as_before(ours):
    config, ids = ours.config, torch.randint(0, ours.config.vocab_size, (2, 21))
    ours(ids, past_key_values=DynamicCache(config=config))
    assert config._attn_implementation == "sdpa"
    _, gradients = states_and_gradients(ours, ids)
    ours.gradient_checkpointing_enable({"use_reentrant": False})
    ours.train()
    _, again = states_and_gradients(ours, ids)
    ours.gradient_checkpointing_disable()
    ours.eval()
    for name, gradient in gradients.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-3, atol=1e-5)


def test_a_machine_without_a_compiler_is_refused_by_the_field(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(StudyError, match="stage2__compiled: must be false"):
        compiled.check_compiler("stage2__compiled")
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(StudyError, match=r"g\+\+ and clang\+\+ cannot be found"):
        compiled.check_compiler("stage2__compiled")


@needs_compiler
def test_a_stage_trains_alike_and_keeps_models_that_load_as_others(tmp_path):
    """Rollouts of the student, which samples with a cache, and an optimiser's steps."""
    found = []
    for value in (False, True):
        overrides = {"source": "student", "steps": 3, "logging_steps": 1, "compiled": value}
        config = from_parameters("tiny", **{f"stage1__{n}": v for n, v in overrides.items()})
        made = stages.train(Run(config, tmp_path / str(value)), "stage1", seed=0)
        found.append((made.metrics, loading.load_model(str(made.checkpoints["late"]))))
    (metrics, model), (same, alike) = found
    named = ["loss", "n_tokens"]
    pd.testing.assert_frame_equal(same[named], metrics[named], rtol=1e-4)
    assert alike.config._attn_implementation == model.config._attn_implementation
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(alike.state_dict()[name], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("spare", [0, 1])
def test_a_compiler_that_fails_is_one_line(plain, monkeypatch, spare):
    """On the first call, before anything expensive, or on a later one."""
    calls = []

    def compiler(*args, **kwargs):
        calls.append(args)
        if len(calls) > spare:
            raise torch._dynamo.exc.TorchDynamoException("Python.h: no such file\nand more")

    monkeypatch.setattr(torch, "compile", lambda eager, **how: compiler)
    broken = copy.deepcopy(plain)
    with pytest.raises(StudyError, match="compiler fails; 'Python"):
        compiled.compile_layers(broken)
        broken.get_decoder()(torch.zeros(1, 4, dtype=torch.int64), use_cache=False)
    assert len(calls) == spare + 1


def test_a_decoder_of_another_make_is_one_line():
    with pytest.raises(StudyError, match=r"compiled: must be false for a model .*; got gpt2"):
        compiled.compile_layers(GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2)))


@needs_compiler
@pytest.mark.parametrize("half", [False, True])
def test_what_is_compiled_first_changes_no_byte(plain, half):
    """A resumed training meets other lengths first, and must end as one that was not killed."""
    texts = [torch.randint(0, plain.config.vocab_size, size) for size in ((4, 24), (3, 41), (1, 8))]
    found = []
    for order in ((0, 1, 2), (2, 1, 0)):
        torch._dynamo.reset()
        made = copy.deepcopy(plain)
        compiled.compile_layers(made)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            found.append({i: states_and_gradients(made, texts[i]) for i in order})
    for i in range(len(texts)):
        (states, gradients), (same, alike) = (one[i] for one in found)
        assert torch.equal(states, same)
        assert all(torch.equal(gradient, alike[name]) for name, gradient in gradients.items())
