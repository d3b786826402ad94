"""Notebook 07 in words: what each table shows, how sure that is, what it cannot tell."""

from __future__ import annotations

import pandas as pd

from rockstudy.selective.arms import CONTROLS


def of_match(match: pd.DataFrame) -> str:
    """Sentences on `steps.matched`: shares of positions and of loss that each arm leaves out."""
    shares = match.groupby("arm", sort=False)[["share", "loss_share"]].mean()
    if "rock-freeze" not in shares.index:
        return "Rock-Freeze is not among the arms, so that nothing is matched to it."
    rock = shares.loc["rock-freeze"]
    told = [
        f"Rock-Freeze leaves out {rock.share:.1%} of the positions, and with them "
        f"{rock.loss_share:.1%} of the loss."
    ]
    for name in CONTROLS:
        if name in shares.index:
            one = shares.loc[name]
            told.append(
                f"{name} leaves out {one.share:.1%} of the positions and {one.loss_share:.1%} of "
                f"the loss, {one.loss_share / rock.loss_share:.0%} of what Rock-Freeze does."
            )
    return " ".join(told)


def of_differences(differences: pd.DataFrame, benchmark: str) -> str:
    """An item for each arm of `steps.differences`: its change, and what the interval allows."""
    lines = []
    for row in differences[differences.benchmark == benchmark].itertuples():
        reading = f"{'better' if row.lo > 0 else 'worse'} than the baseline"
        if row.lo <= 0 <= row.hi:
            reading = "no difference shown; differences inside the interval, up to "
            reading += f"{max(-row.lo, row.hi):.3f}, cannot be excluded"
        if row.lo == row.hi:  # the same in every cell
            reading = "no variation, and no conclusion"
        known = f" [{row.lo:+.3f}, {row.hi:+.3f}] over {row.seeds} seeds: {reading}"
        known = known if row.seeds > 1 else ", one seed: no conclusion about other seeds"
        lines.append(f"- {row.arm}: {row.value:+.3f}{known}.")
    return "\n".join(lines)


def of_curves(changes: pd.DataFrame) -> str:
    """Sentences on `steps.differences_along`: where an arm is behind the baseline.

    A line for each benchmark.
    """
    told = []
    for name, some in changes.groupby("benchmark", sort=False):
        parts = []
        for arm, rows in some.groupby("arm", sort=False):
            known, n = rows.dropna(subset=["lo"]), len(rows)
            below, above = int((known.hi < 0).sum()), int((known.lo > 0).sum())
            if known.empty:
                parts.append(f"{arm} has one seed, and no interval")
            elif not below + above:
                parts.append(f"{arm} differs from it at none of {n} checkpoints")
            else:
                parts.append(f"{arm} is below it at {below} and above it at {above} of {n}")
        told.append(f"{name}, against the baseline: {'; '.join(parts)}.")
    told.append(
        "A checkpoint whose interval holds 0 shows no difference, and is no evidence of equality."
    )
    return "\n".join(told)


def of_costs(costs: pd.DataFrame) -> str:
    """Sentences on `steps.cost`: what each timed arm saves, and the most that it could."""
    told = []
    for row in costs.dropna(subset=["speedup"]).itertuples():
        if row.arm == "baseline":
            continue
        means = "no change of speed is shown"
        if row.lo > 1 or row.hi < 1:
            means = f"{'faster' if row.lo > 1 else 'slower'} than the baseline"
        told.append(
            f"{row.arm} takes {row.frozen:.1%} of the weight away. Its steps are {row.speedup:.2f} "
            f"times as fast as the baseline's [{row.lo:.2f}, {row.hi:.2f}] ({row.n:.0f} pairs of "
            f"steps): {means}. A perfect implementation would reach {row.bound:.2f}, and training "
            f"without any heads {row.bound_all:.2f}."
        )
    return "\n".join(told) or "No arm was timed beside the baseline."


def of_phases(phases: pd.DataFrame) -> str:
    """Sentences on `steps.phases`: where the time of a step goes in each arm."""
    told = []
    for arm, row in phases.iterrows():
        named = row.drop("seconds_step", errors="ignore").rename(lambda c: c[len("seconds_") :])
        largest = named.idxmax()
        told.append(
            f"{arm}: the longest phase is {largest}, {named[largest] / named.sum():.0%} of a step; "
            f"the heads take {named['head'] / named.sum():.0%}, which is all that freezing can "
            "save."
        )
    return "\n".join(told)
