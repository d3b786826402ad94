"""Rows of IFEval: each name and each argument is checked when the row is read."""

import json

import pytest

from rockstudy import tasks
from rockstudy.config.fields import TaskConfig
from rockstudy.errors import LINE, StudyError

pytest.importorskip("lm_eval")
NO_COMMA, WORDS = "punctuation:no_comma", "length_constraints:number_words"
FEW = {"relation": "at least", "num_words": 3}
ROW = {"key": 1, "prompt": "Write.", "instruction_id_list": [NO_COMMA], "kwargs": [{}]}


def asked(name, **kwargs):
    return {"instruction_id_list": [name], "kwargs": [kwargs]}


def load(folder, *changes):
    file = folder / "i.jsonl"
    file.write_text("".join(json.dumps(ROW | change) + "\n" for change in changes))
    sizes = {"n_train": 1, "n_eval": len(changes), "max_prompt_tokens": 64}
    return tasks.load(TaskConfig(name="ifeval", path=str(file), **sizes), "eval")


BAD = {
    "a list for a name": (
        {"instruction_id_list": [[NO_COMMA]]},
        "instruction_id_list: must be one of",
    ),
    "a number for a name": ({"instruction_id_list": [7]}, "instruction_id_list: must be one of"),
    "null for a name": ({"instruction_id_list": [None]}, "instruction_id_list: must be one of"),
    "an unknown name": (
        {"instruction_id_list": ["punctuation:no_coma"]},
        "did you mean 'punctuation:no_comma'?",
    ),
    "an object for the names": ({"instruction_id_list": {"a": 1}}, "got an object and a list of 1"),
    "a number for the arguments": ({"kwargs": 3}, "got a list of 1 and 3"),
    "a list for an object": ({"kwargs": [["a"]]}, f"kwargs of {NO_COMMA} must be an object; got"),
    "text for an object": ({"kwargs": ["a"]}, f"kwargs of {NO_COMMA} must be an object; got 'a'"),
    "a different length": ({"kwargs": [{}, {}]}, "got a list of 1 and a list of 2"),
    "an argument too many": (asked(WORDS, **FEW, frequency=1), "num_words, relation; got"),
    "a missing argument": (asked(WORDS, num_words=3), "must have relation"),
    "a negative number": (asked(WORDS, **FEW | {"num_words": -3}), "a whole number >= 1; got -3"),
    "half a word": (asked(WORDS, **FEW | {"num_words": 1.5}), "a whole number >= 1; got 1.5"),
    "an endless number": (asked(WORDS, **FEW | {"num_words": 1e999}), "whole number >= 1; got inf"),
    "text for a number": (asked(WORDS, **FEW | {"num_words": "3"}), "whole number >= 1; got '3'"),
    "a boolean for a number": (asked(WORDS, **FEW | {"num_words": True}), ">= 1; got true"),
    "a list for a number": (asked(WORDS, **FEW | {"num_words": [3]}), ">= 1; got a list of 1"),
    "an unknown relation": (
        asked(WORDS, **FEW | {"relation": "at most"}),
        "relation must be one of less than, at least; got 'at most'",
    ),
    "an unknown language": (
        asked("language:response_language", language="xx"),
        "language must be one of en, es",
    ),
    "a list for a language": (
        asked("language:response_language", language=["de"]),
        "language must be text; got a list of 1",
    ),
    "a bad expression": (
        asked("keywords:frequency", keyword="(a", relation="at least", frequency=1),
        "keyword must be a regular expression; got '(a' (missing )",
    ),
    "a bad expression in a list": (
        asked("keywords:existence", keywords=["good", "*"]),
        "keywords must be a regular expression; got '*'",
    ),
    "repeats in a repeat": (
        asked("keywords:existence", keywords=["good", "(a+)+$"]),
        "whose search ends; got '(a+)+$' (at most two repeats, no repeat or alternatives in",
    ),
    "alternatives in a repeat": (
        asked("keywords:frequency", keyword="(a|aa)*b", relation="at least", frequency=1),
        "whose search ends; got '(a|aa)*b'",
    ),
    "many repeats in a row": (
        asked("keywords:forbidden_words", forbidden_words=["a?a?a?aaa"]),
        "got 'a?a?a?aaa' (at most two repeats",
    ),
    "a bad separator": (
        asked("detectable_format:multiple_sections", section_spliter="[", num_sections=2),
        "section_spliter must be a regular expression; got '['",
    ),
    "text for a list": (
        asked("keywords:forbidden_words", forbidden_words="none"),
        "forbidden_words must be a list of texts; got 'none'",
    ),
    "a number in a list": (
        asked("keywords:forbidden_words", forbidden_words=["a", 3]),
        "forbidden_words must be text; got 3",
    ),
    "an empty text in a list": (
        asked("keywords:existence", keywords=[" "]),
        "keywords must not be empty",
    ),
    "half a character": (asked("startend:end_checker", end_phrase="\ud800"), "must be Unicode"),
    "two letters": (
        asked("keywords:letter_frequency", letter="ab", let_relation="at least", let_frequency=1),
        "letter must be one character; got 'ab'",
    ),
    "a paragraph beyond the last": (
        asked(
            "length_constraints:nth_paragraph_first_word",
            **{"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "so"},
        ),
        "nth_paragraph must be at most num_paragraphs, 2; got 3",
    ),
    "a list for the prompt": ({"prompt": ["Write."]}, "prompt must be text; got a list of 1"),
    "an object for the key": ({"key": {"id": 1}}, "key must be text or a number; got an object"),
    "null for the key": ({"key": None}, "key must not be empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_row_that_cannot_be_graded_is_one_line(case, tmp_path):
    change, complaint = BAD[case]
    with pytest.raises(StudyError) as error:
        load(tmp_path, {"key": 0, "prompt": "First."}, change)
    line = str(error.value)
    assert line.startswith(f"{tmp_path}/i.jsonl, line 2: ") and complaint in line, line
    assert line.isprintable() and len(line) <= LINE


def test_whole_numbers_of_a_table_with_gaps_and_null_for_no_arguments_are_read(tmp_path):
    floats = asked(WORDS, relation="at least", num_words=3.0, keyword=None)
    first, second = load(tmp_path, floats | {"key": 2.0}, {"kwargs": [None], "prompt": "Again."})
    assert first.kwargs["kwargs"] == [FEW] and first.key == "2"
    assert second.kwargs["kwargs"] == [{}]
    assert tasks.grade(
        TaskConfig(name="ifeval", path="i", n_train=1, n_eval=1, max_prompt_tokens=9),
        [first, first],
        ["just two", "here are three"],
    ).tolist() == [False, True]
