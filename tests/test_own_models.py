"""Models that somebody else trained: measured like those of a run, without any training."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import rockstudy as rs
from rockstudy import runs, tasks
from rockstudy.cli import main, measure, running
from rockstudy.config import study_file
from rockstudy.config.fields import ModelsConfig
from rockstudy.config.identity import differences, identity
from rockstudy.config.overrides import changed, from_parameters
from rockstudy.config.presets import PRESETS
from rockstudy.errors import StudyError
from rockstudy.gradients import steps as gradients_steps
from rockstudy.knockout import steps as knockout_steps
from rockstudy.models.checkpoints import steps
from rockstudy.report import summary
from rockstudy.rocks import steps as steps_of_rocks
from rockstudy.rocks.steps import measured
from rockstudy.runs import Run
from rockstudy.sampling import mismatch
from rockstudy.training import steps as training_steps

SAME = ("seed", "evaluation", "statistics", "rocks", "knockout", "screen")  # in both studies


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny run whose student is trained."""
    run = Run(from_parameters("tiny"), tmp_path_factory.mktemp("runs") / "tiny")
    training_steps.first_baseline(run)
    return run


@pytest.fixture(scope="module")
def folders(trained):
    """The folders of its checkpoints by the names of `[models]`."""
    last = training_steps.first_baseline(trained).checkpoints
    before = training_steps.stage1(trained).checkpoints["late"]
    return {"before": str(before), "after": str(last["late"]), "early": str(last["early"])}


@pytest.fixture(scope="module")
def config(trained, folders):
    """Those checkpoints as given models, and the run's benchmark as prompts."""
    values = {name: getattr(trained.config, name) for name in SAME}
    models = {"teacher": "tiny:teacher", "before": folders["before"], "after": folders["after"]}
    models |= {"between": {"early": folders["early"]}}
    prompts = trained.config.benchmarks[0].model_dump()
    return from_parameters("own", models=models, prompts=prompts, **values)


@pytest.fixture(scope="module")
def own(config, tmp_path_factory):
    return Run(config, tmp_path_factory.mktemp("runs") / "own")


def test_given_models_take_the_place_of_the_pair_and_prompts_that_of_benchmarks(config, folders):
    assert (config.pair.teacher, config.pair.student) == ("tiny:teacher", folders["before"])
    assert [task.label for task in config.benchmarks] == ["lab_math"]
    assert config.stage1 is config.stage2 is config.train_task is None
    assert config.main_benchmark == "lab_math"


def test_a_record_gives_the_same_configuration(config):
    record = json.loads(json.dumps(config.model_dump(mode="json")))
    assert type(config).model_validate(record) == config


def test_a_printed_file_gives_the_same_configuration(config, tmp_path):
    file = tmp_path / "mine.toml"
    text = study_file.text(config)
    file.write_text(text)
    assert from_parameters(str(file)) == config
    assert "[stage2]" not in text and "[pair]" not in text


def test_fields_that_were_added_later_are_in_no_key_at_their_defaults():
    assert "student_gguf_file" not in identity(PRESETS["lab"].pair)
    assert "models" not in identity(PRESETS["lab"])


def test_the_numbers_are_those_of_the_training_path_byte_for_byte(trained, own):
    theirs, ours = measured(trained), measured(own)
    pd.testing.assert_frame_equal(theirs.tokens, ours.tokens, check_exact=True)
    pd.testing.assert_frame_equal(theirs.detection.types, ours.detection.types, check_exact=True)
    for step in (gradients_steps.losses, gradients_steps.groups):
        pd.testing.assert_frame_equal(step(trained), step(own), check_exact=True)
    one, two = (knockout_steps.candidates(run) for run in (trained, own))
    pd.testing.assert_frame_equal(one, two)
    screens = [knockout_steps.screen(run, one) for run in (trained, own)]
    first = screens[0][screens[0].benchmark == "lab_math"].reset_index(drop=True)
    pd.testing.assert_frame_equal(first, screens[1], check_exact=True)


def test_nothing_is_trained_and_nothing_is_written_outside_the_run(own, folders):
    before = {one: sorted(Path(one).iterdir()) for one in folders.values()}
    assert len(measured(own).tokens)
    assert not (own.path / "training").exists()
    assert before == {one: sorted(Path(one).iterdir()) for one in folders.values()}


@pytest.fixture(scope="module")
def logged(own, tmp_path_factory):
    """The run's rollouts in a file, with the student's log-probabilities; those of one are off."""
    made = measured(own).rollouts
    exact = mismatch.log_probs(measured(own).model("post"), made)
    file = tmp_path_factory.mktemp("logged") / "rollouts.jsonl"
    rows = []
    for row in range(len(made)):
        mask = made.mask[row]
        rows.append(
            {
                "prompt_ids": made.prompt_ids[made.prompt_index[row]].tolist(),
                "completion_ids": made.completion_ids[row][mask].tolist(),
                "logprobs": np.minimum(exact[row][mask] - 0.1 * (row == 0), 0).tolist(),
            }
        )
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def test_rollouts_as_given_are_measured_and_none_are_sampled(own, logged, tmp_path):
    run = Run(changed(own.config, {"rollouts__path": str(logged)}), tmp_path / "given")
    ours, theirs = measured(run), measured(own)
    expected = theirs.tokens.drop(columns=["cause"], errors="ignore")
    pd.testing.assert_frame_equal(ours.tokens[expected.columns], expected, check_exact=True)
    losses = gradients_steps.losses(run)
    assert losses.early_own.isna().all() and losses["count"].sum() == len(expected)
    assert not (run.path / "rollouts").exists()


def test_logged_log_probabilities_are_compared_with_the_students_own(own, logged, tmp_path):
    run = Run(changed(own.config, {"rollouts__path": str(logged)}), tmp_path / "given")
    table = steps_of_rocks.log_probabilities(run)
    off = (table.prompt_index == 0) & (table.sample_index == 0)
    assert table.difference[~off].abs().max() < 1e-4
    assert table.difference[off].mean() == pytest.approx(0.1, abs=0.02)
    assert "log-probabilities" in steps_of_rocks.reading_of_mismatch(run)
    assert "sampled by this run" in steps_of_rocks.reading_of_mismatch(own)


def test_rollouts_alone_leave_out_the_notebooks_that_grade(own, logged):
    alone = changed(PRESETS["own"], {"rollouts__path": str(logged)})
    assert alone.benchmarks[0].path == str(logged)
    every = [Path(f"{name}.ipynb") for name in (*running.GRADING, "02_rock_tokens")]
    assert [path.stem for path in running.applicable(every, False, alone)] == ["02_rock_tokens"]
    with pytest.raises(StudyError, match=r"grades nothing.*got '05_causal_knockout'"):
        running.applicable([Path("05_causal_knockout.ipynb")], True, alone)


def test_without_a_checkpoint_named_early_the_student_before_is_compared(config, tmp_path):
    models = config.models.model_copy(update={"between": {}})
    run = Run(type(config).model_validate(dict(config) | {"models": models}), tmp_path / "two")
    assert (measured(run).names, measured(run).early) == (["pre", "post"], "pre")
    losses = gradients_steps.losses(run)
    assert np.allclose(losses.early * losses["count"], _sums(run), rtol=1e-5)


def _sums(run):
    tokens = measured(run).tokens
    return tokens.groupby("token_id").rkl_pre.sum().to_numpy()


def test_losses_along_given_checkpoints_are_those_of_their_columns(own):
    chosen = gradients_steps.groups(own)
    along = gradients_steps.along(own, chosen)
    tokens = measured(own).tokens
    of_rocks = tokens[tokens.token_id.isin(chosen.token_id[chosen.group == "rock"])]
    expected = [of_rocks[f"rkl_{name}"].mean() for name in ("pre", "early", "post")]
    found = along[along.group == "rock"]
    assert found.step.tolist() == [0, 1, 2]
    assert found.rkl.to_numpy() == pytest.approx(expected, rel=1e-5)


def test_checkpoints_with_steps_are_ordered_by_them_and_without_one_by_place():
    models = {"teacher": "a", "before": "b", "after": {"name": "c", "at_step": 90}}
    between = {"x": {"name": "d", "at_step": 60}, "y": {"name": "e", "at_step": 30}}
    of = ModelsConfig.model_validate
    assert steps(of(models | {"between": between})) == {"pre": 0, "y": 30, "x": 60, "post": 90}
    between["x"].pop("at_step")
    assert steps(of(models | {"between": between})) == {"pre": 0, "x": 1, "y": 2, "post": 3}


def test_every_given_model_is_graded(own):
    outcomes = training_steps.pair_accuracy(own)
    assert set(outcomes.model) == {"teacher", "student", "post", "early"}


def test_a_step_that_trains_is_one_line(own):
    with pytest.raises(StudyError, match="stage1: must be trained by the run"):
        training_steps.stage1_metrics(own)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"pair__dtype": "float32"}, "pair__dtype: must be left out where models are given"),
        ({"benchmarks__0__n_eval": 3}, "benchmarks__0__n_eval: must be left out where prompts"),
        ({"models__after": 3}, "models__after: must be a mapping of its fields; got 3"),
        ({"models__before__name": ""}, "models__before__name: must be text of length >= 1; got ''"),
        ({"models__between": {"post": "x"}}, "models__between: names must differ from pre, post"),
        ({"stage2__steps": 3}, "stage2__steps: must be left out where there is no stage2; got 3"),
        ({"stage1": PRESETS["lab"].stage1}, "stage1 must be None, since models are not trained"),
    ],
)
def test_a_wrong_value_is_one_line(values, line):
    with pytest.raises(StudyError) as error:
        from_parameters("own", **values)
    assert line in str(error.value)


def test_a_study_that_trains_needs_its_stages_and_takes_no_prompts_alone():
    lab = PRESETS["lab"]
    with pytest.raises(ValueError, match="stage2 must be given where no models are"):
        type(lab).model_validate(dict(lab) | {"stage2": None})
    with pytest.raises(ValueError, match="prompts must come with models"):
        type(lab).model_validate(dict(lab) | {"prompts": lab.benchmarks[0]})
    with pytest.raises(StudyError, match="models__after: must be left out where there is no mod"):
        from_parameters("lab", models__after="x")


def test_the_path_of_a_gguf_file_names_its_folder_and_file():
    after = from_parameters("own", models__after="some/where/a.gguf").models.after
    assert (after.name, after.gguf_file) == ("some/where", "a.gguf")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ROCKSTUDY_HOME", str(tmp_path))
    return tmp_path


def _refused(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main.main(arguments)
    assert stopped.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line]
    return line


def test_models_that_are_not_there_are_refused_before_anything_is_recorded(home, capsys):
    line = _refused(["run", "02", "--preset", "own"], capsys)
    assert line.startswith("rockstudy: models__teacher: must be a Hub id, an existing folder")
    assert not (home / "runs" / "own").exists()


def test_a_notebook_that_trains_is_refused_by_name(home, capsys):
    line = _refused(["run", "02", "07", "--preset", "own"], capsys)
    assert line.startswith("rockstudy: notebook: must be one that trains nothing")
    assert line.endswith("got '07_selective_distillation'")
    assert not (home / "runs" / "own").exists()


@pytest.fixture(scope="module")
def models(folders):
    given = {name: folders[name] for name in ("before", "after")}
    between = {"early": folders["early"]}
    return rs.checkpoints(teacher="tiny:teacher", **given, between=between)


def test_the_functions_give_what_a_run_gives(own, models):
    corpus = measured(own)
    tokens = rs.token_table(models, corpus.rollouts)
    expected = corpus.tokens.drop(columns=["cause"], errors="ignore")
    pd.testing.assert_frame_equal(tokens, expected[tokens.columns], check_exact=True)
    found = rs.rocks(tokens, corpus.rollouts, models, **own.config.rocks.model_dump())
    known = corpus.detection
    pd.testing.assert_frame_equal(found.types[known.types.columns], known.types)
    assert found.rocks() == known.rocks() and found.types.text.notna().all()


def test_a_viewer_shows_what_the_functions_measure(own, models, tmp_path):
    rollouts, tokens = measured(own).rollouts, measured(own).tokens
    found = rs.rocks(tokens, rollouts, models, **own.config.rocks.model_dump())
    half = np.full(rollouts.mask.shape, 0.5, np.float32)
    how = {"rows": [1, 0], "weights": {"mine": half}, "prompts": ["?"] * rollouts.n_prompts}
    made = rs.view(models, rollouts, tokens, found, **how)
    data = json.loads(made.html.partition('id="data">')[2].partition("</script>")[0])
    assert [one["prompt"] for one in data["rollouts"]] == rollouts.prompt_index[:2].tolist()
    assert "Weight in mine" in [one["label"] for one in data["measures"]]
    assert data["prompts"] == ["?"] and made.save(tmp_path / "x.html").is_file()
    spread = rs.view(models, rollouts, tokens, found, n=3).html
    assert spread.count('"loss_post":') == 3
    for wrong, line in (
        ({"rows": [len(rollouts)]}, "rows: must be rollouts with a token"),
        ({"weights": {"mine": half[:1]}}, "weights mine: must have the shape"),
        ({"prompts": []}, "prompts: must have a text for each"),
    ):
        with pytest.raises(StudyError, match=line):
            rs.view(models, rollouts, tokens, found, **wrong)


def test_a_knockout_gives_the_delta_of_the_screen(own, models):
    task, how = own.config.benchmarks[0], own.config.knockout
    problems = tasks.load(task, "eval")
    chosen = knockout_steps.candidates(own)
    screen = knockout_steps.screen(own, chosen).query("level == 'token'")
    with measured(own).sampler("post", how) as student:
        base, _ = knockout_steps.baseline(own, task, student)

    def grade(prompt, text):
        return bool(tasks.grade(task, [problems[prompt]], [text])[0])

    given = {"max_new_tokens": how.max_new_tokens, "seed": own.config.seed}
    deltas = rs.knockout(models, base, screen.target, grade, **given)
    assert (deltas.completions.to_numpy() == screen.completions.to_numpy()).all()
    assert deltas.delta.to_numpy() == pytest.approx(screen.delta.to_numpy(), abs=1e-12)


def test_a_knockout_needs_the_limit_of_its_rollouts_and_as_many_completions_of_each_prompt(models):
    rollouts = rs.sample(models, ["What is 1 + 2?", "What is 3 + 4?"], samples=2, max_new_tokens=8)
    ended = replace(rollouts, stopped=np.ones(len(rollouts), bool))
    with pytest.raises(StudyError, match="max_new_tokens: must be given where no rollout was cut"):
        rs.knockout(models, ended, [5], lambda i, text: True)
    columns = ("completion_ids", "mask", "prompt_index", "sample_index", "stopped")
    fewer = replace(rollouts, **{name: getattr(rollouts, name)[1:] for name in columns})
    with pytest.raises(StudyError, match="as many completions of each prompt; got 1 to 2"):
        rs.knockout(models, fewer, [5], lambda i, text: True, max_new_tokens=8)
    with pytest.raises(StudyError, match="knockout__temperature: must be"):
        wrong = {"max_new_tokens": 8, "temperature": -1.0}
        rs.knockout(models, rollouts, [5], lambda i, text: True, **wrong)


def test_measuring_rollouts_alone_samples_and_grades_nothing(own, logged, tmp_path):
    run = Run(changed(own.config, {"rollouts__path": str(logged)}), tmp_path / "given")
    alone = run.config.prompts.model_copy(update={"path": str(logged), "name": "prompts"})
    config = type(run.config).model_validate(dict(run.config) | {"prompts": alone})
    assert not config.has_prompts
    run = Run(config, tmp_path / "given")
    measure.data(run)
    measure.statistics(run)
    stages = {path.name for path in run.path.iterdir() if path.is_dir()}
    assert stages == {"tables", "tokens"}


def test_prompts_are_sampled_as_text_or_as_messages(models):
    prompts = ["What is 1 + 2?", [{"role": "user", "content": "What is 1 + 2?"}]]
    rollouts = rs.sample(models, prompts, samples=2, max_new_tokens=8)
    assert len(rollouts) == 4 and (rollouts.lengths <= 8).all()
    assert rollouts.prompt_ids[0].tolist() == rollouts.prompt_ids[1].tolist()


def test_rooms_of_the_same_name_are_called_as_functions():
    assert callable(rs.rocks) and callable(rs.knockout)
    with pytest.raises(StudyError, match="rocks__k: must be"):
        rs.rocks(pd.DataFrame(), None, k=-1.0)


@pytest.mark.parametrize("name", ["views", "_private"])
def test_an_unknown_name_of_the_package_is_an_attribute_error(name):
    with pytest.raises(AttributeError, match=name):
        getattr(rs, name)


def test_an_unknown_model_is_one_line(models):
    with pytest.raises(StudyError, match="model: must be one of teacher, before, after, early"):
        rs.sample(models, ["x"], by="befor", max_new_tokens=2)


def test_a_reference_and_a_run_of_given_models_differ_in_nothing_but_the_record(own):
    runs._record(own.path, own.config, None)
    assert runs.opened(own.path).config == own.config


def test_the_difference_of_two_runs_of_given_models_names_what_was_given(config, folders):
    other = changed(config, {"models__after": folders["before"], "prompts__n_eval": 3})
    assert differences(config, other) == {
        "models__after__name": (folders["after"], folders["before"]),
        "prompts__n_eval": (8, 3),
    }
    moved = changed(config, {"models__between": {"early": folders["before"]}})
    assert list(differences(config, moved)) == ["models__between__early__name"]


def test_claims_that_need_training_are_not_run_and_the_gain_is_that_of_the_graded_models(own):
    training_steps.pair_accuracy(own)
    table = summary.claims(own).set_index("claim")
    assert (table.loc[["rock-freeze-keeps-accuracy"], "direction"] == "not run").all()
    graded = training_steps.pair_accuracy(own).groupby("model").correct.mean()
    found = table.loc["opd-accuracy-rises", "value"]
    assert found == pytest.approx(graded["post"] - graded["student"])


def test_weights_leave_the_rocks_out_of_a_loss(own):
    found = measured(own).detection
    ids = torch.from_numpy(measured(own).rollouts.completion_ids).long()
    mask = torch.from_numpy(measured(own).rollouts.mask)
    of_rocks = torch.isin(ids, torch.tensor(sorted(found.rocks().ids)))
    made = rs.weights(found, dose=0.25)(ids, mask)
    assert (made == torch.where(of_rocks, 0.25, 1.0) * mask).all() and (of_rocks & mask).any()
