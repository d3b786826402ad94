"""Rows of a file: what is read, and one short line for everything that has no meaning."""

import json
import os
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rockstudy import tasks
from rockstudy.config.fields import TaskConfig
from rockstudy.errors import LINE, StudyError
from rockstudy.tasks import arithmetic, openthoughts3, rows
from rockstudy.tasks.lab import maths

GOOD = [{"problem": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(4)]


def task(path, name="math", n=2, **more):
    sizes = {"n_train": n, "n_eval": n, "max_prompt_tokens": 64}
    return TaskConfig(name=name, path=None if path is None else str(path), **sizes, **more)


def written(path, *lines, encoding="utf-8", end="\n"):
    made = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_bytes((end.join(made) + end).encode(encoding))
    return path


def refused(config, split="eval"):
    """The line that refuses a task; it must be short and printable."""
    with pytest.raises(StudyError) as error:
        tasks.load(config, split)
    line = str(error.value)
    assert line.isprintable() and len(line) <= LINE, line
    return line


def answers(config, split="eval"):
    return [problem.answer for problem in tasks.load(config, split)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\n\r\n"])
def test_a_mark_of_utf8_and_line_ends_of_windows_are_read(encoding, end, tmp_path):
    file = written(tmp_path / "m.jsonl", *GOOD, encoding=encoding, end=end)
    assert answers(task(file)) == ["1", "2"]
    assert answers(task(file), "train") == ["3", "4"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf16_is_named(encoding, tmp_path):
    file = written(tmp_path / "m.jsonl", *GOOD, encoding=encoding)
    assert "line 1: must be UTF-8; got zero bytes or a mark, as UTF-16" in refused(task(file))


@pytest.mark.parametrize(
    "names", [("Problem", "Answer"), ("PROBLEM", "ANSWER"), ("Question", " answer ")]
)
def test_columns_are_read_in_any_case(names, tmp_path):
    renamed = [dict(zip(names, row.values(), strict=True)) | {"Subject": "Sums"} for row in GOOD]
    problems = tasks.load(task(written(tmp_path / "m.jsonl", *renamed)), "eval")
    assert [p.answer for p in problems] == ["1", "2"]
    assert {p.family for p in problems} == {"Sums"}
    pq.write_table(pa.Table.from_pylist(renamed), tmp_path / "m.PARQUET")
    assert tasks.load(task(tmp_path / "m.PARQUET"), "eval") == problems


def test_prompts_of_openthoughts_are_read_in_any_case(tmp_path):
    turns = [{"from": "human", "Value": "What is 1 + 1?"}]
    row = {"Domain": "math", "Conversations": turns}
    (problem,) = openthoughts3.load(task(written(tmp_path / "o.jsonl", row), n=1), "train")
    assert problem.prompt == "What is 1 + 1?"


def test_an_exact_name_goes_before_those_in_a_different_case(tmp_path):
    row = {"Answer": "5", "ANSWER": "7", "answer": "2", "problem": "1 + 1?"}
    assert answers(task(written(tmp_path / "m.jsonl", row), n=1)) == ["2"]
    del row["answer"]
    line = refused(task(written(tmp_path / "m.jsonl", row), n=1))
    assert line.endswith("line 1: must have one column answer; got 'Answer' and 'ANSWER'")


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["2"], "2"),
        ([7], "7"),
        (2, "2"),
        (2.0, "2"),
        (-0.5, "-0.5"),
        (1e22, "1" + "0" * 22),
        (1e-7, "0.0000001"),
        (" \\frac{1}{2}\n", "\\frac{1}{2}"),
    ],
)
def test_an_answer_is_text_or_a_number_or_a_list_of_one(given, read, tmp_path):
    row = GOOD[0] | {"answer": given}
    assert answers(task(written(tmp_path / "m.jsonl", row), n=1)) == [read]


def test_an_exact_decimal_of_parquet_is_an_answer(tmp_path):
    pq.write_table(
        pa.Table.from_pylist([GOOD[0] | {"answer": Decimal("2.50")}]), tmp_path / "m.parquet"
    )
    assert answers(task(tmp_path / "m.parquet", n=1)) == ["2.50"]


DEEP = "[" * 900 + "]" * 900
BAD_CELLS = {
    "answer": {
        '{"value": 2}': "must be text or a number; got an object",
        "{}": "must be text or a number; got an object",
        "true": "must be text or a number; got true",
        '["2", "3"]': "must be text or a number; got a list of 2",
        "[[2]]": "must be text or a number; got a list of 1",
        "[null]": "must be text or a number; got null",
        '[" "]': "must not be empty",
        "[]": "must not be empty",
        "null": "must not be empty",
        "NaN": "must not be empty",
        "-Infinity": "must be finite; got -inf",
        "1e999": "must be finite; got inf",
        '"\\u200b\\ufeff"': "must not be empty",
        '"\\ud800"': "must be Unicode; got '\\ud800', half a character",
        '"#### \\u00a0"': "must not be empty",
        DEEP: "must be text or a number; got a list of 1",
    },
    "problem": {
        '["What?"]': "must be text; got a list of 1",
        '{"text": "What?"}': "must be text; got an object",
        "false": "must be text; got false",
        "7": "must be text; got 7",
        "1e999": "must be text; got inf",
        '"a\\udfff"': "must be Unicode; got '\\udfff', half a character",
        f'"{"x" * 1_000_001}"': "must have at most 1,000,000 characters; got 1,000,001",
        DEEP: "must be text; got a list of 1",
    },
    "subject": {
        '["Algebra"]': "must be text or a number; got a list of 1",
        '{"name": "Algebra"}': "must be text or a number; got an object",
        '"\\ud83d"': "must be Unicode; got '\\ud83d', half a character",
    },
}


@pytest.mark.parametrize(
    ("column", "cell"), [(column, cell) for column, cells in BAD_CELLS.items() for cell in cells]
)
def test_a_cell_of_no_meaning_is_one_line(column, cell, tmp_path):
    names = {"problem": '"What?"', "answer": '"2"', "subject": '"Sums"'} | {column: cell}
    text = ", ".join(f'"{name}": {value}' for name, value in names.items())
    line = refused(task(written(tmp_path / "m.jsonl", "{" + text + "}"), n=1))
    assert line == f"{tmp_path}/m.jsonl, line 1: {column} {BAD_CELLS[column][cell]}"


@pytest.mark.parametrize(
    ("column", "cells", "complaint"),
    [
        ("answer", [["1", "2"]] * 2, "answer must be text or a number; got a list of 2"),
        ("answer", [{"value": 1}] * 2, "answer must be text or a number; got an object"),
        ("answer", [True, False], "answer must be text or a number; got true"),
        ("answer", [b"1", b"2"], "answer must be text or a number; got a value of type bytes"),
        ("problem", [["What?"]] * 2, "problem must be text; got a list of 1"),
        ("problem", [{"text": "What?"}] * 2, "problem must be text; got an object"),
    ],
)
def test_a_nested_column_of_parquet_is_one_line(column, cells, complaint, tmp_path):
    made = [row | {column: cell} for row, cell in zip(GOOD, cells, strict=False)]
    pq.write_table(pa.Table.from_pylist(made), tmp_path / "m.parquet")
    assert refused(task(tmp_path / "m.parquet")).endswith(f"row 1: {complaint}")


def test_a_parquet_file_with_a_column_twice_or_cut_short_is_one_line(tmp_path):
    file = tmp_path / "m.parquet"
    pq.write_table(pa.table([["a"], ["b"]], names=["problem", "problem"]), file)
    assert "it has 'problem' twice" in refused(task(file, n=1))
    pq.write_table(pa.Table.from_pylist(GOOD), file)
    file.write_bytes(file.read_bytes()[:-20])
    assert "must be a readable parquet file" in refused(task(file))


BAD_LINES = {
    '{"problem": "a", "answer": "1", "answer": "2"}': "(it has 'answer' twice)",
    '{"problem": "a", "answer": "1': "must be one JSON object (Invalid control character",
    "[" * 100_000: "must be one JSON object (maximum recursion",
    json.dumps(GOOD): "must be an object with problem and answer; got a list of 4",
    "[": "must be one JSON object (Expecting value)",
    "problem,answer": "must be one JSON object (Expecting value)",
    '"text"': "must be an object with problem and answer; got 'text'",
    "null": "must be an object with problem and answer; got null",
    f'{{"problem": "a", "answer": {"9" * 5000}}}': "must be one JSON object (Exceeds the limit",
}


@pytest.mark.parametrize("line", BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_line_that_is_no_row_is_one_line(line, tmp_path):
    assert BAD_LINES[line] in refused(task(written(tmp_path / "m.jsonl", GOOD[0], line)))


def test_a_last_line_that_is_cut_off_is_one_line(tmp_path):
    file = written(tmp_path / "m.jsonl", *GOOD)
    file.write_bytes(file.read_bytes()[:-5])
    assert "line 4: must be one JSON object (Expecting value)" in refused(task(file), "train")


def test_files_in_which_all_problems_are_one_are_refused_for_training_and_for_grading(tmp_path):
    file = written(tmp_path / "m.jsonl", *[GOOD[0]] * 4)
    assert "path: must have different problems; the 2 of" in refused(task(file))
    written(file, *GOOD[:2], *[GOOD[2]] * 2)
    assert "path: must have different problems; the 2 of" in refused(task(file), "train")
    assert answers(task(file, n=1), "train") == ["2"]


def test_fewer_problems_than_asked_are_refused(tmp_path):
    file = task(written(tmp_path / "m.jsonl", *GOOD), n=3)
    assert len(tasks.load(file, "eval")) == 3
    assert "n_train: must not exceed the file" in refused(file, "train")
    assert "n_eval: must not exceed the file" in refused(task(file.path, n=5))


PATHS = {
    "a" * 300 + ".jsonl": "path: must be a file; got",
    "no\0thing.jsonl": "path: must be a file; got",
    "~nobody-of-this-name/m.jsonl": "path: must be an existing file or a Hub id",
    "two\nlines\x1b[31m.jsonl": "path: must be an existing file or a Hub id",
    "../nowhere": "path: must be an existing file or a Hub id",
    "problems.csv": "path: must be an existing file or a Hub id",
    "deep/er/name": "path: must be an existing file or a Hub id",
    "m.JSON": "path: must be an existing file or a Hub id",
    "": "path: must be an existing file or a Hub id",
    "/dev/zero": "path: must be an existing file or a Hub id; got '/dev/zero', no regular file",
}


@pytest.mark.parametrize("path", PATHS, ids=range(len(PATHS)))
def test_a_path_that_is_no_file_is_one_line(path):
    assert rows.is_local(path)
    assert refused(task(path)).startswith(PATHS[path])


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "m.jsonl")
    assert refused(task(tmp_path / "m.jsonl")).endswith("no regular file")


def test_a_file_that_may_not_be_read_is_one_line(tmp_path, monkeypatch):
    file = written(tmp_path / "m.jsonl", *GOOD)

    def closed(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(type(file), "open", closed)
    assert refused(task(file)) == f"{file}: must be a file that can be read (Permission denied)"


@pytest.mark.parametrize("field", ["revision", "subset", "split"])
def test_what_only_a_hub_id_has_is_refused_beside_a_file(field, tmp_path):
    file = written(tmp_path / "m.jsonl", *GOOD)
    assert refused(task(file, **{field: "test"})) == f"{field}: must be None for a file; got 'test'"


@pytest.mark.parametrize("name", ["arithmetic", "lab_math", "lab_instruct"])
@pytest.mark.parametrize("split", ["train", "eval"])
def test_more_problems_than_a_generated_task_has_are_refused_at_once(name, split):
    most = (arithmetic if name == "arithmetic" else maths).MOST[split]
    line = refused(task(None, name, n=most + 1), split)
    assert line.startswith(f"n_{split}: must be at most {most} for ")
