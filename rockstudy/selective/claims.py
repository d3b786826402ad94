"""Claims rows of notebook 07: accuracies, costs and shares of the frozen regimes (paper 5)."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from rockstudy.claims import verdicts
from rockstudy.claims.verdicts import ClaimRow
from rockstudy.selective import arms, steps

UNTRAINED = "the arm was not trained"
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


def _differences(table: pd.DataFrame, rng: np.random.Generator) -> Iterator[ClaimRow]:
    for claim, arm, where, against in (
        ("freeze-keeps-accuracy", "rock-freeze", f"within {WITHIN:g} of", "baseline"),
        ("random-freeze-costs-accuracy", "random-windows", "below", "baseline"),
        ("freeze-beats-random-freeze", "rock-freeze", "above", "random-windows"),
    ):
        number = f"accuracy-difference/{REGIMES[arm]}-{REGIMES.get(against, against)}"
        about = (claim, f"The final accuracy of {arm} is {where} that of {against}.", number)
        if not {arm, against} <= set(table["arm"]):
            yield verdicts.not_run(*about, UNTRAINED)
            continue
        differences = steps.differences(table, rng, against).set_index("arm")
        judge = functools.partial(verdicts.sign, positive=where == "above")
        judge = judge if where in ("above", "below") else _equivalent
        yield judge(*about, differences.loc[arm].to_dict(), headline=True)


def _equivalent(claim: str, words: str, number: str, one: dict, **more: Any) -> ClaimRow:
    """Whether the interval of a difference lies inside the margin, or outside of it."""
    inside = one["lo"] >= -WITHIN and one["hi"] <= WITHIN
    outside = one["hi"] < -WITHIN or one["lo"] > WITHIN  # neither where both ends are NaN
    verdict = "reproduced" if inside else "differs" if outside else "inconclusive"
    reason = f"the interval must lie inside plus and minus {WITHIN:g}"
    return verdicts.judged(claim, words, number, one, verdict=verdict, reason=reason, **more)


def _gains(table: pd.DataFrame, rng: np.random.Generator) -> Iterator[ClaimRow]:
    for arm, theirs in REGIMES.items():
        words = f"{arm} raises the accuracy over the start of stage 2."
        about = (f"gain-{arm}", words, f"accuracy-gain/{theirs}")
        of_arm = table[table["arm"] == arm]
        if of_arm.empty:
            yield verdicts.not_run(*about, UNTRAINED)
            continue
        gain = steps.changed(of_arm[of_arm.step == 0], steps.at_end(of_arm), rng)
        yield verdicts.sign(*about, gain)


def _costs(costs: pd.DataFrame) -> Iterator[ClaimRow]:
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
    for *about, arm, column in claims:
        if arm not in cost_of.index or pd.isna(cost_of.loc[arm, column]):
            yield verdicts.not_run(*about, UNTRAINED)
            continue
        one = cost_of.loc[arm]
        ours = {"value": float(one[column]), "unit": "regimes of one run", "n": len(cost_of)}
        if column == "speedup":
            ours |= {"lo": one.lo, "hi": one.hi, "unit": "steps timed in turns", "n": int(one.n)}
        headline = about[0] in ("speed-up-types", "speed-up-bound", "frozen-share")
        yield verdicts.holds(*about, ours, headline=headline)


def _match(match: pd.DataFrame) -> ClaimRow:
    """Whether the random windows match those of the rocks, which the comparison needs."""
    shares = match.groupby("arm").share.mean()
    ratio = shares["random-windows"] / shares["rock-freeze"]
    return verdicts.judged(
        "random-windows-match",
        "Positions in random windows divided by positions in the windows of the rocks.",
        None,
        {"value": ratio, "unit": "draws", "n": int(match.seed.nunique())},
        locator="ours: the paper's code freezes rarer types",
        verdict="reproduced" if abs(ratio - 1) <= arms.MATCH else "differs",
        reason=f"must be 1 within {arms.MATCH:.0%}",
    )
