"""Claims rows of notebook 09: what is forgotten at equal gain; none of them is in the paper."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rockstudy.beyond.freezing import frontier
from rockstudy.claims import verdicts
from rockstudy.claims.verdicts import ClaimRow
from rockstudy.config.fields import StudyConfig
from rockstudy.errors import StudyError
from rockstudy.selective.claims import OURS, WIDEST, untrained

ROCKS = "rock-freeze-forgets-less-at-equal-gain"
NEEDS = "an arm of the comparison was not trained"


class Contrast(NamedTuple):
    """The excess of an arm minus that of another, which must lie above 0."""

    claim: str
    statement: str
    arm: str
    against: str


CONTRASTS = (
    Contrast(
        "forgets-less-than-as-much-loss",
        "At equal gain Rock-Freeze forgets less than random windows that carry as much loss.",
        *("rock-freeze", "random-windows-loss"),
    ),
    Contrast(
        "forgets-less-than-as-many-positions",
        "At equal gain leaving out rocks forgets less than leaving out as many random positions.",
        *("equal-positions-score", "equal-positions-random"),
    ),
    Contrast(
        "forgets-less-than-high-kl",
        "At equal gain leaving out rocks forgets less than leaving out as much loss at types of "
        "high mean KL.",
        *("equal-loss-score", "equal-loss-rkl"),
    ),
)


def benchmarks(config: StudyConfig) -> tuple[str, str]:
    """The benchmark of the gain and that of the change.

    `StudyError`: no benchmark that training does not use.
    """
    trained, names = config.main_benchmark, [task.label for task in config.benchmarks]
    other = untrained(names, trained, config.trained_on.label)
    if other is None:
        raise StudyError(
            f"benchmarks: must hold one that training does not use; got {', '.join(names)}"
        )
    return trained, other


def contrasts(accuracy: pd.DataFrame, trained: str, other: str) -> list[dict[str, Any]]:
    """`frontier.contrast` of each of `CONTRASTS`, with ``claim, arm, against``."""
    return [
        {"claim": one.claim, "arm": one.arm, "against": one.against}
        | frontier.contrast(accuracy, trained, other, one.arm, one.against)
        for one in CONTRASTS
    ]


def rows(
    table: pd.DataFrame,
    compared: list[dict[str, Any]],
    found: dict[str, Any],
    problems: int,
    summary: pd.DataFrame,
) -> list[ClaimRow]:
    """Claims rows.

    `table` is that of `frontier.excess`, `compared` are `contrasts`, `found` is the rank
    correlation (empty without one), `problems` their number on a benchmark, and `summary` the table
    of `shown.summary`.
    """
    by_arm = table.set_index("arm")
    made = [_finding(ROCKS, _ROCKS, _of(by_arm, "rock-freeze", problems), headline=True)]
    made += [
        _finding(one.claim, one.statement, measured if "value" in measured else None)
        for one, measured in zip(CONTRASTS, compared, strict=True)
    ]
    for arm in by_arm.index:
        if arm != "rock-freeze" and pd.notna(by_arm.excess[arm]):
            words = f"Change at equal gain of {arm}, minus that of a plain baseline."
            ours = _of(by_arm, arm, problems)
            assert ours is not None
            made.append(verdicts.shown(f"excess-{arm}", words, ours, None, OURS))
    for row in summary[~summary["arm"].isin(["baseline"])].itertuples():
        if pd.notna(row.loss_share):
            words = f"Share of the loss that {row.arm} leaves out in its trainings."
            ours = {"value": float(row.loss_share), "unit": "trainings", "n": int(row.seeds)}
            made.append(verdicts.shown(f"left-out-{row.arm}", words, ours, None, OURS))
    if found:
        words = "Rank correlation of our arms' accuracies with those of the authors' own branch."
        where = "a branch of the public code, unpublished"
        why = "theirs is unpublished, of one training, with unequal shares"
        made.append(verdicts.shown("order-of-selectors", words, found, None, where, why))
    return made


_ROCKS = (
    "Where it has learnt as much as a plain baseline, Rock-Freeze has forgotten less on a "
    "benchmark that training does not use."
)


def of_given_models() -> list[ClaimRow]:
    """The findings of `rows` as `not run`: models that are given are not trained."""
    why = verdicts.not_run("it needs training, and this run's models are given")
    named = [(ROCKS, _ROCKS), *((one.claim, one.statement) for one in CONTRASTS)]
    return [
        verdicts.finding(claim, words, None, direction=why, locator=OURS, headline=claim == ROCKS)
        for claim, words in named
    ]


def _of(by_arm: pd.DataFrame, arm: str, problems: int) -> dict[str, Any] | None:
    if arm not in by_arm.index or pd.isna(by_arm.excess[arm]):
        return None
    row = by_arm.loc[arm].to_dict()
    return frontier.as_claim(row, int(row["seeds"]), problems)


def _finding(
    claim: str, statement: str, measured: dict[str, Any] | None, headline: bool = False
) -> ClaimRow:
    about: dict[str, Any] = {"locator": OURS, "headline": headline}
    if measured is None:
        return verdicts.finding(claim, statement, None, direction=verdicts.not_run(NEEDS), **about)
    row = verdicts.finding(
        claim, statement, measured, direction=verdicts.above(0.0, widest=WIDEST), **about
    )
    if np.isfinite(measured["detectable"]):
        row["reason"] += f"; 80% power from {measured['detectable']:.3f}"
    return row
