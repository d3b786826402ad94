"""Readings of notebooks 00 and 01: each sentence depends on the frame that it is given."""

import numpy as np
import pandas as pd
import pytest

from rockstudy.config.overrides import from_parameters
from rockstudy.training import figures, readings, steps


def graded(teacher, student):
    rows = [("teacher", *teacher), ("student", *student)]
    table = pd.DataFrame(rows, columns=["model", "value", "lo", "hi"])
    return table.assign(benchmark="maths", n=50)


@pytest.mark.parametrize(
    ("teacher", "student", "told"),
    [
        ((0.8, 0.7, 0.9), (0.3, 0.2, 0.4), "the teacher is 50 points better"),
        ((0.3, 0.2, 0.4), (0.8, 0.7, 0.9), "has nothing to teach it here"),
        ((0.5, 0.4, 0.6), (0.55, 0.45, 0.65), "the intervals overlap"),
    ],
)
def test_a_gap_is_told_only_where_intervals_are_apart(teacher, student, told):
    assert told in readings.pair(graded(teacher, student))


def test_families_are_told_from_the_widest_gap_to_the_narrowest():
    values = {"gcd": (0.9, 0.1), "sum": (0.5, 0.6)}
    rows = [(m, f, v) for f, pair in values.items() for m, v in zip(("teacher", "student"), pair,
            strict=True)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["model", "family", "value"]).assign(n=9)
    told = readings.families(table)
    assert "in 1 of 2 families" in told and "widest for gcd (+80 points)" in told
    assert "one family" in readings.families(table[table.family == "gcd"])


@pytest.mark.parametrize(("stopped", "told"), [(True, "Too few"), (False, "A longer")])
def test_cut_off_answers_matter_where_there_are_many(stopped, told):
    outcomes = pd.DataFrame({"model": ["teacher", "student"], "stopped": [True, stopped]})
    assert told in readings.ends(outcomes)


def metrics(*seeds):
    frames = [
        pd.DataFrame({"seed": i, "step": range(len(rkl)), "rkl": rkl})
        for i, rkl in enumerate(seeds)
    ]
    return pd.concat(frames, ignore_index=True)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (metrics([1.0, 0.5], [1.0, 0.6]), "falls in every seed): the student has moved"),
        (metrics([1.0, 0.5], [1.0, 1.1]), "falls in 1 of 2 seeds"),
        (metrics([1.0, 1.5]), "does not fall"),
        (metrics([1.0]), "fewer than two logged steps"),
        (metrics([np.nan, np.nan]), "fewer than two logged steps"),
    ],
)
def test_the_loss_falls_or_does_not(table, told):
    assert told in readings.loss(table)


@pytest.mark.parametrize(
    ("lo", "hi", "told"),
    [
        (0.1, 0.3, "rises by +0.200"),
        (-0.3, -0.1, "falls: -0.200"),
        (-0.1, 0.1, "less than about 0.100 could not have been seen"),
        (np.nan, np.nan, "without an interval"),
    ],
)
def test_a_gain_is_one_only_where_its_interval_leaves_out_0(lo, hi, told):
    value = 0.0 if np.isnan(lo) else (lo + hi) / 2
    gain = pd.DataFrame([("maths", value, lo, hi, "problems", 5)],
                        columns=["benchmark", "value", "lo", "hi", "unit", "n"])  # fmt: skip
    assert told in readings.gains(gain)


def test_the_longest_phases_of_a_step_are_named():
    seconds = dict(zip(figures.PHASES, (1.0, 3.0, 2.0, 0.5, 0.1), strict=True))
    timing = pd.DataFrame([{f"seconds_{name}": s for name, s in seconds.items()}])
    told = readings.time(timing)
    assert "A step takes 6.6 s" in told and "the teacher reads (45%)" in told


def along(**ends):
    rows = [(name, step, v) for name, two in ends.items() for step, v in enumerate(two)]
    return pd.DataFrame(rows, columns=["name", "step", "rkl"])


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        ({"x": (2.0, 1.9), "y": (2.0, 1.5)}, "All of them keep more than half"),
        ({"x": (2.0, 0.1), "y": (2.0, 0.2)}, "None of them keeps more than half"),
        ({"x": (2.0, 0.1), "y": (2.0, 1.9)}, "1 of them keeps more than half"),
        ({"x": (0.0, 0.0)}, "None of these types has a loss"),
    ],
)
def test_what_types_keep_of_their_loss_is_counted(ends, told):
    assert told in readings.types_along(along(**ends))


def test_the_followed_type_is_told_first():
    told = readings.types_along(along(x=(2.0, 1.0), y=(1.0, 1.0)), "x")
    assert told.startswith("The loss of x, the token to follow, goes from 2.00 to 1.00 nats (-50%)")


def test_the_stages_are_a_row_each_with_what_they_minimise():
    config = from_parameters("tiny")
    table = readings.stages({name: config.stage(name) for name in ("stage1", "stage2")})
    assert table.stage.tolist() == ["stage1", "stage2"]
    assert "reverse kl" in table.minimised[1]


def test_the_papers_baseline_spans_its_training_with_wilson_intervals():
    table = steps.papers_baseline()
    assert (table.share.min(), table.share.max()) == (0, 1)
    assert ((table.lo < table.value) & (table.value < table.hi)).all()


def test_a_family_of_one_problem_has_no_interval():
    outcomes = pd.DataFrame(
        {"model": "teacher", "family": ["a", "b", "b"], "prompt_index": [0, 1, 2],
         "correct": [True, True, False]}
    )  # fmt: skip
    table = steps.by_family(outcomes, np.random.default_rng(0)).set_index("family")
    assert table.value.tolist() == [1.0, 0.5] and table.n.tolist() == [1, 2]
    assert np.isnan(table.lo["a"]) and table.lo["b"] <= 0.5 <= table.hi["b"]
