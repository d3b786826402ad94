"""Claims rows of notebook 08: what keeps the loss of rocks up. None of them is in the paper.

The paper names AdamW's second moment as an open hypothesis and measures nothing of this.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from rockstudy.claims import verdicts
from rockstudy.claims.verdicts import ClaimRow

OURS = "not in the paper"
WIDEST_S = 0.35  # ours: half width of a log ratio, a factor of 1.4
WIDEST_KAPPA = 0.02  # ours
WIDEST_RATIO = 0.15  # ours: of the fall of all
ARMS = {
    "sgd": "Stage 2 with SGD lowers the loss of its rocks more, for the fall of all, than AdamW.",
    "adamw-tensor": "So does AdamW with one second moment for a tensor.",
    "adamw-types": "So does AdamW with weights that give each type the same sum.",
}


def rows(
    effects: pd.DataFrame, found: pd.DataFrame, slopes: pd.DataFrame, checkpoint: str
) -> list[ClaimRow]:
    """Claims rows of `steps.effects`, `steps.coherences` and the slopes, at one checkpoint."""
    rocks = effects[(effects.by == "group") & (effects.group == "rock") & (effects.measure == "S")]
    here = rocks[rocks.checkpoint == checkpoint].set_index(["kind", "against"])
    below = {"direction": verdicts.below(0.0, widest=WIDEST_S), "locator": OURS, "headline": True}
    made = [
        verdicts.finding(
            "adamw-suppresses-rocks",
            "A step of AdamW lowers the loss of rocks less, against the rest, than one of SGD.",
            _measured(here.loc["phi", "sgd"]),
            **below,
        ),
        verdicts.finding(
            "second-moment-suppresses-rocks",
            "So it does against its own momentum: its second moment suppresses rocks.",
            _measured(here.loc["phi", "momentum"]),
            **below,
        ),
    ]
    kappa = found[(found.by == "group") & (found.group == "rock") & (found.measure == "minus rest")]
    kappa = kappa[kappa.checkpoint == checkpoint]
    if len(kappa):
        made.append(
            verdicts.finding(
                "rock-gradients-cancel",
                "The gradients of rocks have less in common than those of the rest.",
                _measured(kappa.iloc[0]),
                direction=verdicts.below(0.0, widest=WIDEST_KAPPA),
                locator=OURS,
            )
        )
    return [*made, *_shown(here, slopes[slopes.checkpoint == checkpoint])]


def _shown(here: pd.DataFrame, slopes: pd.DataFrame) -> Iterator[ClaimRow]:
    for other in ("sgd", "momentum"):
        words = f"S of rocks by a step of AdamW that is really taken, against {other}."
        one = _measured(here.loc["real", other])
        yield verdicts.shown(f"real-step-{other}", words, one, None, OURS)
    some = slopes[(slopes.kind == "phi") & (slopes.against == "sgd")]
    for row in some.itertuples():
        if pd.notna(row.value):
            words = f"Slope over types of S against SGD, to first order, on {row.term}."
            one = _measured(pd.Series(row._asdict()))
            yield verdicts.shown(f"slope-{row.term.replace(' ', '-')}", words, one, None, OURS)


def of_arms(ratios: pd.DataFrame | None, why: str = "") -> list[ClaimRow]:
    """Claims rows of `steps.ratios`; without it they are not run, for a reason."""
    made = []
    for arm, words in ARMS.items():
        about = {"locator": OURS, "headline": arm == "sgd"}
        some = pd.DataFrame() if ratios is None else ratios[
            (ratios["arm"] == arm) & (ratios.choice == "own") & (ratios.measure == "minus adamw")
        ]  # fmt: skip
        if some.empty:
            none = verdicts.not_run(why or "the arm was not trained")
            made.append(
                verdicts.finding(f"{arm}-frees-rocks", words, None, direction=none, **about)
            )
            continue
        judge = verdicts.above(0.0, widest=WIDEST_RATIO)
        one = _measured(some.iloc[0])
        made.append(verdicts.finding(f"{arm}-frees-rocks", words, one, direction=judge, **about))
    return made


def _measured(row: pd.Series) -> dict[str, object]:
    return {name: row[name] for name in ("value", "lo", "hi", "unit", "n")}
