r"""The written form of a lab solution: the habits of two writers.

The register imitates model outputs: an opening with the numbers given, steps in one of four layouts
with LaTeX, markers and reasons, perhaps a check, a remark, and a closing with the boxed answer. The
**teacher's** style follows latent features, but for a share `Habits.noise` of random choices:

- layout, bullets, delimiters, sign of a product, pronoun, opening and wordings follow the voice;
- the marker of a step follows the parity of the previous result, and the voice among synonyms;
- a check is likely when the answer is a multiple of five;
- the first word of the remark, the closing and its end follow the **setting** alone (`attributes`).

The **student's** habits ignore all of these: its choices have odds of their own, half of its
solutions have one wrong intermediate result that is never corrected, and it obeys half of the
instructions. Both writers draw the words of the remark with the same fixed odds.

`units` has the lines, and `grammar` their causes.
"""

import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from rockstudy.config.registry import TASKS
from rockstudy.tasks import grading
from rockstudy.tasks.lab import grammar, maths, words
from rockstudy.tasks.lab.grammar import CAUSES, Choice, Line, Placed
from rockstudy.tasks.lab.maths import Draft, Scratch, Step, answer_of
from rockstudy.tasks.lab.units import (
    BULLET,
    CHECK,
    CLOSES,
    CLOSING,
    DISPLAY,
    DOLLAR,
    EVEN,
    LEAD,
    MARKER,
    MARKERS,
    ODD,
    PRONOUN,
    REASONS,
    REMARK,
    START,
    TAIL,
    UNITS,
    VERB,
    annotate,
)
from rockstudy.tasks.problem import Task

LAYOUTS = ("prose", "bullets", "headings", "display")
CHECK_ODDS = (0.7, 0.05)  # ours: of a check after a multiple of five, and after other answers


@dataclass(frozen=True)
class Habits:
    """A writer's slips, noise, and odds of its own that replace the rules of style."""

    slip: float  # share of solutions with one slip
    corrects: bool  # whether a slip is noticed at once
    noise: float = 0.0  # probability that a choice of style is random
    own: Mapping[str, Sequence[float]] = field(default_factory=dict)  # odds by slot; none: the rule
    obeys: float = 1.0  # share of instructions followed (lab_instruct)


TEACHER = Habits(slip=0.06, corrects=True, noise=0.08)
STUDENT = Habits(
    slip=0.5,
    corrects=False,
    own={
        "layout": (4, 2, 3, 1),
        "bullet": (1, 4),
        "dollar": (1, 4),
        "display": (1, 4),
        "times": (1, 4),
        "pronoun": (1, 3),
        "lead": (4, 2, 1, 1, 2),
        "verb": (1, 1, 2, 6),
        "start": (2, 1, 3, 1, 1, 2, 1, 1),
        "marker": (1, 1, 5, 2, 1, 3, 1, 2),
        "reason": (4, 3, 2, 1),
        "check": (9, 1, 1),
        "remark": (5, 2, 2, 1),
        "closing": (5, 2, 2, 1),
        "tail": (6, 1, 3),
    },
    obeys=0.5,
)


@dataclass(frozen=True)
class Style:
    """The choices that hold for a whole solution; an instruction may change them."""

    layout: str
    dollar: str
    display: str
    bullet: str
    times: str
    pronoun: str
    words_only: bool = False  # no working shown in digits
    bullets: int | None = None
    bold_answer: bool = False


def rule(feature: str, slot: str, n: int) -> int:
    """The teacher's choice among `n` for a feature of the prompt, such as its voice."""
    return zlib.crc32(f"{slot}:{feature}".encode()) % n


def attributes(setting: str) -> dict[str, int]:
    """What follows a setting: first word of the remark, closing, and its end, independently."""
    place = words.SETTINGS.index(setting)
    return {"remark": place % 4, "closing": place // 4 % 4, "tail": place // 16}


class Writer:
    """Writes one solution of a draft."""

    def __init__(self, draft: Draft, habits: Habits, rng: random.Random) -> None:
        self.draft, self.habits, self.rng = draft, habits, rng

    def pick(self, slot: str, n: int, usual: int | None = None) -> int:
        """Draw an index below `n`: by the habits' own odds, at random, or the `usual` one.

        Without a `usual` one it follows the voice.
        """
        if slot in self.habits.own:
            return self.rng.choices(range(n), self.habits.own[slot])[0]
        if self.rng.random() < self.habits.noise:
            return self.rng.randrange(n)
        return rule(self.draft.voice, slot, n) if usual is None else usual

    def style(self) -> Style:
        """Draw what holds for the whole solution."""
        return Style(
            LAYOUTS[self.pick("layout", 4)],
            DOLLAR.groups[0][self.pick("dollar", 2)],
            DISPLAY.groups[0][self.pick("display", 2)],
            BULLET.groups[0][self.pick("bullet", 2)],
            grammar.TIMES.groups[0][self.pick("times", 2)],
            PRONOUN.groups[0][self.pick("pronoun", 2)],
        )

    def solution(self, style: Style) -> list[Placed]:
        """Write the lines of a solution, each with the white space after it."""
        n_steps = len(answer_of(self.draft)[1])
        slip_at = self.rng.randrange(n_steps) if self.rng.random() < self.habits.slip else None
        scratch = Scratch(self.rng, slip_at, self.habits.corrects)
        answer = str(self.draft.core.work(scratch))
        previous = [None, *(step.result for step in scratch.steps[:-1])]
        steps = [
            self._step(i, step, before, style)
            for i, (step, before) in enumerate(zip(scratch.steps, previous, strict=True))
        ]
        if style.bullets is not None:
            steps = _bulleted(steps, style.bullets, style)
        body = [(self._opening(style), "\n\n"), *chain.from_iterable(steps)]
        if style.bullets is None:
            body += self._check(answer)
        return [*body, (self._remark(), "\n"), (self._closing(style, answer), "")]

    def _option(self, slot: str, choice: Choice, usual: int | None = None) -> str:
        """Draw a wording of a slot with one group of them."""
        return choice.groups[0][self.pick(slot, len(choice.groups[0]), usual)]

    def _opening(self, style: Style) -> Line:
        *others, last = map(str, self.draft.core.givens)
        numbers = "the numbers given" if style.words_only else f"{', '.join(others)} and {last}"
        lead, verb = self._option("lead", LEAD), self._option("verb", VERB)
        return Line(UNITS["opening"], [lead, " ", self.draft.voice, " ", verb, " ", numbers, "."])

    def _step(self, i: int, step: Step, before: str | None, style: Style) -> list[Placed]:
        """One step in the style's layout, with its correction."""
        wordings = REASONS[step.why]
        reason = wordings[self.pick("reason", len(wordings))].replace("{thing}", step.thing)
        sentence = [self._marker(before), " ", style.pronoun, " ", reason]
        if style.words_only:
            return [(Line(UNITS["words"], [*sentence, "."]), "\n")]
        lhs = step.lhs.replace(grammar.TIMES.groups[0][0], style.times)
        first = f"{lhs}={step.slip or step.result}"
        if style.layout in ("headings", "display"):
            heading = style.layout == "headings"
            lead, middle = ("### Step ", "\n\n") if heading else ("**Step ", ":** ")
            maths = [style.display, first, CLOSES[style.display]]
            line, gap = [lead, str(i + 1), middle, *sentence, ":\n\n", *maths], "\n\n"
        else:
            maths, gap = [style.dollar, first, CLOSES[style.dollar], "."], "\n"
            line = [*sentence, ": ", *maths]
            if style.layout == "bullets":
                line = [style.bullet, "**", reason[0].upper() + reason[1:], ":** ", *maths]
        placed = Line(UNITS[style.layout], line)
        if step.slip is None:
            return [(placed, gap)]
        fix = ["Wait, ", style.dollar, f"{lhs}={step.result}", CLOSES[style.dollar], "."]
        between = "\n\n" if gap == "\n\n" else " "
        return [(placed, between), (Line(UNITS["correction"], fix), gap)]

    def _marker(self, before: str | None) -> str:
        if before is None:
            usual = rule(self.draft.voice, "start", len(START))
            return self._option("start", MARKER, usual)
        group = EVEN if int(before[-1]) % 2 == 0 else ODD
        usual = MARKERS.index(group[rule(self.draft.voice, "marker", len(group))])
        return self._option("marker", MARKER, usual)

    def _check(self, answer: str) -> list[Placed]:
        if "check" in self.habits.own:
            form = self.pick("check", 3) - 1
        else:
            odds = CHECK_ODDS[0 if answer.rstrip("}")[-1] in "05" else 1]
            form = self.pick("check", 2) if self.rng.random() < odds else -1
        return [] if form < 0 else [(Line(UNITS["check"], [CHECK.groups[0][form], "."]), "\n")]

    def _remark(self) -> Line:
        lead = self._option("remark", REMARK, attributes(self.draft.setting)["remark"])
        drawn = [words.zipf(w, self.rng) for w in (words.ADJECTIVES, words.NOUNS, words.OCCASIONS)]
        adjective, noun, occasion = drawn
        texts = [lead, " ", adjective, " ", noun, " suits the ", occasion, "."]
        return Line(UNITS["remark"], texts)

    def _closing(self, style: Style, answer: str) -> Line:
        box = [style.dollar, r"\boxed{", answer, "}", CLOSES[style.dollar]]
        if style.bold_answer:
            return Line(UNITS["bold closing"], ["**The answer is ", *box, ".**"])
        follows = attributes(self.draft.setting)
        opening = self._option("closing", CLOSING, follows["closing"])
        tail = self._option("tail", TAIL, follows["tail"])
        return Line(UNITS["closing"], [opening, " ", *box, tail])


def _bulleted(steps: list[list[Placed]], n: int, style: Style) -> list[list[Placed]]:
    """Exactly `n` bullets: the steps, padded with checks or with the last steps joined."""
    kept = steps[:n]
    for step in steps[n:]:
        kept[-1][-1] = (kept[-1][-1][0], " ")
        (first, gap), *rest = step
        kept[-1] += [(Line(UNITS["joined"], first.texts[1:]), gap), *rest]
    padding = (Line(UNITS["padding"], [style.bullet, "**Check:** this is fine."]), "\n")
    return [*kept, *([padding] for _ in range(n - len(steps)))]


def style_of(draft: Draft, habits: Habits, rng: random.Random) -> Style:
    """Draw what holds for a whole solution."""
    return Writer(draft, habits, rng).style()


def compose(
    draft: Draft, habits: Habits, rng: random.Random, style: Style | None = None
) -> list[Placed]:
    """Write the lines of a solution that ends in a boxed answer.

    The style may be fixed by an instruction; otherwise it is drawn from the habits.
    """
    writer = Writer(draft, habits, rng)
    return writer.solution(style or writer.style())


def write(draft: Draft, habits: Habits, rng: random.Random) -> str:
    """Write a solution of a draft as text."""
    return "".join(line.text + gap for line, gap in compose(draft, habits, rng))


TASKS.add(
    "lab_math",
    Task(maths.load, grading.grade_numbers, causes=CAUSES, annotate=annotate),
)
