"""The claims table for reading: grouped, counted, shortened to its headlines, escaped."""

import math

import pandas as pd
import pytest
from bs4 import BeautifulSoup

from rockstudy import display
from rockstudy.report import listing

ROW = {
    "locator": "figure 2", "paper": 0.6, "paper_lo": 0.56, "paper_hi": 0.64,
    "value": 0.71649, "lo": 0.6842, "hi": 0.745, "unit": "prompts", "n": 500,
    "reason": "a rule", "preset": "lab",
}  # fmt: skip
GAP = dict.fromkeys(("paper", "paper_lo", "paper_hi", "value", "lo", "hi"), math.nan)
ALL = "3 findings; direction: 1 reproduced, 1 not run; size: 1 reproduced, 1 differ"
NUMBERS = "paper 0.6 [0.56, 0.64], measured 0.716 [0.684, 0.745] over 500 prompts"

HOLDS = "Few | carry (0.716 [0.684, 0.745]; the paper: 0.6 [0.56, 0.64], another size)."


@pytest.fixture
def table() -> pd.DataFrame:
    rows = [
        ("02_a", "finding", "coverage", "Few | carry.", "reproduced", "differs", True, {}),
        ("02_a", "check", "match", "They match.", "passed", "", False, {}),
        ("02_a", "finding", "density", "Dense <b>.", "", "reproduced", False, {}),
        ("02_a", "shown", "types", "Types.", "", "", False, {}),
        ("05_b", "finding", "pillars", "Some.", "not run", "", True, GAP | {"n": 0, "unit": ""}),
    ]
    names = ("notebook", "kind", "claim", "statement", "direction", "size", "headline")
    return pd.DataFrame([ROW | dict(zip(names, row, strict=False)) | row[7] for row in rows])


def test_verdicts_on_direction_and_size_are_counted_apart_in_their_own_order(table):
    assert listing.summary(table) == ALL
    assert listing.summary(table[:1]) == "1 finding; direction: 1 reproduced; size: 1 differ"
    assert listing.summary(table[:0]) == "0 findings"


def test_a_check_that_failed_is_counted_beside_the_findings(table):
    failed = table.assign(direction=table.direction.replace("passed", "failed"))
    assert listing.summary(failed) == f"{ALL}; 1 of 1 checks failed"


def test_findings_alone_are_counted_by_notebook(table):
    counts = listing.verdicts_by_notebook(table)
    assert counts.index.tolist() == ["02_a", "05_b", "all"]
    assert counts.loc["02_a", ("direction", "reproduced")] == 1
    assert counts.loc["all", "direction"].sum() == counts.loc["all", "size"].sum() == 2
    assert listing.verdicts_by_notebook(table[:0]).loc["all"].sum() == 0


def test_lines_stand_below_their_notebook_and_kind_and_are_counted_at_the_end(table):
    assert listing.lines(table) == [
        "02_a  (2 findings; direction: 1 reproduced; size: 1 reproduced, 1 differ)",
        "  findings",
        f"  coverage: direction reproduced, size differs; {NUMBERS}",
        "      Few | carry. (figure 2)",
        "      a rule",
        f"  density: size reproduced; {NUMBERS}",
        "      Dense <b>. (figure 2)",
        "      a rule",
        "  numbers without a verdict",
        f"  types; {NUMBERS}",
        "      Types. (figure 2)",
        "      a rule",
        "  checks of this study",
        f"  match: passed; {NUMBERS}",
        "      They match. (figure 2)",
        "      a rule",
        "",
        "05_b  (1 finding; direction: 1 not run)",
        "  findings",
        "  pillars: direction not run; paper –, measured –",
        "      Some. (figure 2)",
        "      a rule",
        "",
        ALL,
    ]
    assert listing.lines(table[:0]) == []


def test_markdown_holds_the_headlines_alone_and_counts_the_rest(table):
    assert listing.markdown(table) == [
        *("**What holds in this run**", "", f"- {HOLDS}", ""),
        *("**What was not run**", "", "- Some (a rule).", ""),
        "| finding | paper | measured | sample | direction | size |",
        "|---|---|---|---|---|---|",
        r"| Few \| carry. | 0.6 [0.56, 0.64] | 0.716 [0.684, 0.745] | 500 prompts "
        "| reproduced | differs |",
        "| Some. | – | – | – | not run | – |",
        "",
        f"2 of {ALL}.",
    ]


def test_headlines_are_told_in_words_by_what_the_run_says_of_them(table):
    told = {"What holds in this run": [HOLDS], "What was not run": ["Some (a rule)."]}
    assert listing.in_words(table) == told
    assert listing.in_words(table[:0]) == {}
    within = listing.in_words(table.assign(size=""))["What holds in this run"]
    assert within == [HOLDS.replace(", another size", "")]


def test_html_folds_several_notebooks_and_escapes_every_text(table):
    soup = BeautifulSoup(listing.tables(table)._repr_html_(), "html.parser")
    assert [one.get_text() for one in soup.find_all("summary")] == [
        "02_a: 2 findings; direction: 1 reproduced; size: 1 reproduced, 1 differ",
        "05_b: 1 finding; direction: 1 not run",
    ]
    assert soup.find("b") is None
    assert "Dense <b>." in soup.get_text()
    assert not soup.select("details[open]")
    assert "No claim is recorded" in listing.tables(table[:0])


def test_the_claims_of_one_notebook_lie_open_findings_first(table):
    soup = BeautifulSoup(listing.tables(table[:4]), "html.parser")
    assert len(soup.select("details[open]")) == 1
    kinds = [one.get_text() for one in soup.select("tbody th")]
    assert kinds == ["findings", "numbers without a verdict", "checks of this study"]
    first = [cell.get_text() for cell in soup.select("tbody td")][:5]
    numbers = ["0.6 [0.56, 0.64]", "0.716 [0.684, 0.745]500 prompts, lab"]
    assert first == ["Few | carry.figure 2", *numbers, "reproduced", "differs"]


def test_a_table_of_texts_is_shown_whole_and_escaped():
    long = "<i>" + " word" * 40
    soup = BeautifulSoup(display.table(pd.DataFrame({"a": [long]})), "html.parser")
    assert soup.find("td").get_text().strip() == long.strip()
    assert soup.find("i") is None
