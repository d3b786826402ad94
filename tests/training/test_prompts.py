"""What a stage trains on: prompts of the Hub are read once in a run, and then without a network."""

import json
from pathlib import Path

import datasets
import pandas as pd
import pytest

from rockstudy import tasks
from rockstudy.cli import dry_run, measure
from rockstudy.config.fields import TaskConfig
from rockstudy.config.overrides import from_parameters
from rockstudy.errors import StudyError
from rockstudy.parallel import distributed
from rockstudy.runs import Run
from rockstudy.sampling import rollout
from rockstudy.store import cache
from rockstudy.tasks import Problem
from rockstudy.training.prompts import _prompts, kept_at, train_prompts

SIZES = {"n_train": 4, "n_eval": 2, "max_prompt_tokens": 64}
HUB = TaskConfig(name="math", path="someone/maths", **SIZES)


def run_of(task: TaskConfig, folder: Path) -> Run:
    """A run of `tiny` that trains on the prompts of a task."""
    return Run(from_parameters("tiny").model_copy(update={"train_task": task}), folder)


@pytest.fixture
def read(monkeypatch):
    """The splits that were read of a task, whose training problems repeat one prompt."""
    asked = []

    def load(task, split):
        asked.append(split)
        return [Problem(text, "1", "f", text, {}) for text in ("1 + 1?", "é?", "1 + 1?", "3?")]

    monkeypatch.setattr(tasks, "load", load)
    return asked


def test_prompts_of_the_hub_are_read_once_in_a_run(read, tmp_path):
    run = run_of(HUB, tmp_path)
    first = train_prompts(run)
    assert first == train_prompts(run) == ["1 + 1?", "é?", "3?"]
    assert read == ["train"]
    assert cache.is_current(kept_at(run.path, HUB))
    longer = HUB.model_copy(update={"max_prompt_tokens": 99})  # which lessons leave out
    assert train_prompts(run_of(longer, tmp_path)) == first and read == ["train"]
    train_prompts(run_of(HUB.model_copy(update={"revision": "v2"}), tmp_path))
    assert read == ["train", "train"]


def test_what_lies_here_is_read_each_time_and_nothing_is_kept(read, tmp_path):
    made = TaskConfig(name="lab_math", **SIZES)
    file = HUB.model_copy(update={"path": str(tmp_path / "a.jsonl")})
    for task in (made, made, file):
        assert train_prompts(run_of(task, tmp_path)) == ["1 + 1?", "é?", "3?"]
    assert read == ["train"] * 3 and not list(tmp_path.iterdir())


def test_the_first_process_reads_and_the_others_load(read, tmp_path, monkeypatch):
    class Process:
        num_processes, process_index, is_main_process = 2, 0, True

        def wait_for_everyone(self) -> None:
            """The other one is called after this one here."""

    said = []
    monkeypatch.setattr(distributed, "together", Process)
    monkeypatch.setattr(distributed, "agreed", lambda value: said.append(value) or said[0])
    first = train_prompts(run_of(HUB, tmp_path))
    monkeypatch.setattr(Process, "is_main_process", False)
    assert train_prompts(run_of(HUB, tmp_path)) == first
    assert said == [False, False] and read == ["train"]


def test_a_stage_trains_on_the_prompts_that_are_kept(read, tmp_path, tiny_tokenizer):
    """The same ones in the same order as those that a local file gives."""
    local = from_parameters("tiny").train_task
    runs = (run_of(task, tmp_path) for task in (HUB, local))
    found = [_prompts(run, "stage2", 0, tiny_tokenizer) for run in runs]
    assert found[0] == found[1] and read == ["train"] * 2


def cached_set(cache: Path, name: str, rows: list[dict]) -> None:
    """Leave a dataset as `datasets` leaves one of the Hub that it has loaded."""
    source = cache.parent / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"test": str(source)}
    datasets.load_dataset("json", data_files=files, cache_dir=str(cache))
    (made,) = (path for path in (cache / "json").glob("*/*/*") if path.is_dir())
    folder = cache / name.replace("/", "___") / "default" / "0.0.0" / "0123abcd"
    folder.parent.mkdir(parents=True)
    made.rename(folder)
    short = name.split("/")[1]
    (folder / "json-test.arrow").rename(folder / f"{short}-test.arrow")
    info = json.loads((folder / "dataset_info.json").read_text())
    info |= {"config_name": "default", "dataset_name": short}
    (folder / "dataset_info.json").write_text(json.dumps(info))


def test_without_a_network_a_study_reads_what_measure_data_has_read(tmp_path, monkeypatch):
    """Tests have HF_HUB_OFFLINE: a benchmark comes from the cache, the prompts from the run."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache))
    maths = [{"problem": f"{i} + {i}?", "answer": str(2 * i)} for i in range(9)]
    cached_set(cache, "someone/maths", maths)
    of_hub = {"name": "math", "path": "someone/maths", **SIZES}
    given = {f"train_task__{name}": value for name, value in of_hub.items()}
    given |= {f"benchmarks__0__{name}": value for name, value in of_hub.items()}
    study = from_parameters("tiny", **given)
    run = Run(study, tmp_path / "run")
    assert [c.what for c in dry_run._data(study, run.path) if c.wrong] == []
    measure.data(run)
    (kept,) = (tmp_path / "run").rglob("*.parquet")
    assert pd.read_parquet(kept).prompt.str.startswith(("2 + 2?", "3 + 3?", "4", "5")).all()

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "empty"))
    assert len(train_prompts(run)) == SIZES["n_train"]
    found = {check.what: check for check in dry_run._data(study, run.path)}
    assert found["train_task"].found == "maths: its prompts are in the run"
    assert "cannot be loaded" in (found["benchmarks__0"].wrong or "")
    with pytest.raises(StudyError, match="path: must be an existing file or a Hub id"):
        rollout.parts(study.benchmarks[0], study.evaluation)
