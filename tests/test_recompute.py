"""The numbers of the claims are those that pandas and numpy give from the stored tables."""

import ast
import json

import pandas as pd
import pytest
import recompute

from rockstudy import paths
from rockstudy.runs import REFERENCE

REFERENCES = sorted(path for path in (paths.data_dir() / REFERENCE).iterdir())


@pytest.mark.parametrize("folder", REFERENCES, ids=lambda path: path.name)
def test_every_finding_of_a_reference_is_computed_again(folder):
    table = recompute.compare(folder)
    if table.empty:
        pytest.skip("its claims were recorded by other rules than today's")
    assert recompute.differing(table).empty, recompute.differing(table).to_string()


def test_nothing_of_the_package_is_used():
    tree = ast.parse((paths.REPO / "tests" / "recompute.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not [node for node in imports if "rockstudy" in ast.unparse(node)]


@pytest.fixture
def folder(tmp_path):
    """A run with two problems, two seeds and a claim on their gain, and one that nobody knows."""
    for name in ("tables", "claims"):
        (tmp_path / name).mkdir()
    config = {"train_task": {"name": "lab_math"}}
    (tmp_path / "run.json").write_text(json.dumps({"config": config}))
    rows = [
        (seed, step, problem, "lab_math", seed + problem + step > 4)
        for seed in (0, 1)
        for step in (0, 4)
        for problem in (0, 1)
    ]
    columns = ["seed", "step", "prompt_index", "benchmark", "correct"]
    along = pd.DataFrame(rows, columns=columns)
    along.to_parquet(tmp_path / "tables" / "training.accuracy_along.parquet")
    claims = {"claim": ["opd-accuracy-rises", "new", "silent"], "value": [0.75, 0.5, float("nan")]}
    table = pd.DataFrame(claims).assign(kind="finding")
    beside = pd.DataFrame({"claim": ["beside"], "value": [1.0], "kind": ["shown"]})
    pd.concat([table, beside]).to_parquet(tmp_path / "claims" / "01.parquet")
    return tmp_path


def test_a_finding_without_a_function_is_named_and_one_that_was_not_run_needs_none(folder):
    assert recompute.differing(recompute.compare(folder)).claim.tolist() == ["new"]


def test_a_number_that_differs_is_named(folder):
    claims = pd.read_parquet(folder / "claims" / "01.parquet")
    claims.assign(value=claims.value + 1e-3).to_parquet(folder / "claims" / "01.parquet")
    assert "opd-accuracy-rises" in set(recompute.differing(recompute.compare(folder)).claim)
