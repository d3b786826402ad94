"""Figures: a frame in, a `matplotlib` figure out; nothing is measured here.

One seaborn style; a colour and a marker belong to a role (`ROLES`) in every figure.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import figure as mpl

ROLES = {
    "teacher": "#3b4cc0",
    "student": "#e07b39",
    "rock": "#b40426",
    "high-KL": "#7b3294",
    "random": "#7f7f7f",
    "control": "#2a9d5c",
}
MARKERS = dict(zip(ROLES, "osDX^v", strict=True))
PHASES = ("rollout", "teacher", "student", "head", "optimizer")  # as in the timing table


class Figure(mpl.Figure):
    """A figure that notebooks show as a sharp PNG with its alternative text."""

    alt = "figure"

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=144, metadata={"Software": None})
        width, height = (round(inches * 72) for inches in self.get_size_inches())
        data = {"image/png": base64.b64encode(file.getvalue()).decode(), "text/plain": self.alt}
        return data, {"image/png": {"alt": self.alt, "width": width, "height": height}}


def figure(width: float = 6.4, height: float = 3.6, columns: int = 1) -> tuple[Figure, np.ndarray]:
    """Return an empty figure in the study's style and its axes, shape (columns,)."""
    with sns.axes_style("whitegrid"), sns.plotting_context("notebook", font_scale=0.9):
        made = Figure(figsize=(width, height), layout="constrained")
        axes = made.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        sns.despine(ax=axis)
    return made, axes


def role_of(model: str) -> str:
    """Return the role whose colour a model's name takes."""
    return "teacher" if model.startswith("teacher") else "student"


def accuracies(table: pd.DataFrame) -> Figure:
    """Pass@1 of each model on each benchmark.

    Parameters
    ----------
    table : DataFrame
        Columns ``model, benchmark, value, lo, hi, n``.
    """
    benchmarks = list(dict.fromkeys(table.benchmark))
    made, axes = figure(3.2 * len(benchmarks) + 0.8, 3.2, len(benchmarks))
    for axis, benchmark in zip(axes, benchmarks, strict=True):
        rows = table[table.benchmark == benchmark].reset_index(drop=True)
        for i, row in rows.iterrows():
            colour = ROLES[role_of(row.model)]
            axis.bar(i, row.value, color=colour, width=0.6, alpha=0.85)
            axis.errorbar(
                i, row.value, [[row.value - row.lo], [row.hi - row.value]], color="black", capsize=4
            )
        axis.set_xticks(range(len(rows)), rows.model)
        axis.set(title=benchmark, ylim=(0, 1), ylabel="Pass@1" if axis is axes[0] else "")
        axis.set_xlabel(f"95% bootstrap over {rows.n.iloc[0]} problems", fontsize=8)
    made.alt = "Pass@1 of each model on each benchmark, with intervals over problems."
    return made


def training_curves(metrics: pd.DataFrame, accuracy: pd.DataFrame) -> Figure:
    """Reverse KL and accuracy along stage 2.

    Parameters
    ----------
    metrics : DataFrame
        ``seed, step, rkl``: one line per training seed.
    accuracy : DataFrame
        ``benchmark, step, value, lo, hi``: mean over seeds with its interval.
    """
    made, (left, right) = figure(9.0, 3.4, 2)
    for seed, rows in metrics.groupby("seed"):
        left.plot(
            rows.step, rows.rkl, color=ROLES["student"], alpha=0.55, lw=1.2, label=f"seed {seed}"
        )
    mean = metrics.groupby("step").rkl.mean()
    left.plot(mean.index, mean, color="black", lw=2, label="mean over seeds")
    left.set(xlabel="optimiser step", ylabel="reverse KL (nats per token)", ylim=(0, None))
    left.legend(frameon=False)
    styles = zip(accuracy.groupby("benchmark", sort=False), ("-", "--", ":", "-."), strict=False)
    for (benchmark, rows), line in styles:
        right.errorbar(
            rows.step,
            rows.value,
            [rows.value - rows.lo, rows.hi - rows.value],
            color=ROLES["student"],
            marker=MARKERS["student"],
            ls=line,
            capsize=3,
            label=benchmark,
        )
    right.set(xlabel="optimiser step", ylabel="Pass@1 (mean over seeds)", ylim=(0, 1))
    right.legend(frameon=False)
    made.alt = "Left: reverse KL of each seed along stage 2; right: Pass@1 at the checkpoints."
    return made


def time_by_phase(timing: pd.DataFrame) -> Figure:
    """Where a step's time goes: median seconds of each phase over the logging windows.

    Parameters
    ----------
    timing : DataFrame
        ``seconds_<phase>`` for each of `PHASES`.
    """
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
    """Mean reverse KL of named token types along training.

    Parameters
    ----------
    table : DataFrame
        ``name, step, rkl`` (nats; mean over the type's occurrences in the window), seeds pooled.
    names : sequence of str
        The order of the lines.
    """
    made, (axis,) = figure(6.8, 3.6)
    colours = sns.color_palette("colorblind", len(names))
    for name, colour in zip(names, colours, strict=True):
        rows = table[table.name == name]
        shown = name.replace("$", r"\$")  # token text is not mathtext
        axis.plot(rows.step, rows.rkl, color=colour, lw=1.8, label=shown)
    axis.set(xlabel="optimiser step", ylabel="reverse KL of the type (nats)", yscale="log")
    axis.legend(frameon=False, ncols=2, fontsize=8, title="token (occurrences pooled over seeds)")
    made.alt = "Mean reverse KL of the named token types along training."
    return made
