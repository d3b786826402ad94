"""Texts of tokens: added letters, SentencePiece's spaces and bytes, parts of a character."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rockstudy.models.token_texts import decoded, excerpt, token_texts, visible

SPACED = "a , b . c ' d ! it 's n't"


@pytest.fixture
def byte_level(tiny_tokenizer):
    """The tiny tokenizer with letters that were added, and settings that tidy spaces."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tiny_tokenizer.backend_tokenizer.to_str()),
        eos_token="<|im_end|>",
        clean_up_tokenization_spaces=True,
        clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output=True,
    )
    tokenizer.add_tokens(["č", "ha", "<think>"])
    return tokenizer


@pytest.fixture
def sentencepiece():
    """A BPE with SentencePiece's space, bytes as a fallback, and Llama's decoder."""
    pieces = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "h", "a", "A"]
    vocabulary = {piece: i for i, piece in enumerate([*pieces, "ha", "▁ha"])}
    merges = [("h", "a"), ("▁", "ha")]
    bpe = models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<s>")


@pytest.fixture
def wordpiece():
    """Words and their continuations, with a decoder that tidies spaces by itself."""
    words = ["[UNK]", "a", "b", "ha", "##ha", ",", ".", "'", "s"]
    tokenizer = Tokenizer(
        models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="[UNK]")


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_an_added_token_has_its_own_letters_alone_and_in_a_text(byte_level):
    ids = byte_level.convert_tokens_to_ids(["č", "ha", "<think>", "<|im_end|>"])
    assert token_texts(byte_level, ids) == ["č", "ha", "<think>", "<|im_end|>"]
    text = " So č ha,č<think> é č"
    row = ids_of(byte_level, text)
    assert set(ids[:3]) < set(row)
    assert decoded(byte_level, [row, ids[:1], []]) == [text, "č", ""]
    assert decoded(byte_level, [[*row, ids[3]]], skip_special_tokens=True) == [text]


def test_spaces_are_never_tidied(byte_level, wordpiece):
    assert decoded(byte_level, [ids_of(byte_level, SPACED)]) == [SPACED]
    assert decoded(wordpiece, [ids_of(wordpiece, "a , b . a ' s")]) == ["a , b . a ' s"]
    row = ids_of(byte_level, SPACED)
    parts = excerpt(byte_level, row, 3, 2)
    assert "".join(parts.values()) == "".join(token_texts(byte_level, row[1:6]))


def test_a_space_before_a_piece_is_part_of_its_text(sentencepiece, wordpiece):
    ids = sentencepiece.convert_tokens_to_ids(["▁ha", "ha", "▁", "<s>"])
    assert token_texts(sentencepiece, ids) == [" ha", "ha", " ", "<s>"]
    ids = wordpiece.convert_tokens_to_ids(["ha", "##ha"])
    assert token_texts(wordpiece, ids) == [" ha", "ha"]


LLAMA = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
BLANK_FIRST = {
    "Llama's, which drops the first blank": decoders.Sequence([*LLAMA, decoders.Strip(" ", 1, 0)]),
    "Gemma's and Mistral's": decoders.Sequence(LLAMA),
    "Unigram's": decoders.Metaspace(),
}


@pytest.mark.parametrize("name", BLANK_FIRST)
@pytest.mark.parametrize("letters", [["h", "a"], []], ids=["letters", "words alone"])
def test_a_piece_has_its_leading_blank_with_every_decoder_of_sentencepiece(name, letters):
    pieces = ["<unk>", "<s>", "</s>", *letters, "▁", "▁▁", "▁ha", "ha", "▁so", "!"]
    unigram = Tokenizer(models.Unigram([(piece, -1.0 - len(piece)) for piece in pieces], 0, False))
    unigram.decoder = BLANK_FIRST[name]
    unigram.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=unigram, eos_token="</s>")
    names = ["▁ha", "ha", "▁", "▁▁", "▁so", "!", "</s>"]
    ids = tokenizer.convert_tokens_to_ids(names)
    assert token_texts(tokenizer, ids) == [" ha", "ha", " ", "  ", " so", "!", "</s>"]
    row = tokenizer.convert_tokens_to_ids(["ha", "▁so", "ha", "▁▁", "▁ha", "!"])
    assert "".join(token_texts(tokenizer, row)) == decoded(tokenizer, [row])[0] == "ha soha   ha!"


def test_a_byte_with_the_text_of_a_different_token_is_named_by_its_value(sentencepiece):
    ids = sentencepiece.convert_tokens_to_ids(["A", "<0x41>", "<0x0A>", "<0xE2>", "<0x80>"])
    assert token_texts(sentencepiece, ids) == ["A", r"\x41", "\n", r"\xe2", r"\x80"]


def test_parts_of_characters_are_named_by_their_bytes(byte_level):
    row = ids_of(byte_level, " é—🙂")
    texts = token_texts(byte_level, row)
    joined = "".join(texts).encode("latin-1", "backslashreplace").decode("unicode_escape")
    assert joined.encode("latin-1").decode() == " é—🙂"
    every = token_texts(byte_level, range(320))
    assert len(set(every)) == 320 and not any("\ufffd" in text for text in every)
    assert all(visible(text).isprintable() for text in every)


@pytest.mark.parametrize("around", [0, 1, 2, 3, 5])
def test_an_excerpt_that_cuts_a_character_shows_at_most_one_mark(byte_level, around):
    row = ids_of(byte_level, "🙂x🙂🙂 é — y🙂")
    for place in range(len(row)):
        parts = excerpt(byte_level, row, place, around)
        assert "".join(parts.values()).count("\ufffd") <= 1, (place, parts)


def test_a_row_cut_in_a_character_shows_one_mark(byte_level):
    assert decoded(byte_level, [ids_of(byte_level, "x🙂")[:-1]]) == ["x\ufffd"]
