"""Damage to what a run has stored is one line with the file and a remedy that works as printed."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
from damage import WAYS, cut, flip

from rockstudy import progress, runs
from rockstudy.errors import StudyError
from rockstudy.parallel import distributed
from rockstudy.runs import open_run
from rockstudy.store import cache
from rockstudy.store.cache import Place


def to_folder(file):
    """Put a folder in the place of a file."""
    file.unlink()
    file.mkdir()
    (file / "inside").touch()


DAMAGES = (*WAYS, to_folder)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run with a table, tensors and a folder."""
    import torch

    monkeypatch.setenv("ROCKSTUDY_HOME", str(tmp_path))
    monkeypatch.setattr(progress, "_NOTICED", set())
    made = open_run("tiny", "mine")
    store(made)
    cache.save(made.path / "stage" / "tensors", {"x": torch.ones(300)}, config={})
    return made


def place(run, name):
    return Place(run.path, "stage", name, {"seed": 1})


def store(run):
    """Compute the table and the folder where they are not there."""
    frame = pd.DataFrame({"x": np.arange(300)})
    cache.cached(place(run, "table"), lambda: frame)
    cache.cached_folder(
        place(run, "folder"), lambda folder: (folder / "weights").write_bytes(bytes(range(200)))
    )


def forget(run, line):
    """Do what a line tells to do."""
    what = re.search(r"`rockstudy forget mine (\S+)`", line)
    assert what is not None, line
    runs.forget(run.path, list(runs.artefacts(run.path, [what[1]])))


@pytest.mark.parametrize("way", DAMAGES, ids=lambda way: way.__name__)
@pytest.mark.parametrize("name", ["table.parquet", "table.json", "folder/weights", "folder.json"])
def test_any_damage_is_named_and_mended_by_the_remedy_as_it_is_printed(way, name, run):
    artefact = run.path / "stage" / name.split(".")[0].split("/")[0]
    before, file = cache.read(artefact), run.path / "stage" / name
    way(file)
    if not file.exists() and name == "folder.json":  # a folder alone is no artefact
        store(run)
        return
    (line,) = runs.damages(run.path, list(runs.artefacts(run.path)))
    assert line.startswith(str(artefact)) and "\n" not in line
    if artefact.with_suffix(".json").exists():  # without a manifest it counts as never computed
        with pytest.raises(StudyError, match=re.escape(line)):
            runs.check(run.path)
    forget(run, line)
    store(run)
    assert not list(runs.damages(run.path, list(runs.artefacts(run.path))))
    assert cache.read(artefact).hash == before.hash


@pytest.mark.parametrize("way", [*WAYS[:-1], to_folder], ids=lambda way: way.__name__)
def test_damaged_data_is_never_reused(way, run):
    way(run.path / "stage" / "table.parquet")
    with pytest.raises(StudyError, match=r"table\.parquet: .*forget mine stage/table`"):
        store(run)


def test_a_missing_table_is_damage_as_long_as_its_manifest_is_there(run):
    (run.path / "stage" / "table.parquet").unlink()
    with pytest.raises(StudyError, match=r"table\.parquet: missing, though its manifest is there"):
        runs.check(run.path)
    store(run)
    runs.check(run.path)


def test_a_folder_that_was_deleted_is_missing(run):
    shutil.rmtree(run.path / "stage" / "folder")
    with pytest.raises(StudyError, match="folder: missing, though its manifest is there"):
        runs.check(run.path)


def test_a_file_that_cannot_be_read_is_one_line(run, monkeypatch):
    def broken(file):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(cache, "hash_file", broken)
    with pytest.raises(StudyError, match=r"tensors\.safetensors: cannot be read, Input/output"):
        cache.load(run.path / "stage" / "tensors")


def test_the_first_damage_is_told_with_how_to_list_the_others(run):
    for name in ("table.parquet", "tensors.safetensors"):
        cut(run.path / "stage" / name)
    with pytest.raises(StudyError, match=r"table.*; and 1 more: `rockstudy info --verify mine`$"):
        runs.check(run.path)


@pytest.mark.parametrize("text", ["[" * 10_000, '{"a":' * 10_000, "5", "null", '{"file": 1}', "{}"])
def test_a_manifest_or_a_record_of_any_other_json_is_damaged(text, run):
    (run.path / "stage" / "table.json").write_text(text)
    with pytest.raises(StudyError, match=r"table\.json: not a readable manifest"):
        cache.load_manifest(run.path / "stage" / "table")
    (run.path / "run.json").write_text(text)
    with pytest.raises(StudyError, match=r"run\.json: must "):
        open_run(run_id="mine")


def test_a_manifest_whose_configuration_was_changed_is_damaged(run):
    file = run.path / "stage" / "table.json"
    file.write_text(file.read_text().replace('"seed": 1', '"seed": 3', 1))
    with pytest.raises(StudyError, match="not a readable manifest"):
        cache.load(run.path / "stage" / "table")


def test_an_exact_name_forgets_no_longer_names_that_begin_with_it(run):
    cache.cached(place(run, "table-2"), lambda: pd.DataFrame({"x": [1]}))
    assert list(runs.artefacts(run.path, ["stage/table"])) == ["stage/table"]
    assert len(runs.artefacts(run.path, ["stage/tab"])) == 2


def test_a_damaged_artefact_is_not_taken_over_and_the_line_names_the_run_that_has_it(run):
    other = open_run(run_id="more", from_run="mine")
    flip(run.path / "stage" / "table.parquet")
    with pytest.raises(StudyError, match="`rockstudy forget mine stage/table`"):
        other._taken(place(other, "table"))
    assert not (other.path / "stage").exists() or not list((other.path / "stage").iterdir())


@pytest.mark.parametrize("way", DAMAGES, ids=lambda way: way.__name__)
@pytest.mark.parametrize("ending", ["parquet", "json"])
def test_a_damaged_piece_of_an_unfinished_table_is_computed_again(way, ending, tmp_path, capsys):
    progress._NOTICED.clear()
    made = []

    def table(stop=None):
        def compute(tool, piece):
            if piece.start == stop:
                raise RuntimeError("stopped")
            made.append(piece.start)
            return pd.DataFrame({"row": np.arange(piece.start, piece.stop)})

        def opened():
            return progress.bar(None, "none")

        where = Place(tmp_path, "stage", "name", {})
        return distributed.pieced(where, lambda: distributed.cut(9, 3), opened, compute)

    with pytest.raises(RuntimeError, match="stopped"):
        table(stop=6)
    way(tmp_path / "stage" / "name.pieces" / f"00000.{ending}")
    assert table().data.row.tolist() == list(range(9))
    assert made == [0, 3, 0, 6]
    told = capsys.readouterr().err
    if (way.__name__, ending) != ("delete", "json"):  # without a manifest it never was complete
        assert re.search(rf"00000\.{ending}: .*; it is computed again$", told, re.MULTILINE)
