import errno
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rockstudy import paths
from rockstudy.errors import StudyError
from rockstudy.store import cache, files, provenance
from rockstudy.store.cache import Place
from rockstudy.store.seeds import generator, torch_seed

CONFIG = {"preset": "tiny", "steps": 3, "seed": 7}


@pytest.fixture
def frame() -> pd.DataFrame:
    """A column of every kind that the study stores, with gaps where a kind has them."""
    return pd.DataFrame(
        {
            "prompt_index": np.array([0, 1, 2], dtype=np.int32),
            "sample_index": np.array([0, 1, 0], dtype=np.int16),
            "token_id": np.array([5, 2**40, -1], dtype=np.int64),
            "rkl": np.array([0.1, np.nan, np.inf], dtype=np.float32),
            "rkl_sum": np.array([0.1, np.nan, -np.inf], dtype=np.float64),
            "correct": np.array([True, False, True]),
            "text": pd.Series(["\n\\boxed{ü}", None, ""], dtype="str"),
            "when": pd.to_datetime(["2026-01-01", None, "2026-01-03"]),
            "ids": [np.array(x, dtype=np.int32) for x in ([1, 2], [], [3])],
        }
    )


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def compute_never() -> Any:
    raise AssertionError("computed although it was there")


# Tables.


def test_a_table_comes_back_exactly(tmp_path: Path, frame: pd.DataFrame):
    manifest = cache.save(tmp_path / "stage" / "table", frame, config=CONFIG)
    back = cache.load(tmp_path / "stage" / "table")
    flat = frame.drop(columns="ids")
    pd.testing.assert_frame_equal(back.drop(columns="ids"), flat, check_exact=True)
    assert list(back.columns) == list(frame.columns)
    assert back.dtypes.to_dict() == frame.dtypes.to_dict()
    for given, got in zip(frame["ids"], back["ids"], strict=True):
        np.testing.assert_array_equal(got, given)
        assert got.dtype == given.dtype
    assert names(tmp_path / "stage") == {"table.parquet", "table.json"}
    assert manifest == cache.load_manifest(tmp_path / "stage" / "table")


@pytest.mark.parametrize("rows", [0, 1])
def test_columns_of_an_empty_table_keep_their_types(tmp_path: Path, frame: pd.DataFrame, rows: int):
    few = frame.drop(columns="ids").head(rows)
    cache.save(tmp_path / "few", few, config={})
    back = cache.load(tmp_path / "few")
    pd.testing.assert_frame_equal(back, few, check_exact=True)
    assert back["text"].dtype == "str"


def test_inferred_strings_and_strings_with_gaps_are_the_str_type_after_a_round_trip(tmp_path: Path):
    texts = pd.DataFrame({"a": ["x", "y"], "b": ["x", None], "c": ["x", np.nan]})
    cache.save(tmp_path / "texts", texts, config={})
    back = cache.load(tmp_path / "texts")
    pd.testing.assert_frame_equal(back, texts, check_exact=True)
    assert all(dtype == "str" for dtype in back.dtypes)


def test_nan_in_a_list_column_stays_nan(tmp_path: Path):
    lists = pd.DataFrame({"x": [[0.5, float("nan")], [1.0]]})
    cache.save(tmp_path / "lists", lists, config={})
    np.testing.assert_array_equal(cache.load(tmp_path / "lists")["x"][0], [0.5, np.nan])


def test_the_same_table_gives_the_same_bytes(tmp_path: Path, frame: pd.DataFrame):
    first = cache.save(tmp_path / "a", frame, config={"x": 1}, seconds=1.0)
    second = cache.save(tmp_path / "b", frame.copy(), config={"x": 2}, seconds=2.0)
    assert first.sha256 == second.sha256
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_two_processes_write_the_same_bytes(tmp_path: Path):
    code = """
        import sys, numpy as np, pandas as pd
        from pathlib import Path
        from rockstudy.store import cache, seeds
        rng = seeds.generator(3, "stage")
        frame = pd.DataFrame({"x": rng.normal(size=100), "s": [f"t{i}" for i in range(100)]})
        cache.save(Path(sys.argv[1]), frame, config={})
    """
    for name in ("a", "b"):
        assert python(code, tmp_path / name).returncode == 0
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ([{"a": 1}, {"a": 2}], "struct"),
        pytest.param([object(), object()], "object", id="objects"),  # whose names would change
        ([1, "a"], ""),
        ([1, None, True], ""),
        ([1, None], "int64"),
        ([True, None], "bool"),
        ([b"x", b"y"], "binary"),
        ([[{"a": 1}], []], "struct"),
        (pd.Categorical(["b", "a"]), "dictionary"),
    ],
    ids=str,
)
def test_objects_are_refused_by_the_name_of_their_column_and_nothing_is_written(
    tmp_path: Path, column: list, kind: str
):
    typed = column if isinstance(column, pd.Categorical) else pd.Series(column, dtype=object)
    bad = pd.DataFrame({"ok": range(len(column)), "bad": typed})
    with pytest.raises(StudyError, match=rf"(?s)^t: .*bad.*{kind}") as caught:
        cache.save(tmp_path / "run" / "t", bad, config={})
    assert "\n" not in str(caught.value)
    assert names(tmp_path / "run") == set()


def test_an_index_that_would_be_lost_is_refused(tmp_path: Path):
    with pytest.raises(StudyError, match="index"):
        cache.save(tmp_path / "t", pd.DataFrame({"x": [1, 2]}, index=[1, 2]), config={})
    with pytest.raises(StudyError, match="distinct text"):
        cache.save(tmp_path / "t", pd.DataFrame([[1, 2]], columns=["x", "x"]), config={})
    with pytest.raises(StudyError, match="distinct text"):
        cache.save(tmp_path / "t", pd.DataFrame([[1, 2]]), config={})


# Tensors.


def test_tensors_come_back_exactly(tmp_path: Path):
    import torch

    shared = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    tensors = {"a": shared, "b": shared.T, "c": torch.tensor([1.5, float("nan")]).bfloat16()}
    cache.save(tmp_path / "t", tensors, config=CONFIG)
    back = cache.load(tmp_path / "t")
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        torch.testing.assert_close(back[name], tensor, rtol=0, atol=0, equal_nan=True)
    assert names(tmp_path) == {"t.safetensors", "t.json"}


# Manifests.


def test_a_manifest_says_what_made_the_data(tmp_path: Path, frame: pd.DataFrame):
    cache.save(
        tmp_path / "t", frame, config=CONFIG, inputs={"rollouts": "ab12"}, seed=7, seconds=1.5
    )
    found = json.loads((tmp_path / "t.json").read_text())
    assert found["file"] == "t.parquet"
    assert found["config"] == CONFIG
    assert found["inputs"] == {"rollouts": "ab12"}
    assert found["sha256"] == files.hash_file(tmp_path / "t.parquet")
    assert (found["rows"], found["seed"], found["seconds"]) == (3, 7, 1.5)
    assert found["versions"]["pandas"] == pd.__version__
    assert found["device"]
    assert found["git"] == provenance.git_state()


def test_the_commit_is_that_of_the_clone_or_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    provenance.git_state.cache_clear()
    monkeypatch.setattr(provenance, "REPO", tmp_path)
    assert provenance.git_state() is None
    provenance.git_state.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git_state() is None
    provenance.git_state.cache_clear()


def test_the_commit_and_the_dirty_flag_follow_a_real_clone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    monkeypatch.setattr(provenance, "REPO", tmp_path.resolve())
    provenance.git_state.cache_clear()
    clean = provenance.git_state()
    (tmp_path / "new").touch()
    provenance.git_state.cache_clear()
    dirty = provenance.git_state()
    provenance.git_state.cache_clear()
    assert clean is not None
    assert dirty is not None
    assert len(clean["commit"]) == 40
    assert (clean["dirty"], dirty["dirty"]) == (False, True)


def test_what_is_not_there_says_so(tmp_path: Path):
    with pytest.raises(StudyError, match=r"none\.json: no such artefact; run the stage"):
        cache.load(tmp_path / "none")


# Damage.


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip, empty])
@pytest.mark.parametrize("what", ["frame", "tensors"])
def test_damaged_data_is_an_error_that_names_the_file_and_the_remedy(
    tmp_path: Path, frame: pd.DataFrame, damage: Callable[[Path], None], what: str
):
    import torch

    data = frame if what == "frame" else {"x": torch.ones(8)}
    compute = [lambda: data, compute_never]
    cache.cached(Place(tmp_path, "stage", "t.v1", CONFIG), compute[0])
    (file,) = (path for path in (tmp_path / "stage").iterdir() if path.suffix != ".json")
    damage(file)
    expected = rf"{file.name}: truncated or altered .*; delete t\.v1\.json beside it to compute"
    with pytest.raises(StudyError, match=expected):
        cache.load(tmp_path / "stage" / "t.v1")
    with pytest.raises(StudyError, match=expected):
        cache.cached(Place(tmp_path, "stage", "t.v1", CONFIG), compute[1])


@pytest.mark.parametrize("damage", [truncate, empty])
def test_a_damaged_manifest_is_an_error_too(
    tmp_path: Path, frame: pd.DataFrame, damage: Callable[[Path], None]
):
    cache.cached(Place(tmp_path, "stage", "t", CONFIG), lambda: frame)
    damage(tmp_path / "stage" / "t.json")
    with pytest.raises(StudyError, match=r"t\.json: not a readable manifest; delete t\.json"):
        cache.cached(Place(tmp_path, "stage", "t", CONFIG), compute_never)


def test_the_remedy_works(tmp_path: Path, frame: pd.DataFrame):
    cache.cached(Place(tmp_path, "stage", "t", CONFIG), lambda: frame)
    truncate(tmp_path / "stage" / "t.parquet")
    (tmp_path / "stage" / "t.json").unlink()
    again = cache.cached(Place(tmp_path, "stage", "t", CONFIG), lambda: frame)
    assert again.fresh


def test_missing_data_is_an_error_to_load_and_computed_again_by_the_cache(
    tmp_path: Path, frame: pd.DataFrame
):
    cache.cached(Place(tmp_path, "stage", "t", CONFIG), lambda: frame)
    (tmp_path / "stage" / "t.parquet").unlink()
    with pytest.raises(StudyError, match=r"t\.parquet: missing.*; delete t\.json"):
        cache.load(tmp_path / "stage" / "t")
    assert cache.cached(Place(tmp_path, "stage", "t", CONFIG), lambda: frame).fresh


# The cache.


def test_the_second_call_computes_nothing_and_returns_the_same(tmp_path: Path, frame: pd.DataFrame):
    first = cache.cached(Place(tmp_path, "stage", "t", CONFIG), lambda: frame)
    again = cache.cached(Place(tmp_path, "stage", "t", CONFIG), compute_never)
    assert (first.fresh, again.fresh) == (True, False)
    assert first.hash == again.hash == first.manifest.sha256
    assert first.manifest == again.manifest
    assert (first.manifest.seed, first.manifest.rows) == (7, 3)
    pd.testing.assert_frame_equal(first.data, again.data)


@pytest.mark.parametrize(
    ("config", "inputs"),
    [({**CONFIG, "steps": 4}, {"a": "1"}), (CONFIG, {"a": "2"}), (CONFIG, {}), ({}, {"a": "1"})],
)
def test_another_configuration_or_input_computes_again(
    tmp_path: Path, frame: pd.DataFrame, config: dict, inputs: dict
):
    cache.cached(Place(tmp_path, "s", "t", CONFIG, {"a": "1"}), lambda: frame)
    other = cache.cached(Place(tmp_path, "s", "t", config, inputs), lambda: frame.head(1))
    assert other.fresh
    assert len(other.data) == 1
    assert names(tmp_path / "s") == {"t.parquet", "t.json"}


def test_an_error_while_computing_keeps_the_old_artefact(tmp_path: Path, frame: pd.DataFrame):
    cache.cached(Place(tmp_path, "s", "t", CONFIG), lambda: frame)
    with pytest.raises(AssertionError, match="computed"):
        cache.cached(Place(tmp_path, "s", "t", {}), compute_never)
    assert not cache.cached(Place(tmp_path, "s", "t", CONFIG), compute_never).fresh


# Full disks and kills.


def test_a_full_disk_is_one_line_and_leaves_what_was_there(
    tmp_path: Path, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
):
    cache.save(tmp_path / "t", frame, config=CONFIG)
    before = cache.load_manifest(tmp_path / "t")

    def full(table: object, file: Path, **_: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.pq, "write_table", full)
    with pytest.raises(StudyError, match=r"t\.parquet: cannot be written, No space left") as caught:
        cache.save(tmp_path / "t", frame.head(1), config={})
    assert str(caught.value).endswith("; free some space and run again, what is stored is kept")
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == {"t.parquet", "t.json"}
    assert cache.load_manifest(tmp_path / "t") == before
    assert len(cache.load(tmp_path / "t")) == 3


def test_a_disk_that_fills_before_the_manifest_leaves_what_was_there(
    tmp_path: Path, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
):
    cache.save(tmp_path / "t", frame, config=CONFIG)

    def full(file: Path, value: object) -> None:
        file.write_bytes(b"{")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "dump_json", full)
    with pytest.raises(StudyError, match="No space left"):
        cache.save(tmp_path / "t", frame.head(1), config={})
    assert names(tmp_path) == {"t.parquet", "t.json"}
    assert len(cache.load(tmp_path / "t")) == 3


@pytest.mark.parametrize("what", ["frame", "tensors", "folder"])
def test_a_file_size_limit_of_the_system_is_met_the_same_way(tmp_path: Path, what: str):
    code = """
        import resource, signal, sys, numpy as np, pandas as pd
        from pathlib import Path
        from rockstudy.errors import StudyError
        from rockstudy.store import cache, provenance, seeds
        from rockstudy.store.cache import Place
        provenance.git_state()
        run, what = Path(sys.argv[1]), sys.argv[2]
        noise = seeds.generator(0, "x").normal(size=100_000)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            if what == "folder":
                cache.cached_folder(Place(run, "s", "t", {}), lambda f: (f / "x").write_bytes(noise)
                )
            else:
                data = pd.DataFrame({"x": noise})
                if what == "tensors":
                    import torch
                    data = {"x": torch.from_numpy(noise)}
                cache.cached(Place(run, "s", "t", {}), lambda: data)
        except StudyError as error:
            sys.exit(f"one line: {error}")
    """
    done = python(code, tmp_path, what)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("one line: ")
    assert "cannot be written" in done.stderr
    assert done.stderr.count("\n") == 1
    assert names(tmp_path / "s") <= {"t.partial", "t.marker"}


# One interpreter forks a child for each step at which the writing is killed: at its n-th rename or
# removal. Each step has its own folder: an old artefact (x=0), the killed attempt (x=1), a copy of
# what it left, and a second attempt.
KILLS = """
    import os, shutil, signal, sys
    from pathlib import Path
    import pandas as pd
    from rockstudy.store import cache, provenance
    from rockstudy.store.cache import Place
    provenance.git_state()

    def table(run, x):
        frame = pd.DataFrame({"x": [x] * 3})
        cache.cached(Place(run, "s", "t", {"x": x}), lambda: frame)

    def folder(run, x):
        def compute(folder):
            with (folder / "computed").open("a") as stream:
                stream.write(f"{x} in {os.getpid()}\\n")
        cache.cached_folder(Place(run, "s", "t", {"x": x}), compute)

    def killing(real, left):
        def step(self, *args, **kwargs):
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            left.pop()
            return real(self, *args, **kwargs)
        return step

    def attempt(run, x, stop=None):
        pid = os.fork()
        if pid == 0:
            left = [None] * (stop or 0)
            for name in ("replace", "unlink", "rename") if stop is not None else ():
                setattr(Path, name, killing(getattr(Path, name), left))
            make(run, x)
            os._exit(0)
        return os.waitpid(pid, 0)[1]

    make = globals()[sys.argv[2]]
    for stop in range(99):
        run = Path(sys.argv[1]) / str(stop)
        assert attempt(run, 0) == 0
        killed = attempt(run, 1, stop)
        shutil.copytree(run, run.with_name(f"{stop}-left"))
        assert attempt(run, 1) == 0
        if killed == 0:
            break
        assert killed == signal.SIGKILL
"""


def killed_at_every_step(tmp_path: Path, what: str) -> list[tuple[Path, Path]]:
    """What each kill left and what the second attempt made of it; the last one was not killed."""
    done = python(KILLS, tmp_path, what)
    assert done.returncode == 0, done.stderr
    steps = sorted(int(name) for name in names(tmp_path) if name.isdecimal())
    assert len(steps) > 4
    return [(tmp_path / f"{step}-left" / "s", tmp_path / f"{step}" / "s") for step in steps]


def test_a_kill_at_any_step_of_writing_leaves_the_old_artefact_the_new_one_or_none(tmp_path: Path):
    between = 0
    for left, after in killed_at_every_step(tmp_path, "table"):
        if (left / "t.json").exists():
            x = cache.load_manifest(left / "t").config["x"]
            assert cache.load(left / "t")["x"].tolist() == [x] * 3
        else:
            new = pd.read_parquet(left / "t.parquet")["x"].tolist() == [1] * 3
            between += new  # killed between the data and its manifest
            with pytest.raises(StudyError, match="no such artefact"):
                cache.load(left / "t")
        assert cache.load(after / "t")["x"].tolist() == [1] * 3
        assert names(after) == {"t.parquet", "t.json"}
    assert between > 0


# Folders.


def fill(*texts: str) -> Callable[[Path], None]:
    def compute(folder: Path) -> None:
        (folder / "deep").mkdir(exist_ok=True)
        for i, text in enumerate(texts):
            (folder / "deep" / f"{i}.txt").write_text(text)

    return compute


def test_a_folder_is_computed_once(tmp_path: Path):
    first = cache.cached_folder(Place(tmp_path, "s", "late", CONFIG), fill("a", "b"))
    again = cache.cached_folder(Place(tmp_path, "s", "late", CONFIG), compute_never)
    assert (first.fresh, again.fresh) == (True, False)
    assert first.path == tmp_path / "s" / "late"
    assert (first.path / "deep" / "1.txt").read_text() == "b"
    assert first.hash == again.hash == files.hash_folder(first.path)
    assert first.manifest == again.manifest
    assert names(tmp_path / "s") == {"late", "late.json"}


def test_another_configuration_replaces_the_folder(tmp_path: Path):
    cache.cached_folder(Place(tmp_path, "s", "late", CONFIG), fill("a", "b"))
    other = cache.cached_folder(Place(tmp_path, "s", "late", {}), fill("c"))
    assert other.fresh
    assert names(other.path / "deep") == {"0.txt"}
    assert names(tmp_path / "s") == {"late", "late.json"}


def test_a_folder_that_was_changed_is_an_error(tmp_path: Path):
    made = cache.cached_folder(Place(tmp_path, "s", "late", CONFIG), fill("a"))
    changes: list[Callable[[], Any]] = [
        lambda: (made.path / "deep" / "0.txt").write_text("b"),
        lambda: (made.path / "deep" / "0.txt").rename(made.path / "deep" / "1.txt"),
        lambda: (made.path / "more").touch(),
    ]
    for change in changes:
        change()
        with pytest.raises(StudyError, match=r"late: truncated or altered .*; delete late\.json"):
            cache.cached_folder(Place(tmp_path, "s", "late", CONFIG), compute_never)


def test_a_second_attempt_finds_what_the_first_had_written(tmp_path: Path):
    def half(folder: Path) -> None:
        (folder / "step-1").write_text("kept")
        raise RuntimeError("stopped")

    def rest(folder: Path) -> None:
        assert (folder / "step-1").read_text() == "kept"
        (folder / "step-2").touch()

    with pytest.raises(RuntimeError, match="stopped"):
        cache.cached_folder(Place(tmp_path, "s", "late", CONFIG), half)
    assert not (tmp_path / "s" / "late").exists()
    made = cache.cached_folder(Place(tmp_path, "s", "late", CONFIG), rest)
    assert names(made.path) == {"step-1", "step-2"}
    assert names(tmp_path / "s") == {"late", "late.json"}


def test_a_partial_folder_of_another_configuration_is_not_resumed(tmp_path: Path):
    def half(folder: Path) -> None:
        (folder / "step-1").touch()
        raise RuntimeError("stopped")

    def whole(folder: Path) -> None:
        assert names(folder) == set()
        (folder / "x").touch()

    with pytest.raises(RuntimeError, match="stopped"):
        cache.cached_folder(Place(tmp_path, "s", "late", CONFIG), half)
    made = cache.cached_folder(Place(tmp_path, "s", "late", {}), whole)
    assert names(made.path) == {"x"}


def test_an_error_before_anything_is_written_leaves_nothing(tmp_path: Path):
    with pytest.raises(AssertionError, match="computed"):
        cache.cached_folder(Place(tmp_path, "s", "late", CONFIG), lambda folder: compute_never())
    assert names(tmp_path / "s") == set()


def test_an_error_of_the_computation_keeps_its_own_words(tmp_path: Path):
    def missing(folder: Path) -> None:
        raise FileNotFoundError(errno.ENOENT, "no weights", "model.safetensors")

    with pytest.raises(FileNotFoundError, match="no weights"):
        cache.cached_folder(Place(tmp_path, "s", "late", CONFIG), missing)


def test_a_kill_at_any_step_of_publishing_a_folder_loses_nothing(tmp_path: Path):
    complete = 0
    for left, after in killed_at_every_step(tmp_path, "folder"):
        if (left / "t.json").exists():
            assert files.hash_folder(left / "t") == cache.load_manifest(left / "t").sha256
        text = (after / "t" / "computed").read_text()
        assert {line[0] for line in text.splitlines()} == {"1"}
        if any('"x": 1' in file.read_text() for file in left.glob("t.*") if file.is_file()):
            complete += 1  # the new manifest is somewhere: nothing may be computed again
            written = [left / folder / "computed" for folder in ("t.partial", "t")]
            assert text == next(file for file in written if file.is_file()).read_text()
        assert files.hash_folder(after / "t") == cache.load_manifest(after / "t").sha256
        assert names(after) == {"t", "t.json"}
    assert complete > 2


# Seeds.


def test_streams_depend_on_seed_stage_and_unit_and_on_nothing_else():
    np.random.seed(0)  # noqa: NPY002 - the global generator must not matter
    keys = [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1)]
    draws = [generator(*key).random(4).tolist() for key in keys]
    assert len({tuple(draw) for draw in draws}) == 4
    assert draws == [generator(*key).random(4).tolist() for key in keys]
    seeds = [torch_seed(*key) for key in keys]
    assert len(set(seeds)) == 4
    assert seeds == [torch_seed(*key) for key in keys]
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_a_stream_is_the_documented_seed_sequence():
    import zlib

    sequence = np.random.SeedSequence([3, zlib.crc32(b"rollout"), 5])
    expected = np.random.default_rng(sequence).integers(1 << 40, size=8)
    np.testing.assert_array_equal(generator(3, "rollout", 5).integers(1 << 40, size=8), expected)


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code in another interpreter, from another folder."""
    search = os.pathsep.join([str(paths.REPO), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": search},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_measured_numbers_are_stored_small_and_come_back_as_they_were(tmp_path):
    """Numbers without repetition take hardly more room than their bytes, in lists as well."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "nats": rng.exponential(size=20_000).astype(np.float32),
            "listed": list(rng.normal(size=(20_000, 5)).astype(np.float32)),
            "token_id": rng.integers(0, 50, 20_000),
            "missing": np.where(rng.random(20_000) < 0.5, np.nan, 1 / 3),
        }
    )
    files.write_frame(frame, tmp_path / "one.parquet", "one")
    pd.testing.assert_frame_equal(files.read_frame(tmp_path / "one.parquet"), frame)
    plain = 20_000 * 4 * (1 + 5)
    assert (tmp_path / "one.parquet").stat().st_size < plain + 20_000 * 2
