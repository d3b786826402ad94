"""What is cached depends on the contents of the files that it was made from, not on names alone."""

import json

import pytest

from rockstudy import tasks
from rockstudy.config.fields import TaskConfig
from rockstudy.config.overrides import from_parameters
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
    assert tasks.identity(lab) == lab.model_dump(mode="json")


def test_weights_are_the_files_of_a_folder_or_the_revision_of_the_hub(tiny_pair_dir, tmp_path):
    teacher = str(tiny_pair_dir / "teacher")
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "model.safetensors").write_bytes(
        (tiny_pair_dir / "teacher" / "model.safetensors").read_bytes()
    )
    same = sources.identity(teacher, None, None, "teacher")
    assert sources.identity(str(copy), None, None, "teacher") == same
    (copy / "model.safetensors").write_bytes(b"other weights")
    assert sources.identity(str(copy), None, None, "teacher") != same
    one, two = (sources.identity("someone/model", r, None, "teacher") for r in ("a", "b"))
    assert one != two


@pytest.mark.parametrize("label", ["teacher", "student"])
def test_a_grading_of_the_pair_depends_on_its_problems_and_its_weights(
    label, tmp_path, monkeypatch
):
    file = tmp_path / "problems.jsonl"
    write(file, "one")
    given = {"benchmarks__0__name": "math", "benchmarks__0__path": str(file)}
    run = Run(from_parameters("tiny", **given), tmp_path)
    before = evaluation.grading_key(run, label, None)
    write(file, "two")
    assert evaluation.grading_key(run, label, None)["config"] != before["config"]
    monkeypatch.setattr(sources, "identity", lambda *_: "other weights")
    assert evaluation.grading_key(run, label, None)["inputs"] != before["inputs"]
