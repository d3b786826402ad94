"""Places, choices and outcomes of a tiny run; resume; given models; what is refused."""

import json

import numpy as np
import pandas as pd
import pytest

from rockstudy.beyond.teacher_help import continuations, effects, steps
from rockstudy.config.overrides import changed, from_parameters
from rockstudy.errors import StudyError
from rockstudy.knockout import steps as knockout_steps
from rockstudy.runs import Run
from rockstudy.sampling.rollout import Rollouts
from rockstudy.training import steps as training_steps

SAME = ("seed", "evaluation", "statistics", "rocks", "knockout", "screen", "teacher_help")
MORE = {"rocks__k": 12, "screen": 12, "teacher_help__occurrences": 9}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run with enough rocks that some are in its completions."""
    return Run(from_parameters("tiny", **MORE), tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="module")
def chosen(run):
    return knockout_steps.candidates(run)


@pytest.fixture(scope="module")
def places(run, chosen):
    return steps.places(run, chosen)


@pytest.fixture(scope="module")
def outcomes(run, places):
    return steps.outcomes(run, places)


def test_places_stand_for_all_occurrences_of_rocks_and_controls(run, chosen, places):
    pairs = chosen[chosen.level == "control"]
    groups = {"rock": set(pairs.paired_with), "control": set(pairs.target)}
    assert set(places.seed) <= {0, 1} and len(places)
    for (seed, group, right), some in places.groupby(["seed", "group", "right"]):
        made = steps.answered(run, seed)
        every = {
            (row, t)
            for row in range(len(made))
            for t in range(made.lengths[row])
            if made.completion_ids[row, t] in groups[group] and made.correct[row] == right
        }
        mine = set(zip(some.row, some.position, strict=True))
        assert len(mine) == len(some) == min(9, len(every)) and mine <= every
        assert some.weight.sum() == pytest.approx(len(every))
        ids = made.completion_ids[some.row, some.position]
        assert (ids == some.token_id).all()
        assert (made.prompt_index[some.row] == some.prompt_index).all()
    assert (places.rkl >= 0).all() and places.tv.between(0, 1).all()
    draws = run.config.teacher_help.continuations
    assert {len(ids) for name in steps.choices.DRAWN for ids in places[name]} == {draws}


def test_both_sides_are_drawn_apart_and_equally_likely():
    ids = np.tile(np.array([5, 6, 7, 5], np.int32), (40, 1))
    correct = np.arange(40) < 10
    made = Rollouts(
        [np.array([1])] * 40, ids, np.ones_like(ids, bool), np.arange(40, dtype=np.int32),
        np.zeros(40, np.int16), np.ones(40, bool), correct,
    )  # fmt: skip
    groups, rng = {5: "rock", 7: "control"}, np.random.default_rng(0)
    some = steps.draw_places(made, groups, 12, rng)
    counts = some.groupby(["group", "right"]).weight.agg(["size", "sum"])
    assert counts.loc[("rock", True)].tolist() == [12, 20]
    assert counts.loc[("rock", False)].tolist() == [12, 60]
    assert counts.loc[("control", True)].tolist() == [10, 10]
    seen = np.zeros((40, 4))
    for _ in range(200):
        one = steps.draw_places(made, groups, 12, rng)
        seen[one.row, one.position] += 1
    rates = seen[:10, [0, 3]] / 200  # 12 of 20
    assert rates.mean() == pytest.approx(0.6) and np.abs(rates - 0.6).max() < 0.15
    assert (seen[:, 1] == 0).all()


def test_outcomes_have_a_row_for_each_place_and_draw(run, places, outcomes):
    draws = run.config.teacher_help.continuations
    assert outcomes.place.tolist() == np.repeat(np.arange(len(places)), draws).tolist()
    assert outcomes.continuations.between(2, 6).all()
    plan = continuations.planned(places)
    assert outcomes.continuations.sum() == plan.number.nunique()
    some = effects.of_places(places, outcomes)
    table = effects.table(some)
    assert set(table.measure) == set(effects.MEASURES)


def test_a_killed_step_goes_on_and_ends_the_same(run, places, outcomes, tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "PIECE", 3)
    cut = Run(run.config, tmp_path / "cut", parents=(run.path,))
    real, calls = continuations.written, []

    def killed(*given):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*given)

    for file in (run.path / "knockout").glob("help-*"):
        file.rename(file.with_name(f"kept-{file.name}"))
    table = next((run.path / "tables").glob("beyond.teacher_help.outcomes*.json"))
    hidden = table.rename(table.with_suffix(".hidden"))
    monkeypatch.setattr(continuations, "written", killed)
    with pytest.raises(KeyboardInterrupt):
        steps.outcomes(cut, places)
    before = len(calls)
    again = steps.outcomes(cut, places)
    hidden.rename(table)
    pieces = sum(-(-len(some) // 3) for _, some in places.groupby("seed"))
    assert len(calls) - before == pieces - 2
    pd.testing.assert_frame_equal(again, outcomes)


def test_of_given_models_there_is_one_student_with_the_same_places(
    run, chosen, places, outcomes, tmp_path
):
    last = training_steps.first_baseline(run).checkpoints
    before = training_steps.stage1(run).checkpoints["late"]
    models = {"teacher": "tiny:teacher", "before": str(before), "after": str(last["late"])}
    models["between"] = {"early": str(last["early"])}
    values = {name: getattr(run.config, name) for name in SAME}
    prompts = run.config.benchmarks[0].model_dump()
    own = Run(from_parameters("own", models=models, prompts=prompts, **values), tmp_path / "own")
    found = steps.places(own, chosen)
    first = places[places.seed == 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, first)
    made = steps.outcomes(own, found)
    pd.testing.assert_frame_equal(made, outcomes[outcomes.place < len(first)])
    examples = steps.examples(own, effects.of_places(found, made))
    assert len(examples) <= steps.SHOWN and set(examples.columns) >= {"before", "best", "rkl"}


def test_prompts_without_answers_are_refused_in_one_line(run, chosen, tmp_path):
    file = tmp_path / "questions.jsonl"
    file.write_text(json.dumps({"prompt": "What is 1 + 2?"}))
    task = {"name": "prompts", "path": str(file), "n_eval": 1, "max_prompt_tokens": 64}
    values = {name: getattr(run.config, name) for name in SAME}
    models = dict.fromkeys(("teacher", "before", "after"), "tiny:teacher")
    config = from_parameters("own", models=models, prompts=task, **values)
    with pytest.raises(StudyError, match="benchmarks: questions must have answers to be graded"):
        steps.places.__wrapped__(Run(config, tmp_path / "own"), chosen)


def test_rocks_without_a_control_are_refused(chosen):
    with pytest.raises(StudyError, match="rocks__k: must leave a rock that is no special token"):
        steps.groups_of(chosen[chosen.level == "token"])


def test_a_run_in_which_no_rock_is_written_has_empty_tables(run, chosen, places, tmp_path):
    other = chosen.assign(target=chosen.target + 0)
    absent = sorted(set(range(2, 400)) - set(np.unique(steps.answered(run, 0).completion_ids)))
    absent = [i for i in absent if i not in set(np.unique(steps.answered(run, 1).completion_ids))]
    control = other.level == "control"
    other.loc[control, "target"] = absent[0]
    other.loc[control, "paired_with"] = absent[1]
    none = steps.places(run, other)
    assert none.empty and list(none.columns) == list(places.columns)
    made = steps.outcomes(run, none)
    assert made.empty
    some = effects.of_places(none, made)
    assert effects.table(some).empty and steps.examples(run, some).empty


def test_a_single_continuation_is_refused():
    with pytest.raises(StudyError, match="teacher_help__continuations: must be"):
        changed(from_parameters("tiny"), {"teacher_help__continuations": 1})


def test_counts_of_places_are_those_of_each_group_and_side(places, outcomes):
    table = effects.counted(effects.of_places(places, outcomes))
    assert table.places.sum() == len(places) and table.of.sum() == pytest.approx(
        places.weight.sum()
    )
    (group, side), one = next(iter(table.iterrows()))
    mine = places[(places.group == group) & (places.right == effects.SIDES[side])]
    assert one.kl == pytest.approx(mine.rkl.mean()) and one.differ == pytest.approx(mine.tv.mean())
