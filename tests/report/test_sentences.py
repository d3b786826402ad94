"""Five findings as sentences: their words follow the interval and the verdict."""

import pandas as pd
import pytest

from rockstudy import runs
from rockstudy.claims import records
from rockstudy.report import sentences

ROW = {"claim": "opd-accuracy-rises", "headline": True, "statement": "", "unit": "problems"}
ROW |= {"n": 500, "direction": "reproduced", "paper": None, "paper_lo": None, "paper_hi": None}


def told(**values) -> str:
    frame = pd.DataFrame([ROW | values]).astype({"paper": float, "value": float})
    (sentence,) = sentences.five(frame)
    return str(sentence)


@pytest.mark.parametrize(
    ("interval", "direction", "expected"),
    [
        ((0.126, 0.085, 0.166), "reproduced", "raises the student's accuracy by 12.6 points [8.5,"),
        ((-0.126, -0.166, -0.085), "differs", "lowers the student's accuracy by 12.6 points [8.5,"),
        ((0.01, -0.02, 0.04), "inconclusive", "by 1.0 points [-2.0, 4.0], which may be nothing"),
    ],
)
def test_the_words_follow_the_interval(interval, direction, expected):
    value, lo, hi = interval
    sentence = told(value=value, lo=lo, hi=hi, direction=direction)
    assert expected in sentence
    words = {"reproduced": "which agrees with the paper's claim of a rise ("}
    words |= {"differs": "which contradicts the paper's claim of a rise ("}
    assert words.get(direction, "which decides nothing here") in sentence
    assert sentence.endswith("(500 problems).")


def test_the_papers_number_has_the_same_sign_and_unit():
    values = {"value": -0.05, "lo": -0.08, "hi": -0.01, "paper": -0.01}
    values |= {"paper_lo": -0.15, "paper_hi": 0.13, "direction": "differs"}
    sentence = told(claim="rock-freeze-keeps-accuracy", **values)
    assert "lowers the accuracy by 5.0 points [1.0, 8.0], which contradicts the" in sentence
    assert "the paper's claim that it keeps the accuracy (" in sentence
    assert sentence.endswith("(500 problems; the paper: 1.0 points [-13.0, 15.0]).")


def test_a_verdict_on_the_size_alone_speaks_of_no_claim():
    values = {"value": 0.1, "lo": 0.08, "hi": 0.12, "paper": 0.18}
    values |= dict.fromkeys(("paper_lo", "paper_hi"), float("nan"))
    sentence = told(**values, direction="", size="differs")
    assert ", against the paper (" in sentence and "claim" not in sentence


def test_an_interval_that_holds_zero_is_called_neither_persistence_nor_equality():
    values = {"value": -0.05, "lo": -0.6, "hi": 0.5, "direction": "inconclusive"}
    for claim in ("persistence-rock", "redundant-lab_math"):
        sentence = told(claim=claim, **values)
        assert "persists" not in sentence and "as much" not in sentence
        assert "[-60.0, 50.0], which" in sentence  # may be nothing, or decides nothing


def test_what_a_run_has_not_measured_has_no_sentence():
    rows = [ROW | {"value": float("nan"), "lo": 0.0, "hi": 0.0}, ROW | {"value": 1, "claim": "x"}]
    assert sentences.five(pd.DataFrame(rows)) == []


def test_sizes_stand_in_lines_under_the_numbers_of_their_questions():
    rows = [
        ROW | {"claim": "rock-freeze-keeps-accuracy", "direction": "differs"},
        ROW | {"direction": "", "size": "differs"},
        ROW | {"claim": "persistence-rock", "value": float("nan")},
    ]
    numbers = {"value": -0.05, "lo": -0.08, "hi": -0.01}
    found = sentences.sizes(pd.DataFrame([numbers | row for row in rows]))
    assert found[2:] == [
        "| 1 | -5.0 points [-8.0, -1.0] | differs |",
        "| 5 | -5.0 points [-8.0, -1.0] | differs |",
    ]
    assert sentences.sizes(pd.DataFrame([ROW | numbers | {"claim": "x"}])) == []


def test_the_lab_has_five():
    told = [*map(str, sentences.five(records.read_claims(runs.reference_dir("lab"))))]
    assert len(told) == 5
    assert all(sentence[0].isupper() and sentence.endswith(".") for sentence in told)
