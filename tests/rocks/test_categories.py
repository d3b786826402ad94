"""Categories of spellings, sentence starts, and the lab's own tokenizer."""

import numpy as np
import pytest

from rockstudy.errors import StudyError
from rockstudy.models.token_texts import token_texts, visible
from rockstudy.paths import REPO
from rockstudy.rocks.categories import (
    CATEGORIES,
    COMMANDS,
    MARKERS,
    categorize,
    is_markup,
    starts_sentence,
)

NAN = float("nan")

SPELLINGS = {
    "latex": ["$", " $", " $\\", "$$", "$$\n", "$$\n\n", "$.", "}$", "}$.**", "}}", "}{", "{", "^",
              "_", "&", "\\", " \\", "\\\\", "\\[", "\\(", " \\]\n\n", "\\frac", "\\boxed", "\\%",
              "\\cdot", "{\\", "_n", "frac", "boxed", "cdot", " (", ")", " =", "=("],
    "structure": ["\n", "\n\n", " ", "    ", "\t", "**", " **", "**:", ":**", "**\n", "##", "###",
                  "#", ".\n\n", ".\n", ":\n\n", "]\n\n", "- ", "* ", "---", "```", "`",
                  "\xa0", "\u3000", "\u2003\u202f", "\u2028", "x\r", "-\xa0"],
    "marker": ["So", " So", "We", " We", "Wait", "This", " Since", " Finally", "Hmm"],
    "digit": ["7", " 12", "2024", "\uff12\uff13", "१२", "٣", "²", "①", "⑩", "\u2163", "\u3007",
              "1\ufe0f\u20e3"],
    "punctuation": [".", ",", "),", ":", "?", '."', "==>", " +", "-", " -", "*", "<", "|", "×",
                    "。", "।", "،", "؛", "\uff0b", "\uff1d", "🙂", "👩\u200d💻", "❤\ufe0f", "👍🏽"],
    "letter": ["x", " x", "X", "a", " b", "π", "é", "e\u0301", "x\u0302",
               "\U0001d465", "\u211d", "\u2003x"],
    "word": [" a", " A", " I", "'s", "'t", "\u2019re",
             " frac", " boxed", "text", " the", "the", " number", " so", "so", "SO", "ut", "Step",
             " Solution", "é" * 2, "数", "ﬁne", "数学", "कि", "ที่",
             "\u093f", "\u0301", "\u0645\u06cc\u200c\u062e\u0648\u0627",
             "한국", "e\u0301te\u0301", "\u3000数"],
    "other": ["", "<|endoftext|>", "<|im_start|>", "<think>", "</think>", "<repo_name>", "\ufffd",
              " \ufffd", "\ufffd\n", "\x00", "\x0b", "\x1f", "'s-", "(x", "x2", "½", "\u200b",
              "\u200d", "\ufe0f", "\\xe2\\x80", " \\xf0", "२x"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "category"),
    [(text, category) for category, texts in SPELLINGS.items() for text in texts],
    ids=lambda value: ascii(value),
)
def test_a_spelling_has_its_category_when_its_position_is_unknown(text, category):
    assert categorize([text], [NAN]) == [category]


@pytest.mark.parametrize(
    ("text", "mid_clause", "initial"),
    [
        (" so", "word", "marker"),
        ("so", "word", "marker"),
        ("We", "word", "marker"),
        (" Then", "word", "marker"),
        ("-", "punctuation", "structure"),
        (" -", "punctuation", "structure"),
        ("*", "punctuation", "structure"),
        ("SO", "word", "word"),
        (" number", "word", "word"),
        ("x", "letter", "letter"),
        ("**", "structure", "structure"),
        (" 12", "digit", "digit"),
    ],
)
def test_position_separates_markers_from_words_and_bullets_from_signs(text, mid_clause, initial):
    assert categorize([text] * 4, [0.0, 0.49, 0.5, 1.0]) == [mid_clause] * 2 + [initial] * 2


# Types as they occur in worked solutions, with the share of their occurrences that start a sentence
# and that follow a backslash: an own list of what a reader would call them.
PUBLISHED = [
    ("times", 0.0, 0.9, "latex"), ("right", 0.0, 0.7, "latex"), ("quad", 0.0, 1.0, "latex"),
    ("text", 0.0, 0.98, "latex"), ("left", 0.0, 1.0, "latex"), ("pi", 0.0, 0.8, "latex"),
    ("times", 0.0, 0.1, "word"), (" right", 0.0, 0.0, "word"), ("text", 0.0, 0.0, "word"),
    (" (", 0.1, 0.0, "latex"), (")", 0.0, 0.1, "latex"), (" =", 0.0, 0.0, "latex"),
    ("n", 0.0, 0.0, "letter"), (" a", 0.0, 0.0, "word"), ("'s", 0.0, 0.0, "word"),
    ("So", 0.9, 0.0, "marker"), (" first", 0.05, 0.0, "word"), (" equation", 0.0, 0.0, "word"),
    ("**", 0.4, 0.0, "structure"), ("-", 0.8, 0.0, "structure"), ("1", 0.1, 0.0, "digit"),
    (" must", 0.0, 0.0, "word"), ("\\\\", 0.0, 0.0, "latex"), (",", 0.0, 0.3, "punctuation"),
]  # fmt: skip


def test_the_categories_agree_with_a_list_of_readers():
    texts, initial, escaped, expected = zip(*PUBLISHED, strict=True)
    assert categorize(texts, initial, escaped) == list(expected)


@pytest.mark.parametrize("text", ["**", " **", "- ", "-", "###", "* ", "\u2022", "> "])
def test_markup_within_a_line_is_looked_through(text):
    assert is_markup(text)
    assert not any(map(is_markup, ("", " ", "\n", "\n- ", "**:", "x", "$", text + "x")))


def test_every_category_is_described_and_tested():
    assert list(CATEGORIES) == list(SPELLINGS)
    assert all(CATEGORIES.values())


def test_the_papers_markers_are_in_the_list():
    assert set("So Let We But Now Wait Then Since This".split()) < MARKERS
    assert not {name.capitalize() for name in COMMANDS} & MARKERS


def test_no_texts_have_no_categories():
    assert categorize([], []) == []
    assert starts_sentence([]).tolist() == []


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([0.5], r"initial_share: must have one share for each of 2 texts; got \(1,\)"),
        ([0.5, 1.2], "initial_share: must lie between 0 and 1 or be NaN; got 1.2"),
        ([-0.1, NAN], "initial_share: must lie between 0 and 1 or be NaN; got -0.1"),
    ],
)
def test_shares_that_are_none_are_refused(shares, message):
    with pytest.raises(StudyError, match=message):
        categorize(["So", "x"], shares)


@pytest.mark.parametrize(
    "previous",
    ["", "\n", "\n\n", ".\n\n", "$$\n", "  \n  ", ".", "!", "?", ":", ". ", '."', ".”", ":**",
     ".$", "}$.", ".)", ".}$", "So we are done. **", "word\n", "\n\n**", "\n- **", "\n# ",
     "。", "\uff01", "\uff1f", "؟", "।", "॥", "\u06d4", "…", "。」", "\uff1a", "!»",
     ".\xa0", ".\u200b", "\u2028", "\n\u3000", "\r"],
    ids=ascii,
)  # fmt: skip
def test_a_sentence_or_a_line_starts_after(previous):
    assert starts_sentence([previous]).tolist() == [True]


@pytest.mark.parametrize(
    "previous",
    [" ", " the", ",", "**", " $", "}$", "x **", "\nx", "\nx **", ".5", "- ", ";", ")",
     "،", "؛", "、", "\uff0c", "\uff1b", "。x", "»", "¿", "\u3000"],
    ids=ascii,
)  # fmt: skip
def test_no_sentence_starts_after(previous):
    assert starts_sentence([previous]).tolist() == [False]


def test_starts_are_found_for_repeated_texts_in_their_order():
    starts = starts_sentence(np.array([".", " the", ".", "", " the"], dtype=object))
    assert starts.dtype == bool
    assert starts.tolist() == [True, False, True, True, False]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" $\\", "␣$\\"),
        (".\n\n", ".⏎⏎"),
        ("\t<b>&", "⇥<b>&"),
        ("\x00", "\\x00"),
        ("\r", "\\r"),
        ("\ufffd", "\\ufffd"),
        ("\xa0", "\\xa0"),
        ("é×", "é×"),
        ("", ""),
    ],
    ids=lambda value: ascii(value),
)
def test_blanks_become_visible(text, shown):
    assert visible(text) == shown


@pytest.fixture(scope="module")
def lab_tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(REPO / "data" / "lab" / "tokenizer")


def test_every_token_of_the_lab_has_one_category_and_each_category_occurs(lab_tokenizer):
    texts = token_texts(lab_tokenizer, np.arange(len(lab_tokenizer)))
    categories = categorize(texts, np.full(len(texts), NAN))
    assert len(categories) == len(texts) == len(lab_tokenizer)
    assert set(categories) == set(CATEGORIES)
    assert all(visible(text).isprintable() for text in texts)


def test_decoding_keeps_the_leading_space(lab_tokenizer):
    ids = list(range(len(lab_tokenizer)))
    spaced = [name.startswith("Ġ") for name in lab_tokenizer.convert_ids_to_tokens(ids)]
    texts = token_texts(lab_tokenizer, ids)
    assert sum(spaced) > 100
    assert [text.startswith(" ") for text in texts] == spaced


def test_texts_of_tokens_join_to_the_text_that_was_encoded(lab_tokenizer, tiny_tokenizer):
    text = "So, we add: $12 + 34$ .\n\n**Wait** , it 's \\boxed{46} .\n- Then  x = 7 !"
    for tokenizer in (lab_tokenizer, tiny_tokenizer):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert "".join(token_texts(tokenizer, ids)) == text


def test_special_tokens_keep_their_name_and_are_other(lab_tokenizer):
    ids = lab_tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    texts = token_texts(lab_tokenizer, ids)
    assert texts == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert categorize(texts, [0.0, 1.0, NAN]) == ["other"] * 3


def test_an_id_past_the_vocabulary_is_an_empty_text(lab_tokenizer):
    assert token_texts(lab_tokenizer, [len(lab_tokenizer) + 1]) == [""]


def test_no_ids_have_no_texts(lab_tokenizer):
    assert token_texts(lab_tokenizer, []) == []
