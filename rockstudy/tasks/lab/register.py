r"""The written form of a lab solution: layout, delimiters, discourse markers, slips, checks.

The register imitates model outputs: LaTeX in ``$``, ``$$`` and ``\[``, markdown headings, bold,
bullets, blank lines and sentence-initial markers. The teacher's style follows latent features:

- the **layout** follows the voice of the prompt (a name or an opening verb), as in a table;
- the **marker** of a step follows the parity of the previous result and the step's number;
- the **closing** follows the layout and the opening marker, many tokens earlier;
- a **check** is likely when the answer is a multiple of five;
- the **wording** of a reason follows the voice as well;
- every choice is random with probability `Habits.noise`, so that the teacher stays soft.

The student's habits (`STUDENT`) differ: its layouts and markers ignore the latent features, and
half of its solutions have one wrong intermediate result that is never corrected.
"""

import random
import zlib
from dataclasses import dataclass, replace

from rockstudy.tasks.lab.maths import Draft, Scratch, Step, answer_of

LAYOUTS = ("prose", "bullets", "headings", "display")
MARKERS = ("So", "Let us", "We", "Now", "Then", "Next, we", "First, we")


@dataclass(frozen=True)
class Habits:
    """A writer's slips, noise, and preferences that override the latent features."""

    slip: float  # share of solutions with one slip
    corrects: bool  # whether a slip is noticed at once
    noise: float  # probability that a choice of style is random
    layouts: tuple[str, ...] = ()  # when given, drawn from this instead of the voice's layout
    markers: tuple[str, ...] = ()  # when given, drawn from this instead of the rule
    obeys: float = 1.0  # share of instructions followed (lab_instruct)


TEACHER = Habits(slip=0.06, corrects=True, noise=0.1)
STUDENT = Habits(
    slip=0.5,
    corrects=False,
    noise=0.1,
    layouts=("headings", "headings", "prose", "bullets"),
    markers=("So", "So", "Now", "We"),
    obeys=0.5,
)


@dataclass(frozen=True)
class Style:
    """The choices of style in one solution."""

    layout: str
    dollars: bool = True
    words_only: bool = False  # no working shown in digits
    bullets: int | None = None
    bold_answer: bool = False


def layout_of(voice: str) -> str:
    """The teacher's layout for a voice."""
    return LAYOUTS[zlib.crc32(voice.encode()) % len(LAYOUTS)]


def style_of(draft: Draft, habits: Habits, rng: random.Random) -> Style:
    """Draw the style of a draft."""
    if habits.layouts:
        return Style(rng.choice(habits.layouts))
    return Style(rng.choice(LAYOUTS) if rng.random() < habits.noise else layout_of(draft.voice))


def _reasons(steps: list[Step], voice: str, habits: Habits, rng: random.Random) -> list[Step]:
    """The steps with one wording of each reason: the voice's, or a random one."""
    usual = zlib.crc32(voice[::-1].encode())
    worded = []
    for step in steps:
        wordings = step.why.split("|")
        random_one = bool(habits.markers) or rng.random() < habits.noise
        pick = rng.randrange(len(wordings)) if random_one else usual % len(wordings)
        worded.append(replace(step, why=wordings[pick]))
    return worded


def _marker(previous: str | None, habits: Habits, rng: random.Random) -> str:
    if habits.markers:
        return rng.choice(habits.markers)
    if rng.random() < habits.noise:
        return rng.choice(MARKERS)
    if previous is None:
        return "First, we" if rng.random() < 0.5 else "Let us"
    return "Then" if int(previous[-1]) % 2 == 0 else "Now"


def _inline(text: str, dollars: bool) -> str:
    return f"${text}$" if dollars else text


def _step(i: int, step: Step, marker: str, style: Style) -> str:
    """One step in the style's layout, its correction included."""
    we = "" if marker.endswith(("we", "us", "We")) else " we"
    sentence = f"{marker}{we} {step.why}"
    if style.words_only:
        return f"{sentence}.\n"
    right = f"{step.lhs} = {step.result}"
    first = right if step.slip is None else f"{step.lhs} = {step.slip}"
    line = _inline(first, style.dollars)
    fix = "" if step.slip is None else f" Wait, {_inline(right, style.dollars)}."
    if style.layout == "prose":
        return f"{sentence}: {line}.{fix}\n"
    if style.layout == "bullets":
        return f"- **{step.why[0].upper()}{step.why[1:]}:** {line}.{fix}\n"
    lead = f"### Step {i + 1}\n\n" if style.layout == "headings" else f"**Step {i + 1}:** "
    display = f"$$\n{first}\n$$" if style.layout == "headings" else f"\\[ {first} \\]"
    after = f"{fix.strip()}\n\n" if fix else ""
    return f"{lead}{sentence}:\n\n{display if style.dollars else first}\n\n{after}"


CLOSINGS = {
    "so": "So the answer is {}.",
    "since": "Since all steps are done, the answer is {}.",
    "bold": "**Answer:** {}",
    "this": "This gives {}.",
}


def _closing(style: Style, opener: str, answer: str, habits: Habits, rng: random.Random) -> str:
    boxed = _inline(rf"\boxed{{{answer}}}", style.dollars)
    if style.bold_answer:
        return f"**The answer is {boxed}.**"
    if habits.markers:
        return CLOSINGS[rng.choice(("so", "so", "this"))].format(boxed)
    if rng.random() < habits.noise:
        return CLOSINGS[rng.choice(sorted(CLOSINGS))].format(boxed)
    formal = opener.startswith("Let")
    kind = {"prose": "this", "bullets": "bold"}.get(style.layout, "since") if formal else "so"
    return CLOSINGS[kind].format(boxed)


def _bulleted(steps: list[Step], n: int, style: Style) -> str:
    """Exactly `n` bullets: the steps, padded with checks or with the last steps joined."""
    lines = [_step(i, s, "We", style).strip() for i, s in enumerate(steps)]
    if len(lines) > n:
        lines = [*lines[: n - 1], " ".join([lines[n - 1], *(x[2:] for x in lines[n:])])]
    lines += ["- **Check:** this is fine."] * (n - len(lines))
    return "\n".join(lines) + "\n"


def write(draft: Draft, habits: Habits, rng: random.Random, style: Style | None = None) -> str:
    """Write a solution of a draft that ends in a boxed answer.

    The style may be fixed by an instruction; otherwise it is drawn from the habits.
    """
    n_steps = len(answer_of(draft)[1])
    slip_at = rng.randrange(n_steps) if rng.random() < habits.slip else None
    scratch = Scratch(rng, slip_at, habits.corrects)
    answer = str(draft.work(scratch))
    style = style or style_of(draft, habits, rng)
    steps = _reasons(scratch.steps, draft.voice, habits, rng)
    previous = [None, *(step.result for step in steps)]
    markers = [_marker(result, habits, rng) for result in previous[:-1]]
    if style.bullets is not None:
        body = _bulleted(steps, style.bullets, style)
    else:
        pairs = zip(steps, markers, strict=True)
        body = "".join(_step(i, step, marker, style) for i, (step, marker) in enumerate(pairs))
    gap = "" if body.endswith("\n\n") or style.layout == "prose" else "\n"
    likely = 0.7 if answer.rstrip("}")[-1] in "05" else 0.05
    checks = not habits.markers and rng.random() < likely
    check = "But wait, this looks right.\n" if checks and style.bullets is None else ""
    return body + gap + check + _closing(style, markers[0], answer, habits, rng)
