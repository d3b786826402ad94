"""What a person sees of work in other processes: in a terminal, in a log, in a notebook."""

import json
import os
import pty
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rockstudy import paths, progress, status

STATE = {"id": "1-0", "desc": "stage 2", "n": 0, "total": 100, "unit": "step", "postfix": {}}


def board(*states: dict) -> status.Board:
    made = status.Board()
    for state in states:
        made.take(json.dumps(STATE | {"done": False} | state).encode())
    return made


def test_time_left_is_from_the_rate_and_a_resumed_start_is_no_rate():
    steady = board(*({"n": n, "t": float(n)} for n in range(0, 41)))
    assert steady.rows(40.0)[0].left == pytest.approx(60.0)
    resumed = board({"n": 0, "t": 0.0}, *({"n": 50 + n, "t": 1.0 + n} for n in range(0, 21)))
    assert resumed.rows(21.0)[0].left == pytest.approx(30.0)
    waiting = board(*({"n": n, "t": float(n)} for n in range(0, 41)))
    assert waiting.rows(50.0)[0].left == pytest.approx(50.0)


def test_a_bar_that_has_just_begun_or_whose_end_is_unknown_has_no_time_left():
    assert board({"n": 0, "t": 0.0}, {"n": 1, "t": 0.5}).rows(2.0)[0].left is None
    endless = board(*({"n": n, "t": float(n), "total": None} for n in range(40)))
    assert (endless.rows(40.0)[0].left, endless.left()) == (None, None)


def test_bars_of_one_name_are_one_line_and_other_names_have_theirs():
    states = [
        {"id": f"{worker}-{name}", "desc": name, "n": n, "t": float(n)}
        for n in range(0, 21)
        for worker in (1, 2)
        for name in ("answer lab_math", "token table")
    ]
    first, second = board(*states).rows(20.0)
    assert (first.name, first.n, first.total) == ("answer lab_math (2 at a time)", 40, 200)
    assert first.left == pytest.approx(80.0)
    assert second.desc == "token table"


def test_broken_lines_and_hostile_names_do_no_harm():
    made = status.Board()
    for line in (b"not json", b'{"id": 3}', b"[]", b"\xff", b'{"id": "a", "n": "x", "t": 0}'):
        made.take(line)
    assert made.rows() == []
    made.take(json.dumps(STATE | {"desc": "a\x1b[31m\nb", "t": 0.0}).encode())
    made.take(b'{"say": "\\u001b[2J"}')
    shown = status.in_words(made.rows(), None, None)
    assert "\x1b" not in shown and "\n" not in shown
    assert made.announced == ["\\x1b[2J"]


class Course:
    def place(self) -> str:
        return "notebook 2 of 9, 01_distillation, cell 3 of 12"

    def ahead(self, step_left: float | None) -> str:
        return "30% of the study done, about 14 min left"


def test_a_line_of_a_log_has_the_place_the_work_and_what_lies_ahead():
    made = board(*({"n": n, "t": float(n)} for n in range(0, 41)))
    assert status.in_words(made.rows(40.0), 60.0, Course()) == (
        "notebook 2 of 9, 01_distillation, cell 3 of 12: stage 2: 40 of 100 steps, about 60 s left;"
        " 30% of the study done, about 14 min left"
    )


WORK = """
import sys, time
from pathlib import Path
from rockstudy import progress, status
from test_status import Course
progress._FIRST, progress._EVERY = 0.5, 1.0
import os
file = Path(sys.argv[1])
with status.shown(file, Course()):
    os.environ["ROCKSTUDY_PROGRESS"] = str(file)
    progress.announce("two trainings", 4)
    work = (progress.bar(8, f"stage2 seed {seed}", "step") for seed in (0, 1))
    with next(work) as one, next(work) as two:
        for n in range(8):
            time.sleep(0.5)
            one.update(); two.update(); two.set_postfix(loss=0.25)
    print("a line of its own", file=sys.stderr)
    time.sleep(0.5)
print("result")
"""


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(paths.REPO), str(Path(__file__).parent)])
    return os.environ | {"PYTHONPATH": path, "TERM": "xterm-256color", "COLUMNS": "100"}


def test_a_pipe_gets_plain_lines_one_at_a_time(tmp_path):
    command = [sys.executable, "-c", WORK, str(tmp_path / "bars")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "result\n"), done.stderr
    assert "\r" not in done.stderr and "\x1b" not in done.stderr
    lines = done.stderr.splitlines()
    assert "  two trainings, about 4 s" in lines and "a line of its own" in lines
    told = [line for line in lines if "stage2 seed 0" in line]
    assert 1 <= len(told) <= 6
    assert all("stage2 seed 1" in line and line.startswith("notebook 2 of 9") for line in told)


def in_terminal(command: list[str]) -> str:
    """What a command writes to a terminal of its own."""
    ours, its = pty.openpty()
    process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=environment())
    os.close(its)
    parts: list[bytes] = []

    def read() -> None:
        try:
            while part := os.read(ours, 4096):
                parts.append(part)
        except OSError:  # the terminal's other end is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    assert process.wait(120) == 0
    reader.join(10)
    os.close(ours)
    return b"".join(parts).decode()


def screen(written: str) -> list[str]:
    """The lines that a terminal shows in the end."""
    lines, row, column = [""], 0, 0
    for code, plain in re.findall(r"(\x1b\[[?0-9;]*[A-Za-z]|\r|\n)|([^\x1b\r\n]+)", written):
        if plain:
            lines[row] = (
                lines[row][:column].ljust(column) + plain + lines[row][column + len(plain) :]
            )
            column += len(plain)
        elif code == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif code == "\r":
            column = 0
        elif code.endswith("A"):
            row = max(0, row - int(code[2:-1] or 1))
        elif code.endswith("K"):
            lines[row] = "" if code[2:-1] == "2" else lines[row][:column]
    return [line.rstrip() for line in lines if line.strip()]


def test_a_terminal_has_one_status_that_leaves_only_the_lines_that_matter(tmp_path):
    written = in_terminal([sys.executable, "-c", WORK, str(tmp_path / "bars")])
    assert "notebook 2 of 9, 01_distillation, cell 3 of 12" in written
    assert "stage2 seed 0" in written and "loss 0.25" in written and "left" in written
    assert screen(written) == ["  two trainings, about 4 s", "a line of its own", "result"]


def test_a_notebook_gets_one_output_that_changes(monkeypatch, tmp_path):
    put: list[str] = []

    class Handle:
        def update(self, data: dict[str, str], raw: bool) -> None:
            put.append(data["text/plain"])

    monkeypatch.setattr(status, "in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", lambda *given, **how: Handle())
    file = tmp_path / "bars"
    with status.shown(file):
        monkeypatch.setenv("ROCKSTUDY_PROGRESS", str(file))
        with progress.bar(2, "stage 2", "step") as bar:
            time.sleep(0.4)
            bar.update()
            time.sleep(1.4)
    assert "stage 2: 1 of 2 steps" in put
    assert put[-1] == ""
