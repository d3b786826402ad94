"""`rockstudy measure`: two gloo processes have the tables of one, a killed one is named, and so on.

The processes are real ones, started as a user starts them.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributed.launcher.api import elastic_launch

from rockstudy import paths, runs
from rockstudy.cli import launcher, main
from rockstudy.errors import StudyError
from rockstudy.gradients import steps as gradients_steps
from rockstudy.knockout import steps as knockout_steps
from rockstudy.parallel import placement
from rockstudy.store import cache
from rockstudy.training import steps as training_steps

SMALL = {"knockout__n_prompts": 4, "screen": 3, "seeds": "[0]"}
# gradients are float32 sums that two processes add in another order
LOOSE = {"gradients": 1e-3}


def command(home: Path, *words: str) -> subprocess.Popen:
    given = [word for name, value in SMALL.items() for word in ("-p", f"{name}={value}")]
    home.mkdir(exist_ok=True)
    environment = os.environ | {
        "ROCKSTUDY_HOME": str(home),
        "PYTHONPATH": str(paths.REPO),
        "OMP_NUM_THREADS": "1",  # one process and two have the same roundings then
    }
    return subprocess.Popen(
        [sys.executable, "-m", "rockstudy", "measure", *words, "--preset", "tiny", *given],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def tables(home: Path) -> dict[str, pd.DataFrame]:
    """Every table of a run but those of training, which the statistics begin with."""
    run = home / "runs" / "tiny"
    files = [f for f in sorted(run.rglob("*.parquet")) if f.relative_to(run).parts[0] != "training"]
    return {f.relative_to(run).as_posix(): cache.load(f.with_suffix("")) for f in files}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a run that a single process has measured."""
    home = tmp_path_factory.mktemp("one")
    process = command(home, "training", "statistics")
    _, said = process.communicate()
    assert process.returncode == 0, said
    return home


def children(process: subprocess.Popen) -> list[int]:
    """The processes that a command has started, by their rank."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return sorted(map(int, found), key=rank_of)


def rank_of(pid: int) -> int:
    """What torchrun has told a process that it is."""
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return int(dict(v.split(b"=", 1) for v in variables if v)[b"RANK"])


def started_from(one: Path, home: Path) -> Path:
    """A home that holds only the record of another one's run and its trainings."""
    before, run = one / "runs" / "tiny", home / "runs" / "tiny"
    (run / "rollouts").mkdir(parents=True)
    for kept in (before / runs.RECORD, before / "training"):
        subprocess.run(["cp", "-r", str(kept), str(run)], check=True)
    for kept in (before / "rollouts").glob("stage1-teacher-*"):
        subprocess.run(["cp", str(kept), str(run / "rollouts")], check=True)
    return home


@pytest.mark.slow
def test_a_killed_process_is_named_and_the_next_call_has_the_tables_of_one(one, tmp_path):
    home = started_from(one, tmp_path)
    process = command(home, "statistics", "--processes", "2")
    (first,) = (f.name for f in (one / "runs" / "tiny" / "evaluation").glob("teacher-*.json"))
    first = home / "runs" / "tiny" / "evaluation" / first
    while not first.is_file() and process.poll() is None:
        time.sleep(0.05)
    os.kill(children(process)[1], signal.SIGKILL)
    _, said = process.communicate()
    lines = [line for line in said.splitlines() if line.startswith("rockstudy:")]
    assert process.returncode == 2
    assert len(lines) == 1 and "Traceback" not in said, said
    assert lines[0] == (
        "rockstudy: process 1 of 2: killed by SIGKILL; run again, what was finished is kept"
    )
    kept = first.stat().st_mtime_ns

    again = command(home, "statistics", "--processes", "2")
    _, said = again.communicate()
    assert again.returncode == 0, said
    assert first.stat().st_mtime_ns == kept
    wanted, found = tables(one), tables(home)
    assert {n for n in wanted if not n.startswith("tables/training.stage1")} == found.keys()
    for name, table in found.items():
        rtol = next((r for part, r in LOOSE.items() if part in name), 0)
        pd.testing.assert_frame_equal(table, wanted[name], check_exact=rtol == 0, rtol=rtol)
    assert not list(home.rglob("*.pieces")) and not list(home.rglob("*.partial"))


@pytest.mark.slow
def test_a_disk_that_fills_is_one_line_and_the_next_call_has_the_same_tables(one, tmp_path):
    """A file of more than some kilobytes cannot be written: a limit that needs no other disk."""
    home = started_from(one, tmp_path)
    words = 'ulimit -f 8; exec "$@"'
    given = [word for name, value in SMALL.items() for word in ("-p", f"{name}={value}")]
    process = subprocess.Popen(
        ["bash", "-c", words, "bash", sys.executable, "-m", "rockstudy", "measure", "statistics",
         "--preset", "tiny", *given],
        env=os.environ | {"ROCKSTUDY_HOME": str(home), "PYTHONPATH": str(paths.REPO)},
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    _, said = process.communicate()
    assert process.returncode == 2, said
    assert "Traceback" not in said and "File too large" in said.splitlines()[-1]
    assert not list(home.rglob("*.tmp"))
    for manifest in (home / "runs" / "tiny" / "evaluation").glob("*.json"):
        cache.load(manifest.with_suffix(""))  # whole


@pytest.mark.slow
def test_two_processes_measure_given_models_as_one_does(one, tmp_path):
    """The checkpoints of `one` as somebody else's, in an `own` study of a few prompts."""
    trained = one / "runs" / "tiny" / "training"
    (before,), (after,) = (
        trained.glob(f"{stage}-baseline*/late") for stage in ("stage1", "stage2")
    )
    file = tmp_path / "mine.toml"
    file.write_text(
        f"""preset = "own"
[models]
teacher = "tiny:teacher"
before = "{before}"
after = "{after}"
[prompts]
name = "lab_math"
n_eval = 6
max_prompt_tokens = 128
[evaluation]
max_new_tokens = 32
[statistics]
n_prompts = 6
max_new_tokens = 32
[knockout]
n_prompts = 4
max_new_tokens = 32
"""
    )
    found = []
    for n in (1, 2):
        home = tmp_path / str(n)
        home.mkdir()
        words = ["--config", str(file), "--run-id", "tiny", "-p", "screen", "3"]
        given = os.environ | {
            "ROCKSTUDY_HOME": str(home), "PYTHONPATH": str(paths.REPO), "OMP_NUM_THREADS": "1"
        }  # fmt: skip
        process = subprocess.run(
            [sys.executable, "-m", "rockstudy", "measure", *words, "--processes", str(n)],
            env=given, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert process.returncode == 0, process.stderr
        found.append(tables(home))
    assert found[0].keys() == found[1].keys()
    assert any(name.startswith("tables/knockout.screen") for name in found[0])
    for name, table in found[0].items():
        rtol = next((r for part, r in LOOSE.items() if part in name), 0)
        pd.testing.assert_frame_equal(table, found[1][name], check_exact=rtol == 0, rtol=rtol)


def launched(monkeypatch, capfd, code: str, processes: int = 2) -> list[str]:
    """The lines that processes print which run some code in place of the command."""
    monkeypatch.setattr(launcher.torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    os.environ.pop("OMP_NUM_THREADS", None)

    def start(how, python):
        return lambda *words: elastic_launch(how, python)("-c", code)

    monkeypatch.setattr(launcher, "elastic_launch", start)
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        launcher.launch([], processes)
    finally:
        for which, handler in handlers.items():
            signal.signal(which, handler)  # torchrun's stay otherwise
        logging.disable(logging.NOTSET)
    return sorted(capfd.readouterr().out.splitlines())


def test_processes_have_numbers_and_share_the_threads(monkeypatch, capfd):
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS")
    code = f"import os; print(*(os.environ[name] for name in {names}))"
    assert launched(monkeypatch, capfd, code) == ["0 0 2 2 4", "1 1 2 2 4"]


def test_a_process_that_fails_is_named_with_its_code_and_ends_the_others(monkeypatch, capfd):
    code = "import os, sys, time; sys.exit(3) if os.environ['RANK'] == '1' else time.sleep(600)"
    with pytest.raises(StudyError, match=r"^process 1 of 2: ended with code 3; run again, what"):
        launched(monkeypatch, capfd, code)


def test_more_processes_than_devices_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(StudyError, match="processes: must be at most the 4 CUDA devices; got 5"):
        launcher.launch([], 5)


def test_half_of_the_devices_can_hold_teachers(monkeypatch):
    """Two processes on four devices: each has a device for its teacher after those that train."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for rank in range(2):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
        assert placement.places("next").teacher == torch.device("cuda", 2 + rank)


def test_ctrl_c_ends_the_processes(monkeypatch, capfd, tmp_path):
    def interrupt() -> None:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.05)  # until both have started
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    code = f"import os, time; open(f'{tmp_path}/{{os.getpid()}}', 'w'); time.sleep(600)"
    with pytest.raises(KeyboardInterrupt):
        launched(monkeypatch, capfd, code)


@pytest.mark.slow
def test_processes_end_with_the_command_that_started_them(tmp_path):
    process = command(tmp_path, "training", "--processes", "2")
    while not [*(tmp_path / "runs" / "tiny").glob("*/*")] and process.poll() is None:
        time.sleep(0.05)  # until the first one has begun
    workers = [Path(f"/proc/{pid}") for pid in children(process)]
    process.kill()
    process.communicate()
    limit = time.monotonic() + 60
    while any(worker.exists() for worker in workers) and time.monotonic() < limit:
        time.sleep(0.1)
    assert [worker.exists() for worker in workers] == [False, False]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["statistic"], "part: must be one of data, training, statistics, arms, outcomes; got"),
        (["--preset", "huge"], "preset: must be one of"),
        (["-p", "stage2__lr"], "-p: must be followed by a name and a value"),
        (["-p", "stage2__lr=fast"], "stage2__lr: must be a number"),
        (["--run-id", "../x"], "run_id: must be"),
        (["--processes", "0"], "Invalid value for '--processes'"),
        (["--run-id", ""], "run_id: must be"),
        (["--run-id", "reference"], "run_id: must not be 'reference'"),
        (["--preset", "tiny", "--processes", "3"], "stage1__prompts_per_step: its rollouts must"),
        (["--preset", "tiny", "-p", "pair__student=./nothing"], "student: must be"),
    ],
)
def test_what_is_asked_wrongly_is_one_line_and_nothing_is_written(
    words, named, capsys, tmp_path, monkeypatch
):
    monkeypatch.setenv("ROCKSTUDY_HOME", str(tmp_path))
    with pytest.raises(SystemExit) as stopped:
        main.main(["measure", *words])
    message = capsys.readouterr().err
    assert stopped.value.code == 2
    assert named in message and message.count("\n") == 1
    assert not [*tmp_path.rglob("*")]


def test_what_steps_share_is_what_notebooks_read(one, monkeypatch):
    """The steps of a notebook compute nothing more."""
    monkeypatch.setattr(cache, "save", lambda *_, **__: pytest.fail("computed"))
    run = runs.opened(one / "runs" / "tiny")
    chosen = knockout_steps.candidates(run)
    assert len(knockout_steps.screen(run, chosen)) and len(knockout_steps.naive(run, chosen))
    assert len(training_steps.accuracy_along(run))
    assert np.isfinite(gradients_steps.half_samples(run).norm_logit).all()
