"""Intervals against closed forms, scipy's bootstrap and simulation."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from rockstudy import intervals
from rockstudy.errors import StudyError
from rockstudy.intervals import (
    Estimate,
    cluster_mean,
    crossed_difference,
    crossed_mean,
    paired_difference,
)

Z = 1.959964


def outcomes(n_problems=200, samples=4, seed=0, shift=0.0):
    """Correlated binary outcomes: each problem has its own chance of success."""
    rng = np.random.default_rng(seed)
    chance = np.clip(rng.beta(1, 1, n_problems) + shift, 0, 1)
    return pd.DataFrame(
        {
            "prompt_index": np.repeat(np.arange(n_problems), samples),
            "correct": rng.random(n_problems * samples) < np.repeat(chance, samples),
        }
    )


def half_width(estimate):
    return (estimate.hi - estimate.lo) / 2


def test_cluster_interval_has_the_closed_form_standard_error():
    frame = outcomes()
    means = frame.groupby("prompt_index")["correct"].mean()
    estimate = cluster_mean(frame, "correct", "prompt_index", np.random.default_rng(1))
    assert estimate.value == pytest.approx(frame["correct"].mean())
    assert half_width(estimate) == pytest.approx(Z * means.std(ddof=0) / np.sqrt(200), rel=0.04)
    assert (estimate.n, estimate.unit, estimate.n_boot) == (200, "problems", 10_000)


def test_resampling_rows_instead_of_problems_would_be_too_narrow():
    frame = outcomes().assign(row=lambda f: f.index)
    rng = np.random.default_rng(1)
    by_problem = cluster_mean(frame, "correct", "prompt_index", rng)
    by_row = cluster_mean(frame, "correct", "row", rng, unit="rows")
    assert half_width(by_problem) > 1.3 * half_width(by_row)


def test_unequal_clusters_have_the_ratio_estimators_standard_error():
    rng = np.random.default_rng(2)
    counts = rng.integers(1, 9, 300)
    frame = pd.DataFrame({"c": np.repeat(np.arange(300), counts)})
    frame["x"] = rng.normal(size=300)[frame["c"]] + rng.normal(size=len(frame))
    sums = frame.groupby("c")["x"].sum().to_numpy()
    residual = sums - frame["x"].mean() * counts
    error = np.sqrt((residual**2).sum()) / counts.sum()  # linearised ratio, Cochran
    estimate = cluster_mean(frame, "x", "c", rng)
    assert half_width(estimate) == pytest.approx(Z * error, rel=0.05)


def test_paired_difference_agrees_with_scipys_bootstrap():
    rng = np.random.default_rng(3)
    x = rng.normal(size=60)
    before = pd.DataFrame({"p": np.arange(60), "x": x})
    after = before.assign(x=x + 0.2 + 0.3 * rng.exponential(size=60))
    ours = paired_difference(before, after, "x", "p", np.random.default_rng(4))
    theirs = scipy.stats.bootstrap(
        (after["x"].to_numpy(), x),
        lambda a, b, axis=-1: np.mean(a - b, axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=10_000,
        rng=np.random.default_rng(5),
    ).confidence_interval
    assert ours.value == pytest.approx((after["x"] - x).mean())
    assert [ours.lo, ours.hi] == pytest.approx([theirs.low, theirs.high], abs=0.006)


def test_pairing_removes_what_both_sides_share():
    before, after = outcomes(seed=6), outcomes(seed=6, shift=0.15)
    rng = np.random.default_rng(7)
    paired = paired_difference(before, after, "correct", "prompt_index", rng)
    alone = [cluster_mean(f, "correct", "prompt_index", rng) for f in (before, after)]
    assert half_width(paired) < 0.8 * np.hypot(*map(half_width, alone))


def test_rollouts_are_averaged_within_a_problem_whatever_their_number():
    before = pd.DataFrame({"p": [0, 1, 1, 1], "x": [0.0, 1.0, 1.0, 1.0]})
    after = pd.DataFrame({"p": [0, 0, 1], "x": [1.0, 0.0, 1.0]})
    estimate = paired_difference(before, after, "x", "p", np.random.default_rng(0))
    assert estimate.value == pytest.approx(0.25)


def grid(n_seeds=8, n_problems=40, seed=0):
    rng = np.random.default_rng(seed)
    seeds, problems = rng.normal(size=(n_seeds, 1)), rng.normal(size=(1, n_problems))
    cells = seeds + problems + rng.normal(size=(n_seeds, n_problems))
    index = np.indices(cells.shape).reshape(2, -1)
    return cells, pd.DataFrame({"seed": index[0], "prompt_index": index[1], "x": cells.ravel()})


def test_crossed_interval_has_the_closed_form_bootstrap_variance():
    cells, frame = grid()
    n, m = cells.shape
    rows, columns, total = cells.mean(1), cells.mean(0), cells.mean()
    rest = cells - rows[:, None] - columns[None] + total
    # variance of the mean under independent resampling of rows and columns, term by term
    variance = rows.var() / n + columns.var() / m + (rest**2).mean() / (n * m)
    estimate = crossed_mean(frame, "x", np.random.default_rng(1))
    assert estimate.value == pytest.approx(total)
    assert half_width(estimate) == pytest.approx(Z * np.sqrt(variance), rel=0.05)
    assert estimate.n == (8, 40)


def test_one_evaluation_before_is_paired_with_every_seed_after():
    _, after = grid()
    before = after[after["seed"] == 0].drop(columns="seed")
    repeated = pd.concat([before.assign(seed=s) for s in range(8)])
    a = crossed_difference(before, after, "x", np.random.default_rng(2))
    b = crossed_difference(repeated, after, "x", np.random.default_rng(2))
    assert a == b
    assert a.value == pytest.approx(after["x"].mean() - before["x"].mean())


def test_intervals_cover_the_truth_as_often_as_they_say(monkeypatch):
    monkeypatch.setattr(intervals, "N_BOOT", 300)
    rng = np.random.default_rng(8)
    hits = 0
    for _ in range(200):
        frame = pd.DataFrame({"c": np.repeat(np.arange(40), 3)})
        frame["x"] = np.repeat(rng.normal(size=40), 3) + rng.normal(size=120)
        estimate = cluster_mean(frame, "x", "c", rng)
        hits += estimate.lo <= 0 <= estimate.hi
    assert 0.90 <= hits / 200 <= 0.99


def test_the_same_generator_state_gives_the_same_interval_and_no_other_is_used():
    frame = outcomes()
    np.random.seed(0)  # noqa: NPY002 - the global state is what must stay untouched
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - same
    a, b = (
        cluster_mean(frame, "correct", "prompt_index", np.random.default_rng(9)) for _ in range(2)
    )
    assert a == b
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002 - same


def test_chunks_do_not_change_the_draws(monkeypatch):
    frame = outcomes()
    monkeypatch.setattr(intervals, "N_BOOT", 501)
    whole = cluster_mean(frame, "correct", "prompt_index", np.random.default_rng(9))
    monkeypatch.setattr(intervals, "_CHUNK_CELLS", 200 * 7)
    parts = cluster_mean(frame, "correct", "prompt_index", np.random.default_rng(9))
    assert [parts.lo, parts.hi] == pytest.approx([whole.lo, whole.hi], abs=1e-12)


def test_an_estimate_reads_with_its_unit_and_count():
    one = Estimate(0.5312, 0.4911, 0.5702, "problems", 500, 10_000)
    assert str(one) == "0.531 [0.491, 0.57] (95% bootstrap over 500 problems)"
    two = Estimate(0.1, 0.05, 0.15, "seeds x problems", (3, 500), 10_000)
    assert str(two).endswith("(95% bootstrap over 3 seeds x 500 problems)")


RNG = np.random.default_rng(0)
FRAME = pd.DataFrame({"p": [0, 1], "x": [0.0, 1.0]})
BAD = {
    "no rows": (lambda: cluster_mean(FRAME[:0], "x", "p", RNG), "at least one row"),
    "NaN": (lambda: cluster_mean(FRAME.assign(x=[0, np.nan]), "x", "p", RNG), "1 rows are not"),
    "infinity": (lambda: cluster_mean(FRAME.assign(x=[0, np.inf]), "x", "p", RNG), "finite"),
    "no column": (lambda: cluster_mean(FRAME, "y", "p", RNG), "must include y; got p, x"),
    "one unit": (lambda: cluster_mean(FRAME.assign(p=0), "x", "p", RNG), "at least 2"),
    "no samples": (lambda: intervals.resample(np.sum, 2, RNG, 0), "n_boot: must be at least 1"),
    "other units": (
        lambda: paired_difference(FRAME, FRAME.assign(p=[0, 2]), "x", "p", RNG),
        "same units; 2 are on one side only",
    ),
    "a hole in the grid": (
        lambda: crossed_mean(
            pd.DataFrame({"seed": [0, 0, 1], "prompt_index": [0, 1, 0], "x": 1.0}), "x", RNG
        ),
        "complete grid; 1 cells missing",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_has_no_interval_is_refused_in_one_line(case):
    call, message = BAD[case]
    with pytest.raises(StudyError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_a_ratio_is_the_mean_where_the_denominator_counts_rows():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"prompt_index": rng.integers(0, 40, 300), "x": rng.normal(3, 1, 300)})
    frame["one"] = 1
    ratio = intervals.prompt_ratio(frame, "x", "one", np.random.default_rng(1))
    rng = np.random.default_rng(1)
    mean = intervals.cluster_mean(frame, "x", "prompt_index", rng, unit="prompts")
    assert ratio == mean


def test_a_ratio_over_nothing_is_refused():
    frame = pd.DataFrame({"prompt_index": [0, 1], "x": [1.0, 2.0], "zero": [0.0, 0.0]})
    with pytest.raises(StudyError, match="zero: must not add up to 0"):
        intervals.prompt_ratio(frame, "x", "zero", np.random.default_rng(0))


def test_the_interval_of_a_median_is_that_of_its_order_statistics():
    values = np.random.default_rng(2).exponential(size=201)
    frame = pd.DataFrame({"prompt_index": np.arange(201), "x": values})
    estimate = intervals.prompt_median(frame, "x", np.random.default_rng(3))
    assert estimate.value == np.median(values)
    exact = np.sort(values)[scipy.stats.binom.ppf([0.025, 0.975], 201, 0.5).astype(int)]
    assert estimate.lo == pytest.approx(exact[0], abs=0.05)
    assert estimate.hi == pytest.approx(exact[1], abs=0.05)


def test_a_mean_over_seeds_has_the_t_interval_of_scipy_and_one_seed_none():
    values = np.array([0.41, 0.48, 0.39, 0.52])
    estimate = intervals.seed_mean(values)
    interval = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (estimate.value, estimate.n, estimate.unit) == (values.mean(), 4, "seeds")
    assert (estimate.lo, estimate.hi) == pytest.approx((interval.low, interval.high))
    alone = intervals.seed_mean(values[:1])
    assert alone.value == 0.41 and np.isnan([alone.lo, alone.hi]).all()
