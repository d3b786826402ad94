"""Tables and numbers as a reader sees them: no machine notation, no formula, nothing hidden."""

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from IPython.core.interactiveshell import InteractiveShell

from rockstudy import display
from rockstudy.runs import open_run


def cells(html: str, tag: str = "td") -> list[str]:
    return [cell.get_text() for cell in BeautifulSoup(html, "html.parser")(tag)]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([5.366667e-01, 1 / 3, -0.0, np.nan], ["0.537", "0.333", "0", "–"]),
        ([0.5, 0.25, 1.0], ["0.50", "0.25", "1.00"]),
        ([2.0, 3.0, 1_000_000.0], ["2", "3", "1,000,000"]),
        ([0.25, 0.31, -0.0004], ["0.25", "0.31", "-0.0004"]),  # never -0.00
        ([123_456.7, 0.3], ["123,457", "0.3"]),
        ([5e-7, 3e-7, 0.0], ["5 × 10⁻⁷", "3 × 10⁻⁷", "0"]),
        ([np.inf, 1.5, -np.inf], ["∞", "1.5", "-∞"]),
        ([None, pd.NA], ["–", "–"]),
        ([], []),
    ],
)
def test_a_column_of_numbers_is_written_as_people_write_one(values, shown):
    assert display.numbers(values) == shown


def test_a_small_probability_is_below_a_thousandth_and_never_zero():
    assert display.numbers([0.0, 0.0004, 0.2, 1.0, None], "p") == [
        "< 0.001", "< 0.001", "0.200", "1.000", "–",
    ]  # fmt: skip
    assert display.numbers([0.0, 0.5], "paper_sign_p")[0] == "< 0.001"
    assert display.numbers([0.0, 7.5], "p")[0] == "0"  # no probability
    assert display.p_value(None) == "–"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.5366667, "0.537"), (12_345.6, "12,300"), (-0.0, "0"), (99_999, "100,000"), (1, "1"),
        (1.5e-5, "0.000015"), (1e-7, "1 × 10⁻⁷"), (3e20, "3 × 10²⁰"), (None, "–"), (np.inf, "∞"),
    ],
)  # fmt: skip
def test_a_number_alone_has_three_significant_digits_and_no_letter_e(value, shown):
    assert display.rounded(value) == shown


def test_numbers_stand_at_the_right_texts_at_the_left_and_headings_have_a_scope():
    frame = pd.DataFrame({"token": ["a", "b"], "count": [12_345, 2], "token_id": [12_345, 2]})
    found = BeautifulSoup(display.table(frame, "Types & more"), "html.parser")
    assert found.caption.get_text() == "Types & more"
    assert {head["scope"] for head in found("th")} == {"col"}
    first, count, name = found.tbody.tr("td")
    assert "left" in first["style"] and "right" in count["style"] and count["class"] == ["n"]
    assert (count.get_text(), name.get_text()) == ("12,345", "12345")  # an id is no quantity


def test_values_of_every_kind_have_a_reading():
    frame = pd.DataFrame(
        {
            "truth": [True, False],
            "list": [[1, 2], ("a",)],
            "mixed": ["a", 0.123456],
            "day": pd.to_datetime(["2026-01-02", None]),
            "kind": pd.Categorical(["x", None]),
            "whole": pd.array([1_000, None], dtype="Int64"),
            "seed": [1_000.0, None],
        }
    )
    rows = cells(display.table(frame))
    assert rows[:7] == ["yes", "1, 2", "a", "2026-01-02 00:00:00", "x", "1,000", "1000"]
    assert rows[7:] == ["no", "a", "0.123", "–", "–", "–", "–"]


def test_outer_levels_span_their_rows_and_columns():
    index = pd.MultiIndex.from_tuples([("u", 1), ("u", 2), ("v", 2)], names=["set", None])
    columns = pd.MultiIndex.from_product([["one", "two"], ["x", "y"]])
    frame = pd.DataFrame(np.arange(12).reshape(3, 4), index, columns)
    found = BeautifulSoup(display.table(frame), "html.parser")
    above = [(h.get_text(), h.get("colspan")) for h in found.thead.tr("th")]
    assert above == [("one", "2"), ("two", "2")]
    heads = [(h.get_text(), h.get("rowspan"), h["scope"]) for h in found.tbody("th")]
    outer, inner = ("u", "2", "rowgroup"), [("1", None, "row"), ("2", None, "row")]
    assert heads == [outer, *inner, ("v", None, "rowgroup"), inner[1]]
    assert cells(str(found.tbody)) == [str(i) for i in range(12)]


@pytest.mark.parametrize(
    "frame", [pd.DataFrame(), pd.DataFrame(index=["a"]), pd.DataFrame({"a": []})]
)
def test_an_empty_frame_is_a_table_too(frame):
    assert display.table(frame).startswith("<table")


def test_text_is_escaped_and_what_cannot_be_seen_is_visible():
    hostile = "<script>x</script>\u202e $x$ \n  y "
    shown = cells(display.table(pd.DataFrame({hostile: [hostile]}, index=[hostile]), hostile))
    assert shown == ["", "<script>x</script>[U+202E] $x$ ⏎␣␣y␣"]
    html = display.table(pd.DataFrame({hostile: [hostile]}, index=[hostile]), hostile)
    assert "<script>" not in html and "\u202e" not in html


def test_a_long_frame_shows_its_ends_and_how_many_rows_it_has():
    html = display.shown(pd.DataFrame({"a": range(100_000)}))
    assert len(html) < 10_000 and "100,000 rows" in html
    found = cells(html)
    assert found[0] == "0" and found[-1] == "99,999" and len(found) == display.ROWS


def test_the_plain_frame_of_a_fork_is_shown_by_our_table_and_not_typeset():
    shell = InteractiveShell.instance()
    try:
        open_run()
        data, _ = shell.display_formatter.format(pd.DataFrame({"token": ["$x$"], "p": [0.0]}))
    finally:
        InteractiveShell.clear_instance()
    assert "mathjax_ignore" in data["text/html"]
    assert cells(data["text/html"]) == ["$x$", "< 0.001"]


def test_a_styled_frame_is_escaped():
    open_run()
    assert "<b>" not in pd.DataFrame({"token": ["<b>x</b>"]}).style.to_html()


def test_sentences_are_paragraphs_and_items_with_hostile_tokens_as_they_are():
    hostile = "$x$ \\(a\\) <b>*"
    made = display.prose(f"The token  {hostile}\u202e costs most.", "", f"\n- {hostile}\n- two")
    found = BeautifulSoup(made._repr_html_(), "html.parser")
    (told,) = found("p")
    assert told.get_text() == f"The token␣␣{hostile}[U+202E] costs most."
    assert [item.get_text() for item in found("li")] == [hostile, "two"]
    assert found.b is None and {"mathjax_ignore", "tex2jax_ignore"} <= set(found.div["class"])


def test_sentences_are_plain_text_where_no_html_is_shown():
    from IPython.core.interactiveshell import InteractiveShell

    data, _ = InteractiveShell.instance().display_formatter.format(display.prose("One.", "Two."))
    assert data["text/plain"] == "One. Two."
    assert "<p>One. Two.</p>" in data["text/html"]


def test_cells_are_aligned_where_a_style_sheet_is_dropped():
    cells = "<td class='before'>a</td><td>b</td><th class='number'>1</th><td style='color: red'>c"
    found = BeautifulSoup(display.Html(f"<table><tr>{cells}")._repr_html_(), "html.parser")
    aligned = [cell["style"].removeprefix("text-align: ") for cell in found(["td", "th"])]
    assert aligned == ["right", "left", "right", "color: red"]
