"""Jobs in processes of their own: which run, with how many threads, and what a death looks like."""

import os
import signal
from pathlib import Path

import pytest
import torch

from rockstudy.errors import StudyError
from rockstudy.parallel import cpu_pool


def note(folder: Path, name: str) -> None:
    (folder / name).write_text(f"{os.getpid()} {torch.get_num_threads()}")


def fail(folder: Path) -> None:
    raise StudyError("field: must be legal; got this")


def die(folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_jobs_share_the_threads_and_those_that_are_done_are_left_alone(tmp_path, two_threads):
    jobs = {name: (note, (tmp_path, name)) for name in ("a", "b", "c")}
    cpu_pool.run(jobs, lambda name: name == "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c"]
    said = {path.name: path.read_text().split() for path in tmp_path.iterdir()}
    assert {threads for _, threads in said.values()} == {"1"}
    assert str(os.getpid()) not in {pid for pid, _ in said.values()}


def test_a_single_job_or_a_single_thread_stays_in_this_process(tmp_path, two_threads):
    cpu_pool.run({"a": (note, (tmp_path, "a"))}, lambda name: False)
    torch.set_num_threads(1)
    jobs = {name: (note, (tmp_path, name)) for name in ("b", "c")}
    cpu_pool.run(jobs, lambda name: False)
    assert {path.read_text().split()[0] for path in tmp_path.iterdir()} == {str(os.getpid())}


def test_what_a_job_raises_is_raised(tmp_path, two_threads):
    jobs = {"good": (note, (tmp_path, "a")), "bad": (fail, (tmp_path,))}
    with pytest.raises(StudyError, match="field: must be legal; got this"):
        cpu_pool.run(jobs, lambda name: False)


def test_a_worker_that_dies_is_reported_by_the_names_of_what_it_left(tmp_path, two_threads):
    jobs = {"good": (note, (tmp_path, "good")), "arm x, seed 3": (die, (tmp_path,))}
    with pytest.raises(StudyError, match=r"not finished: .*arm x, seed 3.*run again") as error:
        cpu_pool.run(jobs, lambda name: False)
    assert "\n" not in str(error.value)
