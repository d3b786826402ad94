from pathlib import Path

import pytest

from rockstudy import paths
from rockstudy.errors import StudyError


@pytest.fixture(autouse=True)
def no_home(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("ROCKSTUDY_HOME", raising=False)


def test_paths_do_not_depend_on_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = (paths.home(), paths.runs_dir(), paths.data_dir(), paths.notebooks_dir())
    monkeypatch.chdir(tmp_path)
    after = (paths.home(), paths.runs_dir(), paths.data_dir(), paths.notebooks_dir())
    assert after == before
    assert all(path.is_absolute() for path in after)
    assert (paths.REPO / "rockstudy" / "paths.py").is_file()


def test_rockstudy_home_moves_the_runs_and_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ROCKSTUDY_HOME", str(tmp_path))
    assert paths.run_dir("a") == tmp_path.resolve() / "runs" / "a"
    assert paths.data_dir() == paths.REPO / "data"
    (tmp_path / "data").mkdir()
    assert paths.data_dir() == tmp_path.resolve() / "data"


@pytest.mark.parametrize("home", ["none", "a\nb", "~nobody", "x" * 300, "/dev/null"])
def test_a_home_that_is_no_folder_is_an_error(home: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ROCKSTUDY_HOME", home)
    with pytest.raises(StudyError, match=r"^ROCKSTUDY_HOME: must be an existing folder; got '"):
        paths.runs_dir()


@pytest.mark.parametrize("run_id", ["lab", "lab-s0", "2026.01_x", "a" * 64])
def test_a_plain_name_is_a_run(run_id: str):
    assert paths.run_dir(run_id) == paths.runs_dir() / run_id


@pytest.mark.parametrize(
    "run_id", ["", ".", "..", "a/b", "../x", "/x", ".x", "-x", "a b", "a\n", "ä", "a" * 65, None, 3]
)
def test_anything_else_is_refused_in_one_line(run_id: object):
    with pytest.raises(StudyError) as caught:
        paths.run_dir(run_id)  # type: ignore[arg-type]
    line = str(caught.value)
    assert line.startswith("run_id: must be 1 to 64 letters")
    assert line.endswith(f"got {run_id!r}")
    assert "\n" not in line
