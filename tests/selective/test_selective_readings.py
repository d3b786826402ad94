"""Notebook 07 in words and pictures: averages, differences along training, the followed token."""

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.proportion import confint_proportions_2indep

from rockstudy.claims import paper
from rockstudy.selective import figure5, figures, followed, readings, steps

ARMS = ("baseline", "rock-freeze", "random-windows", "random-windows-loss")


def accuracy(seeds=3, n=20):
    rng = np.random.default_rng(0)
    rows = [
        {"arm": arm, "seed": seed, "step": step, "benchmark": name, "prompt_index": i, "samples": 1}
        for arm in ARMS
        for seed in range(seeds)
        for step in (0, 4, 8)
        for name in ("maths", "words")
        for i in range(n)
    ]
    table = pd.DataFrame(rows)
    table["accuracy"] = (rng.random(len(table)) < 0.5).astype(float)
    same = table[(table["arm"] == "baseline") & (table.step == 0)]
    keys = ["seed", "benchmark", "prompt_index"]
    start = table[keys].merge(same[[*keys, "accuracy"]], on=keys).accuracy.to_numpy()
    return table.assign(accuracy=np.where(table.step == 0, start, table.accuracy))


def test_the_average_is_that_of_the_benchmarks():
    table = steps.with_average(accuracy())
    found = steps.means(table).set_index(["arm", "step", "benchmark"]).value
    for arm in ARMS:
        both = found[arm, 8, "maths"], found[arm, 8, "words"]
        assert found[arm, 8, steps.AVERAGE] == pytest.approx(np.mean(both))
    assert not table.duplicated(["arm", "seed", "step", "benchmark", "prompt_index"]).any()
    alone = accuracy().query("benchmark == 'maths'")
    assert steps.with_average(alone) is alone


def test_differences_along_training_end_with_the_final_ones_and_leave_out_arms_graded_late():
    table = accuracy()
    late = table[(table["arm"] == "rock-freeze") & (table.step == 8)].assign(arm="late")
    along = steps.differences_along(pd.concat([table, late]))
    assert set(along["arm"]) == {*ARMS[1:]} and set(along.step) == {4, 8}
    keys = ["arm", "benchmark"]
    last = along[along.step == 8].set_index(keys)[["value", "lo", "hi"]]
    pd.testing.assert_frame_equal(
        last, steps.differences(table).set_index(keys)[["value", "lo", "hi"]]
    )


def test_the_papers_differences_are_those_of_independent_samples():
    points = paper.points("figure5")
    found = figure5.differences_along(points).set_index(["arm", "step"])
    counts = points.set_index(["regime", "step"]).correct
    for arm, regime in (("rock-freeze", "rock_freeze"), ("random-windows", "random_windows")):
        a, b = counts[regime, 750], counts["baseline", 750]
        lo, hi = confint_proportions_2indep(a, 90, b, 90, method="newcomb")
        row = found.loc[(arm, 750)]
        assert (row.value, row.lo, row.hi) == pytest.approx(((a - b) / 90, lo, hi))


def test_figure_5_has_a_column_for_each_benchmark_their_average_and_the_paper():
    table, points = steps.with_average(accuracy()), paper.points("figure5")
    theirs = figure5.curves(points), figure5.differences_along(points)
    made = figures.arm_curves(steps.means(table), steps.differences_along(table), *theirs)
    titles = [axis.get_title() for axis in made.axes if axis.get_title()]
    assert titles == ["maths", "words", "average", "the paper"]
    assert made.get_size_inches()[0] <= 7
    assert "3 training seeds; problems" in made.caption and "one run of 90 problems" in made.caption


def test_a_single_seed_is_drawn_without_an_interval():
    table, points = accuracy(seeds=1), paper.points("figure5")
    theirs = figure5.curves(points), figure5.differences_along(points)
    along = steps.differences_along(table)
    curves = figures.arm_curves(steps.means(table), along, *theirs)
    curves.draw_without_rendering()
    problems = table.prompt_index.nunique()
    assert f"no intervals (maths {problems}, words {problems} problems)" in curves.caption
    ends = steps.differences(table)
    assert (ends.n == problems).all() and (ends.unit == "problems, one training seed").all()
    figures.arm_differences(steps.differences(table)).draw_without_rendering()
    assert "one seed, and no interval" in readings.of_curves(along)


def test_curves_are_read_by_the_checkpoints_whose_interval_excludes_0():
    rows = [("a", 4, -0.2, -0.1), ("a", 8, -0.2, 0.1), ("b", 4, 0.1, 0.2), ("b", 8, -0.1, 0.1),
            ("c", 4, -0.1, 0.1), ("c", 8, -0.1, 0.1)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["arm", "step", "lo", "hi"]).assign(benchmark="maths")
    told = readings.of_curves(table)
    assert "a is below it at 1 and above it at 0 of 2" in told
    assert "b is below it at 0 and above it at 1 of 2" in told
    assert "c differs from it at none of 2 checkpoints" in told


def test_costs_say_whether_a_step_is_faster():
    row = {"arm": "types", "frozen": 0.2, "speedup": 1.2, "n": 9, "bound": 1.1, "bound_all": 1.3}
    costs = pd.DataFrame([row | ends for ends in
                          ({"lo": 1.1, "hi": 1.3}, {"lo": 0.9, "hi": 1.3}, {"lo": 0.7, "hi": 0.9})
                          ])  # fmt: skip
    told = readings.of_costs(costs).splitlines()
    assert "faster than the baseline" in told[0]
    assert "no change of speed is shown" in told[1]
    assert "slower than the baseline" in told[2]
    assert "No arm was timed" in readings.of_costs(costs.assign(speedup=np.nan))


def test_the_match_is_told_as_shares_of_the_loss():
    match = pd.DataFrame({"arm": ["rock-freeze", "random-windows"], "share": 0.2,
                          "loss_share": [0.5, 0.1]})  # fmt: skip
    assert "20% of what Rock-Freeze does" in readings.of_match(match)
    assert "nothing is matched" in readings.of_match(match[1:])


def test_phases_are_read_by_the_longest_and_the_heads():
    phases = pd.DataFrame({"seconds_rollout": [3.0], "seconds_head": [1.0]}, index=["baseline"])
    told = readings.of_phases(phases.assign(seconds_step=4.0))
    assert "the longest phase is rollout, 75% of a step; the heads take 25%" in told


def test_a_text_shows_what_each_arm_leaves_out_and_is_escaped():
    rows = [
        {"arm": arm, "position": i, "text": text, "followed": i == 0, "rkl": 1.0, "left_out": out}
        for arm, outs in (("rock-freeze", (True, True, False)), ("random-windows", (False,) * 3))
        for i, (text, out) in enumerate(zip((" <b>", "$x$", "\n"), outs, strict=True))
    ]
    table = pd.DataFrame(rows)
    shown = followed.left_out_html(table)
    assert "<b>" not in shown and "&lt;b&gt;" in shown
    assert shown.count("<s>") == 2 and shown.count("<mark>") == 2
    assert "mathjax_ignore" in shown._repr_html_()
    told = followed.reading_of_left_out(table, "⟦␣<b>⟧").splitlines()
    assert "leaves out 2 of the 3 tokens of this text and 67% of its loss" in told[0]
    assert "is left out at 1 of 1" in told[0] and "is left out at 0 of 1" in told[1]


def test_the_loss_at_the_followed_token_is_read_by_arm_and_paired_by_seed():
    rows = [(arm, seed, step, rkl) for arm, end in (("baseline", 1.0), ("rock-freeze", 1.5))
            for seed in (0, 1) for step, rkl in ((1, 2.0), (2, end))]  # fmt: skip
    table = pd.DataFrame(rows, columns=["arm", "seed", "step", "rkl"])
    told = followed.reading_of_along(table, "⟦a⟧")
    assert "baseline: the loss at ⟦a⟧ goes from 2.00 to 1.00 nats (-50%" in told
    assert "in 2 of 2 trainings" in told
    assert "No arm wrote" in followed.reading_of_along(table.iloc[:0], "⟦a⟧")
    assert "2 training seeds" in figures.followed_along(table, "⟦a⟧").caption
