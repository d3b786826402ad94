"""Padded vocabularies: cut to the shared ids, which renormalises over them and nothing else."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from architectures import model as random_model
from conftest import tiny_model as random_qwen3

from rockstudy.config.fields import ModelsConfig, PairConfig
from rockstudy.errors import StudyError
from rockstudy.models import vocabularies
from rockstudy.models.checkpoints import given
from rockstudy.models.configuration import vocabulary
from rockstudy.models.divergence import Head, States, logits
from rockstudy.models.loading import load_model, load_pair, vocabulary_sizes

IDS = torch.arange(3, 19)[None]
KINDS = ["llama", "gpt2", "phi", "gemma2", "opt", "qwen3_moe", "granite"]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_model_is_the_whole_one_renormalised_over_the_shared_ids(kind, tied, tmp_path):
    model = random_model(kind, vocab_size=72, tie_word_embeddings=tied, pad_token_id=70)
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        torch.nn.init.normal_(model.get_output_embeddings().bias)  # phi's
    with torch.no_grad():
        wanted = model(IDS).logits[..., :64].log_softmax(-1)
        cut = vocabularies.cut(model, 64)
        assert cut is model
        assert vocabulary(cut.config) == 64
        torch.testing.assert_close(cut(IDS).logits.log_softmax(-1), wanted, rtol=0, atol=1e-6)
        hidden = cut.get_decoder()(input_ids=IDS).last_hidden_state[0]
        tiled = logits(States(hidden, Head.of(cut)), 0, 64).log_softmax(-1)
        torch.testing.assert_close(tiled, wanted[0], rtol=1e-5, atol=1e-5)
        same = cut.get_output_embeddings().weight is cut.get_input_embeddings().weight
        assert same is tied
        cut.save_pretrained(tmp_path)
        again = load_model(str(tmp_path), device="cpu")
        assert torch.equal(again(IDS).logits, cut(IDS).logits)


def test_a_model_with_the_shared_ids_alone_is_left_as_it_is():
    model = random_model("llama")
    before = model.get_output_embeddings().weight
    assert vocabularies.cut(model, 64).get_output_embeddings().weight is before
    with pytest.raises(StudyError, match="after: must have at least the 65 ids of the others"):
        vocabularies.cut(model, 65, "after")


@pytest.fixture
def pair_dir(tmp_path, tiny_pair_dir):
    return shutil.copytree(tiny_pair_dir, tmp_path / "pair")


def config_of(folder):
    return PairConfig(teacher=str(folder / "teacher"), student=str(folder / "student"))


@pytest.mark.parametrize(("role", "hidden"), [("teacher", 48), ("student", 32)])
def test_a_pair_with_padded_vocabularies_is_compared_on_the_shared_ids(
    role, hidden, tiny_tokenizer, pair_dir
):
    size = len(tiny_tokenizer)
    bigger = random_qwen3(tiny_tokenizer, hidden, 0)
    bigger.resize_token_embeddings(size + 8)
    bigger.save_pretrained(pair_dir / role)
    with pytest.warns(
        UserWarning, match=rf"{size + 8} of the {role}.* the {size} that all have are compared"
    ):
        pair = load_pair(config_of(pair_dir), device="cpu")
    assert [vocabulary(model.config) for model in (pair.teacher, pair.student)] == [size, size]
    with torch.no_grad():
        wanted = bigger.eval()(IDS).logits[..., :size]
        assert torch.equal(getattr(pair, role)(IDS).logits, wanted)
    given = load_model(str(pair_dir / role), device="cpu", vocabulary=size)
    assert torch.equal(given.state_dict()["lm_head.weight"], bigger.lm_head.weight[:size])


def test_a_head_without_room_for_every_token_is_refused(tiny_tokenizer):
    size = len(tiny_tokenizer)
    both = (tiny_tokenizer, tiny_tokenizer)
    with pytest.raises(StudyError, match=rf"has {size} ids and the student {size - 1}"):
        vocabularies.shared({"teacher": size, "student": size - 1}, *both)
    with pytest.raises(
        StudyError, match=rf"^after: .* has {size - 1} ids and the student {size - 2}"
    ):
        vocabularies.shared({"teacher": size - 1, "after": size - 2}, *both)
    with pytest.raises(StudyError, match=r"an output for every token; it has 300"):
        vocabularies.shared({"teacher": 300, "student": 300}, *both)
    sizes = {"teacher": size + 9, "before": size + 3, "after": size}
    assert vocabularies.shared(sizes, *both) == size
    assert vocabularies.note(dict.fromkeys(sizes, size), size) is None


def test_different_tokenizers_stay_refused_with_the_reason(tiny_tokenizer, pair_dir):
    file = pair_dir / "student" / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    file.write_text(json.dumps(tokenizer))
    with pytest.raises(StudyError) as error:
        load_pair(config_of(pair_dir), device="cpu")
    assert f"token 'a' is id {vocab['b']} for the teacher and {vocab['a']}" in str(error.value)
    other = SimpleNamespace(get_vocab=lambda: tiny_tokenizer.get_vocab() | {"[PAD]": 320})
    with pytest.raises(StudyError, match=r"'\[PAD\]' is id None for the teacher and 320 for the"):
        vocabularies.shared({"teacher": 330, "student": 328}, tiny_tokenizer, other)


def test_given_models_are_cut_to_the_ids_that_all_of_them_have(tiny_tokenizer, pair_dir):
    size = len(tiny_tokenizer)
    sizes = {"teacher": size + 8, "student": size + 3}
    for (role, n), hidden in zip(sizes.items(), (48, 32), strict=True):
        bigger = random_qwen3(tiny_tokenizer, hidden, 0)
        bigger.resize_token_embeddings(n)
        bigger.save_pretrained(pair_dir / role)
    before, after = str(pair_dir / "student"), str(pair_dir / "after")
    random_qwen3(tiny_tokenizer, 32, 1).save_pretrained(after)  # and no tokenizer
    models = ModelsConfig(teacher=str(pair_dir / "teacher"), before=before, after=after)
    found = {name: vocabulary(one.load().config) for name, one in given(models).items()}
    assert found == {"pre": size, "post": size}
    others = vocabulary_sizes(models, ("after", "between"))
    assert others == {"after": size}
    with pytest.warns(UserWarning, match=rf"{size} of the after\), the {size} that all have"):
        pair = load_pair(config_of(pair_dir), device="cpu", others=others)
    assert {vocabulary(model.config) for model in (pair.teacher, pair.student)} == {size}
