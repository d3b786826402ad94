"""What is cached depends on the contents of the files that it was made from, not on names alone."""

import json
import shutil

import pytest
from huggingface_hub import constants

from rockstudy import tasks
from rockstudy.config.fields import TaskConfig
from rockstudy.config.overrides import from_parameters
from rockstudy.errors import StudyError
from rockstudy.models import sources
from rockstudy.runs import Run
from rockstudy.sampling import evaluation


def write(file, first: str) -> None:
    rows = [{"problem": f"{first} plus {i}?", "answer": "2"} for i in range(8)]
    file.write_text("\n".join(map(json.dumps, rows)))


def test_a_task_is_its_configuration_and_the_bytes_of_its_file(tmp_path):
    file = tmp_path / "problems.jsonl"
    task = TaskConfig(name="math", path=str(file), n_train=4, n_eval=4, max_prompt_tokens=64)
    found = []
    for first in ("one", "two", "one"):
        write(file, first)
        found.append(tasks.identity(task))
    assert found[0] == found[2] != found[1]
    lab = from_parameters("lab").train_task
    later = {"prompt_column", "answer_column", "instruction", "grader", "chat"}  # than old runs
    assert tasks.identity(lab) == lab.model_dump(mode="json", exclude=later)


PARTS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors",
)


def test_a_model_in_a_folder_is_all_files_that_change_what_it_writes_and_no_others(
    tiny_pair_dir, tmp_path
):
    def identity(folder) -> str:
        return sources.identity(str(folder), None, None, "teacher")

    copy = shutil.copytree(tiny_pair_dir / "teacher", tmp_path / "copy")
    found = [identity(tiny_pair_dir / "teacher"), identity(copy)]
    assert found[0] == found[1]
    (copy / "README.md").write_text("about it")
    assert identity(copy) == found[0]
    for name in PARTS:
        (copy / name).write_bytes((copy / name).read_bytes() + b" ")
        found.append(identity(copy))
    assert len(set(found)) == 1 + len(PARTS)


def test_a_model_of_the_hub_is_its_commit_and_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--someone--model"
    for revision, commit in {"main": "1" * 40, "v1": "1" * 40, "v2": "2" * 40}.items():
        for file in ("config.json", "small.gguf", "more/large.gguf"):
            path = model / "snapshots" / commit / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (model / "refs").mkdir(exist_ok=True)
        (model / "refs" / revision).write_text(commit)

    def identity(revision=None, gguf_file=None) -> str:
        return sources.identity("someone/model", revision, gguf_file, "teacher")

    assert identity() == identity("v1") != identity("v2")
    assert len({identity(), identity(None, "small.gguf"), identity(None, "more/large.gguf")}) == 3
    assert identity("v1", "more/large.gguf") != identity("v2", "more/large.gguf")
    with pytest.raises(StudyError, match="teacher: must be a model's configuration that can be"):
        identity("v3")


@pytest.mark.parametrize("label", ["teacher", "student"])
def test_a_grading_of_the_pair_depends_on_its_problems_and_its_weights(
    label, tmp_path, monkeypatch
):
    file = tmp_path / "problems.jsonl"
    write(file, "one")
    given = {"benchmarks__0__name": "math", "benchmarks__0__path": str(file)}
    run = Run(from_parameters("tiny", **given), tmp_path)

    def key() -> dict:
        found = evaluation._grading(run, label, None, None)
        return found | {"inputs": found["inputs"]()}

    before = key()
    write(file, "two")
    assert key()["config"] != before["config"] and key()["inputs"] == before["inputs"]
    monkeypatch.setattr(sources, "identity", lambda **_: "other weights")
    assert key()["inputs"]["model"] != before["inputs"]["model"]
    assert key()["inputs"]["tokenizer"] != before["inputs"]["tokenizer"]
