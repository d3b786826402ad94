"""`rockstudy config` and `rockstudy fields`, and `--config FILE` where there is `--preset`."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from rockstudy.cli import main, measure, parameters
from rockstudy.config import names
from rockstudy.config.overrides import from_parameters
from rockstudy.config.presets import PRESETS


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """Call the command in a folder of its own: exit code, what it printed, its error lines."""
    monkeypatch.chdir(tmp_path)

    def called(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main.main(arguments)
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    return called


@pytest.mark.parametrize("name", PRESETS)
def test_a_printed_preset_can_be_given_as_a_file(call, name):
    _, out, _ = call("config", "--preset", name)
    Path("mine.toml").write_text(out, encoding="utf-8")
    assert from_parameters("mine.toml") == PRESETS[name]
    assert call("config", "--config", "mine.toml") == (0, out, "")


def test_config_prints_the_values_that_are_given(call):
    _, out, _ = call("config", "-p", "stage2__steps", "7", "--seed", "3", "-p", "seeds", "[4]")
    Path("mine.toml").write_text(out, encoding="utf-8")
    assert from_parameters("mine.toml") == from_parameters("lab", 3, stage2__steps=7, seeds=[4])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["config", "-p", "lr", "1"], "got 'lr' (did you mean 'stage1__lr' or 'stage2__lr'?)"),
        (["config", "-p", "preset", "lab"], "-p preset: must be given as --preset"),
        (["config", "-p", "seed", "1"], "-p seed: must be given as --seed"),
        (["config", "--preset", "lab", "--config", "x.toml"], "must not be given together"),
        (["run", "--preset", "lab", "--config", "x.toml"], "must not be given together"),
        (["measure", "--preset", "lab", "--config", "x.toml"], "must not be given together"),
        (["new", "a", "--preset", "lab", "--config", "x.toml"], "must not be given together"),
        (["config", "--config", "x.toml"], "x.toml: must be a file that can be read"),
        (["run", "--config", "x.toml"], "x.toml: must be a file that can be read"),
        (["new", "a", "--config", "x.toml"], "x.toml: must be a file that can be read"),
        (["config", "--config", "x.json"], "--config: must be a file whose name ends in .toml"),
        (["fields", "qqq"], "TEXT: must be part of a field's name or meaning; got 'qqq'"),
        (["fields", "--preset", "laab"], "preset: must be one of tiny, lab"),
        (["run", "2", "-p", "rocks.k", "5"], "got 'rocks.k' (did you mean 'rocks__k'?)"),
        (["run", "2", "-p", "k", "5"], "got 'k' (did you mean 'rocks__k'?)"),
        (["run", "2", "-p", "rocks__kk", "5"], "got 'kk' (did you mean 'rocks__k'?)"),
    ],
    ids=" ".join,
)
def test_what_is_wrong_is_one_line(call, arguments, expected):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert expected in err
    assert err.count("\n") == 1


def test_fields_lists_every_field_with_its_value_and_meaning(call):
    code, out, _ = call("fields", "--preset", "paper")
    assert code == 0
    lines = out.splitlines()
    assert [line.split(" = ")[0] for line in lines if line[0] != " "] == list(names.FIELDS)
    assert "benchmarks__n_eval = 500, 541, 30, 30, 30" in lines
    assert "stage2__lr = 2e-06" in lines
    assert (
        lines[lines.index("rocks__k = 100") + 1].strip().startswith("token types in the rock set")
    )


def test_fields_takes_a_part_of_a_name_or_of_a_meaning_or_a_near_name(call):
    _, out, _ = call("fields", "TAU_")
    assert [line.split()[0] for line in out.splitlines() if line[0] != " "] == [
        "rocks__tau_pre",
        "rocks__tau_post",
    ]
    _, out, _ = call("fields", "learning rate")
    assert "stage2__lr = 0.0004" in out
    for given in ("20", "0.05"):
        _, out, _ = call("config", "-p", "rocks__k", given)
        assert f"\nk = {given}\n" in out
    _, out, _ = call("fields", "rocks.k")
    assert out.startswith("rocks__k = 0.022\n")


def test_a_file_is_passed_on_as_the_preset_with_its_seed_and_name(call, monkeypatch, tmp_path):
    Path("mine.toml").write_text('preset = "tiny"\nseed = 5\n[stage2]\nsteps = 3\n')
    asked, run = [], SimpleNamespace(path=None)
    with monkeypatch.context() as patch:
        patch.setattr(main.running, "run_study", lambda *given: None)
        patch.setattr(main.runs, "open_run", lambda *given, check: asked.append(given) or run)
        assert call("run", "0", "--config", "mine.toml")[0] == 0
        call("run", "0", "--config", "mine.toml", "--seed", "2", "--run-id", "other")
    path = str(tmp_path / "mine.toml")
    assert asked == [(path, "mine", None, {}, None), (path, "other", 2, {}, None)]

    monkeypatch.setenv("ROCKSTUDY_HOME", str(tmp_path))
    measured = []
    monkeypatch.setattr(measure, "measure", lambda *given: measured.append(given))
    assert call("measure", "data", "--config", "mine.toml", "-p", "seeds", "[9]")[0] == 0
    ((run, parts),) = measured
    assert run.config == from_parameters("tiny", 5, stage2__steps=3, seeds=[9])
    assert (run.path.name, parts) == ("mine", ["data"])

    _, out, _ = call("new", "question", "--config", "mine.toml", "--to", ".")
    known = parameters.parameters(Path(out.strip()))
    assert (known["preset"].default, known["run_id"].default) == (None, "mine")


@pytest.mark.parametrize("arguments", [[], ["run"], ["config"], ["lab", "build"], ["claims"]])
def test_h_is_help_everywhere(call, arguments):
    code, out, _ = call(*arguments, "-h")
    assert code == 0
    assert out.startswith("Usage: rockstudy")
    assert call(*arguments, "--help") == (0, out, "")


def test_the_version_is_printed(call):
    code, out, err = call("--version")
    assert (code, err) == (0, "")
    assert out.startswith("rockstudy ")
