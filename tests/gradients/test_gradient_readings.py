"""Notebook 04 in words: each reading for each way that a run can come out, and its figures."""

import numpy as np
import pandas as pd
import pytest
import torch

from rockstudy.claims import paper
from rockstudy.figure_style import SMALLEST
from rockstudy.gradients import figures, followed, published, readings
from rockstudy.models.divergence import Head

GROUPS = {"rock": 6, "high-KL": 6, "random": 12, "control": 6}


def compared(plain, unbiased, agree=True):
    """The rows of `steps.in_both_spaces`; an effect is its two ends."""
    rows = []
    for statistic in ("norm", "square", "cos_balanced", "cos_others"):
        lo, hi = plain if statistic == "norm" else unbiased
        ends = {"logit": (lo + hi) / 2, "logit_lo": lo, "logit_hi": hi}
        ends |= {"hidden": (lo + hi) / 2, "hidden_lo": lo, "hidden_hi": hi}
        for group in ("high-KL", "random", "control"):
            row = {"statistic": statistic, "group": group, "n": 12, "agree": agree}
            rows.append(row | ends | {"mann_whitney_p": 0.03, "mann_whitney_p_hidden": 1e-9})
    return pd.DataFrame(rows)


FEWER = pd.DataFrame(
    {"counts": ["own", "high-KL"], "rock": [0.1, 0.3], "high_kl": 0.5,
     "rank_biserial": [-0.9, -0.4], "lo": [-1.0, -0.7], "hi": [-0.8, -0.1]}
)  # fmt: skip


@pytest.mark.parametrize(
    ("plain", "unbiased", "told"),
    [
        ((-0.9, -0.5), (-0.8, -0.2), "the expected gradient of a rock is smaller"),
        ((-0.9, -0.5), (0.1, 0.6), "the expected gradient of a rock is larger"),
        ((-0.9, -0.5), (-0.4, 0.3), "is enough to explain the difference"),
        ((-0.2, 0.5), (-0.4, 0.3), "no difference is shown"),
        ((np.nan, np.nan), (np.nan, np.nan), "too few types"),
    ],
)
def test_norms_are_read_by_the_unbiased_ones(plain, unbiased, told):
    text = readings.of_norms(compared(plain, unbiased), FEWER)
    assert told in text
    assert "different conclusions" not in text
    assert "different conclusions" in readings.of_norms(compared(plain, unbiased, False), FEWER)


def test_the_order_of_cosines_needs_both_steps():
    def order(first, second):
        ends = pd.DataFrame([first, second], columns=["lo", "hi"])
        steps = pd.DataFrame({"above": ["rock", "high-KL"], "below": ["high-KL", "random"]})
        return steps.join(ends).assign(rank_biserial=ends.mean(axis=1), statistic="cos_others")

    assert "order is shown" in readings.of_order(order((0.1, 0.5), (0.2, 0.6)))
    assert "order is not shown" in readings.of_order(order((0.1, 0.5), (-0.2, 0.6)))
    assert "the other way" in readings.of_order(order((-0.5, -0.1), (0.2, 0.6)))


def changes():
    rows = [("rock", -0.3, -0.1), ("high-KL", 0.1, 0.3), ("random", -0.1, 0.2),
            ("control", np.nan, np.nan)]  # fmt: skip
    here = pd.DataFrame(rows, columns=["group", "relative_lo", "relative_hi"])
    here = here.assign(relative=here[["relative_lo", "relative_hi"]].mean(axis=1), n=6, n_fall=4)
    here = here.assign(early=1.0, late=0.9, wilcoxon_p=0.02, source="here")
    theirs = published.changes(published.figure_types(), np.random.default_rng(0))
    return pd.concat([here, theirs.assign(source="paper")], ignore_index=True)


def test_changes_say_what_each_interval_shows_and_what_the_paper_has():
    lines = readings.of_changes(changes()).splitlines()
    assert "it falls" in lines[0] and "79 of 100 fall" in lines[0]
    assert "it rises" in lines[1]
    assert "no change is shown" in lines[2]
    assert "no interval" in lines[3] and "paper" not in lines[3]


@pytest.mark.parametrize(
    ("lo", "hi", "told"),
    [(0.1, 0.3, "keep more"), (-0.3, -0.1, "keep less"), (-0.1, 0.2, "up to 20% either way")],
)
def test_split_samples_say_whether_rocks_keep_more(lo, hi, told):
    rows = [("rock", "other", -0.1, 0.1), ("rock - high-KL", "other", lo, hi)]
    halves = pd.DataFrame(rows, columns=["group", "half", "relative_lo", "relative_hi"])
    halves["relative"] = halves[["relative_lo", "relative_hi"]].mean(axis=1)
    assert told in readings.of_split(halves)
    assert "Rocks keep" not in readings.of_split(halves[:1])


def test_losses_along_training_are_read_from_first_to_last():
    along = pd.DataFrame({"group": "rock", "step": [2, 1], "rkl": [0.5, 1.0]})
    assert "rock 1.00 to 0.50 nats (-50%)" in readings.of_along(along)


def types():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"group": np.repeat(list(GROUPS), list(GROUPS.values()))})
    n = len(frame)
    frame = frame.assign(token_id=np.arange(n), spelling=[f"${i}" for i in range(n)])
    for space in ("logit", "hidden"):
        frame[f"norm_{space}"] = rng.lognormal(size=n)
        frame[f"square_{space}"] = rng.normal(size=n)
        for cosine in figures.COSINES:
            frame[f"{cosine}_{space}"] = rng.uniform(-1, 1, n)
    return frame.assign(early=rng.lognormal(size=n), late=rng.lognormal(size=n))


def drawn():
    some, theirs, tested = types(), published.figure_types(), compared((-0.9, -0.5), (-0.4, 0.3))
    return {
        "3a": figures.gradient_norms(some, FEWER, tested, followed=2),
        "3b": figures.gradient_cosines(some, tested, followed=2),
        "3c": figures.persistence(some, theirs, followed=2),
        "3d": figures.change_distributions(some, theirs, changes()),
    }


def test_the_figures_have_captions_and_the_followed_token_and_no_small_text():
    for name, made in drawn().items():
        made.draw_without_rendering()
        assert "token type" in made.caption and "paper" in made.caption, name
        assert made.get_size_inches()[0] <= 7
        written = [text for axis in made.axes for text in axis.texts]
        assert min(text.get_fontsize() for text in written) >= SMALLEST
        if name != "3d":
            assert "$2" in {text.get_text() for text in written}, name


def test_figure_3a_has_both_spaces_p_and_the_papers_medians():
    made = drawn()["3a"]
    labels = [axis.get_xlabel() for axis in made.axes]
    assert sum("logit space" in label for label in labels) == 2
    assert sum("hidden space" in label for label in labels) == 2
    texts = {text.get_text() for axis in made.axes for text in axis.texts}
    assert "p\n= 0.030" in texts and "p\n< 0.001" in texts
    marks = [line for line in made.axes[0].lines if line.get_marker() == "D"]
    theirs = sorted(one.value for one in paper.labelled("norm").values())
    assert sorted(float(line.get_xdata()[0]) for line in marks) == pytest.approx(theirs)


def test_figure_3d_draws_every_type_of_the_paper():
    axis = drawn()["3d"].axes[1]
    points = sum(len(one.get_offsets()) for one in axis.collections)
    assert points == len(published.figure_types())


def test_pulls_are_read_against_what_chance_would_leave():
    values = np.array([[0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [-0.1, 0.1]])
    rows = [
        {"occurrence": i, "norm": 0.7, "norm_mean": 0.1, "token_id": u, "spelling": "ab"[u],
         "gradient": values[i, u]}
        for u in (0, 1) for i in range(4)
    ]  # fmt: skip
    pulls = pd.DataFrame(rows)
    told = followed.reading_of_pulls(pulls, "⟦a⟧")
    assert "At 4 occurrences" in told and "14% is left" in told and "about 50%" in told
    assert "⟦a⟧ is pushed down most and that of ⟦b⟧ up most" in told
    assert "pushed down at 2 of these occurrences and up at 2" in told
    made = figures.pull(pulls, "⟦a⟧")
    assert "4 occurrences" in made.caption
    assert [text.get_text() for text in made.axes[0].get_yticklabels()] == ["a", "b"]


def test_the_gradient_at_a_position_is_that_of_autograd(monkeypatch):
    torch.manual_seed(0)
    n, width, vocab = 20, 5, 7
    states = {name: torch.randn(n, width) for name in ("post", "teacher")}
    heads = {name: Head(torch.randn(vocab, width)) for name in states}
    monkeypatch.setattr(followed, "_states", lambda found, name, rows: (states[name], heads[name]))
    found = followed._gradients(None, pd.DataFrame(index=range(n)))
    z = (states["post"] @ heads["post"].weight.T).requires_grad_()
    log_q = (states["teacher"] @ heads["teacher"].weight.T).log_softmax(1)
    log_p = z.log_softmax(1)
    (log_p.exp() * (log_p - log_q)).sum().backward()
    torch.testing.assert_close(found, z.grad, atol=1e-6, rtol=1e-5)
