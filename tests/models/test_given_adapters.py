"""Adapters that somebody else trained: what is loaded is what peft computes, or one line."""

import json
import shutil

import peft
import pytest
import torch
from architectures import model as random_model
from safetensors.torch import load_file, save_file

from rockstudy.config.fields import PairConfig
from rockstudy.errors import StudyError
from rockstudy.models import loading, sources
from rockstudy.models.loading import load_model, load_pair

IDS = torch.arange(3, 19)[None]


def assert_near(made, wanted):
    """Up to rounding, which grows along the layers; without the adapter they differ far more."""
    assert bool((made - wanted).abs().max() < 1e-3 * wanted.abs().max())


ADAPTER, WEIGHTS = sources.ADAPTER, sources.ADAPTER_WEIGHTS
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated"),
    pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False"),
]
LAYERS = "all-linear"


def train(base, folder, **how):
    """Write an adapter of `base` that does something, and return the logits with it."""
    given = {"r": 2, "lora_alpha": 8, "target_modules": LAYERS, "task_type": "CAUSAL_LM"}
    tuned = peft.get_peft_model(base, peft.LoraConfig(**given | how)).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                weight.normal_(std=0.3, generator=generator)
        wanted = tuned(input_ids=IDS).logits
    tuned.save_pretrained(folder)
    return wanted


@pytest.fixture
def trained(tmp_path):
    """A base and an adapter of it, in two folders, and the logits of both together."""
    random_model("llama").save_pretrained(tmp_path / "base")
    base = load_model(str(tmp_path / "base"), device="cpu")
    base.name_or_path = str(tmp_path / "base")
    return tmp_path, train(base, tmp_path / "adapter")


@torch.no_grad()
def logits(*args, **kwargs):
    return load_model(*args, **kwargs, device="cpu")(IDS).logits


def refusal(*args, **kwargs):
    with pytest.raises(StudyError) as error:
        load_model(*args, **kwargs, device="cpu", field="student")
    message = str(error.value)
    assert message.startswith("student: ")
    assert "\n" not in message
    return message


def configure(folder, **changes):
    file = folder / ADAPTER
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_an_adapter_names_its_base_or_stands_beside_it(trained):
    folder, wanted = trained
    base, adapter = str(folder / "base"), str(folder / "adapter")
    assert_near(logits(adapter), wanted)
    assert torch.equal(logits(base, adapter=adapter), logits(adapter))
    assert (logits(base) - wanted).abs().max() > 0.1


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("gpt2", {}),  # weights (in, out)
        ("qwen2", {"use_dora": True}),  # biases
        ("llama", {"use_rslora": True, "rank_pattern": {"q_proj": 4}}),
        ("qwen3_moe", {"target_modules": ["q_proj", "v_proj"]}),
    ],
)
def test_adapters_of_many_kinds_give_peft_s_logits(tmp_path, kind, how):
    base = random_model(kind)
    base.save_pretrained(tmp_path / "base")
    wanted = train(base, tmp_path / "adapter", **how)
    made = logits(str(tmp_path / "base"), adapter=str(tmp_path / "adapter"))
    assert_near(made, wanted)


def test_a_head_that_an_adapter_parts_from_the_embeddings_is_saved_as_it_is(tmp_path):
    base = random_model("llama", tie_word_embeddings=True)
    base.save_pretrained(tmp_path / "base")
    how = {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}
    wanted = train(base, tmp_path / "adapter", **how)
    made = load_model(str(tmp_path / "base"), adapter=str(tmp_path / "adapter"), device="cpu")
    assert not made.config.tie_word_embeddings
    made.save_pretrained(tmp_path / "merged")
    assert_near(logits(str(tmp_path / "merged")), wanted)


@pytest.mark.parametrize("base", ["/no/such/base", "", None, "two words"])
def test_an_adapter_without_its_base_is_refused(trained, base):
    folder, _ = trained
    configure(folder / "adapter", base_model_name_or_path=base)
    message = refusal(str(folder / "adapter"))
    assert "give the base as the model and this folder as its adapter" in message


def test_a_base_out_of_reach_is_named_with_its_adapter(trained):
    folder, _ = trained
    configure(folder / "adapter", base_model_name_or_path="nobody/none-such")
    message = refusal(str(folder / "adapter"))
    assert "'nobody/none-such' (the base of " in message
    assert "the Hub cannot be reached" in message


def test_what_is_no_adapter_beside_a_model_is_refused(trained):
    folder, _ = trained
    message = refusal(str(folder / "base"), adapter=str(folder / "base"))
    assert "its adapter must be a folder or a Hub id with adapter_config.json" in message


def damaged(folder, kind):
    file = folder / WEIGHTS
    if kind == "pickled":
        torch.save(load_file(file), folder / "adapter_model.bin")
        file.unlink()
    elif kind == "truncated":
        file.write_bytes(file.read_bytes()[:200])
    elif kind == "config":
        (folder / ADAPTER).write_text("[1]")
    elif kind == "kind":
        configure(folder, peft_type="PROMPT_TUNING", num_virtual_tokens=4)
    elif kind == "shape":
        configure(folder, r=3)
    else:
        tensors = load_file(file)
        name = next(iter(tensors))
        if kind == "spare":
            tensors[name.replace("layers.0", "layers.9")] = tensors[name].clone()
        else:
            tensors.pop(name)
        save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("pickled", "must have an adapter with adapter_model.safetensors"),
        ("truncated", "safetensors file is damaged"),
        ("config", "must hold a readable adapter_config.json"),
        ("kind", "of the kind PROMPT_TUNING"),
        ("shape", "size mismatch"),
        ("spare", "has no place in"),
        ("missing", "with every tensor that adapter_config.json describes"),
    ],
)
def test_a_damaged_adapter_is_refused_in_one_line(trained, kind, reason):
    folder, _ = trained
    damaged(folder / "adapter", kind)
    assert reason in refusal(str(folder / "adapter"))


def test_the_files_of_an_adapter_and_of_its_base_are_its_identity(trained):
    folder, _ = trained

    def identity(name="adapter", adapter=None):
        return sources.identity(str(folder / name), None, None, "student", adapter)

    found = [identity(), identity("base")]
    assert identity() == identity("base", str(folder / "adapter"))
    for file in (folder / "adapter" / WEIGHTS, folder / "base" / "config.json"):
        before = file.read_bytes()
        file.write_bytes(before + b" ")
        found.append(identity())
        file.write_bytes(before)
    assert len(set(found)) == 4
    assert identity() == found[0]


@pytest.fixture
def pair_dir(tmp_path, tiny_pair_dir):
    return shutil.copytree(tiny_pair_dir, tmp_path / "pair")


def test_a_pair_may_be_a_base_and_its_adapter(pair_dir):
    base = load_model(str(pair_dir / "student"), device="cpu")
    train(base, pair_dir / "adapter")
    names = {"teacher": str(pair_dir / "student"), "student": str(pair_dir / "student")}
    config = PairConfig(**names, teacher_adapter=str(pair_dir / "adapter"))
    pair = load_pair(config, device="cpu")
    hashes = [loading.weights_hash(model) for model in (pair.teacher, pair.student)]
    assert hashes[0] != hashes[1]
    assert loading.identity_of(config, "teacher") != loading.identity_of(config, "student")


def test_the_tokenizer_that_an_adapter_comes_with_counts(pair_dir):
    base = load_model(str(pair_dir / "student"), device="cpu")
    train(base, pair_dir / "adapter")
    given = {"name": str(pair_dir / "student"), "adapter": str(pair_dir / "adapter")}
    assert loading.load_tokenizer(**given).chat_template  # the base's
    tokenizer = loading.load_tokenizer(str(pair_dir / "student"))
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.save_pretrained(pair_dir / "adapter")
    assert loading.load_tokenizer(**given).chat_template == "{{ messages }}"


@pytest.mark.parametrize("kind", [None, "spare", "shape"])
def test_a_dry_run_finds_a_wrong_adapter_without_weights_in_memory(trained, kind):
    from rockstudy.models import adapters, configuration, weights

    folder, _ = trained
    if kind:
        damaged(folder / "adapter", kind)
    source = sources.resolve(str(folder / "adapter"), None, None, "student")
    base = weights.loaded(source, configuration.read(source), device_map="meta")
    if kind is None:
        assert adapters.tuned(base, source)
    else:
        with pytest.raises(StudyError, match=r"^student: must"):
            adapters.tuned(base, source)
