"""The worked examples of CONTRIBUTING.md, applied to a copy of the package and run."""

import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest

from rockstudy import paths

TEXT = (paths.REPO / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTIONS = {part.splitlines()[0]: part for part in TEXT.split("\n## ")[1:]}


def blocks(section: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", SECTIONS[section], re.DOTALL)


@pytest.fixture
def copy(tmp_path):
    """A copy of what the package needs, as a git repository; and how to run a command in it."""
    for name in ("rockstudy", "notebooks", "data"):
        ignored = shutil.ignore_patterns("__pycache__", "reference")
        shutil.copytree(paths.REPO / name, tmp_path / name, ignore=ignored)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "ROCKSTUDY_HOME": str(tmp_path)}

    def run(*command: str, text: str | None = None) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, input=text, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    def apply(section: str) -> None:
        for patch in blocks(section, "diff"):
            run("git", "apply", "--recount", "-", text=patch)
        for block in blocks(section, "python"):
            where, source = block.split("\n", 1)
            add(tmp_path / where.removeprefix("# "), source)

    run("git", "init", "-q")
    return run, apply, tmp_path


def commands(section: str) -> list[list[str]]:
    """The section's `rockstudy` commands, as this interpreter runs them."""
    import shlex

    lines = [line for block in blocks(section, "bash") for line in block.splitlines()]
    return [[sys.executable, "-m", "rockstudy.cli.main", *shlex.split(line)[1:]] for line in lines]


def add(file, source: str) -> None:
    """Write a file, or add a cell to a notebook after the one that makes `types`."""
    if file.suffix != ".ipynb":
        file.write_text(source, encoding="utf-8")
        return
    notebook = nbformat.read(file, as_version=4)
    before = next(i for i, cell in enumerate(notebook.cells) if cell.source.startswith("types ="))
    notebook.cells.insert(before + 1, nbformat.v4.new_code_cell(source.strip()))
    nbformat.write(notebook, file)


CHECKS = {
    "A score": """
import pandas as pd
from rockstudy.config.overrides import from_parameters
from rockstudy.config.registry import SCORES
name = from_parameters("tiny", rocks__selector="persistent").rocks.selector
types = pd.DataFrame({"loss": [1.0, 2.0], "n_persistent": [5, 1]})
assert SCORES[name](types).tolist() == [5, 2]
""",
    "An arm": """
import types
from rockstudy.config.overrides import from_parameters
from rockstudy.config.registry import ARMS
from_parameters("tiny", freeze__extra=["rocks-and-next"])
made = types.SimpleNamespace(rocks=(1, 2), next_ranks=(3,), types=lambda ids: ids)
assert ARMS["rocks-and-next"](made) == (1, 2, 3)
""",
    "A figure": """
import pandas as pd
from rockstudy.rocks import figures
figures.rock_consistency(pd.DataFrame({"n_persistent": [0, 4, 5], "ccr": [0, 0.5, 1]}))
""",
    "A claim": """
from claim import row
assert row["direction"] == "reproduced" and row["size"]
""",
    "A task of one's own": """
from rockstudy import tasks
from rockstudy.config.overrides import from_parameters
config = from_parameters("tiny", plugins=["parity.py"], benchmarks__1__name="parity")
task = config.benchmarks[1]
train, evaluation = (tasks.load(task, split) for split in ("train", "eval"))
assert not {p.prompt for p in train} & {p.prompt for p in evaluation}
assert len(train) == task.n_train and len(evaluation) == task.n_eval
right = [f"It is {p.answer}." for p in evaluation]
assert tasks.grade(task, evaluation, right).all()
assert not tasks.grade(task, evaluation, ["I cannot say."] * len(evaluation)).any()
""",
}


@pytest.mark.parametrize("section", CHECKS)
def test_an_example_applies_to_the_code_as_it_is_and_does_what_it_says(copy, section):
    run, apply, _ = copy
    apply(section)
    run(sys.executable, "-c", CHECKS[section])


def test_an_example_edits_no_more_files_than_a_newcomer_should_have_to():
    most = {"A score": 2, "An arm": 1, "A figure": 2, "A task of one's own": 1, "A claim": 1}
    for section, limit in most.items():
        patched = re.findall(r"^\+\+\+ b/(.+)$", SECTIONS[section], re.MULTILINE)
        assert len(patched) + len(blocks(section, "python")) <= limit


@pytest.mark.slow
@pytest.mark.parametrize("section", [name for name in [*CHECKS, "A notebook"] if name != "A claim"])
def test_the_commands_of_an_example_run(copy, section):
    run, apply, folder = copy
    apply(section)
    for command in commands(section):
        run(*command)
    assert [*folder.glob("runs/*/notebooks/*.ipynb")]
