r"""Grading maths: the last ``\boxed{...}`` of a completion against a reference answer.

The last closed box counts alone: an earlier one was given up, and a later open one was cut off by
the token limit before it held an answer. Two boxes are not one answer, since the prompt asks for
one box. `answer_forms` counts how often such decisions matter.

`verifier` decides whether two expressions are equal. A model may write ``9^{9^{9}}``, on which
sympy runs forever inside C code; math-verify's own time limit is a signal, which works only in a
main thread and cannot interrupt C code. Comparisons therefore run in a separate process, which the
kernel ends after `LIMIT_S` seconds of processor time and which restarts when needed, in threads and
worker processes too. A pair without a verdict is wrong and counted. Plain numbers never need that
process.
"""

import atexit
import itertools
import json
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import Any

import numpy as np
import pandas as pd

from rockstudy.config.fields import TaskConfig
from rockstudy.tasks.problem import Problem

LIMIT_S = 3  # ours: the slowest answer of MATH-500 and the competitions takes 0.7 s
MAX_CHARS = 400  # ours: their longest reference answer has 53
BOX = re.compile(
    r"\\(?:boxed|fbox)(?![a-zA-Z])\s*(?:(?P<brace>\{)|(?P<bare>-?[\d.,]*\d|[^\s$\\])?)"
)
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
FORMS = ("no box", "last box", "boxes side by side", "last box open", "thinking open")
NONE, LAST, SIDE_BY_SIDE, OPEN, THINKING = FORMS
TOGETHER = re.compile(r"(?:[\s$,;&]|\\[,;:() ]|\\q?quad|\\text|[{}]|and|or)*")
NUMBER = re.compile(r"(-?)(?:(\d{1,12})|\\[dt]?frac\{(-?\d{1,12})\}\{(\d{1,12})\})")


@dataclass(frozen=True)
class Graded:
    """Verdicts of a batch: ``correct`` and ``timed_out``, bool (n,), never both True."""

    correct: np.ndarray
    timed_out: np.ndarray


def boxed(text: str) -> str | None:
    r"""Content of the last closed ``\boxed{...}`` or ``\fbox{...}``, or None.

    ``\boxed 7`` is the box of the number or the single sign after it. Escaped braces are no braces.
    """
    return next((content for _, _, content in _boxes(text) if content is not None), None)


def _boxes(text: str) -> Iterator[tuple[int, int, str | None]]:
    """Boxes from the last to the first: start, end, and the content or None if it is open."""
    for match in reversed(list(BOX.finditer(text))):
        if not match["brace"]:
            if match["bare"]:
                yield match.start(), match.end(), match["bare"]
            continue
        depth = 1
        for sign in BRACE.finditer(text, match.end()):
            depth += {"{": 1, "}": -1}.get(sign[0], 0)
            if depth == 0:
                yield match.start(), sign.end(), text[match.end() : sign.start()].strip()
                break
        else:
            yield match.start(), len(text), None


def answer_forms(texts: Sequence[str]) -> pd.Series:
    """How many texts give their answer in each of `FORMS`, every text in one of them."""
    counts = pd.Series([_form(text) for text in texts]).value_counts()
    return counts.reindex(FORMS, fill_value=0).rename_axis("form").rename("completions")


def _form(text: str) -> str:
    if "</think>" not in text and text.lstrip().startswith("<think>"):
        return THINKING
    boxes = list(itertools.islice(_boxes(text), 2))
    if not boxes:
        return NONE
    (start, _, content), before = boxes[0], boxes[-1][1]
    if content is None:
        return OPEN
    together = before <= start and TOGETHER.fullmatch(text, before, start)
    return SIDE_BY_SIDE if together else LAST


def number(text: str) -> Fraction | None:
    r"""The value of a plain integer or of a ``\frac`` of two, else None."""
    match = NUMBER.fullmatch(text)
    if match is None or (match[4] and int(match[4]) == 0):
        return None
    value = Fraction(int(match[2] or match[3]), int(match[4] or 1))
    return -value if match[1] else value


def grade_number(answer: str, text: str) -> bool:
    """Whether the last box of `text` is the number `answer`."""
    given = boxed(text)
    value = number(given or "")
    return given == answer or (value is not None and value == number(answer))


def grade_numbers(
    task: TaskConfig, problems: Sequence[Problem], texts: Sequence[str]
) -> list[bool]:
    """Whether the last box of each text is its problem's number."""
    return [grade_number(p.answer, text) for p, text in zip(problems, texts, strict=True)]


def grade_math(answers: Sequence[str], texts: Sequence[str]) -> Graded:
    r"""Whether the last ``\boxed{...}`` of each text equals its answer (`verifier`).

    A completion without a closed box is wrong, since the prompt asks for one. Plain numbers are
    compared directly, with the same result but without the parser's cost. Results are cached.
    `RuntimeError` if the comparing process cannot be started.
    """
    verdicts = [_equals(a, boxed(t)) for a, t in zip(answers, texts, strict=True)]
    correct, timed_out = (np.array([v is x for v in verdicts], bool) for x in (True, None))
    return Graded(correct, timed_out)


def _equals(answer: str, given: str | None) -> bool | None:
    """The verdict, or None if the comparison took too long."""
    if given is None or len(given) > MAX_CHARS:
        return False
    if given == answer:
        return True
    values = number(answer), number(given)
    return values[0] == values[1] if None not in values else _compared(answer, given)


@lru_cache(maxsize=65_536)
def _compared(answer: str, given: str) -> bool | None:
    return _VERIFIER.same(answer, given)


class _Verifier:
    """The comparing process, started at the first comparison."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: Any = None
        self._inherited: list[Any] = []

    def same(self, answer: str, given: str) -> bool | None:
        """Whether two expressions are equal; None if the process ended first."""
        with self._lock:
            process = self._running()
            try:
                process.stdin.write(json.dumps([answer, given]) + "\n")
                process.stdin.flush()
                reply = process.stdout.readline()
            except BaseException:  # after an interrupt, a late reply must not count as the next one
                self.end()
                raise
            if not reply:
                self.end()
            return reply == "1\n" if reply else None

    def end(self) -> None:
        """End the process if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def after_fork(self) -> None:
        """Let a forked child start its own process; the parent's answers the parent."""
        self._inherited.append(self._process)  # a reference prevents waiting for it here
        self._process, self._lock = None, threading.Lock()

    def _running(self) -> Any:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.end()
        # by its path and with -P, since this folder has a module named math
        file = Path(__file__).with_name("verifier.py")
        command = [sys.executable, "-P", "-W", "ignore", str(file), str(LIMIT_S)]
        pipes: Any = {"stdin": PIPE, "stdout": PIPE, "stderr": DEVNULL, "text": True}
        # a session of its own, since Ctrl-C must not reach it
        self._process = Popen(command, **pipes, start_new_session=True)
        if self._process.stdout.readline() != "ready\n":
            self.end()
            raise RuntimeError(f"grading: the comparing process does not start: {command}")
        return self._process


_VERIFIER = _Verifier()
atexit.register(_VERIFIER.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_VERIFIER.after_fork)
