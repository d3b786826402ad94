r"""Grading maths: real reference answers and how models rewrite them, and answers that never end.

The oracle is arithmetic and the reference files; what the grader wrongly refuses stands in
`REFUSED`, by name.
"""

import random
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rockstudy import tasks
from rockstudy.config.fields import TaskConfig
from rockstudy.tasks import Problem, grader_error, grading
from rockstudy.tasks.lab import maths
from rockstudy.tasks.lab.register import STUDENT, write

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
FILES = ("math500", "aime24", "aime25", "hmmt25_feb", "gsm8k_test")
MONSTER = "9^{9^{9^{9}}}"  # a power tower: sympy evaluates it inside C code
TASK = TaskConfig(name="math", path="m.jsonl", n_train=1, n_eval=1, max_prompt_tokens=8)


def references(name: str) -> list[str]:
    """Return the distinct answers of a real file, as the maths task reads them."""
    if not (SHARED / f"{name}.jsonl").is_file():
        pytest.skip(f"../shared/data/{name}.jsonl is not here")
    n = len((SHARED / f"{name}.jsonl").read_text(encoding="utf-8").splitlines())
    path = str(SHARED / f"{name}.jsonl")
    task = TASK.model_copy(update={"path": path, "n_eval": n})
    return sorted({problem.answer for problem in tasks.load(task, "eval")})


# An assigned value is understood unless it is itself an assignment.
REFUSED = {"y = -2x", "y = 2x + 3", "5x - 7y + 11z + 4 = 0"}
# Pairs of an answer and a completion's box, equal or different in both directions.
EQUAL = r"""
\frac{1}{2^{99}} ~ 2^{-99}
\frac13 ~ 0.333333
1, 2, \ldots, n ~ 1,2,\dots,n
1000 ~ 1\,000
1000 ~ 1 000
73 ~ **73**
73 ~ 73.
\sqrt{2} ~ \sqrt{2}.
(-\infty, 3) ~ x<3
m \in [\sqrt{2}, \infty) ~ m \geq \sqrt{2}
14 - i ~ 14.0 - 1.0i
\frac{1}{2004!} ~ \frac{2005 \cdot 2006}{2006!}
2^{2005} \cdot 2 ~ 2^{2006}
\frac{2}{3} ~ 0.666667
\frac{2}{3} ~ 0.66666666
\pi ~ 3.141593
\pi ~ 3.14159265358979
\frac{1}{3000000} ~ 0.000000333333
\frac{10^6}{3} ~ 333333.333
0.00000012 ~ 1.2 \times 10^{-7}
.0000672 ~ 6.72 \times 10^{-5}
\frac12 ~ .5
\frac12 ~ 0.50
0.5 ~ \frac{1}{2}
1/2 ~ \frac{1}{2}
3, 5, 7 ~ 7, 5, 3
3, 5, 7 ~ 3,5,7
3, 5, 7 ~ 3, 5 \text{ and } 7
3, 5, 7 ~ \{3, 5, 7\}
\{1\pm\sqrt{5},-2\} ~ -2, 1+\sqrt5, 1-\sqrt5
1 \pm \sqrt{19} ~ 1+\sqrt{19}, 1-\sqrt{19}
3 \pm 2 \sqrt{2} ~ 3+2\sqrt2, 3-2\sqrt2
1, 2, \ldots, n ~ 1, 2, ..., n
1, 2, \ldots, n ~ \{1, 2, \dots, n\}
1 + 2 + \cdots + n ~ 1+2+\dots+n
10000 ~ 10\,000
1000000 ~ 1{,}000{,}000
1000000 ~ 1,000,000
1000000 ~ 1\ 000\ 000
1000 ~ 1~000
1000.5 ~ 1,000.5
\frac{1}{1000} ~ \frac{1}{1\,000}
73 ~ $73$
73 ~ \(73\)
73 ~ *73*
73 ~ \textbf{73}
73 ~ 73,
73 ~ 73.0
73 ~ \mathbf{73}
73 ~ 73\text{ apples}
73 ~ \text{73}
73 ~ = 73
73 ~ x = 73
x=5 ~ 5
x=5 ~ x = 5.0
x=5 ~ x = 2 + 3 = 5
(-\infty, 2) \cup (3, \infty) ~ x < 2 \text{ or } x > 3
(-\infty, 2) \cup (3, \infty) ~ (3, \infty) \cup (-\infty, 2)
x \in [-2,7] ~ -2 \le x \le 7
x \in [-2,7] ~ [-2,7]
[-2,7] ~ -2 \leq x \leq 7
(0,9) ~ 0 < x < 9
x<3 ~ 3>x
2x<6 ~ x<3
x < 3 ~ x < 3.0
(0,\infty) ~ x > 0
5x - 7y + 11z + 4 = 0 ~ -5x + 7y - 11z - 4 = 0
5x - 7y + 11z + 4 = 0 ~ 5x + 11z + 4 = 7y
y = 2x + 3 ~ 2x + 3
y = 2x + 3 ~ 2x - y + 3 = 0
f(x) = 2x + 3 ~ 2x+3
x > y ~ y < x
(2,4) ~ (2.0, 4)
(2,4) ~ \left(2, \frac{8}{2}\right)
(8,-2) ~ ( 8 , -2 )
(6,31,-1) ~ (6, 31, -1.0)
1+2i ~ 2i + 1
1+2i ~ 2i+1.0
-2 + 7i ~ 7i - 2
1\frac{4}{5} ~ \frac{9}{5}
1\frac{4}{5} ~ 1.8
1\frac{4}{5} ~ 1 \frac{4}{5}
1\frac{4}{5} ~ 1 4/5
137 \frac{1}{2} ~ 137.5
50\% ~ 50
50\% ~ 0.5
50\% ~ \frac{1}{2}
12.5 ~ 12.5\%
\frac13 ~ 33.3333\%
50\% ~ 50 \text{ percent}
50\% ~ 50\%
15\mbox{ cm}^2 ~ 15
15\mbox{ cm}^2 ~ 15 \text{ cm}^2
15\mbox{ cm}^2 ~ 15 \text{ square centimeters}
15\mbox{ cm}^2 ~ 15 cm^2
864 \mbox{ inches}^2 ~ 864 \text{ in}^2
864 \mbox{ inches}^2 ~ 864\text{ square inches}
5.4 \text{ cents} ~ 5.4
5.4 \text{ cents} ~ 5.4 cents
5 ~ 5 cm
5 ~ 5\,\text{m/s}
5 ~ 5 \, \mathrm{kg}
\$18.90 ~ 18.90
\$18.90 ~ 18.9
\$18.90 ~ \$18.9
\$32,\!348 ~ 32348
\$32,\!348 ~ 32,348
\$36 ~ 36 \text{ dollars}
106^\circ ~ 106
106^\circ ~ 106^{\circ}
106^\circ ~ 106 \text{ degrees}
\frac{270}7\text{ degrees} ~ \frac{270}{7}^\circ
\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix} ~ \begin{bmatrix} -\frac13 \\ \frac23 \end{bmatrix}
\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix} ~ \begin{bmatrix} -1 & 0 \\ 0 & -1 \end{bmatrix}
\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix} ~ \begin{pmatrix} -1.0 & 0 \\ 0 & -1 \end{pmatrix}
\text{(B)} ~ B
\text{(B)} ~ (B)
\text{(B)} ~ \textbf{(B)}
(A) ~ A
(A) ~ A.
(A) ~ A)
\text{Evelyn} ~ Evelyn
\text{Evelyn} ~ \text{evelyn}
\text{Evelyn} ~ \textbf{Evelyn}.
\text{even} ~ even
\text{no} ~ No
\frac{11+9a}{20} ~ \frac{11}{20} + \frac{9a}{20}
(a+5)(b+2) ~ ab + 2a + 5b + 10
x^3+3x-6 ~ 3x + x^3 - 6
\cot x ~ \frac{\cos x}{\sin x}
\frac{\sqrt{3}}{3} ~ \frac{1}{\sqrt{3}}
\frac{9 \sqrt{23}}{23} ~ \frac{9}{\sqrt{23}}
\sqrt{\frac{95}{24}} ~ \frac{\sqrt{570}}{12}
14+4\sqrt{37} ~ 2(7 + 2\sqrt{37})
\sqrt{5+2\sqrt{6}} ~ \sqrt{2}+\sqrt{3}
\frac{20000}{\pi} ~ 20000 \pi^{-1}
12\pi ~ 12π
x \le 3 ~ x ≤ 3
-5 ~ −5
2^{25} \cdot 26! ~ 26! \cdot 2^{25}
204_5 ~ 204_{5}
p - q ~ -q + p
3R^2 ~ 3 R^{2}
\frac 34 ~ 0.75
11\sqrt2 ~ 11 \sqrt{2}
xyz ~ zyx
\log_2 8 ~ 3
\left( 3, \frac{\pi}{2} \right) ~ (3, \pi/2)
\emptyset ~ \varnothing
58,500 ~ x = 58,500
\text{east} ~ x = \text{east}
\text{(B)} ~ x = \text{(B)}
30^\circ ~ \theta = 30^\circ
30^\circ ~ \angle ABC = 30^\circ
2x+3 ~ f(x) = 2x+3
3, 5 ~ x = 3, 5
3, 5 ~ x = 3 \text{ or } x = 5
1, 2 ~ x_1 = 1, x_2 = 2
(-\infty, 3] ~ x <= 3
\infty ~ +\infty
7 ~ +7
\frac{\pi}{4} ~ \pi/4
x^{2}+1 ~ x^2 + 1
12 ~ 12 \text{ units}^2
\sqrt[3]{2} ~ 2^{1/3}
\frac{a}{b} ~ a/b
2^{n+1} - 2 ~ 2(2^n - 1)
n! ~ n \cdot (n-1)!
"""
DIFFERENT = r"""
\frac{1}{2004!} ~ \frac{1}{2006!}
\frac{1}{2^{99}} ~ \frac{1}{2^{98}}
\frac{2^{2005}+1}{3 \cdot 2^{2006}} ~ \frac{1}{3 \cdot 2^{2006}}
10^{-20} ~ 10^{-21}
0.0000001 ~ 0.0000003
1, 2, \ldots, n ~ 1, 3, 5, \ldots, 2n-1
2 ~ 1, 2, \ldots, n
0 ~ 1 000
5 ~ 5!
(0,\infty) ~ x \ge 0
x/2^{99} ~ x/2^{98}
x + 10^{-60} ~ x
\sqrt{2} + 10^{-60} ~ \sqrt{2}
\frac{\sqrt{3}}{2^{80}} ~ \frac{\sqrt{3}}{2^{81}}
10^{20} ~ 10^{20}+1
10^{20}+0.5 ~ 10^{20}
123456.7 ~ 123456.8
0.00000012 ~ 0.00000013
1.5 \times 10^{-9} ~ 1.6 \times 10^{-9}
(10^{-20}, 1) ~ (10^{-21}, 1)
\{10^{-20}\} ~ \{10^{-21}\}
\begin{pmatrix} 10^{-20} \\ 1 \end{pmatrix} ~ \begin{pmatrix} 10^{-21} \\ 1 \end{pmatrix}
[0, 10^{-20}] ~ [0, 10^{-21}]
x = 10^{-20} ~ x = 10^{-21}
\frac23 ~ 0.66
\frac23 ~ 0.666668
\frac13 ~ 0.333334
\binom{100}{50} ~ \binom{100}{50}+1
e^{-50} ~ e^{-51}
100! ~ 101!
3 ~ 3, 4
3 ~ (3, 4)
4 ~ 3, 4
1, 2, 3 ~ 1, 2, \ldots, 3
1, 2, \ldots, 10 ~ 1, 2, \ldots, 100
2 ~ 1 2
6 ~ 2 3
0 ~ 5 0
23 ~ 2 3
(0,\infty) ~ [0,\infty)
[0,\infty) ~ x > 0
(0,1) ~ [0,1]
(0,1] ~ [0,1)
(-\infty, 3) ~ x \le 3
x<3 ~ y<3
x<3 ~ x>3
x = 3 ~ y = 3
(1,2) ~ (2,1)
(8,-2) ~ (-2,8)
(8,-2) ~ (9,3)
(1,2) ~ \{1,2\}
\{1,2\} ~ \{1,3\}
\{1,2\} ~ \{1,2,3\}
1,2 ~ 1,2,2
1 ~ 1, 1
5 \text{ cm} ~ 5 \text{ m}
15\mbox{ cm}^2 ~ 15 \text{ cm}
15\mbox{ cm}^2 ~ 15 \text{ cm}^3
5.4 \text{ cents} ~ \$5.4
5 \text{ hours} ~ 5 \text{ minutes}
2t ~ 2
2 ~ 2m
3g ~ 3h
5ab ~ 5
50\% ~ 5
50\% ~ 0.05
0.5\% ~ 0.5
\frac12 ~ \frac12 \%
1\frac{4}{5} ~ \frac45
2\frac{1}{2} ~ 1
1,000 ~ 1
1,000 ~ 0
1{,}000 ~ 1
1,234 ~ 1.234
\begin{pmatrix} 1 & 2 \end{pmatrix} ~ \begin{pmatrix} 1 \\ 2 \end{pmatrix}
\begin{pmatrix} 1 & 2 \\ 3 & 4\end{pmatrix} ~ \begin{pmatrix} 1 & 3 \\ 2 & 4\end{pmatrix}
0 ~ 5x - 7y + 11z + 4 = 0
5x - 7y + 11z + 4 = 0 ~ 5x - 7y + 11z - 4 = 0
5 ~ 2+2=5
y = 2x + 3 ~ y = 3x + 2
\text{(A)} ~ \text{(B)}
(A) ~ B
A ~ a
\text{even} ~ \text{odd}
\text{even} ~ 2
\text{east} ~ \text{seat}
east ~ seat
\text{Evelyn} ~ \text{Navin}
\text{yes} ~ \text{no}
3 ~ \text{three apples}
\sqrt{x^2} ~ x
2^{10} ~ 210
14 - i ~ 14 + i
1 \pm \sqrt{19} ~ 1 + \sqrt{19}
-3 ~ 3
x^2 ~ 2x
204_5 ~ 205_5
204_5 ~ 204_6
90^\circ ~ 91^\circ
\pi ~ 3.14
\infty ~ -\infty
\infty ~ 10^{100}
\emptyset ~ 0
5 ~ x + y = 5
5 ~ x < 5
x = 5 ~ x = -5
3, 5 ~ x = 3 \text{ or } x = 6
3R^2 ~ 3r^3
\sqrt[3]{2} ~ \sqrt{2}
n! ~ (n-1)!
2^{n+1} ~ 2^n
\frac{a}{b} ~ \frac{b}{a}
(x-1)^2 ~ (x-1)^3
\sin x ~ \cos x
[1,2] ~ 1,2
(-\infty, 2) \cup (3, \infty) ~ (-\infty, 2)
(-\infty, 2) \cup (3, \infty) ~ x < 2 \text{ or } x > 4
1000 ~ 1.000
10\,000 ~ 10
"""


def test_the_last_closed_box_counts_and_braces_match():
    assert grading.boxed(r"\boxed{\frac{1}{2}} end") == r"\frac{1}{2}"
    assert grading.boxed(r"\boxed{6} no wait \boxed{7}") == "7"
    assert grading.boxed(r"\boxed{6} so \boxed{7") == "6"
    assert grading.boxed("nothing") is None
    assert grading.boxed(r"\boxed{7") is None


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed {7}", "7"),
        (r"\boxed 7", "7"),
        (r"so $\boxed 73.$", "73"),
        (r"\boxed -1.5", "-1.5"),
        (r"\boxed x", "x"),
        (r"\fbox{7}", "7"),
        (r"\boxed{6} or \fbox {7}", "7"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\text{a \} b}}", r"\text{a \} b}"),
        (r"\boxed{3} \boxed{\left\{\begin{array}{l}1\\2\end{array}\right.}",
         r"\left\{\begin{array}{l}1\\2\end{array}\right."),
        (r"\boxed{1\\{2}}", r"1\\{2}"),  # a line break, then a brace
        (r"\boxedsize{7}", None),
        (r"\boxed", None),
    ],
)  # fmt: skip
def test_a_box_has_several_spellings_and_escaped_braces_are_no_braces(text, content):
    assert grading.boxed(text) == content


@pytest.mark.parametrize(("pairs", "equal"), [(EQUAL, True), (DIFFERENT, False)])
def test_answers_compare_by_value_in_either_order(pairs, equal):
    lines = [line.split(" ~ ") for line in pairs.strip().splitlines()]
    both = [*lines, *[pair[::-1] for pair in lines[::3]]]
    graded = grading.grade_math([a for a, _ in both], [f"so $\\boxed{{{g}}}$." for _, g in both])
    assert [pair for pair, ok in zip(both, graded.correct, strict=True) if ok != equal] == []
    assert not graded.timed_out.any()


@pytest.mark.parametrize(
    ("answer", "text", "right"),
    [
        ("7", r"so \boxed{7}, as we said. Done.", True),
        ("7", r"\boxed{ 7 }", True),
        ("7", "the answer is 7", False),
        ("7", r"\boxed{}", False),
        (r"\frac{1}{2}", r"\boxed{\dfrac{1}{2}}", True),
        (r"\frac{1}{2}", r"\boxed{0.5}", True),
        (r"\frac{1}{2}", r"\boxed{\frac{2}{4}}", True),
        (r"\frac{1}{2}", r"\boxed{\frac{1}{3}}", False),
        (r"\frac{1}{2}", r"\boxed{\frac{1}{0}}", False),
        ("1", r"\boxed{" + "1+" * 300 + "1}", False),
    ],
)
def test_grading_goes_by_the_box(answer, text, right):
    graded = grading.grade_math([answer], [text])
    assert graded.correct.tolist() == [right]
    assert not graded.timed_out.any()


@pytest.mark.parametrize("name", FILES)
def test_every_reference_answer_equals_itself_for_math_verify_too(name):
    answers = references(name)
    if name == "gsm8k_test":  # plain numbers, hundreds of them
        answers = answers[::10]
    assert grading.grade_math(answers, [f"\\boxed{{{a}}}." for a in answers]).correct.all()
    assert [a for a in answers if not grading._compared(a, a)] == []


@pytest.mark.parametrize("rewriting", [n for n in grader_error.REWRITINGS if n != "in words"])
def test_every_reference_answer_equals_its_rewriting(rewriting):
    rewritten = {
        a: grader_error.REWRITINGS[rewriting](a) for name in FILES for a in references(name)
    }
    pairs = [(a, given) for a, given in rewritten.items() if given != a]
    hard = [pair for pair in pairs if not pair[0].isdecimal()]
    pairs = hard + [pair for pair in pairs if pair[0].isdecimal()][::10]  # numbers are all alike
    texts = [f"We get $\\boxed{{{given}}}$ in the end." for _, given in pairs]
    graded = grading.grade_math([a for a, _ in pairs], texts)
    assert pairs
    assert [pair for pair, ok in zip(pairs, graded.correct, strict=True) if not ok] == []


@pytest.mark.slow
def test_the_committed_error_of_the_grader_is_what_the_files_give():
    for name in FILES:
        references(name)  # skips where a file is not here
    made = grader_error.table([SHARED / f"{name}.jsonl" for name in FILES])
    pd.testing.assert_frame_equal(made, grader_error.committed())


def test_the_committed_error_has_wilson_intervals_and_names_what_is_refused():
    table = grader_error.committed().set_index(["answers", "change"])
    for _, row in table.iterrows():
        interval = stats.binomtest(row.graded_right, row.n).proportion_ci(0.95, "wilson")
        assert (row.rate, row.lo, row.hi) == pytest.approx(
            (row.graded_right / row.n, *interval), abs=1e-4
        )
    assert table[table.rate < 1].index.tolist() == [("rewritten", "all"), ("rewritten", "in words")]
    assert table[table.rate < 1].first_error.tolist() == ["", "0 ~ zero"]


@pytest.mark.parametrize(
    ("form", "texts"),
    [
        ("no box", ["none", "", r"\boxed", "<think>a</think> 3"]),
        (
            "last box",
            [r"\boxed{1} no, \boxed{2}", r"\boxed{\boxed{7}}", r"<think>a</think>\fbox{3}"],
        ),
        ("boxes side by side", [r"\boxed{1} and \boxed{2}", r"$\boxed{1}$, $\boxed 2$"]),
        ("last box open", [r"\boxed{1} so \boxed{2", r"\boxed{\frac{1"]),
        ("thinking open", [r"<think> \boxed{1}", "\n<think>"]),
    ],
)
def test_answers_are_counted_by_their_form(form, texts):
    counted = grading.answer_forms(texts)
    assert counted.index.tolist() == list(grading.FORMS)
    assert counted[counted > 0].to_dict() == {form: len(texts)}


def test_an_assigned_value_is_understood_unless_it_is_an_assignment():
    answers = references("math500") + references("hmmt25_feb")
    some = [a for a in answers if a in REFUSED or zlib.crc32(a.encode()) % 8 == 0]
    refused = {a for a in some if not grading._compared(a, f"x = {a}")}
    assert refused == REFUSED


@pytest.mark.parametrize("name", FILES)
def test_the_answer_to_another_problem_is_wrong(name):
    answers = references(name)
    others = random.Random(0).sample(answers, len(answers))
    pairs = [(a, b) for a, b in zip(answers, others, strict=True) if a != b][:150]
    graded = grading.grade_math([a for a, _ in pairs], [f"\\boxed{{{b}}}" for _, b in pairs])
    assert [pair for pair, ok in zip(pairs, graded.correct, strict=True) if ok] == []


def test_a_number_off_by_one_or_of_the_other_sign_is_wrong():
    answers = [a for name in FILES for a in references(name) if a.isdecimal() and a != "0"]
    for change in (lambda a: str(int(a) + 1), lambda a: f"-{a}"):
        texts = [f"\\boxed{{{change(a)}}}" for a in answers]
        assert not grading.grade_math(answers, texts).correct.any()


def test_fractions_are_what_math_verify_says_without_asking_it():
    rng = random.Random(0)
    values = [f"\\frac{{{rng.randint(-9, 9)}}}{{{rng.randint(1, 9)}}}" for _ in range(40)]
    values += ["3", "-3", "0", "-\\frac{1}{2}", "\\dfrac{4}{2}"]
    for _ in range(150):
        a, b = rng.choice(values), rng.choice(values)
        assert (grading.number(a) == grading.number(b)) is grading._compared(a, b), (a, b)


def test_lab_answers_are_graded_without_a_process_and_quickly():
    rng = random.Random(0)
    drafts = maths.distinct("eval", 300, 1)
    answers = [maths.answer_of(draft)[0] for draft in drafts]
    texts = [write(draft, STUDENT, rng) for draft in drafts]
    texts[0] = f"\\boxed{{{MONSTER}}}"
    problems = [maths.problem_of(draft) for draft in drafts]
    task = TaskConfig(name="lab_math", n_train=1, n_eval=300, max_prompt_tokens=8)
    grading._VERIFIER.end()
    started = time.process_time()
    graded = tasks.grade(task, problems, texts)
    assert time.process_time() - started < 0.3  # 60,000 a minute, on a slow machine
    assert grading._VERIFIER._process is None
    by_math_verify = grading.grade_math(answers[1:], texts[1:]).correct
    np.testing.assert_array_equal(graded[1:], by_math_verify)


def test_a_monstrous_answer_costs_seconds_and_is_counted_and_the_rest_is_graded(monkeypatch):
    monkeypatch.setattr(grading, "LIMIT_S", 0.5)
    grading._VERIFIER.end()  # the next one starts with that limit
    answers = ["\\sqrt{2}", "5", "5", "\\sqrt{8}"]
    given = ["2^{1/2}", MONSTER + "+2", MONSTER + "+2", "2\\sqrt{2}"]
    problems = [Problem("", a, "", "", {}) for a in answers]
    texts = [f"\\boxed{{{g}}}" for g in given]
    started = time.monotonic()
    with pytest.warns(UserWarning, match=r"m: 2 of 4 answers are graded wrong.*9\^\{9\^"):
        graded = tasks.grade(TASK, problems, texts)
    assert time.monotonic() - started < 20
    assert graded.tolist() == [True, False, False, True]
    grading._VERIFIER.end()


def test_threads_and_worker_processes_grade_too():
    grading._compared("\\sqrt{2}", "2^{1/2}")  # a process is there that must not be shared
    results = []
    threads = [
        threading.Thread(
            target=lambda k=k: results.append(grading._compared(f"\\sqrt{{{k}}}", f"{k}^{{1/2}}"))
        )
        for k in range(2, 6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [True] * 4
    code = (
        "import multiprocessing as m\n"
        "from rockstudy.tasks import grading as g\n"
        "assert g._compared('\\\\sqrt{2}', '2^{1/2}')\n"
        "if __name__ == '__main__':\n"
        "    with m.get_context('fork').Pool(2) as pool:\n"
        "        args = [('\\\\sqrt{3}', '3^{1/2}'), ('\\\\sqrt{3}', '3^{1/3}')]\n"
        "        print(pool.starmap(g._compared, args))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[True, False]"


def test_a_process_that_was_killed_in_between_is_started_again():
    assert grading._compared("\\sqrt{7}", "7^{1/2}")
    grading._VERIFIER._process.kill()
    grading._VERIFIER._process.wait()
    assert grading._compared("\\sqrt{11}", "11^{1/2}")


def test_a_process_that_cannot_start_is_an_error_and_no_verdict(monkeypatch):
    grading._VERIFIER.end()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="does not start"):
        grading._compared("\\sqrt{13}", "13^{1/2}")
    grading._VERIFIER.end()
