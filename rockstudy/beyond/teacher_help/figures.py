"""Figures of notebook 10."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from rockstudy.beyond.teacher_help.budget import WIDTH
from rockstudy.beyond.teacher_help.effects import BOTH, EVERY, GROUPS, SIDES
from rockstudy.figure_labels import name_points
from rockstudy.figure_style import ROLES, SMALLEST, Figure, panels, style, whiskers

TITLES = {
    "L": "L: another token of the\nstudent, minus what stands",
    "H": "H: a draw of the teacher,\nminus one of the student",
    "H_best": "H_best: the teacher's best,\nminus a draw of the student",
    "null": "null: the same token,\nother random numbers",
}
GAIN = "difference of P(correct)"
NO_PAPER = "The paper has no such measurement."


def effects_by_side(table: pd.DataFrame) -> Figure:
    """Each measure of `effects.table` at rocks and controls, by side of the completion.

    The band marks effects within two points.
    """
    made, [axes] = panels(9.6, 3.2, 1, len(TITLES))
    table = table[table.types == EVERY]
    for axis, (measure, title) in zip(axes, TITLES.items(), strict=True):
        axis.axhspan(-WIDTH, WIDTH, color="black", alpha=0.08, lw=0)
        axis.axhline(0, color="black", lw=0.8)
        for number, group in enumerate(GROUPS):
            some = table[(table.measure == measure) & (table.group == group)].set_index("side")
            for place, side in enumerate((BOTH, *SIDES)):
                if side in some.index:
                    one, at = some.loc[side], place + 0.24 * (number - 0.5)
                    label = group if side == BOTH else None
                    look = {"lw": 1.2, "ms": 5, "capsize": 2, "label": label, **style(group)}
                    axis.errorbar([at], [one.value], whiskers(one), ls="none", **look)
        axis.set_xticks(range(3), ["all texts", "right", "wrong"])
        axis.set_xlim(-0.5, 2.5)
        axis.set_title(title, fontsize=SMALLEST)
        axis.grid(visible=False, axis="x")
    axes[0].set_ylabel(GAIN)
    _legend(made, axes[0])
    n, places = (int(table[name].max()) if len(table) else 0 for name in ("n", "places"))
    made.caption = (
        "Change of the share of right continuations when one token is set in another way, at rocks "
        "and at their controls: in all texts, weighted as they occur, and apart in right and in "
        f"wrong ones. Bars are 95% intervals over {_over(table)} (up to {n} problems "
        f"and {places:,} places). The band is ±{WIDTH:g}. {NO_PAPER}"
    )
    made.alt = "L, H and the null at rocks and controls, in all, right and wrong completions."
    return made


def gain_by_kl(table: pd.DataFrame) -> Figure:
    """H, and H for each changed token, by the reverse KL at the place (`effects.by_kl`)."""
    made, axes = panels(7.0, 3.0, 1, 2)
    titles = {"H": "teacher's gain H", "H per change": "H for each changed token"}
    for axis, (what, title) in zip(axes[0], titles.items(), strict=True):
        axis.axhline(0, color="black", lw=0.8)
        some = table[(table.what == what) & table.value.notna()]
        if what == "H":
            axis.axhspan(-WIDTH, WIDTH, color="black", alpha=0.08, lw=0)
        else:
            some = some[some.hi > some.lo]  # where no draw differs there is nothing to divide
        for one in some.itertuples():
            look = {"lw": 1.2, "ms": 5, "capsize": 2, **style("teacher")}
            axis.errorbar([one.part], [one.value], whiskers(one), ls="none", **look)
        every = table[table.what == what]
        labels = [f"{_short(one.kl)}\n{one.tv:.0%} differ" for one in every.itertuples()]
        axis.set_xticks(every.part.tolist(), labels)
        axis.set_title(title, fontsize=SMALLEST + 1)
        axis.set_xlabel("mean KL (nats); draws that differ")
        axis.grid(visible=False, axis="x")
    axes[0, 0].set_ylabel(GAIN)
    made.caption = (
        "The teacher's gain at places of rocks and controls, in equally many positions from the "
        "lowest reverse KL to the highest; at the right over the share of draws in which teacher "
        f"and student differ. Bars are 95% intervals over {_over(table)}. {NO_PAPER}"
    )
    made.alt = "The teacher's gain by the reverse KL at the place, as it is and per changed token."
    return made


def _short(kl: float) -> str:
    return f"{kl:.2g}" if kl >= 0.001 else "< 0.001"


def local_and_global(types: pd.DataFrame) -> Figure:
    """L of each type against the Delta of its ban everywhere, in texts that hold it.

    `types` is that of `effects.by_type` with ``spelling``.
    """
    made, [[axis]] = panels(6.4, 4.0, 1, 1)
    known = types.dropna(subset=["L", "delta_held"])
    for group in GROUPS:
        some = known[known.group == group]
        error = 1.96 * some.L_se.fillna(0)
        look = {"ls": "none", "lw": 0.8, "ms": 4, "alpha": 0.8, "label": group, **style(group)}
        axis.errorbar(some.delta_held, some["L"], error, **look)
    axis.axhline(0, color="black", lw=0.7)
    axis.axvline(0, color="black", lw=0.7)
    if len(known):
        ends = [min(known.delta_held.min(), known["L"].min()), 0]
        axis.plot(ends, ends, color=ROLES["neutral"], lw=0.8, ls="--")
    axis.set_xlabel("Delta of the ban everywhere, over the share of texts that hold it")
    axis.set_ylabel("L: ban at one place")
    named = known.reindex(known["L"].abs().sort_values(ascending=False).index)
    name_points(axis, named.delta_held.tolist(), named["L"].tolist(), named.spelling.tolist()[:8])
    _legend(made, axis)
    made.caption = (
        f"Each of {len(known)} types: what the ban of one occurrence changes (L, bars are 95% "
        "intervals) against what the ban of all changes in the texts that hold it (Delta of "
        f"notebook 05). Dashed: one ban is as costly as all. {NO_PAPER}"
    )
    made.alt = "Local ban effect against the effect of a ban everywhere, for rocks and controls."
    return made


def budget(curve: pd.DataFrame, needed: pd.DataFrame) -> Figure:
    """Half width against continuations (`budget.curve`), for L and H at rocks."""
    made, axes = panels(7.0, 3.0, 1, 2, sharey=True)
    for axis, measure in zip(axes[0], ("L", "H"), strict=True):
        some = curve[(curve.measure == measure) & (curve.half_width > 0)]
        shades = np.linspace(0.35, 1.0, max(some.draws.nunique(), 1))
        for shade, (draws, rows) in zip(shades, some.groupby("draws"), strict=False):
            look = {"color": ROLES["rock"], "alpha": float(shade), "lw": 1.4}
            axis.plot(rows.continuations, rows.half_width, label=f"{draws} a place", **look)
        axis.axhline(WIDTH, color="black", lw=0.8, ls="--")
        _mark(axis, needed[(needed.measure == measure) & (needed.group == "rock")])
        if len(some):
            axis.set(xscale="log", yscale="log")
        axis.set_title(f"{measure} at rocks", fontsize=SMALLEST + 1)
        axis.set_xlabel("continuations, both choices")
    axes[0, 0].set_ylabel("half of the 95% interval")
    _legend(made, axes[0, 0])
    made.caption = (
        "The half width of the interval over problems, from the parts of the variance between "
        "problems, places and continuations, against the number of continuations: more places at "
        f"1, 4 or 16 continuations each. Dashed: {WIDTH:g}, where an effect of 0 excludes two "
        f"points; circles: the numbers that reach it with this run's draws. {NO_PAPER}"
    )
    made.alt = "Half width of the interval against the number of continuations, for L and H."
    return made


def _over(table: pd.DataFrame) -> str:
    """What the intervals of a table of estimates resample."""
    return "problems and training seeds" if table.unit.str.contains(" x ").any() else "problems"


def _mark(axis: Axes, needed: pd.DataFrame) -> None:
    reached = needed[np.isfinite(needed.continuations)]
    look = {"s": 36, "facecolors": "none", "edgecolors": "black", "zorder": 4}
    axis.scatter(reached.continuations, [WIDTH] * len(reached), **look)


def _legend(made: Figure, axis: Axes) -> None:
    handles, labels = axis.get_legend_handles_labels()
    look = {"loc": "outside lower center", "ncols": 3, "frameon": False, "fontsize": SMALLEST}
    made.legend(handles, labels, **look)
