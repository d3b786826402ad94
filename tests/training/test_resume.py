"""A damaged resume checkpoint is never used: training ends with the same bytes all the same."""

import errno
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from damage import WAYS, flip

from rockstudy import progress
from rockstudy.config.overrides import from_parameters
from rockstudy.errors import StudyError
from rockstudy.runs import Run
from rockstudy.store import resumable
from rockstudy.training import stages
from rockstudy.training.trainer import DistillTrainer

CONFIG = from_parameters(
    "tiny",
    stage2__steps=3,
    stage2__save_steps=1,
    stage2__logging_steps=1,
    stage2__max_new_tokens=4,
    stage2__keep__early=0.1,
)


@dataclass(frozen=True)
class Stopped:
    """A run that stopped in the last of three steps, and the end of one that did not."""

    path: Path
    hash: str
    tables: dict[str, bytes]

    def copy(self, folder: Path) -> tuple[Run, Path]:
        """Copy the run; return it and the folder that is being filled."""
        shutil.copytree(self.path, folder)
        (partial,) = (folder / "training").glob("stage2-*.partial")
        return Run(CONFIG, folder), partial


def _tables(result):
    folder = result.checkpoints["late"].parent
    return {name: (folder / f"{name}.parquet").read_bytes() for name in ("metrics", "type_losses")}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that has checkpoints of steps 1 and 2, and `early`, which was kept at step 1."""
    whole, half = (Run(CONFIG, tmp_path_factory.mktemp(name)) for name in ("whole", "half"))
    result = stages.train(whole, "stage2", seed=0)
    shutil.copytree(whole.path, half.path, dirs_exist_ok=True)
    for file in (half.path / "training").glob("stage2-*"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    real = stages._Keeper.on_step_end

    def step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise RuntimeError("stopped")
        real(self, args, state, control, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages._Keeper, "on_step_end", step_end)
        with pytest.raises(RuntimeError, match="stopped"):
            stages.train(half, "stage2", seed=0)
    (partial,) = (half.path / "training").glob("stage2-*.partial")
    there = {file.name for file in partial.iterdir() if file.is_dir()}
    assert there == {"checkpoint-1", "checkpoint-2", "early"}
    return Stopped(half.path, result.hash, _tables(result))


@pytest.fixture(autouse=True)
def lines_are_printed_again(monkeypatch):
    """A line is printed once in a process."""
    monkeypatch.setattr(progress, "_NOTICED", set())


def _files(partial):
    return [
        file.relative_to(partial)
        for name in ("checkpoint-2", "early")
        for file in sorted((partial / name).rglob("*"))
        if file.is_file()
    ]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_no_damaged_file_of_a_checkpoint_goes_unnoticed(way, stopped, tmp_path, capsys):
    _, partial = stopped.copy(tmp_path / "run")
    names = {file.as_posix() for file in _files(partial)}
    assert {f"checkpoint-2/{n}" for n in ("optimizer.pt", "scheduler.pt", "rng_state.pth")} < names
    assert {"checkpoint-2/hashes.json", "early/model.safetensors"} < names
    for number, file in enumerate(_files(partial)):
        _, partial = stopped.copy(tmp_path / f"{number}")
        if (partial / file).stat().st_size == 0:
            continue
        way(partial / file)
        wanted = "checkpoint-1" if file.parts[0] == "checkpoint-2" else None
        used = stages._last_whole(partial)
        assert (used and used.name) == wanted, file
        line = capsys.readouterr().err.splitlines()[0]
        assert f"{partial.name}/checkpoint-2: not used, " in line
        assert file.name in line or "not written to its end" in line or file.name == "hashes.json"
        assert line.endswith(f"; training goes on from {wanted or 'the start'}")


def _ends_alike(stopped, folder, number, way):
    run, partial = stopped.copy(folder / f"{way.__name__}-{number}")
    file = partial / _files(partial)[number]
    way(file)
    result = stages.train(run, "stage2", seed=0)
    assert (result.hash, _tables(result)) == (stopped.hash, stopped.tables), (file.name, way)
    left = [file.name for file in partial.with_suffix("").rglob("*")]
    assert not partial.exists() and "hashes.json" not in left
    assert not [name for name in left if name.startswith((".", "checkpoint-"))]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_training_from_a_damaged_checkpoint_ends_with_the_same_bytes(way, stopped, tmp_path):
    """Each file once, in one of the ways; the slow test has all of them in all ways."""
    _, partial = stopped.copy(tmp_path / "run")
    for number in range(WAYS.index(way), len(_files(partial)), len(WAYS)):
        _ends_alike(stopped, tmp_path, number, way)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_training_from_every_damaged_file_ends_with_the_same_bytes(way, stopped, tmp_path):
    _, partial = stopped.copy(tmp_path / "run")
    for number in range(len(_files(partial))):
        _ends_alike(stopped, tmp_path, number, way)


def test_an_undamaged_checkpoint_is_used_and_nothing_is_told(stopped, tmp_path, capsys):
    run, partial = stopped.copy(tmp_path / "run")
    assert stages._last_whole(partial) == partial / "checkpoint-2"
    result = stages.train(run, "stage2", seed=0)
    assert (result.hash, _tables(result)) == (stopped.hash, stopped.tables)
    assert "not used" not in capsys.readouterr().err


def test_without_a_whole_checkpoint_training_starts_again(stopped, tmp_path, capsys):
    run, partial = stopped.copy(tmp_path / "run")
    flip(partial / "checkpoint-1" / "optimizer.pt")
    shutil.rmtree(partial / "checkpoint-2")
    (partial / "checkpoint-2").write_text("a file in its place")
    assert stages.train(run, "stage2", seed=0).hash == stopped.hash
    told = [line for line in capsys.readouterr().err.splitlines() if "not used" in line]
    assert len(told) == 2 and all(line.endswith("from the start") for line in told)


@pytest.mark.parametrize("damage", [lambda m: m.write_text("{"), lambda m: m.unlink()])
def test_a_half_filled_folder_without_its_marker_starts_again_and_a_line_says_so(
    damage, stopped, tmp_path, capsys
):
    run, partial = stopped.copy(tmp_path / "run")
    damage(partial.with_suffix(".marker"))
    assert stages.train(run, "stage2", seed=0).hash == stopped.hash
    assert f"{partial}: not used, {partial.stem}.marker is damaged" in capsys.readouterr().err


def test_a_seal_also_covers_what_was_complete_before(tmp_path):
    for name in ("early", "checkpoint-4"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(name)
    part = tmp_path / "checkpoint-4"
    assert resumable.damage(part) == "it was not written to its end"
    resumable.seal(part, resumable.hashed(tmp_path / "early"))
    assert resumable.damage(part) is None
    (part / "more").touch()
    assert resumable.damage(part) == "checkpoint-4/more is missing or damaged"
    (part / "more").unlink()
    shutil.rmtree(tmp_path / "early")
    assert resumable.damage(part) == "early/weights is missing or damaged"
    (part / "hashes.json").write_text("[" * 10_000)
    assert resumable.damage(part) == "hashes.json is damaged"


def test_what_was_being_kept_is_removed_when_that_is_interrupted_and_at_the_next_start(
    stopped, tmp_path, monkeypatch
):
    run, partial = stopped.copy(tmp_path / "run")
    (partial / ".early.tmp").mkdir()
    (partial / ".early.tmp" / "half").touch()

    def interrupted(self, folder, **_):
        Path(folder).mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DistillTrainer, "save_model", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stages.train(run, "stage2", seed=0)
    assert not list(partial.glob(".*"))
    assert stages.train(run, "stage2", seed=0).hash == stopped.hash


@pytest.mark.parametrize(
    "error",
    [
        "[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 470",
        "PytorchStreamWriter failed writing file data/0: file write failed",
    ],
)
@pytest.mark.parametrize("cause", [None, OSError(errno.ENOSPC, "No space left on device")])
def test_a_disk_that_fills_while_torch_saves_the_optimiser_is_one_line(
    error, cause, stopped, tmp_path, monkeypatch
):
    run, partial = stopped.copy(tmp_path / "run")

    def full(*_, **__):
        try:
            raise cause or ValueError
        except Exception:
            raise RuntimeError(error)  # noqa: B904 - as torch does, whose file closes with an error

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(StudyError) as caught:
            stages.train(run, "stage2", seed=0)
    words = "No space left on device" if cause else "torch wrote only a part"
    again = "free some space and run again, what is stored is kept"
    assert str(caught.value) == f"{partial.with_suffix('')}: cannot be written, {words}; {again}"
    assert stages.train(run, "stage2", seed=0).hash == stopped.hash
