"""Claims rows of notebook 07: accuracies, costs and shares of the frozen regimes (paper 5)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rockstudy.claims import verdicts
from rockstudy.claims.verdicts import ClaimRow
from rockstudy.selective import arms, steps

WITHIN = 0.02  # ours: final accuracies that count as the same, two points
REGIMES = {"rock-freeze": "rock-freeze", "random-windows": "random"}  # our names and the paper's


def rows(
    table: pd.DataFrame,
    costs: pd.DataFrame,
    match: pd.DataFrame,
    benchmark: str,
    rng: np.random.Generator,
) -> list[ClaimRow]:
    """Claims rows on one benchmark, from `accuracy`, `cost` and `matched` of the steps."""
    some = table[table.benchmark == benchmark]
    if some.empty:
        return []
    return [*_differences(some, rng), *_gains(some, rng), *_costs(costs), _match(match)]


def _differences(table: pd.DataFrame, rng: np.random.Generator) -> list[ClaimRow]:
    """Final accuracies of the three regimes against each other."""
    claims = (
        ("freeze-keeps-accuracy", "rock-freeze", "baseline", None),
        ("random-freeze-costs-accuracy", "random-windows", "baseline", False),
        ("freeze-beats-random-freeze", "rock-freeze", "random-windows", True),
    )
    where = {None: f"within {WITHIN:g} of", False: "below", True: "above"}
    made = []
    for claim, arm, against, positive in claims:
        words = f"The final accuracy of {arm} is {where[positive]} that of {against}."
        number = f"accuracy-difference/{REGIMES[arm]}-{REGIMES.get(against, against)}"
        if not {arm, against} <= set(table["arm"]):
            made.append(verdicts.not_run(claim, words, number, "the arm was not trained"))
            continue
        differences = steps.differences(table, rng, against)
        one = differences[differences["arm"] == arm].iloc[0].to_dict()
        if positive is None:
            made.append(_equivalent(claim, words, number, one))
        else:
            row = verdicts.sign(claim, words, number, one, positive=positive, headline=True)
            made.append(row)
    return made


def _equivalent(claim: str, words: str, number: str, one: dict) -> ClaimRow:
    """Whether the interval of a difference lies inside the margin, or outside of it."""
    if one["seeds"] < 2:
        verdict = "inconclusive"
    elif one["lo"] >= -WITHIN and one["hi"] <= WITHIN:
        verdict = "reproduced"
    else:
        outside = one["hi"] < -WITHIN or one["lo"] > WITHIN
        verdict = "differs" if outside else "inconclusive"
    reason = f"the interval must lie inside plus and minus {WITHIN:g}"
    return verdicts.judged(claim, words, number, one, verdict=verdict, reason=reason, headline=True)


def _gains(table: pd.DataFrame, rng: np.random.Generator) -> list[ClaimRow]:
    """Gain of each regime over the student at the start of stage 2."""
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


def _costs(costs: pd.DataFrame) -> list[ClaimRow]:
    """Speed-ups, the bound on them, and the frozen share: each place of the paper a row."""
    cost_of = costs.set_index("arm")
    claims = (
        ("speed-up-rock-freeze", "Speed-up of a step when rocks and their windows are frozen.",
         "speed-up/elsewhere", "rock-freeze", "speedup"),
        ("speed-up-types", "Speed-up of a step when rock positions skip the LM head.",
         "speed-up/elsewhere", "types", "speedup"),
        ("speed-up-bound", "Largest speed-up of a step by skipping the frozen share of the heads.",
         "speed-up/elsewhere", "rock-freeze", "bound"),
        ("speed-up-bound-all", "Largest speed-up of a step by skipping every head.",
         "speed-up/one-place", "rock-freeze", "bound_all"),
        ("frozen-share", "Share of the positions that Rock-Freeze leaves out.",
         "frozen-share/one-place", "rock-freeze", "frozen"),
        ("frozen-share-elsewhere", "Share of the positions left out (the paper's other number).",
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


def _match(match: pd.DataFrame) -> ClaimRow:
    """Whether the random windows match those of the rocks, which the comparison needs."""
    shares = match.groupby("arm").share.mean()
    ratio = shares["random"] / shares["rock"]
    return verdicts.judged(
        "random-windows-match",
        "Positions in random windows divided by positions in the windows of the rocks.",
        None,
        {"value": ratio, "unit": "draws", "n": int(match.seed.nunique())},
        locator="ours: the paper's code freezes rarer types",
        verdict="reproduced" if abs(ratio - 1) <= arms.MATCH else "differs",
        reason=f"must be 1 within {arms.MATCH:.0%}",
    )
