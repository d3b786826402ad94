"""OpenThoughts3: maths prompts, each once, to train on and nothing else."""

import json

import datasets
import pandas as pd
import pytest

from rockstudy import tasks
from rockstudy.config.fields import TaskConfig
from rockstudy.config.overrides import from_parameters
from rockstudy.errors import StudyError


def row(prompt, domain="math"):
    turns = [{"from": "human", "value": prompt}, {"from": "gpt", "value": "<think>..."}]
    return {"difficulty": 9, "source": "s", "domain": domain, "conversations": turns}


ROWS = [row("code this", "code"), *[row("What is 1 + 1?")] * 16, row("What is 2 + 2? "), row("3?")]


def task(path, n_train=2):
    return TaskConfig(
        name="openthoughts3", path=str(path), n_train=n_train, n_eval=1, max_prompt_tokens=64
    )


def write(path, rows):
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return path


def test_a_prompt_repeated_for_its_answers_is_taken_once_and_other_domains_never(tmp_path):
    problems = tasks.load(task(write(tmp_path / "o.jsonl", ROWS)), "train")
    assert [p.prompt for p in problems] == ["What is 1 + 1?", "What is 2 + 2?"]
    assert len({p.key for p in problems}) == 2
    pd.DataFrame(ROWS).to_parquet(tmp_path / "o.parquet")
    assert tasks.load(task(tmp_path / "o.parquet"), "train") == problems


def test_a_set_of_the_hub_is_streamed_and_read_no_further_than_needed(tmp_path, monkeypatch):
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder / "train.jsonl", ROWS)
    asked, read = {}, []
    loader = datasets.load_dataset

    def load(path, subset=None, **options):
        asked.update(options, path=path)
        found = loader(str(folder), subset, **options)
        found["train"] = found["train"].map(lambda one: read.append(one) or one)
        return found

    monkeypatch.setattr(datasets, "load_dataset", load)
    problems = tasks.load(task("open-thoughts/OpenThoughts3-1.2M", n_train=1), "train")
    assert [p.prompt for p in problems] == ["What is 1 + 1?"]
    assert asked == {
        "path": "open-thoughts/OpenThoughts3-1.2M",
        "revision": None,
        "streaming": True,
    }
    assert len(read) < len(ROWS)


def test_it_is_no_benchmark_and_nothing_to_grade(tmp_path):
    file = task(write(tmp_path / "o.jsonl", ROWS))
    problems = tasks.load(file, "train")
    with pytest.raises(StudyError, match="benchmarks: must be tasks with reference answers"):
        tasks.load(file, "eval")
    with pytest.raises(StudyError, match="benchmarks: must be tasks with reference answers"):
        tasks.grade(file, problems, ["\\boxed{2}"] * 2)
    with pytest.raises(StudyError, match="benchmarks__1__name: must be a task with answers"):
        from_parameters("paper", benchmarks__1__name="openthoughts3")


BAD = {
    "no domain": ({"conversations": []}, "line 1: .*domain is missing"),
    "no turns": ({"domain": "math", "conversations": []}, "conversations must not be empty"),
    "text for turns": ({"domain": "math", "conversations": "hi"}, "a turn with from 'human'"),
    "nobody asks": (
        {"domain": "math", "conversations": [{"from": "gpt", "value": "x"}]},
        "line 1: conversations must have a turn with from 'human'",
    ),
    "empty question": (
        {"domain": "math", "conversations": [{"from": "human", "value": " "}]},
        "line 1: value must not be empty",
    ),
    "too few": (row("a"), r"n_train: must not exceed the file; .* has 1 problems"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_gives_one_line_that_names_the_file(case, tmp_path):
    bad, message = BAD[case]
    file = write(tmp_path / "o.jsonl", [bad])
    with pytest.raises(StudyError, match=message) as error:
        tasks.load(task(file), "train")
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)
