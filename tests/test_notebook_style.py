"""The form of every notebook, checked for those committed and for what `rockstudy new` writes.

A notebook begins with something to look at, then asks its question; an expectation comes before
what is measured, and a computed reading in words below every figure. Headings are free. What a run
could change is never written into prose: it is computed.

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
NUMBERED = [path for path in COMMITTED if path.name[:2].isdecimal()]
MOST_CELLS, MOST_LINES, MOST_PARAMETERS = 30, 10, 8  # ours; 3 and a handful
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


def test_a_notebook_is_valid_and_has_at_most_30_cells(notebook):
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


def prose(notebook) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_a_notebook_has_one_title_and_its_provenance_last(notebook):
    assert len(re.findall(r"^# .+$", prose(notebook), re.MULTILINE)) == 1
    assert notebook.cells[0].source.startswith("# ")
    assert notebook.cells[-1].source.strip() == "run.provenance()"


def shows(source: str) -> bool:
    """Whether a code cell ends with something to look at, or displays it."""
    last = ast.parse(source).body[-1]
    return isinstance(last, ast.Expr) or re.search(r"\bdisplay\(", source) is not None


def test_something_to_look_at_comes_before_the_question(notebook):
    places = [i for i, c in enumerate(notebook.cells) if c.source.startswith("## Question")]
    assert len(places) == 1
    before = [c for c in notebook.cells[: places[0]] if c.cell_type == "code"]
    assert any(shows(c.source) for c in before if "parameters" not in c.metadata.get("tags", []))


def test_below_every_figure_stands_a_computed_reading(notebook):
    codes = code(notebook)
    silent = []
    for source, after in zip(codes, [*codes[1:], ""], strict=True):
        if "figures." in source.replace("import figures", ""):
            rest = source[source.rindex("figures.") :] + "\n" + after
            silent += [] if re.search(r"\bprose\(", rest) else [source]
    assert silent == []


def test_sentences_are_shown_as_prose_and_nothing_is_printed(notebook):
    calls = [n for s in code(notebook) for n in ast.walk(ast.parse(s)) if isinstance(n, ast.Call)]
    assert [ast.unparse(call) for call in calls if ast.unparse(call.func) == "print"] == []


def test_an_expectation_comes_before_what_is_measured(notebook):
    assert re.search(r"expected before looking", prose(notebook), re.IGNORECASE)


def test_your_turn_names_three_changes(notebook):
    parts = re.split(r"^## +(.+)$", prose(notebook), flags=re.MULTILINE)
    turns = dict(zip(parts[1::2], parts[2::2], strict=True))
    items = re.findall(r"^(?:-|\d\.) ", turns["Your turn"], re.MULTILINE)
    assert len(items) == 3


@pytest.mark.parametrize("path", NUMBERED, ids=lambda path: path.stem)
def test_a_notebook_links_to_the_one_before_and_the_one_after(path):
    place = NUMBERED.index(path)
    text = prose(read(path))
    for other in NUMBERED[max(0, place - 1) : place] + NUMBERED[place + 1 : place + 2]:
        assert f"]({other.name})" in text, other.name


REFERENCES = (  # what has a number and is no result
    r"arXiv \d{4}\.\d{5}|(?:notebooks?|figures?|tables?|sections?|stage|appendix) \d+[a-d]?"
    r"(?:(?:,| and| to) \d+[a-d]?)*|\b9[05]%|\b0\.05\b"
    r"|(?:at least|within|tests at) \d+%|\d+% power"
)
RESULT = (  # a decimal, a share, a number of things, the number of a run's seeds
    r"\d\.\d|\d ?%|\d{2}|\b(?:two|three|four|five|six|seven|eight|nine|ten) (?:training )?seeds\b"
)


def numbers_in(text: str) -> list[str]:
    """Sentences of prose with a number that a run could change.

    Code, formulas, tables and links are left out, references such as "figure 2", and sentences
    about the paper, whose numbers stay as they are.
    """
    for no_prose in (r"```.*?```", r"`[^`]*`", r"\$\$.*?\$\$", r"\$[^$]*\$", r"\]\([^)]*\)"):
        text = re.sub(no_prose, " ", text, flags=re.DOTALL)
    text = re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)
    sentences = re.split(r"(?<=[.;:?])\s+|\n\s*\n|^- ", text, flags=re.MULTILINE)
    ours = (one for one in sentences if "paper" not in one.lower())
    plain = (re.sub(REFERENCES, " ", " ".join(one.split()), flags=re.IGNORECASE) for one in ours)
    return [one for one in plain if re.search(RESULT, one)]


def test_no_result_is_written_into_prose(notebook):
    assert numbers_in(prose(notebook)) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The loss falls by 14%.", 1),
        ("It holds 0.45 of the loss; see figure 2a and notebook 03.", 1),
        ("The three seeds agree.", 1),
        ("Set `rocks__k` to `50`, at $k = 3$, in stage 2 at temperature 1.", 0),
        ("A share of at least 1%, within 2%, at 80% power.", 0),
        ("A 95% interval that leaves out 0 is significant at 0.05.", 0),
        ("The paper has 52.5% in its figure 2 (arXiv 2605.09253).", 0),
        ("| a | 7 |", 0),
    ],
)
def test_a_number_in_prose_is_found(text, found):
    assert len(numbers_in(text)) == found


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
