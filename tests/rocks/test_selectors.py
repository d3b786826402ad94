"""Selectors against values worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from rockstudy.errors import StudyError
from rockstudy.rocks import selectors
from rockstudy.rocks.token_set import TokenSet

TOKENS = pd.DataFrame(
    {
        "token_id": [1, 1, 1, 1, 2, 2, 3, 4, 4, 5],
        "entropy_post": [0.1, 0.2, 0.3, 0.4, 2.0, 0.1, 3.0, 0.5, 0.5, 0.0],
        "rkl_post": [1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 9.0, 2.0, 4.0, 0.0],
        "entropy_teacher": [0.0, 0.0, 0.0, 0.0, 5.0, 1.0, 9.0, 2.0, 2.0, 0.0],
    }
)


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("frequency", {1: 4, 2: 2, 3: 1, 4: 2, 5: 1}),
        ("forking", {1: 0, 2: 1, 3: 1, 4: 0, 5: 0}),  # 2 of 10 positions are above the quantile
        ("rkl", {1: 1.0, 2: 0.1, 4: 3.0}),  # single occurrences are left out
        ("tip", {1: 0.25, 2: 0.105, 4: 1.5}),
        ("entropy_teacher", {1: 0.0, 2: 3.0, 4: 2.0}),
    ],
)
def test_a_selector_ranks_by_its_number(selector, expected):
    found = selectors.SELECTORS[selector](TOKENS)
    assert {int(i): pytest.approx(float(v), rel=1e-6) for i, v in found.items()} == expected


def test_every_selector_gives_a_set_of_the_size_that_is_asked_for():
    for selector in selectors.SELECTORS:
        found = selectors.select(TOKENS, selector, 2)
        assert isinstance(found, TokenSet) and len(found) == 2
    assert selectors.select(TOKENS, "frequency", 2).ids == (1, 2)  # of equals the smaller id


@pytest.mark.parametrize("k", [0, 4])
def test_more_types_than_there_are_are_refused(k):
    with pytest.raises(StudyError, match=r"k: must be from 1 to 3, .* got"):
        selectors.select(TOKENS, "rkl", k)


def test_an_unknown_selector_is_refused_with_the_legal_ones():
    with pytest.raises(StudyError, match=r"selector: must be one of forking, tip, .* got 'tipp'"):
        selectors.select(TOKENS, "tipp", 2)


def test_overlap_is_symmetric_with_ones_on_its_diagonal():
    sets = [selectors.select(TOKENS, name, 2) for name in ("frequency", "rkl", "tip")]
    table = selectors.overlap(sets)
    assert (np.diag(table) == 1).all() and np.array_equal(table, table.T)
    assert table.loc["frequency", "rkl"] == pytest.approx(1 / 3)
