"""Figures of notebook 09."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rockstudy.beyond.freezing import arms
from rockstudy.beyond.freezing.frontier import is_baseline
from rockstudy.claims import paper
from rockstudy.figure_labels import many_seeds, name_points
from rockstudy.figure_style import GROUND, ROLES, SMALLEST, Figure, figure, panels, style

ROLE = {  # of an arm by the end of its name
    "baseline": "student",
    "rock-freeze": "rock",
    "types": "rock",
    "soft": "rock",
    "score": "rock",
    "score_ctx": "rock",
    "random": "random",
    "random-windows": "random",
    "random-windows-loss": "control",
    "rkl": "high-KL",
    "tip": "high-KL",
}
LINES = ("-", "--", ":", "-.")  # of the baseline's learning rates


def role_of(arm: str) -> str:
    """The role whose colour and marker an arm has."""
    name = arm.removeprefix(arms.POSITIONS).removeprefix(arms.LOSS)
    if is_baseline(arm):
        return "student"
    return "rock" if name.startswith("lambda-") else ROLE.get(name, "neutral")


def _look(arm: str) -> dict:
    """Colour and marker; arms of equal loss are hollow."""
    look = style(role_of(arm)) | {"ms": 6, "ls": "none"}
    look |= {"marker": "o"} if role_of(arm) == "neutral" else {}
    return look | ({"mfc": GROUND} if arm.startswith(arms.LOSS) else {})


def shares(table: pd.DataFrame, share: float) -> Figure:
    """Share of the positions and of the loss that each arm left out: `shown.summary`.

    `share` is that of the arms of equal shares.
    """
    rows = table[~table["arm"].map(is_baseline)].reset_index(drop=True)
    made, [axes] = panels(7.2, 0.24 * len(rows) + 1.5, 1, 2, sharey=True)
    heads = {"share": "share of the positions", "loss_share": "share of the loss"}
    for axis, (column, head) in zip(axes, heads.items(), strict=True):
        for place, row in rows.iterrows():
            look = _look(row["arm"]) | {"mfc": ROLES[role_of(row["arm"])]}
            axis.plot(row[column], place, **look)
            around = look | {"mfc": GROUND, "ms": 9, "zorder": 1}
            axis.plot(row[f"{column}_matched"], place, **around)
        axis.axvline(share, color="black", lw=0.8)
        axis.set(xlabel=head, ylim=(len(rows) - 0.5, -0.5))
    axes[0].set_yticks(range(len(rows)), rows["arm"])
    theirs = paper.number("frozen-share/one-place").value
    fewest, most = (rows.seeds.min(), rows.seeds.max()) if len(rows) else (0, 0)
    seeds = many_seeds(most) if fewest == most else f"{fewest} to {most} training seeds"
    made.alt = "Share of the positions and of the loss that each arm left out."
    made.caption = (
        "What each arm leaves out of the loss: filled, in its own trainings (the mean over "
        f"{seeds}); large and hollow, on the baseline's "
        "rollouts, on which the shares were matched. The line is the share that arms of equal "
        "positions (left) and of equal loss (right) were to leave out. Nothing is resampled. "
        "Importance weighs some positions more than others and may add loss. Of its Rock-Freeze "
        f"the paper gives the share of the positions alone, {theirs:.0%}."
    )
    return made


def learning_and_forgetting(
    table: pd.DataFrame, curves: pd.DataFrame, names: tuple[str, str]
) -> Figure:
    """Gain against change of every arm, with the baseline's curves at its learning rates.

    `table` is that of `frontier.excess`, `curves` that of `frontier.curves`, and `names` are the
    trained benchmark and the other one.
    """
    made, (axis,) = figure(7.2, 5.0)
    groups = curves.groupby("arm", sort=False)
    for (arm, rows), line in zip(groups, LINES * groups.ngroups, strict=False):
        look = style("student") | {"ls": line, "ms": 3.5, "lw": 1, "zorder": 2, "alpha": 0.7}
        axis.plot(rows.gain, rows.change, label=arm, **look)
    fitted = curves.sort_values("gain")
    axis.plot(fitted.gain, fitted.fitted, color="black", lw=2, label="frontier", zorder=2)
    ours = table[~table["arm"].map(is_baseline)]
    for row in ours.itertuples():
        axis.plot(row.gain, row.change, zorder=3, **_look(row.arm))
    axis.axhline(0, color="black", lw=0.8)
    axis.axvline(0, color="black", lw=0.8)
    axis.set(xlabel=f"gain on {names[0]} (Pass@1)", ylabel=f"change on {names[1]} (Pass@1)")
    axis.legend(loc="best", frameon=False, fontsize=SMALLEST, title="plain loss")
    axis.margins(0.08)
    order = ours.assign(far=ours.excess.abs()).sort_values("far", ascending=False)
    name_points(axis, order.gain.to_list(), order.change.to_list(), order["arm"].to_list())
    made.alt = "Change on the other benchmark against gain on the trained one, for every arm."
    made.caption = (
        "Change of the accuracy since the start of stage 2 on the benchmark that is not trained, "
        "against the gain on the trained one. Thin: the plain loss at each learning rate, from the "
        "start over the graded checkpoints to the end; thick: the curve through all of them. "
        "Marks: other arms at their end, those of equal loss hollow; above the curve an arm "
        "forgets less than a baseline that has learnt as much. Means over problems and training "
        "seeds; nothing is resampled, and the intervals are in the next figure. "
        "The paper grades no benchmark beside those it compares the regimes on."
    )
    return made


def excess(table: pd.DataFrame, margin: float) -> Figure:
    """What each arm changes beyond a baseline that has learnt as much: `frontier.excess`.

    `margin` is the one of equivalence.
    """
    rows = table.dropna(subset=["excess"]).sort_values("excess", ascending=False)
    made, (axis,) = figure(7.2, 0.24 * max(len(rows), 1) + 1.2)
    for place, row in enumerate(rows.itertuples()):
        look = _look(row.arm)
        if row.seeds > 1:
            axis.plot([row.excess_lo, row.excess_hi], [place] * 2, color=look["color"], lw=1)
            axis.plot([row.excess_lo90, row.excess_hi90], [place] * 2, color=look["color"], lw=2.4)
        axis.plot(row.excess, place, **look)
    axis.axvspan(-margin, margin, color=ROLES["neutral"], alpha=0.15, lw=0)
    axis.axvline(0, color="black", lw=0.8)
    labels = [f"{row.arm} ({row.seeds}){'*' * bool(row.beyond)}" for row in rows.itertuples()]
    axis.set_yticks(range(len(rows)), labels)
    axis.set(xlabel="excess over the baseline at equal gain (Pass@1)")
    axis.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    made.alt = "Excess of each arm over the baseline at equal gain, with intervals."
    made.caption = (
        "Change on the benchmark that is not trained, minus that of a plain baseline where it has "
        "gained as much on the trained one; right of 0 an arm forgets less. Thin: 95%, thick: 90% "
        "intervals over problems and training seeds (their number is in brackets; one seed has "
        f"none). Grey: the margin of equivalence, {margin:g}. A star: no baseline has gained as "
        "much, and the frontier is extrapolated. The paper has no such comparison."
    )
    return made


def orders(table: pd.DataFrame) -> Figure:
    """The authors' arms beside ours: `authors.orders`."""
    made, (left, right) = figure(7.2, 3.2, 2)
    left.plot(table.their_accuracy, range(len(table)), "x", color=ROLES["random"], ms=7)
    left.set_yticks(range(len(table)), table.theirs)
    left.set(xlabel="their accuracy (unpublished)", ylim=(len(table) - 0.5, -0.5))
    known = table.dropna(subset=["value"])
    for place, row in known.iterrows():
        error = None if np.isnan(row.error) else [2 * row.error]
        right.errorbar(row.value, place, xerr=error, capsize=3, **_look(row["arm"]))
    right.set_yticks(range(len(table)), table["arm"])
    right.set(xlabel="our accuracy", ylim=(len(table) - 0.5, -0.5))
    bars = "one seed has no standard error"
    if len(known) and known.error.notna().any():
        over = f"problems and {many_seeds(known.seeds.min())}"
        bars = (
            f"bars: two standard errors, over {over}, of the difference to the mean of these arms"
        )
    made.alt = "Accuracy of the authors' arms and of ours that are nearest to them."
    made.caption = (
        "Left: accuracy of the arms in a branch of the authors' public code, which is not "
        f"published: {table.problems.max()} problems, with shares that are not equal. Right: ours "
        f"at the end of training on the trained benchmark; {bars}. "
        "An arm without a mark was not trained here."
    )
    return made
