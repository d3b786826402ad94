"""Figures of notebooks 05 and 06."""

from __future__ import annotations

import pandas as pd
import seaborn as sns

from rockstudy.figure_style import ROLES, Figure, figure, style
from rockstudy.knockout.census import ALPHA, CLASSES


def census_bars(classes: pd.DataFrame, least: float, points: pd.DataFrame) -> Figure:
    """Delta of every candidate, sorted, one panel per benchmark (figure 4).

    `classes` has ``benchmark, target, class, delta`` of each candidate; those that are
    ``mechanical`` (`tables.with_answers`), where that is known, are marked. No effect within
    `least` of 0, the shaded band, counts as strong. `points` are the paper's (``benchmark,
    delta_correct, problems``), whose benchmarks are drawn as lines beside ours in their order.
    """
    benchmarks = list(dict.fromkeys(classes.benchmark))
    made, axes = figure(4.6 * len(benchmarks) + 0.6, 3.4, len(benchmarks))
    colours = dict(zip(CLASSES, map(ROLES.get, ("rock", "random", "teacher")), strict=True))
    theirs = points.groupby("benchmark", sort=False)
    for axis, benchmark, (name, paper) in zip(axes, benchmarks, theirs, strict=False):
        rows = classes[classes.benchmark == benchmark].sort_values("delta").reset_index(drop=True)
        axis.axhspan(-least, least, color="black", alpha=0.08, lw=0)
        place = (rows.index + 0.5) / len(rows)
        for kind, some in rows.groupby("class", sort=False):
            look = {"color": colours[kind], "label": f"{kind} ({len(some)})", "lw": 0}
            axis.bar(place[some.index], some.delta, width=1 / len(rows), **look)
        if "mechanical" in rows:
            bearing = rows.mechanical
            look = {"color": "black", "marker": "|", "s": 30, "lw": 0.8}
            label = f"bans part of answers ({bearing.sum()})"
            axis.scatter(place[bearing], [0] * bearing.sum(), label=label, **look)
        bars = (paper.delta_correct / paper.problems).sort_values()
        look = {"color": "black", "lw": 1.2, "ls": "--", "label": f"the paper's, {name}"}
        axis.plot([(i + 0.5) / len(bars) for i in range(len(bars))], bars, **look)
        axis.axhline(0, color="black", lw=0.8)
        axis.set(title=benchmark, xlabel=f"candidates, sorted, as a share (n = {len(rows)})")
        axis.legend(fontsize=8, loc="lower right")
    axes[0].set_ylabel("Delta: accuracy without it\nminus accuracy with it")
    made.alt = (
        "Change of accuracy when a candidate is knocked out, sorted, for each benchmark; the "
        "paper's as a dashed line."
    )
    return made


def control_bars(screen: pd.DataFrame, chosen: pd.DataFrame, least: float) -> Figure:
    """Delta of the rocks and of their controls, each sorted, one panel per benchmark.

    As `census_bars` at token level, for the pairs alone: `screen` has ``benchmark, level, target,
    delta, p``, and `chosen` ``level, target, paired_with``.
    """
    pairs = chosen[chosen.level == "control"]
    sides = {"rock": ("token", pairs.paired_with), "control": ("control", pairs.target)}
    benchmarks = list(dict.fromkeys(screen.benchmark))
    made, axes = figure(4.6 * len(benchmarks) + 0.6, 3.4, len(benchmarks))
    for axis, benchmark in zip(axes, benchmarks, strict=True):
        axis.axhspan(-least, least, color="black", alpha=0.08, lw=0)
        for role, (level, ids) in sides.items():
            some = screen[(screen.benchmark == benchmark) & (screen.level == level)]
            some = some[some.target.isin(ids)].sort_values("delta").reset_index(drop=True)
            pillars = ((some.delta <= -least) & (some.p < ALPHA)).sum()
            look = style(role) | {"ms": 4, "lw": 1, "label": f"{role}s: {pillars} pillars"}
            axis.plot(some.index + 1, some.delta, **look)
        axis.axhline(0, color="black", lw=0.8)
        axis.set(title=benchmark, xlabel=f"types, sorted (n = {len(pairs)} pairs)")
        axis.legend(fontsize=8, loc="lower right")
    axes[0].set_ylabel("Delta: accuracy without it\nminus accuracy with it")
    made.alt = "Change of accuracy without rocks and without types as frequent that are no rocks."
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
    `correlations` has ``predictor, r, p`` of Delta, and `classes` has ``target, class``, whose
    pillars are marked. `names` maps each property to its label, in the order of the panels.
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
