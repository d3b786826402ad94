"""The report in a real browser: what a reader sees, and what a hostile token may not do."""

import base64
import io

import nbformat
import pandas as pd
import pytest
from browser import Browser, executable
from matplotlib.figure import Figure

from rockstudy import runs
from rockstudy.claims import records
from rockstudy.claims.verdicts import VERDICTS
from rockstudy.report import render, sentences
from rockstudy.runs import open_run

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(executable() is None, reason="no Chromium is on the path"),
]
HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "<svg onload=\"document.title='owned'\"></td></table></section>\u202eetihw\u2066"
)
HIGH = r"$$\sum_{i=1}^{n} \frac{a_i}{\frac{b}{c}}$$"
SHOWN = "[...document.querySelectorAll('.claims tbody tr:not(.group)')].filter(r => !r.hidden)"
COLOURS = """(() => {
  const style = getComputedStyle(document.body);
  return [style.color, style.backgroundColor];
})()"""


def figure() -> str:
    file = io.BytesIO()
    drawn = Figure(figsize=(12, 3))
    drawn.subplots().plot([1, 2])
    drawn.savefig(file, format="png")
    return base64.b64encode(file.getvalue()).decode()


def claims() -> list[dict]:
    """Every verdict on a direction and on a size, one finding without a size, and a check."""
    sizes = [VERDICTS[1], VERDICTS[0], "", *VERDICTS[3:], VERDICTS[1]]
    rows = []
    for i, verdict in enumerate([*VERDICTS, "differs", "passed"]):
        number = {"value": [0.3, 0.1, 0.2, None, None, 1e-9, 7][i], "unit": "problems", "n": 10}
        row = {"claim": f"claim-{i}", "statement": f"words {HOSTILE}", "locator": "figure 2"}
        row |= {"kind": "check"} if i == 6 else {"kind": "finding", "size": sizes[i]}
        row |= {"direction": verdict, "reason": "a rule", "paper": 0.5, "headline": i == 0}
        rows.append(row | (number if number["value"] is not None else {}))
    return rows


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A report of two notebooks with a figure, wide tables and hostile text."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROCKSTUDY_HOME", str(tmp_path_factory.mktemp("home")))
        run = open_run("tiny", "here")
    frame = pd.DataFrame({f"column {i}": [HOSTILE, "x" * 40] for i in range(12)})
    shown = [
        {"image/png": figure()},
        {"text/html": frame.to_html(escape=False), "text/plain": "frame"},
        {"text/html": frame.to_html(), "text/plain": "frame"},
        {"text/plain": HOSTILE * 3},
        {"application/javascript": "document.title = 'owned'"},
    ]
    cells = [
        nbformat.v4.new_markdown_cell(
            f"# Title\n\n## Question\n\nWhy {HOSTILE}?\n\n{HIGH}\n\n$x^2$"
        )
    ]
    for data in shown:
        output = nbformat.v4.new_output("display_data", data=data)
        cells.append(nbformat.v4.new_code_cell("show()" + " # long" * 40, outputs=[output]))
    (run.path / "notebooks").mkdir()
    for name in ("01_first", "11_report"):
        notebook = nbformat.v4.new_notebook(cells=cells)
        nbformat.write(notebook, run.path / "notebooks" / f"{name}.ipynb")
        records.claims(run, name, claims())
    found = sentences.told(records.read_claims(runs.reference_dir("lab")))  # long ones
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sentences, "told", lambda table: found)
        return render.render(run.path)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def open_all(browser, path, *how) -> None:
    """Open the page and all its folded parts."""
    browser.open(path, *how)
    browser["document.querySelectorAll('details').forEach(part => { part.open = true; })"]


def click(browser, selector: str, place: int = 0) -> None:
    browser[f"document.querySelectorAll({selector!r})[{place}].click()"]


def measured(browser) -> list[str]:
    return browser[f"{SHOWN}.map(r => r.cells[2].dataset.key)"]


def sorting(browser) -> list[str]:
    return browser["[...document.querySelectorAll('.claims thead th')].map(h => h.ariaSort)"]


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (1200, "dark"), (390, "light")])
def test_it_opens_without_an_error_and_asks_for_nothing(browser, path, width, scheme):
    browser.open(path, width, scheme=scheme)
    assert browser.complaints() == []
    assert browser.requests() == []


def test_every_figure_has_a_size_and_an_alternative_text(browser, path):
    browser.open(path)
    images = browser["[...document.images].map(i => [i.naturalWidth, i.naturalHeight, i.alt])"]
    assert len(images) == 2  # one in each notebook, the last one's at the top
    assert all(width > 100 and height > 100 and len(alt) > 3 for width, height, alt in images)


@pytest.mark.parametrize("width", [390, 768, 970, 1200])
def test_the_page_never_scrolls_sideways(browser, path, width):
    open_all(browser, path, width)
    assert browser["document.documentElement.scrollWidth"] <= width


def test_a_dark_scheme_changes_the_colours_and_both_can_be_read(browser, path):
    found = {}
    for scheme in ("light", "dark"):
        browser.open(path, scheme=scheme)
        found[scheme] = [luminance(colour) for colour in browser[COLOURS]]
    assert found["light"][0] < found["light"][1]
    assert found["dark"][0] > found["dark"][1]
    for ink, paper in found.values():
        lighter, darker = max(ink, paper), min(ink, paper)
        assert (lighter + 0.05) / (darker + 0.05) > 7  # WCAG's AAA


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)`` as WCAG defines it."""
    parts = [int(part) / 255 for part in colour[4:-1].split(",")]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_the_claims_sort_by_number_up_down_and_back(browser, path):
    open_all(browser, path)
    before = measured(browser)
    numbers = sorted(float(key) for key in before if key)
    assert sorting(browser) == ["none"] * 5
    click(browser, ".claims th button", 2)
    assert [float(key) for key in measured(browser) if key] == numbers
    assert measured(browser)[-4:] == [""] * 4  # what was not run comes last, either way
    assert sorting(browser) == ["none", "none", "ascending", "none", "none"]
    click(browser, ".claims th button", 2)
    assert [float(key) for key in measured(browser) if key] == numbers[::-1]
    assert measured(browser)[-4:] == [""] * 4
    told = browser["document.getElementById('claims-status').textContent"]
    assert told.startswith("12 of 12 findings")
    click(browser, ".claims th button", 2)
    assert measured(browser) == before
    assert sorting(browser) == ["none"] * 5


@pytest.mark.parametrize(("column", "name"), [(3, "direction"), (4, "size")])
def test_verdicts_sort_in_their_own_order_and_headings_step_aside(browser, path, column, name):
    open_all(browser, path)
    click(browser, ".claims th button", column)
    order = browser[f"{SHOWN}.map(r => r.dataset.{name})"]
    assert len(order) == 12
    assert order == sorted(order, key=[*VERDICTS, ""].index)  # what the paper lacks comes last
    assert browser["[...document.querySelectorAll('.claims .group')].every(r => r.hidden)"]


def test_a_header_sorts_from_the_keyboard(browser, path):
    open_all(browser, path)
    browser["document.querySelector('.claims th button').focus()"]
    browser.press("Enter", 13)
    assert sorting(browser)[0] == "ascending"
    browser.press("Tab", 9)
    assert browser["document.activeElement.closest('th').cellIndex"] == 1


def test_one_verdict_can_be_shown_alone(browser, path):
    open_all(browser, path)
    choices = browser["[...document.querySelectorAll('.counts button')].map(b => b.innerText)"]
    direction = ["reproduced 2", "differs 4", "inconclusive 2"]
    unmeasured = ["not testable here 2", "not run 2"]
    size = ["reproduced 2", "differs 4"]
    assert choices == ["all 12", "headlines 2", *direction, *unmeasured, *size, *unmeasured]
    pressed = "[...document.querySelectorAll('.counts button')].map(b => b.ariaPressed)"
    for place, name in ((3, "direction"), (8, "size")):
        click(browser, ".counts button", place)
        assert browser[f"{SHOWN}.map(r => r.dataset.{name})"] == ["differs"] * 4
        assert [i for i, one in enumerate(browser[pressed]) if one == "true"] == [place]
        assert "4 of 12" in browser["document.getElementById('claims-status').textContent"]
    click(browser, ".counts button", 1)
    assert len(browser[f"{SHOWN}.map(r => r.dataset.size)"]) == 2
    click(browser, ".counts button", 0)
    assert len(browser[f"{SHOWN}.map(r => r.dataset.size)"]) == 12


def test_a_hostile_token_neither_runs_nor_breaks_the_page(browser, path):
    open_all(browser, path)
    assert browser["document.title"] == "rockstudy: here"
    assert browser["document.querySelectorAll('main > section').length"] == 3
    assert browser["document.querySelectorAll('script').length"] == 1
    assert browser["[...document.querySelectorAll('.claims tr')].every(r => r.cells.length > 0)"]
    text = browser["document.body.innerText"]
    assert "<script>document.title='owned'</script>" in text  # shown as the text that it is
    assert "\u202e" not in text and "[U+202E]" in text


def test_a_script_that_is_not_the_pages_own_is_refused(browser, path):
    browser.open(path)
    browser[
        """(() => {
      const added = document.createElement("script");
      added.textContent = "document.title = 'owned'";
      document.body.append(added);
    })()"""
    ]
    assert browser["document.title"] == "rockstudy: here"
    assert any("Content Security Policy" in text for text in browser.complaints())


def test_a_figure_is_enlarged_and_left_by_the_keyboard(browser, path):
    open_all(browser, path)
    opened = "document.querySelector('dialog').open"
    browser["document.querySelector('figure .drawn button').focus()"]
    browser.press("Enter", 13)
    assert browser[opened]
    first = browser["document.querySelector('dialog').ariaLabel"]
    browser.press("ArrowRight", 39)
    assert (first, browser["document.querySelector('dialog').ariaLabel"]) == (
        "Figure 1",
        "Figure 2",
    )
    assert browser["document.querySelector('dialog img').getBoundingClientRect().width"] > 700
    browser.press("Escape", 27)
    assert not browser[opened]
    browser.wait_for("document.activeElement.ariaLabel?.startsWith('enlarge Figure 2')", 5)
    assert browser.complaints() == []


def test_a_link_opens_the_folded_part_that_it_names(browser, path):
    browser.open(path)
    assert not browser["document.getElementById('01_first').open"]
    browser["document.querySelector('nav a[href=\"#01_first\"]').click()"]
    browser.wait_for("document.getElementById('01_first').open", 5)


def test_no_formula_is_clipped(browser, path):
    open_all(browser, path)
    blocks = "[...document.querySelectorAll('[display=block]')]"
    found = browser[f"{blocks}.map(m => [m.scrollHeight, m.clientHeight])"]
    assert found and all(inside <= around for inside, around in found)


def test_a_printed_page_keeps_claims_strips_and_table_heads(browser, path):
    browser.open(path)
    browser("Emulation.setEmulatedMedia", media="print")
    style = "getComputedStyle(document.querySelector({!r})).{}"
    assert browser[style.format("table.claims thead", "display")] == "table-header-group"
    assert browser[style.format("table.claims tr", "breakInside")] == "avoid"
    assert browser[style.format(".strip i", "printColorAdjust")] == "exact"
    assert browser[style.format("nav", "display")] == "none"
    browser["document.querySelectorAll('details').forEach(part => { part.open = true; })"]
    wide = "document.querySelector('.cards.claims {}').clientWidth"
    assert browser[wide.format("tbody td:first-child")] > 0.4 * browser[wide.format("tbody")]
    printed = browser("Page.printToPDF", printBackground=False)["data"]
    assert len(base64.b64decode(printed)) > 10_000
    browser("Emulation.setEmulatedMedia", media="")
