"""What a task says of causes is checked, and its code changes no key but that of the causes."""

import numpy as np
import pytest

from rockstudy import tasks
from rockstudy.config.fields import TaskConfig
from rockstudy.config.registry import TASKS
from rockstudy.errors import StudyError
from rockstudy.store import code
from rockstudy.tasks import Problem, Task

NAMES = ("arithmetic", "format", "off the grammar")
PROBLEM = Problem("How many?", "3", "count", "0", {})
SIZES = {"n_train": 1, "n_eval": 1, "max_prompt_tokens": 64}


def load(task, split):
    return [PROBLEM]


def annotate(problem, text):
    return np.array([0 if c.isdecimal() else 1 for c in text], np.int8)


@pytest.fixture
def register(monkeypatch):
    TASKS.entries()
    monkeypatch.setattr(TASKS, "_entries", dict(TASKS._entries))

    def add(function):
        TASKS.add("of-test", Task(load, causes=NAMES, annotate=function))
        return TaskConfig(name="of-test", **SIZES)

    return add


@pytest.mark.parametrize(
    ("causes", "function", "line"),
    [
        (NAMES, None, "causes: must be given together with annotate; got arithmetic"),
        ((), annotate, "causes: must be given together with annotate; got none, and a function"),
        (("arithmetic", "off the grammar"), annotate, "'format' one of them"),
        (("format", "arithmetic"), annotate, "'off the grammar' the last"),
        (("format", "format", "off the grammar"), annotate, "causes: must be distinct"),
    ],
)
def test_causes_that_do_not_fit_their_annotator_are_refused_in_one_line(causes, function, line):
    with pytest.raises(StudyError) as error:
        Task(load, causes=causes, annotate=function)
    assert line in str(error.value) and "\n" not in str(error.value)


def test_every_character_gets_the_place_of_its_cause(register):
    task = register(annotate)
    found = tasks.annotate(task, PROBLEM, "a1")
    assert found.tolist() == [1, 0] and found.dtype == np.int8
    assert tasks.annotate(task, PROBLEM, "").tolist() == []
    assert tasks.causes(task) == NAMES


@pytest.mark.parametrize(
    "given", [[0], [0, 1, 1], [0, 3], [0, -1], [0.0, 1.0], ["arithmetic", "format"]]
)
def test_an_annotator_that_does_not_give_a_place_for_each_character_is_refused(register, given):
    task = register(lambda problem, text: np.array(given))
    with pytest.raises(StudyError, match="of-test: annotate must give a place in 3 causes for ea"):
        tasks.annotate(task, PROBLEM, "a1")


def test_most_tasks_have_no_causes():
    assert tasks.causes(TaskConfig(name="arithmetic", **SIZES)) == ()


def test_the_code_of_an_annotator_is_reached_only_where_causes_are_found(register):
    register(annotate)
    (entry,) = [e for e in TASKS.entries() if e.name == "of-test"]
    assert entry.functions == (load,)
    for function in ("types", "outputs", "token_sets"):
        reached = code._reached(("rockstudy.rocks.steps", function))
        assert not [name for module, name in reached if name in ("annotate", "grade", "load")]
    found = code._reached(("rockstudy.rocks.steps", "causes"))
    assert ("rockstudy.rocks.causes", "of_tokens") in found
