"""Figures of notebook 04."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from rockstudy.figure_style import ROLES, Figure, figure, style, whiskers


def gradient_groups(rows: pd.DataFrame, fewer: pd.DataFrame) -> Figure:
    """Norms and unbiased norms of mean gradients, and cosines, by group (figure 3a, b).

    `rows` has a row per type: ``group`` and, in logit space (upper panels) and hidden space,
    ``norm_<space>, square_<space>, cos_others_<space>, cos_balanced_<space>``. `fewer` is that of
    `comparisons.norms_at_counts`: a dashed line is the rocks' median at the high-KL types' counts.
    The dashed lines of the cosines are medians with the type itself in the sum.
    """
    with sns.axes_style("whitegrid"), sns.plotting_context("notebook", font_scale=0.85):
        made = Figure(figsize=(12.6, 6.2), layout="constrained")
        axes = made.subplots(2, 3, sharex=True)
    groups = rows.groupby("group", sort=False)
    for line, space in zip(axes, ("logit", "hidden"), strict=True):
        squares = rows[f"square_{space}"]
        unbiased = rows.assign(**{f"square_{space}": np.sign(squares) * np.sqrt(squares.abs())})
        for axis, name in zip(line, ("norm", "square", "cos_others"), strict=True):
            _dots(axis, unbiased, f"{name}_{space}")
            axis.set_xticks(range(len(groups)), [f"{g}\nn = {len(some)}" for g, some in groups])
        line[0].set(yscale="log", ylabel=f"norm of the mean gradient\n({space} space)")
        line[1].set_yscale("symlog", linthresh=_small(unbiased[f"square_{space}"]))
        line[1].set_ylabel("unbiased norm\n(root of the square, with its sign)")
        line[2].set_ylabel("cosine with the other types' sum")
        for i, (_, some) in enumerate(groups):
            _line(line[2], i, some[f"cos_balanced_{space}"].median(), ls="--")
    _line(axes[0, 0], list(groups.groups).index("rock"), fewer.set_index("counts").rock["high-KL"])
    made.alt = "Norm of the mean gradient, its unbiased version and cosine, types by group."
    return made


def _dots(axis: Axes, rows: pd.DataFrame, column: str) -> None:
    """Values of each group's types, and their median."""
    for i, (group, values) in enumerate(rows.groupby("group", sort=False)[column]):
        known = values.dropna()
        spread = np.linspace(-0.22, 0.22, len(known))
        axis.scatter(i + spread, known, s=10, color=ROLES[str(group)], alpha=0.5, lw=0)
        _line(axis, i, known.median(), ls="-")
    sns.despine(ax=axis)


def _line(axis: Axes, place: int, height: float, ls: str = "--") -> None:
    axis.hlines(height, place - 0.32, place + 0.32, color="black", lw=1.6, ls=ls)


def _small(values: pd.Series) -> float:
    """Where a logarithmic scale becomes linear: the first quartile of sizes."""
    sizes = values.abs()[values.abs() > 0]
    return float(sizes.quantile(0.25)) if len(sizes) else 1.0


def persistence(rows: pd.DataFrame, theirs: pd.DataFrame, changed: pd.DataFrame) -> Figure:
    """Mean KL of every type late against early, here and in the paper, and changes (figure 3c, d).

    `rows` and `theirs` have ``group, early, late`` of each type; `changed` has a row per ``source``
    (``here, paper``) and group as `published.changes` gives them. The paper's are hollow.
    """
    made, (left, middle, right) = figure(13.2, 3.9, 3)
    floor, every = 1e-4, pd.concat([rows, theirs])
    ends = (floor, every[["early", "late"]].max(axis=None) * 1.3)
    for axis, types, title in ((left, rows, "this run"), (middle, theirs, "the paper's figure 3c")):
        for group, some in list(types.groupby("group", sort=False))[::-1]:
            early, late = (some[name].clip(lower=floor) for name in ("early", "late"))
            look = style(str(group))
            face = "none" if axis is middle else look["color"]
            axis.scatter(
                early, late, s=20, alpha=0.65, lw=0.8, label=group, marker=look["marker"],
                facecolors=face, edgecolors=look["color"],
            )  # fmt: skip
        axis.plot(ends, ends, color="black", lw=1, ls=":")
        axis.set(xscale="log", yscale="log", xlim=ends, ylim=ends, title=title)
        axis.set(xlabel="mean reverse KL early (nats)", ylabel="mean reverse KL late (nats)")
        axis.legend(frameon=False, fontsize=8)
    labels = [f"{row.group}, {row.source} (n = {row.n})" for row in changed.itertuples()]
    _changes(right, changed, labels, hollow=changed.source == "paper")
    right.invert_yaxis()
    right.set_xlabel("change of the median (95% over types)")
    made.alt = "Mean reverse KL of token types late against early, here and in the paper."
    return made


def split_sample(halves: pd.DataFrame) -> Figure:
    """Change of each group on the prompts it was chosen on and, hollow, on other prompts.

    `halves` has ``group, half, relative, relative_lo, relative_hi``.
    """
    made, (axis,) = figure(7.0, 3.2)
    labels = [f"{row.group}, {row.half} half" for row in halves.itertuples()]
    _changes(axis, halves, labels, hollow=halves.half == "other")
    axis.invert_yaxis()
    axis.set_xlabel("relative change of the median (mean and 95% of random halves)")
    made.alt = "Change of mean KL on the prompts a group was chosen on and on other prompts."
    return made


def _changes(axis: Axes, rows: pd.DataFrame, labels: list[str], hollow: pd.Series) -> None:
    """The relative change of each row with its interval; a difference of groups is black."""
    for i, (row, empty) in enumerate(zip(rows.itertuples(), hollow, strict=True)):
        look = style(str(row.group)) if row.group in ROLES else {"color": "black", "marker": "|"}
        error = whiskers(row, "relative", ("relative_lo", "relative_hi"))
        look |= {"mfc": "white"} if empty else {}
        axis.errorbar(row.relative, i, xerr=error, capsize=4, ms=7, **look)
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
