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
from rockstudy.tasks.problem import Problem, Split, Task

T = TypeVar("T")
NAMES = (
    "Mia Ben Zoe Sam Ana Leo Eva Tom Ida Max Nora Finn Lena Omar Rosa Hugo Vera Ivan Cleo Yara "
    "Emil Kate Noah Ruth Alma Boris Clara David Elena Felix Greta Henry Irene Jonas Karin Lukas "
    "Marta Nils Olga Peter Quinn Robin Sofia Tariq Ursula Victor Wendy Xavier"
).split()
OPENERS = (
    "Compute;Find;Work out;Determine;Please find;Tell me;Calculate;Can you find;"
    "Help me find;I need;Evaluate;Give me"
).split(";")
THINGS = (
    "apples coins books cards pens shells stamps beads cups keys nuts pears buttons marbles "
    "tickets pebbles ribbons candles lemons feathers magnets plates rulers stickers"
).split()
EVAL_SHARE = 4  # ours: one key in four is held out, enough for every family
MOST = {"train": 200_000, "eval": 4_000}  # ours: new evaluation keys become rare after these

# The wordings of each reason; the register picks one.
REASONS = {
    "gain": "add the new {thing}|put the found {thing} on top|count the extra {thing} as well",
    "lose": "take away the {thing} given|remove the gift from the pile|subtract what was given",
    "times": "multiply the {thing}|scale the number up|repeat the pile of {thing}",
    "isolate": "subtract the constant from both sides|move the constant to the right|"
    "isolate the term with the unknown",
    "scale": "divide by the coefficient|undo the multiplication|scale the equation down",
    "euclid": "divide and keep the remainder|replace the larger number|"
    "apply the algorithm of Euclid once",
    "plus": "add the last number|complete the sum",
    "divisor": "find the common divisor|look for shared factors|"
    "work out the greatest common factor",
    "product": "multiply the two numbers|form the product|take one number times the other",
    "cancel": "divide by the common divisor|cancel what was counted twice|drop the shared factors",
    "share": "take the share|turn the percentage into a number|compute the given part",
    "later": "add the other {thing}|include the later sale|sum both sales of {thing}",
    "bottom": "find the common denominator|choose a shared bottom|multiply the denominators",
    "left": "rewrite the first numerator|expand the left fraction|adjust the first top",
    "right": "rewrite the second numerator|expand the right fraction|adjust the second top",
    "tops": "add the numerators|combine both tops|sum the expanded parts",
    "gaps": "count the steps between the terms|see how many gaps there are|"
    "use one less than the position",
    "growth": "multiply by the common difference|find the total growth|take that many equal jumps",
    "begin": "add the first term|begin at the start value|shift by the initial term",
    "sheet": "find the area of the sheet|measure the whole rectangle|multiply the outer sides",
    "piece": "find the area of the piece|measure the small rectangle|multiply the inner sides",
    "cut": "subtract the piece|remove the cut region|compare both areas",
    "first": "multiply first|handle the product before the sum|evaluate the leading product",
    "summand": "add the last number|complete the sum|bring in the final summand",
    "modulus": "keep the remainder|reduce by the modulus|throw away full multiples",
    "hats": "multiply hats and coats|pair every hat with every coat|combine the first two choices",
    "bags": "multiply by the bags|attach each possible bag|extend the pairs by one choice",
    "exclude": "take away what is not allowed|exclude the forbidden outfits|"
    "discard the banned combinations",
}


@dataclass(frozen=True)
class Step:
    """One line of working: a digit-free reason, an equation, and the slip made in it if any.

    `why` lists the reason's wordings, separated by ``|``.
    """

    why: str
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
        """Write ``lhs = value`` for one of `REASONS`; return the value for the next step."""
        slip = None
        if self.slip_at == len(self.steps):
            wrong = max(0, value + self.rng.choice((-2, -1, 1, 2, 10)))
            wrong = wrong if wrong != value else value + 1
            slip, value = (str(wrong), value) if self.corrects else (None, wrong)
        self.steps.append(Step(REASONS[why].format(thing=thing), lhs, str(value), slip))
        return value


@dataclass(frozen=True)
class Draft:
    """A drawn problem: its wording, opening name or verb (a latent style feature), and working."""

    family: str
    params: tuple[int | str, ...]
    question: str
    voice: str
    work: Callable[[Scratch], str | int]

    @property
    def key(self) -> str:
        """Family and parameters, which decide the split."""
        return f"{self.family}:{','.join(map(str, self.params))}"


def _ask(rng: random.Random, rest: str) -> tuple[str, str]:
    opener = rng.choice(OPENERS)
    return f"{opener} {rest}.", opener


def chain(rng: random.Random) -> Draft:
    """Gains, losses and a multiplication in a story of two to four sentences."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    start = rng.randint(3, 12)
    moves, value = [], start
    for _ in range(rng.randint(2, 3)):
        kind = rng.choice("+-*" if value <= 12 else "+-")
        n = rng.randint(2, {"+": 9, "-": min(9, value), "*": 3}[kind])
        value = value + n if kind == "+" else value - n if kind == "-" else value * n
        moves.append((kind, n))
        if value < 2:
            break
    told = {"+": "finds {} more", "-": "gives away {}", "*": "then makes it {} times as many"}
    story = ", ".join(told[k].format(n) for k, n in moves)
    question = f"{name} has {start} {thing}, {story}. How many {thing} does {name} have now?"

    def work(s: Scratch) -> int:
        x = start
        for kind, n in moves:
            if kind == "+":
                x = s.line("gain", f"{x} + {n}", x + n, thing)
            elif kind == "-":
                x = s.line("lose", f"{x} - {n}", max(0, x - n), thing)
            else:
                x = s.line("times", rf"{x} \cdot {n}", x * n, thing)
        return x

    return Draft("chain", (start, *(f"{k}{n}" for k, n in moves)), question, name, work)


def linear(rng: random.Random) -> Draft:
    """Solve ``ax + b = c``."""
    a, x, b = rng.randint(2, 9), rng.randint(1, 9), rng.randint(1, 9)
    c = a * x + b
    question, voice = _ask(rng, f"$x$ such that ${a}x + {b} = {c}$")

    def work(s: Scratch) -> int:
        d = s.line("isolate", f"{a}x = {c} - {b}", c - b)
        return s.line("scale", rf"x = \frac{{{d}}}{{{a}}}", round(d / a))

    return Draft("linear", (a, b, c), question, voice, work)


def gcd(rng: random.Random) -> Draft:
    """Greatest common divisor by Euclid's algorithm, and a sum."""
    g, p, q, k = rng.randint(2, 6), rng.randint(2, 6), rng.randint(2, 6), rng.randint(1, 9)
    a, b = max(p, q) * g, min(p, q) * g
    a = a + b if a == b else a
    question, voice = _ask(rng, rf"$\gcd({a}, {b}) + {k}$")

    def work(s: Scratch) -> int:
        x, y = a, b
        while y and len(s.steps) < 5:
            x, y = y, s.line("euclid", rf"{x} \bmod {y}", x % y)
        return s.line("plus", f"{x} + {k}", x + k)

    return Draft("gcd", (a, b, k), question, voice, work)


def lcm(rng: random.Random) -> Draft:
    """Least common multiple through the product and the greatest common divisor."""
    a, b, k = rng.randint(2, 9), rng.randint(2, 9), rng.randint(1, 9)
    a = a + 1 if a == b else a
    a, b = max(a, b), min(a, b)
    question, voice = _ask(rng, f"the least common multiple of ${a}$ and ${b}$, plus ${k}$")

    def work(s: Scratch) -> int:
        g = s.line("divisor", rf"\gcd({a}, {b})", math.gcd(a, b))
        m = s.line("product", rf"{a} \cdot {b}", a * b)
        g = max(g, 1)
        m = s.line("cancel", rf"\frac{{{m}}}{{{g}}}", m // g)
        return s.line("plus", f"{m} + {k}", m + k)

    return Draft("lcm", (a, b, k), question, voice, work)


def percent(rng: random.Random) -> Draft:
    """A discount in per cent."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    p, n, k = rng.choice((10, 20, 25, 50)), rng.randint(1, 5) * 20, rng.randint(1, 20)
    question = (
        f"{name} sells {p}\\% of {n} {thing} and then {k} more. How many {thing} did {name} sell?"
    )

    def work(s: Scratch) -> int:
        q = s.line("share", rf"\frac{{{p}}}{{100}} \cdot {n}", p * n // 100)
        return s.line("later", f"{q} + {k}", q + k, thing)

    return Draft("percent", (p, n, k), question, name, work)


def fraction(rng: random.Random) -> Draft:
    """Sum of two fractions, reduced."""
    b, d = rng.randint(2, 6), rng.randint(2, 6)
    a, c = rng.randint(1, b), rng.randint(1, d)
    question, voice = _ask(rng, rf"$\frac{{{a}}}{{{b}}} + \frac{{{c}}}{{{d}}}$")

    def work(s: Scratch) -> str | int:
        low = max(s.line("bottom", rf"{b} \cdot {d}", b * d), 1)
        left = s.line("left", rf"{a} \cdot {d}", a * d)
        right = s.line("right", rf"{c} \cdot {b}", c * b)
        top = s.line("tops", f"{left} + {right}", left + right)
        g = math.gcd(top, low)
        return rf"\frac{{{top // g}}}{{{low // g}}}" if low != g else top // g

    return Draft("fraction", (a, b, c, d), question, voice, work)


def sequence(rng: random.Random) -> Draft:
    """A term of an arithmetic sequence."""
    a, d, n = rng.randint(1, 9), rng.randint(2, 9), rng.randint(3, 10)
    question, voice = _ask(rng, f"term number {n} of ${a}, {a + d}, {a + 2 * d}, \\ldots$")

    def work(s: Scratch) -> int:
        k = s.line("gaps", f"{n} - 1", n - 1)
        m = s.line("growth", rf"{k} \cdot {d}", k * d)
        return s.line("begin", f"{a} + {m}", a + m)

    return Draft("sequence", (a, d, n), question, voice, work)


def area(rng: random.Random) -> Draft:
    """A rectangle with a smaller rectangle cut out."""
    a, b = rng.randint(3, 9), rng.randint(3, 9)
    c, d = rng.randint(1, 3), rng.randint(1, 3)
    name = rng.choice(NAMES)
    question = f"{name} cuts a {c} by {d} piece from a {a} by {b} sheet. What area is left?"

    def work(s: Scratch) -> int:
        big = s.line("sheet", rf"{a} \cdot {b}", a * b)
        small = s.line("piece", rf"{c} \cdot {d}", c * d)
        return s.line("cut", f"{big} - {small}", max(0, big - small))

    return Draft("area", (a, b, c, d), question, name, work)


def modular(rng: random.Random) -> Draft:
    """Remainder of ``ab + c`` by ``m``."""
    a, b, c, m = rng.randint(2, 9), rng.randint(2, 9), rng.randint(1, 9), rng.randint(3, 9)
    question, voice = _ask(rng, rf"the remainder of ${a} \cdot {b} + {c}$ divided by ${m}$")

    def work(s: Scratch) -> int:
        p = s.line("first", rf"{a} \cdot {b}", a * b)
        t = s.line("summand", f"{p} + {c}", p + c)
        return s.line("modulus", rf"{t} \bmod {m}", t % m)

    return Draft("modular", (a, b, c, m), question, voice, work)


def counting(rng: random.Random) -> Draft:
    """A product of choices, some of which are excluded."""
    name = rng.choice(NAMES)
    a, b, c, k = rng.randint(2, 6), rng.randint(2, 6), rng.randint(2, 3), rng.randint(1, 6)
    question = (
        f"{name} picks one of {a} hats, {b} coats and {c} bags, but {k} outfits are not allowed. "
        "How many outfits are left?"
    )

    def work(s: Scratch) -> int:
        ab = s.line("hats", rf"{a} \cdot {b}", a * b)
        abc = s.line("bags", rf"{ab} \cdot {c}", ab * c)
        return s.line("exclude", f"{abc} - {k}", max(0, abc - k))

    return Draft("counting", (a, b, c, k), question, name, work)


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
            draft = family(rng)
            while split_of(draft.key) != split:
                draft = family(rng)
            yield draft


def answer_of(draft: Draft) -> tuple[str, list[Step]]:
    """The right answer and the steps to it."""
    scratch = Scratch(random.Random(0))
    return str(draft.work(scratch)), scratch.steps


def problem_of(draft: Draft) -> Problem:
    """The draft as a `Problem` with its right answer."""
    return Problem(draft.question, answer_of(draft)[0], draft.family, draft.key, {})


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
