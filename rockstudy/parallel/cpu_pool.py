"""Independent jobs side by side, each in a process with its share of the cores.

A small model gains little from a second thread and loses much where something else wants the core;
two trainings at once, one thread each, take about half of the time of one after the other. Jobs
return nothing: what they compute is cached in the run, where the caller then finds it, and a killed
call continues with the jobs that are not done.

The number of processes depends on the machine and the number of jobs alone, done or not, so that a
job has as many threads, and with them the same roundings, whether or not others are done. On CUDA,
and under `accelerate launch`, jobs run one after the other in this process.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

from rockstudy import progress
from rockstudy.errors import StudyError
from rockstudy.parallel.distributed import agreed, together

Job = tuple[Callable[..., object], tuple]  # a function of a module, and its arguments


def run(jobs: Mapping[str, Job], done: Callable[[str], bool]) -> None:
    """Run the jobs that are not done.

    Parameters
    ----------
    jobs
        By a name for errors. Function and arguments go to another process.
    done
        Whether the job of a name has nothing left to compute.

    Raises
    ------
    StudyError
        A worker died, by the names of the jobs that were not finished. Whatever a job raises is
        raised here, and the other jobs are stopped.
    """
    todo = {name: jobs[name] for name in agreed([name for name in jobs if not done(name)])}
    processes = _processes(len(jobs))
    if processes == 1:
        for function, arguments in todo.values():
            function(*arguments)
    elif todo:
        _in_pool(todo, processes)


def _processes(n_jobs: int) -> int:
    """As many as there are threads to share; OMP_NUM_THREADS=1 therefore means one process."""
    if torch.cuda.is_available() or together().num_processes > 1:
        return 1
    return max(1, min(n_jobs, torch.get_num_threads()))


def _in_pool(jobs: Mapping[str, Job], processes: int) -> None:
    others = set(multiprocessing.active_children())
    with _bars() as bars:
        settings = (torch.get_num_threads() // processes, bars, os.getpid())
        pool = ProcessPoolExecutor(
            min(processes, len(jobs)), multiprocessing.get_context("spawn"), _start, settings
        )
        futures = {pool.submit(f, *arguments): name for name, (f, arguments) in jobs.items()}
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            _raise(futures)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
            raise
        pool.shutdown()


def _raise(futures: Mapping[Future, str]) -> None:
    """Raise what the first failed job raised."""
    for future in futures:
        error = future.exception() if future.done() else None
        if isinstance(error, BrokenProcessPool):
            left = [name for f, name in futures.items() if f.cancelled() or f.exception()]
            raise StudyError(
                f"workers: a process died (killed, or out of memory); not finished: "
                f"{', '.join(left)}; run again, what was finished is kept"
            ) from None
        if error is not None:
            raise error


def _start(threads: int, bars: str, parent: int) -> None:
    """Prepare a worker: its threads, where its bars go, and that it does not outlive its parent."""
    torch.set_num_threads(threads)
    os.environ["ROCKSTUDY_PROGRESS"] = bars

    die_with(parent)


def die_with(parent: int) -> None:
    """End this process soon after its parent has ended."""

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextlib.contextmanager
def _bars() -> Iterator[str]:
    """The file that workers write their bars to: the study's own, or one that is drawn here."""
    file = os.environ.get("ROCKSTUDY_PROGRESS")
    if file:
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="rockstudy-") as scratch:
        own = Path(scratch) / "progress"
        with progress.drawn(own):
            yield str(own)
