"""Figures of notebooks 02 and 03."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from rockstudy.figure_style import ROLES, Figure, cause_colours, figure, style
from rockstudy.rocks.causes import SETS, STAGES


def rock_scatter(types: pd.DataFrame, rocks: Sequence[int]) -> Figure:
    """Mean reverse KL of every type against its frequency (figure 2a).

    The line is the mean over types in a bin of log frequency, the band their 10th to 90th
    percentile. Every type counts once. `types` has ``token_id, count, rkl_post_mean``.
    """
    made, (axis,) = figure(6.4, 4.2)
    x, y = np.log10(types["count"]), types.rkl_post_mean.clip(lower=1e-4)
    chosen = types.token_id.isin(list(rocks))
    axis.scatter(x[~chosen], y[~chosen], s=9, color=ROLES["random"], alpha=0.45, lw=0)
    edges = np.linspace(0, x.max() + 1e-9, 11)
    grouped = y.groupby(np.digitize(x, edges))  # bins 1 to 10
    places = [(edges[i - 1] + edges[i]) / 2 for i in grouped.groups]
    axis.plot(places, grouped.mean(), color="black", lw=1.6, label="mean over types in a bin")
    look = {"color": "black", "alpha": 0.10, "lw": 0, "label": "10th to 90th percentile"}
    axis.fill_between(places, grouped.quantile(0.1), grouped.quantile(0.9), **look)
    look = style("rock") | {"label": f"rock tokens ({chosen.sum()})"}
    axis.scatter(x[chosen], y[chosen], s=26, **look)
    axis.set_xlabel("log10 of occurrences")
    axis.set_ylabel("mean reverse KL after OPD (nats, at least 1e-4)")
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


def rock_cutoff(
    coverage: pd.DataFrame, stable: pd.DataFrame, halves: pd.DataFrame, paper: pd.DataFrame
) -> Figure:
    """Coverage and Jaccard index against K, by nested and by disjoint sub-corpora (2c, 2d).

    `coverage` has ``k, coverage`` of every observed type; `stable` is `subcorpora.stability`,
    `halves` is `subcorpora.halves` of the study's score, and `paper` has ``curve, share, value``.
    The axis is K as a share of the observed types, ours or the paper's, whose points are marks.
    """
    made, axes = figure(13.0, 4.2, 3)
    left, nested, disjoint = axes
    share = 1 / len(coverage)
    rock, index = {"color": ROLES["rock"]}, {"color": ROLES["teacher"]}
    left.plot(coverage.k * share, coverage.coverage, lw=2, label="coverage of the loss", **rock)
    fresh = halves[halves.measure == "fresh"]
    bars = {"fmt": "D", "ms": 5, "mfc": "white", "label": "on prompts that did not choose", **rock}
    left.errorbar(fresh.k * share, fresh.value, [fresh.value - fresh.lo, fresh.hi - fresh.value],
                  **bars)  # fmt: skip
    for axis, colour in ((left, index["color"]), (nested, "black")):
        mean = stable[stable.kind == "average"]
        axis.plot(mean.k * share, mean.jaccard, color=colour, lw=2, label="mean Jaccard, nested")
    for axis, kind in ((nested, "nested"), (disjoint, "disjoint")):
        some = stable[stable.kind == kind]
        colours = sns.color_palette("viridis", some.n.nunique())
        for (n, rows), colour in zip(some.groupby("n"), colours, strict=True):
            axis.plot(rows.k * share, rows.jaccard, color=colour, lw=1.3, label=f"n = {n}")
            axis.fill_between(rows.k * share, rows.lo, rows.hi, color=colour, alpha=0.15, lw=0)
    _papers(left, paper, ["coverage"], [ROLES["rock"]])
    _papers(left, paper, ["jaccard_mean"], [index["color"]])
    curves = [name for name in paper.curve.unique() if name.startswith("jaccard_n")]
    _papers(nested, paper, curves, sns.color_palette("viridis", len(curves)))
    _papers(nested, paper, ["jaccard_mean"], ["black"])
    labels = ("share, or index", "Jaccard index with all prompts", "index of two sub-corpora")
    k = halves.k.max()
    for axis, label in zip(axes, labels, strict=True):
        axis.axvline(k * share, color="black", lw=1, ls=":")
        axis.set(xscale="log", ylim=(0, 1.02), ylabel=label)
        axis.set_xlabel(f"K / observed types (here {len(coverage)}; dotted: K = {k})")
        axis.xaxis.set_minor_formatter(NullFormatter())  # its labels overlap
        axis.legend(frameon=False, fontsize=7, ncols=1 if axis is left else 2)
    nested.set_title("nested, as in the paper (band: 95% of draws)", fontsize=9)
    disjoint.set_title("disjoint (band: 95% of draws)", fontsize=9)
    made.alt = "Coverage of the loss and Jaccard index of the top K against K, with the paper's."
    return made


def _papers(axis: Axes, paper: pd.DataFrame, curves: Sequence[str], colours: Sequence) -> None:
    """Draw the points of some of the paper's curves, one entry of the legend for each."""
    for name, colour in zip(curves, colours, strict=True):
        rows = paper[paper.curve == name]
        label = f"paper: {name.replace('jaccard_n', 'n = ').replace('jaccard_', 'Jaccard, ')}"
        axis.plot(rows.share, rows.value, ls="none", marker="x", ms=4, color=colour, label=label)


def rock_sensitivity(sweep: pd.DataFrame) -> Figure:
    """How far the top K moves when one setting changes: Jaccard index with the default's.

    `sweep` has ``setting, value, default, jaccard, n_types``.
    """
    setting, names = pd.factorize(sweep.setting)
    made, (axis,) = figure(6.6, 0.17 * (len(sweep) + len(names)) + 0.8)
    axis.grid(visible=False, axis="y")
    places = np.arange(len(sweep)) + 0.6 * setting  # settings stand apart
    colours = np.where(sweep.default, ROLES["random"], ROLES["rock"])
    axis.barh(places, sweep.jaccard, color=colours, alpha=0.85, height=0.8)
    for place, row in zip(places, sweep.itertuples(), strict=True):
        axis.text(row.jaccard + 0.01, place, f"{row.n_types} types", va="center", fontsize=6)
    axis.set_yticks(places, sweep.setting + " = " + sweep.value, fontsize=7)
    axis.margins(y=0.01)
    axis.invert_yaxis()
    axis.set(xlim=(0, 1.15), xlabel="Jaccard index with the top K of the defaults (grey)")
    made.alt = "Jaccard index of the rocks with those of the defaults when one setting changes."
    return made


def category_shares(shares: pd.DataFrame) -> Figure:
    """Share of each category (column) in each set of types (row), stacked."""
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


def rank_frequency(types: pd.DataFrame, rocks: Sequence[int]) -> Figure:
    """Occurrences of every type against its rank by them, on log axes; rocks are marked."""
    made, (axis,) = figure(6.0, 3.6)
    ranked = types.sort_values(["count", "token_id"], ascending=[False, True])
    ranks, chosen = np.arange(1, len(ranked) + 1), ranked.token_id.isin(list(rocks)).to_numpy()
    axis.plot(ranks, ranked["count"], color=ROLES["student"], lw=1.6)
    look = style("rock") | {"s": 18, "zorder": 3, "label": f"rock tokens ({chosen.sum()})"}
    axis.scatter(ranks[chosen], ranked["count"][chosen], **look)
    axis.set(xscale="log", yscale="log", ylabel="occurrences")
    axis.set_xlabel(f"rank of the token type by occurrences (n = {len(ranked)} types)")
    axis.legend(frameon=False, fontsize=8)
    made.alt = "Occurrences of each token type against its rank, on logarithmic axes."
    return made


def loss_by_cause(table: pd.DataFrame) -> Figure:
    """Mean loss and share of the loss of each cause before OPD (pale) and after it.

    `table` has ``cause, measure, stage, value, lo, hi, n``.
    """
    causes = list(dict.fromkeys(table.cause))
    made, axes = figure(10.0, 0.45 * len(causes) + 1.2, 2)
    colours, places = cause_colours(causes), np.arange(len(causes))
    titles = {"mean": "mean reverse KL (nats)", "loss": "share of the loss"}
    for axis, (measure, title) in zip(axes, titles.items(), strict=True):
        axis.grid(visible=False, axis="y")
        for stage, shift, alpha in (("pre", -0.2, 0.4), ("post", 0.2, 1.0)):
            of_stage = table[(table.measure == measure) & (table.stage == stage)]
            rows = of_stage.set_index("cause").loc[causes]
            bars = {"height": 0.38, "alpha": alpha, "edgecolor": "black", "linewidth": 0.4}
            bars["color"] = [colours[c] for c in causes]
            axis.barh(places + shift, rows.value, **bars)
            error = np.abs([rows.value - rows.lo, rows.hi - rows.value])
            look = {"fmt": "none", "color": "black", "capsize": 2, "lw": 1}
            axis.errorbar(rows.value, places + shift, xerr=error, **look)
        axis.set(xlabel=f"{title}\n95% bootstrap over {table.n.iloc[0]} prompts", xlim=(0, None))
        axis.set_yticks(places, causes if axis is axes[0] else [""] * len(causes))
        axis.invert_yaxis()
    made.suptitle(f"pale: {STAGES['pre']}; full: {STAGES['post']}", fontsize=9)
    made.alt = "Mean loss and share of the loss of each cause before and after OPD."
    return made


def shares_of_causes(table: pd.DataFrame) -> Figure:
    """Which cause the remaining loss has: all positions, rocks and matched controls, stacked.

    `table` has ``name, measure, cause, value, n``.
    """
    rows = table[(table.measure == "loss") & table.name.isin(SETS)]
    wide = rows.pivot(index="name", columns="cause", values="value").loc[list(SETS)]
    made, (axis,) = figure(8.4, 2.4)
    left = np.zeros(len(wide))
    for cause, colour in cause_colours(dict.fromkeys(rows.cause)).items():
        axis.barh(wide.index, wide[cause], left=left, color=colour, label=cause)
        left += wide[cause].to_numpy()
    axis.invert_yaxis()
    axis.set(xlim=(0, 1), xlabel=f"share of the loss after OPD ({rows.n.iloc[0]} prompts)")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    made.alt = "Shares of the causes in the remaining loss of all positions, rocks and controls."
    return made


def estimator_bias(table: pd.DataFrame) -> Figure:
    """Relative bias of estimators of the loss, and the rocks that they make, against k.

    `table` is `estimates.estimators`: ``stage, scope, estimator, k, measure, value, lo, hi, n``.
    """
    made, (left, right) = figure(11.0, 4.2, 2)
    whole = table[(table.scope == "all positions") & (table.measure == "relative")]
    sets = table[table.scope == "rock sets"]
    panels = [(left, whole[whole.stage == stage], stage == "post") for stage in ("pre", "post")]
    panels += [(right, sets[sets.measure == m], m == "score") for m in ("score_ctx", "score")]
    for axis, rows, full in panels:
        _by_cutoff(axis, rows, full)
    left.axhline(0, color="black", lw=1)
    left.set_yscale("symlog", linthresh=0.1)
    left.set_ylabel("bias / mean reverse KL (symmetric log axis)")
    left.set_title("mean over all positions; open: before OPD", fontsize=9)
    right.set(ylim=(0, 1.04), ylabel="Jaccard index with the rocks of the full KL")
    right.set_title("first K types by R; open: by R_ctx", fontsize=9)
    for axis in (left, right):
        axis.set_xlabel(f"k: teacher's most likely tokens\n95% bootstrap over {_prompts(table)}")
    left.legend(frameon=False, fontsize=8)
    made.alt = "Bias of estimators of the loss and Jaccard index of their rocks against k."
    return made


def _prompts(table: pd.DataFrame) -> str:
    return f"{table.n[table.unit == 'prompts'].iloc[0]} prompts"


def _by_cutoff(axis: Axes, rows: pd.DataFrame, full: bool) -> None:
    """Values of each kind of estimator at its cut-offs, the sampled ones at the right."""
    ks = sorted(k for k in rows.k.unique() if k > 0)
    kinds, sampled = rows.estimator.unique(), rows.estimator[rows.k == 0].unique().tolist()
    ticks = [*map(str, ks), *sampled]
    axis.set_xticks(range(len(ticks)), ticks)
    colours = dict(zip(kinds, sns.color_palette("colorblind", len(kinds)), strict=True))
    for i, (kind, some) in enumerate(rows.groupby("estimator", sort=False)):
        places = [ticks.index(kind if k == 0 else str(k)) for k in some.k]
        error = np.maximum([some.value - some.lo, some.hi - some.value], 0)
        look = {"marker": "os^vDX"[i % 6], "ms": 5, "capsize": 2, "lw": 1.2, "color": colours[kind]}
        look |= {"ls": "none" if kind in sampled else "-" if full else ":"}
        look |= {"mfc": colours[kind] if full else "white", "label": kind if full else None}
        shift = 0.05 * (i - 2.5) - 0.02 * (not full)
        axis.errorbar(np.add(places, shift), some.value, error, **look)


def likely_overlap(table: pd.DataFrame) -> Figure:
    """Tokens among the first k of both models, and the probability on them, against k.

    `table` is `estimates.top_overlap`: ``stage, scope, k, measure, value, lo, hi, n``.
    """
    made, axes = figure(9.6, 3.6, 2)
    scopes = {"all positions": ROLES["student"], "rocks": ROLES["rock"]}
    measures = {"overlap": "shared / k", "mass_student": "student's probability on these"}
    for axis, (measure, title) in zip(axes, measures.items(), strict=True):
        for (scope, colour), stage in itertools.product(scopes.items(), STAGES):
            keep = (table.measure == measure) & (table.scope == scope) & (table.stage == stage)
            if not keep.any():
                continue
            rows, after = table[keep], stage == "post"
            look = {"ls": "-" if after else ":", "mfc": colour if after else "white", "ms": 5}
            look |= {"color": colour, "marker": "o", "label": f"{scope}, {STAGES[stage]}"}
            axis.plot(rows.k, rows.value, lw=1.4, **look)
            axis.fill_between(rows.k, rows.lo, rows.hi, color=colour, alpha=0.15, lw=0)
        axis.set_xscale("log", base=2)
        axis.set_xticks(sorted(table.k.unique()), sorted(table.k.unique()))
        axis.set(ylim=(0, 1.02), ylabel=title)
        axis.set_xlabel(f"k: most likely tokens of each model\n95% over {table.n.iloc[0]} prompts")
    axes[0].legend(frameon=False, fontsize=8)
    made.alt = "Share of likely tokens that student and teacher have in common, and its mass."
    return made


def loss_along(table: pd.DataFrame) -> Figure:
    """Mean loss along completions, as it is and within types, and what it explains of the rocks.

    `table` is `estimates.position`: ``by, loss, measure, way, start, value, lo, hi, n``.
    """
    ways = list(dict.fromkeys(table.by))
    made, axes = figure(13.0, 3.9, len(ways) + 1)
    for axis, by in zip(axes, ways, strict=False):
        some = table[(table.by == by) & (table.measure == "mean")]
        for (loss, way), rows in some.groupby(["loss", "way"], sort=False):
            after = str(loss).endswith("post")
            colour = ROLES["student"] if after else ROLES["random"]
            label = f"{STAGES['post' if after else 'pre']}{', within types' * (way == 'within')}"
            look = {"color": colour, "ls": "-" if way == "along" else "--", "label": label}
            axis.plot(rows.start, rows.value, marker=".", lw=1.4, **look)
            axis.fill_between(rows.start, rows.lo, rows.hi, color=colour, alpha=0.15, lw=0)
        if by == ways[0]:
            axis.set_xscale("symlog", base=2, linthresh=1)
            axis.legend(frameon=False, fontsize=8)
        axis.set(xlabel=f"{by}, from", ylim=(0, None), ylabel="mean loss (nats)")
    _explained(axes[-1], table[table.loss == table.loss.iloc[-1]], ways)
    made.alt = "Mean loss along completions, and the share of the rocks' loss that it explains."
    return made


def _explained(axis: Axes, table: pd.DataFrame, ways: Sequence[str]) -> None:
    """Shares that positions explain, and Jaccard indices of the sets, as points with intervals."""
    names = {
        ("explained", "along"): "explained by mean losses",
        ("explained", "within"): "explained within types",
        ("jaccard", "along"): "index of the sets",
        ("jaccard", "within"): "index, within types",
    }
    for i, by in enumerate(ways):
        rows = table[(table.by == by) & table.start.isna()].set_index(["measure", "way"])
        rows = rows.loc[list(names)]
        error = np.maximum([rows.value - rows.lo, rows.hi - rows.value], 0)
        places = np.arange(len(names)) + 0.2 * (i - 0.5)
        look = {"fmt": "os"[i % 2], "color": ROLES["rock"], "mfc": ("white", ROLES["rock"])[i % 2]}
        axis.errorbar(rows.value, places, xerr=error, capsize=2, label=by, **look)
    axis.set_yticks(range(len(names)), list(names.values()))
    axis.invert_yaxis()
    axis.axvline(0, color="black", lw=1)
    axis.set_xlabel(f"share, or index; after OPD\n95% bootstrap over {table.n.iloc[0]} prompts")
    axis.legend(frameon=False, fontsize=8)
