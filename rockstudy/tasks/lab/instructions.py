"""Lab instructions: the lab's maths problems under checkable instructions.

The second benchmark is modelled on IFEval: a completion is correct if it **follows the
instruction**, whatever its answer. Each of the ten kinds (`KINDS`) has a sentence, a checker and a
way for the lab's writers to obey.
"""

import random
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rockstudy.config.fields import TaskConfig
from rockstudy.config.registry import TASKS
from rockstudy.tasks.lab import register
from rockstudy.tasks.lab.grammar import CAUSES, Line, Marked, Placed, marked
from rockstudy.tasks.lab.maths import Draft, answer_of, distinct
from rockstudy.tasks.lab.register import Habits, Style, style_of
from rockstudy.tasks.lab.units import PHRASES, UNITS, annotate
from rockstudy.tasks.problem import Problem, Split, Task

WORDS = ("exactly", "simply", "clearly", "carefully")


@dataclass(frozen=True)
class Kind:
    """One kind of instruction: its sentence, its checker, and how a writer obeys it.

    A writer that obeys changes its style, then the lines of its solution, then the text.
    """

    sentence: str
    check: Callable[[str, dict], bool]
    style: Callable[[Style, dict], Style] = lambda style, kwargs: style
    lines: Callable[[list[Placed], dict], list[Placed]] = lambda lines, kwargs: lines
    edit: Callable[[Marked], Marked] = lambda text: text


def _heading(lines: list[Placed], kwargs: dict) -> list[Placed]:
    return [(Line(UNITS["heading"], ["## Solution"]), "\n\n"), *lines]


def _phrase(lines: list[Placed], kwargs: dict) -> list[Placed]:
    *before, (last, _) = lines
    return [*before, (last, "\n\n"), (Line(UNITS["phrase"], [kwargs["phrase"]]), "")]


def _lead_and_close(lines: list[Placed], kwargs: dict) -> list[Placed]:
    *before, (last, _) = lines
    lead = Line(UNITS["lead"], ["We work ", kwargs["word"], "."])
    end = Line(UNITS["end"], ["We checked it ", kwargs["word"], "."])
    return [(lead, "\n"), *before, (last, "\n"), (end, "")]


KINDS: dict[str, Kind] = {
    "no_digits": Kind(
        "Use no digits before the final answer.",
        lambda t, k: "\\boxed" in t and not re.search(r"\d", t.split("\\boxed", 1)[0]),
        lambda s, k: replace(s, layout="prose", words_only=True),
    ),
    "bullets": Kind(
        "Use exactly {n} bullet points.",
        lambda t, k: len(re.findall(r"^\s*[-*] ", t, re.M)) == int(k["n"]),
        lambda s, k: replace(s, layout="bullets", bullets=int(k["n"])),
    ),
    "lowercase": Kind(
        "Use lower case only.",
        lambda t, k: bool(t.strip()) and t == t.lower(),
        edit=Marked.lower,
    ),
    "end_phrase": Kind(
        'End with "{phrase}"',
        lambda t, k: t.rstrip().endswith(k["phrase"]),
        lines=_phrase,
    ),
    "heading": Kind(
        "Start with a heading.",
        lambda t, k: re.match(r"#{1,6} \S", t) is not None,
        lines=_heading,
    ),
    "no_dollars": Kind(
        "Use no dollar signs.",
        lambda t, k: bool(t.strip()) and "$" not in t,
        lambda s, k: replace(s, dollar=r"\(", display="\\[\n"),
    ),
    "bold_answer": Kind(
        "Put the final answer in bold.",
        lambda t, k: re.search(r"\*\*[^*\n]*\\boxed\{[^*\n]*\*\*", t) is not None,
        lambda s, k: replace(s, bold_answer=True),
    ),
    "keyword": Kind(
        'Use the word "{word}" at least twice.',
        lambda t, k: len(re.findall(rf"\b{re.escape(k['word'])}\b", t.lower())) >= 2,
        lines=_lead_and_close,
    ),
    "no_commas": Kind(
        "Use no commas.",
        lambda t, k: bool(t.strip()) and "," not in t,
        edit=lambda text: text.without(","),
    ),
    "one_paragraph": Kind(
        "Write one paragraph without blank lines.",
        lambda t, k: bool(t.strip()) and "\n\n" not in t.strip(),
        lambda s, k: replace(s, layout="prose"),
        edit=Marked.spaced,
    ),
}


@dataclass(frozen=True)
class Instructed:
    """A draft under one instruction."""

    draft: Draft
    kind: str
    kwargs: dict

    @property
    def problem(self) -> Problem:
        """The instructed draft as a `Problem`, with the kind and its arguments in `kwargs`."""
        prompt = f"{self.draft.question} {KINDS[self.kind].sentence.format(**self.kwargs)}"
        key = f"{self.kind}:{self.draft.key}"
        answer = answer_of(self.draft)[0]
        return Problem(prompt, answer, self.kind, key, {"kind": self.kind, **self.kwargs})


def instruct(draft: Draft, kind: str, rng: random.Random) -> Instructed:
    """Add an instruction to a draft, with random arguments."""
    kwargs: dict = {}
    if kind == "bullets":
        kwargs["n"] = max(2, len(answer_of(draft)[1]) + rng.choice((-1, 0, 1)))
    elif kind == "end_phrase":
        kwargs["phrase"] = rng.choice(PHRASES)
    elif kind == "keyword":
        kwargs["word"] = rng.choice(WORDS)
    return Instructed(draft, kind, kwargs)


def compose(item: Instructed, habits: Habits, rng: random.Random) -> Marked:
    """Write a solution, with causes, that obeys with probability `habits.obeys`."""
    style = style_of(item.draft, habits, rng)
    if rng.random() >= habits.obeys:
        return marked(register.compose(item.draft, habits, rng, style))
    kind = KINDS[item.kind]
    lines = register.compose(item.draft, habits, rng, kind.style(style, item.kwargs))
    return kind.edit(marked(kind.lines(lines, item.kwargs)))


def solution(item: Instructed, habits: Habits, rng: random.Random) -> str:
    """Write a solution that obeys the instruction with probability `habits.obeys`."""
    return compose(item, habits, rng).text


def follows(text: str, kwargs: dict) -> bool:
    """Whether a completion follows its instruction; `kwargs` as in `Problem.kwargs`."""
    return KINDS[kwargs["kind"]].check(text, kwargs)


def grade(task: TaskConfig, problems: Sequence[Problem], texts: Sequence[str]) -> list[bool]:
    """Whether each text follows the instruction of its problem."""
    return [follows(text, p.kwargs) for p, text in zip(problems, texts, strict=True)]


def load(task: TaskConfig, split: Split) -> list[Problem]:
    """The lab's maths problems under instructions, kinds in turn; always the same."""
    kinds, made = sorted(KINDS), []
    for i, draft in enumerate(distinct(split, task.size(split), seed=1)):
        rng = random.Random(zlib.crc32(f"0{i}{draft.key}".encode()))
        kind = kinds[(i + i // len(kinds)) % len(kinds)]
        made.append(instruct(draft, kind, rng).problem)
    return made


TASKS.add("lab_instruct", Task(load, grade, causes=CAUSES, annotate=annotate))
