"""Where a study stands and how long the rest takes: from earlier runs, or the shipped seconds."""

import json

import pytest

from rockstudy import paths
from rockstudy.cli import course
from rockstudy.cli.course import Expected, StudyCourse
from rockstudy.config.presets import PRESETS
from rockstudy.runs import open_run


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ROCKSTUDY_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test sets."""
    now = [0.0]
    monkeypatch.setattr(course.time, "monotonic", lambda: now[0])
    return now


def test_seconds_of_cells_are_recorded_and_a_quick_repeat_is_told_apart(home):
    run = open_run("tiny", "mine").path
    (run / "notebooks").mkdir()
    course.record(run, "00_first", [1.0, 30.0])
    course.record(run, "00_first", [1.0, 0.5])
    known = course.recorded(run)["00_first"]
    assert (known["longest"], known["last"]) == ([1.0, 30.0], [1.0, 0.5])
    config = PRESETS["tiny"]
    assert course.expected(run, config, ["00_first"])["00_first"].total == 31.0
    (run / "notebooks" / "00_first.ipynb").touch()  # executed to its end: everything is stored
    assert course.expected(run, config, ["00_first"])["00_first"].total == 1.5


def test_another_run_with_the_same_values_is_learnt_from_and_one_with_others_is_not(home):
    for name, given in {"same": {}, "longer": {"stage2__steps": 5}}.items():
        run = open_run("tiny", name, overrides=given).path
        (run / "notebooks").mkdir()
        course.record(run, "00_first", [10.0 if name == "same" else 99.0])
    new = open_run("tiny", "new").path
    assert course.expected(new, PRESETS["tiny"], ["00_first", "01_second"]) == {
        "00_first": Expected([10.0])
    }


def test_damaged_seconds_are_as_good_as_none(home):
    run = open_run("tiny", "mine").path
    (run / "notebooks").mkdir()
    for text in ("{", "[]", '{"00_first": 3}', '{"00_first": {"last": [1]}}'):
        (run / "notebooks" / course.SECONDS).write_text(text)
        assert course.recorded(run) == {}


def test_the_lab_has_shipped_seconds_for_every_notebook_that_it_was_timed_with(home):
    run = open_run("lab", "lab").path
    names = [path.stem for path in paths.notebooks_dir().glob("[0-9]*.ipynb")]
    known = course.expected(run, PRESETS["lab"], names)
    shipped = json.loads((paths.REPO / "data" / "seconds.json").read_text())["presets"]["lab"]
    assert known.keys() == shipped.keys() & set(names)
    assert all(one.shipped for one in known.values())
    assert course.expected(run, open_run("tiny", "t").config, names) == {}


def test_time_left_is_what_remains_of_this_cell_and_all_later_cells_and_notebooks(clock):
    study = StudyCourse(["a", "b"], {"a": Expected([2.0, 40.0, 8.0]), "b": Expected([50.0])})
    assert study.left() == 100.0
    study.start("a", 3)
    study.next_cell()
    clock[0] = 2.0
    study.next_cell()
    clock[0] = 12.0
    assert study.place() == "notebook 1 of 2, a, cell 2 of 3"
    assert study.left() == 30.0 + 8.0 + 50.0
    assert study.left(step_left=45.0) == 45.0 + 8.0 + 50.0
    assert study.ahead(None) == "12% of the study done, about 90 s left"
    study.next_cell()  # what was stored took no time: its seconds go at once
    assert study.left() == 58.0
    clock[0] = 20.0
    assert study.finish() == [2.0, 10.0, 8.0]
    assert study.left() == 50.0
    study.start("b", 1)
    study.finish()
    assert (study.place(), study.ahead(None)) == ("writing the report", "")


def test_an_unknown_notebook_leaves_the_end_of_the_study_unknown(clock):
    study = StudyCourse(["a", "b"], {"a": Expected([10.0])})
    study.start("a", 1)
    study.next_cell()
    assert (study.left(3.0), study.ahead(3.0)) == (None, "")


def test_shipped_seconds_are_scaled_by_what_this_machine_takes(clock):
    known = {name: Expected([60.0], shipped=True) for name in "abc"}
    study = StudyCourse(list("abc"), known)
    study.start("a", 12)
    clock[0] = 120.0
    study.finish()
    assert study.left() == 240.0
    study.start("b", 12)
    clock[0] = 150.0
    assert study.left() == 90.0 + 120.0
