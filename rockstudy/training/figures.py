"""Figures of notebooks 00 and 01."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns

from rockstudy.figure_labels import legend_above, many_seeds, name_lines
from rockstudy.figure_style import ROLES, Figure, figure, role_of, style

PHASES = {  # of a step, as in the timing table
    "rollout": "the student writes",
    "teacher": "the teacher reads",
    "student": "the student reads",
    "head": "the divergence",
    "optimizer": "the optimiser",
}


def accuracies(table: pd.DataFrame) -> Figure:
    """Pass@1 of each model on each benchmark: ``model, benchmark, value, lo, hi, n``."""
    benchmarks = list(dict.fromkeys(table.benchmark))
    made, (axis,) = figure(6.4, 0.34 * len(table) + 0.9)
    labels = []
    for place, row in enumerate(table.sort_values("benchmark", key=_order).itertuples()):
        look = style(role_of(str(row.model))) | {"ms": 7, "capsize": 3, "lw": 1.4}
        axis.errorbar(row.value, place, xerr=[[row.value - row.lo], [row.hi - row.value]], **look)
        axis.text(row.hi + 0.015, place, f"{row.value:.0%}", va="center", fontsize=9)
        labels.append(f"{row.model} on {row.benchmark}")
    axis.set_yticks(range(len(labels)), labels)
    axis.set(xlim=(0, 1.05), ylim=(len(labels) - 0.5, -0.5), xlabel="Pass@1")
    axis.grid(visible=False, axis="y")
    made.alt = "Pass@1 of each model on each benchmark, with intervals over problems."
    made.caption = (
        f"Pass@1 (share of right answers at the first try) of each model on "
        f"{' and '.join(benchmarks)}. Whiskers: 95% bootstrap over {table.n.iloc[0]} problems of "
        "each benchmark. The paper's pair is a different one, so none of its numbers is drawn."
    )
    return made


def _order(names: pd.Series) -> pd.Series:
    """The place of each name by its first appearance, for sorting that keeps the order."""
    return names.map({name: i for i, name in enumerate(dict.fromkeys(names))})


def families(table: pd.DataFrame) -> Figure:
    """Pass@1 of teacher and student by family of problem: ``model, family, value, lo, hi, n``.

    The family with the widest gap comes first.
    """
    wide = table.pivot(index="family", columns="model", values="value")
    order = (wide.teacher - wide.student).sort_values(ascending=False, kind="stable").index
    made, (axis,) = figure(6.4, 0.3 * len(order) + 1.1)
    for shift, model in ((-0.12, "teacher"), (0.12, "student")):
        rows = table[table.model == model].set_index("family").loc[order]
        error = np.maximum([rows.value - rows.lo, rows.hi - rows.value], 0)
        look = style(model) | {"ms": 5, "lw": 1.2, "ls": "none", "label": model}
        axis.errorbar(rows.value, np.arange(len(order)) + shift, xerr=error, **look)
    axis.set_yticks(range(len(order)), list(order))
    axis.set(xlim=(-0.02, 1.02), ylim=(len(order) - 0.5, -0.5), xlabel="Pass@1")
    legend_above(axis, 2)
    sizes = table[table.model == "teacher"].n
    made.alt = "Pass@1 of teacher and student for each family of problems."
    made.caption = (
        "Pass@1 of teacher and student by family of problem, the widest gap first. Whiskers: 95% "
        f"bootstrap over the {sizes.min()} to {sizes.max()} problems of a family."
    )
    return made


def training_curves(metrics: pd.DataFrame, accuracy: pd.DataFrame, theirs: pd.DataFrame) -> Figure:
    """Reverse KL and accuracy along stage 2, with the baseline of the paper's figure 5.

    `metrics` has ``seed, step, rkl``, a line per training seed; `accuracy` has the mean over seeds
    with its interval, ``benchmark, step, value, lo, hi, n``; `theirs` has ``share`` (of the
    training), ``value, lo, hi, n``.
    """
    made, (left, right) = figure(7.0, 3.1, 2)
    n_seeds = metrics.seed.nunique()
    each = many_seeds(1) if n_seeds == 1 else f"each of {many_seeds(n_seeds)}"
    for number, (_, rows) in enumerate(metrics.groupby("seed")):
        label = each if number == 0 else None
        left.plot(rows.step, rows.rkl, color=ROLES["student"], alpha=0.55, lw=1.2, label=label)
    mean = metrics.groupby("step").rkl.mean()
    left.plot(mean.index, mean, color="black", lw=2, label="their mean")
    left.set(xlabel="optimiser step", ylabel="reverse KL (nats per token)", ylim=(0, None))
    legend_above(left, 2)
    last = max(accuracy.step.max(), 1)
    styles = zip(accuracy.groupby("benchmark", sort=False), ("-", "--", ":", "-."), strict=False)
    for (benchmark, rows), line in styles:
        error = [rows.value - rows.lo, rows.hi - rows.value]
        look = style("student") | {"ls": line, "capsize": 3, "ms": 5, "label": benchmark}
        right.errorbar(rows.step / last, rows.value, error, **look)
    error = [theirs.value - theirs.lo, theirs.hi - theirs.value]
    look = {"fmt": "x", "color": ROLES["random"], "lw": 0.8, "ms": 5, "label": "paper, figure 5"}
    right.errorbar(theirs.share, theirs.value, error, **look)
    right.set(xlabel="share of stage 2", ylabel="Pass@1", ylim=(0, 1))
    legend_above(right, 2)
    n = accuracy.n.iloc[0]
    made.alt = "Left: reverse KL of each seed along stage 2; right: Pass@1 at the checkpoints."
    made.caption = (
        "Left: reverse KL of the student to the teacher on the student's own completions, at each "
        f"logged step of stage 2. Right: Pass@1 before stage 2 and at its checkpoints, mean over "
        f"{many_seeds(n_seeds)}; whiskers: 95% interval over {n} problems"
        f"{' and the seeds' * (n_seeds > 1)}. Crosses: "
        f"the baseline of the paper's figure 5 on three competitions, one run of "
        f"{theirs.n.iloc[0]} problems, with Wilson's interval: a different pair and benchmark, so "
        "compare the shape and not the level."
    )
    return made


def time_by_phase(timing: pd.DataFrame) -> Figure:
    """Median seconds of each phase of a step (``seconds_<phase>``) over the logging windows."""
    made, (axis,) = figure(6.4, 2.1)
    medians = timing[[f"seconds_{p}" for p in PHASES]].median()
    share = medians / medians.sum()
    axis.barh(range(len(PHASES)), medians, color=ROLES["student"], height=0.7)
    for i, (seconds, part) in enumerate(zip(medians, share, strict=True)):
        axis.text(seconds, i, f" {part:.0%}", va="center", fontsize=9)
    axis.set_yticks(range(len(PHASES)), list(PHASES.values()))
    axis.set(xlabel="seconds per step", ylim=(len(PHASES) - 0.4, -0.6))
    axis.grid(visible=False, axis="y")
    axis.margins(x=0.12)
    made.alt = "Median seconds of each phase of a training step."
    made.caption = (
        f"Median seconds of each phase of a step of stage 2, over {len(timing)} logging windows of "
        "all seeds; per cent: its share of their sum. It depends on the machine."
    )
    return made


def type_losses(table: pd.DataFrame, names: Sequence[str], followed: str = "") -> Figure:
    """Mean reverse KL of named token types along training, a line each in the order of `names`.

    `table` has ``name, step, rkl`` (mean over the type's occurrences in the window, seeds pooled).
    The line of `followed`, one of the names, is drawn as a rock's and the strongest.
    """
    made, (axis,) = figure(6.4, 3.2)
    colours = dict(zip(names, sns.color_palette("colorblind", len(names)), strict=True))
    colours |= {followed: ROLES["rock"]} if followed in colours else {}
    for name in names:
        rows = table[table.name == name]
        wide = 2.6 if name == followed else 1.4
        axis.plot(rows.step, rows.rkl, color=colours[name], lw=wide, zorder=2 + (name == followed))
    axis.set(xlabel="optimiser step", ylabel="reverse KL of the type (nats)", ylim=(0, None))
    axis.set_xlim(right=table.step.max())
    ends = [float(table.rkl[table.name == name].iloc[-1]) for name in names]
    name_lines(axis, ends, list(names), [colours[name] for name in names])
    made.alt = "Mean reverse KL of the named token types along training."
    made.caption = (
        "Mean reverse KL of single token types along stage 2, over their occurrences in the "
        f"student's completions between two logged steps, training seeds pooled; {len(names)} "
        "types, by default those with the largest summed loss. Thick: the token that the "
        "notebooks follow. No interval is drawn: contexts differ from step to step."
    )
    return made
