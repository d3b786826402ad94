"""The lab's causes: the annotator reads what the writers write, and what is broken."""

import random
from itertools import islice

import numpy as np
import pytest

from rockstudy.tasks.lab import grammar, instructions, maths, register, units, words
from rockstudy.tasks.lab.grammar import ARITHMETIC, BEYOND, COPY, FORMAT, NOISE, OFF, STYLE
from rockstudy.tasks.lab.register import STUDENT, TEACHER


def drafts(n, seed):
    return list(islice(maths.drafts("train", random.Random(seed)), n))


def causes_of(text):
    return grammar.annotate(tuple(units.UNITS.values()), text)


def cause_at(text, part, offset=0):
    return causes_of(text)[text.index(part) + offset]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("habits", [TEACHER, STUDENT], ids=["teacher", "student"])
def test_the_annotator_agrees_with_the_writer_on_maths(habits, seed):
    rng = random.Random(seed)
    for draft in drafts(150, seed):
        written = grammar.marked(register.compose(draft, habits, rng))
        np.testing.assert_array_equal(causes_of(written.text), written.causes, written.text)


@pytest.mark.parametrize("kind", sorted(instructions.KINDS))
@pytest.mark.parametrize("habits", [TEACHER, STUDENT], ids=["teacher", "student"])
def test_the_annotator_agrees_with_the_writer_under_instructions(habits, kind):
    rng = random.Random(kind)
    for draft in drafts(60, 3):
        item = instructions.instruct(draft, kind, rng)
        written = instructions.compose(item, habits, rng)
        np.testing.assert_array_equal(causes_of(written.text), written.causes, written.text)


def test_each_cause_is_where_a_reader_expects_it():
    text = (
        "For Mia we take 4, 5 and 7.\n\nFirst we multiply hats and coats: $4\\cdot5=20$.\n"
        "So we take away what is not allowed: $20-7=13$.\nOur tidy puzzle suits the evening.\n"
        "So the answer is $\\boxed{13}$ in the end."
    )
    assert cause_at(text, "For") == STYLE
    assert cause_at(text, "Mia") == cause_at(text, "4, 5") == COPY
    assert cause_at(text, "First") == STYLE and cause_at(text, "First", 2) == FORMAT
    assert cause_at(text, "multiply hats") == STYLE and cause_at(text, "hats and") == FORMAT
    assert cause_at(text, "\\cdot", 1) == STYLE and cause_at(text, "\\cdot", 3) == FORMAT
    assert cause_at(text, "4\\cdot") == COPY
    assert cause_at(text, "20$") == cause_at(text, "20$", 1) == ARITHMETIC
    assert cause_at(text, "$20-") == FORMAT  # the delimiter was decided in the first equation
    assert cause_at(text, "20-7") == cause_at(text, "7=13") == COPY
    assert cause_at(text, "Our") == BEYOND
    assert cause_at(text, "tidy") == cause_at(text, "puzzle") == cause_at(text, "evening") == NOISE
    assert cause_at(text, "So the answer") == BEYOND
    assert cause_at(text, "{13}", 1) == COPY
    assert cause_at(text, " in the end") == BEYOND
    assert not (causes_of(text) == OFF).any()


def test_a_boxed_answer_that_no_line_gives_is_computed():
    text = "First we complete the sum: $2+2=4$.\nSo the answer is $\\boxed{5}$."
    assert cause_at(text, "5}") == ARITHMETIC
    text = "First we combine both tops: $6+4=10$.\nSo the answer is $\\boxed{\\frac{5}{6}}$."
    assert cause_at(text, "5}") == cause_at(text, "6}") == ARITHMETIC


@pytest.mark.parametrize(
    ("text", "off"),
    [
        ("", ""),
        ("   \n\n ", ""),
        ("completely different", "completelydifferent"),
        ("First we multiply first: $3\\cdot4=$.", "=$."),  # no result
        ("First we dance: $3+4=7$. So the answer is $\\boxed{7}$.", "dance:$3+4=7$."),
        ("So the answer is $\\boxed{\\frac{1}{2}$.\n$}", "$}"),  # an open box
        ("We work simply. Zorp! We checked it simply.", "Zorp!"),
        ("First we complete the sum: $1+1=2$.\nFirst we complete", "complete"),  # cut
        ("\ufffd\x00<|im_end|>", "\ufffd\x00<|im_end|>"),
    ],
)
def test_broken_texts_lose_only_what_is_broken(text, off):
    causes = causes_of(text)
    assert causes.shape == (len(text),) and causes.dtype == np.int8
    assert "".join(c for c, cause in zip(text, causes, strict=True) if cause == OFF) == off


def test_the_reading_of_a_line_goes_on_after_a_broken_one():
    text = "First we multiply first: $3*4=12$.\nSo the answer is $\\boxed{12}$."
    assert cause_at(text, "So the answer") == BEYOND


def test_only_the_first_use_of_a_lasting_choice_is_a_decision():
    line = "So we complete the sum: \\(2\\times2=4\\).\n"
    causes = causes_of(line * 2)
    for part in ("we", "\\(", "times"):
        first, second = line.index(part), len(line) + line.index(part)
        assert causes[first : first + len(part)].tolist().count(STYLE) >= 1, part
        assert STYLE not in causes[second : second + len(part)], part


def test_decisions_are_where_wordings_part():
    choice = grammar.Choice(STYLE, (("so it is", "so it was", "no"),))
    marks = [c == STYLE for c in choice.causes("so it is")]
    assert [i for i, one in enumerate(marks) if one] == [0, 6]
    ends = grammar.Choice(STYLE, (("a", "ab"),))
    assert ends.causes("a").tolist() == [FORMAT, STYLE]  # it ends where another goes on


def test_what_follows_the_setting_is_independent_and_balanced():
    seen = [tuple(register.attributes(one).values()) for one in words.SETTINGS]
    assert len(set(seen)) == len(words.SETTINGS) == 4 * 4 * 3


def test_noise_is_drawn_with_the_written_odds():
    from scipy.stats import chisquare

    rng, n = random.Random(0), 40_000
    drawn = [words.zipf(words.NOUNS, rng) for _ in range(n)]
    expected = np.array(words.probabilities(words.NOUNS)) * n
    counts = np.array([drawn.count(word) for word in words.NOUNS])
    assert expected.sum() == pytest.approx(n) and chisquare(counts, expected).pvalue > 1e-3
