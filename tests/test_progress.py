import json
import os
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


def test_without_a_file_a_bar_is_drawn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.delenv("ROCKSTUDY_PROGRESS", raising=False)
    monkeypatch.setattr(progress, "_DELAY", 0.0)
    with progress.bar(2, "drawn", unit="step") as bar:
        bar.update(2)
        bar.set_postfix(loss=0.5)
    assert "drawn: 100%" in capsys.readouterr().err


def test_a_quick_block_draws_nothing(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.delenv("ROCKSTUDY_PROGRESS", raising=False)
    with progress.bar(2, "quick") as bar:
        bar.update(2)
    assert capsys.readouterr().err == ""
