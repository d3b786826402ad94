"""A run owns its parameters, and nothing that was trained or sampled is lost or trained twice."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest

from rockstudy import paths, progress, runs
from rockstudy.config.presets import PRESETS
from rockstudy.errors import StudyError
from rockstudy.knockout import steps as knockout_steps
from rockstudy.rocks import steps as rock_steps
from rockstudy.runs import Run, open_run
from rockstudy.store import cache
from rockstudy.training import steps as training_steps

ONE_SEED = {"seeds": [0], "stage2__steps": 2, "evaluation__n_prompts": 2, "knockout__n_prompts": 2}


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    """A home with the run `mine`: tiny, one seed, two steps of stage 2."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROCKSTUDY_HOME", str(folder))
        run = open_run("tiny", "mine", overrides=ONE_SEED)
        training_steps.metrics(run)
        rock_steps.types(run)
        yield folder


@pytest.fixture
def mine():
    return open_run(run_id="mine")


def trained(run_id):
    """Trainings and samples of a run, with the time of their last change."""
    folder = paths.run_dir(run_id)
    found = [p for s in ("training", "rollouts", "evaluation") for p in (folder / s).rglob("*")]
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in found if p.is_file()}


def files(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- parameters -----------------------------------------------------------------------------------


def test_the_name_of_a_run_is_enough_to_open_it(mine):
    assert mine.config.stage2.steps == 2 and mine.config.preset == "tiny"
    assert json.loads((mine.path / "run.json").read_text())["config"]["stage2"]["steps"] == 2


def test_a_preset_that_agrees_with_the_record_reads_it_and_trains_nothing(mine):
    before = trained("mine")
    again = open_run("tiny", "mine")
    assert again.config == mine.config
    training_steps.metrics(again)
    assert trained("mine") == before


@pytest.mark.parametrize(
    ("preset", "given", "told"),
    [
        (None, {"stage2__steps": 3}, "stage2__steps 2 (given 3)"),
        ("tiny", {"rocks__k": 2, "screen": 4}, "rocks__k 3 (given 2), screen 6 (given 4)"),
        ("lab", {}, 'preset "tiny" (given "lab")'),
    ],
)
def test_values_that_differ_from_the_record_are_one_line_with_both_ways_on(preset, given, told):
    before = files(paths.run_dir("mine"))
    with pytest.raises(StudyError) as raised:
        open_run(preset, "mine", overrides=given)
    line = str(raised.value)
    assert told in line and "--from mine" in line and "leave these out" in line
    assert "\n" not in line
    assert files(paths.run_dir("mine")) == before


def test_what_cannot_change_a_result_may_be_changed_and_recomputes_nothing(mine):
    before = trained("mine")
    smaller = open_run(run_id="mine", overrides={"statistics__batch_size": 3})
    assert smaller.config.statistics.batch_size == 3
    assert open_run(run_id="mine").config.statistics.batch_size == 3
    rock_steps.types(smaller)
    assert trained("mine") == before


def test_a_wrong_value_leaves_no_run_behind():
    with pytest.raises(StudyError, match="stage2__steps"):
        open_run("tiny", "never", overrides={"stage2__steps": -1})
    with pytest.raises(StudyError, match="prompts"):
        open_run("tiny", "never", check=lambda config: _refuse("prompts: cannot be read"))
    assert not paths.run_dir("never").exists()


def _refuse(line):
    raise StudyError(line)


def test_a_folder_without_a_record_is_not_trusted(home):
    cache.save(home / "runs" / "old" / "tables" / "t", pd.DataFrame({"x": [1]}), config={})
    with pytest.raises(StudyError, match="has no record of its parameters"):
        open_run("tiny", "old")


def test_overrides_must_be_a_mapping():
    with pytest.raises(StudyError, match="overrides: must be a mapping"):
        open_run("tiny", "never", overrides='{"rocks__k": 2}')


# --- another run from it --------------------------------------------------------------------------


def test_a_run_from_another_trains_nothing_and_leaves_the_old_one_as_it_was(mine, capsys):
    before = files(mine.path)
    run = open_run(run_id="more", overrides={"rocks__k": 2}, from_run="mine")
    types, outputs = rock_steps.types(run), rock_steps.outputs(run)
    training_steps.metrics(run)
    assert len(rock_steps.rock_set(run, types)) == 2 and len(outputs)
    assert set(trained("more")) <= set(trained("mine"))
    assert {p: d for p, d in files(mine.path).items() if p in before} == before
    assert "step" not in capsys.readouterr().err  # no bar of a training


def test_what_is_taken_over_is_linked_and_outlives_the_old_run(mine):
    run = open_run(run_id="linked", from_run="mine")
    training_steps.metrics(run)
    (checkpoint,) = run.path.glob("training/stage2-*/late/model.safetensors")
    assert os.stat(checkpoint).st_nlink >= 2


def test_a_changed_training_is_another_artefact_next_to_what_is_taken_over():
    run = open_run(run_id="faster", overrides={"stage2__lr": 0.01}, from_run="mine")
    training_steps.metrics(run)
    stage1 = next(run.path.glob("training/stage1-*/late/model.safetensors"))
    assert os.stat(stage1).st_nlink >= 2
    assert len(list(run.path.glob("training/stage2-*.json"))) == 1
    assert len(list(paths.run_dir("mine").glob("training/stage2-*.json"))) == 1


def test_a_run_that_is_not_there_cannot_be_taken_over():
    with pytest.raises(StudyError, match=r"--from: must be one of .*mine.*; got 'nobody'"):
        open_run(run_id="never", from_run="nobody")


# --- keys -----------------------------------------------------------------------------------------


def test_a_table_of_fewer_candidates_is_another_table(mine):
    chosen = knockout_steps.candidates(mine)
    few = chosen[chosen["rank"] <= 2]
    whole, part = knockout_steps.screen(mine, chosen), knockout_steps.screen(mine, few)
    assert set(part.target) == set(few.target) < set(whole.target)
    pd.testing.assert_frame_equal(knockout_steps.screen(mine, chosen), whole)
    groups = pd.DataFrame({"group": ["a", "b"], "token_id": [1, 2]})
    assert runs.content([groups]) != runs.content([groups[:1]])


def test_a_screen_without_a_size_depends_on_the_number_of_rocks_and_another_does_not(mine):
    observed = len(rock_steps.types(mine))
    for k in (2, 0.02):
        size = {"rocks": mine.config.rocks.model_copy(update={"k": k})}
        given = Run(mine.config.model_copy(update=size), mine.path)
        twice = Run(mine.config.model_copy(update=size | {"screen": None}), mine.path)
        rocks = rock_steps.rock_count(twice)
        assert rocks == (k if k >= 1 else round(k * observed)) == len(measured(twice).rocks())
        levels = [knockout_steps.candidates(one).level.value_counts() for one in (given, twice)]
        assert [of["token"] for of in levels] == [6, 2 * rocks]
        assert all(0 < of["control"] <= rocks for of in levels)  # a special token has none


def measured(run):
    return rock_steps.measured(run).detection


def double(frame):
    """Twice the column x."""
    return pd.DataFrame({"x": frame.x * 2})


def test_a_table_is_computed_once_for_equal_arguments(mine):
    calls = []

    def counted(frame):
        return double(frame)

    first = pd.DataFrame({"x": [1, 2]})
    assert mine.table(double, first).x.tolist() == [2, 4]
    assert mine.table(double, first.assign(x=[3, 4])).x.tolist() == [6, 8]
    with pytest.raises(StudyError, match="get its data as arguments"):
        mine.table(lambda frame: (calls.append(1), counted(frame))[1], first, name="t")


def test_a_lambda_needs_a_name(mine):
    with pytest.raises(StudyError, match="name: must be given for a lambda"):
        mine.table(lambda: pd.DataFrame())


def test_batch_sizes_are_no_part_of_a_key_and_generation_settings_are(mine):
    config = mine.config.model_copy(
        update={"statistics": mine.config.statistics.model_copy(update={"batch_size": 1})}
    )
    longer = mine.config.model_copy(
        update={"statistics": mine.config.statistics.model_copy(update={"max_new_tokens": 5})}
    )
    same, other = (runs._field(c, "statistics") for c in (config, longer))
    assert same == runs._field(mine.config, "statistics") != other


@pytest.mark.parametrize(
    "part", ["chat_template.jinja", "generation_config.json", "tokenizer.json"]
)
def test_template_generation_and_tokenizer_files_are_part_of_a_models_identity(
    tiny_pair_dir, tmp_path, part
):
    import shutil

    from rockstudy.models import sources

    folder = tmp_path / "model"
    shutil.copytree(tiny_pair_dir / "student", folder)
    for file in (tiny_pair_dir / "tokenizer").iterdir():
        shutil.copy(file, folder)
    before = sources.identity(str(folder), None, None, "student")
    with (folder / part).open("a") as file:
        file.write(" ")
    assert sources.identity(str(folder), None, None, "student") != before


# --- code -----------------------------------------------------------------------------------------

EDITED = """
import sys
from rockstudy import paths
from rockstudy.rocks import scores, steps
from rockstudy.runs import open_run
run = open_run(run_id="mine")
before = {p.name for p in run.path.glob("training/*.json")}
types, sets = steps.types(run), steps.token_sets(run)
assert before == {p.name for p in run.path.glob("training/*.json")}
print(types.nsmallest(3, "rank").token_id.tolist(), sorted(sets[sets.name == "rocks"].token_id))
"""


@pytest.mark.slow
def test_an_edited_score_is_seen_by_every_step_and_trains_nothing(tmp_path, home):
    """Notebooks 02 and 03 read these tables, notebook 07 trains with this detection."""
    import shutil

    shutil.copytree(paths.REPO / "rockstudy", tmp_path / "rockstudy")
    shutil.copytree(paths.REPO / "data" / "lab", tmp_path / "data" / "lab")
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "ROCKSTUDY_HOME": str(home)}

    def tables():
        done = subprocess.run(
            [sys.executable, "-c", EDITED],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    as_it_is = tables()
    file = tmp_path / "rockstudy" / "rocks" / "scores.py"
    text, score = file.read_text(), 'return types.loss * types["count"]'
    assert score in text
    file.write_text(text.replace(score, 'return types.loss / types["count"] ** 3'))
    edited = tables()
    assert edited != as_it_is
    file.write_text(text.replace("import pandas as pd", "import pandas as pd  # a comment"))
    assert tables() == as_it_is


def test_other_code_keeps_a_training_and_a_line_tells_how_to_forget_it(mine, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_NOTICED", set())
    monkeypatch.setattr(runs.code, "identity", lambda function: "0" * 16)
    before = trained("mine")
    training_steps.stage1(Run(mine.config, mine.path))
    assert trained("mine") == before
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if "rockstudy forget mine training" in line]) == 1


# --- forgetting -----------------------------------------------------------------------------------


def test_forgetting_names_what_goes_and_deletes_no_more(home):
    run = open_run("tiny", "gone")
    for name in ("a", "b"):
        cache.save(run.path / "tables" / name, pd.DataFrame({"x": [1]}), config={})
    assert list(runs.artefacts(run.path, ["tables/a"])) == ["tables/a"]
    runs.forget(run.path, ["tables/a"])
    assert list(runs.artefacts(run.path)) == ["tables/b"]
    with pytest.raises(StudyError, match=r"WHAT: must be a stage of the run \(tables\)"):
        runs.artefacts(run.path, ["training"])


# --- references -----------------------------------------------------------------------------------


def test_a_reference_is_read_and_never_written():
    run = open_run()
    before = files(run.path)
    assert run.id == "reference" and len(training_steps.metrics(run))
    assert len(rock_steps.types(run)) > 300
    assert files(run.path) == before


def test_k_can_be_changed_in_a_reference_and_the_result_goes_to_a_run_of_ones_own(capsys):
    run = open_run(overrides={"rocks__k": 7})
    assert "goes to runs/" in capsys.readouterr().err
    sets = rock_steps.token_sets(run)
    assert (sets.groupby("name").size() == 7).all()
    assert run.path.parent == paths.runs_dir()
    assert list(run.path.glob("tables/rocks.token_sets*.parquet"))


def test_what_needs_models_says_so_in_one_line():
    run = open_run(overrides={"rocks__k": 7})
    with pytest.raises(StudyError, match="needs models, which the reference of lab does not hold"):
        training_steps.baselines(run)
    with pytest.raises(StudyError, match="no reference for preset 'qwen3', only for lab, smollm2"):
        open_run("qwen3")


@pytest.mark.parametrize("origin", [7, ["x"], "first", "second"])
def test_an_origin_that_is_no_earlier_run_is_refused_before_anything_is_written(
    origin, tmp_path, monkeypatch
):
    monkeypatch.setenv("ROCKSTUDY_HOME", str(tmp_path))
    for name, value in (("first", origin), ("second", "first")):
        file = open_run("tiny", name).path / runs.RECORD
        file.write_text(json.dumps(json.loads(file.read_text()) | {"from": value}))
    with pytest.raises(StudyError, match=r"must be the name of a run|must not start from itself"):
        open_run(None, "third", from_run="first")
    assert not paths.run_dir("third").exists()


def _words():
    return pd.DataFrame({"word": ["So"]})


def test_a_table_that_a_reference_lacks_is_computed_and_not_written_there(tmp_path):
    """The committed folder stays as it is, whatever a notebook asks of it."""
    folder = tmp_path / "reference" / "lab"
    folder.mkdir(parents=True)
    run = Run(PRESETS["lab"], folder, reference=folder)
    assert run.table(_words).word.tolist() == ["So"]
    assert run.table(_words) is run.table(_words)  # computed once
    assert list(folder.iterdir()) == []


def test_a_reference_takes_over_nothing_from_the_runs_of_whoever_opens_it(tmp_path):
    folder = tmp_path / "reference" / "lab"
    folder.mkdir(parents=True)
    runs._record(folder, PRESETS["lab"], "lab")  # as it was started on the machine that made it
    opened = runs.opened(folder)
    assert opened.parents == () and opened.reference == folder
