"""Shares and distances of trainings, and what notebook 09 tells in words and in claims."""

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from test_freezing_frontier import simulated

from rockstudy.beyond.freezing import authors, claims, figures, frontier, readings, shown, steps
from rockstudy.claims import records, verdicts
from rockstudy.config.overrides import from_parameters
from rockstudy.errors import StudyError
from rockstudy.runs import Run

RATES = {"baseline": 1.0, "rate-0.5": 0.5, "rock-freeze": 0.8, "random-windows-loss": 0.9}


@pytest.fixture(scope="module")
def accuracy():
    names = {"equal-positions-score": 0.9, "equal-positions-random": 1.0, "lambda-0.5": 0.95}
    return simulated(np.random.default_rng(0), RATES | names, seeds=2, problems=60)


@pytest.fixture(scope="module")
def trainings(accuracy):
    rows = accuracy[["arm", "seed"]].drop_duplicates(ignore_index=True)
    share = rows["arm"].str.contains("equal").map({True: 0.11, False: 0.0})
    return rows.assign(
        share=share, loss_share=3 * share, moved=2.0 + rows.seed, start=40.0, seconds=9.0
    )


@pytest.fixture(scope="module")
def matched():
    arms = ["equal-positions-score", "equal-positions-random"]
    return pd.DataFrame({"arm": arms, "share": 0.1, "loss_share": [0.3, 0.1]})


def test_the_distance_between_checkpoints_is_that_of_all_weights_together(tmp_path):
    start = {"a": torch.randn(3, 4), "b": torch.randn(5)}
    end = {name: one + torch.randn(one.shape) for name, one in start.items()}
    for name, tensors in {"start": start, "end": end}.items():
        (tmp_path / name).mkdir()
        save_file({"a": tensors["a"]}, tmp_path / name / "model-1.safetensors")
        save_file({"b": tensors["b"]}, tmp_path / name / "model-2.safetensors")
    flat = [torch.cat([one.flatten() for one in tensors.values()]) for tensors in (start, end)]
    far, norm = steps.moved(tmp_path / "start", tmp_path / "end")
    assert far == pytest.approx(float((flat[1] - flat[0]).norm()), rel=1e-6)
    assert norm == pytest.approx(float(flat[0].norm()), rel=1e-6)
    save_file({"c": end["b"]}, tmp_path / "end" / "model-2.safetensors")
    with pytest.raises(StudyError, match="must hold the tensors of"):
        steps.moved(tmp_path / "start", tmp_path / "end")


def test_shares_of_a_training_are_weighed_by_the_tokens_of_its_windows():
    metrics = pd.DataFrame(
        {"mean_weight": [0.5, 1.0], "loss": [0.2, 0.3], "rkl": [0.4, 0.3], "n_tokens": [10, 30],
         "n_kept": [10, 30]}
    )  # fmt: skip
    found = steps.left_out_in(metrics)
    assert found["share"] == pytest.approx(5 / 40)
    assert found["loss_share"] == pytest.approx(2 / 13)
    skipped = steps.left_out_in(metrics.assign(n_kept=[5, 30]))
    assert np.isnan(skipped["loss_share"])  # of a position without heads no loss is known


def test_a_summary_compares_distances_with_the_baseline_of_the_same_seed(trainings, matched):
    found = shown.summary(trainings, matched).set_index("arm")
    assert (found.moved_ratio == 1).all() and (found.seeds == 2).all()
    assert found.share_matched["equal-positions-score"] == 0.1
    assert np.isnan(found.share_matched["rock-freeze"])


def test_what_arms_leave_out_is_related_to_what_they_forget_by_ranks():
    n, rng = 40, np.random.default_rng(0)
    loss = rng.random(n)
    arms = [f"equal-loss-{i}" for i in range(n)]
    excess = pd.DataFrame({"arm": arms, "gain": -loss, "change": rng.random(n), "excess": np.nan})
    known = pd.DataFrame({"arm": arms, "share": loss**2, "loss_share": loss, "moved_ratio": 1.0})
    found = shown.explained(excess, known).set_index(["of", "by"])
    assert found.value["gain", "share"] == pytest.approx(-1.0)
    other = found.loc[("change", "loss_share")]
    assert other.lo < other.value < other.hi and other.n == n
    assert found.value[[("gain", "moved_ratio"), ("excess", "share")]].isna().all()


def test_figures_and_readings_tell_of_every_arm(accuracy, trainings, matched):
    summary, names = shown.summary(trainings, matched), ("maths", "other")
    excess, curves = frontier.excess(accuracy, *names), frontier.curves(accuracy, *names)
    theirs = authors.orders(accuracy, "maths")
    made = [
        figures.shares(summary, 0.1),
        figures.learning_and_forgetting(excess, curves, names),
        figures.excess(excess, 0.02),
        figures.orders(theirs),
    ]
    for one in made:
        assert one.svg().startswith("<svg") and one.caption and one.alt
    told = readings.of_excess(excess, 0.02)
    assert all(f"{arm}: " in told for arm in set(accuracy["arm"]) - {"baseline"})
    assert "to leave out 10% of the positions" in readings.of_shares(summary, 0.1)
    assert "Not trained here" in readings.of_orders(theirs, {})
    assert "rate-0.5: at its end" in readings.of_frontier(curves, names)
    assert "times as far" in readings.of_distances(summary)
    compared = readings.of_contrasts(claims.contrasts(accuracy, *names))
    assert "equal-loss-score against equal-loss-rkl: not trained in this run." in compared


def test_readings_and_figures_of_a_run_without_further_arms(accuracy, trainings, matched):
    some = accuracy[accuracy["arm"].isin(["baseline", "rock-freeze"]) & (accuracy.seed == 0)]
    own = trainings[trainings["arm"].isin(["baseline", "rock-freeze"]) & (trainings.seed == 0)]
    summary, names = shown.summary(own, matched.iloc[:0]), ("maths", "other")
    excess, curves = frontier.excess(some, *names), frontier.curves(some, *names)
    assert readings.of_shares(summary, 0.1) == readings.NO_ARMS
    assert "the frontier is that of one training" in readings.of_frontier(curves, names)
    assert "one seed: no conclusion" in readings.of_excess(excess, 0.02)
    for one in (
        figures.shares(summary, 0.1),
        figures.learning_and_forgetting(excess, curves, names),
        figures.excess(excess, 0.02),
    ):
        assert one.svg().startswith("<svg")
    alone = frontier.excess(some[some["arm"] == "baseline"], *names)
    assert "No arm can be compared" in readings.of_excess(alone, 0.02)
    assert "Too few arms" in readings.of_explained(shown.explained(excess, summary))


@pytest.mark.parametrize("direction", ["more", "less"])
def test_a_line_tells_which_way_an_arm_forgets(direction):
    lo, hi = (0.01, 0.05) if direction == "less" else (-0.05, -0.01)
    row = {"arm": "soft", "seeds": 3, "excess": (lo + hi) / 2, "excess_lo": lo, "excess_hi": hi}
    row |= {"excess_lo90": lo, "excess_hi90": hi, "beyond": False, "detectable": 0.02}
    told = readings.of_excess(pd.DataFrame([row]), 0.02)
    assert f"it forgets {direction} than a baseline that has learnt as much" in told


def test_claims_are_recorded_and_those_of_given_models_are_not_run(
    accuracy, trainings, matched, tmp_path
):
    names, summary = ("maths", "other"), shown.summary(trainings, matched)
    excess = frontier.excess(accuracy, *names)
    rows = claims.rows(excess, claims.contrasts(accuracy, *names), {}, 60, summary)
    run = Run(from_parameters("tiny"), tmp_path)
    table = records.claims(run, "09_what_to_freeze", rows).set_index("claim")
    findings = table[table.kind == verdicts.FINDING]
    given = claims.of_given_models()
    assert list(findings.index) == [row["claim"] for row in given]
    assert {row["direction"] for row in given} == {verdicts.NOT_RUN}
    assert table.direction["forgets-less-than-high-kl"] == verdicts.NOT_RUN
    assert "80% power from" in table.reason[claims.ROCKS]
    assert {"excess-rate-0.5", "left-out-equal-positions-score"} <= set(table.index)


def test_forgetting_needs_a_benchmark_that_training_does_not_use():
    config = from_parameters("tiny")
    assert claims.benchmarks(config) == ("lab_math", "lab_instruct")
    alone = config.model_copy(update={"benchmarks": config.benchmarks[:1]})
    with pytest.raises(StudyError, match="benchmarks: must hold one that training does not use"):
        claims.benchmarks(alone)
