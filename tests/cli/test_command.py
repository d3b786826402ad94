"""Tests of the `rockstudy` command: what it refuses, runs, skips, keeps and prints."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest

from rockstudy import notebooks, paths
from rockstudy.claims import records
from rockstudy.cli import main, options, parameters, running
from rockstudy.errors import StudyError
from rockstudy.runs import open_run
from rockstudy.store import cache

STANDARD = 'run_id = "reference"\npreset = None\nseed = None\nfrom_run = None\n'
OPEN = "from rockstudy.runs import open_run\nrun = open_run(preset, run_id, seed)"


def write(folder: Path, name: str, *cells: str, own: str = "overrides = {}") -> Path:
    """Write a notebook with a parameters cell and these code cells."""
    first = nbformat.v4.new_code_cell(STANDARD + own, metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[first, *map(nbformat.v4.new_code_cell, cells)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    folder.mkdir(exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A study's folder with two notebooks and nothing else."""
    monkeypatch.setenv("ROCKSTUDY_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "notebooks", "00_first", own="overrides = {}\nn_shown = 3\nshare: float = 0.5")
    write(tmp_path / "notebooks", "01_second", own="label = 'a'\nflag = True\nlimit: int = None")
    return tmp_path


@pytest.fixture
def call(capsys):
    """Call the command and return its exit code, what it printed, and its error lines."""

    def called(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main.main(arguments)
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    return called


# What is refused.

REFUSED = {
    "an unknown preset": (["--preset", "laab"], "preset: must be one of tiny, lab"),
    "an unknown notebook": (["05"], "notebook: must be one of 00_first, 01_second"),
    "a missing file": (["no/where.ipynb"], "notebook: must be one of 00_first, 01_second"),
    "an unknown parameter": (["-p", "n_showm", "1"], "-p n_showm: must be one of flag, label"),
    "an unknown field": (["-p", "stage2__stepz", "1"], "(did you mean 'stage2__steps'?)"),
    "another notebook's parameter": (["01", "-p", "n_shown", "1"], "-p n_shown: must be one of"),
    "a word for an integer": (["-p", "n_shown", "few"], "must be an integer like the default 3"),
    "a fraction for an integer": (["-p", "n_shown", "1.5"], "must be an integer like"),
    "a boolean for an integer": (["-p", "n_shown", "true"], "must be an integer like"),
    "an infinite number": (["-p", "share", "1e999"], "must be a float like the default 0.5"),
    "a word for a boolean": (["-p", "flag", "maybe"], "must be a bool like the default True"),
    "a negative field": (["-p", "stage2__steps", "-2"], "stage2__steps: must be a whole number"),
    "a word for a field": (["-p", "stage2__steps", "ten"], "stage2__steps: must be a whole number"),
    "a name without a value": (["-p", "n_shown"], "-p: must be followed by a name and a value"),
    "the seed as a parameter": (["-p", "seed", "1"], "-p seed: must be given as --seed"),
    "a negative seed": (["--seed", "-1"], "seed: must be a whole number >= 0"),
    "a word for the seed": (["--seed", "one"], "Invalid value for '--seed'"),
    "a run id that leaves runs/": (["--run-id", "../x"], "run_id: must be"),
    "an empty run id": (["--run-id", ""], "run_id: must be"),
    "the reference as a run": (["--run-id", "reference"], "run_id: must not be 'reference'"),
    "an unknown option": (["--sed", "1"], "No such option"),
    "a time-out of zero": (["--timeout", "0"], "Invalid value for '--timeout'"),
    "a task that needs a file": (["-p", "train_task__name", "math"], "train_task__path: must be"),
}


@pytest.mark.parametrize(("arguments", "expected"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_wrong_is_one_line_exit_code_2_and_nothing_written(home, call, arguments, expected):
    before = sorted(home.rglob("*"))
    code, out, err = call("run", *arguments)
    assert (code, out) == (2, "")
    assert expected in err
    assert err.count("\n") == 1
    assert sorted(home.rglob("*")) == before


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("not json", "must be a Jupyter notebook"),
        ('{"cells": 3}', "must be a Jupyter notebook"),
        (None, "must have one cell tagged 'parameters'; got 0"),
    ],
)
def test_a_file_that_is_no_notebook_of_ours_is_refused(home, call, content, expected):
    path = home / "broken.ipynb"
    path.write_text(content or nbformat.writes(nbformat.v4.new_notebook()))
    code, _, err = call("run", str(path))
    assert code == 2
    assert expected in err
    assert err.count("\n") == 1
    assert not (home / "runs").exists()


def test_a_run_in_use_is_refused(home, call):
    with running.locked(paths.run_dir("tiny")):
        code, _, err = call("run", "--preset", "tiny")
    assert code == 2
    assert "must not be in use" in err


def test_a_file_system_without_locks_is_no_other_process(home, monkeypatch):
    import fcntl

    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with running.locked(paths.run_dir("tiny")):
        assert (paths.run_dir("tiny") / ".lock").is_file()


# Which notebooks, which values.


def test_notebooks_are_found_by_name_number_and_path_and_come_in_numeric_order(home):
    folder = paths.notebooks_dir()
    fork = write(home / "elsewhere", "fork")
    tenth = write(folder, "10_tenth")
    write(folder, "draft")
    assert [p.stem for p in running.find([], folder)] == ["00_first", "01_second", "10_tenth"]
    found = running.find([str(fork), "10", "01_second.ipynb", "00_first"], folder)
    assert [p.stem for p in found] == ["00_first", "01_second", "10_tenth", "fork"]
    assert running.find(["10"], folder) == running.find(["tenth"], folder) == [tenth.resolve()]
    assert [p.stem for p in running.find(["1", "first"], folder)] == ["00_first", "01_second"]
    assert [p.stem for p in running.find(["0"], folder)] == ["00_first"]
    with pytest.raises(StudyError, match="different names"):
        running.find(["draft", str(write(home / "elsewhere", "draft"))], folder)


@pytest.mark.parametrize(
    ("default", "text", "value"),
    [
        ("3", "7", 7),
        ("0.5", "2", 2.0),
        ("0.5", "1e-3", 0.001),
        ("'a'", "7", "7"),
        ("'a'", "", ""),
        ("True", "false", False),
        ("(1, 2)", "[3]", (3,)),
        ("None", "7", 7),
        ("None", "word", "word"),
        ("None", "none", None),
    ],
)
def test_a_value_takes_the_type_of_the_default(tmp_path, default, text, value):
    known = parameters.parameters(write(tmp_path, "a", own=f"x = {default}"))
    cast = parameters.cast(known["x"], text)
    assert cast == value
    assert type(cast) is type(value)


def test_an_annotation_is_the_type_where_the_default_is_none(tmp_path):
    own = "limit: int | None = None\nshare: float = None  # of 1\nmany = [\n    1,\n    2,\n]"
    known = parameters.parameters(write(tmp_path, "a", own=own))
    assert parameters.cast(known["limit"], "3") == 3
    assert parameters.cast(known["share"], "3") == 3.0
    assert known["many"].default == [1, 2]
    with pytest.raises(StudyError, match="-p limit: must be an integer like the default None"):
        parameters.cast(known["limit"], "word")


@pytest.mark.parametrize("text", ["7", "1e5", "true", "none", "[1]", ""])
@pytest.mark.parametrize(
    "annotation",
    [
        *("None | str", "str | None", "Optional[str]", "typing.Optional[str]", "Union[str, None]"),
        *("str", '"str | None"', "Annotated[str, 1]", "None|str"),
    ],
)
def test_an_optional_text_stays_text_however_it_is_annotated(annotation, text):
    known = notebooks.declared(f"token: {annotation} = None")
    assert parameters.cast(known["token"], text) == text


def test_a_cell_may_hold_magics_several_types_and_what_is_no_literal():
    source = "%matplotlib inline\na: int | str = 3\nb = [x for x in 'ab']\nc: dict[str, int] = {}"
    known = notebooks.declared(source)
    assert {name: one.kind for name, one in known.items()} == {"a": None, "b": None, "c": dict}
    assert parameters.cast(known["c"], "{'x': 1}") == {"x": 1}
    with pytest.raises(StudyError, match="parameters: must be Python"):
        notebooks.declared("a = = 3")


def test_a_name_goes_to_the_notebooks_that_have_it_and_a_field_to_the_run(home):
    files = running.find([], paths.notebooks_dir())
    given = [("flag", "false"), ("limit", "4"), ("stage2__lr", "1e-4"), ("seeds", "[5]")]
    values, fields = parameters.assign(files, "r", given)
    assert fields == {"stage2__lr": 1e-4, "seeds": [5]}
    assert values[files[0]] == {"run_id": "r"}
    assert values[files[1]] == {"run_id": "r", "flag": False, "limit": 4}


def test_a_pair_is_two_words_or_one_with_an_equals_sign():
    words = ["run", "-p", "a", "-3", "-p", "b=x=y", "00"]
    assert main._joined(words) == ["run", "-p", "a=-3", "-p", "b=x=y", "00"]
    assert options.pair("b=x=y") == ("b", "x=y")


# Running.


def test_a_study_runs_in_order_and_a_second_time_computes_only_what_is_gone(
    home, call, monkeypatch
):
    specs = home / "jupyter" / "kernels" / "python3"  # a kernel of that name that is not ours
    specs.mkdir(parents=True)
    (specs / "kernel.json").write_text('{"argv": ["/bin/false"], "display_name": "no"}')
    monkeypatch.setenv("JUPYTER_PATH", str(home / "jupyter"))
    table = (
        "import sys, time\nimport pandas as pd\n"
        'run.table(lambda n: pd.DataFrame({{"python": [sys.executable], "n": [n], '
        '"when": [time.time()]}}), {}, name="{}")'
    )
    write(home / "notebooks", "01_second", OPEN, table.format(0, "two"))
    write(home / "notebooks", "00_first", OPEN, table.format("n", "one"), own="n = 1")
    arguments = ["run", "--preset", "tiny", "--seed", "3", "-p", "n", "5"]
    tables = home / "runs" / "tiny" / "tables"

    def stored(name):
        (file,) = tables.glob(f"{name}-*.json")
        return cache.load(file.with_suffix(""))

    code, out, err = call(*arguments)
    assert code == 0, err
    assert out == f"{home / 'runs' / 'tiny' / 'report.html'}\n"
    assert err.index("00_first: ") < err.index("01_second: ")
    one, two = stored("one"), stored("two")
    assert one.iloc[0].tolist()[:2] == [sys.executable, 5]
    folder = home / "runs" / "tiny" / "notebooks"
    assert sorted(p.name for p in folder.glob("*.ipynb")) == ["00_first.ipynb", "01_second.ipynb"]

    next(tables.glob("two-*.json")).unlink()
    code, out, err = call("run", "--run-id", "tiny", "-p", "n", "5")
    assert code == 0, err
    assert out.endswith("report.html\n")
    assert stored("one").equals(one)
    assert not stored("two").equals(two)


def test_other_values_for_a_run_are_one_line_and_change_nothing(home, call):
    open_run("tiny", "mine", overrides={"stage2__steps": 6})
    before = {p: p.read_bytes() for p in home.rglob("*") if p.is_file()}
    code, out, err = call("run", "--run-id", "mine", "--preset", "tiny", "-p", "stage2__steps", "4")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "stage2__steps 6 (given 4)" in err and "--from mine" in err
    assert {p: p.read_bytes() for p in home.rglob("*") if p.is_file()} == before


def test_a_prompt_file_that_cannot_be_read_is_refused_before_a_run_is_recorded(home, call):
    (home / "bad.jsonl").write_text("not json\n")
    given = ["-p", "benchmarks__2__name", "math", "-p", "benchmarks__2__path", "bad.jsonl"]
    code, _, err = call("run", "--preset", "tiny", "--run-id", "mine", *given)
    assert (code, err.count("\n")) == (2, 1)
    assert "bad.jsonl, line 1: must be one JSON object" in err
    assert not (home / "runs").exists()


def test_a_new_notebook_on_a_run_with_other_values_keeps_the_runs_record(home, call):
    open_run("tiny", "mine", overrides={"stage2__steps": 6})
    before = (home / "runs" / "mine" / "run.json").read_bytes()
    code, out, _ = call("new", "q", "--run-id", "mine")
    assert code == 0
    known = parameters.parameters(Path(out.strip()))
    assert (known["preset"].default, known["run_id"].default) == (None, "mine")
    assert (home / "runs" / "mine" / "run.json").read_bytes() == before


def test_forget_tells_what_goes_and_asks(home, call, monkeypatch):
    run = open_run("tiny", "mine")
    for name in ("a", "b"):
        cache.save(run.path / "tables" / name, pd.DataFrame({"x": [1]}), config={})
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False)
    code, out, err = call("forget", "mine", "tables/a")
    assert code == 2 and "tables/a" in out and "nothing was deleted" in err
    assert (run.path / "tables" / "a.json").is_file()
    code, out, _ = call("forget", "mine", "tables/a", "--yes")
    assert code == 0 and "1 artefacts" in out and "tables/b" not in out
    assert [p.name for p in sorted((run.path / "tables").iterdir())] == ["b.json", "b.parquet"]
    code, _, _ = call("forget", "mine", "--yes")
    assert code == 0 and not run.path.exists()


@pytest.mark.parametrize(
    ("cell", "arguments", "expected"),
    [
        (
            "from rockstudy.errors import StudyError\nraise StudyError('field: must be 1; got 2')",
            [],
            "00_first, cell [3]: field: must be 1; got 2 (kept: ",
        ),
        ("{}['a\\nb']", [], "00_first, cell [3]: KeyError: "),
        ("import os\nos._exit(3)", [], "00_first, cell [3]: the kernel died; the usual cause is"),
        ("import time\ntime.sleep(60)", ["--timeout", "1"], "the cell took longer than --timeout"),
    ],
    ids=["a StudyError", "another exception", "a dead kernel", "a time-out"],
)
def test_a_notebook_that_fails_is_one_line_and_is_kept_as_failed(
    home, call, cell, arguments, expected
):
    write(home / "notebooks", "00_first", cell, "never = 1")
    code, out, err = call("run", "--preset", "tiny", *arguments)
    assert (code, out) == (1, "")
    line = err.splitlines()[-1]
    assert line.startswith("rockstudy: ")
    assert expected in line
    assert "Traceback" not in err
    folder = home / "runs" / "tiny" / "notebooks"
    assert sorted(path.name for path in folder.glob("*.ipynb")) == ["00_first.failed.ipynb"]
    assert "never" in (folder / "00_first.failed.ipynb").read_text()


ENDED = {
    signal.SIGINT: (130, "interrupted"),
    signal.SIGTERM: (143, "ended by SIGTERM"),
}


@pytest.mark.parametrize("number", ENDED, ids=lambda number: number.name)
def test_a_signal_ends_cleanly_in_a_line_of_its_own_and_leaves_no_kernel(home, number):
    tell = "open('pid', 'w').write(str(os.getpid()))"
    write(home / "notebooks", "00_first", f"import os, time\n{tell}", "time.sleep(120)")
    environment = os.environ | {"PYTHONPATH": str(paths.REPO)}
    command = [sys.executable, "-m", "rockstudy.cli.main", "run", "--preset", "tiny"]
    with subprocess.Popen(
        command,
        env=environment,
        stderr=subprocess.PIPE,
        # a shell that puts the tests in the background has them ignore the signal
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        pid = home / "pid"
        waited = time.monotonic()
        while not (pid.exists() and pid.read_text()) and time.monotonic() - waited < 120:
            time.sleep(0.1)
        kernel = int(pid.read_text())
        process.send_signal(number)
        err = process.communicate(timeout=60)[1].decode()
    code, words = ENDED[number]
    assert process.returncode == code
    line = (
        f"rockstudy: {words}; 0 notebooks and 0 artefacts are kept in runs/tiny; "
        "the same command, or `rockstudy run --run-id tiny`, goes on from there"
    )
    assert err.split("\n")[-2:] == [line, ""]
    assert "Traceback" not in err
    until = time.monotonic() + 10  # on a busy machine a killed process takes a moment to go
    while psutil.pid_exists(kernel) and time.monotonic() < until:
        time.sleep(0.1)
    assert not psutil.pid_exists(kernel)
    names = [p.name for p in (home / "runs" / "tiny" / "notebooks").glob("*.ipynb")]
    assert names == ["00_first.failed.ipynb"]


# Making and reading.


def test_new_writes_a_notebook_that_can_be_run_and_refuses_what_is_taken(home, call):
    code, out, _ = call("new", "my_question", "--preset", "tiny")
    assert code == 0
    path = Path(out.strip())
    assert path == home / "notebooks" / "my_question.ipynb"
    known = parameters.parameters(path)
    assert (known["preset"].default, known["run_id"].default) == ("tiny", "tiny")
    content = path.read_bytes()
    code, _, err = call("new", "my_question")
    assert code == 2
    assert "must not be taken" in err
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["../x"], "NAME: must be letters"),
        (["a b"], "NAME: must be letters"),
        ([""], "NAME: must be letters"),
        (["x" * 81], "NAME: must be letters"),
        (["x", "--to", "nowhere"], "--to: must be a folder"),
        (["x", "--to", "x" * 300], "--to: must be a folder"),
        (["x", "--to", "/proc"], "--to: must be a folder that can be written to; got '/proc'"),
        (["x", "--preset", "laab"], "preset: must be one of"),
        (["x", "--run-id", "a/b"], "run_id: must be"),
    ],
)
def test_new_refuses_bad_names_in_one_line(home, call, arguments, expected):
    before = sorted(home.rglob("*"))
    code, _, err = call("new", *arguments)
    assert code == 2
    assert expected in err
    assert err.count("\n") == 1
    assert sorted(home.rglob("*")) == before


@pytest.fixture
def claimed(home):
    opened = open_run("tiny", "mine")
    row = {"kind": "finding", "claim": "gain", "statement": "OPD raises Pass@1", "paper": None}
    row |= {"locator": "table 2", "direction": "reproduced", "reason": "a rule", "headline": True}
    numbers = {"value": 0.125, "lo": 0.1, "hi": 0.15, "unit": "problems", "n": 500}
    speed = {"kind": "shown", "claim": "speed", "direction": "", "headline": False}
    records.claims(opened, "01", [row | numbers, row | numbers | speed])
    return opened


def test_claims_are_printed_for_reading_and_as_json_lines(claimed, call):
    _, out, _ = call("claims", "--run", "mine")
    measured = "paper –, measured 0.125 [0.1, 0.15] over 500 problems"
    assert f"gain: direction reproduced; {measured}" in out and f"speed; {measured}" in out
    assert out.splitlines()[0] == "01  (1 finding; direction: 1 reproduced)"
    _, out, _ = call("claims", "--run", "mine", "--markdown")
    assert out.splitlines()[-1] == "1 of 1 finding; direction: 1 reproduced."
    _, out, _ = call("claims", "--run", "mine", "--json")
    first, second = map(json.loads, out.splitlines())
    assert tuple(first) == records.CLAIM_COLUMNS
    assert (first["paper"], first["value"], first["run_id"]) == (None, 0.125, "mine")
    assert (second["kind"], second["direction"], second["size"]) == ("shown", "", "")


def test_headlines_alone_are_printed_where_they_are_wanted(claimed, call):
    _, out, _ = call("claims", "--run", "mine", "--headlines")
    assert "gain: direction reproduced" in out and "speed" not in out
    _, out, _ = call("claims", "--run", "mine", "--headlines", "--json")
    assert json.loads(out)["claim"] == "gain"
    markdown = [
        call("claims", "--run", "mine", "--markdown", *more) for more in ([], ["--headlines"])
    ]
    assert markdown[0] == markdown[1]


def test_claims_of_the_reference_are_those_of_the_committed_tables(claimed, call):
    reference = paths.home() / "data" / "reference" / "tiny"
    reference.parent.mkdir(parents=True)
    claimed.path.rename(reference)
    _, out, _ = call("claims", "--reference", "tiny", "--headlines", "--json")
    assert json.loads(out)["claim"] == "gain"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["claims", "--run", "other"], "--run: must be one of mine; got 'other'"),
        (["claims", "--run", ""], "run_id: must be"),
        (["report", "--run", "other"], "--run: must be one of mine; got 'other'"),
        (["report", "--run", "mine"], "must have executed notebooks; got 'mine'"),
        (["claims", "--reference", "laab"], "--reference: must be one of"),
        (["claims", "--run", "mine", "--reference", "lab"], "not be given together"),
    ],
)
def test_reading_what_is_not_there_is_one_line(claimed, call, arguments, expected):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert expected in err
    assert err.count("\n") == 1


def test_info_prints_versions_presets_and_what_each_run_is(claimed, call):
    open_run("tiny", "more", overrides={"rocks__k": 2})
    code, out, _ = call("info")
    assert code == 0
    assert "trl " in out
    assert "lab:teacher -> lab:student" in out
    assert "mine: preset tiny; last changed" in out
    assert "more: preset tiny, rocks__k 2;" in out
    assert "claims: 1 artefacts" in out


def test_info_verifies_a_run_and_run_and_report_refuse_a_damaged_one(claimed, call):
    cache.save(claimed.path / "tables" / "t", pd.DataFrame({"x": [1]}), config={})
    code, out, _ = call("info", "--verify", "mine")
    assert (code, out) == (0, "mine: 2 artefacts, none of them damaged\n")
    file = claimed.path / "tables" / "t.parquet"
    file.write_bytes(b"other")
    remedy = "`rockstudy forget mine tables/t`"
    line = f"{file}: truncated or altered since it was written; {remedy}"
    code, out, err = call("info", "--verify", "mine")
    assert code == 2 and out.startswith(line)
    assert err.endswith("mine: 1 of 2 artefacts are damaged\n")
    for command in (["report", "--run", "mine"], ["run", "--run-id", "mine"]):
        code, out, err = call(*command)
        assert (code, out) == (2, "") and line in err and err.count("\n") == 1
    assert not (claimed.path / "notebooks").exists()  # nothing was executed
    call("forget", "mine", "tables/t", "--yes")
    assert call("info", "--verify", "mine")[0] == 0
    code, _, err = call("info", "--verify", "other")
    assert code == 2 and "--verify: must be one of mine; got 'other'" in err


def test_claims_without_their_data_are_an_error_and_not_left_out(claimed, call):
    (claimed.path / "claims" / "01.parquet").unlink()
    code, out, err = call("claims", "--run", "mine")
    assert (code, out) == (2, "") and "01.parquet: missing, though its manifest is there" in err


def test_no_arguments_print_the_help(call):
    code, out, _ = call()
    assert code == 0
    assert "Usage: rockstudy" in out
