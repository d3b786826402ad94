"""The first half hour on a CUDA machine: parts that hang, fail, lack something; the real ones."""

import csv
import importlib
import json
import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from rockstudy import paths
from rockstudy.cli import half_hour, half_hour_parts
from rockstudy.cli.half_hour_parts import Number, Part
from rockstudy.config.overrides import from_parameters
from rockstudy.errors import StudyError

CARD = dict.fromkeys(half_hour.MACHINE, "1") | {"card": "a card", "torch": "2.11.0"}
GOOD = 'print("{\\"speed\\": 2.5, \\"rows\\": 3}")'


def part(name, code, *, limit=60.0, needs=(), read=half_hour_parts.numbers):
    command = [["-c", code]]
    return Part(name, "fake", limit, command, command, needs, read, needs)


@pytest.fixture
def given(monkeypatch, tmp_path):
    """A function that runs fake parts in one folder, on a card that is not there."""

    def run(*parts, arguments=(), card=CARD):
        monkeypatch.setattr(half_hour, "parts", lambda: list(parts))
        monkeypatch.setattr(half_hour, "machine", lambda environment: dict(card))
        return half_hour.main([*arguments, "--folder", str(tmp_path / "half")])

    run.folder = tmp_path / "half"
    return run


def rows(folder, name="parts"):
    with (folder / f"{name}.csv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def states(folder):
    return {row["part"]: row["state"] for row in rows(folder)}


def is_alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_part_that_hangs_fails_or_lacks_something_keeps_no_other_from_running(given, tmp_path):
    left = tmp_path / "pid"
    hangs = (
        "import subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import signal, time;"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)'])\n"
        f"open({str(left)!r}, 'w').write(str(p.pid))\n"
        "print('at step 7', flush=True); time.sleep(600)"
    )
    code = given(
        part("hangs", hangs, limit=15),
        part("fails", "print('begun'); 1 / 0"),
        part("memory", "print('torch.OutOfMemoryError: CUDA out of memory. Tried'); exit(1)"),
        part("lacks", GOOD, needs=("cuda", "no_such_module")),
        part("good", GOOD, needs=("cuda",)),
    )
    assert code == 1
    why = {row["part"]: row["why"] for row in rows(given.folder)}
    assert states(given.folder) == {
        "hangs": "out of time",
        "fails": "failed",
        "memory": "failed",
        "lacks": "skipped",
        "good": "done",
    }
    assert why["hangs"] == "ended after 15 s; at step 7"
    assert why["fails"] == "ZeroDivisionError: division by zero"
    assert why["memory"].startswith("torch.OutOfMemoryError")
    assert why["lacks"] == "needs no_such_module"
    assert not is_alive(int(left.read_text()))  # nor what the part has started
    found = [tuple(row.values()) for row in rows(given.folder, "results")]
    assert found == [("good", "speed", "2.5", ""), ("good", "rows", "3", "")]
    assert all(row["card"] == "a card" and row["torch"] == "2.11.0" for row in rows(given.folder))
    table = (given.folder / "table.md").read_text()
    assert "- a card, torch 2.11.0" in table and "| good | speed | 2.5 |  |" in table


def test_what_is_done_is_passed_over_and_all_else_runs_again(given, tmp_path, capsys):
    count = f"open({str(tmp_path / 'count')!r}, 'a').write('x'); "
    some = [part("good", count + GOOD), part("fails", count + "1 / 0"), part("late", count + GOOD)]
    assert given(*some[:2]) == 1
    assert given(*some) == 1
    assert (tmp_path / "count").read_text() == "x" * 4
    assert "done before" in capsys.readouterr().out
    assert given(*some, arguments=["good", "late"]) == 0
    assert (tmp_path / "count").read_text() == "x" * 4
    assert given(some[0], card=CARD | {"card": "another"}) == 0  # its numbers are of another card
    assert (tmp_path / "count").read_text() == "x" * 5


def test_ctrl_c_is_recorded_and_the_next_call_goes_on(given, tmp_path, capsys):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    try:
        interrupted_then_finished(given, tmp_path, capsys)
    finally:
        signal.signal(signal.SIGINT, before)


def interrupted_then_finished(given, tmp_path, capsys):
    once = str(tmp_path / "once")
    stops = (
        "import os, signal, time\n"
        f"if not os.path.exists({once!r}):\n"
        f"    open({once!r}, 'w'); os.kill(os.getppid(), signal.SIGINT); time.sleep(600)\n" + GOOD
    )
    some = [part("first", GOOD), part("stops", stops), part("last", GOOD)]
    start = time.monotonic()
    assert given(*some) == 130
    assert time.monotonic() - start < 120
    assert states(given.folder) == {"first": "done", "stops": "interrupted"}
    assert "the same command goes on" in capsys.readouterr().err
    assert given(*some) == 0
    assert set(states(given.folder).values()) == {"done"}


def test_the_limit_of_the_call_holds_for_all_parts_together(given):
    some = [part("slow", "import time; time.sleep(600)"), part("next", GOOD)]
    assert given(*some, arguments=["--limit", "2"]) == 0
    assert states(given.folder) == {"slow": "out of time", "next": "out of time"}
    assert rows(given.folder)[1]["why"] == "the 2 s of the call were over before it"
    assert rows(given.folder)[1]["seconds"] == ""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nothing"], "PART: must be one of good; got 'nothing'"),
        (["--limit", "0"], "--limit: must be above 0 seconds; got 0"),
        (["--limit", "nan"], "--limit: must be above 0 seconds; got nan"),
    ],
)
def test_what_is_wrong_with_a_command_is_told_before_anything_is_written(
    given, arguments, told, capsys
):
    with pytest.raises(SystemExit):
        given(part("good", GOOD), arguments=arguments)
    assert told in capsys.readouterr().err
    assert not given.folder.exists()


def test_without_a_card_nothing_runs_unless_it_is_shrunken(given, capsys):
    good = part("good", GOOD)
    assert given(good, card=CARD | {"card": "cpu"}) == 2
    assert "card: must be a CUDA device" in capsys.readouterr().err
    assert not (given.folder / "parts.csv").exists()
    assert given(good, card=CARD | {"card": "cpu"}, arguments=["--shrunken"]) == 0
    assert rows(given.folder)[0]["size"] == "shrunken"


def test_a_damaged_record_is_named(given, capsys):
    given.folder.mkdir()
    (given.folder / "records.json").write_text('{"records": [1]}')
    assert given(part("good", GOOD)) == 2
    assert "records.json: must be what this command wrote" in capsys.readouterr().err


def test_torch_that_cannot_be_imported_is_one_line(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13: cannot open')")
    with pytest.raises(StudyError, match=r"torch: must be importable by .*libcudart"):
        half_hour.machine(os.environ | {"PYTHONPATH": str(tmp_path)})


def test_results_are_read_from_what_the_parts_print():
    log = 'warm\n{"a": 1}\n{not json}\n[1]\n{"speed": 2.0, "n": 3}\nbye'
    assert half_hour_parts.numbers(log) == [Number("speed", 2.0), Number("n", 3)]
    log = "1 failed in the text\n3 passed, 1 skipped, 2 warnings in 4.20s"
    assert half_hour_parts.counts(log) == [Number("passed", 3), Number("skipped", 1)]
    assert half_hour_parts.counts("it broke") == []
    claim = {"claim": "opd-accuracy-rises", "value": 0.1, "direction": "reproduced"}
    log = f"00_task done\n{json.dumps(claim)}\n/some/report.html"
    assert half_hour_parts.verdicts(log) == [Number("opd-accuracy-rises", 0.1, "reproduced")]


def test_every_script_and_test_of_a_part_is_there():
    for one in half_hour_parts.parts():
        for command in [*one.commands, *one.small]:
            files = [word for word in command if re.fullmatch(r"[\w/]+\.py", word)]
            assert all((paths.REPO / file).is_file() for file in files)
            assert command[0] == "-m" or files
    named = {one.name: one for one in half_hour_parts.parts()}
    assert "tests/test_on_cuda.py" in named["tests"].commands[0]
    assert "tests/sampling/test_vllm_engine.py" in named["vllm"].commands[0]


@pytest.mark.parametrize("tiny", [True, False])
def test_smollm2_has_three_seeds_and_what_its_teacher_has_learned(tiny):
    words = half_hour_parts._smollm2(tiny)
    texts = dict(zip(words[1::3], words[2::3], strict=True))
    words = {k: v for k, v in texts.items() if k in ("pair__teacher", "pair__student")}
    numbers = {k: json.loads(v) for k, v in texts.items() if k not in words}
    study = from_parameters("smollm2", **words, **numbers)
    assert study.seeds == (0, 1, 2)
    tasks = [study.train_task.name, *[task.name for task in study.benchmarks]]
    assert tasks == ["lab_math", "lab_math", "lab_instruct"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [one.name for one in half_hour_parts.parts()])
def test_every_part_runs_on_a_cpu_in_its_shrunken_form(name, tmp_path):
    assert half_hour.main(["--shrunken", "--folder", str(tmp_path / "half"), name]) == 0
    (row,) = rows(tmp_path / "half")
    assert (row["state"], row["why"], row["card"]) == ("done", "", "cpu")
    if name not in ("tiny", "smollm2"):  # notebook 00 alone measures no claim
        assert rows(tmp_path / "half", "results")


def _token_table():
    """60 types of 40 positions each, whose loss grows with the id."""
    rng = np.random.default_rng(0)
    types = np.repeat(np.arange(60), 40)
    loss = (1 + types) * rng.uniform(0.9, 1.1, types.size) / 60
    return pd.DataFrame({"token_id": types, "rkl_post": loss})


def test_errors_of_half_precision_are_those_that_were_made(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    errors = importlib.import_module("precision").errors
    exact = _token_table()
    assert not any(abs(value) > 1e-12 for value in errors(exact, exact).values())
    # a bias of 1% of every loss: it moves no rank
    found = errors(exact, exact.assign(rkl_post=1.01 * exact.rkl_post))
    assert found["position"] == pytest.approx(0.01) == pytest.approx(found["position_bias"])
    assert found["type"] == pytest.approx(0.01)
    assert found["type_rank"] == pytest.approx(0, abs=1e-12) and found["first"] == 0
    # errors of one size and either sign, one for each: half of a type's cancel the others
    size = 0.1 * exact.rkl_post.mean()
    signs = np.tile([1, -1], len(exact) // 2)
    found = errors(exact, exact.assign(rkl_post=exact.rkl_post + size * signs))
    assert found["position"] == pytest.approx(0.1)
    assert found["position_bias"] == pytest.approx(0, abs=1e-12)
    assert found["type"] == pytest.approx(0, abs=1e-12)
    # the order is turned round: no type of the first 20 stays
    turned = exact.assign(token_id=59 - exact.token_id)
    found = errors(exact, turned)
    assert found["first"] == 1 and found["type_rank"] == pytest.approx(2, abs=1e-3)
    # types whose mean is not counted on: too few positions, or hardly a loss
    few = exact[(exact.token_id > 0) | (np.arange(len(exact)) < 9)]
    wrong = few.assign(rkl_post=few.rkl_post.where(few.token_id > 0, 5.0))
    assert errors(few, wrong)["type"] == 0
