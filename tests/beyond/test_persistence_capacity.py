"""Loss by cause: under other optimisers, and of a student of twice the width.

Against tables whose differences are known, closed forms, and the token table.
"""

import numpy as np
import pandas as pd
import pytest

from rockstudy.beyond.persistence import capacity, figures, interventions, readings, steps, wider
from rockstudy.beyond.persistence.texts import FixedTexts
from rockstudy.cli import dry_run
from rockstudy.config.identity import identity
from rockstudy.config.overrides import from_parameters
from rockstudy.errors import StudyError
from rockstudy.models import loading, sources
from rockstudy.rocks.steps import measured
from rockstudy.runs import Run
from rockstudy.training import stages

CAUSES = {"arithmetic": 30, "noise": 10, "": 5}  # positions of a prompt; the last has no cause
KEPT = {  # nats: ordinary before, after, wide before, after
    "arithmetic": (2.0, 1.0, 1.8, 0.4),
    "noise": (3.0, 1.5, 3.0, 1.5),
    "": (1.0, 0.5, 1.0, 0.7),
}


def sums(spread=0.0, prompts=40, seeds=(0, 1), rng=None):
    """Sums with the means `KEPT`; a prompt's loss of every student differs by a normal number."""
    rows = []
    for seed in seeds:
        for writer in ("ordinary", "wide", "teacher"):
            for prompt in range(prompts):
                for cause, count in CAUSES.items():
                    noise = spread * rng.normal(size=4) if spread else np.zeros(4)
                    found = dict(zip(capacity.LOSSES, count * (KEPT[cause] + noise), strict=True))
                    at = {"seed": seed, "writer": writer, "prompt_index": prompt}
                    rows.append(at | {"cause": cause, "count": count} | found)
    return pd.DataFrame(rows)


def test_differences_by_cause_are_those_that_were_put_in():
    made = capacity.by_cause(sums(), np.random.default_rng(0))
    by = made.set_index(["texts", "cause", "measure"]).value
    for texts in capacity.TEXTS:
        for cause in ("arithmetic", "noise"):
            for name, value in zip(capacity.LOSSES, KEPT[cause], strict=True):
                assert by[texts, cause, name] == pytest.approx(value)
        assert by[texts, "arithmetic", "cured"] == pytest.approx(0.6)
        assert by[texts, "arithmetic", "cured share"] == pytest.approx(0.6)
        assert by[texts, "arithmetic", "head start"] == pytest.approx(0.2)
        assert by[texts, "noise", "cured"] == pytest.approx(0.0)
        whole = 30 * 0.6 - 5 * 0.2  # positions without a cause count in all
        assert by[texts, "all", "cured"] == pytest.approx(whole / 45)
        assert by[texts, "arithmetic", "part"] == pytest.approx(30 * 0.6 / whole)
        assert by[texts, "all", "part"] == 1
    assert (made.n == 40).all() and (made.seeds == 2).all()
    assert set(made.cause) == {"arithmetic", "noise", "all"}


def test_texts_of_the_students_are_pooled_over_both_writers_and_never_the_teachers():
    one = sums()
    one.loc[one.writer == "wide", "wide_after"] = 0.0
    one.loc[one.writer == "teacher", "wide_after"] = 99.0
    made = capacity.by_cause(one, np.random.default_rng(0))
    by = made.set_index(["texts", "cause", "measure"]).value
    assert by["students", "arithmetic", "wide_after"] == pytest.approx(0.2)


def test_an_interval_covers_the_truth_as_often_as_it_says():
    rng, inside = np.random.default_rng(1), []
    for _ in range(60):
        made = capacity.by_cause(sums(0.5, seeds=(0,), rng=rng), rng)
        one = made[(made.texts == "teacher") & (made.cause == "arithmetic")]
        row = one[one.measure == "cured"].iloc[0]
        inside.append(row.lo <= 0.6 <= row.hi)
        expected = 1.96 * 0.5 * np.sqrt(2 / 40)  # the difference of two means over 40 prompts
        assert (row.hi - row.lo) / 2 == pytest.approx(expected, rel=0.5)
    assert np.mean(inside) > 0.85


def test_a_prompt_without_a_position_of_a_cause_and_a_cause_without_a_loss_are_no_error():
    some = sums()
    some = some[(some.cause != "noise") | (some.prompt_index > 3)]
    some.loc[some.cause == "noise", "ordinary_after"] = 0.0
    made = capacity.by_cause(some, np.random.default_rng(0))
    by = made.set_index(["texts", "cause", "measure"]).value
    assert by["teacher", "noise", "wide_after"] == pytest.approx(1.5)
    assert np.isnan(by["teacher", "noise", "cured share"])


def test_the_reading_names_the_causes_that_were_cured_and_no_others():
    made = capacity.by_cause(sums(0.05, rng=np.random.default_rng(2)), np.random.default_rng(0))
    told = readings.of_capacity(made)
    assert told.splitlines()[-1].endswith("both kinds of texts? arithmetic.")
    line = next(one for one in told.splitlines() if one.startswith("arithmetic:"))
    assert line.endswith("Capacity lowers it on both kinds of texts.") and "60% of it" in line
    noise = next(one for one in told.splitlines() if one.startswith("noise:"))
    assert noise.endswith("Not shown.")
    same = sums()
    same["wide_after"] = same["ordinary_after"]
    told = readings.of_capacity(capacity.by_cause(same, np.random.default_rng(0)))
    assert "do not differ as a whole" in told and told.endswith("none is shown.")


def ends(arm, of, seeds=(0, 1)):
    """Twenty folds with three causes, whose mean loss falls by `of` nats from 5."""
    rows = [
        {"fold": fold, "token_id": t, "cause": cause, "count": count, "start": 5.0 * count}
        | {"end": (5.0 - of[cause]) * count, "seed": seed, "arm": arm}
        for seed in seeds
        for fold in range(interventions.FOLDS)
        for cause, count in CAUSES.items()
        for t in (1, 2)
    ]
    return pd.DataFrame(rows)


def test_falls_by_cause_and_arm_are_those_that_were_put_in():
    falls = {
        "adamw": {"arithmetic": 1.0, "noise": 0.0, "": 2.0},
        "sgd": {"arithmetic": 3.0, "noise": 1.0, "": 1.0},
    }
    made = interventions.by_cause(
        pd.concat([ends(arm, of) for arm, of in falls.items()]), np.random.default_rng(0)
    )
    by = made.set_index(["arm", "cause", "measure"]).value
    whole = {arm: np.average(list(of.values()), weights=[30, 10, 5]) for arm, of in falls.items()}
    for arm, of in falls.items():
        for cause in ("arithmetic", "noise"):
            assert by[arm, cause, "fall"] == pytest.approx(of[cause], abs=1e-12)
            assert by[arm, cause, "ratio"] == pytest.approx(of[cause] / whole[arm], abs=1e-12)
    expected = 3.0 / whole["sgd"] - 1.0 / whole["adamw"]
    assert by["sgd", "arithmetic", "minus adamw"] == pytest.approx(expected)
    assert ("adamw", "noise", "minus adamw") not in by.index
    told = readings.of_arms_by_cause(made)
    assert "noise: falls by +0.000" in told and "sgd more" in told
    assert figures.arms_by_cause(made).caption


def test_falls_by_cause_do_not_change_where_an_arm_learns_more_of_everything():
    of = {"arithmetic": 1.0, "noise": 0.2, "": 2.0}
    twice = {cause: 2 * fall for cause, fall in of.items()}
    both = pd.concat([ends("adamw", of), ends("sgd", twice)])
    made = interventions.by_cause(both, np.random.default_rng(0))
    apart = made.value[made.measure == "minus adamw"]
    np.testing.assert_allclose(apart, 0, atol=1e-12)


def test_without_causes_there_are_no_rows_and_the_reading_says_so():
    none = ends("adamw", dict.fromkeys(CAUSES, 1.0)).assign(cause="")
    made = interventions.by_cause(none, np.random.default_rng(0))
    assert made.empty and "names no causes" in readings.of_arms_by_cause(made)
    assert figures.arms_by_cause(made).caption


# --- steps ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(from_parameters("tiny"), tmp_path_factory.mktemp("runs") / "tiny")


def test_the_wider_student_is_distilled_beside_the_student_and_read_on_the_same_tokens(run):
    assert wider.has_wider(run) == ""
    found = wider.losses(run, 0)
    counts = found.groupby("writer")["count"].sum()
    assert set(counts.index) == {"ordinary", "wide", "teacher"} and (counts > 0).all()
    assert set(found.prompt_index) <= set(measured(run).rollouts.prompt_index)
    four = wider.students(run)[0]
    sizes = {name: one.load().config.hidden_size for name, one in four.items()}
    assert sizes == dict(zip(capacity.LOSSES, (16, 16, 32, 32), strict=True))
    plain = stages.train(run, "stage2", seed=0).checkpoints["late"]
    assert four["ordinary_after"].folder == plain
    assert four["wide_before"].hash != four["wide_after"].hash
    made = wider.by_cause(run, wider.all_losses(run))
    assert figures.capacity(made).caption
    assert len(readings.of_capacity(made).splitlines()) == made.cause.nunique() + 2


def test_losses_of_a_checkpoint_are_those_of_its_own_model(run):
    models = {name: steps.load(one) for name, one in wider.students(run)[0].items()}
    teacher, written = measured(run).model("teacher"), measured(run).sampled("post")[0]
    frame, found = wider._positions(written, models, teacher)
    for name, student in models.items():
        texts = FixedTexts(written, np.arange(len(written)), student, teacher)
        np.testing.assert_array_equal(texts.losses(), found[name])
        assert texts.frame.equals(frame)


def test_a_study_without_a_wider_student_or_with_given_models_says_so(run, tmp_path):
    none = Run(from_parameters("lab"), tmp_path / "lab")
    assert "persistence__wider names none" in wider.has_wider(none)
    with pytest.raises(StudyError, match=r"persistence.wider must be a model beside"):
        from_parameters("tiny", persistence__wider="tiny:student")
    given = {"teacher": "tiny:teacher", "before": "tiny:student", "after": "tiny:student"}
    own = Run(from_parameters("own", models=given), tmp_path / "own")
    assert wider.has_wider(own).startswith("This run's models are given")


def test_a_wider_student_that_cannot_be_read_is_refused_before_anything_is_trained():
    config = from_parameters("tiny", persistence__wider="lab:student-huge")
    wrong = [check.wrong for check in dry_run.quick(config) if check.wrong]
    assert wrong and wrong[0].startswith("persistence__wider: must be one of lab:teacher")
    assert not [check.wrong for check in dry_run.quick(from_parameters("tiny")) if check.wrong]


def test_a_study_that_names_no_wider_student_is_the_study_it_was():
    config = from_parameters("lab")
    assert "wider" not in identity(config.persistence)
    assert config.wider_pair is None


def test_built_in_names_have_their_roles_and_their_own_weights():
    assert sources.role_of("lab:student-wide", "x") == "student-wide"
    assert sources.role_of("tiny:student", "x") == "student"
    pair, wide = loading.tiny_pair(), loading.load_model("tiny:student-wide", device="cpu")
    assert wide.config.hidden_size == 2 * pair.student.config.hidden_size
    assert loading.weights_hash(wide) != loading.weights_hash(pair.teacher)


def test_small_numbers_keep_the_digits_that_their_interval_has():
    def told(value, lo, hi):
        return readings._number(pd.Series({"value": value, "lo": lo, "hi": hi}))

    assert told(0.123456, 0.1, 0.2) == "+0.123 [+0.100, +0.200]"
    assert told(0.000123, 0.00005, 0.0002) == "+0.000123 [+0.000050, +0.000200]"
    assert told(-0.00001, -0.2, 0.3) == "+0.000 [-0.200, +0.300]"  # no zero has a sign of its own
    assert told(1.0, 1.0, 1.0) == "+1.000 [+1.000, +1.000]"
    assert told(np.nan, np.nan, np.nan) == "not defined"
