"""Figures of notebook 07."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns

from rockstudy.figure_style import ROLES, Figure, figure, style, whiskers
from rockstudy.training import figures as training_figures

REGIMES = {  # how the arms of figure 5 and the control matched on loss are drawn
    "baseline": "student",
    "rock-freeze": "rock",
    "random-windows": "random",
    "random-windows-loss": "control",
}


def arm_curves(table: pd.DataFrame, theirs: pd.DataFrame) -> Figure:
    """Accuracy of each of `REGIMES` along training, a panel a benchmark, and the paper's figure 5.

    `table` is that of `rockstudy.selective.steps.means`, `theirs` that of
    `rockstudy.selective.figure5.curves`.
    """
    benchmarks = list(dict.fromkeys(table.benchmark))
    made, (*axes, paper) = figure(4.0 * (len(benchmarks) + 1) + 0.6, 3.6, len(benchmarks) + 1)
    for axis, benchmark in zip(axes, benchmarks, strict=True):
        for arm, role in REGIMES.items():
            rows = table[(table["arm"] == arm) & (table.benchmark == benchmark)].sort_values("step")
            if rows.empty:  # not trained
                continue
            axis.fill_between(rows.step, rows.lo, rows.hi, color=ROLES[role], alpha=0.15, lw=0)
            axis.plot(rows.step, rows.value, label=arm, **style(role))
        axis.set(title=benchmark, xlabel="optimiser step")
    axes[0].set_ylabel("Pass@1 (mean over seeds)")
    axes[0].legend(frameon=False, fontsize=8)
    for arm, rows in theirs.groupby("arm", sort=False):
        error = [rows.value - rows.lo, rows.hi - rows.value]
        paper.errorbar(rows.step, rows.value, error, lw=0.8, **style(REGIMES[str(arm)]))
    paper.set(title="the paper's figure 5", xlabel="optimiser step (theirs)", ylim=(0.2, 0.75))
    seeds, n = int(table.seeds.max()), int(theirs.n.max())
    bands = f"bands: 95% over problems and {seeds} training seeds; the paper's points: one run of"
    made.supxlabel(f"{bands} {n} problems, with Wilson's 95% interval", fontsize=8)
    made.alt = "Accuracy along training of the baseline and of the frozen regimes; the paper's."
    return made


def arm_differences(table: pd.DataFrame) -> Figure:
    """Final accuracy of each arm minus the baseline of its seed, with intervals.

    `table` is that of `rockstudy.selective.steps.differences`, which gives no interval for a single
    seed. Arms beyond `REGIMES` look like controls.
    """
    benchmarks = list(dict.fromkeys(table.benchmark))
    arms = list(dict.fromkeys(table["arm"]))
    made, axes = figure(3.6 * len(benchmarks) + 1.6, 0.34 * len(arms) + 1.4, len(benchmarks))
    for axis, benchmark in zip(axes, benchmarks, strict=True):
        rows = table[table.benchmark == benchmark].set_index("arm").reindex(arms)
        for place, (arm, row) in enumerate(rows.iterrows()):
            role = REGIMES.get(str(arm), "control")
            error = whiskers(row) if row.seeds > 1 else None
            axis.errorbar(row.value, place, xerr=error, ls="none", capsize=3, **style(role))
        labels = [f"{arm} ({int(n)})" for arm, n in zip(arms, rows.seeds, strict=True)]
        axis.set_yticks(range(len(arms)), labels if axis is axes[0] else [""] * len(arms))
        axis.axvline(0, color="black", lw=0.8)
        axis.set(title=benchmark, xlabel="Pass@1 minus baseline", ylim=(len(arms) - 0.5, -0.5))
    made.supxlabel("95% over problems and training seeds (in brackets)", fontsize=8)
    made.alt = "Final accuracy of every arm minus the baseline, with intervals."
    return made


def arm_phases(table: pd.DataFrame) -> Figure:
    """Seconds of each phase of a step (``seconds_<phase>``) in each arm (row)."""
    made, (axis,) = figure(7.2, 0.32 * len(table) + 1.4)
    left = np.zeros(len(table))
    shades = sns.color_palette("flare", len(training_figures.PHASES))
    for phase, shade in zip(training_figures.PHASES, shades, strict=True):
        seconds = table[f"seconds_{phase}"].to_numpy()
        axis.barh(range(len(table)), seconds, left=left, color=shade, label=phase, height=0.7)
        left += seconds
    axis.set_yticks(range(len(table)), list(table.index))
    axis.set(xlabel="seconds per step (median over logging windows)", ylim=(len(table) - 0.5, -0.5))
    axis.legend(frameon=False, fontsize=8, ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    made.alt = "Median seconds of each phase of a training step, for each arm."
    return made
