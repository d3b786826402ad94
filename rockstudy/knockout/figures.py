"""Figures of notebooks 05 and 06."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from rockstudy.claims import paper
from rockstudy.display import p_equals
from rockstudy.figure_labels import name_points, ring
from rockstudy.figure_style import ROLES, SMALLEST, Figure, panels, style
from rockstudy.knockout.census import ALPHA, CLASSES, LEAST

ROLE_OF = dict(zip(CLASSES, ("pillar", "neutral", "stumbling block"), strict=True))
DELTA = "Delta: accuracy without it\nminus accuracy with it"


def census_bars(levels: pd.DataFrame, points: pd.DataFrame, followed: int) -> Figure:
    """Delta of every candidate, sorted, by benchmark and by level of knockout (figure 4).

    `levels` is that of `tables.by_level`; candidates that are ``mechanical``, where that is known,
    are marked. No effect within the shaded band counts as strong. `points` are the
    paper's (``benchmark, delta_correct, problems``), whose benchmarks are drawn as lines beside
    ours in their order. The type `followed` is named, and those with the largest effects.
    """
    benchmarks = list(dict.fromkeys(levels.benchmark))
    made, axes = panels(7.0, 5.8, 2, len(benchmarks), sharex=True)
    theirs = list(points.groupby("benchmark", sort=False))[: len(benchmarks)]
    drawn = []
    for line, level in zip(axes, ("token", "window"), strict=True):
        for axis, benchmark in zip(line, benchmarks, strict=True):
            some = levels[(levels.benchmark == benchmark) & (levels.level == level)]
            drawn.append((axis, _bars(axis, some)))
            axis.set_title(f"{benchmark}, {level} level\n{_counted(some)}", fontsize=SMALLEST + 1)
        line[0].set_ylabel(DELTA)
        for axis, (name, paper_bars) in zip(line, theirs, strict=False):
            bars = (paper_bars.delta_correct / paper_bars.problems).sort_values()
            place = (np.arange(len(bars)) + 0.5) / len(bars)
            axis.plot(place, bars, color="black", lw=1.2, ls="--", label=f"the paper, {name}")
    for axis in axes[-1]:
        axis.set_xlabel("candidates, sorted, as a share")
    _legend(made, axes)
    for axis, rows in drawn:
        _name_bars(axis, rows, followed)
    n = levels.groupby(["benchmark", "level"]).size().max()
    made.caption = (
        f"Change of accuracy when a candidate is banned, sorted, for {n} candidates: above with "
        "the candidate alone banned (token level), below with all candidates of its windows "
        "(window level). Colours are the classes of that level alone: an effect outside of the "
        f"shaded band of {LEAST:g} whose paired bootstrap over problems rejects 0 at {ALPHA:g}. "
        "Strokes mark bans of an answer-bearing type. Dashed: the paper's own bars, whose text "
        "does not say which level they show."
    )
    made.alt = (
        "Change of accuracy when a candidate is knocked out, sorted, for each benchmark at token "
        "and at window level; the paper's as a dashed line."
    )
    return made


def _counted(some: pd.DataFrame) -> str:
    counts = some["class"].value_counts()
    pillars, blocks = (counts.get(CLASSES[i], 0) for i in (0, 2))
    return f"pillars: {pillars}, stumbling blocks: {blocks} of {len(some)}"


def _bars(axis: Axes, some: pd.DataFrame) -> pd.DataFrame:
    """Draw the sorted bars of one panel; returns the rows in their order, with their place."""
    rows = some.sort_values("delta", kind="stable").reset_index(drop=True)
    place = (rows.index.to_numpy() + 0.5) / len(rows)
    axis.axhspan(-LEAST, LEAST, color="black", alpha=0.08, lw=0)
    for kind, role in ROLE_OF.items():
        these = (rows["class"] == kind).to_numpy()
        look = {"color": ROLES[role], "label": role, "lw": 0}
        axis.bar(place[these], rows.delta[these], width=1 / len(rows), **look)
    if "mechanical" in rows:
        bearing = rows.mechanical.to_numpy(bool)
        look = {"color": "black", "marker": "|", "s": 26, "lw": 0.8, "label": "holds answers"}
        axis.scatter(place[bearing], [0] * bearing.sum(), **look)
    axis.axhline(0, color="black", lw=0.8)
    axis.grid(visible=False, axis="x")
    return rows.assign(place=place)


def _name_bars(axis: Axes, rows: pd.DataFrame, followed: int) -> None:
    """Name the followed type, the lowest bar and the highest one."""
    chosen = {*rows.index[rows.target == followed], *rows.index[:1], rows.index[-1]}
    named = rows.loc[sorted(chosen)]
    name_points(axis, named.place.tolist(), named.delta.tolist(), named.spelling.tolist())


def _legend(made: Figure, axes: np.ndarray) -> None:
    """One legend below all panels, each name once."""
    found = {}
    for axis in axes.flat:
        handles, labels = axis.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    look = {"loc": "outside lower center", "ncols": 3, "frameon": False, "fontsize": SMALLEST}
    made.legend(found.values(), found.keys(), **look)


def control_bars(screen: pd.DataFrame, chosen: pd.DataFrame, followed: int) -> Figure:
    """Delta of the rocks and of their controls, each sorted, one panel per benchmark.

    As `census_bars` at token level, for the pairs alone: `screen` has ``benchmark, level, target,
    delta, p``, and `chosen` ``level, target, paired_with, spelling``.
    """
    pairs = chosen[chosen.level == "control"]
    sides = {"rock": ("token", pairs.paired_with), "control": ("control", pairs.target)}
    spelling = chosen.drop_duplicates("target").set_index("target").spelling
    benchmarks = list(dict.fromkeys(screen.benchmark))
    made, axes = panels(7.0, 3.4, 1, len(benchmarks))
    drawn = []
    for axis, benchmark in zip(axes[0], benchmarks, strict=True):
        axis.axhspan(-LEAST, LEAST, color="black", alpha=0.08, lw=0)
        counts, parts = [], []
        for role, (level, ids) in sides.items():
            some = screen[(screen.benchmark == benchmark) & (screen.level == level)]
            some = some[some.target.isin(ids)].sort_values("delta").reset_index(drop=True)
            counts.append(int(((some.delta <= -LEAST) & (some.p < ALPHA)).sum()))
            axis.plot(some.index + 1, some.delta, **style(role), ms=4, lw=1, label=f"{role}s")
            parts.append(some.assign(x=some.index + 1, lowest=some.index == 0))
        axis.axhline(0, color="black", lw=0.8)
        axis.set_xlabel(f"types, sorted (n = {len(pairs)} pairs)")
        told = f"pillars: {counts[0]} rocks, {counts[1]} controls"
        axis.set_title(f"{benchmark}\n{told}", fontsize=SMALLEST + 1)
        drawn.append((axis, pd.concat(parts, ignore_index=True)))
    axes[0, 0].set_ylabel(DELTA)
    _legend(made, axes)
    for axis, every in drawn:
        own = every[(every.target == followed) & (every.level == "token")]
        ring(axis, own.x, own.delta)
        named = every[every.lowest | every.index.isin(own.index)].drop_duplicates("target")
        both = pd.concat([named, every])  # names cover no other point
        name_points(axis, both.x.tolist(), both.delta.tolist(), spelling[named.target].tolist())
    made.caption = (
        "Change of accuracy when a single token is banned: rocks, and for each a type that is as "
        f"frequent and no rock ({len(pairs)} pairs), each sorted. Inside the shaded band of "
        f"{LEAST:g} no effect counts as strong; pillars are those below it whose paired bootstrap "
        f"over problems rejects 0 at {ALPHA:g}. The paper has no such control."
    )
    made.alt = "Change of accuracy without rocks and without types as frequent that are no rocks."
    return made


def ban_and_null(table: pd.DataFrame, followed: int) -> Figure:
    """Delta of every candidate with its ban, and with the same texts resampled without one.

    `table` is that of `tables.with_predictors`. Without nulls the second column is empty.
    """
    benchmarks = list(dict.fromkeys(table.benchmark))
    made, [axes] = panels(7.0, 3.4, 1, len(benchmarks))
    drawn = []
    for axis, benchmark in zip(axes, benchmarks, strict=True):
        some = table[table.benchmark == benchmark].reset_index(drop=True)
        sides = {"student": some.delta, "random": some.delta - some.d}
        spread = 0.5 * (some.index.to_numpy() * 0.618034 % 1 - 0.5)
        for place, (role, values) in enumerate(sides.items()):
            axis.scatter(place + spread, values, s=14, color=ROLES[role], alpha=0.7, lw=0)
        own = some.index[some.target == followed]
        for row in own:
            both = [values[row] for values in sides.values()]
            axis.plot(np.array([0, 1]) + spread[row], both, color="black", lw=1, marker="o", ms=4)
        axis.axhline(0, color="black", lw=0.8)
        axis.set(title=benchmark, xlim=(-0.6, 1.6))
        axis.set_xticks([0, 1], ["with the ban", "written again\nwithout a ban"])
        axis.grid(visible=False, axis="x")
        named = some.loc[sorted({*own, int(some.delta.idxmin()), int(some.delta.idxmax())})]
        drawn.append((axis, named, spread, some))
    axes[0].set_ylabel(DELTA)
    for axis, named, spread, some in drawn:
        both = pd.concat([named, some])  # names cover no other point
        at = spread[both.index].tolist(), both.delta.tolist()
        name_points(axis, *at, named.spelling.tolist())
    made.caption = (
        f"Change of accuracy for {table.target.nunique()} candidates: at the left with the ban, at "
        "the right with the same texts written again from the same place without one, which is "
        "noise alone. A dot is a candidate; the line joins the two of the followed token. Nothing "
        "is resampled. The paper shows no null."
    )
    made.alt = "Change of accuracy of all candidates with the ban and without one."
    return made


def predictor_panels(
    table: pd.DataFrame,
    correlations: pd.DataFrame,
    classes: pd.DataFrame,
    names: dict[str, str],
    followed: int,
) -> Figure:
    """Delta against properties of token types, r and p in each panel (figure 6).

    All three frames are of one benchmark: `table` has ``benchmark, target, spelling, delta`` and
    the properties, `correlations` has ``predictor, r, p`` of Delta, and `classes` has ``target,
    class``. `names` maps each property to its label, in the order of the panels.
    """
    rows = -(-len(names) // 3)
    made, axes = panels(7.0, 2.35 * rows + 0.3, rows, 3, sharey=True)
    theirs_r, theirs_p = (paper.labelled(f"predictor-{x}/MATH-500") for x in "rp")
    kinds = classes.set_index("target")["class"].reindex(table.target).to_numpy()
    for axis, (name, label) in zip(axes.flat, names.items(), strict=False):
        for kind, role in ROLE_OF.items():
            some = table[kinds == kind]
            axis.scatter(some[name], some.delta, s=14, color=ROLES[role], alpha=0.75, lw=0,
                         label=role if len(some) else None)  # fmt: skip
        one = correlations[correlations.predictor == name].iloc[0]
        defined = f"r = {one.r:+.2f}, {p_equals(one.p)}" if one.r == one.r else "r is not defined"
        told = f"paper: {theirs_r[name].value:+.3f}, {theirs_p[name].value:.2g}"
        axis.set_title(f"{defined}\n{told}", fontsize=SMALLEST)
        axis.set_xlabel(label)
        axis.axhline(0, color="black", lw=0.7)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("Delta (token level)")
    benchmark = table.benchmark.iloc[0]
    made.suptitle(benchmark, fontsize=SMALLEST + 2)
    _legend(made, axes)
    chosen = [table[table.target == followed], table.nsmallest(1, "delta")]
    named = pd.concat(chosen).drop_duplicates("target")
    for axis, name in zip(axes.flat, names, strict=False):
        ring(axis, chosen[0][name], chosen[0].delta)
        both = pd.concat([named, table])  # names cover no other point
        name_points(axis, both[name].tolist(), both.delta.tolist(), named.spelling.tolist())
    made.caption = (
        f"Change of accuracy on {benchmark} when a candidate alone is banned, against six of its "
        f"properties ({len(table)} candidates; r is Pearson's, p two-sided). Colours are the "
        "classes at token level; nothing is resampled. The paper's r and p are those of its 200 "
        "candidates on MATH-500."
    )
    made.alt = f"Change of accuracy on {benchmark} against properties of the banned token types."
    return made
