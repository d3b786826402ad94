"""Tables that are computed in pieces, and what several processes have of them."""

import contextlib
import itertools

import numpy as np
import pandas as pd
import pytest

from rockstudy import processes, rollout, store, tasks
from rockstudy.config import from_parameters


def pieces_of(made: list[int], fail_at: int | None = None):
    def compute(tool: str, piece: slice) -> pd.DataFrame:
        if piece.start == fail_at:
            raise RuntimeError("killed")
        made.append(piece.start)
        assert tool == "model"
        return pd.DataFrame({"row": np.arange(piece.start, piece.stop)})

    return compute


def table(folder, made, fail_at=None, n=10, most=4):
    return processes.pieced(
        folder,
        "stage",
        "name",
        config={"seed": 1},
        pieces=lambda: processes.cut(n, most),
        opened=lambda: contextlib.nullcontext("model"),
        compute=pieces_of(made, fail_at),
    )


@pytest.mark.parametrize(("n", "most", "count"), [(1, 5, 1), (5, 5, 1), (6, 5, 2), (500, 60, 9)])
def test_rows_are_cut_into_equal_parts_without_a_gap(n, most, count):
    parts = processes.cut(n, most)
    assert len(parts) == count
    assert parts[0].start == 0 and parts[-1].stop == n
    assert all(a.stop == b.start for a, b in itertools.pairwise(parts))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) <= most and max(sizes) - min(sizes) <= 1


def test_every_process_has_a_part_where_there_are_rows_enough(monkeypatch):
    class Three:
        num_processes, process_index = 3, 1

    monkeypatch.setattr(processes, "together", Three)
    assert [part.start for part in processes.cut(7, 100)] == [0, 2, 4]
    assert len(processes.cut(2, 100)) == 2
    assert processes.mine("abcdefg") == "be"


def test_pieces_are_put_together_in_their_order_and_then_gone(tmp_path):
    made: list[int] = []
    found = table(tmp_path, made)
    assert found.data.row.tolist() == list(range(10))
    assert made == [0, 3, 6]
    assert sorted(path.name for path in (tmp_path / "stage").iterdir()) == [
        "name.json",
        "name.parquet",
    ]


def test_a_killed_table_goes_on_from_the_last_piece_and_is_the_same(tmp_path):
    made: list[int] = []
    with pytest.raises(RuntimeError, match="killed"):
        table(tmp_path, made, fail_at=6)
    assert made == [0, 3]
    assert not (tmp_path / "stage" / "name.json").exists()
    found = table(tmp_path, made)
    assert made == [0, 3, 6]
    whole = table(tmp_path / "other", [])
    assert found.hash == whole.hash
    assert table(tmp_path, made).fresh is False and made == [0, 3, 6]


def test_of_pieces_that_were_cut_otherwise_only_the_same_ones_are_used(tmp_path):
    with pytest.raises(RuntimeError, match="killed"):
        table(tmp_path, [], fail_at=6)  # has made rows 0 to 2 and 3 to 5
    made: list[int] = []
    assert table(tmp_path, made, n=9, most=5).data.row.tolist() == list(range(9))
    assert made == [0, 4]


def test_parts_are_of_the_problems_that_are_there(monkeypatch):
    """IFEval leaves rows out that it cannot grade."""
    task = from_parameters("tiny").benchmarks[0]
    how = from_parameters("tiny").evaluation.model_copy(update={"n_prompts": 5})
    monkeypatch.setattr(tasks, "load", lambda task, split: ["problem"] * 3)
    assert rollout.parts(task, how) == [slice(0, 3)]


def test_a_single_piece_is_written_once(tmp_path):
    made: list[int] = []
    table(tmp_path, made, n=3)
    assert made == [0]
    assert store.load(tmp_path / "stage" / "name").row.tolist() == [0, 1, 2]
