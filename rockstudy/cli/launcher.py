"""One command in several processes of this machine, each with a device of its own.

What `torchrun` does for one node, with a line that says which process died and at what. On several
nodes `torchrun` or `accelerate launch` start the same modules (`launch/`).

As under those, every process sees all devices and takes the one of its LOCAL_RANK: accelerate names
that one to NCCL's barriers, where a process that saw one device alone would have no such number.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from rockstudy import progress
from rockstudy.errors import StudyError
from rockstudy.parallel import cpu_pool

LOST = 75  # how a process ends that lost another one: what happened, that one's line says
PARENT = "ROCKSTUDY_PARENT"
GRACE_S = 10  # ours: from asking a process to end to killing it


def launched() -> bool:
    """Whether this process is one of several that somebody has started together."""
    return "RANK" in os.environ


def follow() -> None:
    """End with the process that has launched this one, where that was `launch`."""
    if PARENT in os.environ:
        cpu_pool.die_with(int(os.environ[PARENT]))


def launch(arguments: Sequence[str], processes: int) -> None:
    """Run the `rockstudy` command in several processes until all have ended.

    Raises
    ------
    StudyError
        More processes than CUDA devices, where there are any; a process that ended otherwise than
        well, by its number, what ended it and what it was doing. The others are ended then.
    """
    _check_devices(processes)
    with tempfile.TemporaryDirectory(prefix="rockstudy-") as scratch:
        bars = Path(scratch) / "progress"
        with progress.drawn(bars):
            started: list[subprocess.Popen] = []
            try:
                for rank in range(processes):
                    environment = _environment(rank, processes, bars)
                    command = [sys.executable, "-m", "rockstudy", *arguments]
                    started.append(subprocess.Popen(command, env=environment))
                ended = _first_to_fail(started)
            finally:
                _end(started)
        if ended is not None:
            raise StudyError(_line(ended, started, bars))


def _check_devices(processes: int) -> None:
    """Refuse more processes than CUDA devices, where there are any."""
    count = torch.cuda.device_count()
    if 0 < count < processes:
        raise StudyError(f"processes: must be at most the {count} CUDA devices; got {processes}")


def _environment(rank: int, processes: int, bars: Path) -> dict[str, str]:
    """What torch.distributed reads, beside what this process was given."""
    threads = max(1, torch.get_num_threads() // processes)
    return os.environ | {
        "RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": _port(bars.parent),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        "ROCKSTUDY_PROGRESS": os.environ.get("ROCKSTUDY_PROGRESS", str(bars)),
        PARENT: str(os.getpid()),
    }


def _port(scratch: Path) -> str:
    """A free port, the same one for all processes."""
    file = scratch / "port"
    if not file.is_file():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            file.write_text(str(free.getsockname()[1]))
    return file.read_text()


def _first_to_fail(started: Sequence[subprocess.Popen]) -> int | None:
    """Wait for all; the number of a process that failed by itself, or None."""
    while True:
        if _failures(started):
            time.sleep(1)  # whoever was the cause has ended by now
            failed = _failures(started)
            killed = [rank for rank, code in failed.items() if code < 0]
            own = [rank for rank, code in failed.items() if code != LOST]
            return (killed or own or list(failed))[0]
        if all(process.poll() == 0 for process in started):
            return None
        time.sleep(0.2)


def _failures(started: Sequence[subprocess.Popen]) -> dict[int, int]:
    """Exit codes of the processes that have ended, and not well."""
    codes = {rank: process.poll() for rank, process in enumerate(started)}
    return {rank: code for rank, code in codes.items() if code}


def _end(started: Sequence[subprocess.Popen]) -> None:
    for process in started:
        if process.poll() is None:
            process.terminate()
    for process in started:
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _line(rank: int, started: Sequence[subprocess.Popen], bars: Path) -> str:
    process = started[rank]
    code = process.returncode
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    doing = _last_bar(bars, process.pid)
    at = f" at {doing}" if doing else ""
    return f"process {rank} of {len(started)}: {how}{at}; run again, what was finished is kept"


def _last_bar(bars: Path, pid: int) -> str:
    """What the last bar of a process that was not done said."""
    last: dict[str, dict] = {}
    with contextlib.suppress(OSError):
        for line in bars.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                state = json.loads(line)
                if state["id"].startswith(f"{pid}-"):
                    last[state["id"]] = state
    left = [state for state in last.values() if not state["done"]]
    return f"{left[-1]['desc']} ({left[-1]['n']} of {left[-1]['total']})" if left else ""
