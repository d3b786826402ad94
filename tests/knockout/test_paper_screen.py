"""The paper's figure 4 against what its text and its p-values give by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from rockstudy.knockout import paper_screen


def test_a_screen_of_noise_alone_has_its_noise_and_no_reliability():
    """200 candidates, 36 problems of 500 differ in each; half of that noise is the baseline's."""
    rng = np.random.default_rng(0)
    shared, own = rng.binomial(18, 0.5, 1) * 2 - 18, rng.binomial(18, 0.5, 5_000) * 2 - 18
    bars = own + shared
    p = 2 * norm.sf(abs(bars.min()) / 6)
    points = pd.DataFrame({"benchmark": "b", "delta_correct": bars, "problems": 500})
    (found,) = paper_screen.implied(points, {"b": p}).itertuples()
    assert found.discordant == pytest.approx(36, abs=3)
    assert found.noise == pytest.approx(np.sqrt(18) / 500, rel=0.05)
    assert found.reliability < 0.1
    assert found.z_shared == pytest.approx(shared[0] / np.sqrt(18), rel=0.1)


def test_the_papers_own_figure_is_noise_around_one_shared_baseline():
    table = paper_screen.of_paper().set_index("benchmark")
    maths, other = table.loc["MATH-500"], table.loc["IFEval"]
    assert (maths.below, maths.zero, maths.above, maths.candidates) == (164, 11, 25, 200)
    assert (other.below, other.zero, other.above) == (160, 14, 26)
    # by hand: lowest bars of -17 and -12, p = 0.0038 and 0.0016, so z = 2.89 and 3.16
    assert maths.discordant == pytest.approx((17 / 2.894) ** 2 + 17**2 / 500, abs=0.1)
    assert other.discordant == pytest.approx((12 / 3.156) ** 2 + 12**2 / 541, abs=0.1)
    assert maths.noise == pytest.approx(0.0084, abs=1e-4) and maths["sd"] == pytest.approx(
        0.00835, abs=1e-5
    )
    assert (table.reliability_lo == 0).all() and table.reliability.max() < 0.12
    assert table.z_shared.between(-1.2, -0.9).all()
    told = paper_screen.reading(table.reset_index())
    assert "4.5% of the right answers" in told  # 17 / 500 over 0.75
