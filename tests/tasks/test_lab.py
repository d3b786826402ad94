"""The lab corpus: solvable, gradable, disjoint, deterministic."""

import random
from itertools import islice

import pytest

from rockstudy.config.fields import TaskConfig
from rockstudy.tasks.grading import grade_number
from rockstudy.tasks.lab import instructions, maths, register, words
from rockstudy.tasks.lab.register import LAYOUTS, STUDENT, TEACHER, write


def drafts(n, split="train", seed=3):
    return list(islice(maths.drafts(split, random.Random(seed)), n))


def problem(family, seed):
    rng = random.Random(seed)
    return maths.dress(family(rng), rng)


def sizes(n):
    return TaskConfig(name="lab_math", n_train=n, n_eval=n, max_prompt_tokens=256)


def value(expression, x=None):
    """Evaluate one side of a written equation by Python's own arithmetic."""
    import math
    import re

    text = re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", r"(\1/\2)", expression)
    text = text.replace(r"\cdot", "*").replace(r"\bmod", "%").replace(r"\gcd", "math.gcd")
    return eval(text, {"math": math})


@pytest.mark.parametrize("family", sorted(maths.FAMILIES))
def test_every_written_equation_holds(family):
    for seed in range(60):
        draft = problem(maths.FAMILIES[family], seed)
        for step in maths.answer_of(draft)[1]:
            lhs = step.lhs.split("=")[-1]
            assert value(lhs) == pytest.approx(float(step.result)), step


def test_linear_answers_solve_the_equation():
    for seed in range(60):
        draft = problem(maths.linear, seed)
        a, b, c = draft.core.params
        assert a * int(maths.answer_of(draft)[0]) + b == c


def test_gcd_and_lcm_and_fractions_agree_with_the_standard_library():
    import math
    from fractions import Fraction

    for seed in range(60):
        a, b, k = (d := problem(maths.gcd, seed)).core.params
        assert int(maths.answer_of(d)[0]) == math.gcd(a, b) + k
        a, b, k = (d := problem(maths.lcm, seed)).core.params
        assert int(maths.answer_of(d)[0]) == math.lcm(a, b) + k
        a, b, c, e = (d := problem(maths.fraction, seed)).core.params
        total, answer = Fraction(a, b) + Fraction(c, e), maths.answer_of(d)[0]
        written = rf"\frac{{{total.numerator}}}{{{total.denominator}}}"
        assert answer == (written if total.denominator > 1 else str(total.numerator))


def test_teacher_solutions_are_right_even_when_they_slip_and_correct():
    rng = random.Random(0)
    for draft in drafts(300):
        assert grade_number(maths.answer_of(draft)[0], write(draft, TEACHER, rng))


def test_student_habits_make_many_solutions_wrong_but_not_all():
    rng = random.Random(0)
    right = [grade_number(maths.answer_of(d)[0], write(d, STUDENT, rng)) for d in drafts(400)]
    assert 0.4 < sum(right) / len(right) < 0.7


def test_layout_follows_the_voice_with_noise():
    rng = random.Random(0)
    bulleted = [
        "\n- **" in (text := write(d, TEACHER, rng)) or "\n* **" in text
        for d in drafts(2000)
        if LAYOUTS[register.rule(d.voice, "layout", 4)] == "bullets"
    ]
    expected = 1 - TEACHER.noise * (1 - 1 / len(LAYOUTS))
    assert sum(bulleted) / len(bulleted) == pytest.approx(expected, abs=0.06)


def test_every_rule_of_style_uses_all_of_its_choices():
    for slot, n in (("layout", 4), ("dollar", 2), ("reason", 4), ("lead", 5), ("marker", 3)):
        drawn = [register.rule(name, slot, n) for name in words.NAMES]
        assert min(drawn.count(i) for i in range(n)) > len(drawn) / n / 2


def test_a_prompt_names_the_setting_first_and_the_voice_last_before_the_question():
    for draft in drafts(50):
        assert draft.question.startswith(f"We are at the {draft.setting}. ")
        assert f"{draft.voice} asks: {draft.core.question}" in draft.question


def test_training_and_evaluation_problems_are_disjoint():
    train = {p.key for p in maths.load(sizes(5000), "train")}
    held_out = {p.key for p in maths.load(sizes(500), "eval")}
    assert len(held_out) == 500 and not train & held_out
    train = {p.key.split(":", 1)[1] for p in instructions.load(sizes(2000), "train")}
    held_out = {p.key.split(":", 1)[1] for p in instructions.load(sizes(500), "eval")}
    assert not train & held_out


def test_the_corpus_is_deterministic_from_its_seed():
    assert maths.load(sizes(40), "eval") == maths.load(sizes(40), "eval")
    assert instructions.load(sizes(40), "eval") == instructions.load(sizes(40), "eval")
    assert maths.distinct("train", 40, seed=1) != maths.distinct("train", 40, seed=2)


def test_obeying_writers_follow_every_kind_of_instruction():
    rng = random.Random(1)
    for kind in instructions.KINDS:
        for draft in drafts(40, seed=5):
            item = instructions.instruct(draft, kind, rng)
            text = instructions.solution(item, TEACHER, rng)
            assert instructions.follows(text, item.problem.kwargs), (kind, text)


@pytest.mark.parametrize(
    ("kind", "kwargs", "bad"),
    [
        ("no_digits", {}, "We add 3. \\boxed{4}"),
        ("no_digits", {}, "no box at all"),
        ("bullets", {"n": 2}, "- one\n- two\n- three"),
        ("lowercase", {}, "so It is"),
        ("lowercase", {}, ""),
        ("end_phrase", {"phrase": "Done."}, "Done. Not."),
        ("heading", {}, "text\n# late"),
        ("no_dollars", {}, "cost $1$"),
        ("bold_answer", {}, "**bold** \\boxed{1}"),
        ("keyword", {"word": "simply"}, "We simply add."),
        ("no_commas", {}, "First, we"),
        ("one_paragraph", {}, "one\n\ntwo"),
    ],
)
def test_violations_are_seen(kind, kwargs, bad):
    assert not instructions.follows(bad, {"kind": kind, **kwargs})
