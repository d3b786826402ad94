"""Fixtures shared by the tests: a small tokenizer and a random pair of models, no network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: a test never waits for it

from pathlib import Path

import pytest

CORPUS = [
    "What is 12 + 34? So, let us add: $12 + 34 = 46$. The answer is \\boxed{46}.",
    "## Step 1\n\n- Wait, we need **both** terms.\n- Then $x = \\frac{3}{4}$ and $y = 7$.\n\n",
    "Mia has 18 apples and gives away 5. Now she has $18 - 5 = 13$ apples, but Ben has 20.",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def older_reference(tmp_path, monkeypatch):
    """A function that leaves files out of the lab's reference, as before they were recorded."""
    import shutil

    from rockstudy import runs

    def without(*patterns):
        older = tmp_path / "older" / "lab"
        left_out = shutil.ignore_patterns(*patterns)
        shutil.copytree(runs.reference_dir("lab"), older, ignore=left_out)
        whole = runs.reference_dir
        monkeypatch.setattr(
            runs, "reference_dir", lambda preset: older if preset == "lab" else whole(preset)
        )
        return older

    return without


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=10, help="commands that test_kills.py kills")
    parser.addoption("--fuzz", type=int, help="cases of each family in test_fuzz.py")


@pytest.fixture(scope="session")
def tiny_tokenizer():
    return make_tokenizer()


def make_tokenizer():
    """A byte-level BPE of 320 tokens with single digits and a ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


@pytest.fixture(scope="session")
def tiny_pair_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer) -> Path:
    """A folder with teacher/, student/ and tokenizer/ in the transformers format.

    Shared by all tests of a session: copy it before changing anything in it.
    """
    return make_pair(tmp_path_factory.mktemp("pair"), tiny_tokenizer)


def make_pair(folder: Path, tiny_tokenizer) -> Path:
    """Write the pair of `tiny_pair_dir`."""
    tiny_tokenizer.save_pretrained(folder / "tokenizer")
    for seed, (name, hidden) in enumerate({"teacher": 48, "student": 32}.items()):
        tiny_model(tiny_tokenizer, hidden, seed).save_pretrained(folder / name)
        tiny_tokenizer.save_pretrained(folder / name)
    return folder


def tiny_model(tokenizer, hidden: int, seed: int):
    """A Qwen3 model of a few ten thousand parameters whose distributions are far from uniform."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=512,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config).eval()
