"""The command `rockstudy export`: what it takes, writes and refuses."""

import pytest

from rockstudy.cli import main
from rockstudy.rocks import token_file


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Run a command in an empty study; return the exit code, stdout and stderr."""
    monkeypatch.setenv("ROCKSTUDY_HOME", str(tmp_path))

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main.main(["export", *map(str, arguments)])
        return stopped.value.code, *capsys.readouterr()

    return run


def test_an_export_prints_its_path_and_is_not_overwritten_unless_asked(call, tmp_path):
    given = ("rocks", "--reference", "lab", "--to", tmp_path / "rocks.json")
    code, out, err = call(*given)
    assert (code, out.strip()) == (0, str(tmp_path / "rocks.json")) and " rocks by " in err
    assert token_file.read(tmp_path / "rocks.json").run.preset == "lab"
    code, out, err = call(*given)
    assert (code, out) == (2, "") and "must not exist unless --overwrite is given" in err
    assert call(*given, "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((), "WHAT: must be one of rocks, tokens, rollouts, weights, claims; got nothing"),
        (("nothing", "rocks", "--to", "x.json"), "RUN: must name a run, and there is none yet"),
        (("rocks", "--reference", "lab"), "--to: must be given"),
        (("rocks", "--reference", "labs", "--to", "x.json"), "--reference: must be one of lab"),
        (("mine", "rocks", "--reference", "lab", "--to", "x.json"), "must not be given together"),
        (("stones", "--reference", "lab", "--to", "x.json"), "WHAT: must be one of rocks"),
        (
            ("rocks", "--reference", "lab", "--to", "x.json", "--arm", "types"),
            "--arm: must be given for weights alone; got 'types' for rocks",
        ),
        (
            ("weights", "--reference", "lab", "--to", "x.jsonl", "--arm", "rock-frieze"),
            "did you mean 'rock-freeze'?",
        ),
    ],
)
def test_what_is_wrong_is_one_line(call, tmp_path, monkeypatch, given, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*given)
    assert (code, out) == (2, "")
    assert words in err and len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())
