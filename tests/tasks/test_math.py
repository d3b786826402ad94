"""The maths task: files, splits, and one clear line for every bad file."""

import dataclasses
import json
from pathlib import Path

import datasets
import pandas as pd
import pytest

from rockstudy import tasks
from rockstudy.config.fields import TaskConfig
from rockstudy.config.registry import TASKS, Entry
from rockstudy.errors import StudyError
from rockstudy.tasks import math

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def task(path, n_train=2, n_eval=2, **hub):
    sizes = {"n_train": n_train, "n_eval": n_eval, "max_prompt_tokens": 64}
    return TaskConfig(name="math", path=str(path), **sizes, **hub)


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


def test_a_prompt_that_asks_for_a_box_is_not_told_twice(tmp_path):
    asks = "What is 1 + 1?\nPut your final answer within \\boxed{}."
    file = write(tmp_path / "m.jsonl", [{"problem": asks, "answer": "2"}])
    assert math.load(task(file, n_eval=1), "eval")[0].prompt == asks


def test_an_answer_of_gsm8k_is_the_number_after_its_mark(tmp_path):
    solution = "She has 2 * 725 = <<2*725=1450>>1,450 coins.\n#### "
    answers = {"1,450": "1450", "1,450,000": "1450000", " 18": "18", "-3": "-3", "5": "5"}
    lines = [{"question": f"{i}?", "answer": solution + a} for i, a in enumerate(answers)]
    file = task(write(tmp_path / "m.jsonl", lines), n_eval=5)
    problems = math.load(file, "eval")
    assert [p.answer for p in problems] == list(answers.values())
    texts = ["\\boxed{1,450}", "\\boxed{\\$1450000}", "\\boxed{18.00}", "\\boxed{3}", "#### 5"]
    assert tasks.grade(file, problems, texts).tolist() == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("name", "n"),
    {"math500": 500, "aime24": 30, "aime25": 30, "hmmt25_feb": 30, "gsm8k_test": 1319}.items(),
)
def test_a_real_file_loads_whole(name, n):
    if not (SHARED / f"{name}.jsonl").is_file():
        pytest.skip(f"../shared/data/{name}.jsonl is not here")
    problems = math.load(task(SHARED / f"{name}.jsonl", n_eval=n), "eval")
    assert len({p.key for p in problems}) == n
    assert all(p.prompt.count("\\boxed") == 1 for p in problems)
    assert not any("####" in p.answer for p in problems)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Let `datasets` load folders of files in place of repositories; what it was asked for."""
    asked, loader = [], datasets.load_dataset

    def load(path, subset=None, **options):
        asked.append((path, subset, options["revision"]))
        files = {file.stem: str(file) for file in sorted((tmp_path / path).glob("*.jsonl"))}
        return loader("json", data_files=files, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


@pytest.mark.parametrize("only", ["train", "test"])
def test_a_hub_set_with_one_split_serves_both(only, hub, tmp_path):
    (tmp_path / "org" / "set").mkdir(parents=True)
    write(tmp_path / "org" / "set" / f"{only}.jsonl", rows(4))
    file = task("org/set", revision="abc", subset="main")
    assert [p.answer for p in math.load(file, "eval")] == ["1", "2"]
    assert [p.answer for p in math.load(file, "train")] == ["3", "4"]
    assert hub == [("org/set", "main", "abc")] * 2
    assert file.label == "set"


def test_a_hub_set_is_used_by_its_splits_or_by_the_one_that_is_named(hub, tmp_path):
    (tmp_path / "org" / "set").mkdir(parents=True)
    for name, lines in {"train": rows(2), "test": rows(6)[2:]}.items():
        write(tmp_path / "org" / "set" / f"{name}.jsonl", lines)
    assert [p.answer for p in math.load(task("org/set"), "eval")] == ["3", "4"]
    assert [p.answer for p in math.load(task("org/set"), "train")] == ["1", "2"]
    named = task("org/set", split="test")
    assert [p.answer for p in math.load(named, "eval")] == ["3", "4"]
    assert [p.answer for p in math.load(named, "train")] == ["5", "6"]
    with pytest.raises(StudyError, match=r"split: must be one of test, train in .*; got 'dev'"):
        math.load(task("org/set", split="dev"), "eval")


def test_a_hub_set_with_other_splits_wants_one_named(hub, tmp_path):
    (tmp_path / "org" / "set").mkdir(parents=True)
    for name in ("easy", "hard"):
        write(tmp_path / "org" / "set" / f"{name}.jsonl", rows(2))
    with pytest.raises(StudyError, match="split: must be one of easy, hard in 'org/set'; got None"):
        math.load(task("org/set"), "eval")


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


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(StudyError, match=r"existing file or a Hub id; got .*, a folder"):
        math.load(task(tmp_path), "eval")


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "m.txt").write_text("problem,answer\n")
    with pytest.raises(StudyError, match=r"\.jsonl or \.parquet"):
        math.load(task(tmp_path / "m.txt"), "eval")


def test_a_dataset_that_the_hub_does_not_give_is_refused():
    with pytest.raises(StudyError, match="cannot be loaded"):
        math.load(task("nobody/no-such-dataset"), "eval")


def test_the_instruction_that_is_added_to_prompts_is_part_of_the_tasks_identity(monkeypatch):
    task = TaskConfig(name="math", path="x.jsonl", n_train=1, n_eval=1, max_prompt_tokens=9)
    before = tasks.identity(task)
    known = dataclasses.replace(TASKS["math"], instruction="Be brief.")
    monkeypatch.setitem(TASKS._entries, "math", Entry("math", known))
    assert tasks.identity(task) != before
