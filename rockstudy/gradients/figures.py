"""Figures of notebook 04."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from rockstudy.figure_style import ROLES, Figure, figure, style, whiskers


def gradient_groups(rows: pd.DataFrame) -> Figure:
    """Norms of mean gradients and cosines with the balanced sum, by group (figure 3a, b).

    `rows` has a row per type: ``group`` and, in logit space (upper panels) and hidden space,
    ``norm_<space>, cos_balanced_<space>``.
    """
    with sns.axes_style("whitegrid"), sns.plotting_context("notebook", font_scale=0.85):
        made = Figure(figsize=(9.0, 6.0), layout="constrained")
        axes = made.subplots(2, 2, sharex=True)
    groups = rows.groupby("group", sort=False)
    for line, space in zip(axes, ("logit", "hidden"), strict=True):
        for axis, name in zip(line, ("norm", "cos_balanced"), strict=True):
            for i, (group, some) in enumerate(groups[f"{name}_{space}"]):
                values = some.dropna()
                spread = np.linspace(-0.22, 0.22, len(values))
                axis.scatter(i + spread, values, s=10, color=ROLES[group], alpha=0.5, lw=0)
                axis.hlines(values.median(), i - 0.32, i + 0.32, color="black", lw=2)
            sns.despine(ax=axis)
            axis.set_xticks(range(len(groups)), [f"{g}\nn = {len(some)}" for g, some in groups])
        line[0].set(yscale="log", ylabel=f"norm of the mean gradient\n({space} space)")
        line[1].set_ylabel("cosine with the balanced sum")
    made.alt = "Norm of the mean gradient and cosine with the balanced sum, types by group."
    return made


def persistence(rows: pd.DataFrame, moved: pd.DataFrame) -> Figure:
    """Mean KL of every type late against early, and the change by group (figure 3c, d).

    `rows` has ``group, early, late`` of each type; `moved` has the medians of each group with
    intervals over prompts: ``group, n, change, change_lo, change_hi, wilcoxon_p``.
    """
    made, (left, right) = figure(9.4, 3.8, 2)
    floor = 1e-4
    for group, some in list(rows.groupby("group", sort=False))[::-1]:
        early, late = (some[name].clip(lower=floor) for name in ("early", "late"))
        left.scatter(early, late, s=20, alpha=0.65, lw=0, label=group, **style(group))
    ends = (floor, rows[["early", "late"]].max(axis=None))
    left.plot(ends, ends, color="black", lw=1, ls=":")
    left.set(xscale="log", yscale="log", xlabel="mean reverse KL early (nats)")
    left.set_ylabel("mean reverse KL late (nats)")
    left.legend(frameon=False, fontsize=8)
    labels = [f"{row.group} (n = {row.n})" for row in moved.itertuples()]
    _changes(right, moved.assign(half="same"), labels)
    for i, row in enumerate(moved.itertuples()):
        p = f"  Wilcoxon p = {row.wilcoxon_p:.1g}"
        right.text(row.change_hi, i - 0.18, p, fontsize=7, va="bottom")
    right.set_ylim(len(moved) - 0.5, -0.6)
    right.set_xlabel("median change late - early (nats; 95% over prompts)")
    made.alt = "Mean reverse KL of token types late against early, and median change by group."
    return made


def split_sample(halves: pd.DataFrame) -> Figure:
    """Change of each group on the prompts it was chosen on and on other prompts.

    `halves` has ``group, half, change, change_lo, change_hi``.
    """
    made, (axis,) = figure(6.6, 2.6)
    _changes(axis, halves, [f"{row.group}, {row.half} half" for row in halves.itertuples()])
    axis.invert_yaxis()
    axis.set_xlabel("median change late - early (nats; mean and 95% of random halves)")
    made.alt = "Median change of mean KL on the prompts a group was chosen on and on other prompts."
    return made


def _changes(axis: Axes, rows: pd.DataFrame, labels: list[str]) -> None:
    """The ``change`` of each row with its interval; that of the other half is hollow."""
    for i, row in enumerate(rows.itertuples()):
        error = whiskers(row, "change", ("change_lo", "change_hi"))
        look = style(row.group) | ({"mfc": "white"} if row.half == "other" else {})
        axis.errorbar(row.change, i, xerr=error, capsize=4, ms=7, **look)
    axis.axvline(0, color="black", lw=1)
    axis.set_yticks(range(len(rows)), labels)


def groups_along_training(table: pd.DataFrame) -> Figure:
    """Mean reverse KL of each group along stage 2: ``group, step, rkl``, all seeds pooled."""
    made, (axis,) = figure(6.4, 3.4)
    for group, rows in table.groupby("group", sort=False):
        axis.plot(rows.step, rows.rkl, lw=1.8, ms=4, label=group, **style(group))
    axis.set(xlabel="optimiser step", ylabel="reverse KL of the group (nats)", yscale="log")
    axis.legend(frameon=False, fontsize=8)
    made.alt = "Mean reverse KL of the groups of token types along training."
    return made
