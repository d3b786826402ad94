"""The identity of code: what changes it, and what does not."""

import importlib
import itertools
import sys

import pytest

from rockstudy.errors import StudyError
from rockstudy.store import code

NUMBERS = itertools.count()
SOURCE = '''
"""A module."""
from rockstudy.store.seeds import generator
LIMIT = 3
def helper(x):
    """Doc."""
    return x + LIMIT  # why
def compute(x):
    return helper(x)
def aside(x):
    return x
'''


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Identity of `compute` in a plugin with some source."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def identity(source, name="compute"):
        module = f"plugin_{next(NUMBERS)}_of_test_code"
        (tmp_path / f"{module}.py").write_text(source)
        importlib.invalidate_caches()
        loaded = importlib.import_module(module)
        loaded.__rockstudy_plugin__ = True
        try:
            found = code._reached((module, name))
            return {n: code._module(m).sources[n] for m, n in found}
        finally:
            sys.modules.pop(module)

    return identity


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  # why", ""),
        ('"""Doc."""', '"""Other words."""'),
        ("LIMIT = 3", "LIMIT = 3\n\n\nUNUSED = 5"),
        ("def aside(x):\n    return x", "def aside(x):\n    return 2 * x"),
        ("return x + LIMIT", "return (x +\n        LIMIT)"),
    ],
)
def test_comments_docstrings_layout_and_what_is_not_reached_change_nothing(plugin, old, new):
    assert old in SOURCE
    assert plugin(SOURCE) == plugin(SOURCE.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [("LIMIT = 3", "LIMIT = 4"), ("x + LIMIT", "x - LIMIT"), ("helper(x)\n", "helper(x) + 1\n")],
)
def test_every_definition_that_is_reached_counts(plugin, old, new):
    assert old in SOURCE
    assert plugin(SOURCE) != plugin(SOURCE.replace(old, new))


def test_random_streams_count_and_plumbing_does_not():
    from rockstudy.rocks import steps

    reached = code._reached(("rockstudy.rocks.steps", "stability"))
    modules = {module for module, _ in reached}
    assert ("rockstudy.rocks.contexts", "consistency") in reached
    assert not any(m.startswith(("rockstudy.store.cache", "rockstudy.parallel")) for m in modules)
    assert code.identity(steps.stability) == code.identity(steps.stability.__wrapped__)


def test_what_is_registered_counts_though_no_name_leads_to_it():
    reached = code._reached(("rockstudy.rocks.steps", "types"))
    assert any(module == "rockstudy.rocks.scores" for module, _ in reached)


def test_a_function_whose_result_has_its_own_key_is_not_followed():
    reached = code._reached(("rockstudy.rocks.steps", "types"))
    assert not any(module == "rockstudy.training.trainer" for module, _ in reached)


def test_a_function_of_a_notebook_must_not_read_its_variables():
    frame = [1, 2]
    with pytest.raises(StudyError, match="it reads frame"):
        code.identity(lambda: frame)
    assert code.identity(lambda x: sorted(x)) != code.identity(lambda x: list(x))
