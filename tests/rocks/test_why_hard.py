"""The steps about causes on a tiny run of a task of one's own, and on references without them."""

import importlib
import sys

import numpy as np
import pandas as pd
import pytest

from rockstudy import tasks
from rockstudy.cli import measure
from rockstudy.config.overrides import from_parameters
from rockstudy.config.registry import TASKS
from rockstudy.rocks import steps as rocks_steps
from rockstudy.rocks import why_hard
from rockstudy.runs import Run, open_run
from rockstudy.store import cache, code

PLUGIN = '''
import numpy as np
from rockstudy.config.registry import TASKS
from rockstudy.tasks import Problem, Task

def load(task, split):
    first = 0 if split == "train" else 1
    numbers = range(first, first + 2 * task.size(split), 2)
    return [Problem(f"What is {i} + {i}?", str(2 * i), "sum", str(i), {}) for i in numbers]

def grade(task, problems, texts):
    return [problem.answer in text for problem, text in zip(problems, texts)]

def annotate(problem, text):
    """Digits are arithmetic."""
    kinds = [0 if c.isdecimal() else 1 if c.isalpha() else 2 for c in text]
    return np.array(kinds, np.int8)

CAUSES = ("arithmetic", "format", "off the grammar")
TASKS.add("sums", Task(load, grade, causes=CAUSES, annotate=annotate))
'''
OVERRIDES = {"benchmarks__0__name": "sums", "seeds": [0], "stage2__steps": 2}


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """The file of the plugin; what it registers and imports is undone afterwards."""
    file = tmp_path_factory.mktemp("plugin") / "sums_of_test.py"
    file.write_text(PLUGIN)
    with pytest.MonkeyPatch.context() as patch:
        TASKS.entries()
        patch.setattr(TASKS, "_entries", dict(TASKS._entries))
        patch.setattr(sys, "path", [*sys.path])
        yield file
        sys.modules.pop("sums_of_test", None)


@pytest.fixture(scope="module")
def run(plugin, tmp_path_factory):
    config = from_parameters("tiny", plugins=[str(plugin)], **OVERRIDES)
    return Run(config, tmp_path_factory.mktemp("runs") / "sums")


@pytest.fixture(scope="module")
def tokens(run):
    return rocks_steps.measured(run).tokens


def test_the_token_table_has_the_cause_of_every_position(run, tokens):
    assert tuple(tokens.cause.cat.categories) == tasks.causes(run.config.benchmarks[0])
    texts = rocks_steps.measured(run).texts(tokens.token_id)
    special = set(rocks_steps.loading.tokenizer_of(run).all_special_ids)
    for token_id, text, cause in zip(tokens.token_id, texts, tokens.cause, strict=True):
        loud = [c for c in text if not c.isalpha()] if token_id not in special else []
        expected = "format"
        if loud:
            expected = "arithmetic" if loud[0].isdecimal() else "off the grammar"
        assert cause == expected, text
    stored = cache.load(run.path / "tables" / "rocks.causes")
    assert stored.cause.tolist() == tokens.cause.tolist()


def test_the_tables_of_losses_are_those_of_the_token_table(run, tokens):
    made = why_hard.loss_by_cause(run)
    table = made.set_index(["measure", "stage", "cause"]).value
    sums = tokens.astype({"rkl_post": float}).groupby("cause", observed=False).rkl_post.sum()
    for cause in sums.index:
        assert table["loss", "post", cause] == pytest.approx(sums[cause] / sums.sum())
    assert made.value[made.measure == "positions"].sum() == pytest.approx(1)
    sets = why_hard.causes_of_sets(run)
    rocks = rocks_steps.token_sets(run).query("name == 'rocks'").token_id
    inside = tokens[tokens.token_id.isin(rocks)].cause.value_counts(normalize=True)
    found = sets[(sets.name == "rocks") & (sets.measure == "occurrences")]
    assert found.set_index("cause").value.to_dict() == pytest.approx(inside.to_dict())
    assert why_hard.reading_of_loss(why_hard.loss_by_cause(run))
    assert why_hard.reading_of_sets(sets)


def test_types_say_whether_gold_answers_hold_them(run):
    types = rocks_steps.types(run)
    answers = [p.answer for p in tasks.load(run.config.benchmarks[0], "eval")]
    for row in types.itertuples():
        share = np.mean([row.text in answer for answer in answers]) if len(row.text) == 1 else 0
        assert row.answer_bearing == (share >= rocks_steps.ANSWER_SHARE), row.text
    assert set(types.text[types.answer_bearing]) <= set("0123456789")
    assert rocks_steps.answer_ids(types) == types.token_id[types.answer_bearing].tolist()
    assert rocks_steps.answer_ids(types.drop(columns="answer_bearing")) is None


def test_one_solution_of_each_model_is_split_and_coloured(run):
    table, why_not = why_hard.if_causes(run, why_hard.registers)
    assert why_not == "" and set(table.model) == {"teacher", "student"}
    outcomes = why_hard.training_steps.pair_accuracy(run)
    first = outcomes[(outcomes.prompt_index == 0) & (outcomes.benchmark == "sums")]
    for model, text in zip(first.model, first.text, strict=True):
        if text.isascii() and text.isprintable():
            assert "".join(table.token[table.model == model]) == text
    assert "cause-" in why_hard.registers_html(run, table)


def test_an_edited_annotator_makes_its_own_tables_anew_and_no_forward_pass(
    run, tokens, plugin, monkeypatch
):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # edits come within a second

    def stored(*stages):
        files = [p for stage in stages for p in (run.path / stage).rglob("*") if p.is_file()]
        return {path: path.stat().st_mtime_ns for path in files}

    def edited(old, new):
        """Names of the tables that are made again after an edit of the plugin."""
        before = stored("tables")
        plugin.write_text(PLUGIN.replace(old, new))
        importlib.reload(sys.modules["sums_of_test"])
        sys.modules["sums_of_test"].__rockstudy_plugin__ = True
        code._digest.cache_clear()
        code._module.cache_clear()
        again = Run(run.config, run.path)
        for step in (rocks_steps.types, rocks_steps.token_sets, why_hard.loss_by_cause):
            step(again)
        return {path.stem for path, time in stored("tables").items() if before.get(path) != time}

    edited("", "")
    heavy = stored("tokens", "rollouts", "training", "evaluation")
    assert edited("Digits are", "All digits are") == set()  # a docstring
    assert edited("c.isdecimal()", "c.isdecimal() and c") == {"rocks.causes"}  # the same values
    assert edited("[0 if", "[2 if") == {"rocks.causes", "rocks.why_hard.loss_by_cause"}
    edited("", "")
    assert stored("tokens", "rollouts", "training", "evaluation") == heavy


def test_measuring_beforehand_leaves_the_causes_for_the_notebooks(monkeypatch, run):
    called = []
    monkeypatch.setattr(measure, "causes", lambda run: called.append(run))
    for name in ("training_steps", "knockout_steps", "gradients_steps"):
        monkeypatch.setattr(measure, name, _Nothing())
    monkeypatch.setattr(measure, "measured", _Nothing())
    measure.statistics(run)
    assert called == [run]


class _Nothing:
    def __getattr__(self, name):
        return self

    def __call__(self, *args):
        return self

    def __iter__(self):
        return iter(())


def test_without_causes_there_is_one_sentence():
    run = Run(from_parameters("tiny", benchmarks__0__name="arithmetic"), None)
    table, told = why_hard.if_causes(run, why_hard.loss_by_cause)
    assert table is None
    assert told == "The task arithmetic does not name the causes of its tokens."


def test_a_reference_from_before_says_that_it_has_none_and_is_not_written_to(older_reference):
    folder = older_reference("rocks.causes*", "rocks.why_hard*")
    run = open_run("lab")
    assert run.path == folder
    before = sorted(run.path.rglob("*"))
    for step in (why_hard.loss_by_cause, why_hard.causes_of_sets, why_hard.registers):
        table, told = why_hard.if_causes(run, step)
        assert table is None and told == "The causes of tokens are not in this reference."
    frame = pd.DataFrame({"token_id": [1]})
    assert rocks_steps._with_causes(run, frame) is frame
    assert sorted(run.path.rglob("*")) == before
