"""Figure 1: the life of rock tokens."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from rockstudy.figure_labels import legend_above, many_seeds, name_lines, name_points, seed_lines
from rockstudy.figure_style import ROLES, SMALLEST, Figure, panels, role_of_arm, style, whiskers

CLASSES = {
    "Strong Pillar": "pillar",
    "Neutral": "neutral",
    "Strong Stumbling Block": "stumbling block",
}

PLACES = (  # left, bottom, width and height; the names of groups stand between the first two
    (0.1, 0.575, 0.215, 0.36),
    (0.61, 0.575, 0.375, 0.3),
    (0.215, 0.085, 0.77, 0.325),
)


def lifecycle(
    persistence: pd.DataFrame | None, knockout: pd.DataFrame | None, utility: pd.DataFrame | None
) -> Figure:
    """The life of rock tokens (figure 1): they persist, few matter, training may leave them out.

    The panels show mean reverse KL of groups of types along stage 2 (``group, seed, step, rkl``),
    candidates that are banned alone, by benchmark (``benchmark, class, delta``, and ``spelling``
    where it is known), and final accuracies (``arm, benchmark, value, lo, hi, seeds``). That of a
    notebook that was not run (None) is marked "not run".
    """
    made, [shown] = panels(7.0, 5.6, 1, 3)
    made.set_layout_engine("none")
    for axis, place in zip(shown, PLACES, strict=True):
        axis.set_position(place)
    parts = ((_persisting, persistence), (_knocked_out, knockout), (_trained, utility))
    titles = (
        "a  Do they persist?",
        "b  Does the student need them?",
        "c  Can training go without?",
    )
    for axis, (draw, table), title in zip(shown, parts, titles, strict=True):
        look = {"loc": "left", "fontweight": "bold", "fontsize": SMALLEST + 2}
        axis.set_title(title, pad={_persisting: 6, _knocked_out: 31, _trained: 18}[draw], **look)
        if table is None or table.empty:
            axis.text(0.5, 0.5, "not run", ha="center", va="center", transform=axis.transAxes)
            axis.set(xticks=[], yticks=[])
        else:
            draw(axis, table)
    if persistence is not None and not persistence.empty:
        _name_groups(shown[0], persistence)
    if knockout is not None and not knockout.empty:
        _name_strongest(shown[1], knockout)
    made.caption = " ".join(
        ["The life of rock tokens.", *_captions(persistence, knockout, utility)]
    )
    made.alt = (
        "Three panels: reverse KL of rocks and other groups along training; change of accuracy "
        "without each candidate, strong ones marked; final accuracy of the training arms."
    )
    return made


def _captions(
    persistence: pd.DataFrame | None, knockout: pd.DataFrame | None, utility: pd.DataFrame | None
) -> list[str]:
    told = []
    if persistence is not None and len(persistence):
        told.append(
            "(a) Mean reverse KL over the occurrences of each group's types in the rollouts of "
            f"training; {seed_lines(persistence.seed.nunique())}."
        )
    if knockout is not None and len(knockout):
        sizes = knockout.groupby("benchmark", sort=False).size()
        told.append(
            f"(b) A dot is one of {sizes.max()} candidates that is banned alone; coloured if its "
            "effect is at least a point and a paired bootstrap over problems rejects 0."
        )
    if utility is not None and len(utility):
        n_seeds, n = utility.seeds.max(), utility.n.max() if "n" in utility else "the"
        over = f"bars are 95% intervals over {many_seeds(n_seeds)} and {n} problems"
        if n_seeds == 1:
            over = f"one training seed, and no intervals, on {n} problems"
        told.append(f"(c) Pass@1 at the end of training; {over}.")
    paper = (
        "In the paper rocks hardly fall while rare high-KL types do, almost all candidates are "
        "neutral, and Rock-Freeze ends where the baseline does."
    )
    return [*told, paper]


def _persisting(axis: Axes, table: pd.DataFrame) -> None:
    for group, rows in table.groupby("group", sort=False):
        colour = ROLES[str(group)]
        for _, one in rows.groupby("seed"):
            axis.plot(one.step, one.rkl, color=colour, alpha=0.3, lw=0.8)
        mean = rows.groupby("step").rkl.mean()
        look = style(str(group)) | {"markevery": (0, len(mean) - 1 or 1)}
        axis.plot(mean.index, mean, lw=2, ms=5, **look)
    axis.set(yscale="log", ylabel="reverse KL of the group (nats)")
    axis.set_xlabel("optimiser step")
    axis.yaxis.set_minor_formatter(NullFormatter())


def _name_groups(axis: Axes, table: pd.DataFrame) -> None:
    """Name each group at its end, with the losses at its first and its last step."""
    means = table.groupby(["group", "step"], sort=False).rkl.mean()
    groups = [str(name) for name in dict.fromkeys(table.group)]
    ends = [means[name].sort_index().iloc[[0, -1]].tolist() for name in groups]
    texts = [f"{name}: {a:.2f} to {b:.2f}" for name, (a, b) in zip(groups, ends, strict=True)]
    name_lines(axis, [last for _, last in ends], texts, [ROLES[name] for name in groups])


def _placed(table: pd.DataFrame) -> pd.DataFrame:
    """The candidates with ``place``, that of their benchmark and a fixed spread."""
    benchmarks = list(dict.fromkeys(table.benchmark))
    place = table.benchmark.map(benchmarks.index).to_numpy(float)
    return table.assign(place=place + 0.7 * (np.arange(len(table)) * 0.618 % 1 - 0.5))


def _knocked_out(axis: Axes, table: pd.DataFrame) -> None:
    counts, placed = table.groupby("class").size(), _placed(table)
    for kind, role in CLASSES.items():
        some = placed[placed["class"] == kind]
        look = style(role) | {"s": 22 if role != "neutral" else 12, "lw": 0, "alpha": 0.8}
        axis.scatter(some.place, some.delta, label=f"{role} ({counts.get(kind, 0)})", **look)
    axis.axhline(0, color="black", lw=0.8)
    sizes = table.groupby("benchmark", sort=False).size()
    axis.set_xticks(range(len(sizes)), [f"{name}\nn = {n}" for name, n in sizes.items()])
    axis.set_xlim(-0.6, len(sizes) - 0.4)
    axis.grid(visible=False, axis="x")
    axis.set_ylabel("accuracy without the token\nminus accuracy with it")
    look = {"frameon": False, "fontsize": SMALLEST, "borderaxespad": 0, "handletextpad": 0}
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=2, columnspacing=0.6, **look)


def _name_strongest(axis: Axes, table: pd.DataFrame) -> None:
    """Name the two candidates of each benchmark with the largest effects."""
    if "spelling" not in table:
        return
    placed = _placed(table)
    size = placed.delta.abs().sort_values(ascending=False)
    named = placed.loc[size.index].groupby("benchmark", sort=False).head(2)
    both = pd.concat([named, placed])  # names cover no other point
    name_points(axis, both.place.tolist(), both.delta.tolist(), named.spelling.tolist())


def _trained(axis: Axes, table: pd.DataFrame) -> None:
    arms, benchmarks = (list(dict.fromkeys(table[name])) for name in ("arm", "benchmark"))
    for number, (benchmark, rows) in enumerate(table.groupby("benchmark", sort=False)):
        offset = 0.22 * (number - (len(benchmarks) - 1) / 2)
        marker = "os^D"[number % 4]
        for row in rows.itertuples():
            look = {"color": ROLES[role_of_arm(str(row.arm))], "ms": 5, "marker": marker}
            look |= {"xerr": None if np.isnan(row.lo) else whiskers(row)}
            axis.errorbar(row.value, arms.index(row.arm) + offset, capsize=3, **look)
        axis.plot([], [], color="black", marker=marker, ls="", ms=5, label=benchmark)
    axis.set_yticks(range(len(arms)), arms)
    axis.set_ylim(len(arms) - 0.4, -0.6)
    told = "one seed" if table.seeds.max() == 1 else f"95%; {table.seeds.max()} seeds"
    axis.set_xlabel(f"Pass@1 at the end ({told})")
    legend_above(axis, 4)
