"""Adapters: what is kept is their sum with the weights, as peft makes it, and they alone train."""

import copy
import sys

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, Qwen2Config

from rockstudy.config.overrides import from_parameters
from rockstudy.errors import StudyError
from rockstudy.models import adapters, loading
from rockstudy.runs import Run
from rockstudy.training import stages
from rockstudy.training.trainer import DistillTrainer

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
GIVEN = {"stage2__steps": 6, "stage2__save_steps": 2, "stage2__lora_rank": 2}


def with_adapters(plain=None) -> peft.PeftModel:
    """A model, by default the tiny student, with adapters that do something."""
    plain = plain or loading.tiny_pair().student
    model = peft.get_peft_model(plain, adapters.adapters(3))
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(generator=generator)
    return model


def test_merged_weights_are_those_that_peft_merges_and_give_the_same_logits():
    model, ids = with_adapters(), torch.arange(3, 40)[None]
    plain = loading.tiny_pair().student
    with torch.no_grad():
        plain.load_state_dict(adapters.merged(model.state_dict(), model))
        torch.testing.assert_close(plain(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)
        assert (plain(ids).logits - loading.tiny_pair().student(ids).logits).abs().max() > 1
    assert loading.weights_hash(plain) == loading.weights_hash(model.merge_and_unload())


QWEN2 = Qwen2Config(
    vocab_size=64,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
)
GPT2 = GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=64)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
@pytest.mark.parametrize("config", [QWEN2, GPT2], ids=["biases", "turned round"])
def test_adapters_of_other_linear_layers_are_merged_as_peft_does(config):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = AutoModelForCausalLM.from_config(config).eval()
    model, ids = with_adapters(copy.deepcopy(plain)), torch.arange(3, 40)[None]
    plain.load_state_dict(adapters.merged(model.state_dict(), model.get_base_model()))
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)
    assert loading.weights_hash(plain) == loading.weights_hash(model.merge_and_unload())


def test_every_linear_layer_but_the_head_gets_adapters():
    model = loading.tiny_pair().student
    linear = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)} - {"lm_head"}
    adapted = {
        n.split(".lora_A")[0] for n, _ in with_adapters().named_parameters() if "lora_A" in n
    }
    assert {f"base_model.model.{name}" for name in linear} == adapted


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Both stages of `tiny`, the second with adapters alone."""
    run = Run(from_parameters("tiny", **GIVEN), tmp_path_factory.mktemp("run"))
    return run, stages.train(run, "stage2", seed=0)


def test_a_kept_checkpoint_is_an_ordinary_model_that_differs_by_matrices_of_the_rank(trained):
    run, result = trained
    start = stages.train(run, "stage1", seed=0).checkpoints["late"]
    assert {f.name for f in result.checkpoints["late"].iterdir()} == {
        f.name for f in start.iterdir()
    }
    before, after = (
        dict(loading.load_model(str(folder)).named_parameters())
        for folder in (start, result.checkpoints["late"])
    )
    for name, weight in after.items():
        change = (weight - before[name]).detach()
        if name.endswith("_proj.weight"):
            singular = torch.linalg.svdvals(change)
            assert singular[0] > 1e-5
            assert (singular[2:] < 1e-3 * singular[0]).all()  # of rank 2, but for rounding
        else:
            assert not change.any()


def test_adapters_start_alike_at_one_seed_and_otherwise_at_another(trained, tmp_path):
    run, (_, first) = Run(from_parameters("tiny", **GIVEN), tmp_path), trained
    assert stages.train(run, "stage2", seed=0).hash == first.hash
    assert stages.train(run, "stage2", seed=1).hash != first.hash


def test_training_of_adapters_that_failed_goes_on_and_ends_with_the_same_bytes(
    trained, tmp_path, monkeypatch
):
    run, (_, whole) = Run(from_parameters("tiny", **GIVEN), tmp_path), trained
    real = DistillTrainer._compute_loss

    def failing(self, *arguments):
        if self.state.max_steps == 6 and self.state.global_step == 4:
            raise MemoryError
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(DistillTrainer, "_compute_loss", failing)
        with pytest.raises(StudyError, match="stage2 step 5: out of memory"):
            stages.train(run, "stage2", seed=0)
    (kept,) = tmp_path.rglob("checkpoint-4")
    assert not [*kept.glob("model*.safetensors")]  # adapters alone
    assert stages.train(run, "stage2", seed=0).hash == whole.hash


@pytest.mark.parametrize("rank", [0, -1, True, 1.5, "low"])
def test_a_rank_that_is_no_positive_number_is_refused(rank):
    with pytest.raises(
        StudyError, match=r"stage2__lora_rank: must be a whole number >= 1 and <= 10000 or None"
    ):
        from_parameters("tiny", stage2__lora_rank=rank)


def test_without_peft_one_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(StudyError, match=r"lora_rank: needs peft; .*rockstudy\[lora\]"):
        adapters.adapters(8)
