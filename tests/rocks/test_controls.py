"""The assignment against enumeration, refusals with their figures, shares by hand."""

import itertools

import numpy as np
import pandas as pd
import pytest

from rockstudy.errors import StudyError
from rockstudy.rocks.controls import assign, enrichment, match

Z = 1.959964


def observed(counts, first_id=0):
    return pd.DataFrame({"token_id": np.arange(len(counts)) + first_id, "count": counts})


def smallest_total(rocks, pool):
    """Smallest total |log ratio| over every ordered choice of controls."""
    return min(
        np.abs(np.log(np.array(choice) / rocks)).sum()
        for choice in itertools.permutations(pool, len(rocks))
    )


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("n_rocks", "n_pool"), [(1, 4), (3, 3), (3, 6), (4, 6)])
def test_no_permutation_has_a_smaller_total_than_the_assignment(n_rocks, n_pool, seed):
    rng = np.random.default_rng(seed)
    counts = np.ceil(np.exp(rng.uniform(0, 6, n_rocks + n_pool))).astype(int)
    rocks = rng.choice(len(counts), n_rocks, replace=False)
    pairs = assign(observed(counts), rocks).pairs
    pool = np.delete(counts, rocks)
    assert pairs["log_ratio"].abs().sum() == pytest.approx(smallest_total(counts[rocks], pool))
    assert pairs["token_id_rock"].tolist() == rocks.tolist()
    assert pairs["token_id_control"].is_unique
    assert not set(pairs["token_id_control"]) & set(rocks)
    assert pairs["count_rock"].tolist() == counts[rocks].tolist()
    assert pairs["count_control"].tolist() == counts[pairs["token_id_control"]].tolist()
    ratio = pairs["count_control"] / pairs["count_rock"]
    assert np.allclose(pairs["log_ratio"], np.log(ratio))


def test_of_equally_good_pairings_the_one_in_order_of_frequency_is_taken():
    pairs = assign(observed([10, 100, 5, 1]), [0, 1]).pairs
    assert pairs["count_control"].tolist() == [1, 5]
    assert assign(observed([100, 10, 1, 5]), [0, 1]).pairs["count_control"].tolist() == [5, 1]


def test_the_order_of_rows_does_not_change_the_match():
    types = observed(np.random.default_rng(0).integers(1, 20, 60))
    shuffled = types.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(assign(types, range(10)).pairs, assign(shuffled, range(10)).pairs)


def test_excluded_types_are_no_controls():
    types = observed([100, 100, 90, 80])
    assert assign(types, [0]).pairs["token_id_control"].tolist() == [1]
    assert assign(types, [0], exclude=[1, 999]).pairs["token_id_control"].tolist() == [2]


def test_ratios_of_a_match_by_hand():
    matched = match(observed([100, 60, 10, 80, 30, 11]), [0, 1, 2])
    # by frequency: 100-80, 60-30, 10-11
    assert matched.total_ratio == pytest.approx(121 / 170)
    assert matched.median_ratio == pytest.approx(100 / 80)
    assert matched.worst_ratio == pytest.approx(2)
    assert str(matched) == (
        "3 pairs: the controls occur 0.712 times as often as the rocks;"
        " the median pair differs by a factor of 1.25, the worst by 2"
    )


def test_a_pool_that_is_much_rarer_is_refused_with_its_figures():
    types = observed([1000, 800, 20, 10, 25, 30])
    with pytest.raises(StudyError) as error:
        match(types, [0, 1, 2])
    assert str(error.value) == (
        "controls: must match the rocks' frequency within a factor of 2; 2 do not, of 3 pairs:"
        " the controls occur 0.0357 times as often as the rocks;"
        " the median pair differs by a factor of 32, the worst by 33.3;"
        " take fewer rocks or a larger corpus"
    )
    assert match(types, [0, 1, 2], tolerance=33).worst_ratio == pytest.approx(100 / 3)


def test_one_frequent_rock_without_a_match_is_refused_by_the_total():
    counts = [10_000, 10, 10, 10, 10, 10, 10, 10]
    with pytest.raises(StudyError, match=r"1 do not, of 3 pairs: the controls occur 0\.00299 "):
        match(observed(counts), [0, 1, 2])


def test_a_bad_median_is_refused_even_where_the_total_agrees():
    types = observed([1000, 10, 10, 1000, 100, 100])
    assert 0.5 < assign(types, [0, 1, 2]).total_ratio < 2
    with pytest.raises(StudyError, match="2 do not, of 3 pairs"):
        match(types, [0, 1, 2])


@pytest.mark.parametrize(
    ("types", "rocks", "message"),
    [
        (observed([5, 5, 5]), [0, 1], "candidates as rocks; got 1 candidates for 2 rocks"),
        (observed([5, 5, 5]), [], "rock_ids: must be distinct ids .* got 0 ids"),
        (observed([5, 5, 5]), [0, 0], "rock_ids: must be distinct ids .* got 2 ids"),
        (observed([5, 5, 5]), [0, 7], "got 1 unobserved, such as 7"),
        (observed([5, 5, 0]), [0], "count: must be at least 1 for each type; got 0"),
        (observed([5, 5]).assign(token_id=3), [3], "must have each token_id once"),
        (
            observed([5, 5]).rename(columns={"count": "n"}),
            [0],
            "must include count; got token_id, n",
        ),
    ],
)
def test_what_cannot_be_matched_is_refused_in_one_line(types, rocks, message):
    with pytest.raises(StudyError, match=message) as error:
        assign(types, rocks)
    assert "\n" not in str(error.value)


def test_a_few_hundred_rocks_among_thousands_of_types_are_matched():
    counts = np.random.default_rng(0).zipf(1.5, 4000).clip(max=10_000)
    rocks = np.random.default_rng(1).choice(4000, 300, replace=False)
    assert match(observed(counts), rocks).median_ratio == pytest.approx(1)


def test_enrichment_by_hand():
    rock = ["latex", "latex", "digit", "marker"]
    control = ["word", "latex", "word", "word"]
    table = enrichment(rock, control, np.random.default_rng(0)).set_index("category")
    assert table.index.tolist() == ["latex", "marker", "digit", "word"]
    assert table["share_rock"].tolist() == [0.5, 0.25, 0.25, 0]
    assert table["share_control"].tolist() == [0.25, 0, 0, 0.75]
    assert table["difference"].tolist() == [0.25, 0.25, 0.25, -0.75]
    assert (table["lo"] <= table["difference"]).all()
    assert (table["difference"] <= table["hi"]).all()
    assert table["n"].tolist() == [4] * 4
    assert set(table["unit"]) == {"matched pairs"}


def test_the_interval_of_an_enrichment_has_the_closed_form_standard_error():
    rng = np.random.default_rng(3)
    rock = np.where(rng.random(400) < 0.4, "latex", "word")
    control = np.where(rng.random(400) < 0.2, "latex", "word")
    latex = enrichment(rock, control, rng).set_index("category").loc["latex"]
    paired = (rock == "latex").astype(float) - (control == "latex")
    half_width = (latex["hi"] - latex["lo"]) / 2
    assert half_width == pytest.approx(Z * paired.std() / np.sqrt(400), rel=0.06)


def test_identical_pairs_differ_by_nothing():
    table = enrichment(["latex", "word"], ["latex", "word"], np.random.default_rng(0))
    assert table[["difference", "lo", "hi"]].to_numpy().tolist() == [[0, 0, 0]] * 2


def test_enrichment_repeats_with_its_generator_and_leaves_the_global_one_alone():
    rock, control = ["latex", "digit", "word"] * 5, ["word", "word", "latex"] * 5
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the generator that must not be used
    first, second = (enrichment(rock, control, np.random.default_rng(4)) for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


@pytest.mark.parametrize(
    ("rock", "control", "message"),
    [
        (["word"] * 3, ["word"] * 2, "as many for rocks as for controls; got 3 and 2"),
        (["word", "Latex"], ["word", "word"], "category.*Latex"),
        (["word"], ["word"], "matched pairs: an interval needs at least 2 units"),
    ],
)
def test_categories_that_do_not_pair_are_refused(rock, control, message):
    with pytest.raises(StudyError, match=message):
        enrichment(rock, control, np.random.default_rng(0))
