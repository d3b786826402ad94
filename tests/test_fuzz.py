"""Cases of `fuzz.py`: few here, more by ``--fuzz N``; and a handful of whole processes."""

import os
import subprocess
import sys

import fuzz
import pytest

CASES = {"data": 30, "command": 50, "models": 16, "grading": 40, "records": 20, "places": 40}


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_pair_dir):
    return fuzz.World(tmp_path_factory.mktemp("fuzz") / "world", tiny_pair_dir)


@pytest.mark.parametrize("family", fuzz.FAMILIES)
def test_whatever_is_given_is_one_short_line_or_a_result(family, world, request):
    n = request.config.getoption("--fuzz") or CASES[family]
    wrong = fuzz.failures(family, range(n), world)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("number", range(2))
def test_a_whole_process_prints_the_line_and_nothing_else(number, world):
    with world.entered():
        numbers = range(1000 * (number + 1), 1000 * (number + 2))
        cases = (fuzz.case_of("data", n, world) for n in numbers)
        case = next(case for case in cases if case.bad and not any("\0" in w for w in case.command))
        before = world.files()
        done = subprocess.run(
            [sys.executable, "-m", "rockstudy", *case.command],
            capture_output=True,
            text=True,
            env=os.environ | {"TMPDIR": str(world.temp)},
        )
        assert done.stdout == ""
        assert fuzz.judged(case, done.returncode, done.stderr, world.files() - before) is None
