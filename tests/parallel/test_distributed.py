"""Tables that are computed in pieces, and what several processes have of them."""

import contextlib
import itertools
import threading
import time
from dataclasses import replace

import accelerate.utils
import numpy as np
import pandas as pd
import pytest

from rockstudy import tasks
from rockstudy.config.overrides import from_parameters
from rockstudy.errors import StudyError
from rockstudy.parallel import distributed
from rockstudy.sampling import rollout
from rockstudy.store import cache
from rockstudy.store.cache import Place


def pieces_of(made: list[int], fail_at: int | None = None):
    def compute(tool: str, piece: slice) -> pd.DataFrame:
        if piece.start == fail_at:
            raise RuntimeError("killed")
        made.append(piece.start)
        assert tool == "model"
        return pd.DataFrame({"row": np.arange(piece.start, piece.stop)})

    return compute


def table(folder, made, fail_at=None, n=10, most=4):
    return distributed.pieced(
        Place(folder, "stage", "name", {"seed": 1}),
        pieces=lambda: distributed.cut(n, most),
        opened=lambda: contextlib.nullcontext("model"),
        compute=pieces_of(made, fail_at),
    )


@pytest.mark.parametrize(("n", "most", "count"), [(1, 5, 1), (5, 5, 1), (6, 5, 2), (500, 60, 9)])
def test_rows_are_cut_into_equal_parts_without_a_gap(n, most, count):
    parts = distributed.cut(n, most)
    assert len(parts) == count
    assert parts[0].start == 0 and parts[-1].stop == n
    assert all(a.stop == b.start for a, b in itertools.pairwise(parts))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) <= most and max(sizes) - min(sizes) <= 1


def test_every_process_has_a_part_where_there_are_rows_enough(monkeypatch):
    class Three:
        num_processes, process_index = 3, 1

    monkeypatch.setattr(distributed, "together", Three)
    assert [part.start for part in distributed.cut(7, 100)] == [0, 2, 4]
    assert len(distributed.cut(2, 100)) == 2
    assert distributed.mine("abcdefg") == "be"


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
    assert cache.load(tmp_path / "stage" / "name").row.tolist() == [0, 1, 2]


class Second:
    """The second of two processes, whose collectives the test answers for the first."""

    num_processes, process_index, is_main_process = 2, 1, False

    def wait_for_everyone(self) -> None:
        """The first has come here before."""


def write(folder, value: int, config) -> cache.Manifest:
    frame = pd.DataFrame({"row": [value]})
    return cache.save(folder / "stage" / "name", frame, config=config)


@pytest.mark.parametrize("before", [None, {"seed": 0}], ids=["nothing there", "an older one"])
def test_another_node_waits_for_a_table_that_it_does_not_see_yet_and_only_loads(
    before, tmp_path, monkeypatch
):
    """The first process's word is that all is there; a file system shows it to the second later."""
    monkeypatch.setattr(distributed, "together", Second)
    monkeypatch.setattr(distributed, "agreed", lambda value: True)
    if before is not None:
        write(tmp_path, 1, before)

    def late() -> None:
        time.sleep(0.3)
        write(tmp_path, 2, {"seed": 1})

    writer = threading.Thread(target=late)
    writer.start()
    place = Place(tmp_path, "stage", "name", {"seed": 1})
    found = distributed.cached(place, lambda: pytest.fail("computed"))
    writer.join()
    assert found.data.row.tolist() == [2] and not found.fresh


def test_what_is_never_seen_is_one_line_that_names_file_and_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "together", Second)
    monkeypatch.setattr(distributed, "agreed", lambda value: True)
    monkeypatch.setattr(distributed, "SEEN_S", 0.1)
    monkeypatch.setattr(distributed.socket, "gethostname", lambda: "node2")
    place = Place(tmp_path, "stage", "name", {})
    line = "name: must be seen by all nodes; node2 does not see within 0.1 s what a different"
    with pytest.raises(StudyError, match=line):
        distributed.cached(place, lambda: pytest.fail("no"))
    manifest = write(tmp_path, 1, {})
    (tmp_path / "stage" / manifest.file).write_bytes(b"half of it")
    with pytest.raises(StudyError, match=r"altered since it was written.*; run again$"):
        distributed.cached(place, lambda: pytest.fail("no"))


def test_another_node_waits_for_a_folder_to_fill_and_for_the_filled_one(tmp_path, monkeypatch):
    """The first process's one message is the folder to fill; the finished one is seen later."""
    place = Place(tmp_path, "stage", "name", {"seed": 1})
    stage, threads, filled = tmp_path / "stage", [], []
    partial = stage / "name.partial"

    def later(act) -> None:
        def wait_and_act() -> None:
            time.sleep(0.3)
            act()

        threads.append(threading.Thread(target=wait_and_act))
        threads[-1].start()

    def publish() -> None:
        cache.cached_folder(replace(place, run=tmp_path / "first"), fill)
        stage.mkdir(exist_ok=True)
        for made in (tmp_path / "first" / "stage").iterdir():  # the manifest last
            if made.is_dir():
                made.rename(stage / made.name)
        (tmp_path / "first" / "stage" / "name.json").rename(stage / "name.json")

    def fill(folder) -> None:
        (folder / "part").write_text("of the first")

    def compute(folder) -> None:
        filled.append(folder.is_dir())
        later(publish)

    def hear(message) -> None:
        message[:] = [partial]
        later(lambda: partial.mkdir(parents=True))

    monkeypatch.setattr(distributed, "together", Second)
    monkeypatch.setattr(accelerate.utils, "broadcast_object_list", hear)
    found = distributed.once(place, compute)
    assert filled == [True] and not found.fresh
    assert found.path == stage / "name" and (found.path / "part").read_text() == "of the first"
    for thread in threads:
        thread.join()


def test_another_node_fills_nothing_where_the_first_process_finds_the_folder(tmp_path, monkeypatch):
    place = Place(tmp_path, "stage", "name", {"seed": 1})
    made = cache.cached_folder(place, lambda folder: (folder / "part").touch())
    monkeypatch.setattr(distributed, "together", Second)
    monkeypatch.setattr(distributed, "agreed", lambda value: value)
    found = distributed.once(place, lambda folder: pytest.fail("filled"))
    assert found.path == made.path and found.hash == made.hash and not found.fresh
