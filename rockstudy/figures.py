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
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

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
    beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}  # lines may be anywhere within
    axis.legend(frameon=False, fontsize=8, title="token\n(seeds pooled)", **beside)
    made.alt = "Mean reverse KL of the named token types along training."
    return made


def rock_scatter(types: pd.DataFrame, rocks: Sequence[int]) -> Figure:
    """Mean reverse KL of every type against its frequency (figure 2a).

    The line is the mean over types in a bin of log frequency, the band their 10th to 90th
    percentile. Types are the unit: every one counts once.

    Parameters
    ----------
    types : DataFrame
        ``token_id, count, rkl_post_mean``.
    rocks : sequence of int
        Ids of the rock tokens.
    """
    made, (axis,) = figure(6.4, 4.2)
    x, y = np.log10(types["count"]), types.rkl_post_mean.clip(lower=1e-4)
    chosen = types.token_id.isin(list(rocks))
    axis.scatter(x[~chosen], y[~chosen], s=9, color=ROLES["random"], alpha=0.45, lw=0)
    edges = np.linspace(0, x.max() + 1e-9, 11)
    grouped = y.groupby(np.digitize(x, edges))  # bins 1 to 10
    places = [(edges[i - 1] + edges[i]) / 2 for i in grouped.groups]
    axis.plot(places, grouped.mean(), color="black", lw=1.6, label="mean over types in a bin")
    band = (grouped.quantile(0.1), grouped.quantile(0.9))
    axis.fill_between(
        places, *band, color="black", alpha=0.10, lw=0, label="10th to 90th percentile"
    )
    axis.scatter(
        x[chosen],
        y[chosen],
        s=26,
        color=ROLES["rock"],
        marker=MARKERS["rock"],
        label=f"rock tokens ({chosen.sum()})",
    )
    axis.set(
        xlabel="log10 of occurrences", ylabel="mean reverse KL after OPD (nats, at least 1e-4)"
    )
    axis.set_yscale("log")
    axis.legend(frameon=False, fontsize=8)
    made.alt = "Mean reverse KL of each token type against the logarithm of its frequency."
    return made


def rock_density(outputs: pd.DataFrame) -> Figure:
    """Share of each output's tokens that are rock tokens, by both definitions (figure 2b)."""
    made, axes = figure(8.4, 3.2, 2)
    titles = {"types": "tokens of a rock type", "occurrences": "rock occurrences"}
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        median = outputs[name].median()
        axis.hist(outputs[name], bins=30, color=ROLES["rock"], alpha=0.75)
        axis.axvline(median, color="black", ls="--", lw=1.2)
        axis.set(title=f"{title}: median {median:.1%}", xlabel="share of an output's tokens")
        axis.set_xlim(0, outputs.types.max() * 1.02)
    axes[0].set_ylabel(f"outputs (n = {len(outputs)})")
    made.alt = "Histograms of the density of rock tokens per output, with medians."
    return made


def rock_cutoff(coverage: pd.DataFrame, stable: pd.DataFrame, k: int) -> Figure:
    """Coverage and average Jaccard index against K (figure 2c), and by sub-corpus (figure 2d).

    Parameters
    ----------
    coverage : DataFrame
        ``k, coverage``.
    stable : DataFrame
        ``n, k, jaccard, lo, hi``: mean and 95% range over sub-corpora of n prompts.
    k : int
        The cut-off in use.
    """
    made, (left, right) = figure(10.0, 3.8, 2)
    mean = stable.groupby("k").jaccard.mean()
    left.plot(
        coverage.k, coverage.coverage, color=ROLES["rock"], lw=2, label="coverage of the loss"
    )
    left.plot(mean.index, mean, color=ROLES["teacher"], marker="o", ms=3, label="mean Jaccard")
    left.set(xscale="log", ylim=(0, 1.02), xlabel="K, types by rank", ylabel="share, or index")
    left.axvline(k, color="black", lw=1, ls=":")
    left.legend(frameon=False, fontsize=8, loc="lower right")
    colours = sns.color_palette("viridis", stable.n.nunique())
    for (n, rows), colour in zip(stable.groupby("n"), colours, strict=True):
        right.plot(rows.k, rows.jaccard, color=colour, lw=1.3, label=f"n = {n}")
        right.fill_between(rows.k, rows.lo, rows.hi, color=colour, alpha=0.15, lw=0)
    right.plot(mean.index, mean, color="black", lw=2, label="average")
    right.axvline(k, color="black", lw=1, ls=":")
    right.set(xscale="log", ylim=(0, 1.02), xlabel="K, types by rank")
    right.xaxis.set_minor_formatter(NullFormatter())  # its labels overlap
    right.set_ylabel("Jaccard index with all prompts")
    right.legend(frameon=False, fontsize=8, ncols=2, title="prompts (band: 95% of draws)")
    made.alt = "Coverage of the loss and Jaccard index of the top K against K."
    return made


def rock_sensitivity(sweep: pd.DataFrame) -> Figure:
    """How far the top K moves when one setting changes: Jaccard index with the default's.

    Parameters
    ----------
    sweep : DataFrame
        ``setting, value, default, jaccard, n_rocks``.
    """
    names = list(dict.fromkeys(sweep.setting))
    made, (axis,) = figure(6.6, 0.17 * (len(sweep) + len(names)) + 0.8)
    place, ticks, labels = 0.0, [], []
    axis.grid(visible=False, axis="y")
    for name in names:
        for row in sweep[sweep.setting == name].itertuples():
            colour = ROLES["random"] if row.default else ROLES["rock"]
            axis.barh(place, row.jaccard, color=colour, alpha=0.85, height=0.8)
            axis.text(row.jaccard + 0.01, place, f"{row.n_types} types", va="center", fontsize=6)
            ticks.append(place)
            labels.append(f"{name} = {row.value}")
            place += 1
        place += 0.6
    axis.set_yticks(ticks, labels, fontsize=7)
    axis.margins(y=0.01)
    axis.invert_yaxis()
    axis.set(xlim=(0, 1.15), xlabel="Jaccard index with the top K of the defaults (grey)")
    made.alt = "Jaccard index of the rock set with that of the defaults, one setting changed."
    return made


def category_shares(shares: pd.DataFrame) -> Figure:
    """Share of each category in each set of types, stacked.

    Parameters
    ----------
    shares : DataFrame
        Sets in rows, categories in columns; rows add up to 1.
    """
    made, (axis,) = figure(8.4, 0.42 * len(shares) + 1.1)
    left = np.zeros(len(shares))
    for name, colour in zip(shares, sns.color_palette("Set2", shares.shape[1]), strict=True):
        axis.barh(shares.index, shares[name], left=left, color=colour, label=name)
        left += shares[name].to_numpy()
    axis.invert_yaxis()
    axis.set(xlim=(0, 1), xlabel="share of the types of a set")
    axis.legend(frameon=False, fontsize=8, ncols=1, loc="center left", bbox_to_anchor=(1, 0.5))
    made.alt = "Shares of token categories in the rocks and in comparison sets."
    return made


def set_overlap(overlap: pd.DataFrame) -> Figure:
    """Jaccard index of every pair of token sets, as a heat map."""
    made, (axis,) = figure(6.6, 5.2)
    sns.heatmap(
        overlap, ax=axis, vmin=0, vmax=1, cmap="rocket_r", annot=True, fmt=".2f",
        annot_kws={"size": 8}, cbar_kws={"label": "Jaccard index"},
    )  # fmt: skip
    axis.set_xticks(axis.get_xticks(), overlap.columns, rotation=40, ha="right")
    made.alt = "Jaccard index between the rocks and the sets of comparison selectors."
    return made


def gradient_groups(rows: pd.DataFrame) -> Figure:
    """Norms of mean gradients and cosines with the balanced sum, by group (figure 3a, b).

    Parameters
    ----------
    rows : DataFrame
        ``group`` and ``norm_<space>, cos_balanced_<space>`` for the spaces logit (upper row) and
        hidden; a row per type.
    """
    with sns.axes_style("whitegrid"), sns.plotting_context("notebook", font_scale=0.85):
        made = Figure(figsize=(9.0, 6.0), layout="constrained")
        axes = made.subplots(2, 2, sharex=True)
    groups = list(dict.fromkeys(rows.group))
    counts = rows.groupby("group", sort=False).size()
    for line, space in zip(axes, ("logit", "hidden"), strict=True):
        for axis, name in zip(line, ("norm", "cos_balanced"), strict=True):
            for i, group in enumerate(groups):
                values = rows.loc[rows.group == group, f"{name}_{space}"].dropna()
                spread = np.linspace(-0.22, 0.22, len(values))
                axis.scatter(i + spread, values, s=10, color=ROLES[group], alpha=0.5, lw=0)
                axis.hlines(values.median(), i - 0.32, i + 0.32, color="black", lw=2)
            sns.despine(ax=axis)
            axis.set_xticks(range(len(groups)), [f"{g}\nn = {counts[g]}" for g in groups])
        line[0].set(yscale="log", ylabel=f"norm of the mean gradient\n({space} space)")
        line[1].set_ylabel("cosine with the balanced sum")
    made.alt = "Norm of the mean gradient and cosine with the balanced sum, types by group."
    return made


def persistence(rows: pd.DataFrame, moved: pd.DataFrame) -> Figure:
    """Mean KL of every type late against early, and the change by group (figure 3c, d).

    Parameters
    ----------
    rows : DataFrame
        ``group, early, late``; a row per type.
    moved : DataFrame
        ``group, n, change, change_lo, change_hi, wilcoxon_p``: medians with intervals over prompts.
    """
    made, (left, right) = figure(9.4, 3.8, 2)
    floor = 1e-4
    for group, some in list(rows.groupby("group", sort=False))[::-1]:
        left.scatter(
            some.early.clip(lower=floor),
            some.late.clip(lower=floor),
            s=20,
            color=ROLES[group],
            marker=MARKERS[group],
            alpha=0.65,
            lw=0,
            label=group,
        )
    ends = (floor, rows[["early", "late"]].max(axis=None))
    left.plot(ends, ends, color="black", lw=1, ls=":")
    left.set(xscale="log", yscale="log", xlabel="mean reverse KL early (nats)")
    left.set_ylabel("mean reverse KL late (nats)")
    left.legend(frameon=False, fontsize=8)
    for i, row in enumerate(moved.itertuples()):
        error = [[row.change - row.change_lo], [row.change_hi - row.change]]
        style = {"color": ROLES[row.group], "marker": MARKERS[row.group]}
        right.errorbar(row.change, i, xerr=error, capsize=4, ms=7, **style)
        right.text(
            row.change_hi, i - 0.18, f"  Wilcoxon p = {row.wilcoxon_p:.1g}", fontsize=7, va="bottom"
        )
    right.axvline(0, color="black", lw=1)
    right.set_yticks(range(len(moved)), [f"{r.group} (n = {r.n})" for r in moved.itertuples()])
    right.set_ylim(len(moved) - 0.5, -0.6)
    right.set_xlabel("median change late - early (nats; 95% over prompts)")
    made.alt = "Mean reverse KL of token types late against early, and median change by group."
    return made


def split_sample(halves: pd.DataFrame) -> Figure:
    """Change of groups measured where they were chosen and on other prompts.

    Parameters
    ----------
    halves : DataFrame
        ``group, half, early, late, change, change_lo, change_hi``.
    """
    made, (axis,) = figure(6.6, 2.6)
    for i, row in enumerate(halves.itertuples()):
        error = [[row.change - row.change_lo], [row.change_hi - row.change]]
        axis.errorbar(
            row.change,
            i,
            xerr=error,
            capsize=4,
            ms=7,
            color=ROLES[row.group],
            marker=MARKERS[row.group],
            mfc="white" if row.half == "other" else None,
        )
    axis.axvline(0, color="black", lw=1)
    labels = [f"{row.group}, {row.half} half" for row in halves.itertuples()]
    axis.set_yticks(range(len(halves)), labels)
    axis.invert_yaxis()
    axis.set_xlabel("median change late - early (nats; mean and 95% of random halves)")
    made.alt = "Median change of mean KL on the prompts that chose a group and on the others."
    return made


def groups_along_training(table: pd.DataFrame) -> Figure:
    """Mean reverse KL of each group along stage 2.

    Parameters
    ----------
    table : DataFrame
        ``group, step, rkl``; occurrences of a logging window and all seeds pooled.
    """
    made, (axis,) = figure(6.4, 3.4)
    for group, rows in table.groupby("group", sort=False):
        style = {"color": ROLES[group], "marker": MARKERS[group]}
        axis.plot(rows.step, rows.rkl, lw=1.8, ms=4, label=group, **style)
    axis.set(xlabel="optimiser step", ylabel="reverse KL of the group (nats)", yscale="log")
    axis.legend(frameon=False, fontsize=8)
    made.alt = "Mean reverse KL of the groups of token types along training."
    return made


def census_bars(found: pd.DataFrame, least: float) -> Figure:
    """Delta of every candidate, sorted, one panel per benchmark (figure 4).

    Parameters
    ----------
    found : DataFrame
        ``benchmark, class, delta``: a row per candidate and benchmark.
    least : float
        Half the width of the shaded band in which no effect counts as strong.
    """
    benchmarks = list(dict.fromkeys(found.benchmark))
    made, axes = figure(4.6 * len(benchmarks) + 0.6, 3.4, len(benchmarks))
    colours = {
        "Strong Pillar": ROLES["rock"],
        "Neutral": ROLES["random"],
        "Strong Stumbling Block": ROLES["teacher"],
    }
    for axis, benchmark in zip(axes, benchmarks, strict=True):
        rows = found[found.benchmark == benchmark].sort_values("delta").reset_index(drop=True)
        axis.axhspan(-least, least, color="black", alpha=0.08, lw=0)
        for kind, some in rows.groupby("class", sort=False):
            axis.bar(
                some.index,
                some.delta,
                width=1.0,
                color=colours[kind],
                label=f"{kind} ({len(some)})",
                lw=0,
            )
        axis.axhline(0, color="black", lw=0.8)
        axis.set(title=benchmark, xlabel=f"candidates, sorted (n = {len(rows)})")
        axis.legend(fontsize=8, loc="lower right")
    axes[0].set_ylabel("Delta: accuracy without it\nminus accuracy with it")
    made.alt = "Change of accuracy when a candidate is knocked out, sorted, for each benchmark."
    return made


def knockout_cost(screen: pd.DataFrame) -> Figure:
    """Tokens generated for a candidate as a share of a naive run, against its frequency.

    Parameters
    ----------
    screen : DataFrame
        ``arm, completions, tokens_generated, tokens_naive``.
    """
    made, (axis,) = figure(6.4, 3.4)
    for arm, role in (("token", "rock"), ("window", "teacher")):
        some = screen[screen["arm"] == arm]
        share = some.tokens_generated / some.tokens_naive
        axis.scatter(
            some.completions.clip(lower=1),
            share.clip(lower=1e-5),
            s=14,
            color=ROLES[role],
            marker=MARKERS[role],
            alpha=0.6,
            lw=0,
            label=f"{arm} level: {share.mean():.1%} on average",
        )
    axis.set(xscale="log", yscale="log", xlabel="completions that change (of one benchmark)")
    axis.set_ylabel("tokens generated / naive")
    axis.legend(frameon=False, fontsize=8)
    made.alt = "Tokens generated for each knockout as a share of a naive run."
    return made


def predictor_panels(
    table: pd.DataFrame, correlations: pd.DataFrame, classes: pd.DataFrame, names: dict[str, str]
) -> Figure:
    """Delta against properties of token types, r and p in each panel (figure 6).

    Parameters
    ----------
    table : DataFrame
        ``target, delta`` and the properties, on one benchmark.
    correlations : DataFrame
        ``predictor, r, p`` on the same benchmark.
    classes : DataFrame
        ``target, class``: pillars are marked.
    names : dict
        Label of each property, in the order of the panels.
    """
    rows = -(-len(names) // 3)
    with sns.axes_style("whitegrid"), sns.plotting_context("notebook", font_scale=0.8):
        made = Figure(figsize=(9.6, 2.7 * rows), layout="constrained")
        axes = made.subplots(rows, 3, squeeze=False).ravel()
    pillars = set(classes.target[classes["class"] == "Strong Pillar"])
    marked = table.target.isin(pillars)
    for axis, (name, label) in zip(axes, names.items(), strict=False):
        axis.scatter(table[name], table.delta, s=10, color=ROLES["random"], alpha=0.6, lw=0)
        axis.scatter(table.loc[marked, name], table.loc[marked, "delta"], s=22, color=ROLES["rock"])
        one = correlations[correlations.predictor == name].iloc[0]
        defined = f"r = {one.r:+.3f}, p = {one.p:.2g}" if one.r == one.r else "r is not defined"
        axis.set(title=defined, xlabel=label)
        axis.axhline(0, color="black", lw=0.7)
        sns.despine(ax=axis)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    for axis in axes[::3]:
        axis.set_ylabel("Delta")
    made.alt = "Change of accuracy against properties of the knocked out token types."
    return made


def arm_curves(table: pd.DataFrame, names: dict[str, str]) -> Figure:
    """Accuracy of each regime along training, a panel for each benchmark (figure 5).

    Parameters
    ----------
    table : DataFrame
        `arm_steps.means`.
    names : dict
        Arms to show, in order, with the role whose colour and marker each has.
    """
    benchmarks = list(dict.fromkeys(table.benchmark))
    made, axes = figure(4.4 * len(benchmarks) + 0.6, 3.6, len(benchmarks))
    for axis, benchmark in zip(axes, benchmarks, strict=True):
        for arm, role in names.items():
            rows = table[(table["arm"] == arm) & (table.benchmark == benchmark)].sort_values("step")
            axis.fill_between(rows.step, rows.lo, rows.hi, color=ROLES[role], alpha=0.15, lw=0)
            axis.plot(rows.step, rows.value, color=ROLES[role], marker=MARKERS[role], label=arm)
        axis.set(title=benchmark, xlabel="optimiser step")
    axes[0].set_ylabel("Pass@1 (mean over seeds)")
    axes[0].legend(frameon=False, fontsize=8)
    seeds = int(table.seeds.max())
    made.supxlabel(f"bands: 95% bootstrap over problems and {seeds} training seeds", fontsize=8)
    made.alt = "Accuracy along training of the baseline and of both frozen regimes."
    return made


def arm_differences(table: pd.DataFrame, names: dict[str, str]) -> Figure:
    """Final accuracy of each arm minus the baseline of its seed, with intervals.

    Parameters
    ----------
    table : DataFrame
        `arm_steps.differences`; without an interval for a single seed.
    names : dict
        Role of some arms; the others have the control's.
    """
    benchmarks = list(dict.fromkeys(table.benchmark))
    arms = list(dict.fromkeys(table["arm"]))
    made, axes = figure(3.6 * len(benchmarks) + 1.6, 0.34 * len(arms) + 1.4, len(benchmarks))
    for axis, benchmark in zip(axes, benchmarks, strict=True):
        rows = table[table.benchmark == benchmark].set_index("arm").reindex(arms)
        for place, (arm, row) in enumerate(rows.iterrows()):
            role = names.get(str(arm), "control")
            error = [[row.value - row.lo], [row.hi - row.value]] if row.seeds > 1 else None
            style = {"color": ROLES[role], "marker": MARKERS[role], "capsize": 3}
            axis.errorbar(row.value, place, xerr=error, ls="none", **style)
        labels = [f"{arm} ({int(n)})" for arm, n in zip(arms, rows.seeds, strict=True)]
        axis.set_yticks(range(len(arms)), labels if axis is axes[0] else [""] * len(arms))
        axis.axvline(0, color="black", lw=0.8)
        axis.set(title=benchmark, xlabel="Pass@1 minus baseline", ylim=(len(arms) - 0.5, -0.5))
    made.supxlabel("95% bootstrap over problems and training seeds (in brackets)", fontsize=8)
    made.alt = "Final accuracy of every arm minus the baseline, with intervals."
    return made


def arm_phases(table: pd.DataFrame) -> Figure:
    """Where the time of a step goes in each arm.

    Parameters
    ----------
    table : DataFrame
        Arms in rows; ``seconds_<phase>`` for each of `PHASES`.
    """
    made, (axis,) = figure(7.2, 0.32 * len(table) + 1.4)
    left = np.zeros(len(table))
    shades = sns.color_palette("flare", len(PHASES))
    for phase, shade in zip(PHASES, shades, strict=True):
        seconds = table[f"seconds_{phase}"].to_numpy()
        axis.barh(range(len(table)), seconds, left=left, color=shade, label=phase, height=0.7)
        left += seconds
    axis.set_yticks(range(len(table)), list(table.index))
    axis.set(xlabel="seconds per step (median over logging windows)", ylim=(len(table) - 0.5, -0.5))
    axis.legend(frameon=False, fontsize=8, ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    made.alt = "Median seconds of each phase of a training step, for each arm."
    return made


def lifecycle(
    persistence: pd.DataFrame | None, knockout: pd.DataFrame | None, utility: pd.DataFrame | None
) -> Figure:
    """The life of rock tokens (figure 1): they persist, few matter, training may leave them out.

    A panel whose notebook was not run (None) says so.

    Parameters
    ----------
    persistence : DataFrame, optional
        ``group, seed, step, rkl``: mean reverse KL of a group of types along stage 2.
    knockout : DataFrame, optional
        ``benchmark, class, delta``: a row per candidate and benchmark.
    utility : DataFrame, optional
        ``arm, benchmark, value, lo, hi, seeds``: final accuracy with its interval, if any.
    """
    made, axes = figure(13.2, 4.0, 3)
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
        colour = ROLES[str(group)]
        for _, one in rows.groupby("seed"):
            axis.plot(one.step, one.rkl, color=colour, alpha=0.3, lw=0.9)
        mean = rows.groupby("step").rkl.mean()
        ends = f"{mean.iloc[0]:.2f} to {mean.iloc[-1]:.2f}"
        style = {
            "color": colour,
            "marker": MARKERS[str(group)],
            "markevery": (0, len(mean) - 1 or 1),
        }
        axis.plot(mean.index, mean, lw=2, ms=6, label=f"{group}: {ends}", **style)
    axis.set(yscale="log", ylabel="reverse KL of the group (nats)")
    axis.set_xlabel(f"optimiser step ({table.seed.nunique()} training seeds, their mean)")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.legend(frameon=False, fontsize=8)


def _knocked_out(axis: Axes, table: pd.DataFrame) -> None:
    styles = {
        "Neutral": {"color": ROLES["random"], "s": 12, "alpha": 0.6},
        "Strong Pillar": {"color": ROLES["rock"], "s": 26, "marker": MARKERS["rock"]},
        "Strong Stumbling Block": {"color": ROLES["teacher"], "s": 34, "marker": "^"},
    }
    benchmarks = list(dict.fromkeys(table.benchmark))
    counts = table.groupby("class").size()
    for kind, style in styles.items():
        some = table[table["class"] == kind]
        place = some.benchmark.map(benchmarks.index).to_numpy(float)
        place += 0.7 * (np.arange(len(some)) * 0.618 % 1 - 0.5)  # spread, the same in every drawing
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
        for row in rows.itertuples():
            style = {"color": ROLES[role_of_arm(row.arm)], "marker": "os^D"[number % 4], "ms": 7}
            error = None if np.isnan(row.lo) else [[row.value - row.lo], [row.hi - row.value]]
            axis.errorbar(row.value, arms.index(row.arm) + offset, xerr=error, capsize=4, **style)
        axis.plot([], [], color="black", marker="os^D"[number % 4], ls="", label=benchmark)
    axis.set_yticks(range(len(arms)), arms)
    axis.set_ylim(len(arms) - 0.4, -0.6)
    axis.set_xlabel(f"Pass@1 at the end (95%; {table.seeds.max()} seeds)")
    axis.legend(frameon=False, fontsize=8)


def role_of_arm(arm: str) -> str:
    """Return the role whose colour a training arm takes."""
    name = arm.lower()
    return "random" if "random" in name else "rock" if "rock" in name else "student"
