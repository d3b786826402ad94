"""Figures of notebook 09."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from rockstudy import figure_style


def lifecycle(
    persistence: pd.DataFrame | None, knockout: pd.DataFrame | None, utility: pd.DataFrame | None
) -> figure_style.Figure:
    """The life of rock tokens (figure 1): they persist, few matter, training may leave them out.

    The panels show mean reverse KL of groups of types along stage 2 (``group, seed, step, rkl``),
    candidates by benchmark (``benchmark, class, delta``), and final accuracies (``arm, benchmark,
    value, lo, hi, seeds``). That of a notebook that was not run (None) is marked "not run".
    """
    made, axes = figure_style.figure(13.2, 4.0, 3)
    panels = ((_persisting, persistence), (_knocked_out, knockout), (_trained, utility))
    titles = ("a  persistence", "b  knockout", "c  utility")
    for axis, (draw, table), title in zip(axes, panels, titles, strict=True):
        axis.set_title(title, loc="left", fontweight="bold")
        if table is None or table.empty:
            axis.text(0.5, 0.5, "not run", ha="center", va="center", transform=axis.transAxes)
            axis.set(xticks=[], yticks=[])
        else:
            draw(axis, table)
    made.alt = (
        "Three panels: reverse KL of rocks and other groups along training; change of accuracy "
        "without each candidate, strong ones marked; final accuracy of the training arms."
    )
    return made


def _persisting(axis: Axes, table: pd.DataFrame) -> None:
    for group, rows in table.groupby("group", sort=False):
        colour = figure_style.ROLES[str(group)]
        for _, one in rows.groupby("seed"):
            axis.plot(one.step, one.rkl, color=colour, alpha=0.3, lw=0.9)
        mean = rows.groupby("step").rkl.mean()
        ends = f"{mean.iloc[0]:.2f} to {mean.iloc[-1]:.2f}"
        style = figure_style.style(str(group)) | {"markevery": (0, len(mean) - 1 or 1)}
        axis.plot(mean.index, mean, lw=2, ms=6, label=f"{group}: {ends}", **style)
    axis.set(yscale="log", ylabel="reverse KL of the group (nats)")
    axis.set_xlabel(f"optimiser step ({table.seed.nunique()} training seeds, their mean)")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.legend(frameon=False, fontsize=8)


def _knocked_out(axis: Axes, table: pd.DataFrame) -> None:
    styles = {
        "Neutral": {"color": figure_style.ROLES["random"], "s": 12, "alpha": 0.6},
        "Strong Pillar": figure_style.style("rock") | {"s": 26},
        "Strong Stumbling Block": {"color": figure_style.ROLES["teacher"], "s": 34, "marker": "^"},
    }
    benchmarks = list(dict.fromkeys(table.benchmark))
    counts = table.groupby("class").size()
    for kind, style in styles.items():
        some = table[table["class"] == kind]
        place = some.benchmark.map(benchmarks.index).to_numpy(float)
        place += 0.7 * (np.arange(len(some)) * 0.618 % 1 - 0.5)  # a fixed spread
        axis.scatter(place, some.delta, lw=0, label=f"{kind} ({counts.get(kind, 0)})", **style)
    axis.axhline(0, color="black", lw=0.8)
    sizes = table.groupby("benchmark").size()
    axis.set_xticks(range(len(benchmarks)), [f"{name}\nn = {sizes[name]}" for name in benchmarks])
    axis.set_xlim(-0.6, len(benchmarks) - 0.4)
    axis.set_ylabel("Delta: accuracy without the token\nminus accuracy with it")
    axis.legend(frameon=False, fontsize=8, loc="best")


def _trained(axis: Axes, table: pd.DataFrame) -> None:
    arms, benchmarks = (list(dict.fromkeys(table[name])) for name in ("arm", "benchmark"))
    for number, (benchmark, rows) in enumerate(table.groupby("benchmark", sort=False)):
        offset = 0.18 * (number - (len(benchmarks) - 1) / 2)
        marker = "os^D"[number % 4]
        for row in rows.itertuples():
            style = {"color": figure_style.ROLES[figure_style.role_of_arm(row.arm)], "ms": 7}
            style |= {"xerr": None if np.isnan(row.lo) else figure_style.whiskers(row)}
            place = arms.index(row.arm) + offset
            axis.errorbar(row.value, place, capsize=4, marker=marker, **style)
        axis.plot([], [], color="black", marker=marker, ls="", label=benchmark)
    axis.set_yticks(range(len(arms)), arms)
    axis.set_ylim(len(arms) - 0.4, -0.6)
    axis.set_xlabel(f"Pass@1 at the end (95%; {table.seeds.max()} seeds)")
    axis.legend(frameon=False, fontsize=8)
