"""The maths task: files, splits, and one clear line for every bad file."""

import json

import pandas as pd
import pytest

from rockstudy import tasks
from rockstudy.config import StudyError, TaskConfig
from rockstudy.tasks import math


def task(path, n_train=2, n_eval=2):
    return TaskConfig(
        name="math", path=str(path), n_train=n_train, n_eval=n_eval, max_prompt_tokens=64
    )


def rows(n):
    return [{"problem": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(n)]


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_evaluation_takes_the_first_rows_and_training_the_next(tmp_path):
    file = write(tmp_path / "m.jsonl", rows(6))
    evaluation, training = (tasks.load(task(file), split) for split in ("eval", "train"))
    assert [p.answer for p in evaluation] == ["1", "2"]
    assert [p.answer for p in training] == ["3", "4"]
    assert evaluation[0].prompt.startswith("What is 0 + 1?")
    assert "\\boxed{}" in evaluation[0].prompt


def test_a_problem_repeated_in_the_file_is_never_in_both_splits(tmp_path):
    file = write(tmp_path / "m.jsonl", [*rows(3), rows(1)[0], {"problem": "x?", "answer": "7"}])
    training = math.load(task(file), "train")
    assert [p.answer for p in training] == ["3", "7"]


def test_parquet_and_jsonl_give_the_same_problems(tmp_path):
    table = [row | {"answer": int(row["answer"]), "subject": "Algebra"} for row in rows(4)]
    pd.DataFrame(table).to_parquet(tmp_path / "m.parquet")
    write(tmp_path / "m.jsonl", table)
    parquet, jsonl = (math.load(task(tmp_path / f"m.{k}"), "eval") for k in ("parquet", "jsonl"))
    assert parquet == jsonl
    assert parquet[0].family == "Algebra"


def test_answers_are_graded_by_the_box(tmp_path):
    file = task(write(tmp_path / "m.jsonl", rows(4)))
    problems = math.load(file, "eval")
    graded = tasks.grade(file, problems, ["so \\boxed{1}", "so \\boxed{5}"])
    assert graded.tolist() == [True, False]


def test_blank_lines_are_passed_over(tmp_path):
    file = tmp_path / "m.jsonl"
    file.write_text("\n" + "\n\n".join(json.dumps(row) for row in rows(2)) + "\n\n")
    assert len(math.load(task(file), "eval")) == 2


GOOD = json.dumps(rows(1)[0])
BAD = {
    "empty file": ("", r"n_eval: .* has no problems"),
    "malformed line": (f"{GOOD}\n{{oops\n", r"line 2: must be one JSON object"),
    "a list in place of an object": (f"{GOOD}\n[1]\n", r"line 2: must be an object"),
    "missing column": (f'{GOOD}\n{{"problem": "x"}}\n', r"line 2: .*answer is missing"),
    "empty prompt": ('{"problem": "  ", "answer": "1"}\n', r"line 1: problem must not be empty"),
    "null answer": ('{"problem": "x", "answer": null}\n', r"line 1: answer must not be empty"),
    "fewer rows than asked": (f"{GOOD}\n", r"n_eval: .* has 1 problems"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_gives_one_line_that_names_it(tmp_path, case):
    text, message = BAD[case]
    file = tmp_path / "m.jsonl"
    file.write_text(text)
    with pytest.raises(StudyError, match=message) as error:
        math.load(task(file), "eval")
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_bytes_that_are_not_utf8_are_refused_with_the_line(tmp_path):
    (tmp_path / "m.jsonl").write_bytes(GOOD.encode() + b"\n\xff\xfe\n")
    with pytest.raises(StudyError, match=r"line 2: .*UTF-8"):
        math.load(task(tmp_path / "m.jsonl"), "eval")


def test_a_damaged_parquet_file_is_refused(tmp_path):
    (tmp_path / "m.parquet").write_bytes(b"PAR1 but nothing else")
    with pytest.raises(StudyError, match="readable parquet"):
        math.load(task(tmp_path / "m.parquet"), "eval")


@pytest.mark.parametrize("name", ["nowhere.jsonl", "/no/such/place"])
def test_a_missing_file_is_refused(name):
    with pytest.raises(StudyError, match="existing file or a Hub id"):
        math.load(task(name), "eval")


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "m.csv").write_text("problem,answer\n")
    with pytest.raises(StudyError, match=r"\.jsonl or \.parquet"):
        math.load(task(tmp_path / "m.csv"), "eval")


def test_a_dataset_that_the_hub_does_not_give_is_refused():
    with pytest.raises(StudyError, match="cannot be loaded"):
        math.load(task("nobody/no-such-dataset"), "eval")
