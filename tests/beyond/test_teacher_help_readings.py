"""Sentences, verdicts and figures of notebook 10 on tables with known effects."""

import numpy as np
import pandas as pd
import pytest
from test_notebook_style import numbers_in

from rockstudy import paths
from rockstudy.beyond.teacher_help import budget, claims, effects, figures, readings
from rockstudy.beyond.teacher_help.choices import CHOICES
from rockstudy.claims import verdicts
from rockstudy.notebooks import read


def made(gain=0.0, ban=0.0, seeds=1, problems=300, each=8, draws=8, slope=0.0):
    """Places and outcomes with a gain of the teacher and a cost of the ban, at rocks alone."""
    rng = np.random.default_rng(1)
    grid = np.indices((seeds, problems, each)).reshape(3, -1)
    n = grid.shape[1]
    rock, kl = np.arange(n) % 2 == 0, rng.exponential(size=n)
    places = pd.DataFrame(
        {
            "seed": grid[0],
            "prompt_index": grid[1],
            "group": np.where(rock, "rock", "control"),
            "right": rng.random(n) < 0.5,
            "weight": 1.0,
            "token_id": rng.integers(0, 8, n) * 2 + rock,
            "rkl": kl,
            "tv": 1 - np.exp(-kl),
        }
    )
    base = np.full(n, 0.5)
    chances = dict.fromkeys(CHOICES, base) | {
        "without": base + ban * rock,
        "teacher": base + gain * rock + slope * (kl > np.quantile(kl, 0.75)),
        "best": base + gain * rock,
    }
    u, share = rng.random((n, draws)), rng.random((n, draws)) < 0.5  # of draws that are the same
    numbers = {name: np.where(share, u, rng.random((n, draws))) for name in chances}
    rows = {name: (numbers[name] < p[:, None]).ravel() for name, p in chances.items()}
    rows |= {"place": np.repeat(np.arange(n), draws), "draw": np.tile(np.arange(draws), n)}
    return effects.of_places(places, pd.DataFrame(rows))


def screen():
    ids = np.arange(16)
    level = np.where(ids % 2 == 1, "token", "control")
    columns = {"level": level, "target": ids, "delta": -0.01 * ids, "se": 0.01, "holding": 100}
    return pd.DataFrame(columns | {"n_problems": 200, "samples": 1})


def tables(some):
    types = effects.by_type(some, screen())
    types = types.assign(spelling=types.token_id.map("t{}".format))
    return effects.table(some, [0, 1]), effects.on_kl(some), types, effects.together(types)


def judged(some):
    effect, on_kl, _, together = tables(some)
    rows = claims.rows(effect, on_kl, together)
    return pd.DataFrame(rows).set_index("claim").direction


def test_verdicts_follow_known_effects():
    none = judged(made())
    assert none["teacher-gain-rock"] != verdicts.REPRODUCED
    assert none["local-ban-rock"] == none["teacher-gain-small"] == verdicts.REPRODUCED
    assert set(none[["local-null-rock", "local-null-control"]]) == {verdicts.PASSED}
    helped = judged(made(gain=0.1, ban=-0.2))
    assert helped["teacher-gain-rock"] == verdicts.REPRODUCED
    assert helped["local-ban-rock"] == helped["local-ban-apart"] == verdicts.DIFFERS
    assert helped["teacher-gain-small"] == verdicts.DIFFERS
    assert judged(made(gain=-0.1))["teacher-gain-rock"] == verdicts.DIFFERS
    assert judged(made(slope=0.2))["high-kl-gain"] == verdicts.REPRODUCED


def test_sentences_tell_what_is_shown_and_what_could_have_been_found():
    effect, on_kl, types, together = tables(made(gain=0.1, ban=-0.2, slope=0.2))
    gain = readings.of_effect(effect, "H")
    assert "a gain is shown" in gain and "Rocks minus controls" in gain
    assert "Without answer-bearing types" in gain
    assert "a loss is shown" in readings.of_effect(effect, "L")
    assert "a high KL marks places where the teacher's token helps" in readings.of_kl(
        on_kl, effects.by_kl(made(gain=0.1, ban=-0.2, slope=0.2))
    )
    assert "holds 0, as it must" in readings.of_null(effect)
    assert "rho =" in readings.of_types(types, together)
    effect, on_kl, *_ = tables(made())
    none = readings.verdict(effect, on_kl)
    assert "the smallest effect that this would find is" in none
    assert "no effect beyond 0.02" in none


def test_the_budget_is_told_with_its_parts():
    some = made()
    told = readings.of_budget(budget.needed(some, 8, 300))
    assert "continuations at" in told and "H at rocks" in told
    few = made(problems=4, each=8).assign(H=lambda one: one.prompt_index - 1.5)
    assert "more problems are needed" in readings.of_budget(budget.needed(few, 8, 4))


@pytest.mark.parametrize("some", [made(), made().head(0), made().head(1)], ids=["all", "0", "1"])
def test_every_figure_and_sentence_is_made_of_any_number_of_places(some):
    effect, on_kl, types, together = tables(some)
    needed, curve = budget.needed(some, 8, 300), budget.curve(some, 8, 300)
    by_kl = effects.by_kl(some)
    drawn = [
        figures.effects_by_side(effect),
        figures.gain_by_kl(by_kl),
        figures.local_and_global(types),
        figures.budget(curve, needed),
    ]
    for one in drawn:
        assert one.png().startswith(b"\x89PNG") and one.caption and one.alt
    told = [
        readings.of_null(effect),
        readings.of_effect(effect, "L"),
        readings.of_kl(on_kl, by_kl),
        readings.of_types(types, together),
        readings.of_budget(needed),
        readings.verdict(effect, on_kl),
    ]
    assert all(told) and "nan" not in " ".join(told)
    rows = claims.rows(effect, on_kl, together)
    unmeasured = [one["direction"] for one in rows if pd.isna(one.get("value", np.nan))]
    assert set(unmeasured) <= set(verdicts.UNMEASURED)


def test_captions_tell_of_seeds_where_intervals_resample_them():
    several = made(seeds=3, problems=40)
    for some, told in ((several, True), (several[several.seed == 0], False)):
        for one in (
            figures.effects_by_side(effects.table(some, [0, 1])),
            figures.gain_by_kl(effects.by_kl(some)),
        ):
            assert ("problems and training seeds" in one.caption) == told


def test_examples_are_escaped_with_blanks_that_show():
    numbers = dict.fromkeys(("p_stands", "p_without", "p_teacher", "p_best"), 0.5)
    texts = {"before": "a < b", "token": "<b>", "after": "\n", "best": " <i>", "rkl": 1.0}
    examples = pd.DataFrame([texts | numbers | {"right": True}])
    page = str(readings.examples_html(examples))
    assert "&lt;b&gt;" in page and "␣&lt;i&gt;" in page and "<b>" not in page
    assert "1 of these 1 places" in readings.of_examples(examples)
    assert readings.of_examples(examples.head(0)) == readings.NOWHERE


def test_the_notebook_has_no_result_in_its_prose():
    notebook = read(paths.notebooks_dir() / "10_does_the_teacher_help.ipynb")
    prose = "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    assert numbers_in(prose) == []
