"""What position explains, on tables of which it is known, and against dummies in least squares."""

import numpy as np
import pandas as pd
import pytest

from rockstudy.intervals import cluster_mean
from rockstudy.rocks import positions, why_hard
from rockstudy.rocks.positions import by_position, standardise, within_types

TYPES, BINS = 30, 6


def cells(seed=0, uneven=True):
    """Occurrences of types in bins, (V, B): types lean to different bins, where uneven."""
    rng = np.random.default_rng(seed)
    rate = np.full((TYPES, BINS), 40.0)
    if uneven:
        rate = 60 * rng.dirichlet(np.full(BINS, 0.5), TYPES)
    return rng.poisson(rate).astype(float) + (0 if uneven else 1)


def rocks_of(loss, k=6):
    return np.isin(np.arange(TYPES), np.argsort(-loss.sum(1))[:k])


def test_a_loss_of_the_position_alone_is_explained_wholly():
    count = cells()
    loss = count * np.linspace(0.1, 2, BINS)
    found = standardise(count, loss, rocks_of(loss))
    np.testing.assert_allclose(found.explained, 1)
    mean = loss.sum() / count.sum()
    np.testing.assert_allclose(found.scores, np.stack([count.sum(1) * mean] * 2))


def test_a_loss_of_the_type_alone_is_not_explained_wherever_the_types_are():
    of_type = np.linspace(0.1, 3, TYPES)[:, None]
    even = np.outer(np.arange(1, TYPES + 1), np.arange(1, BINS + 1)).astype(float)
    for count in (even, cells()):
        loss = count * of_type
        found = standardise(count, loss, rocks_of(loss))
        assert found.explained[1] == pytest.approx(0, abs=1e-9)
        np.testing.assert_allclose(found.scores[1], loss.sum(1))
        if count is even:  # every type has the same share of its occurrences in a bin
            assert found.explained[0] == pytest.approx(0, abs=1e-9)
        else:  # bins differ by the types in them: an upper bound
            assert found.explained[0] > 0.01


def test_effects_within_types_are_those_of_dummies_in_least_squares():
    count = cells(3).astype(int)
    rng = np.random.default_rng(1)
    type_of, bin_of = (np.repeat(i.ravel(), count.ravel()) for i in np.indices(count.shape))
    losses = rng.exponential(1 + type_of / 9 + np.cos(bin_of))
    sums = np.zeros(count.shape)
    np.add.at(sums, (type_of, bin_of), losses)
    dummies = np.hstack([np.eye(TYPES)[type_of], np.eye(BINS)[bin_of]])
    effect = np.linalg.lstsq(dummies, losses, rcond=None)[0][TYPES:]
    effect -= count.sum(0) @ effect / count.sum()
    np.testing.assert_allclose(within_types(count * 1.0, sums), effect, atol=1e-9)


def test_a_bin_whose_types_are_in_no_other_one_gets_no_effect_of_its_own():
    count = np.array([[50.0, 0, 0], [0, 20, 30], [0, 30, 20]])
    loss = count * np.array([[5.0], [1], [2]])
    np.testing.assert_allclose(within_types(count, loss), 0, atol=1e-9)


def test_standardised_scores_add_up_to_the_loss_of_the_corpus():
    count = cells(5)
    loss = count * np.random.default_rng(5).exponential(size=count.shape)
    found = standardise(count, loss, rocks_of(loss))
    np.testing.assert_allclose(found.scores.sum(1), loss.sum())
    np.testing.assert_allclose(found.effects @ count.sum(0), 0, atol=1e-9)


def test_rocks_that_lose_no_more_than_the_average_have_nothing_to_explain():
    count = cells()
    loss = count * np.linspace(0.1, 2, BINS)
    easiest = np.argsort(loss.sum(1) / count.sum(1))[:5]
    found = standardise(count, loss, np.isin(np.arange(TYPES), easiest))
    assert np.isnan(found.explained).all()


@pytest.fixture
def tokens():
    """Completions of 8 to 60 tokens of 12 types, some of which come late."""
    rng = np.random.default_rng(2)
    frames = []
    for prompt in range(24):
        for sample in range(2):
            n = int(rng.integers(8, 60))
            place = np.arange(n)
            late = rng.random(n) < place / n
            ids = np.where(late, rng.integers(6, 12, n), rng.integers(0, 6, n))
            frames.append(pd.DataFrame({"prompt_index": prompt, "sample_index": sample,
                                        "position": place, "token_id": ids}))  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def test_bins_double_from_the_start_or_are_tenths_of_the_completion(tokens):
    one = tokens[(tokens.prompt_index == 0) & (tokens.sample_index == 0)]
    codes, starts = positions.BINS["tokens before"](one)
    assert starts[:5].tolist() == [0, 1, 3, 7, 15]
    assert codes[[0, 1, 2, 3, 6, 7]].tolist() == [0, 1, 1, 2, 2, 3]
    codes, starts = positions.BINS["share of the completion"](one)
    assert codes.tolist() == [int(10 * i / len(one)) for i in range(len(one))]
    assert starts[3] == 0.3 and codes.max() == 9


def test_the_table_has_means_of_bins_and_shares_with_intervals_over_prompts(tokens):
    tokens["rkl_pre"] = 1.0 + tokens.token_id.isin([3, 9, 10, 11])
    tokens["rkl_post"] = np.log2(tokens.position + 1).astype(int) + 0.5
    rocks = [9, 10, 11]
    found = by_position(tokens, ["rkl_pre", "rkl_post"], rocks, 3, np.random.default_rng(0))
    codes, starts = positions.BINS["tokens before"](tokens)
    some = found[(found.by == "tokens before") & (found.measure == "mean")]
    for column in ("rkl_pre", "rkl_post"):
        rows = some[(some.loss == column) & (some.way == "along")]
        assert rows.start.tolist() == starts.tolist()
        np.testing.assert_allclose(rows.value, tokens[column].groupby(codes).mean())
    of_rocks = found[(found.by == "tokens before") & (found.measure == "rocks")]
    np.testing.assert_allclose(of_rocks.value, tokens.token_id.isin(rocks).groupby(codes).mean())
    whole = found[(found.by == "tokens before") & (found.measure == "explained")]
    whole = whole.set_index(["loss", "way"])
    assert whole.value["rkl_post", "along"] == pytest.approx(1)
    assert whole.value["rkl_post", "within"] == pytest.approx(1)
    assert whole.value["rkl_pre", "within"] == pytest.approx(0, abs=1e-9)
    reach = whole.hi - whole.lo
    np.testing.assert_allclose(reach.drop(("rkl_pre", "along")), 0, atol=1e-9)
    assert set(found.unit) == {"prompts"} and set(found.n) == {24}
    one = some[(some.loss == "rkl_pre") & (some.way == "along") & (some.start == 7)].iloc[0]
    known = cluster_mean(tokens[codes == 3], "rkl_pre", "prompt_index", np.random.default_rng(1))
    np.testing.assert_allclose([one.lo, one.hi], [known.lo, known.hi], atol=0.03)


@pytest.mark.parametrize(
    ("most", "inside", "words"),
    [
        ((0.2, 0.1, 0.3), (0.1, 0.0, 0.2), "types rather than positions"),
        ((0.9, 0.8, 0.95), (0.7, 0.6, 0.8), "positions rather than types"),
        ((0.9, 0.8, 0.95), (0.2, 0.1, 0.3), "undecided"),
        ((np.nan,) * 3, (np.nan,) * 3, "nothing is to be explained"),
    ],
)
def test_the_reading_of_positions_weighs_both_shares(most, inside, words):
    rows = [
        ("explained", "along", *most), ("explained", "within", *inside),
        ("jaccard", "along", 0.5, 0.4, 0.6),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["measure", "way", "value", "lo", "hi"])
    table = table.assign(by="tokens before", loss="rkl_post", start=np.nan, n=40)
    assert words in why_hard.reading_of_position(table)
