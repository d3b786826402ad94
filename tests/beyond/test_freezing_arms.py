"""Orders, shares and weights of the arms of notebook 09."""

import numpy as np
import pandas as pd
import pytest
import torch

from rockstudy.beyond.freezing import arms, orders
from rockstudy.beyond.freezing.weights import Importance, SplitTypes, Unlikely, Zone, places
from rockstudy.config.overrides import from_parameters
from rockstudy.config.registry import ARMS
from rockstudy.errors import StudyError
from rockstudy.training.position_weights import Batch, evaluate

RNG = np.random.default_rng(0)
IDS = RNG.choice(6, (400, 50), p=[0.4, 0.3, 0.15, 0.1, 0.04, 0.01])
MASK = np.arange(50) < RNG.integers(1, 51, 400)[:, None]


def batch(ids=IDS, mask=MASK, log_probs=None, step=3, part=1):
    tensors = (torch.from_numpy(x) for x in (ids, mask))
    return Batch(*tensors, step, part, log_probs=log_probs)


def left_out(weights, **given):
    made = batch(**given)
    return (evaluate(weights, made, torch.zeros(made.mask.shape)) == 0).numpy() & made.mask.numpy()


@pytest.mark.parametrize("share", [0.05, 0.3, 0.95])
def test_types_are_left_out_in_their_order_until_the_share_is_met_exactly(share):
    held = pd.Series({7: 5.0, 2: 1.0, 9: 3.0, 4: 11.0})
    one = orders.cut([9, 4, 2, 7], held, share)
    whole = held[[i for i in one.ids if i != one.split]].sum()
    assert np.isclose(whole + one.part * held[one.split], share * held.sum())
    assert one.ids == (9, 4, 2, 7)[: len(one.ids)]
    assert 0 < one.part <= 1


def test_an_order_that_holds_less_than_the_share_is_left_out_whole():
    one = orders.cut([2, 9], pd.Series({7: 5.0, 2: 1.0, 9: 3.0}), 0.9)
    assert (one.ids, one.split, one.part) == ((2, 9), 9, 1.0)
    with pytest.raises(StudyError, match="order: must hold at least one type"):
        orders.cut([5], pd.Series({7: 5.0}), 0.1)


def test_split_types_leave_out_the_share_of_the_positions_that_was_cut():
    counts = pd.Series(np.bincount(IDS[MASK]), dtype=float)
    one = orders.cut([3, 0, 1], counts, 0.3)
    out = left_out(SplitTypes(one.ids, one.split, one.part, seed=1))
    assert out[(IDS == 3) & MASK].all()
    assert not out[IDS == 1].any()
    error = np.sqrt(counts[one.split] * one.part * (1 - one.part)) / MASK.sum()
    assert abs(out.sum() / MASK.sum() - 0.3) < 4 * error


def test_a_draw_depends_on_seed_step_and_part_alone():
    weights = SplitTypes((0,), 0, 0.5, seed=1)
    assert (left_out(weights) == left_out(weights)).all()
    for other in ({"step": 4}, {"part": 2}):
        assert (left_out(weights) != left_out(weights, **other)).any()
    assert (left_out(weights) != left_out(SplitTypes((0,), 0, 0.5, seed=2))).any()


def test_a_zone_is_a_part_of_each_completion_whatever_its_length():
    where = places(torch.from_numpy(MASK)).numpy()
    lengths = MASK.sum(1)
    assert np.isclose(where[:, 0], 0.5 / lengths).all()
    out = left_out(Zone(0.0, 0.3, 1.0, seed=0))
    assert (out == ((np.arange(50) + 0.5 < 0.3 * lengths[:, None]) & MASK)).all()


@pytest.mark.parametrize("zone", list(orders.ZONES))
def test_a_zone_leaves_out_the_share_of_what_its_positions_hold(zone):
    where = places(torch.from_numpy(MASK)).numpy()
    held = RNG.exponential(1.0 + where)
    part = orders.part_of_zone(where[MASK], held[MASK], zone, 0.1)
    draws = [left_out(Zone(*orders.ZONES[zone], part, seed=seed)) for seed in range(40)]
    shares = [held[out].sum() / held[MASK].sum() for out in draws]
    assert abs(np.mean(shares) - 0.1) < 4 * np.std(shares) / np.sqrt(len(shares))


def test_a_zone_that_holds_less_than_the_share_is_left_out_whole():
    assert orders.part_of_zone(np.array([0.1, 0.9]), np.array([1.0, 99.0]), "first", 0.1) == 1.0


def test_the_least_probable_tokens_hold_the_share_and_one_more_would_pass_it():
    surprisal, held = RNG.exponential(1.0, 5000), RNG.exponential(1.0, 5000)
    threshold = orders.least_probable(surprisal, held, 0.1)
    chosen = surprisal >= threshold
    below = surprisal[~chosen].max()
    assert held[chosen].sum() <= 0.1 * held.sum() < held[surprisal >= below].sum()


def test_unlikely_tokens_are_those_of_a_high_surprisal():
    log_probs = -torch.from_numpy(RNG.exponential(1.0, (2, *IDS.shape))).float()
    out = left_out(Unlikely(1.5), log_probs=log_probs)
    assert (out == ((-log_probs[0].numpy() >= 1.5) & MASK)).all()
    with pytest.raises(StudyError, match="weights: must be given the log-probabilities"):
        left_out(Unlikely(1.5))


def test_importance_is_the_truncated_product_of_the_ratios_before_a_position():
    log_probs = torch.from_numpy(RNG.normal(-1.0, 0.5, (2, *IDS.shape))).float()
    w = evaluate(Importance(2.0), batch(log_probs=log_probs), None).numpy()
    expected = np.zeros(IDS.shape)
    for row, column in zip(*MASK.nonzero(), strict=True):
        student, teacher = log_probs[:, row, :column].double().numpy()
        expected[row, column] = min(np.prod(np.exp(teacher - student)), 2.0)
    expected /= expected[MASK].mean()
    np.testing.assert_allclose(w, expected, rtol=1e-5)
    assert np.isclose(w[MASK].mean(), 1.0)


def test_importance_makes_an_expectation_over_the_teachers_prefixes_of_the_students():
    p, q = np.array([0.7, 0.3]), np.array([0.5, 0.5])  # two tokens, independent places
    ids = RNG.choice(2, (100_000, 2), p=p)
    log_probs = torch.from_numpy(np.stack([np.log(p)[ids], np.log(q)[ids]])).float()
    w = evaluate(Importance(2.0), batch(ids, np.ones(ids.shape, bool), log_probs), None).numpy()
    second = w[:, 1] / w[:, 0]
    assert abs(np.mean(second * (ids[:, 0] == 1)) - q[1]) < 0.01


def test_names_of_arms_have_one_spelling_and_list_what_is_legal():
    for name in ("rate-0.5", "uniform-0.9", "equal-positions-first", "equal-loss-score_ctx"):
        assert ARMS.check(name) == name
    for name in ("rate-1", "rate-0.50", "rate-0", "rate--1", "uniform-nan", "rate-inf"):
        with pytest.raises(StudyError, match="number: must be positive, finite and not 1"):
            ARMS.check(name)
    with pytest.raises(StudyError, match=r"selector: must be one of score_ctx, score, .*first"):
        ARMS.check("equal-loss-rocks")


def test_a_plan_has_an_arms_seeds_together_and_not_what_notebook_07_trains():
    names = ["soft", "rate-0.5", "rock-freeze"]
    config = from_parameters("tiny", freezing__arms=names, freezing__seeds=1)
    expected = [("soft", 0, False), ("rate-0.5", 0, True), ("rate-0.5", 1, True)]
    assert arms.plan(config) == expected
    with pytest.raises(StudyError, match="arms must be distinct"):
        from_parameters("tiny", freezing__arms=["soft", "soft"])
