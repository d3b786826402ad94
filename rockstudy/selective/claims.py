"""Claims rows of notebook 07: accuracies, costs and shares of the frozen regimes (paper 5)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rockstudy.claims import verdicts
from rockstudy.claims.verdicts import Row
from rockstudy.selective import arms, steps

WITHIN = 0.02  # ours: final accuracies that count as the same, two points
REGIMES = {"rock-freeze": "rock-freeze", "random-windows": "random"}  # ours, and the paper's name


def rows(
    table: pd.DataFrame,
    costs: pd.DataFrame,
    match: pd.DataFrame,
    benchmark: str,
    rng: np.random.Generator,
) -> list[Row]:
    """Claims rows on one benchmark, from `arm_steps.accuracy`, `cost` and `matched`."""
    some = table[table.benchmark == benchmark]
    if some.empty:
        return []
    return [*_differences(some, rng), *_gains(some, rng), *_costs(costs), _match(match)]


def _differences(table: pd.DataFrame, rng: np.random.Generator) -> list[Row]:
    """Final accuracies of the three regimes against each other."""
    claims = (
        ("freeze-keeps-accuracy", "rock-freeze", "baseline", None),
        ("random-freeze-costs-accuracy", "random-windows", "baseline", False),
        ("freeze-beats-random-freeze", "rock-freeze", "random-windows", True),
    )
    where = {None: f"within {WITHIN:g} of it", False: "below it", True: "above it"}
    made = []
    for claim, arm, against, positive in claims:
        words = f"Final accuracy of {arm} minus that of {against}: {where[positive]}."
        number = f"accuracy-difference/{REGIMES[arm]}-{REGIMES.get(against, against)}"
        if not {arm, against} <= set(table["arm"]):
            made.append(verdicts.not_run(claim, words, number, "the arm was not trained"))
            continue
        found = steps.differences(table, rng, against)
        one = found[found["arm"] == arm].iloc[0].to_dict()
        if positive is None:
            made.append(_equivalent(claim, words, number, one))
        else:
            row = verdicts.sign(claim, words, number, one, positive=positive, headline=True)
            made.append(row)
    return made


def _equivalent(claim: str, words: str, number: str, one: dict) -> Row:
    """Whether the whole interval of a difference lies inside the margin, or outside of it."""
    if one["seeds"] < 2:
        verdict = "inconclusive"
    elif one["lo"] >= -WITHIN and one["hi"] <= WITHIN:
        verdict = "reproduced"
    else:
        outside = one["hi"] < -WITHIN or one["lo"] > WITHIN
        verdict = "differs" if outside else "inconclusive"
    reason = f"the interval must lie inside plus and minus {WITHIN:g}"
    return verdicts.judged(claim, words, number, one, verdict=verdict, reason=reason, headline=True)


def _gains(table: pd.DataFrame, rng: np.random.Generator) -> list[Row]:
    """What each regime gains over the student that it starts from."""
    made = []
    for arm, theirs in REGIMES.items():
        claim, words = f"gain-{arm}", f"{arm} raises the accuracy over the start of stage 2."
        of_arm = table[table["arm"] == arm]
        number = f"accuracy-gain/{theirs}"
        if of_arm.empty:
            made.append(verdicts.not_run(claim, words, number, "the arm was not trained"))
            continue
        gain = steps.changed(of_arm[of_arm.step == 0], steps.at_end(of_arm), rng)
        made.append(verdicts.sign(claim, words, number, gain))
    return made


def _costs(costs: pd.DataFrame) -> list[Row]:
    """Speed-ups, the bound on them, and the frozen share: each place of the paper a row."""
    cost_of = costs.set_index("arm")
    faster = "Seconds of a baseline step over those of an arm"
    claims = (
        ("speed-up-rock-freeze", f"{faster} that freezes rocks and windows.",
         "speed-up/elsewhere", "rock-freeze", "speedup"),
        ("speed-up-types", f"{faster} that freezes rocks alone, whose heads are skipped.",
         "speed-up/elsewhere", "types", "speedup"),
        ("speed-up-bound", "The most that leaving out the frozen share can make a step faster.",
         "speed-up/elsewhere", "rock-freeze", "bound"),
        ("speed-up-bound-all", "The most that leaving out every head can make a step faster.",
         "speed-up/one-place", "rock-freeze", "bound_all"),
        ("frozen-share", "Share of the positions that Rock-Freeze leaves out.",
         "frozen-share/one-place", "rock-freeze", "frozen"),
        ("frozen-share-elsewhere", "The same, against the paper's other number.",
         "frozen-share/elsewhere", "rock-freeze", "frozen"),
    )  # fmt: skip
    made = []
    for claim, words, number, arm, column in claims:
        if arm not in cost_of.index or pd.isna(cost_of.loc[arm, column]):
            made.append(verdicts.not_run(claim, words, number, "the arm was not trained"))
            continue
        one = cost_of.loc[arm]
        ours = {"value": float(one[column]), "unit": "regimes of one run", "n": len(cost_of)}
        if column == "speedup":
            ours = {"value": one.speedup, "lo": one.lo, "hi": one.hi}
            ours |= {"unit": "steps timed in turns", "n": int(one.n)}
        headline = claim in ("speed-up-types", "speed-up-bound", "frozen-share")
        made.append(verdicts.holds(claim, words, number, ours, headline=headline))
    return made


def _match(match: pd.DataFrame) -> Row:
    """The control that the comparison rests on."""
    shares = match.groupby("arm").share.mean()
    ratio = shares["random"] / shares["rock"]
    return verdicts.judged(
        "random-windows-match",
        "Positions in random windows over positions in the rocks' own.",
        None,
        {"value": ratio, "unit": "draws", "n": int(match.seed.nunique())},
        locator="ours: the paper's code freezes rarer types",
        verdict="reproduced" if abs(ratio - 1) <= arms.MATCH else "differs",
        reason=f"must be 1 within {arms.MATCH:.0%}",
    )
