"""What the command writes beside its results: one line alone, whatever libraries and streams do."""

import errno
import os
import subprocess
import sys
import warnings

import pytest
from tqdm import tqdm

from rockstudy import paths
from rockstudy.cli import execute, main, messages, running
from rockstudy.errors import StudyError


def noise(*_, **__):
    """What libraries write, from Python and from C."""
    warnings.warn("a library's warning", UserWarning, stacklevel=1)
    print("[transformers] a library's message", file=sys.stderr)
    os.write(2, b"[W] a library's message from C\n")


@pytest.fixture
def status(capfd):
    """Call the command with a stderr of its own, as a process has, and return what came."""

    def ended(*arguments: str) -> tuple[int, str, str]:
        own = os.fdopen(2, "w", buffering=1, closefd=False)
        with pytest.raises(SystemExit) as end, pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stderr", own)
            main.main(arguments)
        printed = capfd.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    return ended


@pytest.mark.filterwarnings("ignore")
def test_a_refused_command_writes_its_one_line_and_nothing_of_libraries(status, monkeypatch):
    def refused(*_):
        noise()
        raise StudyError("field: must be 1; got 2")

    monkeypatch.setattr(running, "find", refused)
    assert status("run") == (2, "", "rockstudy: field: must be 1; got 2\n")


@pytest.mark.filterwarnings("ignore")
def test_what_libraries_write_in_an_accepted_command_follows(status, monkeypatch, tmp_path):
    monkeypatch.setattr(running, "rendered", lambda run: noise() or run)
    monkeypatch.setattr("rockstudy.runs.existing", lambda *_: tmp_path)
    code, out, err = status("report")
    assert (code, out) == (0, f"{tmp_path}\n")
    assert "[transformers] a library's message\n[W] a library's message from C\n" in err


def test_a_line_begins_below_an_open_bar(capfd):
    with tqdm(total=3, desc="open", file=sys.stderr) as bar:
        bar.update(1)
        messages.say("a line")
    assert capfd.readouterr().err.endswith("\na line\n")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full; free some space"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "a/file"), "the disk is full; free some"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "the output was closed before its end"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), "a: Permission denied"),
        (OSError("no number"), "OSError: no number"),
    ],
)
def test_an_error_of_the_system_is_one_line_that_tells_how_to_go_on(
    status, monkeypatch, error, words
):
    def fails(*_):
        raise error

    monkeypatch.setattr(running, "find", fails)
    code, _, err = status("run")
    assert code == 1 and err.startswith(f"rockstudy: {words}") and err.count("\n") == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_in_a_kernel_is_named_as_such(code):
    from papermill.exceptions import PapermillExecutionError

    text = str(OSError(code, os.strerror(code), "runs/a/b"))
    raised = PapermillExecutionError(1, 1, "", "OSError", text, [])
    assert execute._cause(raised) == execute.FULL
    assert execute._cause(OSError(code, os.strerror(code))) == execute.FULL


def command(shell: str, **environment: str) -> tuple[str, str]:
    given = os.environ | {"PYTHONPATH": str(paths.REPO)} | environment
    line = shell.replace("rockstudy", f"{sys.executable} -m rockstudy")
    done = subprocess.run(["bash", "-c", line], env=given, capture_output=True, check=False)
    return done.stdout.decode(), done.stderr.decode()


def test_a_reader_that_stops_early_and_a_full_disk_give_one_line():
    out, err = command("rockstudy fields | head -1")
    assert out == "preset = lab\n"
    assert err == "rockstudy: the output was closed before its end; what runs have stored is kept\n"
    assert command("rockstudy fields > /dev/full") == ("", f"rockstudy: {execute.FULL}\n")


def test_a_stream_without_a_character_gets_an_escape_that_toml_reads_back(tmp_path):
    (tmp_path / "größe.toml").write_text('preset = "tiny"\nplugins = []\n', encoding="utf-8")
    file = f'--config {tmp_path}/größe.toml -p pair__gguf_file "größe"'
    out, err = command(f"rockstudy config {file}", PYTHONIOENCODING="ascii", PYTHONUTF8="1")
    assert err == "" and 'gguf_file = "gr\\u00f6\\u00dfe"' in out
