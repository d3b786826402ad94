"""Whatever is wrong with what a user gives: one line, an exit code, nothing half-written.

The same table stands in docs/errors.md, with the lines as they are printed.
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rockstudy import paths
from rockstudy.cli import main
from rockstudy.store import cache

ERRORS = Path(__file__).parents[2] / "docs" / "errors.md"
GOOD = json.dumps({"problem": "What is 1 + 1?", "answer": "2"})


@dataclass(frozen=True)
class Case:
    """What is given: arguments of `rockstudy run`, or fields of a training after some damage."""

    command: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    damage: Callable[[Path], object] = lambda folder: None


def weights(folder: Path, change: Callable[[dict], object]) -> None:
    file = folder / "student" / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


def truncate(folder: Path) -> None:
    file = folder / "student" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])


def smaller_vocabulary(folder: Path) -> None:
    file = folder / "student" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"vocab_size": 300}))
    weights(folder, lambda t: t.update({"model.embed_tokens.weight": torch.zeros(300, 32)}))


def problems(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "problems.jsonl").write_text(text)


LONG_PROMPTS = (  # the small tokenizer needs more tokens than the lab's
    "train_task__max_prompt_tokens=400",
    "benchmarks__max_prompt_tokens=400",
)
PAIR = ("pair__teacher=PAIR/teacher", "pair__student=PAIR/student")
FILE = ("train_task__name=math", "train_task__path=PAIR/problems.jsonl")
CASES = {
    "unknown preset": Case(("--preset", "laab")),
    "unknown notebook": Case(("05_nothing",)),
    "unknown parameter": Case(("-p", "evaluation__sample", "1")),
    "negative number": Case(("-p", "stage2__steps", "-2")),
    "word for a number": Case(("-p", "stage2__lr", "fast")),
    "run id that leaves `runs/`": Case(("--run-id", "../x")),
    "pair with two vocabularies": Case(fields=PAIR, damage=smaller_vocabulary),
    "missing weights": Case(
        fields=PAIR, damage=lambda f: (f / "student" / "model.safetensors").unlink()
    ),
    "corrupt safetensors": Case(fields=PAIR, damage=truncate),
    "empty prompt file": Case(fields=FILE, damage=problems("")),
    "malformed line in it": Case(fields=FILE, damage=problems(f"{GOOD}\n{{oops\n")),
    "rows without answers": Case(
        fields=FILE, damage=problems('{"problem": "What is 1 + 1?", "answer": ""}\n')
    ),
    "folder for a file": Case(fields=("train_task__name=math", "train_task__path=PAIR")),
    "unknown task": Case(("-p", "benchmarks__0__name", "maths")),
    "benchmark without answers": Case(
        ("-p", "benchmarks__0__name", "openthoughts3", "-p", "benchmarks__0__path", "x.jsonl")
    ),
    "unknown arm": Case(("-p", "freeze__extra", "['rock-frieze']")),
    "prompts over the limit": Case(fields=("train_task__max_prompt_tokens=8",)),
    "completion over the context": Case(fields=("stage1__max_new_tokens=512",)),
    "NaN in the weights": Case(
        fields=(*PAIR, *LONG_PROMPTS),
        damage=lambda f: weights(f, lambda t: t["model.norm.weight"].fill_(torch.nan)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_one_line_that_the_readme_shows(name, tiny_pair_dir, tmp_path, monkeypatch, capsys):
    case, pair = CASES[name], tmp_path / "pair"
    (tmp_path / "notebooks").mkdir()
    for notebook in sorted(paths.notebooks_dir().glob("0[01]_*.ipynb")):
        shutil.copy(notebook, tmp_path / "notebooks")
    shutil.copytree(tiny_pair_dir, pair)
    case.damage(pair)
    monkeypatch.setenv("ROCKSTUDY_HOME", str(tmp_path))
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as stopped:
        if case.command:
            main.main(["run", *case.command])
        else:
            fields = [w for f in case.fields for w in ("-p", f.replace("PAIR", str(pair)))]
            main.main(["measure", "training", "--preset", "tiny", *fields])
    printed = capsys.readouterr().err.splitlines()
    (error,) = (
        line for line in printed if line and "step/s]" not in line
    )  # a bar may stand above it
    assert stopped.value.code in (1, 2)
    after = {path for path in tmp_path.rglob("*") if path.is_file()}
    known = {*before, *tmp_path.rglob(".lock"), *tmp_path.rglob("run.json")}
    for file in after - known:  # complete artefacts may stay
        cache.load(file.with_suffix(""))
    line = re.sub(re.escape(str(pair)) + "/?", "", error.split(": ", 1)[1].strip())
    assert f"| {name} | `{line}` |" in ERRORS.read_text(encoding="utf-8")
