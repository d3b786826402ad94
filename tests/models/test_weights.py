"""The files of a model's weights against its configuration, and other programs' formats."""

import json

import pytest
import torch
from architectures import model as random_model
from safetensors.torch import load_file, save_file

from rockstudy.errors import StudyError
from rockstudy.models import configuration, weights
from rockstudy.models.loading import load_model
from rockstudy.models.sources import resolve

WHOLE = weights.WHOLE


def refusal(folder):
    with pytest.raises(StudyError) as error:
        load_model(str(folder), device="cpu", field="student")
    message = str(error.value)
    assert message.startswith("student: must")
    assert "\n" not in message
    return message


def compared(folder):
    """The message of the comparison that keeps no tensors, None if nothing is wrong."""
    source = resolve(str(folder), None, None, "student")
    try:
        weights.loaded(source, configuration.read(source), device_map="meta")
    except StudyError as error:
        return str(error)
    return None


def configure(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit(folder, change):
    tensors = load_file(folder / WHOLE)
    change(tensors)
    save_file(tensors, folder / WHOLE, {"format": "pt"})


@pytest.fixture
def folder(tmp_path):
    random_model("llama", tie_word_embeddings=True).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_hidden_layers": 1}, "has model.layers.1.input_layernorm.weight (27 in all)"),
        ({"num_hidden_layers": 5}, "lacks model.layers.4.input_layernorm.weight (9 in all)"),
        ({"intermediate_size": 40}, "of (32, 48), and config.json describes (32, 40)"),
        ({"vocab_size": 60}, "of (64, 32), and config.json describes (60, 32)"),
        ({"attention_bias": True}, "lacks model.layers.0.self_attn.k_proj.bias"),
        ({"tie_word_embeddings": False}, "lacks lm_head.weight (1 in all)"),
    ],
)
def test_files_that_the_configuration_does_not_describe_are_refused(folder, changes, reason):
    configure(folder, **changes)
    assert reason in refusal(folder)
    assert reason in compared(folder)


def test_a_spare_tensor_is_refused(folder):
    edit(folder, lambda tensors: tensors.update({"model.extra.weight": torch.ones(2)}))
    assert "has model.extra.weight (1 in all)" in refusal(folder)
    assert "has model.extra.weight (1 in all)" in compared(folder)


def test_buffers_of_older_versions_are_no_spare_tensors(folder):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit(folder, lambda tensors: tensors.update({name: torch.ones(4)}))
    assert compared(folder) is None
    load_model(str(folder), device="cpu")


def test_a_head_that_differs_from_the_one_it_is_tied_to_is_refused(folder):
    edit(folder, lambda tensors: tensors.update({"lm_head.weight": torch.ones(64, 32)}))
    assert "tie_word_embeddings must be false" in refusal(folder)


def test_a_tied_head_may_be_in_the_file_as_well(folder):
    def double(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    edit(folder, double)
    model = load_model(str(folder), device="cpu")
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pytorch_model.bin", "pickled weights"),
        ("pytorch_model-00001-of-00002.bin", "pickled weights"),
        ("model.pth", "pickled weights"),
        ("tf_model.h5", "TensorFlow"),
        ("flax_model.msgpack", "Flax"),
        ("model.gguf", "gguf_file"),
        ("global_step10/mp_rank_00_model_states.pt", "zero_to_fp32.py"),
        ("pytorch_model_fsdp_0/__0_0.distcp", "accelerate merge-weights"),
        ("__0_0.distcp", "accelerate merge-weights"),
        ("iter_0000100/mp_rank_00/model_optim_rng.pt", "Megatron"),
        ("consolidated.00.pth", "own program"),
        ("weights.npz", "MLX"),
        ("model.onnx", "ONNX"),
        ("diffusion.safetensors", "other names"),
        ("notes.txt", "has none"),
    ],
)
def test_weights_of_other_programs_are_named_with_what_to_do(folder, name, reason):
    (folder / WHOLE).unlink()
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()
    assert reason in refusal(folder)


def test_an_adapter_is_not_added_to_a_model_unseen(folder):
    (folder / weights.ADAPTER).write_text("{}")
    assert "merge it into its model" in refusal(folder)


def test_a_missing_shard_is_named(tmp_path):
    random_model("llama").save_pretrained(tmp_path, max_shard_size="40KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    load_model(str(tmp_path), device="cpu")
    shard.unlink()
    assert f"must hold {shard.name}" in refusal(tmp_path)
    (tmp_path / weights.INDEX).write_text("{}")
    assert f"readable {weights.INDEX}" in refusal(tmp_path)
