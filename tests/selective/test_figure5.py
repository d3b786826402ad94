"""The paper's figure 5: counts, intervals by closed forms, p-values computed elsewhere."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from rockstudy.claims import paper, verdicts
from rockstudy.selective import figure5


@pytest.fixture(scope="module")
def points() -> pd.DataFrame:
    return paper.points("figure5")


def test_curves_are_shares_of_the_problems_with_wilsons_interval(points):
    table = figure5.curves(points)
    assert set(table["arm"]) == {"baseline", "rock-freeze", "random-windows"} and len(table) == 24
    z = scipy.stats.norm.ppf(0.975)
    for row in table.itertuples():
        p, n = row.correct / 90, 90
        centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
        assert (row.value, row.lo, row.hi) == pytest.approx((p, centre - half, centre + half))


def test_final_differences_are_those_of_fishers_test_and_newcombes_interval(points):
    table = figure5.differences(points)
    assert table.difference.tolist() == [-1, -13, 12]
    assert table.p.tolist() == pytest.approx([1.0, 0.073, 0.10], abs=0.005)
    final = figure5.curves(points).query("step == 1500").set_index("arm")
    for row in table.itertuples():
        ours, theirs = (final.loc[name, ["value", "lo", "hi"]] for name in (row.arm, row.against))
        expected = verdicts.two_samples(*ours, *theirs)
        assert (row.value, row.lo, row.hi) == pytest.approx(expected)


def test_the_reading_tells_that_no_difference_is_shown(points):
    lines = figure5.reading(figure5.differences(points)).splitlines()
    assert len(lines) == 3 and all("shows no difference" in line for line in lines)
    apart = pd.DataFrame(
        {"regime": list(figure5.ARMS), "step": 1, "correct": [60, 60, 10], "problems": 90}
    )
    lines = figure5.reading(figure5.differences(apart)).splitlines()
    assert ["shows a" in line for line in lines] == [False, True, True]
    assert "-50 of 90 problems" in lines[1]
