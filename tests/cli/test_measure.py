"""`rockstudy measure`: two gloo processes have the tables of one, a killed one is named, and so on.

The processes are real ones, started as a user starts them.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import DistributedType, PartialState

from rockstudy import paths
from rockstudy.cli import launcher, main
from rockstudy.errors import StudyError
from rockstudy.parallel import placement
from rockstudy.store import cache

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
    files = [f for f in sorted(run.rglob("*.parquet")) if not f.parts[-2].startswith("training")]
    return {f.relative_to(run).as_posix(): cache.load(f.with_suffix("")) for f in files}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a run that a single process has measured."""
    home = tmp_path_factory.mktemp("one")
    process = command(home, "training", "statistics")
    _, said = process.communicate()
    assert process.returncode == 0, said
    return home


def started_from(one: Path, home: Path) -> Path:
    """A home that holds only the trainings of another one."""
    run = home / "runs" / "tiny"
    run.mkdir(parents=True)
    for stage in (one / "runs" / "tiny").glob("stage*"):
        subprocess.run(["cp", "-r", str(stage), str(run)], check=True)
    return home


@pytest.mark.slow
def test_a_killed_process_is_named_and_the_next_call_has_the_tables_of_one(one, tmp_path):
    home = started_from(one, tmp_path)
    process = command(home, "statistics", "--processes", "2")
    first = home / "runs" / "tiny" / "evaluation" / "teacher.json"
    while not first.is_file() and process.poll() is None:
        time.sleep(0.05)
    victim = next(
        int(pid)
        for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if b"RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()
    )
    os.kill(victim, signal.SIGKILL)
    _, said = process.communicate()
    lines = [line for line in said.splitlines() if line.startswith("rockstudy:")]
    assert process.returncode == 2
    assert len(lines) == 1 and "Traceback" not in said, said
    assert lines[0].startswith("rockstudy: process 1 of 2: killed by SIGKILL")
    assert lines[0].endswith("run again, what was finished is kept")
    kept = first.stat().st_mtime_ns

    again = command(home, "statistics", "--processes", "2")
    _, said = again.communicate()
    assert again.returncode == 0, said
    assert first.stat().st_mtime_ns == kept
    wanted, found = tables(one), tables(home)
    assert {n for n in wanted if not n.startswith("tables/stage")} == found.keys()
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


def test_a_line_says_who_died_and_at_what(tmp_path):
    class Dead:
        pid, returncode = 17, -signal.SIGKILL

    bars = tmp_path / "bars"
    bars.write_text(
        '{"id": "17-0", "desc": "first", "n": 3, "total": 3, "done": true}\n'
        '{"id": "17-1", "desc": "token table", "n": 40, "total": 90, "done": false}\n'
        '{"id": "18-0", "desc": "another", "n": 1, "total": 2, "done": false}\n'
        '{"id": "17-1", "desc": "token tab'
    )
    assert launcher._line(0, [Dead()], bars) == (
        "process 0 of 1: killed by SIGKILL at token table (40 of 90); "
        "run again, what was finished is kept"
    )


def test_each_process_sees_all_devices_and_takes_the_one_of_its_number(monkeypatch, tmp_path):
    """As under `accelerate launch`: LOCAL_RANK must be a device's number in what is visible."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    launcher._check_devices(3)
    given = [launcher._environment(r, 3, tmp_path / "bars") for r in range(3)]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in given] == ["4,5,6,7"] * 3
    assert [one["RANK"] for one in given] == [one["LOCAL_RANK"] for one in given] == ["0", "1", "2"]
    assert len({one["MASTER_PORT"] for one in given}) == 1
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    for one in given:  # accelerate's own choice
        state = object.__new__(PartialState)
        state.__dict__ = {"device": None, "distributed_type": DistributedType.MULTI_GPU}
        state.local_process_index = int(one["LOCAL_RANK"])
        PartialState.set_device(state)
        assert state.device == torch.device("cuda", state.local_process_index)  # the barriers' too
    assert [device.index for device in taken] == [0, 1, 2]
    with pytest.raises(StudyError, match="processes: must be at most the 4 CUDA devices; got 5"):
        launcher._check_devices(5)


def test_half_of_the_devices_can_hold_teachers(monkeypatch, tmp_path):
    """Two processes on four devices: each has a device for its teacher after those that train."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for rank in range(2):
        given = launcher._environment(rank, 2, tmp_path / "bars")
        monkeypatch.setenv("LOCAL_RANK", given["LOCAL_RANK"])
        monkeypatch.setenv("LOCAL_WORLD_SIZE", given["LOCAL_WORLD_SIZE"])
        assert placement.places("next").teacher == torch.device("cuda", 2 + rank)


def test_who_died_first_is_told_from_who_lost_it():
    def ended(*codes: int) -> int | None:
        made = [subprocess.Popen([sys.executable, "-c", f"exit({code})"]) for code in codes]
        found = launcher._first_to_fail(made)
        for process in made:
            process.wait()
        return found

    assert ended(0, 0) is None
    assert ended(launcher.LOST, 2) == 1
    assert ended(launcher.LOST, 0) == 0


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["statistic"], "part: must be one of data, training, statistics, arms, outcomes; got"),
        (["--preset", "huge"], "preset: must be one of"),
        (["-p", "stage2__lr"], "-p: must be followed by a name and a value"),
        (["-p", "stage2__lr=fast"], "stage2__lr: must be a number"),
        (["--run-id", "../x"], "run_id: must be"),
        (["--processes", "0"], "Invalid value for '--processes'"),
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


def test_what_steps_share_is_what_notebooks_read(one):
    """The names of the tables that a notebook would otherwise compute for itself."""
    found = {path.stem for path in (one / "runs" / "tiny" / "tables").glob("*.parquet")}
    assert {"accuracy_along", "gradients", "knockout_screen", "knockout_controls"} <= found
    assert np.isfinite(cache.load(one / "runs/tiny/tables/gradients").norm_logit).all()
