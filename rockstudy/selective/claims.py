"""Claims rows of notebook 07: what training loses by leaving out rocks, and its controls (paper 4).

The paper's speed-ups and frozen shares are of another model, machine and corpus, so they are shown
and not judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from rockstudy.claims import verdicts
from rockstudy.claims.verdicts import ClaimRow, Judge
from rockstudy.selective import arms, steps

UNTRAINED = "an arm of the comparison was not trained"
MARGIN = 0.02  # ours: final accuracies that count as the same, two points
WIDEST = 0.05  # ours: half width of a difference, a third of what the paper's control loses
OURS = "not in the paper"


class Comparison(NamedTuple):
    """Final accuracy of an arm minus that of another, and how it is judged."""

    claim: str
    statement: str
    arm: str
    against: str
    side: str  # above or below 0, or "within" the margin
    number: str | None = None  # of the paper, which also judges the size unless "within"
    trained: bool = True  # on the benchmark that training uses


COMPARISONS = (
    Comparison(
        "rock-freeze-keeps-accuracy",
        "Leaving rocks and their windows out of the loss keeps the final accuracy.",
        *("rock-freeze", "baseline", "within", "accuracy-difference/rock-freeze-baseline"),
    ),
    Comparison(
        "random-windows-cost-accuracy",
        "Leaving as many random windows out of the loss costs accuracy: the student stalls.",
        *("random-windows", "baseline", "below", "accuracy-difference/random-baseline"),
    ),
    Comparison(
        "rock-freeze-beats-random-windows",
        "Rock-Freeze ends with a higher accuracy than random windows of the same size.",
        *("rock-freeze", "random-windows", "above", "accuracy-difference/rock-freeze-random"),
    ),
    Comparison(
        "rock-freeze-beats-loss-matched-windows",
        "Rock-Freeze ends with a higher accuracy than random windows that carry as much loss.",
        *("rock-freeze", "random-windows-loss", "above"),
    ),
    Comparison(
        "rock-freeze-raises-untrained",
        "Rock-Freeze raises the accuracy on a benchmark that training does not use.",
        *("rock-freeze", "baseline", "above", None, False),
    ),
)


def rows(
    table: pd.DataFrame,
    costs: pd.DataFrame,
    match: pd.DataFrame,
    trained: str,
    untrained: str | None = None,
) -> list[ClaimRow]:
    """Claims rows from `accuracy`, `cost` and `matched` of the steps.

    `trained` and `untrained` are benchmarks: the one of the paper's comparison, and one that
    training does not use, None where there is none.
    """
    found = [_compared(table, trained if one.trained else untrained, one) for one in COMPARISONS]
    return [*found, *_gains(table, trained), *_costs(costs), _match(match)]


def of_given_models() -> list[ClaimRow]:
    """The findings of `rows` as `not run`: models that are given are not trained."""
    why = verdicts.not_run("it needs training, and this run's models are given")
    made = []
    for one in COMPARISONS:
        about = {"number": one.number, "locator": "" if one.number else OURS}
        about |= {"headline": one.side != "below"}
        made.append(verdicts.finding(one.claim, one.statement, None, direction=why, **about))
    return made


def untrained(benchmarks: list[str], main: str, trained: str) -> str | None:
    """The first of the benchmarks that is neither the main one nor the trained task."""
    return next((name for name in benchmarks if name not in (main, trained)), None)


def _compared(table: pd.DataFrame, benchmark: str | None, one: Comparison) -> ClaimRow:
    about = {"number": one.number, "locator": "" if one.number else OURS}
    about |= {"headline": one.side != "below"}
    some = table[table.benchmark == benchmark]
    graded = set(steps.at_end(some)["arm"]) if len(some) else set()
    if not {one.arm, one.against} <= graded:
        why = verdicts.not_run(UNTRAINED if benchmark else "no benchmark is left untrained")
        return verdicts.finding(one.claim, one.statement, None, direction=why, **about)
    apart = steps.differences(some, one.against).set_index("arm").loc[one.arm].to_dict()
    size: Judge | None = None
    if one.side == "within":
        direction: Judge = verdicts.within(MARGIN, apart["lo90"], apart["hi90"])
    else:
        judge = verdicts.above if one.side == "above" else verdicts.below
        direction = judge(0.0, widest=WIDEST)
        size = verdicts.near(one.number, widest=WIDEST) if one.number else None
    return verdicts.finding(
        one.claim, one.statement, apart, direction=direction, size=size, **about
    )


def _gains(table: pd.DataFrame, benchmark: str) -> Iterator[ClaimRow]:
    """The rise of each regime over the start of stage 2; that of the baseline is in notebook 01."""
    for arm, theirs in (("rock-freeze", "rock-freeze"), ("random-windows", "random")):
        some = table[(table["arm"] == arm) & (table.benchmark == benchmark)]
        if len(some):
            gain = steps.changed(some[some.step == 0], steps.at_end(some))
            words = f"Rise of the accuracy over stage 2 under {arm}."
            yield verdicts.shown(f"gain-{arm}", words, gain, f"accuracy-gain/{theirs}")


def _costs(costs: pd.DataFrame) -> Iterator[ClaimRow]:
    """Speed-ups, the bounds on them, and the shares of positions and of loss left out."""
    world, cost_of = "another model, machine and corpus", costs.set_index("arm")
    shown = [
        ("speed-up-rock-freeze", "Speed-up of a step when rocks and their windows are frozen.",
         "rock-freeze", "speedup", "speed-up/elsewhere"),
        ("speed-up-types", "Speed-up of a step when rock positions skip the LM head.",
         "types", "speedup", "speed-up/elsewhere"),
        ("speed-up-bound", "Largest speed-up of a step by skipping the frozen share of the heads.",
         "rock-freeze", "bound", "speed-up/elsewhere"),
        ("speed-up-bound-all", "Largest speed-up of a step by skipping every head.",
         "rock-freeze", "bound_all", "speed-up/one-place"),
        ("frozen-share", "Share of the positions that Rock-Freeze leaves out.",
         "rock-freeze", "frozen", "frozen-share/one-place"),
        *((f"loss-share-{arm}", f"Share of the loss that {arm} leaves out.",
           arm, "loss_frozen", None) for arm in ("rock-freeze", *arms.CONTROLS)),
    ]  # fmt: skip
    for claim, words, arm, column, number in shown:
        if arm not in cost_of.index or pd.isna(cost_of.loc[arm, column]):
            continue
        one = cost_of.loc[arm]
        ours = {"value": float(one[column]), "unit": "trainings", "n": int(one.seeds)}
        if column == "speedup":
            ours |= {"lo": one.lo, "hi": one.hi, "unit": "steps timed in turns", "n": int(one.n)}
        yield verdicts.shown(claim, words, ours, number, "" if number else OURS, world)


def _match(match: pd.DataFrame) -> ClaimRow:
    """Whether the random windows match those of the rocks, which the comparisons need."""
    shares = match.groupby("arm").share.mean()
    ratios = (shares / shares["rock-freeze"]).loc[list(arms.CONTROLS)]
    worst = float(ratios.iloc[np.argmax(abs(ratios - 1))])
    return verdicts.check(
        "random-windows-match",
        "Positions in random windows divided by positions in the windows of the rocks.",
        {"value": worst, "unit": "draws", "n": int(match.seed.nunique())},
        passed=abs(worst - 1) <= arms.MATCH,
        rule=f"must be 1 within {arms.MATCH:.0%}",
    )
