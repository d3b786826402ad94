"""IFEval (arXiv 2311.07911): prompts whose instructions a program can check.

A row has ``key``, ``prompt``, ``instruction_id_list`` and ``kwargs``. The checkers come from
lm-evaluation-harness (the extra ``ifeval``), so that results are comparable. A completion is
correct if it strictly follows **all** of its instructions: prompt-level strict accuracy, the first
of the harness's four rates. This choice is ours, since the paper names no rate; `rates` has all.

Where we depart from the harness: it graded ``letter_frequency`` of a sign such as ``!`` or ``#`` by
a random letter, and we count the sign. Arguments that a checker would replace by random ones are
refused. A completion that starts with a ``<think>`` block is graded by what follows its
``</think>``; if the block is not closed, it gave no answer and follows nothing. The rows of
`CONTRADICTORY` are graded as they are, for comparability.

Two checkers split sentences with nltk's punkt data, which nltk would download. If the data are not
installed, loading skips the rows that need them and names these in a warning. langdetect draws
random numbers and is seeded, so that grading is deterministic.
"""

import contextlib
import io
import warnings
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any, Literal

import pandas as pd

from rockstudy.config.fields import TaskConfig
from rockstudy.config.registry import TASKS
from rockstudy.errors import StudyError
from rockstudy.tasks import ifeval_rows, rows
from rockstudy.tasks.problem import Problem, Split, Task

CONTRADICTORY = {  # rows whose arguments contradict their prompt, by key
    "337": "length_constraints:number_words: the prompt demands at least 400, 336 are checked",
    "1174": "keywords:letter_frequency: the prompt demands at least 6 o, fewer than 6 are checked",
}
LETTERS = "keywords:letter_frequency"
NEED_PUNKT = ("change_case:capital_word_frequency", "length_constraints:number_sentences")


def load(task: TaskConfig, split: Split) -> list[Problem]:
    """Prompts whose instructions a program checks (IFEval), as far as they can be graded here.

    ``n_eval`` and ``n_train`` count rows, including those that are skipped.

    `StudyError`: The extra ``ifeval`` is not installed; an unknown instruction or one without its
    arguments; no row left; errors as in `rows.problems`.
    """
    known = instructions()
    loaded = rows.problems(task, split, lambda *row: ifeval_rows.problem(*row, known))
    return gradable(task, loaded)


def instructions() -> dict[str, Any]:
    """The harness's checkers by their instructions; `StudyError` if they are not installed."""
    return _harness()[1].INSTRUCTION_DICT


def gradable(task: TaskConfig, loaded: list[Problem]) -> list[Problem]:
    """The problems whose checkers have what they need here; a warning names those left out.

    `StudyError`: no problem is left.
    """
    if _has_punkt():
        return loaded
    needs = [set(p.kwargs["instruction_id_list"]) & set(NEED_PUNKT) for p in loaded]
    kept = [p for p, need in zip(loaded, needs, strict=True) if not need]
    if len(kept) < len(loaded):
        counts = Counter(name for need in needs for name in sorted(need))
        named = ", ".join(f"{name} in {n}" for name, n in sorted(counts.items()))
        what = (
            f"{task.label}: {len(loaded) - len(kept)} of {len(loaded)} rows need nltk's punkt_tab "
            f"data, which is not installed (python -m nltk.downloader punkt_tab): {named}"
        )
        if not kept:
            raise StudyError(f"{what}; no row is left")
        warnings.warn(f"{what}; they are left out", stacklevel=2)
    return kept


def grade(task: TaskConfig, problems: Sequence[Problem], texts: Sequence[str]) -> list[bool]:
    """Whether each text follows all instructions of its problem (prompt-level strict)."""
    pairs = zip(problems, texts, strict=True)
    return [all(_followed("strict", problem, text)) for problem, text in pairs]


TASKS.add("ifeval", Task(load, grade, ifeval_rows.COLUMNS))


def rates(problems: Sequence[Problem], texts: Sequence[str]) -> pd.DataFrame:
    """Grade texts by the harness's four rates: one row per text.

    Returns
    -------
    DataFrame
        ``prompt_strict`` and ``prompt_loose`` (bool), ``instructions`` (their number), and
        ``instructions_strict`` and ``instructions_loose`` (numbers followed). The mean of a prompt
        column is its rate (`intervals.cluster_mean`); an instruction-level rate is the ratio of
        sums (`intervals.prompt_ratio`), as in the harness. Loose: the best of eight versions of
        the text, without its first or last line or its asterisks.
    """
    graded = []
    for pair in zip(problems, texts, strict=True):
        strict, loose = (_followed(kind, *pair) for kind in ("strict", "loose"))
        graded.append((all(strict), all(loose), len(strict), sum(strict), sum(loose)))
    names = "prompt_strict prompt_loose instructions instructions_strict instructions_loose"
    return pd.DataFrame(graded, columns=names.split())


def answer_of(text: str) -> str:
    """What follows the last ``</think>``; nothing if a text starts with an open ``<think>``."""
    answer = text.rpartition("</think>")[2].lstrip() if "</think>" in text else text
    return "" if answer.lstrip().startswith("<think>") else answer


def _followed(kind: Literal["strict", "loose"], problem: Problem, text: str) -> list[bool]:
    utils, _ = _harness()
    checker = getattr(utils, f"test_instruction_following_{kind}")
    example = utils.InputExample(key=0, prompt=problem.text, **problem.kwargs)
    try:
        return checker(example, answer_of(text)).follow_instruction_list
    except RecursionError:  # brackets nested too deeply for the JSON checker
        return [False] * len(problem.kwargs["instruction_id_list"])


@lru_cache(maxsize=1)
def _harness() -> tuple[ModuleType, ModuleType]:
    """The harness's modules ``utils`` and ``instructions_registry``, imported without a download.

    The import would download missing punkt data without a time limit, so nltk's download function
    is disabled meanwhile, and its output suppressed.
    """
    try:
        import langdetect
        import nltk

        fetch, nltk.download = nltk.download, lambda *args, **kwargs: False
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                from lm_eval.tasks.ifeval import instructions_registry, utils
        finally:
            nltk.download = fetch
    except ImportError as error:
        must = "must have lm-evaluation-harness's checkers, pip install 'rockstudy[ifeval]'"
        raise StudyError(f"ifeval: {must}; got {error}") from None
    langdetect.DetectorFactory.seed = 0
    checkers = instructions_registry.INSTRUCTION_DICT
    checkers[LETTERS] = _any_sign(checkers[LETTERS])
    return utils, instructions_registry


def _any_sign(checker: Any) -> Any:
    """The checker of a letter's frequency, which counts any single character."""

    class AnySign(checker):
        __module__ = checker.__module__

        def build_description(self, *, letter: str, **others: Any) -> str:
            sign = letter.strip().lower()
            if len(sign) != 1:
                raise ValueError(f"a letter must be one character; got {letter!r}")
            known = sign.isascii() and sign.isalpha()
            described = super().build_description(letter=sign if known else "a", **others)
            self._letter = sign
            return described

    return AnySign


def _has_punkt() -> bool:
    _harness()
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        return False
    return True
