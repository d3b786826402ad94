r"""Grading maths: real reference answers and how models rewrite them, and answers that never end.

The oracle is arithmetic and the reference files; what math-verify itself refuses stands in
`REFUSED`, by name.
"""

import random
import re
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from rockstudy import tasks
from rockstudy.config.fields import TaskConfig
from rockstudy.tasks import Problem, grading
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


def plain(answer: str) -> bool:
    return re.fullmatch(r"[\d.]+|\\frac\{\d+\}\{\d+\}", answer) is not None


def whole(answer: str) -> bool:
    return answer.isdecimal()


def delimited(answer: str) -> str:
    opened = re.sub(r"(?<!left)(?<!\\)\(", r"\\left(", answer)
    return re.sub(r"(?<!right)(?<!\\)\)", r"\\right)", opened)


def spaced(answer: str) -> str:
    return re.sub(r"(?<=[^\\\s])([+=]|,(?!\d\d\d|\\!))(?=\S)", r" \1 ", answer)


REWRITINGS = {
    "spaces": spaced,
    "dfrac": lambda a: a.replace("\\frac", "\\dfrac"),
    "tfrac": lambda a: a.replace("\\frac", "\\tfrac"),
    "left and right": lambda a: a if "\\text" in a else delimited(a),
    "no left and right": lambda a: re.sub(r"\\left|\\right", "", a),
    "units in text": lambda a: a + "\\text{ units}" if plain(a) else a,
    "no units": lambda a: re.sub(r"(\d.*)\\(text|mbox)\{[^}]*\}(\^\d)?", r"\1", a),
    "bare words": lambda a: re.sub(r"^\\text\{\(?([^)}]*)\)?\}$", r"\1", a),
    "degrees": lambda a: a + "^\\circ" if plain(a) else a,
    "no degrees": lambda a: re.sub(r"\^\\circ|\^\{\\circ\}", "", a),
    "percent": lambda a: a + "\\%" if whole(a) else a,
    "dollars": lambda a: "\\$" + a if plain(a) else a,
    "no dollars": lambda a: a.replace("\\$", ""),
    "thousands": lambda a: f"{int(a):,}" if whole(a) else a,
    "thin thousands": lambda a: f"{int(a):,}".replace(",", ",\\!") if whole(a) else a,
    "no thousands": lambda a: re.sub(r",\\! ?", "", a),
    "decimals": lambda a: a + ".0" if whole(a) else a,
    "formula signs": lambda a: f"${a}$",
}
# An assigned value is understood unless it is a word, a number with separators, or a relation.
REFUSED = {
    "10,\\!080", "11,\\! 111,\\! 111,\\! 100", "58,500", "\\$32,\\!348",
    "5x - 7y + 11z + 4 = 0", "y = -2x", "y = 2x + 3", "x \\in [-2,7]",
    "\\text{(B)}", "\\text{(C)}", "\\text{(E)}", "\\text{Evelyn}", "\\text{Navin}",
    "\\text{east}", "\\text{ellipse}", "\\text{even}",
}  # fmt: skip


def test_the_last_closed_box_counts_and_braces_match():
    assert grading.boxed(r"\boxed{\frac{1}{2}} end") == r"\frac{1}{2}"
    assert grading.boxed(r"\boxed{6} no wait \boxed{7}") == "7"
    assert grading.boxed(r"\boxed{6} so \boxed{7") == "6"
    assert grading.boxed("nothing") is None
    assert grading.boxed(r"\boxed{7") is None


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


@pytest.mark.parametrize("rewriting", REWRITINGS)
def test_every_reference_answer_equals_its_rewriting(rewriting):
    rewritten = {a: REWRITINGS[rewriting](a) for name in FILES for a in references(name)}
    pairs = [(a, given) for a, given in rewritten.items() if given != a]
    hard = [pair for pair in pairs if not whole(pair[0])]
    pairs = hard + [pair for pair in pairs if whole(pair[0])][::10]  # numbers are all alike
    texts = [f"We get $\\boxed{{{given}}}$ in the end." for _, given in pairs]
    graded = grading.grade_math([a for a, _ in pairs], texts)
    assert pairs
    assert [pair for pair, ok in zip(pairs, graded.correct, strict=True) if not ok] == []


def test_an_assigned_value_is_understood_where_math_verify_can():
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
    answers = [a for name in FILES for a in references(name) if whole(a) and a != "0"]
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
