"""Bytes of tokens, and the hash of a vocabulary."""

import copy

import pytest

from rockstudy.models.token_bytes import token_bytes, token_names, vocabulary_hash

TEXT = "Wait, 12 × 3 = 36.\n\n  So — yes: 🙂 naïve\t日本."


def test_the_bytes_of_a_byte_level_encoding_are_those_of_the_text(tiny_tokenizer):
    ids = tiny_tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert b"".join(token_bytes(tiny_tokenizer, ids)) == TEXT.encode()


def test_an_added_token_has_the_bytes_of_its_name_and_no_token_has_none(tiny_tokenizer):
    end = tiny_tokenizer.eos_token_id
    assert token_bytes(tiny_tokenizer, [end, len(tiny_tokenizer) + 5]) == [b"<|im_end|>", None]
    assert token_names(tiny_tokenizer, [end, len(tiny_tokenizer) + 5]) == ["<|im_end|>", None]


@pytest.fixture
def sentencepiece():
    """A vocabulary with SentencePiece's blank and its bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    words = [f"<0x{byte:02X}>" for byte in range(256)] + [*"\u2581haeb", "ha", "\u2581ha"]
    merges = [("h", "a"), ("\u2581", "ha")]
    model = models.BPE({w: i for i, w in enumerate(words)}, merges, byte_fallback=True)
    made = Tokenizer(model)
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made)


def test_the_bytes_of_sentencepiece_hold_its_blanks_and_the_parts_of_characters(sentencepiece):
    text = "ha haha 🙂é"
    ids = sentencepiece(text, add_special_tokens=False)["input_ids"]
    assert b"".join(token_bytes(sentencepiece, ids)) == f" {text}".encode()


def test_a_tokenizer_that_adds_blanks_when_it_decodes_has_no_bytes():
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordPiece({"[UNK]": 0, "ha": 1, "##ha": 2}, unk_token="[UNK]"))
    made.decoder = decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made)
    assert token_bytes(tokenizer, [1, 2]) == [None, None]


def test_the_hash_knows_another_vocabulary_and_not_an_added_token(tiny_tokenizer, sentencepiece):
    padded = copy.deepcopy(tiny_tokenizer)
    padded.add_tokens(["<|pad|>"])
    assert vocabulary_hash(padded) == vocabulary_hash(tiny_tokenizer)
    assert vocabulary_hash(sentencepiece) != vocabulary_hash(tiny_tokenizer)
