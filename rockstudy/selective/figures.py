"""Figures of notebook 07."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from rockstudy.figure_labels import many_seeds, seed_lines
from rockstudy.figure_style import ROLES, SMALLEST, Figure, panels, style, whiskers
from rockstudy.training import figures as training_figures

REGIMES = {  # how the arms of figure 5 and the control matched on loss are drawn
    "baseline": "student",
    "rock-freeze": "rock",
    "random-windows": "random",
    "random-windows-loss": "control",
}


def arm_curves(
    table: pd.DataFrame,
    changes: pd.DataFrame,
    theirs: pd.DataFrame,
    their_changes: pd.DataFrame,
) -> Figure:
    """Accuracy of each of `REGIMES` along training and its difference to the baseline (figure 5).

    A column for each benchmark of `table` (`steps.means`) and the paper's figure: above the curves,
    below the differences to the baseline of the same seed and problem, with intervals. `changes` is
    that of `steps.differences_along`, `theirs` and `their_changes` are `figure5.curves` and
    `figure5.differences_along`.
    """
    benchmarks = list(dict.fromkeys(table.benchmark))
    made, axes = panels(7.0, 4.6, 2, len(benchmarks) + 1)
    ours, paper = axes[:, :-1], axes[:, -1]
    for (top, below), benchmark in zip(ours.T, benchmarks, strict=True):
        _curves(top, table[table.benchmark == benchmark])
        _differences(below, changes[changes.benchmark == benchmark])
        top.set_title(benchmark, fontsize=SMALLEST + 1)
        below.set_xlabel("optimiser step")
    _points(paper[0], theirs, shift=0)
    _points(paper[1], their_changes, shift=1)
    paper[0].set_title("the paper", fontsize=SMALLEST + 1)
    paper[1].set_xlabel("their step")
    ends = changes[["lo", "value", "hi"]]
    for below in ours[1]:
        below.set_ylim(ends.min(axis=None) - 0.01, ends.max(axis=None) + 0.01)
    for below in axes[1]:
        below.axhline(0, color="black", lw=0.8)
    axes[0, 0].set_ylabel("Pass@1")
    axes[1, 0].set_ylabel("Pass@1 minus that\nof the baseline")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    made.legend(
        handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=SMALLEST
    )
    n_seeds, n = int(table.seeds.max()), int(theirs.n.max())
    sizes = table.drop_duplicates("benchmark").set_index("benchmark").n
    counts = ", ".join(f"{name} {size}" for name, size in sizes.items())
    over = f"Bands and bars are 95% intervals over both ({many_seeds(n_seeds)}; problems: {counts})"
    if n_seeds == 1:
        over = (
            f"One training of each arm tells nothing about others: no intervals ({counts} problems)"
        )
    made.caption = (
        "Above: accuracy of each arm along training. Below: its difference to the baseline, paired "
        f"by training seed and problem. {over}. At the right the points of the paper's figure 5: "
        f"one run of {n} problems, with Wilson's interval above and Newcombe's below, since it is "
        "not known which problems are right. The paper's Rock-Freeze follows the baseline and its "
        "random windows fall behind."
    )
    made.alt = (
        "Accuracy along training of the baseline and of the frozen arms, and their differences to "
        "the baseline, here and in the paper."
    )
    return made


def _arms(table: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """Name, role and rows of each arm of `REGIMES` that is there, by step."""
    named = ((arm, role, table[table["arm"] == arm]) for arm, role in REGIMES.items())
    return [(arm, role, rows.sort_values("step")) for arm, role, rows in named if len(rows)]


def _curves(axis: Axes, table: pd.DataFrame) -> None:
    for arm, role, rows in _arms(table):
        axis.fill_between(rows.step, rows.lo, rows.hi, color=ROLES[role], alpha=0.15, lw=0)
        axis.plot(rows.step, rows.value, label=arm, ms=4, lw=1.4, **style(role))


def _differences(axis: Axes, table: pd.DataFrame) -> None:
    """Differences with intervals, the arms beside each other at each step."""
    arms = _arms(table)
    width = 0.03 * table.step.max()
    for number, (_, role, rows) in enumerate(arms):
        at = rows.step + width * (number - (len(arms) - 1) / 2)
        error = None if rows.lo.isna().any() else [rows.value - rows.lo, rows.hi - rows.value]
        axis.errorbar(at, rows.value, error, lw=1, ms=4, capsize=2, **style(role))


def _points(axis: Axes, table: pd.DataFrame, shift: int) -> None:
    """The paper's points, hollow, with intervals, the regimes beside each other."""
    width = 0.02 * table.step.max()
    for number, (arm, rows) in enumerate(table.groupby("arm", sort=False)):
        error = [rows.value - rows.lo, rows.hi - rows.value]
        at = rows.step + width * (number - 1 + shift / 2)
        look = style(REGIMES[str(arm)]) | {"mfc": "white", "ms": 4, "lw": 0.8}
        axis.errorbar(at, rows.value, error, **look)


def arm_differences(table: pd.DataFrame) -> Figure:
    """Final accuracy of each arm minus the baseline of its seed, with intervals.

    `table` is that of `rockstudy.selective.steps.differences`, which gives no interval for a single
    seed (hollow). Arms beyond `REGIMES` look like neutral ones.
    """
    benchmarks = list(dict.fromkeys(table.benchmark))
    arms = list(dict.fromkeys(table["arm"]))
    made, [axes] = panels(7.0, 0.27 * len(arms) + 1.1, 1, len(benchmarks), sharey=True)
    for axis, benchmark in zip(axes, benchmarks, strict=True):
        rows = table[table.benchmark == benchmark].set_index("arm").reindex(arms)
        for place, (arm, row) in enumerate(rows.iterrows()):
            known = {"ms": 5} | ({} if arm in REGIMES else {"marker": "o"})
            look = style(REGIMES.get(str(arm), "neutral")) | known
            look |= {} if row.seeds > 1 else {"mfc": "white"}
            error = whiskers(row) if row.seeds > 1 else None
            axis.errorbar(row.value, place, xerr=error, ls="none", capsize=3, **look)
        labels = [f"{arm} ({n:.0f})" for arm, n in zip(arms, rows.seeds, strict=True)]
        axis.set_yticks(range(len(arms)), labels)
        axis.axvline(0, color="black", lw=0.8)
        axis.set_xlabel("Pass@1 minus baseline")
        axis.set_title(benchmark, fontsize=SMALLEST + 1)
        axis.set_ylim(len(arms) - 0.5, -0.5)
    made.caption = (
        "Accuracy at the end of training minus that of the baseline, paired by training seed and "
        "problem. Bars are 95% intervals over both; the number of training seeds is in brackets, "
        "and a hollow mark is one seed, without an interval over seeds. The paper's final "
        "differences are in the figure before."
    )
    made.alt = "Final accuracy of every arm minus the baseline, with intervals."
    return made


def followed_along(table: pd.DataFrame, name: str) -> Figure:
    """Mean reverse KL of one token type along training in the arms: `followed.along`.

    `name` is the token as sentences show it.
    """
    made, [[axis]] = panels(6.6, 3.0, 1, 1)
    for arm, role, rows in _arms(table):
        for _, one in rows.groupby("seed"):
            axis.plot(one.step, one.rkl, color=ROLES[role], alpha=0.25, lw=0.8)
        mean = rows.groupby("step").rkl.mean()
        axis.plot(mean.index, mean, label=arm, lw=1.8, ms=4, **style(role))
    axis.set(xlabel="optimiser step", ylabel=f"reverse KL at {name} (nats)")
    axis.yaxis.label.set_parse_math(False)
    made.legend(loc="outside right center", frameon=False, fontsize=SMALLEST)
    made.caption = (
        f"Mean reverse KL at the occurrences of {name} in the rollouts of training, in each arm "
        f"whose loss is known everywhere; {seed_lines(table.seed.nunique())}. "
        "Nothing is resampled. The paper shows no single token along "
        "training."
    )
    made.alt = f"Reverse KL of {name} along training in the baseline and in the frozen arms."
    return made


def arm_phases(table: pd.DataFrame, steps: Mapping[str, int]) -> Figure:
    """Seconds of each phase of a step (``seconds_<phase>``) in each arm (row).

    `steps` is the number of steps that were timed of each arm.
    """
    made, [[axis]] = panels(7.0, 0.3 * len(table) + 1.3, 1, 1)
    left = np.zeros(len(table))
    shades = sns.color_palette("flare", len(training_figures.PHASES))
    for phase, shade in zip(training_figures.PHASES, shades, strict=True):
        seconds = table[f"seconds_{phase}"].to_numpy()
        axis.barh(range(len(table)), seconds, left=left, color=shade, label=phase, height=0.7)
        left += seconds
    axis.set_yticks(range(len(table)), [f"{arm} (n = {steps[arm]})" for arm in table.index])
    axis.set(xlabel="seconds per step (median)", ylim=(len(table) - 0.5, -0.5))
    axis.grid(visible=False, axis="y")
    made.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=SMALLEST)
    made.caption = (
        "Median seconds of each phase of a training step, on an idle machine with the arms taking "
        "turns; n counts steps. Nothing is resampled. The paper gives a speed-up of whole "
        "trainings and no phases."
    )
    made.alt = "Median seconds of each phase of a training step, for each arm."
    return made
