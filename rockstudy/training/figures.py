"""Figures of notebooks 00 and 01."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import seaborn as sns

from rockstudy import figure_style

PHASES = ("rollout", "teacher", "student", "head", "optimizer")  # as in the timing table


def accuracies(table: pd.DataFrame) -> figure_style.Figure:
    """Pass@1 of each model on each benchmark.

    Parameters
    ----------
    table : DataFrame
        Columns ``model, benchmark, value, lo, hi, n``.
    """
    benchmarks = list(dict.fromkeys(table.benchmark))
    made, axes = figure_style.figure(3.2 * len(benchmarks) + 0.8, 3.2, len(benchmarks))
    for axis, benchmark in zip(axes, benchmarks, strict=True):
        rows = table[table.benchmark == benchmark].reset_index(drop=True)
        for i, row in rows.iterrows():
            colour = figure_style.ROLES[figure_style.role_of(row.model)]
            axis.bar(i, row.value, color=colour, width=0.6, alpha=0.85)
            axis.errorbar(
                i, row.value, [[row.value - row.lo], [row.hi - row.value]], color="black", capsize=4
            )
        axis.set_xticks(range(len(rows)), rows.model)
        axis.set(title=benchmark, ylim=(0, 1), ylabel="Pass@1" if axis is axes[0] else "")
        axis.set_xlabel(f"95% bootstrap over {rows.n.iloc[0]} problems", fontsize=8)
    made.alt = "Pass@1 of each model on each benchmark, with intervals over problems."
    return made


def training_curves(metrics: pd.DataFrame, accuracy: pd.DataFrame) -> figure_style.Figure:
    """Reverse KL and accuracy along stage 2.

    Parameters
    ----------
    metrics : DataFrame
        ``seed, step, rkl``: one line per training seed.
    accuracy : DataFrame
        ``benchmark, step, value, lo, hi``: mean over seeds with its interval.
    """
    made, (left, right) = figure_style.figure(9.0, 3.4, 2)
    seeds = metrics.seed.nunique()
    for number, (_, rows) in enumerate(metrics.groupby("seed")):
        label = f"each of {seeds} training seeds" if number == 0 else None
        left.plot(
            rows.step,
            rows.rkl,
            color=figure_style.ROLES["student"],
            alpha=0.55,
            lw=1.2,
            label=label,
        )
    mean = metrics.groupby("step").rkl.mean()
    left.plot(mean.index, mean, color="black", lw=2, label="their mean")
    left.set(xlabel="optimiser step", ylabel="reverse KL (nats per token)", ylim=(0, None))
    left.legend(frameon=False)
    styles = zip(accuracy.groupby("benchmark", sort=False), ("-", "--", ":", "-."), strict=False)
    for (benchmark, rows), line in styles:
        right.errorbar(
            rows.step,
            rows.value,
            [rows.value - rows.lo, rows.hi - rows.value],
            **figure_style.look("student"),
            ls=line,
            capsize=3,
            label=benchmark,
        )
    right.set(xlabel="optimiser step", ylabel="Pass@1 (mean over seeds)", ylim=(0, 1))
    right.legend(frameon=False)
    made.alt = "Left: reverse KL of each seed along stage 2; right: Pass@1 at the checkpoints."
    return made


def time_by_phase(timing: pd.DataFrame) -> figure_style.Figure:
    """Where a step's time goes: median seconds of each phase over the logging windows.

    Parameters
    ----------
    timing : DataFrame
        ``seconds_<phase>`` for each of `PHASES`.
    """
    made, (axis,) = figure_style.figure(6.4, 2.6)
    medians = timing[[f"seconds_{p}" for p in PHASES]].median()
    share = medians / medians.sum()
    axis.barh(
        list(PHASES)[::-1],
        medians.to_numpy()[::-1],
        color=figure_style.ROLES["student"],
        alpha=0.85,
    )
    for i, (seconds, part) in enumerate(zip(medians[::-1], share[::-1], strict=True)):
        axis.text(seconds, i, f" {part:.0%}", va="center", fontsize=9)
    axis.set(xlabel=f"seconds per step (median of {len(timing)} logging windows)")
    axis.margins(x=0.12)
    made.alt = "Median seconds of each phase of a training step."
    return made


def type_losses(table: pd.DataFrame, names: Sequence[str]) -> figure_style.Figure:
    """Mean reverse KL of named token types along training.

    Parameters
    ----------
    table : DataFrame
        ``name, step, rkl`` (nats; mean over the type's occurrences in the window), seeds pooled.
    names : sequence of str
        The order of the lines.
    """
    made, (axis,) = figure_style.figure(6.8, 3.6)
    colours = sns.color_palette("colorblind", len(names))
    for name, colour in zip(names, colours, strict=True):
        rows = table[table.name == name]
        shown = name.replace("$", r"\$")  # token text is not mathtext
        axis.plot(rows.step, rows.rkl, color=colour, lw=1.8, label=shown)
    axis.set(xlabel="optimiser step", ylabel="reverse KL of the type (nats)", yscale="log")
    beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}  # lines may be anywhere within
    axis.legend(frameon=False, fontsize=8, title="token\n(seeds pooled)", **beside)
    made.alt = "Mean reverse KL of the named token types along training."
    return made
