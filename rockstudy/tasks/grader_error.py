r"""How often the grader of maths errs: rewritten right answers and wrong answers, with intervals.

Accuracies are means of a grader's verdicts, so its own errors bound what they mean. Both rates are
measured on the reference answers of the benchmark files: each applicable one of `REWRITINGS` keeps
an answer's value and must be accepted, each of `WRONG` changes it and must be refused. Large whole
numbers are alike, so one in `WHOLE` of them is taken. How this can mislead: models rewrite and err
in further ways, and the grader was mended where these changes showed an error, so a rate near 1
holds for the kinds listed alone.

``python -m rockstudy.tasks.grader_error FILE...`` writes the committed table.
"""

import random
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from rockstudy import paths
from rockstudy.config.fields import TaskConfig
from rockstudy.intervals import LEVEL
from rockstudy.tasks import grading, math

Change = Callable[[str], str]
WHOLE = 10  # ours: one in ten whole numbers, which are nine tenths of all answers
NAMES = "zero one two three four five six seven eight nine ten eleven twelve".split()


def plain(answer: str) -> bool:
    """Whether an answer is a number or a fraction of two."""
    return re.fullmatch(r"[\d.]+|\\frac\{\d+\}\{\d+\}", answer) is not None


def _delimited(answer: str) -> str:
    opened = re.sub(r"(?<!left)(?<!\\)\(", r"\\left(", answer)
    return re.sub(r"(?<!right)(?<!\\)\)", r"\\right)", opened)


def _scalar(answer: str) -> bool:
    """Whether an answer is one number or expression: no list, relation, unit, text or matrix."""
    return not re.search(r"[,=%_]|\\(text|mbox|in|begin|pm|cup|\$|\{)|circ|^\d+ ?\\frac", answer)


REWRITINGS: dict[str, Change] = {
    "spaces": lambda a: re.sub(r"(?<=[^\\\s])([+=]|,(?!\d\d\d|\\!))(?=\S)", r" \1 ", a),
    "dfrac": lambda a: a.replace("\\frac", "\\dfrac"),
    "tfrac": lambda a: a.replace("\\frac", "\\tfrac"),
    "left and right": lambda a: a if "\\text" in a else _delimited(a),
    "no left and right": lambda a: re.sub(r"\\left|\\right", "", a),
    "units in text": lambda a: a + "\\text{ units}" if plain(a) else a,
    "no units": lambda a: re.sub(r"(\d.*)\\(text|mbox)\{[^}]*\}(\^\d)?", r"\1", a),
    "bare words": lambda a: re.sub(r"^\\text\{\(?([^)}]*)\)?\}$", r"\1", a),
    "degrees": lambda a: a + "^\\circ" if plain(a) else a,
    "no degrees": lambda a: re.sub(r"\^\\circ|\^\{\\circ\}", "", a),
    "percent": lambda a: a + "\\%" if a.isdecimal() else a,
    "dollars": lambda a: "\\$" + a if plain(a) else a,
    "no dollars": lambda a: a.replace("\\$", ""),
    "thousands": lambda a: f"{int(a):,}" if a.isdecimal() else a,
    "thin thousands": lambda a: f"{int(a):,}".replace(",", ",\\!") if a.isdecimal() else a,
    "no thousands": lambda a: re.sub(r",\\! ?", "", a),
    "decimals": lambda a: a + ".0" if a.isdecimal() else a,
    "formula signs": lambda a: f"${a}$",
    "full stop": lambda a: a + ".",
    "bold": lambda a: f"**{a}**",
    "named": lambda a: a if "=" in a else f"z = {a}",
    "slash": lambda a: re.sub(r"(?<![\d ])\\d?frac\{(\w+)\}\{(\w+)\}", r"(\1)/(\2)", a),
    "half of the double": lambda a: f"\\frac{{2({a})}}{{2}}" if _scalar(a) else a,
    "one more, one less": lambda a: f"1 + {a} - 1" if _scalar(a) and a[0] != "-" else a,
    "in words": lambda a: NAMES[int(a)] if a.isdecimal() and int(a) < len(NAMES) else a,
}


def _last_number(answer: str, change: Callable[[int], int]) -> str:
    if re.search(r"frac *\d", answer):  # 34 is not one number in \frac34
        return answer
    return re.sub(
        r"(?<![\d.,!])(\d+)(?![\d.,])(?=\D*$)", lambda m: str(change(int(m[1]))), answer, count=1
    )


WRONG: dict[str, Change] = {
    "last number plus 1": lambda a: _last_number(a, lambda n: n + 1),
    "last number doubled": lambda a: _last_number(a, lambda n: 2 * n or 2),
    "other sign": lambda a: f"-({a})" if _scalar(a) and a != "0" else a,
    "one more": lambda a: f"{a} + 1" if _scalar(a) else a,
    "a millionth more": lambda a: f"{a} + 10^{{-6}}" if _scalar(a) else a,
    "ten times": lambda a: f"10({a})" if _scalar(a) and a != "0" else a,
    "upside down": lambda a: re.sub(r"^\\d?frac\{(\w+)\}\{(\w+)\}$", r"\\frac{\2}{\1}", a),
    "cut to one decimal": lambda a: re.sub(r"(?<=\.\d)\d*[1-9]\d*$", "", a),
    "one item fewer": lambda a: re.sub(r"(?<=\d), ?[^,]+?(?=\\?[)\]}]*$)", "", a),
    "reversed": lambda a: re.sub(r"\(([-\d]+),([-\d]+)\)", r"(\2,\1)", a),
    "other end": lambda a: re.sub(r"\](?!.)", ")", re.sub(r"\)(?!.)", "]", a)) if "," in a else a,
}


def answers(files: Sequence[Path]) -> list[str]:
    """The distinct answers of maths files; of large whole numbers, one in `WHOLE`."""
    read: set[str] = set()
    for path in files:
        n = len(path.read_text(encoding="utf-8").splitlines())
        task = TaskConfig(name="math", path=str(path), n_train=1, n_eval=n, max_prompt_tokens=1)
        read |= {problem.answer for problem in math.load(task, "eval")}
    whole = sorted((a for a in read if a.isdecimal()), key=int)
    some = {*whole[::WHOLE], *[a for a in whole if int(a) < len(NAMES)]}
    return sorted(read - set(whole)) + sorted(some, key=int)


def _of_the_same_form(known: Sequence[str]) -> Change:
    """Replace an answer by that to another problem with the same letters and signs."""
    forms: dict[str, list[str]] = {}
    for answer in known:
        forms.setdefault(re.sub(r"\d+", "0", answer), []).append(answer)
    rng = random.Random(0)
    other = {}
    for alike in forms.values():
        shift = rng.randrange(1, len(alike)) if len(alike) > 1 else 0
        other |= {a: alike[(i + shift) % len(alike)] for i, a in enumerate(alike)}
    return lambda answer: other[answer]


def table(files: Sequence[Path]) -> pd.DataFrame:
    """Grade every change of the files' answers.

    Returns
    -------
    DataFrame
        One row per kind of change, and one for all: ``answers`` (rewritten or wrong), ``change``,
        ``n`` (answers that it changes), ``graded_right`` (accepted, or refused), ``rate`` with its
        Wilson interval ``lo, hi``, and ``first_error``, an answer and its change.
    """
    known = answers(files)
    wrong = WRONG | {"answer to another problem": _of_the_same_form(known)}
    columns = ["answers", "change", "n", "graded_right", "first_error"]
    made = []
    for kind, changes, right in (("rewritten", REWRITINGS, True), ("wrong", wrong, False)):
        for name, change in changes.items():
            pairs = [(a, given) for a in known if (given := change(a)) != a]
            texts = [f"\\boxed{{{given}}}" for _, given in pairs]
            correct = grading.grade_math([a for a, _ in pairs], texts).correct
            errors = [" ~ ".join(pairs[i]) for i in np.flatnonzero(correct != right)]
            made.append((kind, name, len(pairs), len(pairs) - len(errors), "".join(errors[:1])))
    frame = pd.DataFrame(made, columns=columns)
    all_ = frame.groupby("answers", as_index=False)[["n", "graded_right"]].sum()
    frame = pd.concat([all_.assign(change="all", first_error=""), frame], ignore_index=True)
    lo, hi = proportion_confint(frame.graded_right, frame.n, 1 - LEVEL, method="wilson")
    rated = frame[columns[:-1]].assign(rate=frame.graded_right / frame.n, lo=lo, hi=hi)
    return rated.assign(first_error=frame.first_error).round(4)


def committed() -> pd.DataFrame:
    """The committed `table` of MATH-500, AIME 24 and 25, HMMT February 25 and GSM8K's test set."""
    return pd.read_csv(paths.data_dir() / "grading" / "error.csv", keep_default_na=False)


if __name__ == "__main__":
    table([Path(name) for name in sys.argv[1:]]).to_csv(sys.stdout, index=False)
