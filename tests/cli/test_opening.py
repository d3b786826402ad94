"""`rockstudy open`: a copy wired to the reference or to a run; the original stays as it is."""

import importlib.util
import os

import pytest

from rockstudy import paths
from rockstudy.cli import main, parameters
from rockstudy.runs import open_run

NOTEBOOK = paths.REPO / "notebooks" / "02_rock_tokens.ipynb"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ROCKSTUDY_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def opened(monkeypatch, capsys):
    """Call `rockstudy open`; return the exit code, its lines, and how JupyterLab was started."""
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, command: started.append(command))

    def call(*arguments: str) -> tuple[int, str, list[list[str]]]:
        with pytest.raises(SystemExit) as end:
            main.main(["open", *arguments])
        printed = capsys.readouterr()
        assert printed.out == ""
        return int(end.value.code or 0), printed.err, started

    return call


def test_the_rock_tokens_open_on_the_reference_in_a_copy(home, opened):
    before = NOTEBOOK.read_bytes()
    code, err, (command,) = opened("--no-browser")
    copy = home / "my_notebooks" / "02_rock_tokens.ipynb"
    assert code == 0
    assert f"a new copy on the committed reference: {copy}" in err
    assert "--LabApp.default_url=/lab/tree/my_notebooks/02_rock_tokens.ipynb" in command
    assert "--no-browser" in command
    assert parameters.parameters(copy)["run_id"].default == "reference"
    assert NOTEBOOK.read_bytes() == before


def test_a_copy_that_was_changed_is_opened_again_as_it_is(home, opened):
    opened("02")
    copy = home / "my_notebooks" / "02_rock_tokens.ipynb"
    copy.write_text(copy.read_text().replace("Rock", "Stone"))
    changed = copy.read_bytes()
    code, err, started = opened("02")
    assert (code, len(started)) == (0, 2)
    assert "your copy on the committed reference" in err
    assert copy.read_bytes() == changed


def test_a_copy_of_a_run_opens_that_run(home, opened):
    open_run("tiny", "mine")
    code, err, _ = opened("05", "--run-id", "mine")
    copy = home / "my_notebooks" / "05_causal_knockout-mine.ipynb"
    assert code == 0 and "on the run mine" in err
    known = parameters.parameters(copy)
    assert (known["run_id"].default, known["preset"].default) == ("mine", None)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["02", "--run-id", "mine"], "--run-id: must name a run, and there is none yet"),
        (["77"], "notebook: must be one of 00_task_and_models"),
        (["02", "--run-id", "../x"], "run_id: must be 1 to 64 letters"),
    ],
)
def test_what_cannot_be_opened_is_one_line_and_nothing_is_written(
    home, opened, arguments, expected
):
    code, err, started = opened(*arguments)
    assert (code, err.count("\n"), started) == (2, 1, [])
    assert expected in err
    assert list(home.iterdir()) == []


def test_without_jupyterlab_a_line_tells_what_brings_it(home, opened, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "jupyterlab" else find(name)
    )
    code, err, started = opened("02")
    assert (code, err.count("\n"), started) == (2, 1, [])
    assert "jupyterlab: must be installed to open a notebook; `pip install jupyterlab`" in err
    assert list(home.iterdir()) == []
