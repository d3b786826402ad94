"""An error is one line of bounded length that every terminal shows as it is."""

import pickle

import pytest

from rockstudy import errors, paths, runs
from rockstudy.config.overrides import from_parameters
from rockstudy.errors import StudyError
from rockstudy.rocks.detection import NothingPersists

HIDING = ["a\nb", "a\rb", "\x1b[31m", "\x00", "\u202eabc", "a\u200bb", "a\u2028", "\x85", "\udcff"]


@pytest.mark.parametrize("text", HIDING, ids=ascii)
def test_a_character_without_a_glyph_is_an_escape_wherever_it_stands(text):
    for wrong in (
        lambda: from_parameters("tiny", **{text: 1}),
        lambda: from_parameters("tiny", **{f"stage2__{text}": 1}),
        lambda: from_parameters("tiny", **{f"benchmarks__{text}__n_eval": 1}),
        lambda: from_parameters("tiny", stage2__keep={text: 0.5, "late": 1.0}),
        lambda: from_parameters("tiny", benchmarks__name=text),
        lambda: from_parameters(f"{text}.toml"),
        lambda: paths.run_dir(text),
        lambda: runs.existing("mine", field=text),
    ):
        with pytest.raises(StudyError) as raised:
            wrong()
        line = str(raised.value)
        assert line.isprintable() and len(line) <= errors.LINE


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("x" * 10_000, 1),
        ("stage2__" + "y" * 10_000, 1),
        ("pair__dtype", "z" * 10_000),
        ("seeds", list(range(5000))),
        ("seeds", [0] * 999),
        ("stage2__keep", {f"name{i}": 0.5 for i in range(90)}),
        ("benchmarks__name", "q" * 10_000),
        ("pair__teacher", "q" * 10_000),
    ],
    ids=lambda value: str(value)[:20],
)
def test_names_values_and_lists_of_any_length_leave_a_line_that_begins_with_the_field(field, value):
    with pytest.raises(StudyError) as raised:
        from_parameters("tiny", **{field: value})
    line = str(raised.value)
    assert len(line) <= errors.LINE
    assert field.split("__")[0][:20] in line[:60]


def test_what_is_too_long_loses_its_middle_and_a_path_of_usual_length_nothing():
    path = "/home/someone/" + "folder/" * 12 + "00_first.failed.ipynb"
    line = errors.line(f"00_first, cell [3]: {'x' * 5000} (kept: {path})")
    assert line.startswith("00_first, cell [3]: xxx") and line.endswith(f"(kept: {path})")
    assert " ... " in line and len(line) <= errors.LINE
    assert errors.line("a field: must be 1; got 2") == "a field: must be 1; got 2"


def test_every_kind_of_study_error_is_safe_and_survives_another_process():
    for kind in (StudyError, runs.NotStored, NothingPersists):
        error = kind("a\nb" + "c" * 1000)
        copied = pickle.loads(pickle.dumps(error))
        assert type(copied) is kind and str(copied) == str(error)
        assert "\n" not in str(error) and len(str(error)) <= errors.LINE


def test_an_unknown_name_shows_its_hint_after_a_list_that_is_cut():
    line = errors.unknown("field", "nam500", [f"name{i}" for i in range(1000)])
    assert line.startswith("field: must be one of name0, name1") and "got 'nam500'" in line
    assert line.endswith("(did you mean 'name500'?)") and len(line) <= errors.LINE
