"""Stage 2 with other optimisers: what is kept, what is weighed, and the ratio of the falls."""

import numpy as np
import pandas as pd
import pytest
import torch

from rockstudy.beyond.persistence import interventions, readings, steps
from rockstudy.beyond.persistence.updates import Moments
from rockstudy.config.overrides import from_parameters
from rockstudy.errors import StudyError
from rockstudy.runs import Run
from rockstudy.store.files import read_tensors
from rockstudy.training import stages
from rockstudy.training import steps as training_steps
from rockstudy.training.arm import Arm
from rockstudy.training.optimizers import MOMENTS, Optimizer, read_moments
from rockstudy.training.position_weights import Batch


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(from_parameters("tiny"), tmp_path_factory.mktemp("runs") / "tiny")


def weights(folder):
    return read_tensors(folder / "model.safetensors")


@pytest.fixture(scope="module")
def adamw(run):
    """The baseline with its running means, kept after each of its last steps."""
    keep = {"second": 0.5, "third": 0.75, "late": 1.0}
    return training_steps.trained(run, Arm("adamw", optimizer=Optimizer("adamw"), keep=keep), 0)


def test_keeping_adamws_running_means_changes_no_weight(run, adamw):
    plain = stages.train(run, "stage2", seed=0).checkpoints["late"]
    assert (plain / "model.safetensors").read_bytes() == (
        adamw.checkpoints["late"] / "model.safetensors"
    ).read_bytes()
    assert not (plain / MOMENTS).exists()
    with pytest.raises(StudyError, match=r"late: must hold moments\.safetensors"):
        read_moments(plain)


def test_the_kept_running_means_give_the_step_that_training_took(run, adamw):
    before, after = (weights(adamw.checkpoints[name]) for name in ("second", "third"))
    found = read_moments(adamw.checkpoints["third"])
    for name, count in found["step"].items():
        assert int(count) == 3
        moments = Moments(found["exp_avg"][name], found["exp_avg_sq"][name], 3)
        moved = moments.step(run.config.stage("stage2").lr)
        torch.testing.assert_close(after[name] - before[name], moved, rtol=1e-3, atol=2e-8)


@pytest.mark.parametrize("kind", ["sgd", "adamw-tensor"])
def test_a_different_optimiser_trains_different_weights_from_the_same_start(run, adamw, kind):
    arm = Arm(f"other-{kind}", optimizer=Optimizer(kind), lr=2e-3)
    late = training_steps.trained(run, arm, 0).checkpoints["late"]
    other, base = weights(late), weights(adamw.checkpoints["late"])
    assert any(not torch.equal(other[name], base[name]) for name in base)
    assert set(read_moments(late)) == (
        {"momentum_buffer"} if kind == "sgd" else {"step", "exp_avg", "exp_avg_sq"}
    )


def test_the_arms_of_notebook_07_keep_the_names_of_their_folders(run):
    job = stages._Job(run, "stage2", 0, "baseline", None)
    assert "optimizer" not in job.describe()
    assert (
        stages._Job(run, "stage2", 0, "a", None, Optimizer("sgd")).describe()["optimizer"] == "sgd"
    )


def test_weights_of_types_are_1_on_average_and_give_each_type_the_same_sum():
    counts = pd.Series([100, 10, 1], index=[7, 3, 5])
    made = interventions.balanced(counts)
    ids = torch.tensor([[7] * 100 + [3] * 10 + [5]])
    w = made(Batch(ids, torch.ones_like(ids, dtype=torch.bool)), None)[0]
    assert float(w.mean()) == pytest.approx(1)
    sums = [float(w[ids[0] == i].sum()) for i in (7, 3, 5)]
    assert sums == pytest.approx([37, 37, 37])


def falls(arm, share, seed=0):
    """Forty prompts' folds, ten types of equal frequency; types 0 to 2 end highest.

    All others fall from 2 to 1 nats and the three by `share` of that.
    """
    end = np.where(np.arange(10) < 3, 2.0 - share, 1.0)
    rows = [
        {"fold": fold, "token_id": t, "count": 5, "start": 10.0, "end": 5 * end[t]}
        for fold in range(interventions.FOLDS)
        for t in range(10)
    ]
    return pd.DataFrame(rows).assign(arm=arm, seed=seed, cause="")


def test_the_ratio_of_falls_is_the_one_that_was_put_in():
    ends = pd.concat(
        [falls(arm, s, seed) for arm, s in {"adamw": 0.2, "sgd": 0.6}.items() for seed in (0, 1)]
    )
    made = interventions.ratios(ends, 3, np.random.default_rng(0))
    by = made.set_index(["arm", "choice", "measure"]).value
    expected = {arm: s / (0.3 * s + 0.7) for arm, s in {"adamw": 0.2, "sgd": 0.6}.items()}
    for choice in interventions.CHOICES:
        for arm, value in expected.items():
            assert by[arm, choice, "ratio"] == pytest.approx(value)
        assert by["sgd", choice, "minus adamw"] == pytest.approx(
            expected["sgd"] - expected["adamw"]
        )
    assert (made.n == 20).all() and (made.seeds == 2).all()


def test_rocks_that_are_chosen_by_chance_have_a_ratio_of_1_on_other_prompts():
    rng, found = np.random.default_rng(0), []
    for _ in range(30):
        some = falls("adamw", 1.0)
        some["end"] += rng.normal(0, 2, len(some))  # nothing is a rock
        made = interventions.ratios(some, 3, rng)
        found.append(made.value[made.measure == "ratio"].iloc[0])
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - 1) < 4 * error


def test_the_last_losses_are_those_of_the_last_window():
    logged = pd.DataFrame(
        {"step": [2, 2, 4, 4, 4], "token_id": [1, 2, 1, 2, 3], "count": [1, 1, 2, 4, 4]}
    ).assign(rkl_sum=[9.0, 9.0, 3.0, 4.0, 12.0])
    assert interventions.last_losses(logged, [1]) == (1.5, 2.0)
    assert np.isnan(interventions.last_losses(logged, [8])[0])


def test_a_wrong_checkpoint_and_arms_without_a_baseline_are_refused_in_one_line(run):
    def of(**given):
        return Run(from_parameters("tiny", **given), run.path)

    with pytest.raises(
        StudyError, match="persistence__checkpoints: must be one of early, late; got"
    ):
        steps.places(of(persistence__checkpoints=["half"]))
    with pytest.raises(StudyError, match=r"moments_at must hold late: 1\.0"):
        from_parameters("tiny", persistence__moments_at={"early": 0.5})
    with pytest.raises(StudyError, match="arms need moments_at"):
        from_parameters("tiny", persistence__moments_at={})


def test_steps_groups_and_moments_at_a_checkpoint_agree_with_each_other(run):
    sums = steps.moved(run, 0, "late")
    assert set(sums.group) <= set(steps.GROUPS)
    followed, others = steps.prompts(run)
    assert set(sums.prompt_index) == set(followed) and not set(followed) & set(others)
    small = sums[["phi_adamw", "real_adamw"]].sum()
    assert small.iloc[0] == pytest.approx(small.iloc[1], rel=0.2)  # a step is nearly linear
    found = steps.products(run, 0, "late")
    by = found[found.fold == found.other].groupby("by").n.sum()
    assert by.nunique() == 1  # groups and causes cover the same positions
    assert by.iloc[0] == sums["count"].sum()
    assert "No other optimiser" in steps.has_arms(
        Run(from_parameters("tiny", persistence__arms=[]), run.path)
    )
    assert readings.of_effects(steps.effects(run, sums), "late")


def test_what_is_not_defined_is_told_in_words():
    none = pd.DataFrame({"checkpoint": ["late"], "kept": [np.nan], "rebuilt": [0.5]})
    told = readings.of_rebuilt(none)
    assert "late: not defined from the kept ones, +0.50 from rebuilt." in told
    some = pd.DataFrame({"checkpoint": ["early"], "kept": [0.25], "rebuilt": [0.5]})
    assert "differ by at most 0.25" in readings.of_rebuilt(pd.concat([none, some]))
    assert "nan" not in told


def test_given_checkpoints_are_measured_without_any_training(run, tmp_path):
    last = stages.train(run, "stage2", seed=0).checkpoints
    before = training_steps.stage1(run).checkpoints["late"]
    models = {"teacher": "tiny:teacher", "before": str(before), "after": str(last["late"])}
    models |= {"between": {"early": str(last["early"])}}
    same = ("seed", "evaluation", "statistics", "rocks", "knockout", "screen")
    values = {name: getattr(run.config, name) for name in same}
    how = {"persistence__batch": 4, "persistence__batches": 1, "persistence__rebuilt": 2}
    prompts = run.config.benchmarks[0].model_dump()
    config = from_parameters("own", models=models, prompts=prompts, **values, **how)
    given = Run(config, tmp_path / "given")
    assert steps.places(given) == [(0, "pre"), (0, "early"), (0, "post")]
    sums = steps.moved(given, 0, "post")
    assert (sums.phi_sgd.sum() > 0) and "phi_rebuilt" not in sums
    assert "rebuilt" in readings.of_rebuilt(steps.check_of_rebuilt(given, sums))
    assert steps.has_arms(given).startswith("This run's models are given")
    assert not (given.path / "training").exists()
