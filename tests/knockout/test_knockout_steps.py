"""Steps of the screen: which losses make a window, what is written anew, the interval of a null."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rockstudy.config.fields import RockConfig
from rockstudy.config.overrides import from_parameters
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


@pytest.mark.parametrize(
    ("top_p", "screened", "controlled"),
    [(1.0, ["reuse"] * 2, ["naive", "null", "reuse"]), (0.9, ["naive"] * 2, ["naive"])],
)
def test_where_top_p_cuts_everything_is_written_anew(
    top_p, screened, controlled, tmp_path, monkeypatch
):
    run, asked = Run(from_parameters("tiny", knockout__top_p=top_p), tmp_path), []

    def sampled(_, screenings):
        asked.append([mode for *_, mode in screenings])
        raise InterruptedError

    monkeypatch.setattr(knockout_steps, "_sampled", sampled)
    chosen = pd.DataFrame({"arm": ["token"], "target": [5], "rank": [1], "banned": [[5]]})
    for step in (knockout_steps.screen, knockout_steps.controls):
        with pytest.raises(InterruptedError):
            step.__wrapped__(run, chosen)
    assert asked == [screened, controlled]


def test_the_interval_of_a_control_is_that_of_problems_whose_noise_candidates_share(
    tmp_path, monkeypatch
):
    """Every candidate changes the same completions: twelve of them know no more than one."""
    run, n = Run(from_parameters("tiny", knockout__samples=1), tmp_path), 200
    right = np.random.default_rng(0).random(n) < 0.5
    base = SimpleNamespace(n_prompts=n, correct=np.zeros(n, bool), n_tokens=n)

    def sampled(_, screenings):
        frames = []
        for task, some, _, _ in screenings:
            rows = [
                {"arm": c.arm, "target": c.target, "prompt_index": i, "correct": bool(right[i]),
                 "base_correct": False, "n_new_tokens": 1}
                for c in some for i in range(n)
            ]  # fmt: skip
            frames.append((task, some, pd.DataFrame(rows), base))
        return frames

    monkeypatch.setattr(knockout_steps, "_sampled", sampled)
    ids = range(12)
    chosen = pd.DataFrame(
        {"arm": "token", "target": ids, "rank": ids, "banned": [[i] for i in ids]}
    )
    table = knockout_steps.controls.__wrapped__(run, chosen)
    found = knockout_steps.null_summary(table).set_index("mode")
    null, half = found.loc["null"], 1.96 * stats.sem(right.astype(float))
    assert null.delta == pytest.approx(right.mean())
    assert null.hi - null.lo == pytest.approx(2 * half, rel=0.05)
    assert (null.n, null.candidates) == (n, 12)
