"""The claims table for reading: grouped, counted, shortened to its headlines, escaped."""

import math

import pandas as pd
import pytest
from bs4 import BeautifulSoup

from rockstudy import display
from rockstudy.report import listing

ROW = {
    "locator": "figure 2", "paper": 0.6, "value": 0.71649, "lo": 0.6842, "hi": 0.745,
    "unit": "prompts", "n": 500, "reason": "a rule", "preset": "lab",
}  # fmt: skip
GAP = {"value": math.nan, "lo": math.nan, "hi": math.nan, "n": 0, "unit": ""}


@pytest.fixture
def table() -> pd.DataFrame:
    rows = [
        ("02_a", "coverage", "Few types | carry much.", "differs", True, {}),
        ("02_a", "density", "Dense <b>.", "reproduced", False, {}),
        ("05_b", "pillars", "Some matter.", "not run", True, GAP),
    ]
    names = ("notebook", "claim", "statement", "verdict", "headline")
    return pd.DataFrame([ROW | dict(zip(names, row, strict=False)) | row[5] for row in rows])


def test_verdicts_are_counted_in_their_own_order(table):
    assert listing.summary(table) == "3 claims: 1 reproduced, 1 differ, 1 not run"
    assert listing.summary(table[:1]) == "1 claim: 1 differ"
    assert listing.summary(table[:0]) == "0 claims"


def test_lines_stand_below_their_notebook_and_are_counted_at_the_end(table):
    assert listing.lines(table) == [
        "02_a  (2 claims: 1 reproduced, 1 differ)",
        "  coverage: differs; paper 0.6, measured 0.716 [0.684, 0.745] over 500 prompts",
        "      Few types | carry much. (figure 2)",
        "      a rule",
        "  density: reproduced; paper 0.6, measured 0.716 [0.684, 0.745] over 500 prompts",
        "      Dense <b>. (figure 2)",
        "      a rule",
        "",
        "05_b  (1 claim: 1 not run)",
        "  pillars: not run; paper 0.6, measured –",
        "      Some matter. (figure 2)",
        "      a rule",
        "",
        "3 claims: 1 reproduced, 1 differ, 1 not run",
    ]
    assert listing.lines(table[:0]) == []


def test_markdown_holds_the_headlines_alone_and_counts_the_rest(table):
    assert listing.markdown(table) == [
        "| claim | paper | measured | sample | verdict |",
        "|---|---|---|---|---|",
        r"| Few types \| carry much. | 0.6 | 0.716 [0.684, 0.745] | 500 prompts | differs |",
        "| Some matter. | 0.6 | – |  | not run |",
        "",
        "2 of 3 claims: 1 reproduced, 1 differ, 1 not run.",
    ]


def test_html_folds_by_notebook_and_escapes_every_text(table):
    soup = BeautifulSoup(listing.tables(table)._repr_html_(), "html.parser")
    assert [one.get_text() for one in soup.find_all("summary")] == [
        "02_a: 2 claims: 1 reproduced, 1 differ",
        "05_b: 1 claim: 1 not run",
    ]
    assert soup.find("b") is None
    assert "Dense <b>." in soup.get_text()
    assert "No notebook" in listing.tables(table[:0])


def test_a_table_of_texts_is_shown_whole_and_escaped():
    long = "<i>" + "word " * 40
    soup = BeautifulSoup(display.whole(pd.DataFrame({"a": [long]})), "html.parser")
    assert soup.find("td").get_text().strip() == long.strip()
    assert soup.find("i") is None
