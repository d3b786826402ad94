"""A study that is killed at random times ends with the bytes of a study that nothing disturbed.

The command runs each notebook, and is killed by SIGKILL, SIGTERM or SIGINT shortly after it has
written a random number of files: either its own process alone, or that and all which it has
started. Then the same command is given again, until it ends.
A kernel outlives a killed command by about a second, so the next command starts beside it, as it
would where a person types fast.

``--kills 100`` goes through all notebooks, again and again, until so many commands were killed.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from rockstudy import paths

pytestmark = pytest.mark.slow

ALL = [path.stem for path in sorted(paths.notebooks_dir().glob("[0-9][0-9]_*.ipynb"))]
FEW = [name for name in ALL if name[:2] in ("01", "05")]  # checkpoints, tables in pieces
SIGNALS = ("SIGKILL", "SIGKILL", "SIGTERM", "SIGINT")
SMALLEST = {
    "seeds": "[0]",
    "screen": "2",
    "stage2__steps": "2",
    "stage2__logging_steps": "1",
    "stage2__save_steps": "1",
    "freeze__extra": "[]",
    "evaluation__n_prompts": "2",
    "evaluation__samples": "1",
    "evaluation__max_new_tokens": "8",
    "statistics__n_prompts": "4",
    "statistics__samples": "1",
    "knockout__n_prompts": "3",
    "knockout__samples": "1",
}
PAUSE = 0.5  # most seconds between a file that a command writes and its kill
PATIENCE = 120  # seconds in which a signal must have ended every process, on a busy machine
LONGEST = 900  # seconds that a command may take, on a busy machine


def started(home: Path, notebooks: list[str]) -> subprocess.Popen:
    home.mkdir(exist_ok=True)
    given = [part for name, value in SMALLEST.items() for part in ("-p", name, value)]
    study = ["--preset", "tiny", "--run-id", "kills", *given]
    # one thread: then nothing runs in worker processes, each of which would import torch again
    environment = {"ROCKSTUDY_HOME": str(home), "OMP_NUM_THREADS": "1"}
    with (home / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "rockstudy", "run", *notebooks, *study],
            env=os.environ | environment | {"PYTHONPATH": str(paths.REPO)},
            stdout=log,
            stderr=log,
            process_group=0,
            # a shell's background job, which tests may be, ignores Ctrl-C
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )


def ended(process: subprocess.Popen, home: Path) -> None:
    """Wait for the end of a command, which must come without an error."""
    assert process.wait(LONGEST) == 0, (home / "log").read_text()[-2_000:]


def files(home: Path) -> set[str]:
    """Paths of all files of a study, those of half-filled folders included."""
    return {os.path.join(folder, name) for folder, _, names in os.walk(home) for name in names}


def has_written(process: subprocess.Popen, home: Path, n: int) -> bool:
    """Wait until a command has written so many new files; False if it ends before."""
    before, until = files(home), time.monotonic() + LONGEST
    written: set[str] = set()
    while process.poll() is None and time.monotonic() < until:
        written |= files(home) - before
        if len(written) >= n:
            return True
        time.sleep(0.02)
    return False


def alive(home: Path) -> list[psutil.Process]:
    """The processes of a study, which all inherit its home; a zombie is not alive."""
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("ROCKSTUDY_HOME") == str(home):
                processes.append(process)
    return processes


def kill(process: subprocess.Popen, home: Path, rng: np.random.Generator) -> str:
    """Kill a command; after a signal that it can answer, nothing that it started may be left."""
    name, whole = str(rng.choice(SIGNALS)), bool(rng.integers(2))
    main = psutil.Process(process.pid)
    for one in [main, *(main.children(recursive=True) if whole else ())]:
        with contextlib.suppress(psutil.Error):
            one.send_signal(getattr(signal, name))
    process.wait(PATIENCE)
    what = f"{name} to {'all processes' if whole else 'the command'}"
    if name != "SIGKILL":
        until = time.monotonic() + PATIENCE
        while (left := alive(home)) and time.monotonic() < until:
            time.sleep(0.1)
        assert not left, f"{what} left {[' '.join(one.cmdline()) for one in left]}"
    return what


def killed(home: Path, notebook: str, total: int, most: int, rng: np.random.Generator) -> list[str]:
    """Run a notebook until it ends, kill it at most so often, and return what was done.

    It writes `total` files if nothing disturbs it.
    """
    kills: list[str] = []
    while len(kills) < most:
        process, n = started(home, [notebook]), int(rng.integers(1, max(3, 2 * total // most)))
        if not has_written(process, home, n):
            ended(process, home)
            return kills
        time.sleep(rng.uniform(0, PAUSE))
        if process.poll() is None:
            kills.append(f"{notebook} after {n} files: {kill(process, home, rng)}")
    ended(started(home, [notebook]), home)
    return kills


def stored(home: Path) -> dict[str, object]:
    """The bytes of every table and of all weights; what was measured in seconds is left out."""
    run, contents = home / "runs" / "kills", {}
    for file in sorted(run.rglob("*")):
        if file.suffix not in (".parquet", ".safetensors") or "timing" in file.name:
            continue
        contents[str(file.relative_to(run))] = file.read_bytes()
        if file.parent.name == "claims":
            table = pd.read_parquet(file)
            contents[str(file.relative_to(run))] = table[
                ~table.claim.str.startswith("speed-up")
            ].to_json()
    return contents


def unfinished(home: Path) -> list[str]:
    """Files that should not outlast the command which wrote them."""
    names = [str(path.relative_to(home)) for path in (home / "runs").rglob("*")]
    return [name for name in names if re.search(r"\.(partial|failed|tmp)\b", name)]


def test_a_study_killed_at_random_times_ends_with_the_same_bytes(tmp_path, pytestconfig):
    n = pytestconfig.getoption("kills")
    notebooks, rng, kills = FEW if n <= 10 else ALL, np.random.default_rng(n), []
    whole, studies, totals = tmp_path / "whole", 0, {}
    try:
        for name in notebooks:
            before = files(whole)
            ended(started(whole, [name]), whole)
            totals[name] = len(files(whole) - before)
        expected = stored(whole)
        while not studies or (n > 10 and len(kills) < n):
            home, studies = tmp_path / f"study-{studies}", studies + 1
            for place, name in enumerate(notebooks):
                most = -(-(n - len(kills)) // (len(notebooks) - place))
                some = killed(home, name, totals[name], most, rng)
                assert some, f"{name} was never killed"
                kills += some
            ours = stored(home)
            assert ours.keys() == expected.keys(), kills
            assert [name for name in ours if ours[name] != expected[name]] == [], kills
            assert unfinished(home) == [], kills
        assert 2 * len(kills) >= n
    finally:
        for one in (one for home in tmp_path.iterdir() for one in alive(home)):
            one.kill()
        print(*kills, sep="\n")
