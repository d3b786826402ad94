"""Figures of notebooks 00 and 01."""

from collections.abc import Sequence

import pandas as pd
import seaborn as sns

from rockstudy.figure_style import ROLES, Figure, figure, role_of, style, whiskers

PHASES = ("rollout", "teacher", "student", "head", "optimizer")  # as in the timing table


def accuracies(table: pd.DataFrame) -> Figure:
    """Pass@1 of each model on each benchmark: ``model, benchmark, value, lo, hi, n``."""
    benchmarks = list(dict.fromkeys(table.benchmark))
    made, axes = figure(3.2 * len(benchmarks) + 0.8, 3.2, len(benchmarks))
    for axis, benchmark in zip(axes, benchmarks, strict=True):
        rows = table[table.benchmark == benchmark].reset_index(drop=True)
        for i, row in rows.iterrows():
            colour = ROLES[role_of(row.model)]
            axis.bar(i, row.value, color=colour, width=0.6, alpha=0.85)
            axis.errorbar(i, row.value, whiskers(row), color="black", capsize=4)
        axis.set_xticks(range(len(rows)), rows.model)
        axis.set(title=benchmark, ylim=(0, 1), ylabel="Pass@1" if axis is axes[0] else "")
        axis.set_xlabel(f"95% bootstrap over {rows.n.iloc[0]} problems", fontsize=8)
    made.alt = "Pass@1 of each model on each benchmark, with intervals over problems."
    return made


def training_curves(metrics: pd.DataFrame, accuracy: pd.DataFrame) -> Figure:
    """Reverse KL and accuracy along stage 2.

    `metrics` has ``seed, step, rkl``, a line per training seed; `accuracy` has the mean over seeds
    with its interval, ``benchmark, step, value, lo, hi``.
    """
    made, (left, right) = figure(9.0, 3.4, 2)
    seeds = metrics.seed.nunique()
    for number, (_, rows) in enumerate(metrics.groupby("seed")):
        label = f"each of {seeds} training seeds" if number == 0 else None
        left.plot(rows.step, rows.rkl, color=ROLES["student"], alpha=0.55, lw=1.2, label=label)
    mean = metrics.groupby("step").rkl.mean()
    left.plot(mean.index, mean, color="black", lw=2, label="their mean")
    left.set(xlabel="optimiser step", ylabel="reverse KL (nats per token)", ylim=(0, None))
    left.legend(frameon=False)
    styles = zip(accuracy.groupby("benchmark", sort=False), ("-", "--", ":", "-."), strict=False)
    for (benchmark, rows), line in styles:
        error = [rows.value - rows.lo, rows.hi - rows.value]
        look = style("student") | {"ls": line, "capsize": 3, "label": benchmark}
        right.errorbar(rows.step, rows.value, error, **look)
    right.set(xlabel="optimiser step", ylabel="Pass@1 (mean over seeds)", ylim=(0, 1))
    right.legend(frameon=False)
    made.alt = "Left: reverse KL of each seed along stage 2; right: Pass@1 at the checkpoints."
    return made


def time_by_phase(timing: pd.DataFrame) -> Figure:
    """Median seconds of each phase of a step (``seconds_<phase>``) over the logging windows."""
    made, (axis,) = figure(6.4, 2.6)
    medians = timing[[f"seconds_{p}" for p in PHASES]].median()
    share = medians / medians.sum()
    axis.barh(list(PHASES)[::-1], medians.to_numpy()[::-1], color=ROLES["student"], alpha=0.85)
    for i, (seconds, part) in enumerate(zip(medians[::-1], share[::-1], strict=True)):
        axis.text(seconds, i, f" {part:.0%}", va="center", fontsize=9)
    axis.set(xlabel=f"seconds per step (median of {len(timing)} logging windows)")
    axis.margins(x=0.12)
    made.alt = "Median seconds of each phase of a training step."
    return made


def type_losses(table: pd.DataFrame, names: Sequence[str]) -> Figure:
    """Mean reverse KL of named token types along training, a line each in the order of `names`.

    `table` has ``name, step, rkl`` (mean over the type's occurrences in the window, seeds pooled).
    """
    made, (axis,) = figure(6.8, 3.6)
    colours = sns.color_palette("colorblind", len(names))
    for name, colour in zip(names, colours, strict=True):
        rows = table[table.name == name]
        shown = name.replace("$", r"\$")  # token text is not mathtext
        axis.plot(rows.step, rows.rkl, color=colour, lw=1.8, label=shown)
    axis.set(xlabel="optimiser step", ylabel="reverse KL of the type (nats)", yscale="log")
    outside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}  # lines may cross the whole panel
    axis.legend(frameon=False, fontsize=8, title="token\n(seeds pooled)", **outside)
    made.alt = "Mean reverse KL of the named token types along training."
    return made
