"""Configurations as TOML files: what is written is read back, and what is wrong is one line."""

import tomllib

import pytest

from rockstudy.config import names, study_file
from rockstudy.config.overrides import from_parameters
from rockstudy.config.presets import PRESETS
from rockstudy.errors import StudyError


@pytest.fixture
def file(tmp_path):
    """Write a file and return its path as text."""

    def write(text: str) -> str:
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_that_is_written_is_read_back_equal(file, name):
    assert from_parameters(file(study_file.text(PRESETS[name]))) == PRESETS[name]


def test_a_changed_configuration_is_read_back_equal_where_a_field_became_empty(file):
    pair = {"teacher": 'a "quoted" \\ name', "student": "ü\x7f\n"}
    task = {"name": "lab_math", "n_train": 9, "n_eval": 9, "max_prompt_tokens": 64}  # no path
    given = {"train_task": task, "freeze__extra": [], "stage2__lr": 1e-5}
    changed = from_parameters("qwen3", seed=4, pair=pair, **given)
    assert changed.train_task.path is None != PRESETS["qwen3"].train_task.path
    assert from_parameters(file(study_file.text(changed))) == changed


@pytest.mark.parametrize(
    ("preset", "absent"),
    [
        ("qwen3", ("models", "prompts", "rollouts")),
        ("own", ("rollouts", "pair", "benchmarks", "train_task", "stage1", "stage2", "freeze")),
    ],
)
def test_a_written_file_explains_every_field_and_has_it(preset, absent):
    text = study_file.text(PRESETS[preset])
    words = " ".join(text.replace("\n#", "").split())
    there = {names.general(name) for name, _ in study_file.nested(tomllib.loads(text))}
    for name, field in names.FIELDS.items():
        if name.startswith(absent):
            assert name not in there
            continue
        section, _, _ = name.rpartition("__")
        shown = section if section.count("__") else name  # a checkpoint is one value
        assert {shown, f"{shown}__name", section} & there
        if not section.count("__"):
            assert " ".join(names.meaning(field).split()) in words
    assert max(map(len, text.splitlines())) <= 100


def test_a_file_changes_the_values_of_its_preset(file):
    path = file(
        'preset = "lab"\nseed = 3\nseeds = [5]\n'
        "[stage2]\nsteps = 20\nkeep = { late = 1.0 }\n"
        "[stage1]\n"
        "[benchmarks]\nn_eval = 7\n"
    )
    expected = from_parameters(
        "lab", 3, seeds=[5], stage2__steps=20, stage2__keep={"late": 1.0}, benchmarks__n_eval=7
    )
    assert from_parameters(path) == expected
    assert from_parameters(path, seed=8, stage2__steps=2) == from_parameters(
        "lab",
        8,
        seeds=[5],
        stage2__steps=2,
        stage2__keep={"late": 1.0},
        benchmarks__n_eval=7,
    )


def test_tables_of_benchmarks_replace_those_of_the_preset(file):
    one = 'name = "arithmetic"\nn_train = 1\nn_eval = 5\nmax_prompt_tokens = 99\nsplit = "none"\n'
    config = from_parameters(file(f'preset = "lab"\n[[benchmarks]]\n{one}'))
    assert [(task.name, task.split) for task in config.benchmarks] == [("arithmetic", None)]


def test_none_empties_a_field_that_may_be_empty_and_no_other(file):
    path = file('preset = "tiny"\nscreen = "none"\n[stage1]\nreport_to = "none"\n')
    config = from_parameters(path)
    assert (config.screen, config.stage1.report_to) == (None, "none")


def test_a_file_without_a_preset_gives_every_field_and_is_named_by_itself(file):
    text = study_file.text(PRESETS["tiny"]).replace('preset = "tiny"\n', "")
    config = from_parameters(file(text))
    assert config == PRESETS["tiny"].model_copy(update={"preset": "mine"})
    again = study_file.text(config)
    assert '# preset = "mine"' in again
    assert from_parameters(file(again)) == config


WRONG = {
    "not TOML": ("a = = 1", ["must be TOML; ", "line 1"]),
    "nested too deeply": (f"a = {'[' * 900}{']' * 900}", ["must be TOML; "]),
    "a key twice": ("seed = 1\nseed = 2", ["must be TOML; "]),
    "an unknown preset": ('preset = "laab"', ["preset: must be one of tiny", "mean 'lab'"]),
    "a preset of a wrong type": ("preset = 3", ["preset: must be one of tiny, lab", "got 3"]),
    "an unknown key": ('preset = "lab"\nk = 3', ["parameter k: must", "mean 'rocks__k'?"]),
    "an unknown field": (
        'preset = "lab"\n[stage2]\nstepz = 3',
        ["parameter stage2__stepz: must be one of source", "mean 'stage2__steps'?"],
    ),
    "an unknown table": ('preset = "lab"\n[stge2]\n', ["parameter stge2: ", "mean 'stage2'?"]),
    "a wrong type": (
        'preset = "lab"\n[stage2]\nsteps = "ten"',
        ["stage2__steps: must be a whole number >= 1 and <= 1000000; got 'ten'"],
    ),
    "a date": ('preset = "lab"\n[stage2]\nsteps = 2020-01-01', ["stage2__steps: must be a whole"]),
    "out of bounds": ('preset = "lab"\nseed = -1', ["seed: must be a whole number >= 0", "got -1"]),
    "a table for a value": (
        'preset = "lab"\n[stage2.lr]\nx = 1',
        ["stage2__lr: must be a number > 0", "got {'x': 1}"],
    ),
    "a value for a table": ('preset = "lab"\nstage2 = 3', ["stage2: must be a mapping", "got 3"]),
    "a benchmark without a field": (
        'preset = "lab"\n[[benchmarks]]\nname = "arithmetic"',
        ["benchmarks__0__n_eval: must be a whole number >= 1 and <= 1000000; got nothing"],
    ),
    "neither a preset nor all fields": (
        "seeds = [1]",
        ["preset: must be one of tiny, lab, ", "or every field be given; got no 'pair'"],
    ),
    "a task without its file": (
        'preset = "lab"\n[train_task]\nname = "math"',
        ["train_task__path: must be a JSONL"],
    ),
}


@pytest.mark.parametrize(("text", "parts"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_with_a_file_is_one_line_that_names_it(file, text, parts):
    path = file(text)
    with pytest.raises(StudyError) as caught:
        from_parameters(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    assert all(part in line for part in parts), line


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    binary = tmp_path / "b.toml"
    binary.write_bytes(b"\xff\xfe")
    (tmp_path / "folder.toml").mkdir()
    for path, words in (
        (tmp_path / "no.toml", "must be a file that can be read; No such file"),
        (tmp_path / "folder.toml", "must be a file that can be read; "),
        (binary, "must be TOML; "),
    ):
        with pytest.raises(StudyError) as caught:
            from_parameters(str(path))
        assert str(caught.value).startswith(f"{path}: {words}")
        assert "\n" not in str(caught.value)
