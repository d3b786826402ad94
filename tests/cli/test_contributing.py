"""The worked examples of CONTRIBUTING.md, applied to a copy of the package and run."""

import os
import re
import shutil
import subprocess
import sys

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
            (tmp_path / where.removeprefix("# ")).write_text(source, encoding="utf-8")

    run("git", "init", "-q")
    return run, apply, tmp_path


def commands(section: str) -> list[list[str]]:
    """The section's `rockstudy` commands, as this interpreter runs them."""
    import shlex

    lines = [line for block in blocks(section, "bash") for line in block.splitlines()]
    return [[sys.executable, "-m", "rockstudy.cli.main", *shlex.split(line)[1:]] for line in lines]


CHECK_SELECTOR = """
import numpy as np, pandas as pd
from rockstudy import config, selectors
tokens = pd.DataFrame({"token_id": [1, 1, 2, 2, 3], "rkl_pre": [1, 2, 3, 4, 9.0],
                       "rkl_post": [1, 2, 1, 1, 0.0]})
assert selectors.select(tokens, "learned", 1).ids == (2,)
config.from_parameters("tiny", freeze__extra=["keep-learned"])
"""

CHECK_TASK = """
from rockstudy import config, tasks
task = config.from_parameters("tiny", benchmarks__1__name="parity").benchmarks[1]
train, evaluation = (tasks.load(task, split) for split in ("train", "eval"))
assert not {p.prompt for p in train} & {p.prompt for p in evaluation}
assert len(train) == task.n_train and len(evaluation) == task.n_eval
right = [f"It is {p.answer}." for p in evaluation]
assert tasks.grade(task, evaluation, right).all()
assert not tasks.grade(task, evaluation, ["I cannot say."] * len(evaluation)).any()
"""


@pytest.mark.parametrize(
    ("section", "check"), [("A selector", CHECK_SELECTOR), ("A task", CHECK_TASK)]
)
def test_an_example_applies_to_the_code_as_it_is_and_does_what_it_says(copy, section, check):
    run, apply, _ = copy
    apply(section)
    run(sys.executable, "-c", check)


@pytest.mark.slow
def test_the_commands_of_the_examples_run(copy):
    run, apply, folder = copy
    for section in ("A selector", "A task", "A notebook"):
        apply(section)
    made, then = commands("A notebook")
    for command in [*commands("A task"), made, then]:
        run(*command)
    assert (folder / "runs/tiny/notebooks/10_first_tokens.ipynb").is_file()
    assert (folder / "runs/parity/notebooks/00_task_and_models.ipynb").is_file()
