"""Causes of tokens: the mapping by a plain loop, shares by hand, intervals by draws."""

import numpy as np
import pandas as pd
import pytest

from rockstudy import intervals
from rockstudy.config.fields import TaskConfig
from rockstudy.config.registry import TASKS
from rockstudy.errors import StudyError
from rockstudy.figure_style import CAUSES, cause_colours
from rockstudy.rocks import causes, figures, why_hard
from rockstudy.tasks import Problem, Task

NAMES = ("arithmetic", "format", "off the grammar")
ASKED = Problem("How many?", "12", "count", "0", {})


def digits(problem, text):
    """Digits are arithmetic, letters and blanks format, the rest is off the grammar."""
    kinds = (0 if c.isdecimal() else 1 if c.isalpha() or c.isspace() else 2 for c in text)
    return np.fromiter(kinds, np.int8, len(text))


@pytest.fixture
def task(monkeypatch):
    TASKS.entries()
    monkeypatch.setattr(TASKS, "_entries", dict(TASKS._entries))
    TASKS.add("digits", Task(lambda task, split: [ASKED], causes=NAMES, annotate=digits))
    return TaskConfig(name="digits", n_train=1, n_eval=1, max_prompt_tokens=64)


def test_a_token_has_the_cause_of_its_first_character_that_is_not_format():
    lengths, characters = np.array([2, 0, 3, 1]), np.array([5, 1, 5, 5, 2, 5], np.int8)
    assert causes.of_tokens(lengths, characters, 5).tolist() == [1, 5, 2, 5]
    assert causes.of_tokens(np.zeros(2, int), np.zeros(0, np.int8), 5).tolist() == [5, 5]
    assert causes.of_tokens(np.zeros(0, int), np.zeros(0, np.int8), 5).tolist() == []


def test_the_mapping_is_that_of_a_plain_loop():
    rng = np.random.default_rng(0)
    for _ in range(300):
        lengths = rng.integers(0, 5, rng.integers(1, 30))
        characters = rng.choice(4, lengths.sum(), p=(0.1, 0.7, 0.1, 0.1)).astype(np.int8)
        expected, start = [], 0
        for length in lengths:
            inside = [c for c in characters[start : start + length] if c != 1]
            expected.append(inside[0] if inside else 1)
            start += length
        found = causes.of_tokens(lengths, characters, 1)
        assert found.tolist() == expected and found.dtype == np.int8


def test_characters_that_are_more_or_fewer_than_those_of_the_tokens_are_refused():
    with pytest.raises(ValueError, match="characters: must be 3; got 2"):
        causes.of_tokens(np.array([1, 2]), np.zeros(2, np.int8), 1)


def test_tokens_keep_their_own_characters_across_special_ones_and_broken_bytes(
    task, tiny_tokenizer
):
    text = "So 12 é7"
    ids = [i for i in tiny_tokenizer.encode(text, add_special_tokens=False)]
    end = tiny_tokenizer.eos_token_id
    rows = [np.array([*ids, end]), np.array([end]), np.array([ids[-1], end, *ids])]
    found = causes.token_causes(task, tiny_tokenizer, [ASKED] * 3, rows)
    assert [len(one) for one in found] == [len(row) for row in rows]
    assert found[1].tolist() == ["format"]
    assert found[2].tolist() == ["arithmetic", "format", *found[0][:-1]]
    names = [tiny_tokenizer.convert_ids_to_tokens(i) for i in ids]
    by_name = dict(zip(names, found[0], strict=False))
    assert by_name["1"] == by_name["2"] == by_name["7"] == "arithmetic"
    assert by_name["So"] == "format" if "So" in by_name else by_name["S"] == "format"
    assert by_name["Ã"] == "off the grammar"  # half of é, which is shown as \xc3


# --- shares, by hand ------------------------------------------------------------------------------


def tokens(rows, names=NAMES):
    frame = pd.DataFrame(rows, columns=["prompt_index", "token_id", "cause", "rkl_pre", "rkl_post"])
    return frame.assign(cause=pd.Categorical(frame.cause, categories=names))


BY_HAND = tokens(
    [
        (0, 1, "arithmetic", 2.0, 1.0),
        (0, 2, "format", 1.0, 0.0),
        (3, 1, "arithmetic", 4.0, 2.0),
        (3, 3, "format", 1.0, 1.0),
        (3, 3, "format", 2.0, 0.0),
    ]
)


def numbers(table, *index):
    return table.set_index([*index, "cause"]).value


def test_shares_and_means_are_those_worked_out_by_hand():
    table = causes.loss_by_cause(BY_HAND, np.random.default_rng(0))
    value = numbers(table, "measure", "stage")
    assert value["positions", "", "arithmetic"] == 2 / 5
    assert value["mean", "pre", "arithmetic"] == 3
    assert value["mean", "post", "format"] == pytest.approx(1 / 3)
    assert value["loss", "pre", "arithmetic"] == pytest.approx(6 / 10)
    assert value["loss", "post", "format"] == pytest.approx(1 / 4)
    assert value["positions", "", "off the grammar"] == 0
    assert np.isnan(value["mean", "pre", "off the grammar"])
    counts = table.drop_duplicates("cause").set_index("cause").positions
    assert counts.to_dict() == dict(zip(NAMES, (2, 3, 0), strict=True))
    assert set(table.n) == {2} and set(table.unit) == {"prompts"}
    assert "early" not in set(table.stage)
    early = causes.loss_by_cause(BY_HAND.assign(rkl_early=1.0), np.random.default_rng(0))
    assert numbers(early, "measure", "stage")["mean", "early", "format"] == 1


def test_rocks_and_controls_are_compared_by_hand_and_a_set_with_itself_does_not_differ():
    table = causes.causes_of_sets(BY_HAND, [1, 3], [2, 3], np.random.default_rng(0))
    value = numbers(table, "name", "measure")
    assert value["rocks", "occurrences", "arithmetic"] == 2 / 4
    assert value["rocks", "loss", "arithmetic"] == 3 / 4
    assert value["controls", "occurrences", "arithmetic"] == 0
    assert value["all positions", "loss", "format"] == 1 / 4
    assert value["rocks - controls", "occurrences", "format"] == 2 / 4 - 1
    same = causes.causes_of_sets(BY_HAND, [1, 2, 3], [1, 2, 3], np.random.default_rng(0))
    change = same[same.name == "rocks - controls"]
    assert (change[["value", "lo", "hi"]] == 0).all(axis=None)


def world(n_prompts=60, seed=0):
    """Prompts of their own length and difficulty, three causes, six types."""
    rng = np.random.default_rng(seed)
    rows = []
    for prompt in range(n_prompts):
        hard = rng.gamma(2.0)
        for _ in range(rng.integers(5, 30)):
            cause = rng.choice(3, p=(0.3, 0.6, 0.1))
            loss = hard * rng.exponential((2.0, 0.2, 1.0)[cause], 2)
            rows.append((prompt, rng.integers(6), NAMES[cause], *loss))
    return tokens(rows)


def test_intervals_are_those_of_a_plain_bootstrap_over_prompts():
    frame, rng = world(), np.random.default_rng(1)
    sums = []
    for _, some in frame.groupby("prompt_index"):
        hard = some.rkl_post[some.cause == "arithmetic"]
        sums.append((hard.sum(), len(hard), some.rkl_post.sum(), len(some)))
    picked = rng.integers(len(sums), size=(20_000, len(sums)))
    loss, n, total, length = np.array(sums)[picked].sum(1).T
    expected = np.quantile([n / length, loss / n, loss / total], [0.025, 0.975], axis=1).T
    table = causes.loss_by_cause(frame, np.random.default_rng(2))
    table = table[table.cause == "arithmetic"].set_index(["measure", "stage"])
    for key, (lo, hi) in zip((("positions", ""), ("mean", "post"), ("loss", "post")), expected,
                             strict=True):  # fmt: skip
        width = hi - lo
        assert (table.lo[key], table.hi[key]) == pytest.approx((lo, hi), abs=0.06 * width)


def test_a_difference_of_sets_is_paired_by_prompt():
    frame, rng = world(seed=3), np.random.default_rng(4)
    parts = [some for _, some in frame.groupby("prompt_index")]
    sums = np.array([
        [s.rkl_post[s.token_id.isin(ids) & inside].sum() for ids in ([0, 1], [2, 3, 4])
         for inside in (s.cause == "arithmetic", s.cause != "")]
        for s in parts
    ])  # fmt: skip
    drawn = sums[rng.integers(len(parts), size=(20_000, len(parts)))].sum(1)
    change = drawn[:, 0] / drawn[:, 1] - drawn[:, 2] / drawn[:, 3]
    expected = np.quantile(change, [0.025, 0.975])
    table = causes.causes_of_sets(frame, [0, 1], [2, 3, 4], np.random.default_rng(5))
    row = table.set_index(["name", "measure", "cause"]).loc[
        ("rocks - controls", "loss", "arithmetic")
    ]
    assert (row.lo, row.hi) == pytest.approx(expected, abs=0.05 * np.ptp(expected))


def test_a_cause_in_one_prompt_has_no_interval_and_one_in_few_has_that_of_these():
    some = [(p, 1, "arithmetic", 1.0, 1.0 + p) for p in range(40)]
    frame = tokens([*some, (0, 2, "format", 1.0, 2.0)])
    table = causes.loss_by_cause(frame, np.random.default_rng(0)).set_index(["measure", "cause"])
    alone = table.loc[("mean", "format")].query("stage == 'post'").iloc[0]
    assert alone.value == 2 and np.isnan(alone.lo) and np.isnan(alone.hi)
    two = tokens([*some, (0, 2, "format", 1.0, 2.0), (1, 2, "format", 1.0, 4.0)])
    table = causes.loss_by_cause(two, np.random.default_rng(0)).set_index(["measure", "cause"])
    few = table.loc[("mean", "format")].query("stage == 'post'").iloc[0]
    assert (few.lo, few.value, few.hi) == (2, 3, 4)


def test_one_prompt_is_too_few():
    with pytest.raises(StudyError, match="prompts: an interval needs at least 2 units"):
        causes.loss_by_cause(BY_HAND[:2], np.random.default_rng(0))


def test_ratios_of_all_columns_are_those_of_one_column_each():
    rng = np.random.default_rng(0)
    above, below = rng.random((30, 2, 3)), 1 + rng.random((30, 2, 3))
    value, samples = intervals.ratio_draws(above, below, np.random.default_rng(1))
    assert value == pytest.approx(above.sum(0) / below.sum(0))
    frame = pd.DataFrame({"prompt_index": range(30), "a": above[:, 1, 2], "b": below[:, 1, 2]})
    one = intervals.prompt_ratio(frame, "a", "b", np.random.default_rng(1))
    assert intervals.ends(samples)[:, 1, 2].tolist() == pytest.approx([one.lo, one.hi])


# --- words, figures, HTML -------------------------------------------------------------------------


def test_the_readings_state_the_numbers_of_their_tables():
    told = why_hard.reading_of_loss(causes.loss_by_cause(world(), np.random.default_rng(0)))
    assert "is arithmetic (" in told and "95% over 60 prompts" in told
    table = causes.causes_of_sets(BY_HAND, [1, 3], [2, 3], np.random.default_rng(0))
    change = (table.name == "rocks - controls") & (table.cause == "arithmetic")
    table.loc[change, ["value", "lo", "hi"]] = (0.5, 0.4, 0.6)
    told = why_hard.reading_of_sets(table)
    assert told.count("they have more arithmetic (+0.50 [+0.40, +0.60])") == 2
    table[["lo", "hi"]] = (-1.0, 1.0)
    assert why_hard.reading_of_sets(table).count(why_hard.UNDECIDED) == 2


def test_a_cause_has_one_colour_and_a_name_of_ones_own_a_spare_one():
    colours = cause_colours(["noise", "mine", "arithmetic", "yours"])
    assert colours["noise"] == CAUSES["noise"] and colours["arithmetic"] == CAUSES["arithmetic"]
    assert len(set(colours.values())) == 4
    assert len(set(CAUSES.values())) == len(CAUSES)


def test_the_figures_show_every_cause_and_every_set():
    rng = np.random.default_rng(0)
    made = figures.loss_by_cause(causes.loss_by_cause(world(), rng))
    assert [t.get_text() for t in made.axes[0].get_yticklabels()] == list(NAMES)
    made = figures.shares_of_causes(causes.causes_of_sets(world(), [0, 1], [2, 3], rng))
    (axis,) = made.axes
    assert [t.get_text() for t in axis.get_yticklabels()] == list(causes.SETS)
    assert axis.get_legend_handles_labels()[1] == list(NAMES)
    types = pd.DataFrame({"token_id": range(5), "count": [9, 1, 4, 1, 100]})
    (axis,) = figures.rank_frequency(types, [0]).axes
    assert axis.get_lines()[0].get_ydata().tolist() == [100, 9, 4, 1, 1]


def test_tokens_are_escaped_shown_with_their_blanks_and_have_the_colour_of_their_cause():
    solutions = pd.DataFrame(
        {"model": ["teacher"] * 3 + ["student"], "token": ["$<b>", " 7\n", "x", "<script>"],
         "cause": ["format", "arithmetic", "format", "off the grammar"]}
    )  # fmt: skip
    shown = causes.coloured(solutions, NAMES)._repr_html_()
    assert "mathjax_ignore" in shown and "<script>" not in shown and "&lt;script&gt;" in shown
    colour = CAUSES["arithmetic"][1:]
    assert f'<span class="cause-{colour}" title="arithmetic">␣7⏎<br></span>' in shown
    assert f">{NAMES[0]}</span>" in shown and "teacher" in shown
    assert "copy" not in shown  # a legend of what is there
