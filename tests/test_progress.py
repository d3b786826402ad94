import json
import os
import sys
import time
from pathlib import Path

import pytest

from rockstudy import progress


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "progress.jsonl"
    monkeypatch.setenv("ROCKSTUDY_PROGRESS", str(path))
    return path


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_bar_tells_its_file_where_it_starts_and_ends(file: Path):
    before = time.time()
    with progress.bar(10, "stage 2", unit="step") as bar:
        for _ in range(10):
            bar.update(1)
    first, last = lines(file)[0], lines(file)[-1]
    assert {"id", "desc", "n", "total", "unit", "postfix", "t"} <= set(first)
    assert (first["n"], last["n"], last["total"]) == (0, 10, 10)
    assert (first["desc"], first["unit"]) == ("stage 2", "step")
    assert (first["done"], last["done"]) == (False, True)
    assert before <= first["t"] <= last["t"] <= time.time()


def test_a_thousand_updates_are_a_handful_of_lines(file: Path):
    with progress.bar(1000, "fast") as bar:
        for _ in range(1000):
            bar.update()
    assert len(lines(file)) < 20
    assert lines(file)[-1]["n"] == 1000


def test_a_slow_bar_writes_in_between(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress, "_INTERVAL", 0.0)
    with progress.bar(3, "slow") as bar:
        for _ in range(3):
            bar.update()
    assert [line["n"] for line in lines(file)] == [0, 1, 2, 3, 3]


def test_values_after_the_bar_are_short_text(file: Path):
    with progress.bar(None, "training") as bar:
        bar.set_postfix(loss=0.123456, step=3)
    last = lines(file)[-1]
    assert last["postfix"] == {"loss": "0.1235", "step": "3"}
    assert last["total"] is None


def test_two_bars_of_one_name_are_told_apart(file: Path):
    with progress.bar(1, "same"), progress.bar(1, "same"):
        pass
    assert len({line["id"] for line in lines(file)}) == 2
    assert all(line["id"].startswith(f"{os.getpid()}-") for line in lines(file))


def test_an_error_inside_passes_through_and_closes_the_bar(file: Path):
    with pytest.raises(RuntimeError, match="inside"), progress.bar(5, "fails") as bar:
        bar.update(2)
        raise RuntimeError("inside")
    assert (lines(file)[-1]["n"], lines(file)[-1]["done"]) == (2, True)


def test_a_progress_file_that_cannot_be_written_never_stops_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ROCKSTUDY_PROGRESS", str(tmp_path / "none" / "progress.jsonl"))
    with progress.bar(1, "work") as bar:
        bar.update()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else shows this process's bars."""
    monkeypatch.delenv("ROCKSTUDY_PROGRESS", raising=False)
    monkeypatch.setattr(progress, "in_notebook", lambda: False)


def test_in_a_log_a_bar_is_a_plain_line_from_time_to_time(alone, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_FIRST", 0.0)
    with progress.bar(2000, "token table", unit="token") as bar:
        for _ in range(1500):
            bar.update(1)
            bar.set_postfix(loss=0.5)
    drawn = capsys.readouterr().err
    assert drawn == "token table: 1 of 2,000 tokens\n"  # one update has no rate
    assert "\r" not in drawn and "\x1b" not in drawn


def test_the_rate_in_a_log_is_without_what_resumed_work_had(alone, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.bar(1000, "adapter", "step") as bar:
        bar.update(240)  # at once: a checkpoint's
        for _ in range(5):
            now[0] += 4
            bar.update(1)
    assert "adapter: 243 of 1,000 steps, about 50 min left" in capsys.readouterr().err


def test_a_log_of_a_quarter_of_an_hour_has_tens_of_lines_and_one_of_a_day_hundreds(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    pace, lines = progress.Pace(), {900: 0, 86_400: 0}
    while now[0] < 86_400:
        now[0] += 1
        if pace.due():
            lines |= {end: n + 1 for end, n in lines.items() if now[0] <= end}
    assert 20 <= lines[900] <= 40
    assert 100 <= lines[86_400] <= 250


def test_in_a_terminal_a_bar_is_drawn(alone, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(progress, "_DELAY", 0.0)
    with progress.bar(2, "drawn", unit="step") as bar:
        bar.update(2)
        bar.set_postfix(loss=0.5)
    assert "drawn: 100%" in capsys.readouterr().err


def test_a_quick_block_draws_nothing(alone, capsys):
    with progress.bar(2, "quick") as bar:
        bar.update(2)
    assert capsys.readouterr().err == ""


def test_of_several_launched_processes_the_first_one_speaks(alone, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(progress, "_FIRST", 0.0)
    progress.announce("token table")
    with progress.bar(2, "token table") as bar:
        bar.update(1)
    assert capsys.readouterr() == ("", "")


def test_a_step_announces_what_it_computes_and_about_how_long(alone, capsys):
    progress.announce("token table: 40,000 tokens under 3 models", 24.0)
    progress.announce("no time is known")
    assert capsys.readouterr().err == (
        "token table: 40,000 tokens under 3 models, about 25 s\nno time is known\n"
    )


def test_in_a_notebook_an_announcement_does_not_look_like_an_error(alone, monkeypatch, capsys):
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    progress.announce("token table")
    assert capsys.readouterr() == ("token table\n", "")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (7.4, "7 s"), (43, "45 s"), (89, "90 s"), (200, "3 min"), (9000, "2.5 h")],
)
def test_a_duration_is_as_exact_as_an_estimate(seconds, words):
    assert progress.duration(seconds) == words
