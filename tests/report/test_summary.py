"""What notebook 11 reads: there or not, with intervals over seeds, drawn as three panels."""

import numpy as np
import pandas as pd
import pytest

from rockstudy import figure_style
from rockstudy.claims import paper
from rockstudy.config.presets import PRESETS
from rockstudy.report import figures as report_figures
from rockstudy.report import summary
from rockstudy.runs import Run, open_run


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("ROCKSTUDY_HOME", str(tmp_path))
    return open_run("tiny", "here")


@pytest.fixture
def put(monkeypatch):
    """Let a step of a room return a table that the run has."""

    def stored(room, name: str, table: pd.DataFrame) -> None:
        monkeypatch.setattr(room, name, lambda run: table)

    return stored


def arms(seeds=3) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        {"arm": arm, "seed": seed, "step": step, "benchmark": name, "prompt_index": problem}
        for arm in ("baseline", "rock-freeze", "random")
        for seed in range(seeds)
        for step in (0, 4)
        for name in ("lab_math", "lab_instruct")
        for problem in range(8)
    ]
    return pd.DataFrame(rows).assign(accuracy=rng.random(len(rows)))


def texts(figure) -> list[str]:
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_a_run_without_a_notebook_has_no_table_of_it_and_the_panels_say_so(run):
    panels = [step(run) for step in (summary.persistence, summary.knockout)]
    panels.append(summary.utility(run))
    assert panels == [None, None, None]
    drawn = report_figures.lifecycle(*panels)
    assert texts(drawn) == ["not run"] * 3
    assert [axis.get_title(loc="left")[0] for axis in drawn.axes] == ["a", "b", "c"]


def test_final_accuracy_has_an_interval_over_seeds_and_problems(run, put):
    table = arms()
    put(summary.selective_steps, "accuracy", table)
    found = summary.utility(run).set_index(["arm", "benchmark"])
    assert list(found.index.get_level_values(0).unique()) == ["baseline", "rock-freeze", "random"]
    some = table[(table.step == 4) & (table.arm == "random") & (table.benchmark == "lab_math")]
    row = found.loc[("random", "lab_math")]
    assert row.lo < row.value < row.hi and row.value == pytest.approx(some.accuracy.mean())
    assert (row.n, row.seeds) == (8, 3)
    drawn = report_figures.lifecycle(None, None, summary.utility(run))
    assert texts(drawn) == ["not run"] * 2
    labels = [label.get_text() for label in drawn.axes[2].get_yticklabels()]
    assert labels == ["baseline", "rock-freeze", "random"]


def test_a_single_seed_has_no_interval(run, put):
    put(summary.selective_steps, "accuracy", arms(seeds=1))
    found = summary.utility(run)
    assert found[["lo", "hi"]].isna().all(axis=None)
    assert (found.n == 8).all()
    drawn = report_figures.lifecycle(None, None, found)
    assert "one training seed, and no intervals, on 8 problems" in drawn.caption


def test_groups_are_followed_for_each_seed_by_their_pooled_loss(run, put):
    rows = [  # step, token, count, sum of the loss, seed
        (1, 7, 2, 4.0, 0), (1, 8, 2, 8.0, 0), (2, 7, 4, 4.0, 0),
        (1, 7, 1, 1.0, 1), (2, 7, 1, 3.0, 1),
    ]  # fmt: skip
    columns = ["step", "token_id", "count", "rkl_sum", "seed"]
    put(summary.training_steps, "type_losses", pd.DataFrame(rows, columns=columns))
    put(
        summary.gradients_steps,
        "groups",
        pd.DataFrame({"group": ["rock", "rock"], "token_id": [7, 8]}),
    )
    found = summary.persistence(run).set_index(["seed", "step"]).rkl
    assert found.to_dict() == {(0, 1): 3.0, (0, 2): 1.0, (1, 1): 1.0, (1, 2): 3.0}
    drawn = report_figures.lifecycle(summary.persistence(run), None, None)
    assert texts(drawn)[0] == "rock: 2.00 to 2.00"


def test_settings_stand_beside_the_papers(run):
    table = summary.settings(run).set_index("setting")
    row = table.loc["stage 2: Rollouts of the student for each prompt"]
    assert (row.paper, row.here) == ("4", "2")
    known = (summary.TRAINING, summary.SETTINGS, summary.SIZES)
    assert len(table) == sum(map(len, known))


def test_the_sizes_of_both_sets_are_numbers_of_types_once_these_are_known(run, put, tmp_path):
    def sizes(run) -> list[str]:
        table = summary.settings(run).set_index("setting")
        found = [paper.number(name).what for name in ("cutoff", "screened")]
        return table.loc[found, "here"].tolist()

    assert sizes(run) == ["not run", "not run"]
    put(summary.rocks_steps, "types", pd.DataFrame({"token_id": range(900)}))
    assert sizes(run) == ["3", "6"]
    assert sizes(Run(PRESETS["lab"], tmp_path)) == ["20", "40"]


def test_an_arm_takes_the_colour_of_its_role():
    named = {"baseline": "student", "Rock-Freeze": "rock", "matched random": "random"}
    assert {arm: figure_style.role_of_arm(arm) for arm in named} == named
