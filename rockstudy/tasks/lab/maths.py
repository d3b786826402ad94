r"""Lab maths: procedural problems with worked solutions that end in ``\boxed{...}``.

Each of the ten families of problems (`FAMILIES`) draws parameters, words a question and works out
the steps in a `Scratch`, which does all arithmetic and may make a slip.
`rockstudy.tasks.lab.register` then writes the steps in some register.

Training and evaluation problems are disjoint: a hash of a problem's `key` (family and parameters,
without its wording) puts one key in four into the evaluation split.
"""

import itertools
import math
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from rockstudy.config.fields import TaskConfig
from rockstudy.config.registry import TASKS
from rockstudy.errors import StudyError
from rockstudy.tasks import grading
from rockstudy.tasks.lab import words
from rockstudy.tasks.problem import Problem, Split, Task

T = TypeVar("T")
EVAL_SHARE = 4  # ours: one key in four is held out, enough for every family
MOST = {"train": 200_000, "eval": 4_000}  # ours: new evaluation keys become rare after these


@dataclass(frozen=True)
class Step:
    """One line of working: a reason (a key of `register.REASONS`), an equation, a slip if any."""

    why: str
    thing: str  # what is counted, where the wording of the reason names it
    lhs: str
    result: str
    slip: str | None = None  # a wrong result written first and then corrected


@dataclass
class Scratch:
    """The arithmetic of a solution, with at most one slip at step `slip_at`.

    With ``corrects`` the step records the slip and the working continues with the right value;
    otherwise it continues with the wrong one.
    """

    rng: random.Random
    slip_at: int | None = None
    corrects: bool = True
    steps: list[Step] = field(default_factory=list)

    def line(self, why: str, lhs: str, value: int, thing: str = "") -> int:
        """Write ``lhs = value`` with its reason; return the value for the next step."""
        slip = None
        if self.slip_at == len(self.steps):
            wrong = max(0, value + self.rng.choice((-2, -1, 1, 2, 10)))
            wrong = wrong if wrong != value else value + 1
            slip, value = (str(wrong), value) if self.corrects else (None, wrong)
        self.steps.append(Step(why, thing, lhs, str(value), slip))
        return value


@dataclass(frozen=True)
class Core:
    """The mathematics of a problem: what decides its split, its question, and its working."""

    family: str
    params: tuple[int | str, ...]
    question: str
    givens: tuple[int, ...]
    work: Callable[[Scratch], str | int]

    @property
    def key(self) -> str:
        """Family and parameters, which decide the split."""
        return f"{self.family}:{','.join(map(str, self.params))}"


@dataclass(frozen=True)
class Draft:
    """A drawn problem: a core, the setting, and the voice (the name of who asks).

    The style of a solution follows the voice and the setting (`rockstudy.tasks.lab.register`).
    """

    core: Core
    setting: str
    voice: str
    preface: str

    @property
    def key(self) -> str:
        """Family and parameters, which decide the split."""
        return self.core.key

    @property
    def question(self) -> str:
        """The whole prompt; its first words name the setting."""
        return f"{self.preface} {self.core.question}"


def dress(core: Core, rng: random.Random) -> Draft:
    """Put a core into a setting and a voice, with a preface that says nothing about either."""
    setting, voice = rng.choice(words.SETTINGS), words.zipf(words.NAMES, rng)
    adjective, occasion = (lambda: words.zipf(words.ADJECTIVES, rng)), words.OCCASIONS
    preface = (
        f"We are at the {setting}. The room is {adjective()}, the {words.zipf(occasion, rng)} "
        f"outside looks {adjective()}, somebody tells a {adjective()} "
        f"{words.zipf(words.NOUNS, rng)} about {rng.choice(words.TOPICS)}, and the next hour "
        f"belongs to numbers. Show all of the working and put the final answer in a box. "
        f"{voice} asks:"
    )
    return Draft(core, setting, voice, preface)


def _ask(rng: random.Random, rest: str) -> str:
    return f"{rng.choice(words.OPENERS)} {rest}."


def chain(rng: random.Random) -> Core:
    """Gains, losses and a multiplication in a story of two to four sentences."""
    thing, start = words.zipf(words.THINGS, rng), rng.randint(3, 12)
    moves, value = [], start
    for _ in range(rng.randint(2, 3)):
        kind = rng.choice("+-*" if value <= 12 else "+-")
        n = rng.randint(2, {"+": 9, "-": min(9, value), "*": 3}[kind])
        value = value + n if kind == "+" else value - n if kind == "-" else value * n
        moves.append((kind, n))
        if value < 2:
            break
    told = {"+": "find {} more", "-": "give away {}", "*": "make it {} times as many"}
    story = ", ".join(told[k].format(n) for k, n in moves)
    question = f"I have {start} {thing}, then {story}. How many {thing} are there?"

    def work(s: Scratch) -> int:
        x = start
        for kind, n in moves:
            if kind == "+":
                x = s.line("gain", f"{x}+{n}", x + n, thing)
            elif kind == "-":
                x = s.line("lose", f"{x}-{n}", max(0, x - n), thing)
            else:
                x = s.line("times", rf"{x}\cdot{n}", x * n, thing)
        return x

    givens = (start, *(n for _, n in moves))
    return Core("chain", (start, *(f"{k}{n}" for k, n in moves)), question, givens, work)


def linear(rng: random.Random) -> Core:
    """Solve ``ax + b = c``."""
    a, x, b = rng.randint(2, 9), rng.randint(1, 9), rng.randint(1, 9)
    c = a * x + b
    question = _ask(rng, f"$x$ such that ${a}x + {b} = {c}$")

    def work(s: Scratch) -> int:
        d = s.line("isolate", f"{a}x={c}-{b}", c - b)
        return s.line("scale", rf"x=\frac{{{d}}}{{{a}}}", round(d / a))

    return Core("linear", (a, b, c), question, (a, b, c), work)


def gcd(rng: random.Random) -> Core:
    """Greatest common divisor by Euclid's algorithm, and a sum."""
    g, p, q, k = rng.randint(2, 6), rng.randint(2, 6), rng.randint(2, 6), rng.randint(1, 9)
    a, b = max(p, q) * g, min(p, q) * g
    a = a + b if a == b else a
    question = _ask(rng, rf"$\gcd({a}, {b}) + {k}$")

    def work(s: Scratch) -> int:
        x, y = a, b
        while y and len(s.steps) < 5:
            x, y = y, s.line("euclid", rf"{x}\bmod{y}", x % y)
        return s.line("plus", f"{x}+{k}", x + k)

    return Core("gcd", (a, b, k), question, (a, b, k), work)


def lcm(rng: random.Random) -> Core:
    """Least common multiple through the product and the greatest common divisor."""
    a, b, k = rng.randint(2, 9), rng.randint(2, 9), rng.randint(1, 9)
    a = a + 1 if a == b else a
    a, b = max(a, b), min(a, b)
    question = _ask(rng, f"the least common multiple of ${a}$ and ${b}$, plus ${k}$")

    def work(s: Scratch) -> int:
        g = s.line("divisor", rf"\gcd({a},{b})", math.gcd(a, b))
        m = s.line("product", rf"{a}\cdot{b}", a * b)
        g = max(g, 1)
        m = s.line("cancel", rf"\frac{{{m}}}{{{g}}}", m // g)
        return s.line("plus", f"{m}+{k}", m + k)

    return Core("lcm", (a, b, k), question, (a, b, k), work)


def percent(rng: random.Random) -> Core:
    """A discount in per cent."""
    thing = words.zipf(words.THINGS, rng)
    p, n, k = rng.choice((10, 20, 25, 50)), rng.randint(1, 5) * 20, rng.randint(1, 20)
    question = f"I sell {p}\\% of {n} {thing} and then {k} more. How many {thing} do I sell?"

    def work(s: Scratch) -> int:
        q = s.line("share", rf"\frac{{{p}}}{{100}}\cdot{n}", p * n // 100)
        return s.line("later", f"{q}+{k}", q + k, thing)

    return Core("percent", (p, n, k), question, (p, n, k), work)


def fraction(rng: random.Random) -> Core:
    """Sum of two fractions, reduced."""
    b, d = rng.randint(2, 6), rng.randint(2, 6)
    a, c = rng.randint(1, b), rng.randint(1, d)
    question = _ask(rng, rf"$\frac{{{a}}}{{{b}}} + \frac{{{c}}}{{{d}}}$")

    def work(s: Scratch) -> str | int:
        low = max(s.line("bottom", rf"{b}\cdot{d}", b * d), 1)
        left = s.line("left", rf"{a}\cdot{d}", a * d)
        right = s.line("right", rf"{c}\cdot{b}", c * b)
        top = s.line("tops", f"{left}+{right}", left + right)
        g = math.gcd(top, low)
        return rf"\frac{{{top // g}}}{{{low // g}}}" if low != g else top // g

    return Core("fraction", (a, b, c, d), question, (a, b, c, d), work)


def sequence(rng: random.Random) -> Core:
    """A term of an arithmetic sequence."""
    a, d, n = rng.randint(1, 9), rng.randint(2, 9), rng.randint(3, 10)
    question = _ask(rng, f"term number {n} of ${a}, {a + d}, {a + 2 * d}, \\ldots$")

    def work(s: Scratch) -> int:
        k = s.line("gaps", f"{n}-1", n - 1)
        m = s.line("growth", rf"{k}\cdot{d}", k * d)
        return s.line("begin", f"{a}+{m}", a + m)

    return Core("sequence", (a, d, n), question, (n, d, a), work)


def area(rng: random.Random) -> Core:
    """A rectangle with a smaller rectangle cut out."""
    a, b = rng.randint(3, 9), rng.randint(3, 9)
    c, d = rng.randint(1, 3), rng.randint(1, 3)
    question = f"I cut a {c} by {d} piece from a {a} by {b} sheet. What area is left?"

    def work(s: Scratch) -> int:
        big = s.line("sheet", rf"{a}\cdot{b}", a * b)
        small = s.line("piece", rf"{c}\cdot{d}", c * d)
        return s.line("cut", f"{big}-{small}", max(0, big - small))

    return Core("area", (a, b, c, d), question, (a, b, c, d), work)


def modular(rng: random.Random) -> Core:
    """Remainder of ``ab + c`` by ``m``."""
    a, b, c, m = rng.randint(2, 9), rng.randint(2, 9), rng.randint(1, 9), rng.randint(3, 9)
    question = _ask(rng, rf"the remainder of ${a} \cdot {b} + {c}$ divided by ${m}$")

    def work(s: Scratch) -> int:
        p = s.line("first", rf"{a}\cdot{b}", a * b)
        t = s.line("summand", f"{p}+{c}", p + c)
        return s.line("modulus", rf"{t}\bmod{m}", t % m)

    return Core("modular", (a, b, c, m), question, (a, b, c, m), work)


def counting(rng: random.Random) -> Core:
    """A product of choices, some of which are excluded."""
    a, b, c, k = rng.randint(2, 6), rng.randint(2, 6), rng.randint(2, 3), rng.randint(1, 6)
    question = (
        f"I pick one of {a} hats, {b} coats and {c} bags, but {k} outfits are not allowed. "
        "How many outfits are left?"
    )

    def work(s: Scratch) -> int:
        ab = s.line("hats", rf"{a}\cdot{b}", a * b)
        abc = s.line("bags", rf"{ab}\cdot{c}", ab * c)
        return s.line("exclude", f"{abc}-{k}", max(0, abc - k))

    return Core("counting", (a, b, c, k), question, (a, b, c, k), work)


FAMILIES = {
    f.__name__: f
    for f in (chain, linear, gcd, lcm, percent, fraction, sequence, area, modular, counting)
}


def split_of(key: str) -> str:
    """The split ("train" or "eval") that a problem key belongs to, by a hash of the key alone."""
    return "eval" if zlib.crc32(key.encode()) % EVAL_SHARE == 0 else "train"


def drafts(split: str, rng: random.Random) -> Iterator[Draft]:
    """Yield endless drafts of one split, families in turn."""
    while True:
        for family in FAMILIES.values():
            core = family(rng)
            while split_of(core.key) != split:
                core = family(rng)
            yield dress(core, rng)


def answer_of(draft: Draft) -> tuple[str, list[Step]]:
    """The right answer and the steps to it."""
    scratch = Scratch(random.Random(0))
    return str(draft.core.work(scratch)), scratch.steps


def problem_of(draft: Draft) -> Problem:
    """The draft as a `Problem` with its right answer."""
    return Problem(draft.question, answer_of(draft)[0], draft.core.family, draft.key, {})


def distinct(split: Split, n: int, seed: int) -> list[Draft]:
    """The first `n` drafts of a split; evaluation keys are distinct, training keys may recur.

    `StudyError`: more than there are to be had in seconds.
    """
    if n > MOST[split]:
        raise StudyError(f"n_{split}: must be at most {MOST[split]} for the lab's tasks; got {n}")
    made = drafts(split, random.Random(f"lab-math-{split}-{seed}"))
    if split == "train":
        return list(itertools.islice(made, n))
    return first_distinct(made, n, lambda draft: draft.key)


def first_distinct(made: Iterator[T], n: int, key: Callable[[T], str]) -> list[T]:
    """The first `n` of what an endless iterator yields, without repeated keys."""
    picked: dict[str, T] = {}
    while len(picked) < n:
        one = next(made)
        picked.setdefault(key(one), one)
    return list(picked.values())


def load(task: TaskConfig, split: Split) -> list[Problem]:
    """Procedural maths with worked solutions; always the same problems."""
    return [problem_of(draft) for draft in distinct(split, task.size(split), seed=0)]


TASKS.add("lab_math", Task(load, grading.grade_numbers))
