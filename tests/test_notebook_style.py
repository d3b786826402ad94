"""The form of every notebook, checked for those committed and for what `rockstudy new` writes.

Notebooks are committed without any output or execution count: their numbers come from the reference
tables, which are committed, and their rendered form is the report.
"""

import ast
import re

import nbformat
import pytest

from rockstudy import paths
from rockstudy.cli import parameters, scaffold
from rockstudy.notebooks import read

COMMITTED = sorted(paths.notebooks_dir().glob("*.ipynb"))
MOST_CELLS, MOST_LINES, MOST_PARAMETERS = 25, 10, 8  # the design's section 7; 3 and a handful
PLOTTING = re.compile(r"\b(plt|sns|mpl|matplotlib|seaborn)\b|\.plot\b|\.hist\(|\.boxplot\(")


@pytest.fixture(params=[*COMMITTED, "new"], ids=lambda found: getattr(found, "stem", found))
def path(request, tmp_path):
    if request.param == "new":
        return scaffold.write("fresh", tmp_path, preset="tiny", run_id="tiny")
    return request.param


@pytest.fixture
def notebook(path):
    return read(path)


def code(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def test_a_notebook_is_valid_and_has_at_most_25_cells(notebook):
    nbformat.validate(notebook)
    assert len(notebook.cells) <= MOST_CELLS


def test_a_code_cell_has_at_most_10_lines(notebook):
    assert [source for source in code(notebook) if len(source.splitlines()) > MOST_LINES] == []


def test_code_cells_define_no_function_and_no_class(notebook):
    trees = [ast.walk(ast.parse(source)) for source in code(notebook)]
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    assert [node.name for tree in trees for node in tree if isinstance(node, kinds)] == []


def test_plotting_happens_only_in_the_figures_module(notebook):
    assert [found[0] for source in code(notebook) if (found := PLOTTING.search(source))] == []


def test_one_cell_holds_preset_run_id_seed_and_at_most_a_handful_of_parameters(path):
    names = parameters.parameters(path)  # refuses none or two cells
    assert {"preset", "run_id", "seed"} <= set(names)
    assert len(names) <= MOST_PARAMETERS


def test_the_parameters_cell_is_the_first_code_and_holds_literal_assignments_only(notebook):
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert "parameters" in first.metadata.tags
    for statement in ast.parse(first.source).body:
        assert isinstance(statement, ast.Assign | ast.AnnAssign)
        ast.literal_eval(statement.value)


def test_the_standard_sections_are_there_in_their_order(notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    headings = [heading.strip() for heading in re.findall(r"^## +(.+)$", text, re.MULTILINE)]
    assert [heading for heading in headings if heading in scaffold.SECTIONS] == [*scaffold.SECTIONS]
    assert len(re.findall(r"^# .+$", text, re.MULTILINE)) == 1


def test_setup_opens_the_run_with_every_standard_parameter(notebook):
    calls = [
        ast.unparse(node)
        for source in code(notebook)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("open_run")
    ]
    assert len(calls) == 1
    assert "preset, run_id, seed" in calls[0]


def test_a_notebook_is_stored_without_outputs_or_traces_of_its_execution(notebook):
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        assert not {"papermill", "execution", "collapsed"} & set(cell.metadata)
    assert "papermill" not in notebook.metadata
    assert notebook.metadata.kernelspec.name == "python3"
