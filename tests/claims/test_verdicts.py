"""Verdicts follow from the numbers by their rules alone; every rule is walked through by hand."""

import math

import pytest

from rockstudy.claims import paper, verdicts
from rockstudy.intervals import Estimate

COVERAGE = "coverage/100"  # 0.60 in the paper
P_VALUE = {"rejected": "sign-p/both", "kept": "sign-p/IFEval"}  # 0.00195 and 0.25


def estimate(value, lo, hi):
    return Estimate(value, lo, hi, "prompts", 10, 100)


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        (estimate(0.55, 0.5, 0.61), "reproduced"),
        (estimate(0.55, 0.5, 0.59), "differs"),
        (estimate(0.9, 0.8, 0.95), "differs"),
        ({"value": 0.65, "unit": "types", "n": 3}, "reproduced"),  # within a tenth: 0.54 to 0.66
        ({"value": 0.67, "unit": "types", "n": 3}, "differs"),
        ({"value": 0.65, "lo": math.nan, "hi": math.nan}, "reproduced"),
        ({"value": math.nan, "lo": math.nan, "hi": math.nan}, "not run"),
    ],
)
def test_a_number_is_reproduced_where_the_interval_holds_it(measured, verdict):
    row = verdicts.holds("id", "words", COVERAGE, measured)
    assert (row["verdict"], row["paper"]) == (verdict, 0.6)
    assert row["reason"]


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((0.8, 0.95), "reproduced"), ((0.6, 0.8), "inconclusive"), ((0.5, 0.6), "differs")],
)
def test_a_lower_bound_is_reproduced_above_it(interval, verdict):
    measured = estimate(sum(interval) / 2, *interval)
    assert verdicts.exceeds("id", "words", "jaccard-to-cutoff", measured)["verdict"] == verdict


@pytest.mark.parametrize(
    ("interval", "positive", "verdict"),
    [
        ((0.1, 0.2), True, "reproduced"),
        ((-0.1, 0.2), True, "inconclusive"),
        ((-0.2, -0.1), True, "differs"),
        ((0.0, 0.2), True, "inconclusive"),
        ((-0.2, -0.1), False, "reproduced"),
        ((-0.1, 0.2), False, "inconclusive"),
        ((0.1, 0.2), False, "differs"),
        ((math.nan, math.nan), True, "inconclusive"),
    ],
)
def test_a_direction_is_reproduced_on_its_side_of_zero(interval, positive, verdict):
    measured = {"value": 0.1, "lo": interval[0], "hi": interval[1], "unit": "problems", "n": 5}
    row = verdicts.sign("id", "words", None, measured, positive=positive, locator="somewhere")
    assert (row["verdict"], row["locator"]) == (verdict, "somewhere")
    assert "paper" not in row


@pytest.mark.parametrize(
    ("theirs", "p", "same_side", "verdict"),
    [
        ("rejected", 0.01, True, "reproduced"),
        ("rejected", 0.01, False, "differs"),
        ("rejected", 0.2, True, "inconclusive"),
        ("kept", 0.2, True, "reproduced"),
        ("kept", 0.01, True, "differs"),
    ],
)
def test_tests_are_compared_by_their_conclusion(theirs, p, same_side, verdict):
    measured = {"value": p, "unit": "candidates", "n": 10}
    row = verdicts.concludes("id", "words", P_VALUE[theirs], measured, same_side=same_side)
    assert row["verdict"] == verdict


def test_counts_are_compared_exactly():
    rows = [
        verdicts.equals("id", "words", "fdr-survivors/IFEval", {"value": n, "unit": "tests"})
        for n in (0, 1)
    ]
    assert [row["verdict"] for row in rows] == ["reproduced", "differs"]


def test_what_cannot_be_compared_is_shown_without_a_verdict_and_says_why():
    measured = {"value": 0.5, "unit": "problems", "n": 100}
    row = verdicts.shown("id", "words", "base-accuracy/IFEval", measured, "another benchmark")
    assert (row["verdict"], row["paper"], row["value"]) == ("inconclusive", 0.752, 0.5)
    assert row["reason"] == "not judged: another benchmark"


def test_what_was_not_run_says_why_and_where_the_paper_says_it():
    row = verdicts.not_run("id", "words", COVERAGE, "no rocks here", headline=True)
    assert row == {
        "claim": "id",
        "statement": "words",
        "locator": paper.number(COVERAGE).where,
        "paper": 0.6,
        "verdict": "not run",
        "reason": "no rocks here",
        "headline": True,
    }


def test_a_share_has_wilsons_interval():
    found = verdicts.share(7, 200, "candidates")
    z, n, p = 1.959963984540054, 200, 0.035
    centre, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = ((centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n))
    assert (found["lo"], found["hi"]) == pytest.approx(expected)
    assert verdicts.share(0, 10, "x")["lo"] == 0
    assert verdicts.share(10, 10, "x")["hi"] == 1
