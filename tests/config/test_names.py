"""Nested names: a meaning for each, what is legal in words, and near misses."""

import re

import pytest

from rockstudy.config import names
from rockstudy.config.presets import PRESETS
from rockstudy.errors import unknown


def test_every_field_and_section_has_a_meaning_and_says_what_is_legal():
    for name, schema in {**names.FIELDS, **names.SECTIONS}.items():
        assert len(schema.get("description", "").split()) >= 2, name
        assert names.legal(schema), name


def test_the_fields_are_those_of_every_preset():
    for preset in PRESETS.values():
        known = {names.general(name) for name in names.values(preset)}
        absent = {name for name, value in preset if value is None}  # a section that it lacks
        of_others = {name for name in names.FIELDS if name.split("__")[0] in absent - known}
        inner = {name for name in names.FIELDS if name.split("__")[0] in absent}
        assert known | inner == set(names.FIELDS) | (known & absent) and of_others <= inner


def test_a_field_that_cannot_change_a_result_says_so():
    meaning = names.meaning(names.FIELDS["evaluation__batch_size"])
    assert meaning.endswith("[a whole number >= 1 and <= 1000000; cannot change a result]")


def test_what_is_legal_is_said_in_words():
    said = {
        "stage2__lr": "a number > 0 and <= 1",
        "stage2__steps": "a whole number >= 1 and <= 1000000",
        "rocks__k": "a number > 0 and < 1 or a whole number >= 1 and <= 1000000",
        "stage2__lora_rank": "a whole number >= 1 and <= 10000 or None",
        "stage2__engine": "one of transformers, vllm",
        "stage2__gradient_checkpointing": "True or False",
        "screened": "a list of length <= 2, each a whole number >= 0",
        "benchmarks__path": "text or None",
    }
    for name, words in said.items():
        assert names.legal(names.FIELDS[name]) == words


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("k", ["rocks__k"]),
        ("rocks_k", ["rocks__k"]),
        ("rocks.k", ["rocks__k"]),
        ("Rocks-K", ["rocks__k"]),
        ("rocks__kk", ["rocks__k"]),
        ("lr", ["stage1__lr", "stage2__lr"]),
        ("n_eval", ["prompts__n_eval", "train_task__n_eval", "benchmarks__n_eval"]),
        ("drop_evry", ["pair__drop_every"]),
        ("stepz", ["stage1__steps", "stage2__steps"]),
        ("stge2", ["stage2"]),
        ("batchsize", [f"{n}__batch_size" for n in ("evaluation", "statistics", "knockout")]),
        ("benchmarks__1__n_evl", ["benchmarks__1__n_eval"]),
        ("xyzzy", []),
        ("", []),
    ],
)
def test_a_name_is_guessed_across_the_whole_tree(given, meant):
    assert names.near(given) == meant


def test_numbers_of_items_are_taken_out_of_a_name():
    assert names.general("benchmarks__0__n_eval") == "benchmarks__n_eval"
    assert names.general("freeze__arms__10") == "freeze__arms"
    assert names.general("stage1__lr") == "stage1__lr"


def test_a_line_names_what_may_have_been_meant():
    line = unknown("x", "lr", ["a"], ["stage1__lr", "stage2__lr"])
    assert line.endswith("got 'lr' (did you mean 'stage1__lr' or 'stage2__lr'?)")
    line = unknown("x", "q", ["a"], ["one", "two", "three"])
    assert line.endswith("(did you mean 'one', 'two' or 'three'?)")
    assert unknown("x", "labb", ["lab"]).endswith("got 'labb' (did you mean 'lab'?)")
    assert not re.search("mean", unknown("x", "qqq", ["lab"]))
