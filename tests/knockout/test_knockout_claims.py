"""Each finding on frames whose answer is known, with the verdict that its rule gives by hand."""

import numpy as np
import pandas as pd
import pytest
import test_tables

from rockstudy.claims import paper, records
from rockstudy.knockout import claims as knockout_claims
from rockstudy.knockout import tables

ANSWERS = [4]
MODES = pd.DataFrame(
    [
        {"benchmark": "maths", "mode": mode, "delta": 0.0, "lo": -0.01, "hi": 0.02}
        | {"candidates": 3, "n": 90}
        for mode in ("naive", "reuse", "null")
    ]
)


def rows(base=0.5, modes=MODES, **changed) -> dict[str, dict]:
    chosen, changes, knockouts, screen = test_tables.everything(**changed)
    rng = np.random.default_rng(0)
    found = knockout_claims.of_screen(
        screen.assign(base=base),
        swaps=tables.swaps(changes, knockouts, rng),
        tested=tables.tests(changes, screen),
        matched=tables.against_controls(changes, screen, chosen, ANSWERS),
        modes=modes,
        digits=tables.digit_bans(changes, screen, chosen, rng),
    )
    for number, row in enumerate(found):
        records._claim(row, number)  # as notebooks record them
    named = {row["claim"]: row for row in found}
    assert len(named) == len(found)
    return named


def test_findings_checks_and_shown_numbers_are_few_and_apart():
    kinds = pd.Series({claim: row["kind"] for claim, row in rows().items()})
    assert kinds.value_counts().to_dict() == {"finding": 10, "shown": 2, "check": 3}
    assert set(kinds.index[kinds == "check"]) == {
        "null-knockout-maths", "reuse-naive", "digits-maths",
    }  # fmt: skip


def test_pillars_and_their_direction_are_judged_by_swaps_and_their_share_by_two_samples():
    named = rows(rock=-0.2)
    row = named["pillars-maths"]
    assert (row["direction"], row["size"]) == ("reproduced", "differs")  # 5 of 12 against 3.5%
    assert row["value"] >= 5 / 12 and row["paper"] == paper.number("pillar-share/MATH-500").value
    more = named["more-pillars"]
    assert more["direction"] == "reproduced" and more["value"] > 0.3 and more["lo"] > 0
    assert "by its sign test" in more["statement"]


def test_without_an_effect_nothing_is_said_to_be_found():
    named = rows()
    assert (
        named["pillars-maths"]["direction"] == named["more-pillars"]["direction"] == "inconclusive"
    )
    assert "of the 12 testable ones" in named["neutral-maths"]["reason"]


def test_more_stumbling_blocks_than_pillars_contradict_the_paper():
    assert rows(rock=0.2)["more-pillars"]["direction"] == "differs"


def test_rocks_are_redundant_where_their_controls_cost_more_and_not_where_they_cost_less():
    assert rows(rock=0.0, control=-0.2)["redundant-words"]["direction"] == "reproduced"
    named = rows(rock=-0.2, control=0.0)
    assert named["redundant-words"]["direction"] == "differs"
    assert "without answer-bearing" in named["redundant-words"]["statement"]
    assert rows(rock=0.0, control=0.0)["redundant-maths"]["direction"] == "inconclusive"


def test_that_nothing_survives_needs_power():
    row = rows(seed=1)["corrected-maths"]
    assert row["direction"] == "inconclusive"
    assert "which takes 0." in row["reason"]
    left = rows(rock=-0.2)["corrected-maths"]
    assert left["value"] > 0 and left["direction"] == "differs"


def test_the_same_pillars_on_both_benchmarks_are_not_disjoint():
    row = rows(rock=-0.2)["disjoint"]
    assert row["direction"] == "differs" and row["value"] >= 5 / 12
    assert rows(benchmarks=("maths",))["disjoint"]["direction"] == "not run"
    never = rows(rock=0.2)["disjoint"]
    assert never["direction"] == "not testable here" and "no pillar" in never["reason"]


def test_a_benchmark_where_nothing_is_right_has_no_verdict():
    named = rows(base=0.0)
    for claim in ("pillars-maths", "neutral-words", "redundant-maths"):
        assert named[claim]["direction"] == "not run" and "never right" in named[claim]["reason"]


def test_without_nulls_and_controls_their_findings_are_not_run():
    named = rows(null=False, modes=MODES[MODES["mode"] == "naive"])
    assert named["pillars-maths"]["direction"] == named["more-pillars"]["direction"] == "not run"
    assert not {"null-knockout-maths", "reuse-naive"} & set(named)


def test_a_null_off_zero_fails_and_digits_that_cost_nothing_fail():
    off = MODES.assign(lo=np.where(MODES["mode"] == "null", 0.001, -0.01))
    named = rows(modes=off)
    assert named["null-knockout-maths"]["direction"] == "failed"
    assert named["reuse-naive"]["direction"] == "passed"
    assert named["digits-maths"]["direction"] == "failed"
    assert rows(rock=-0.2)["digits-maths"]["direction"] == "passed"


def predicted(r, n=200, reliability=0.8):
    names = list(tables.PREDICTORS)
    values = np.zeros(len(names))
    values[0] = r
    of = {"predictor": names, "r": values, "lo": values - 0.1, "hi": values + 0.1, "n": n}
    table = pd.DataFrame(of | {"of": "D", "benchmark": "maths"})
    power = pd.DataFrame({"benchmark": ["maths"], "reliability": reliability})
    (row,) = knockout_claims.of_predictors(table, power, pd.DataFrame())
    return row


@pytest.mark.parametrize(
    ("r", "n", "reliability", "verdict"),
    [
        (0.05, 200, 0.8, "reproduced"),  # 90% interval of r over 0.89: [-0.08, 0.19]
        (0.05, 48, 0.8, "inconclusive"),  # [-0.22, 0.32]
        (0.05, 200, 0.1, "inconclusive"),
        (0.7, 200, 0.8, "differs"),
        (0.05, 200, 0.0, "inconclusive"),
        (0.05, 200, np.nan, "not run"),
        (np.nan, 200, 0.8, "reproduced"),  # the other eight are 0
    ],
)
def test_that_no_property_predicts_is_an_equivalence_over_what_a_perfect_one_would_reach(
    r, n, reliability, verdict
):
    assert predicted(r, n, reliability)["direction"] == verdict


def test_an_r_outside_the_margin_by_selection_alone_is_no_contradiction():
    """Largest of nine: its interval is widened before it contradicts."""
    assert predicted(0.4, 200, 1.0)["direction"] == "inconclusive"
    assert predicted(0.55, 200, 1.0)["direction"] == "differs"
