"""Rocks against controls: coverage by simulation, exact tests against scipy."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from rockstudy.errors import StudyError
from rockstudy.knockout import matched


@pytest.mark.parametrize(("pair", "problem"), [(0, 0), (0.3, 0), (0, 0.3), (0.3, 0.3)])
def test_the_two_way_interval_covers_the_mean_as_often_as_it_says(pair, problem):
    rng, n, covered = np.random.default_rng(0), 1_000, 0
    for _ in range(n):
        cells = 0.2 + rng.normal(0, pair, (20, 1)) + rng.normal(0, problem, (1, 60))
        found = matched.two_way_mean(cells + rng.normal(0, 1, (20, 60)))
        covered += found["lo"] <= 0.2 <= found["hi"]
    assert 0.93 <= covered / n <= 0.98  # a component at 0 makes it a little wide


def test_with_pairs_that_agree_it_is_the_interval_of_problems():
    problems = np.random.default_rng(1).normal(0, 1, 40)
    found = matched.two_way_mean(np.tile(problems, (5, 1)))
    half = scipy.stats.t.ppf(0.975, 39) * scipy.stats.sem(problems)
    assert found["value"] == pytest.approx(problems.mean())
    assert found["hi"] - found["value"] == pytest.approx(half)
    assert (found["n"], found["unit"]) == (40, "problems x 5 pairs")


def test_no_change_has_an_interval_of_no_width_and_one_pair_is_refused():
    found = matched.two_way_mean(np.zeros((3, 4)))
    assert (found["value"], found["lo"], found["hi"]) == (0, 0, 0)
    with pytest.raises(StudyError, match="must be at least 2 of each; got 1 and 4"):
        matched.two_way_mean(np.zeros((1, 4)))


def test_pillars_of_both_sides_are_compared_exactly():
    kinds = {"P": "Strong Pillar", "N": "Neutral"}
    rocks, controls = (pd.Series([kinds[c] for c in text]) for text in ("NNNNNNPN", "PPPPPPPN"))
    found = matched.pillars(rocks, controls)
    assert (found["rock_pillars"], found["control_pillars"], found["pairs"]) == (1, 7, 8)
    assert found["fisher"] == pytest.approx(scipy.stats.fisher_exact([[1, 7], [7, 1]]).pvalue)
    assert found["mcnemar"] == pytest.approx(2 * 0.5**6)  # six pairs, all one way
    assert matched.pillars(rocks, rocks)["mcnemar"] == 1
