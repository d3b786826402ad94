"""What config.json may hold: refused in one line, set back, or read from its text part."""

import json

import pytest
import torch
from architectures import configuration as small
from architectures import model as random_model
from architectures import nested
from transformers import CONFIG_MAPPING, BertConfig, T5Config

from rockstudy.errors import StudyError
from rockstudy.models.configuration import context, read, vocabulary
from rockstudy.models.loading import load_model
from rockstudy.models.sources import resolve


def write(folder, config, **changes):
    """Write a configuration with changes; None takes a key away."""
    folder.mkdir(exist_ok=True)
    given = (config.to_dict() if not isinstance(config, dict) else config) | changes
    (folder / "config.json").write_text(json.dumps(given))
    return resolve(str(folder), None, None, "teacher")


def refusal(source):
    with pytest.raises(StudyError) as error:
        read(source)
    message = str(error.value)
    assert message.startswith("teacher: ")
    assert "\n" not in message
    assert source.where in message
    return message


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"attention_dropout": 2.0}, "attention_dropout must be from 0 to below 1; got 2.0"),
        ({"attention_dropout": -1}, "attention_dropout must be from 0 to below 1; got -1"),
        ({"attention_dropout": "much"}, "attention_dropout"),
        (
            {"max_position_embeddings": 0},
            "max_position_embeddings must be a whole number of at least 1; got 0",
        ),
        ({"max_position_embeddings": "512"}, "at least 1; got '512'"),
        ({"hidden_size": -32}, "hidden_size must be a whole number of at least 1; got -32"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a whole number of at least 1; got 0"),
        ({"num_hidden_layers": 2.5}, "at least 1; got 2.5"),
        ({"num_attention_heads": 0}, "num_attention_heads must be a whole"),
        ({"vocab_size": 0}, "vocab_size must be a whole number of at least 1; got 0"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps must be above 0; got -1.0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps must be finite; got nan"),
        ({"torch_dtype": "float99"}, "torch_dtype must be a type of torch; got 'float99'"),
        ({"dtype": 16}, "dtype must be a type of torch; got 16"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "must be plain"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "quantization names a packed format"),
        ({"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}, "code that comes with"),
        ({"model_type": "own"}, "model_type must be one that transformers has; got 'own'"),
        ({"model_type": None}, "model_type must be one that transformers has; got None"),
        ({"is_encoder_decoder": True}, "decoder-only"),
    ],
)
def test_a_configuration_that_cannot_run_is_refused_in_one_line(tmp_path, changes, reason):
    assert reason in refusal(write(tmp_path, small("llama"), **changes))


@pytest.mark.parametrize(("kind", "field"), [("gpt2", "n_layer"), ("opt", "num_hidden_layers")])
def test_a_size_is_named_as_in_the_file(tmp_path, kind, field):
    assert f"{field} must be a whole number of at least 1" in refusal(
        write(tmp_path, small(kind), **{field: -1})
    )


def test_a_configuration_that_is_no_object_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("[1, 2]")
    assert "JSON object" in refusal(resolve(str(tmp_path), None, None, "teacher"))


@pytest.mark.parametrize(
    "config",
    [
        BertConfig(),
        T5Config(),
        CONFIG_MAPPING["rwkv"](),
        CONFIG_MAPPING["mamba"](),
        CONFIG_MAPPING["minimax"](),
        CONFIG_MAPPING["deepseek_v4"](),
        CONFIG_MAPPING["recurrent_gemma"](),
    ],
    ids=lambda config: config.model_type,
)
def test_architectures_that_the_decoder_cannot_handle_are_refused(tmp_path, config):
    assert config.model_type in refusal(write(tmp_path, config))


def test_options_that_change_a_training_are_set_back(tmp_path):
    given = {
        "attention_dropout": 0.1,
        "output_attentions": True,
        "output_hidden_states": True,
        "return_dict": False,
        "use_cache": False,
        "auto_map": {"AutoModelForCausalLM": "own.Own"},
    }
    config = read(write(tmp_path, small("llama"), **given))
    assert config.attention_dropout == 0
    assert not config.output_attentions
    assert not config.output_hidden_states
    assert config.return_dict
    assert config.use_cache
    assert not hasattr(config, "auto_map")


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("gpt2", {"attn_pdrop": 0.1, "embd_pdrop": 0.1, "resid_pdrop": 0.1}),
        ("opt", {"dropout": 0.1, "layerdrop": 0.5}),
        ("mixtral", {"router_jitter_noise": 0.1, "output_router_logits": True}),
        ("gemma3_text", {"attention_dropout": 0.3}),
    ],
)
def test_a_loaded_model_computes_the_same_while_it_is_trained(tmp_path, kind, given):
    random_model(kind, **given).save_pretrained(tmp_path)
    model = load_model(str(tmp_path), device="cpu")
    ids = torch.arange(3, 19)[None]
    with torch.no_grad():
        wanted = model(ids).logits
        assert torch.equal(model.train()(ids).logits, wanted)


def test_the_text_part_of_a_nested_configuration_counts(tmp_path):
    config = read(write(tmp_path, nested(attention_dropout=0.2)))
    assert (context(config), vocabulary(config)) == (64, 64)
    assert config.text_config.attention_dropout == 0


@pytest.mark.parametrize("changes", [{"num_hidden_layers": -1}, {"max_position_embeddings": 0}])
def test_the_text_part_of_a_nested_configuration_is_checked(tmp_path, changes):
    given = nested().to_dict()
    given["text_config"] |= changes
    assert f"{next(iter(changes))} must be a whole number of at least 1" in refusal(
        write(tmp_path, given)
    )


def test_the_language_model_of_a_nested_one_is_loaded_saved_and_trained(tmp_path):
    from transformers import Gemma3ForConditionalGeneration

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whole = Gemma3ForConditionalGeneration(nested()).eval()
    whole.save_pretrained(tmp_path / "whole")
    model = load_model(str(tmp_path / "whole"), device="cpu")
    ids = torch.arange(3, 19)[None]
    assert type(model).__name__ == "Gemma3ForCausalLM"
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    with torch.no_grad():
        assert torch.equal(model(ids).logits, whole(input_ids=ids).logits)
    model.train()(ids).logits.sum().backward()
    model.save_pretrained(tmp_path / "text")
    again = load_model(str(tmp_path / "text"), device="cpu")
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model.eval()(ids).logits)


def test_a_generation_configuration_that_cannot_be_saved_keeps_its_special_tokens(tmp_path):
    random_model("llama").save_pretrained(tmp_path)
    file = tmp_path / "generation_config.json"
    file.write_text(json.dumps({"do_sample": False, "temperature": 0.6, "eos_token_id": [2, 5]}))
    model = load_model(str(tmp_path), device="cpu")
    assert model.generation_config.eos_token_id == [2, 5]
    model.save_pretrained(tmp_path / "again")
