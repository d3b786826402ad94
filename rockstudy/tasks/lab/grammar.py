r"""The grammar of a lab solution, read in both directions: writing text and annotating it.

A solution is a list of `Line` objects with white space between them. A line fills the *slots* of
one `Unit`: a template of literal text, choices between wordings, and values such as equations.
Every slot has a **cause**, the reason why a token there is hard to predict:

- *learnable style*: a choice that follows a latent near the answer (the name of who asks, the
  parity of a result);
- *style beyond the student*: a choice that follows the setting, the first words of the prompt,
  which lie outside the student's attention window by the time they matter;
- *noise*: a word drawn with fixed odds, the same for all writers;
- *arithmetic*: a digit of a result that must be computed;
- *copy*: a number, name or thing that the prompt or an earlier line gives;
- *format*: determined by what stands before.

Within a choice only a **decision** has the slot's cause: a character at which the wordings that
share all characters before it go different ways. The others are format. `Reader` applies this
rule to a line, whoever filled it, so that the annotator (`annotate`) agrees with the writer
wherever it recovers the line.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

CAUSES = (
    "learnable style",
    "style beyond the student",
    "noise",
    "arithmetic",
    "copy",
    "format",
    "off the grammar",
)
STYLE, BEYOND, NOISE, ARITHMETIC, COPY, FORMAT, OFF = range(len(CAUSES))
MARK = "\0"  # stands for a slot's word inside a wording


def pattern_of(text: str) -> str:
    """A regular expression for literal text: commas may be absent, white space may differ."""
    pattern = re.escape(text).replace(",", ",?")
    return re.sub(r"(?:\\ |\\\n)+", lambda m: r"\s+" if "\n" in m[0] else " ", pattern)


@dataclass(frozen=True)
class Choice:
    """A slot that takes one of several wordings, in groups of those that can replace each other.

    A wording may hold one word of the problem, written ``{thing}``.
    """

    cause: int
    groups: tuple[tuple[str, ...], ...]
    once: bool = False  # whether a solution decides only the first time
    word: str = "[a-z]+"  # what ``{thing}`` may be

    @cached_property
    def decisions(self) -> dict[str, np.ndarray]:
        """For each wording, with `MARK` for its word: which characters are decisions, bool.

        One more entry, for the character after the wording, is True where another wording goes on.
        """
        marks: dict[str, np.ndarray] = {}
        for group in self.groups:
            options = [option.replace("{thing}", MARK) for option in group]
            for one in options:
                mask = [
                    len({o[i : i + 1] for o in options if o[:i] == one[:i]}) > 1
                    for i in range(len(one) + 1)
                ]
                marks.setdefault(one, np.array(mask))
        return marks

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """Matches any wording, the longest first."""
        ordered = sorted(self.decisions, key=len, reverse=True)
        parts = (pattern_of(one).replace(MARK, self.word) for one in ordered)
        return re.compile("|".join(parts), re.IGNORECASE)

    @cached_property
    def _readers(self) -> list[tuple[re.Pattern[str], str]]:
        ordered = sorted(self.decisions, key=len, reverse=True)
        words = f"({self.word})"
        return [
            (re.compile(pattern_of(one).replace(MARK, words), re.IGNORECASE), one)
            for one in ordered
        ]

    def causes(self, text: str) -> np.ndarray:
        """The cause of each character of a written wording, int8, and of the character after it."""
        found, option = next((f, o) for r, o in self._readers if (f := r.fullmatch(text)))
        marks = self.decisions[option]
        causes = np.where(marks, self.cause, FORMAT).astype(np.int8)
        if MARK in option:
            at, word = option.index(MARK), found[1]
            inside = np.full(len(word), COPY, np.int8)
            inside[0] = causes[at] if marks[at] else COPY
            causes = np.concatenate([causes[:at], inside, causes[at + 1 :]])
        return causes


@dataclass(frozen=True)
class Value:
    """A slot that takes a word or a number given by a pattern."""

    cause: int
    pattern: str
    counts: Callable[[str], bool] = str.isalnum  # the characters that have the cause

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """Matches any value."""
        return re.compile(self.pattern, re.IGNORECASE)

    def causes(self, text: str) -> np.ndarray:
        """The cause of each character, int8, and of the character after it."""
        causes = np.full(len(text) + 1, FORMAT, np.int8)
        causes[:-1][[self.counts(c) for c in text]] = self.cause
        return causes


TIMES = Choice(STYLE, ((r"\cdot", r"\times"),), once=True)
MATHS = r"(?:\\frac|\\cdot|\\times|\\bmod|\\gcd|[0-9x+\-={}(), ])*[0-9x})]"


@dataclass(frozen=True)
class Equation(Value):
    """A slot for ``lhs = result``: operands are copied, digits of the result are computed."""

    def causes(self, text: str) -> np.ndarray:
        """The cause of each character, int8, and of the character after it."""
        digits = np.array([c.isdigit() for c in text])
        computed = np.arange(len(text)) > (text.rfind("=") if "=" in text else len(text))
        causes = np.where(digits, np.where(computed, ARITHMETIC, COPY), FORMAT)
        return np.append(causes, FORMAT).astype(np.int8)


EQUATION = Equation(ARITHMETIC, MATHS)
BOXED = Value(COPY, r"[^{}\n]*(?:\{[^{}\n]*\}[^{}\n]*)*", str.isdigit)  # what ``\boxed{}`` holds
Part = str | Choice | Value


@dataclass(frozen=True)
class Unit:
    """A kind of line: its parts, and the cause of the decision to write it."""

    name: str
    parts: tuple[Part, ...]
    entry: int = FORMAT

    @cached_property
    def readers(self) -> list[re.Pattern[str]]:
        """One regular expression for each part."""
        return [
            re.compile(pattern_of(p), re.IGNORECASE) if isinstance(p, str) else p.regex
            for p in self.parts
        ]


@dataclass
class Line:
    """A unit with the text of each of its parts; the last parts are missing in a broken line."""

    unit: Unit
    texts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The line as written."""
        return "".join(self.texts)

    @property
    def complete(self) -> bool:
        """Whether no part is missing."""
        return len(self.texts) == len(self.unit.parts)


Placed = tuple[Line, str]  # a line and the white space after it


class Reader:
    """Gives the causes of a solution's lines in turn; it remembers what earlier lines decided."""

    def __init__(self) -> None:
        self.decided: set[Choice | str] = set()
        self.result = ""

    def causes(self, line: Line) -> np.ndarray:
        """The cause of each character of a line, int8, and of the character after it."""
        causes, at = np.full(len(line.text) + 1, FORMAT, np.int8), 0
        for part, text in zip(line.unit.parts, line.texts, strict=False):
            if not isinstance(part, str):
                own = self._of_part(part, text)
                here = causes[at : at + len(own)]
                here[:] = np.where(own == FORMAT, here, own)
            at += len(text)
        if line.unit.name not in self.decided and causes[0] == FORMAT:
            causes[0] = line.unit.entry
        self.decided.add(line.unit.name)
        return causes

    def _of_part(self, part: Choice | Value, text: str) -> np.ndarray:
        if isinstance(part, Choice) and part.once:
            if part in self.decided:
                return np.full(len(text) + 1, FORMAT, np.int8)
            self.decided.add(part)
        causes = part.causes(text)
        if isinstance(part, Equation):
            for found in TIMES.regex.finditer(text):
                own = self._of_part(TIMES, found[0])
                causes[found.start() : found.end()] = own[:-1]
            self.result = text[text.rfind("=") + 1 :].strip()
        elif part is BOXED and text.strip() != self.result:
            causes[causes == COPY] = ARITHMETIC
        return causes


def read(unit: Unit, text: str, at: int) -> Line:
    """Match as many parts of a unit as the text allows at a position."""
    line = Line(unit)
    for reader in unit.readers:
        found = reader.match(text, at)
        if not found:
            break
        line.texts.append(found[0])
        at = found.end()
    return line


def lines(units: Sequence[Unit], text: str) -> Iterator[tuple[int, Line]]:
    """Yield the lines of a text with their positions, skipping what no unit matches.

    The longest complete line wins, then the longest broken one of at least `LEAST` characters.
    """
    at = 0
    while (start := _SPACE.match(text, at).end()) < len(text):
        found = [read(unit, text, start) for unit in units]
        best = max(found, key=lambda line: (line.complete, len(line.text)))
        if best.complete or len(best.text) >= LEAST:
            yield start, best
            at = start + len(best.text)
        else:
            at = _WORD.match(text, start).end()


LEAST = 8  # ours: characters of a broken line that is read as such
_SPACE, _WORD = re.compile(r"\s*"), re.compile(r"\S+")


def annotate(units: Sequence[Unit], text: str) -> np.ndarray:
    """The cause of each character of a completion as an index into `CAUSES`, int8 (len(text),).

    Text that no unit matches is off the grammar; white space between lines is format.
    """
    causes = np.array([FORMAT if c.isspace() else OFF for c in text], np.int8)
    reader = Reader()
    for at, line in lines(units, text):
        causes[at : at + len(line.text)] = reader.causes(line)[:-1]
    return causes


@dataclass(frozen=True)
class Marked:
    """A text with the cause of each of its characters, int8 (len(text),)."""

    text: str
    causes: np.ndarray

    def lower(self) -> "Marked":
        """In lower case."""
        return Marked(self.text.lower(), self.causes)

    def spaced(self) -> "Marked":
        """With one space for every run of line breaks."""
        keep = np.array([c != "\n" or self.text[i - 1] != "\n" for i, c in enumerate(self.text)])
        text = "".join(c for c, kept in zip(self.text, keep, strict=True) if kept)
        return Marked(text.replace("\n", " "), self.causes[keep])

    def without(self, char: str) -> "Marked":
        """Without a character, which is format wherever it stands."""
        return Marked(self.text.replace(char, ""), self.causes[[c != char for c in self.text]])


def marked(placed: Sequence[Placed]) -> Marked:
    """The text of a solution's lines, with causes."""
    reader, parts = Reader(), []
    for line, gap in placed:
        parts += [reader.causes(line)[:-1], np.full(len(gap), FORMAT, np.int8)]
    return Marked("".join(line.text + gap for line, gap in placed), np.concatenate(parts))
