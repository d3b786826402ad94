"""Readings of notebooks 02 and 03: each sentence depends on the frame that it is given."""

import numpy as np
import pandas as pd
import pytest

from rockstudy.rocks import readings

TYPES = pd.DataFrame(
    {"token_id": range(6), "text": ["a", " b", "c", "d", "$", "f"], "rank": range(1, 7),
     "count": [100, 80, 60, 10, 5, 2], "rkl_post_mean": [1.0, 0.9, 0.8, 0.1, 0.2, 0.05],
     "score": [100.0, 72, 48, 1, 1, 0.1], "category": ["word", "word", "digit"] + ["word"] * 3}
)  # fmt: skip


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        ([6, 5, 4, 3, 2, 1], "have a higher mean loss"),
        ([1, 2, 3, 4, 5, 6], "have a lower mean loss"),
        ([1, 1, 1, 1, 1, 1], "next to nothing"),
    ],
)
@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_loss_and_frequency_are_told_by_the_sign_of_their_correlation(loss, told):
    assert told in readings.scatter(TYPES.assign(rkl_post_mean=np.array(loss, float)), [0])


def test_rocks_are_listed_by_rank_with_blanks_visible():
    told = readings.rocks_in_words(TYPES, [2, 1])
    assert "⟦␣b⟧ ⟦c⟧" in told and "1 word and 1 digit" in told


@pytest.mark.parametrize(("dense", "told"), [(0.9, "more than"), (0.01, "fewer than")])
def test_density_is_compared_with_the_papers_number_of_its_kind(dense, told):
    outputs = pd.DataFrame({"types": [dense] * 3, "occurrences": [dense] * 3})
    assert readings.density(outputs).count(f"that is {told} the paper's") == 2


@pytest.mark.parametrize(
    ("k", "told"), [(None, "No cut-off"), (5, "own"), (9, "larger"), (2, "smaller")]
)
def test_the_proposed_cut_off_is_compared_with_the_studys_own(k, told):
    assert told in readings.proposed(k, "because", 5)


@pytest.mark.parametrize(
    ("lo", "hi", "told"),
    [(0.55, 0.65, "is most of it"), (0.3, 0.4, "less than half"), (0.45, 0.55, "about half")],
)
def test_coverage_is_most_of_the_loss_only_beyond_its_interval(lo, hi, told):
    value = (lo + hi) / 2
    rows = [(5, name, value, lo, hi) for name in ("own", "fresh")]
    halves = pd.DataFrame(rows, columns=["k", "measure", "value", "lo", "hi"])
    assert told in readings.coverage(halves, 5)


@pytest.mark.parametrize(("index", "told"), [(0.9, "is above"), (0.3, "is not above")])
def test_stability_is_held_against_the_papers_bound(index, told):
    rows = [("average", 0, 5), ("nested", 50, 5), ("disjoint", 50, 5), ("disjoint", 100, 5)]
    stable = pd.DataFrame(rows, columns=["kind", "n", "k"])
    stable = stable.assign(jaccard=index, lo=index - 0.1, hi=index + 0.1)
    said = readings.stability(stable, 6)
    assert told in said and "At K = 5" in said and "of 100 prompts" in said


@pytest.mark.parametrize(
    ("low", "told"), [(0.9, "leave it almost as it is"), (0.1, "Every setting has a value")]
)
def test_settings_that_hardly_move_the_set_are_named(low, told):
    sweep = pd.DataFrame(
        {"setting": ["eta", "eta", "loss"], "value": ["1", "2", "x"],
         "default": [True, False, False], "jaccard": [1.0, low, 0.05]}
    )  # fmt: skip
    said = readings.sensitivity(sweep)
    assert told in said and "loss = x" in said


def test_category_shares_are_compared_with_the_controls():
    shares = pd.DataFrame({"word": [0.2, 0.6], "digit": [0.8, 0.4]}, index=["rocks", "control"])
    told = readings.shares(shares)
    assert "more digit (+40%) and less word (-40%)" in told
    assert "no matched controls" in readings.shares(shares.loc[["rocks"]])
    same = readings.shares(shares.assign(word=0.5, digit=0.5))
    assert "the same shares" in same


def enriched(*intervals):
    rows = [(name, (lo + hi) / 2, lo, hi, 20) for name, lo, hi in intervals]
    return pd.DataFrame(rows, columns=["category", "difference", "lo", "hi", "n"])


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (None, "No enrichment can be measured: too few"),
        (enriched(("word", -0.1, 0.1)), "less than about 0.10 could not have been seen"),
        (enriched(("latex", 0.1, 0.3)), "Of the paper's clusters latex is shown"),
        (enriched(("latex", 0.1, 0.3), ("digit", 0.1, 0.2)), "clusters latex and digit are shown"),
        (enriched(("word", -0.3, -0.1)), "None of the paper's clusters"),
    ],
)
def test_enrichment_is_shown_only_where_an_interval_leaves_out_0(table, told):
    assert told in readings.enrichment(table, "too few")


def test_the_overlap_names_the_nearest_and_the_farthest_set():
    names = ["rocks", "one", "two"]
    table = pd.DataFrame([[1, 0.9, 0.1], [0.9, 1, 0], [0.1, 0, 1]], names, names)
    assert "rocks is one (Jaccard index 0.90)" in readings.overlap(table)
    assert "another way" in readings.overlap(table)
    assert "no selector finds the same set" in readings.overlap(table.replace(0.9, 0.5))
    assert "no other set" in readings.overlap(table.loc[["rocks"], ["rocks"]])


@pytest.mark.parametrize(("rocks", "told"), [([0, 1], "find most"), ([4, 5], "miss most")])
def test_frequency_finds_rocks_that_are_the_most_frequent_types(rocks, told):
    assert told in readings.ranks(TYPES, rocks)


@pytest.mark.parametrize(("low", "told"), [(0.1, "which is clearly"), (0.9, "which is not")])
def test_the_loss_along_completions_is_apart_where_intervals_are(low, told):
    rows = [("rkl_post", "mean", "along", "tokens before", s, v, v - 0.2, v + 0.2, 9)
            for s, v in ((0, 1.0), (1, low))]  # fmt: skip
    columns = ["loss", "measure", "way", "by", "start", "value", "lo", "hi", "n"]
    assert told in readings.along(pd.DataFrame(rows, columns=columns))
