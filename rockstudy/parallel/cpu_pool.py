"""Independent jobs in parallel processes, each with its share of the cores.

A small model gains little from a second thread, and loses much on a busy core; two trainings in
parallel with one thread each take about half the time of running them in sequence. Jobs return
nothing: they cache their results in the run, and a repeated call continues with unfinished jobs.

The number of processes depends only on the machine and the number of jobs, finished or not. A job
therefore always has the same number of threads, and the same roundings. On CUDA, and under
`accelerate launch`, jobs run in sequence in this process.
"""

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

from rockstudy import status
from rockstudy.errors import StudyError
from rockstudy.parallel.distributed import agreed, together

Job = tuple[Callable[..., object], tuple]  # a function of a module, and its arguments


def run(jobs: Mapping[str, Job], done: Callable[[str], bool]) -> None:
    """Run the jobs that are not `done`; their names are for errors.

    Functions and arguments are picklable. `StudyError`: a worker died; the line names the
    unfinished jobs. The first error of a job is raised unchanged. Both stop the other jobs.
    """
    todo = {name: jobs[name] for name in agreed([name for name in jobs if not done(name)])}
    if (several := processes(len(jobs))) == 1:
        for function, arguments in todo.values():
            function(*arguments)
    elif todo:
        _in_pool(todo, several)


def processes(jobs: int) -> int:
    """Return how many of so many jobs, finished or not, run at a time."""
    if torch.cuda.is_available() or together().num_processes > 1:
        return 1
    # at most one process per thread; OMP_NUM_THREADS=1 therefore means one process
    return max(1, min(jobs, torch.get_num_threads()))


def _in_pool(jobs: Mapping[str, Job], processes: int) -> None:
    others = set(multiprocessing.active_children())
    with _bars() as bars:
        settings = (torch.get_num_threads() // processes, bars, os.getpid())
        spawn = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(min(processes, len(jobs)), spawn, _start, settings)
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
    """Raise the error of the first failed job."""
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
    """Prepare a worker: its threads, the file for its bars, and its end with its parent."""
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
    """The file for the workers' bars: the study's own, or one whose bars this process shows."""
    if file := os.environ.get("ROCKSTUDY_PROGRESS"):
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="rockstudy-") as scratch:
        own = Path(scratch) / "progress"
        with status.shown(own):
            yield str(own)
