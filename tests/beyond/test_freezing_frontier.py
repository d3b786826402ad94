"""Learning against forgetting, on accuracies whose truth is known."""

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from rockstudy.beyond.freezing import authors, frontier
from rockstudy.beyond.freezing.frontier import Frontier

STEPS = {10: 0.25, 20: 0.5, 40: 1.0}


def grid(values, problems=2):
    """Accuracies that are equal in every cell, so that only means count: arm -> step -> (a, b)."""
    rows = [
        {"arm": arm, "seed": seed, "step": step, "benchmark": name, "prompt_index": p,
         "accuracy": one}
        for arm, by_step in values.items()
        for step, pair in by_step.items()
        for name, one in zip(("maths", "other"), pair, strict=True)
        for seed in (0, 1)
        for p in range(problems)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def on_a_parabola(gain):
    return -0.2 * gain - 3 * gain**2


def test_the_frontier_is_the_least_squares_curve_through_the_start():
    rng = np.random.default_rng(0)
    gain, change = rng.random(7), rng.normal(size=7)
    curve = Frontier(gain, change)
    expected, *_ = optimize.curve_fit(lambda g, a, b: a * g + b * g**2, gain, change)
    np.testing.assert_allclose(curve.coefficients, expected, rtol=1e-5)
    assert curve.at(0.0) == 0.0
    np.testing.assert_allclose(curve.slope(0.3), expected[0] + 0.6 * expected[1], rtol=1e-5)
    exact = Frontier(gain, on_a_parabola(gain))
    np.testing.assert_allclose(exact.at(gain), on_a_parabola(gain))
    assert Frontier(gain[:2], change[:2]).degree == 1
    assert curve.holds(gain.max()) and not curve.holds(gain.max() + 0.01) and not curve.holds(-0.1)


def test_the_weights_of_the_points_are_the_derivatives_of_the_curve():
    rng, h = np.random.default_rng(1), 1e-6
    gain, change = rng.random(6), rng.normal(size=6)
    of_changes, of_gains = Frontier(gain, change).weights(0.4)
    for j in range(6):
        step = h * (np.arange(6) == j)
        up, down = (Frontier(gain, change + s * step).at(0.4) for s in (1, -1))
        assert of_changes[j] == pytest.approx((up - down) / (2 * h), rel=1e-5, abs=1e-6)
        up, down = (Frontier(gain + s * step, change).at(0.4) for s in (1, -1))
        assert of_gains[j] == pytest.approx((up - down) / (2 * h), rel=1e-4, abs=1e-5)


def test_a_known_crossing_is_found():
    """The baseline's points lie on a parabola, and arms a known distance from it."""
    start = (0.3, 0.8)
    offsets = {"above": (0.1, 0.05), "on": (0.15, 0.0), "below": (0.05, -0.1), "more": (0.4, 0.0)}

    def ends(gain, extra=0.0):
        return start[0] + gain, start[1] + on_a_parabola(gain) + extra

    values = {"baseline": {0: start} | {step: ends(0.3 * x) for step, x in STEPS.items()}}
    values |= {arm: {0: start, 40: ends(*where)} for arm, where in offsets.items()}
    table = grid(values)
    found = frontier.excess(table, "maths", "other").set_index("arm")
    for arm, (gain, extra) in offsets.items():
        assert found.excess[arm] == pytest.approx(extra, abs=1e-12)
        assert found.at_equal_gain[arm] == pytest.approx(on_a_parabola(gain))
    assert found.beyond["more"] and not found.beyond["on"]
    assert np.isnan(found.excess["baseline"])  # there is no other rate to compare it with
    apart = frontier.contrast(table, "maths", "other", "above", "below")
    assert apart["value"] == pytest.approx(0.15)
    assert frontier.contrast(table, "maths", "other", "above", "absent") == {}
    curves = frontier.curves(table, "maths", "other")
    np.testing.assert_allclose(curves.fitted, curves.change, atol=1e-12)


def simulated(rng, rates, seeds=3, problems=300, extra=0.0):
    """Right answers where gain and change depend on rate x share of the stage alone."""
    rows = []
    levels = {n: rng.normal(0.0, 1.0, problems) for n in ("maths", "other")}
    for seed in range(seeds):
        own = {n: rng.normal(0.0, 0.03) for n in levels}  # of the training, on the scale of p
        chance = {n: rng.random(problems) for n in levels}  # shared by the arms of a seed
        for arm, rate in rates.items():
            drift = {n: rng.normal(0.0, 0.01) for n in levels}
            for step in (0, *STEPS):
                t = rate * STEPS.get(step, 0.0)
                truth = {"maths": 0.15 * (1 - np.exp(-2.5 * t)), "other": -0.06 * t}
                truth["other"] += extra * (arm == "arm") * (step > 0)
                for name, level in levels.items():
                    moved = truth[name] + (own[name] * t + drift[name]) * (step > 0)
                    p = np.clip(stats.norm.cdf(level - 0.3) + moved, 0, 1)
                    again = rng.random(problems) < 0.15  # answers that change at random
                    u = np.where(again & (step > 0), rng.random(problems), chance[name])
                    frame = {"arm": arm, "seed": seed, "step": step, "benchmark": name}
                    frame |= {"prompt_index": np.arange(problems), "accuracy": 1.0 * (u < p)}
                    rows.append(pd.DataFrame(frame))
    return pd.concat(rows, ignore_index=True)


@pytest.mark.parametrize("extra", [0.0, 0.05])
def test_an_arm_that_only_scales_the_rate_lies_on_the_frontier(extra):
    """And one that forgets less by a known amount lies that far above it; intervals hold both."""
    rng, rates = np.random.default_rng(1), {"baseline": 1.0, "rate-0.5": 0.5, "rate-0.25": 0.25}
    errors, held = [], []
    for _ in range(40):
        table = simulated(rng, rates | {"arm": 0.7}, extra=extra)
        row = frontier.excess(table, "maths", "other").set_index("arm").loc["arm"]
        errors.append(row.excess - extra)
        held.append(row.excess_lo <= extra <= row.excess_hi)
    assert abs(np.mean(errors)) < 4 * np.std(errors) / np.sqrt(len(errors)) + 0.002  # it is bent
    assert np.mean(held) >= 0.85  # 95%, within three standard errors of 40 draws


def test_a_rate_is_compared_with_the_other_rates_and_one_seed_has_no_interval():
    rng = np.random.default_rng(0)
    rates = {"baseline": 1.0, "rate-0.5": 0.5, "arm": 0.7}
    table = simulated(rng, rates, seeds=2, problems=50)
    found = frontier.excess(table, "maths", "other").set_index("arm")
    assert found.points["rate-0.5"] == len(STEPS)
    single = frontier.excess(
        table[(table.seed == 0) | (table["arm"] != "arm")], "maths", "other"
    ).set_index("arm")
    assert single.seeds["arm"] == 1 and np.isnan(single.excess_lo["arm"])
    assert np.isfinite(single.excess["arm"])


def test_benchmarks_of_different_sizes_keep_the_mean_of_all_problems():
    rng = np.random.default_rng(3)
    table = simulated(rng, {"baseline": 1.0, "rate-0.5": 0.5, "arm": 0.7}, problems=60)
    fewer = table[(table.benchmark == "maths") | (table.prompt_index < 40)]
    row = frontier.excess(fewer, "maths", "other").set_index("arm").loc["arm"]
    gains, changes = (frontier.cells(fewer, name) for name in ("maths", "other"))
    _, curve = frontier.frontier(gains, changes, [0, 1, 2])
    gain, change = (one["arm"][40].to_numpy().mean() for one in (gains, changes))
    assert row.excess == pytest.approx(change - curve.at(gain))


def test_the_order_of_the_authors_is_compared_by_ranks():
    rng = np.random.default_rng(0)
    theirs = authors.orders(pd.DataFrame(columns=_COLUMNS), "maths")
    assert theirs.value.isna().all() and authors.rank_correlation(theirs, rng) == {}
    same = theirs.assign(value=theirs.their_accuracy, error=1e-6)
    found = authors.rank_correlation(same, rng)
    assert found["value"] == pytest.approx(1.0) and found["n"] == len(authors.THEIRS)
    assert found["lo"] < 0.8  # of theirs alone, 90 problems leave the order open
    assert authors.rank_correlation(same.assign(value=-same.value), rng)["value"] == -1.0


_COLUMNS = ["arm", "seed", "step", "benchmark", "prompt_index", "accuracy"]
