"""Figures of notebooks 05 and 06."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd
import seaborn as sns

from rockstudy.figure_style import ROLES, Figure, figure, style
from rockstudy.knockout.census import CLASSES


def census_bars(
    classes: pd.DataFrame, least: float, answers: Collection[int] | None = None
) -> Figure:
    """Delta of every candidate, sorted, one panel per benchmark (figure 4).

    `classes` has ``benchmark, target, class, delta`` of each candidate. No effect within `least` of
    0, the shaded band, counts as strong. Candidates among `answers`, whose ban is mechanical, are
    marked.
    """
    benchmarks = list(dict.fromkeys(classes.benchmark))
    made, axes = figure(4.6 * len(benchmarks) + 0.6, 3.4, len(benchmarks))
    colours = dict(zip(CLASSES, map(ROLES.get, ("rock", "random", "teacher")), strict=True))
    for axis, benchmark in zip(axes, benchmarks, strict=True):
        rows = classes[classes.benchmark == benchmark].sort_values("delta").reset_index(drop=True)
        axis.axhspan(-least, least, color="black", alpha=0.08, lw=0)
        for kind, some in rows.groupby("class", sort=False):
            look = {"color": colours[kind], "label": f"{kind} ({len(some)})", "lw": 0}
            axis.bar(some.index, some.delta, width=1.0, **look)
        if answers is not None:
            bearing = rows[rows.target.isin(list(answers))]
            look = {"color": "black", "marker": "|", "s": 30, "lw": 0.8}
            label = f"answer-bearing ({len(bearing)})"
            axis.scatter(bearing.index, bearing.delta * 0, label=label, **look)
        axis.axhline(0, color="black", lw=0.8)
        axis.set(title=benchmark, xlabel=f"candidates, sorted (n = {len(rows)})")
        axis.legend(fontsize=8, loc="lower right")
    axes[0].set_ylabel("Delta: accuracy without it\nminus accuracy with it")
    made.alt = "Change of accuracy when a candidate is knocked out, sorted, for each benchmark."
    return made


def knockout_cost(screen: pd.DataFrame) -> Figure:
    """Tokens generated for a candidate as a share of a naive run, against its frequency.

    `screen` has ``level, completions, tokens_generated, tokens_naive`` of each candidate.
    """
    made, (axis,) = figure(6.4, 3.4)
    for level, role in (("token", "rock"), ("control", "control"), ("window", "teacher")):
        some = screen[screen.level == level]
        changed, share = some.completions.clip(lower=1), some.tokens_generated / some.tokens_naive
        label = f"{level} level: {share.mean():.1%} on average"
        look = style(role) | {"s": 14, "alpha": 0.6, "lw": 0, "label": label}
        axis.scatter(changed, share.clip(lower=1e-5), **look)
    axis.set(xscale="log", yscale="log", xlabel="completions that change (of one benchmark)")
    axis.set_ylabel("tokens generated / naive")
    axis.legend(frameon=False, fontsize=8)
    made.alt = "Tokens generated for each knockout as a share of a naive run."
    return made


def predictor_panels(
    table: pd.DataFrame, correlations: pd.DataFrame, classes: pd.DataFrame, names: dict[str, str]
) -> Figure:
    """Delta against properties of token types, r and p in each panel (figure 6).

    All three frames are of one benchmark: `table` has ``target, delta`` and the properties,
    `correlations` has ``predictor, r, p``, and `classes` has ``target, class``, whose pillars are
    marked. `names` maps each property to its label, in the order of the panels.
    """
    rows = -(-len(names) // 3)
    with sns.axes_style("whitegrid"), sns.plotting_context("notebook", font_scale=0.8):
        made = Figure(figsize=(9.6, 2.7 * rows), layout="constrained")
        axes = made.subplots(rows, 3, squeeze=False).ravel()
    marked = table.target.isin(classes.target[classes["class"] == CLASSES[0]])
    for axis, (name, label) in zip(axes, names.items(), strict=False):
        axis.scatter(table[name], table.delta, s=10, color=ROLES["random"], alpha=0.6, lw=0)
        axis.scatter(table.loc[marked, name], table.loc[marked, "delta"], s=22, color=ROLES["rock"])
        one = correlations[correlations.predictor == name].iloc[0]
        defined = f"r = {one.r:+.3f}, p = {one.p:.2g}" if one.r == one.r else "r is not defined"
        axis.set(title=defined, xlabel=label)
        axis.axhline(0, color="black", lw=0.7)
        sns.despine(ax=axis)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    for axis in axes[::3]:
        axis.set_ylabel("Delta")
    made.alt = "Change of accuracy against properties of the token types that are knocked out."
    return made
