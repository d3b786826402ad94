"""Windows by a plain loop over positions; random windows: share, lengths and frequency."""

import numpy as np
import pandas as pd
import pytest
import torch

from rockstudy.errors import StudyError
from rockstudy.rocks import controls
from rockstudy.selective.windows import (
    BLOCK,
    LossMatchedWindows,
    RandomWindows,
    WindowWeights,
    loss_matched_windows,
    match,
    random_windows,
    windows,
)
from rockstudy.training.position_weights import Batch, evaluate


def looped(centres, high, width):
    """The definition, one centre and one direction at a time."""
    covered = centres.copy()
    for r, t in np.argwhere(centres & high):
        for step in (-1, 1):
            at = t + step
            while 0 <= at < centres.shape[1] and abs(at - t) <= width and high[r, at]:
                covered[r, at] = True
                at += step
    return covered


@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_window_is_the_run_of_high_losses_around_a_rock(width):
    rng = np.random.default_rng(width)
    centres, high = rng.random((40, 30)) < 0.1, rng.random((40, 30)) < 0.6
    assert (windows(centres, high, width) == looped(centres, high, width)).all()


def test_a_window_weight_reads_the_losses_and_stops_at_the_threshold():
    ids = torch.tensor([[1, 2, 9, 3, 4, 5], [9, 6, 7, 0, 0, 0]])
    mask = torch.tensor([[True] * 6, [True, True, True, False, False, False]])
    losses = torch.tensor([[0.9, 0.2, 0.5, 0.8, 0.9, 0.7], [0.1, 0.9, 0.9, 0.9, 0, 0]])
    w = evaluate(WindowWeights({9}, 0.25, 0.5, 2), Batch(ids, mask), losses)
    # of row 0 the left neighbour is below, the right run is cut at 2; of row 1 the rock is below
    assert w.tolist() == [[1, 1, 0.25, 0.25, 0.25, 1], [0.25, 1, 1, 0, 0, 0]]


@pytest.fixture(scope="module")
def corpus():
    """Completions of 400 types with Zipf's frequencies, losses, the 20 rocks and their controls."""
    rng = np.random.default_rng(0)
    p = 1 / np.arange(1, 401)
    ids = rng.choice(400, (300, 80), p=p / p.sum())
    mask = np.arange(80) < rng.integers(20, 81, 300)[:, None]
    losses = np.where(mask, rng.exponential(0.5, ids.shape), 0.0)
    counts = pd.Series(ids[mask]).value_counts()
    types = pd.DataFrame({"token_id": counts.index, "count": counts.to_numpy()})
    rocks = list(range(3, 43, 2))
    matched = controls.match(types, rocks)
    return ids, mask, losses, counts, rocks, matched.pairs.token_id_control.tolist()


def test_random_windows_freeze_the_same_share_elsewhere(corpus):
    ids, mask, losses, _, rocks, others = corpus
    centres = np.isin(ids, rocks) & mask
    frozen = windows(centres, (losses > 0.6) & mask, 4)
    rng = np.random.default_rng(1)
    random = random_windows(centres, frozen, np.isin(ids, others) & mask, mask, rng)
    assert random.sum() == frozen.sum()
    assert not (random & frozen).any() and not (random & ~mask).any()


def test_the_match_of_shares_lengths_and_frequencies_is_as_reported(corpus):
    ids, mask, losses, counts, rocks, others = corpus
    given = (rocks, 0.0, 0.6, 4, others)
    arms = {"any": RandomWindows(*given, seed=3), "loss": LossMatchedWindows(*given, seed=3)}
    table = match(ids, mask, losses, counts, arms).set_index("arm")
    rock, random, matched = table.loc[["rock-freeze", "any", "loss"]].to_dict("index").values()
    assert random["share"] == pytest.approx(rock["share"], rel=0.01)
    assert abs(random["log10_count"] - rock["log10_count"]) < 0.1
    assert rock["ks_length"] == 0 and random["ks_length"] < 0.15
    assert random["length_mean"] == pytest.approx(rock["length_mean"], rel=0.15)
    assert random["control_share"] > 0.8 * rock["control_share"]
    assert matched["ks_length"] == 0 and matched["runs"] == rock["runs"]
    assert matched["share"] == rock["share"]
    assert matched["loss_share"] == pytest.approx(rock["loss_share"], rel=0.01)
    assert abs(matched["log10_count"] - rock["log10_count"]) < 0.2
    frozen = windows(np.isin(ids, rocks) & mask, (losses > 0.6) & mask, 4)
    assert rock["loss_share"] == pytest.approx(losses[frozen].sum() / losses.sum())


def runs_of(row: str) -> np.ndarray:
    return np.array([[sign == "x" for sign in row]])


def test_runs_matched_on_loss_are_those_whose_summed_loss_is_nearest():
    loss = np.array([[5, 4, 0, 1, 1, 3, 6, 20, 20, 0, 2, 0, 2.5, 0]])
    rocks, mask = runs_of("x         x   "), np.ones((1, 14), bool)
    frozen = runs_of("xx        x   ")
    ids = np.where(rocks, 1, 2)
    chosen = loss_matched_windows(ids, rocks, frozen, mask, loss, np.random.default_rng(0))
    # 9 = 3 + 6 for the run of two, then 2.5 for the rock of 2: nothing else is as near
    assert np.flatnonzero(chosen).tolist() == [5, 6, 12]


def test_of_runs_with_as_much_loss_the_one_around_the_more_frequent_token_is_laid():
    ids = np.array([[1] * 4 + [2] * 4 + [3]])
    rocks, mask = runs_of("xx       "), np.ones((1, 9), bool)
    loss = np.full(ids.shape, 2.0)
    chosen = loss_matched_windows(ids, rocks, rocks, mask, loss, np.random.default_rng(0))
    assert chosen.sum() == 2 and not chosen[0, 8]


@pytest.mark.parametrize("seed", range(25))
def test_windows_matched_on_loss_have_the_number_the_lengths_and_the_loss(seed):
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 3 * BLOCK)), int(rng.integers(20, 60)))
    ids = rng.integers(0, 30, shape)
    mask = np.arange(shape[1]) < rng.integers(5, shape[1] + 1, shape[0])[:, None]
    heavy = rng.choice([1.0, 3.0, 30.0])  # of a rock's loss, beside that of other tokens
    losses = np.where(mask, rng.exponential(np.where(ids < 3, heavy, 1.0)), 0.0)
    rocks = (ids < 3) & mask
    frozen = windows(rocks, (losses > 2) & mask, 3)
    state = rng.bit_generator.state
    chosen = loss_matched_windows(ids, rocks, frozen, mask, losses, rng)
    assert not (chosen & (frozen | ~mask)).any()
    assert chosen.sum() == min(frozen.sum(), (mask & ~frozen).sum())
    rng.bit_generator.state = state
    assert (loss_matched_windows(ids, rocks, frozen, mask, losses, rng) == chosen).all()

    free = np.sort(losses[mask & ~frozen])[::-1]
    most, wanted = free[: chosen.sum()].sum(), losses[frozen].sum()  # no choice can have more
    assert losses[chosen].sum() >= 0.7 * min(most, wanted)
    if len(mask) > BLOCK and heavy == 1.0:  # enough of everything: as much, in runs as long
        assert losses[chosen].sum() == pytest.approx(wanted, rel=0.01)
        lengths = [np.sort(run_lengths(some)) for some in (frozen, chosen)]
        assert np.array_equal(*lengths)


def run_lengths(some: np.ndarray) -> list[int]:
    """Lengths of the runs, from the text of each row."""
    rows = ["".join("x" if one else " " for one in row) for row in some]
    return [len(run) for row in rows for run in row.split()]


def test_where_too_little_is_left_all_of_it_is_frozen():
    mask = np.ones((1, 6), bool)
    centres = np.array([[True, True, True, True, False, False]])
    none, rng = np.zeros_like(mask), np.random.default_rng(0)
    random = random_windows(centres, centres, none, mask, rng)
    assert random.tolist() == [[False, False, False, False, True, True]]
    given = (mask.astype(int), centres, centres, mask, np.ones(mask.shape))
    assert (loss_matched_windows(*given, rng) == random).all()
    given = (mask.astype(int), none, none, mask, np.ones(mask.shape))
    assert not loss_matched_windows(*given, rng).any()
    assert not random_windows(none, none, none, mask, rng).any()


@pytest.mark.parametrize("kind", [RandomWindows, LossMatchedWindows])
def test_random_windows_are_drawn_anew_for_each_seed_step_and_part_and_else_the_same(corpus, kind):
    ids, mask, losses, _, rocks, others = corpus
    tensors = torch.from_numpy(ids), torch.from_numpy(mask)

    def drawn(seed, step, part):
        how = kind(rocks, 0.0, 0.6, 4, others, seed)
        return evaluate(how, Batch(*tensors, step, part), torch.from_numpy(losses).float())

    first = drawn(0, 5, 1)
    assert torch.equal(first, drawn(0, 5, 1))
    for other in ((1, 5, 1), (0, 6, 1), (0, 5, 2)):
        assert not torch.equal(first, drawn(*other))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: WindowWeights([], 0.0, 0.5, 2), "ids"),
        (lambda: WindowWeights([1], 0.0, -0.5, 2), "threshold"),
        (lambda: WindowWeights([1], 0.0, float("nan"), 2), "threshold"),
        (lambda: WindowWeights([1], 0.0, 0.5, 0), "width"),
        (lambda: RandomWindows([1, 2], 0.0, 0.5, 2, [2, 3], 0), "got 2 in both"),
        (lambda: WindowWeights([1], 0.0, 0.5, 1)(Batch(*[torch.ones(1, 1)] * 2), None), "losses"),
    ],
)
def test_windows_that_make_no_sense_are_refused_in_one_line(make, named):
    with pytest.raises(StudyError, match=named) as error:
        make()
    assert "\n" not in str(error.value)
