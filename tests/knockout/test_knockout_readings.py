"""Notebooks 05 and 06 in words: each reading for each way that a run can come out."""

import numpy as np
import pandas as pd
import pytest

from rockstudy.knockout import census, readings, tables

PILLAR, NEUTRAL, STUMBLING = census.CLASSES


def test_nulls_must_hold_0_and_reuse_stands_beside_naive():
    columns = ["benchmark", "mode", "delta", "lo", "hi", "tokens_vs_naive", "candidates", "n"]
    rows = [("b", "naive", -0.1, -0.2, 0.0, 1.0, 6, 100),
            ("b", "reuse", -0.09, -0.1, -0.08, 0.2, 6, 100),
            ("b", "null", 0.001, -0.01, 0.01, 0.1, 40, 100)]  # fmt: skip
    modes = pd.DataFrame(rows, columns=columns)
    told = readings.of_modes(modes)
    assert "holds 0, as it must" in told and "with 20% of the tokens" in told
    modes.loc[2, ["lo", "hi"]] = 0.005, 0.02
    assert "look into it" in readings.of_modes(modes)


def test_levels_are_told_apart_and_windows_are_named_for_what_they_are():
    rows = [("b", "token", 1, 1, 8, 0, -0.01), ("b", "window", 5, 6, 2, 1, -0.2)]
    levels = pd.DataFrame(
        rows, columns=["benchmark", "level", "banned", PILLAR, NEUTRAL, STUMBLING, "mean_delta"]
    )
    told = readings.of_levels(levels)
    assert "with one of 9 tokens banned there are 1 pillar and 0 stumbling blocks" in told
    assert "5 ids in the median" in told and "all these ids together" in told
    assert "all these ids" not in readings.of_levels(levels.assign(banned=1))


@pytest.mark.parametrize(
    ("lo", "hi", "told"),
    [(0.1, 0.2, "of a rock costs less"), (-0.2, -0.1, "of a rock costs more"),
     (-0.1, 0.2, "no difference is shown, and up to 0.200 is possible")],
)  # fmt: skip
def test_controls_are_read_by_their_interval(lo, hi, told):
    row = {"benchmark": "b", "pairs": "all", "rock": 0.0, "control": -0.1, "lo": lo, "hi": hi}
    row |= {"difference": (lo + hi) / 2, "rock_pillars": 1, "n_pairs": 5, "control_pillars": 3}
    assert told in readings.of_controls(pd.DataFrame([row | {"fisher": 0.2, "mcnemar": 1e-6}]))
    assert "nothing is compared" in readings.of_controls(pd.DataFrame())


def test_swaps_say_whether_an_effect_is_beyond_chance():
    def swaps(p):
        rows = [{"statistic": name, "observed": 2.0, "expected": 1.0, "lo": -1.0, "hi": 1.0}
                for name in ("mean", "sign", "strong", "pillars")]  # fmt: skip
        return pd.DataFrame(rows).assign(benchmark=tables.BOTH, candidates=9, p=p)

    assert "an effect is shown" in readings.of_swaps(swaps(0.01))
    assert "no effect is shown" in readings.of_swaps(swaps(0.5))
    assert "on both benchmarks" in readings.of_swaps(swaps(0.5))
    assert "no null knockouts" in readings.of_swaps(swaps(0.5).iloc[:0])


def test_a_null_is_reported_with_what_it_could_have_seen():
    row = {"benchmark": "b", "candidates": 9, "able": 8, "testable": 4}
    row |= {"detectable_median": 0.02, "detectable_corrected": 0.03}
    told = readings.of_reach(pd.DataFrame([row]))
    assert "0.020, and 0.030 after Bonferroni; smaller effects cannot be excluded" in told


def test_rejections_stand_beside_those_without_any_effect():
    exact = pd.DataFrame(census.multiplicity([0.001, 0.2, 0.3, 0.9])).rename(
        columns={"rejected": "exact"}
    )
    told = readings.of_tests(exact.assign(benchmark="b"))
    assert "1 of 4 exact tests reject at 0.05, and 0.2 would without any effect" in told
    assert "1 by Bonferroni and 1 by Benjamini-Hochberg at q = 0.2" in told


def test_the_largest_effects_are_named_and_called_too_large():
    named = pd.DataFrame({"benchmark": "b", "spelling": ["$", "x", "y"], "delta": [0.1, -0.3, 0]})
    told = readings.of_strongest(named)
    assert "⟦x⟧ (-0.300), ⟦$⟧ (+0.100)" in told and "larger than the true ones" in told


def test_the_largest_correlation_is_told_or_that_none_is_defined():
    table = pd.DataFrame({"predictor": ["ccr", "frequency"], "r": [0.1, -0.5], "p": [0.5, 0.001]})
    table = table.assign(benchmark="b", of="Delta", lo=-0.7, hi=-0.2, n=40)
    told = readings.of_correlations(table)
    assert "log10 of occurrences has the largest correlation with Delta, r = -0.50" in told
    assert "1 of them is beyond chance" in told
    assert "is defined" in readings.of_correlations(table.assign(r=np.nan, p=np.nan))


@pytest.mark.parametrize(
    ("reliability", "told"),
    [(0.9, "a property which matters would show"), (0.01, "says nothing about a property"),
     (np.nan, "without nulls")],
)  # fmt: skip
def test_reliability_decides_what_a_correlation_can_say(reliability, told):
    row = {"benchmark": "b", "candidates": 9, "reliability": reliability, "split_half": 0.5}
    assert told in readings.of_power(pd.DataFrame([row | {"largest_r": np.sqrt(reliability)}]))


def test_agreement_of_benchmarks_is_read_against_independence():
    found = {"first": 5, "second": 4, "both": 0, "expected": 2.0, "p": 0.01}
    together = pd.DataFrame([{"of": "D", "rho": 0.1, "lo": -0.2, "hi": 0.4, "n": 30}])
    assert "fewer than chance gives" in readings.of_agreement(found, together)
    assert "more than chance" in readings.of_agreement(found | {"both": 4}, together)
    told = readings.of_agreement(found | {"p": 0.6}, together)
    assert "as chance may give" in told and "rho = +0.10" in told


def test_the_followed_token_has_its_place_among_the_candidates():
    table = pd.DataFrame({"target": [1, 2, 3], "delta": [0.0, -0.2, 0.1], "lo": -0.1, "hi": 0.1})
    table = table.assign(spelling=["a", "b", "c"], benchmark="b", n_problems=50)
    for name in ("frequency", "rkl_post_mean", "entropy_teacher_mean"):
        table[name] = [3.0, 2.0, 1.0]
    told = readings.of_followed(table, 1)
    assert "the bans of 1 of the 2 other candidates cost more" in told
    assert "By occurrences it is number 1 of 3" in told
    assert "no candidate" in readings.of_followed(table, 9)
