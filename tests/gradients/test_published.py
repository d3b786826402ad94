"""Readings of early against late means, on the paper's points and on data with a known truth."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from rockstudy.claims import paper
from rockstudy.gradients import published


@pytest.fixture(scope="module")
def theirs():
    return published.figure_types()


def test_the_papers_points_give_the_papers_numbers(theirs):
    table = published.changes(theirs, np.random.default_rng(0)).set_index("group")
    assert set(table.index) == set(paper.labelled("persistence"))
    for group, row in table.iterrows():
        known = paper.number(f"persistence/{group}")
        assert row.relative == pytest.approx(known.value, abs=5e-4)
        assert (row.relative_lo, row.relative_hi) == pytest.approx((known.lo, known.hi), abs=0.04)
        assert row.n == known.n
        assert row.early == pytest.approx(paper.number(f"kl-early/{group}").value, abs=1e-4)
        assert row.n_fall / row.n == pytest.approx(
            paper.number(f"persistence-falls/{group}").value, abs=1e-4
        )
        some = theirs[theirs.group == group]
        assert row.wilcoxon_p == scipy.stats.wilcoxon(some.late, some.early).pvalue
        assert row.wilcoxon_p == pytest.approx(
            paper.number(f"persistence-p/{group}").value, rel=0.01
        )


def test_the_papers_random_types_regress_to_their_mean(theirs):
    table = published.regression_to_the_mean(theirs, np.random.default_rng(0)).set_index("types")
    random = table[table.index.str.startswith("random")]
    assert random.n.sum() == (theirs.group == "random").sum()
    for name, label in (
        ("below 0.1", "below-0.1"),
        ("0.3 to 1", "0.3-to-1"),
        ("from 1", "above-1"),
    ):
        row, known = table.loc[f"random, early {name}"], paper.number(f"persistence-random/{label}")
        assert (row.n, row.relative) == (known.n, pytest.approx(known.value, abs=1e-3))


def _corpus(rng, fall):
    """A thousand types whose means are measured twice with noise; high-KL ones fall besides."""
    truth = rng.normal(2.0, 0.4, 1_000)
    early, late = truth + rng.normal(scale=0.4, size=(2, 1_000))
    order = np.argsort(-early)
    high, random = order[:50], rng.permutation(order[50:])[:200]
    late[high] *= 1 - fall
    frame = pd.DataFrame({"early": early, "late": late, "group": ""})
    return frame.iloc[np.append(high, random)].assign(group=["high-KL"] * 50 + ["random"] * 200)


@pytest.mark.parametrize("fall", [0.0, 0.2])
def test_what_selection_explains_is_told_from_a_fall_of_its_own(fall):
    rng, inside = np.random.default_rng(0), 0
    for _ in range(20):
        table = published.regression_to_the_mean(_corpus(rng, fall), rng)
        rows = table.set_index("types")
        beyond, line = rows.loc["beyond the line"], rows.loc["high-KL by the line"]
        inside += beyond.relative_lo <= -fall * (1 + line.relative) <= beyond.relative_hi
        assert rows.relative["high-KL"] < -0.1  # selection alone lowers them
    assert inside >= 16
    words = "more than selection explains" if fall else "selection may explain all of it"
    assert words in published.in_words(table)


def test_the_line_is_that_of_scipy(theirs):
    table = published.regression_to_the_mean(theirs, np.random.default_rng(0)).set_index("types")
    random, high = (theirs[theirs.group == name] for name in ("random", "high-KL"))
    line = scipy.stats.linregress(random.early, random.late)
    median = high.early.median()
    expected = table.loc["high-KL by the line"]
    assert expected.late == pytest.approx(line.intercept + line.slope * median)
    assert expected.relative == pytest.approx(expected.late / median - 1)
    known = paper.number("persistence/high-KL")
    assert table.relative["high-KL"] == pytest.approx(known.value, abs=5e-4)
    assert random.early.max() < high.early.min()  # the line is extrapolated, as the module tells
