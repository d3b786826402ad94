"""papermill by itself is safe: what is misspelt or of a wrong type is one line, before all else."""

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from rockstudy import display, paths
from rockstudy.cli import execute
from rockstudy.cli.execute import NotebookError
from rockstudy.rocks.steps import examples_html
from rockstudy.runs import open_run

CELL = (
    'run_id = "reference"\npreset = None\nseed = None\noverrides = {}\nfrom_run = None\ndraws = 20'
)
OPEN = (
    "from rockstudy.runs import open_run\n"
    "run = open_run(preset, run_id, seed, overrides, from_run)\nprint(run.id)"
)


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    monkeypatch.setenv("ROCKSTUDY_HOME", str(tmp_path))
    make = nbformat.v4.new_code_cell
    cells = [make(CELL, metadata={"tags": ["parameters"]}), make(OPEN)]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path = tmp_path / "00_first.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"presett": "tiny"}, "(did you mean 'preset'?)"),
        ({"rocks__k": 2}, "a field of the configuration goes into overrides"),
        ({"overrides": '{"rocks__k": 2}'}, "overrides: must be a dict like the default {}"),
        ({"draws": "many"}, "draws: must be an integer like the default 20"),
        ({"seed": "0"}, "seed: must be an integer like the default None"),
    ],
)
def test_values_of_papermill_are_checked_before_anything_is_computed(notebook, values, line):
    output = notebook.parent / "out" / "00_first.ipynb"
    with pytest.raises(NotebookError) as raised:
        execute.execute(notebook, output, values)
    assert line in str(raised.value)
    assert not paths.runs_dir().exists()
    failed = nbformat.read(output.with_suffix(".failed.ipynb"), 4)
    (error,) = [o for c in failed.cells for o in c.get("outputs", []) if o.output_type == "error"]
    assert len(error.traceback) == 1 and "\n" not in error.traceback[0]


@pytest.mark.slow
def test_known_values_open_the_run(notebook):
    output = notebook.parent / "out" / "00_first.ipynb"
    execute.execute(notebook, output, {"preset": "smollm2", "draws": 5})
    printed = [o.text for c in nbformat.read(output, 4).cells for o in c.get("outputs", [])]
    assert printed == ["reference\n"]


def test_mathjax_leaves_tables_and_examples_alone():
    open_run()
    table = pd.DataFrame({"spelling": ["$", " $x"]})
    one = {"rho": 1.0, "rkl_pre": 1.0, "rkl_post": 1.0}
    context = pd.DataFrame([one | {"before": "costs ", "token": "$", "after": "5 or $6"}])
    for shown in (table, table.style, display.table(table), examples_html(context)):
        first = BeautifulSoup(shown._repr_html_(), "html.parser").find("table")
        around = [first, *first.parents]
        assert any("mathjax_ignore" in part.get("class", []) for part in around)
