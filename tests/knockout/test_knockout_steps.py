"""Steps of the screen: windows, matched controls, what is written anew, what is stored."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rockstudy.config.fields import RockConfig
from rockstudy.config.overrides import from_parameters
from rockstudy.knockout import census, tables
from rockstudy.knockout import steps as knockout_steps
from rockstudy.runs import Run


@pytest.mark.parametrize(("loss", "near"), [("rkl", [1, 2]), ("log_ratio", [1, 3])])
def test_a_window_holds_candidates_whose_loss_is_high_by_the_rocks_own_measure(loss, near):
    tokens = pd.DataFrame(
        {
            "prompt_index": 0,
            "sample_index": 0,
            "position": [0, 1, 2],
            "token_id": [1, 2, 3],
            "rkl_post": [1.0, 1.0, 0.0],
            "log_ratio_post": [1.0, 0.0, 1.0],
        }
    )
    made = SimpleNamespace(tau_post=0.5, settings=RockConfig(loss=loss), occurrences=tokens[:1])
    found = knockout_steps._together(tokens, made, [1, 2, 3], 2)
    assert found == {1: near, 2: [2], 3: [3]}


def chosen(n: int) -> pd.DataFrame:
    ids = range(n)
    bans = {"banned": [[i] for i in ids], "paired_with": -1}
    return pd.DataFrame({"level": "token", "target": ids, "rank": ids} | bans)


@pytest.mark.parametrize(
    ("top_p", "modes"), [(1.0, ["reuse", "reuse", "null", "null"]), (0.9, ["naive", "naive"])]
)
def test_where_top_p_cuts_everything_is_written_anew_and_there_is_no_null(
    top_p, modes, tmp_path, monkeypatch
):
    run, asked = Run(from_parameters("tiny", knockout__top_p=top_p), tmp_path), []

    def sampled(_, screenings):
        asked.append([mode for *_, mode in screenings])
        raise InterruptedError

    monkeypatch.setattr(knockout_steps, "_sampled", sampled)
    for step in (knockout_steps.changes, knockout_steps.naive):
        with pytest.raises(InterruptedError):
            step.__wrapped__(run, chosen(1))
    assert asked == [modes, ["naive"]]


def sampler(n, right):
    """A stand-in for `steps._sampled`: every candidate turns the problems of `right` right."""
    ids = np.full((n, 2), -1)
    base = SimpleNamespace(
        n_prompts=n, correct=np.zeros(n, bool), n_tokens=n, completion_ids=ids, mask=ids > -2
    )

    def sampled(_, screenings):
        frames = []
        for task, some, _, _ in screenings:
            rows = [
                {"level": c.level, "target": c.target, "prompt_index": i, "correct": bool(right[i]),
                 "base_correct": False, "n_new_tokens": 1}
                for c in some for i in range(n)
            ]  # fmt: skip
            frames.append((task, some, pd.DataFrame(rows), base))
        return frames

    return sampled


def test_the_interval_of_a_null_is_that_of_problems_whose_noise_candidates_share(
    tmp_path, monkeypatch
):
    """Every candidate changes the same completions: twelve of them know no more than one."""
    run, n = Run(from_parameters("tiny", knockout__samples=1), tmp_path), 200
    right = np.random.default_rng(0).random(n) < 0.5
    monkeypatch.setattr(knockout_steps, "_sampled", sampler(n, right))
    monkeypatch.setattr(knockout_steps, "screened_on", lambda run: {})
    change, knockouts = knockout_steps._knocked_out(run, chosen(12))
    naive = knockout_steps.naive.__wrapped__(run, chosen(12))
    found = tables.modes(change, knockouts, naive, np.random.default_rng(1))
    null, half = found[found["mode"] == "null"].iloc[0], 1.96 * stats.sem(right.astype(float))
    assert null.delta == pytest.approx(right.mean())
    assert null.hi - null.lo == pytest.approx(2 * half, rel=0.05)
    assert (null.n, null.candidates) == (n, 12)
    assert found["mode"].tolist() == ["naive", "reuse", "null", "null"]
    assert found.candidates.tolist() == [6, 6, 12, 12]


def test_the_stored_changes_give_back_every_difference(tmp_path, monkeypatch):
    run, n = Run(from_parameters("tiny", knockout__samples=1), tmp_path), 30
    right = np.random.default_rng(0).random(n) < 0.5
    monkeypatch.setattr(knockout_steps, "_sampled", sampler(n, right))
    change, knockouts = knockout_steps._knocked_out(run, chosen(3))
    assert (change.change == 1).all() and len(change) == 4 * 3 * right.sum()
    assert (census.deltas(change, knockouts[knockouts.benchmark == "lab_math"]) == right).all()
    never = knockouts.iloc[:1].assign(target=99)
    assert (census.deltas(change, never) == 0).all()


def types(counts: list[int]) -> pd.DataFrame:
    ids = np.arange(len(counts))
    return pd.DataFrame({"token_id": ids, "count": counts, "rank": ids + 1})


def test_each_rock_among_the_candidates_has_a_control_that_is_no_rock_and_as_frequent():
    made = SimpleNamespace(types=types([100, 50, 20, 19, 51, 99, 100, 1]), k=3)
    single = pd.DataFrame({"level": "token", "target": [0, 1, 2, 3], "rank": [1, 2, 3, 4]})
    single = single.assign(paired_with=-1, banned=[[i] for i in range(4)])
    found = knockout_steps._paired(single, single.assign(level="window"), made, [6])
    control = found[found.level == "control"]
    assert dict(zip(control.paired_with, control.target, strict=True)) == {0: 5, 1: 4, 2: 3}
    assert control.banned.tolist() == [[5], [4], [3]] and control["rank"].tolist() == [6, 5, 4]
    assert found.paired_with[found.level == "token"].tolist() == [5, 4, 3, -1]
    assert (found.paired_with[found.level == "window"] == -1).all()


def test_where_the_first_k_are_special_tokens_there_are_no_controls():
    made = SimpleNamespace(types=types([100, 50]), k=1)
    single = pd.DataFrame({"level": "token", "target": [1], "rank": [2]})
    single = single.assign(paired_with=-1, banned=[[1]])
    found = knockout_steps._paired(single, single.assign(level="window"), made, [0])
    assert found.level.tolist() == ["token", "window"]
