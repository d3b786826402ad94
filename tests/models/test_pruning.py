"""Depth-pruned copies of many architectures: the layers that are left, saved and loaded again."""

import pytest
import torch
from architectures import model as random_model

from rockstudy.errors import StudyError
from rockstudy.models.loading import load_model, weights_hash
from rockstudy.models.pruning import depth_pruned

PRUNABLE = [
    "llama",
    "qwen2",
    "qwen3",
    "gpt2",
    "gpt_neox",
    "opt",
    "gemma2",
    "gemma3_text",
    "phi",
    "mistral",
    "mixtral",
    "qwen3_moe",
]
IDS = torch.arange(3, 19)[None]


@torch.no_grad()
def logits(model):
    return model(IDS).logits


@pytest.mark.parametrize("kind", PRUNABLE)
def test_a_pruned_copy_skips_layers_and_is_the_same_when_loaded_again(kind, tmp_path):
    model = random_model(kind)
    before = weights_hash(model)
    pruned = depth_pruned(model, 2)
    assert weights_hash(model) == before
    assert pruned.config.num_hidden_layers == 2
    ours = {id(tensor.untyped_storage()) for tensor in model.state_dict().values()}
    assert not any(id(t.untyped_storage()) in ours for t in pruned.state_dict().values())
    pruned.save_pretrained(tmp_path)
    assert torch.equal(logits(load_model(str(tmp_path), device="cpu")), logits(pruned))


@pytest.mark.parametrize(
    ("kind", "others", "reason"),
    [
        ("llama", {"num_hidden_layers": 2}, "at least 3 layers"),
        ("gemma3n_text", {}, "gemma3n_text"),  # its last layers read the keys of earlier ones
        ("deepseek_v3", {}, "layers differ"),  # the first layers are dense
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "depend on their place"),
        ("qwen3_next", {"num_hidden_layers": 3, "layer_types": ["linear_attention"] * 2
                        + ["full_attention"]}, "no layer of attention"),
    ],
)  # fmt: skip
def test_architectures_whose_layers_depend_on_each_other_are_not_pruned(kind, others, reason):
    with pytest.raises(StudyError) as error:
        depth_pruned(random_model(kind, **others), 3)
    assert str(error.value).startswith("drop_every: 3 needs a model with at least 3 layers")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_pruning_prints_nothing_and_draws_no_random_numbers(capfd):
    model, state = random_model("llama", tie_word_embeddings=True), torch.get_rng_state()
    depth_pruned(model, 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert capfd.readouterr() == ("", "")
