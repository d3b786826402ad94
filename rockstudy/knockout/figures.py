"""Figures of notebooks 05 and 06."""

from __future__ import annotations

import pandas as pd
import seaborn as sns

from rockstudy import figure_style


def census_bars(found: pd.DataFrame, least: float) -> figure_style.Figure:
    """Delta of every candidate, sorted, one panel per benchmark (figure 4).

    Parameters
    ----------
    found : DataFrame
        ``benchmark, class, delta``: a row per candidate and benchmark.
    least : float
        Half the width of the shaded band in which no effect counts as strong.
    """
    benchmarks = list(dict.fromkeys(found.benchmark))
    made, axes = figure_style.figure(4.6 * len(benchmarks) + 0.6, 3.4, len(benchmarks))
    colours = {
        "Strong Pillar": figure_style.ROLES["rock"],
        "Neutral": figure_style.ROLES["random"],
        "Strong Stumbling Block": figure_style.ROLES["teacher"],
    }
    for axis, benchmark in zip(axes, benchmarks, strict=True):
        rows = found[found.benchmark == benchmark].sort_values("delta").reset_index(drop=True)
        axis.axhspan(-least, least, color="black", alpha=0.08, lw=0)
        for kind, some in rows.groupby("class", sort=False):
            axis.bar(
                some.index,
                some.delta,
                width=1.0,
                color=colours[kind],
                label=f"{kind} ({len(some)})",
                lw=0,
            )
        axis.axhline(0, color="black", lw=0.8)
        axis.set(title=benchmark, xlabel=f"candidates, sorted (n = {len(rows)})")
        axis.legend(fontsize=8, loc="lower right")
    axes[0].set_ylabel("Delta: accuracy without it\nminus accuracy with it")
    made.alt = "Change of accuracy when a candidate is knocked out, sorted, for each benchmark."
    return made


def knockout_cost(screen: pd.DataFrame) -> figure_style.Figure:
    """Tokens generated for a candidate as a share of a naive run, against its frequency.

    Parameters
    ----------
    screen : DataFrame
        ``arm, completions, tokens_generated, tokens_naive``.
    """
    made, (axis,) = figure_style.figure(6.4, 3.4)
    for arm, role in (("token", "rock"), ("window", "teacher")):
        some = screen[screen["arm"] == arm]
        share = some.tokens_generated / some.tokens_naive
        axis.scatter(
            some.completions.clip(lower=1),
            share.clip(lower=1e-5),
            s=14,
            **figure_style.look(role),
            alpha=0.6,
            lw=0,
            label=f"{arm} level: {share.mean():.1%} on average",
        )
    axis.set(xscale="log", yscale="log", xlabel="completions that change (of one benchmark)")
    axis.set_ylabel("tokens generated / naive")
    axis.legend(frameon=False, fontsize=8)
    made.alt = "Tokens generated for each knockout as a share of a naive run."
    return made


def predictor_panels(
    table: pd.DataFrame, correlations: pd.DataFrame, classes: pd.DataFrame, names: dict[str, str]
) -> figure_style.Figure:
    """Delta against properties of token types, r and p in each panel (figure 6).

    Parameters
    ----------
    table : DataFrame
        ``target, delta`` and the properties, on one benchmark.
    correlations : DataFrame
        ``predictor, r, p`` on the same benchmark.
    classes : DataFrame
        ``target, class``: pillars are marked.
    names : dict
        Label of each property, in the order of the panels.
    """
    rows = -(-len(names) // 3)
    with sns.axes_style("whitegrid"), sns.plotting_context("notebook", font_scale=0.8):
        made = figure_style.Figure(figsize=(9.6, 2.7 * rows), layout="constrained")
        axes = made.subplots(rows, 3, squeeze=False).ravel()
    pillars = set(classes.target[classes["class"] == "Strong Pillar"])
    marked = table.target.isin(pillars)
    for axis, (name, label) in zip(axes, names.items(), strict=False):
        axis.scatter(
            table[name], table.delta, s=10, color=figure_style.ROLES["random"], alpha=0.6, lw=0
        )
        axis.scatter(
            table.loc[marked, name],
            table.loc[marked, "delta"],
            s=22,
            color=figure_style.ROLES["rock"],
        )
        one = correlations[correlations.predictor == name].iloc[0]
        defined = f"r = {one.r:+.3f}, p = {one.p:.2g}" if one.r == one.r else "r is not defined"
        axis.set(title=defined, xlabel=label)
        axis.axhline(0, color="black", lw=0.7)
        sns.despine(ax=axis)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    for axis in axes[::3]:
        axis.set_ylabel("Delta")
    made.alt = "Change of accuracy against properties of the knocked out token types."
    return made
