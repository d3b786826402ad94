"""Figures of notebooks 02 and 03."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from rockstudy.claims import paper
from rockstudy.figure_labels import legend_above, name_points
from rockstudy.figure_style import CATEGORIES, ROLES, Figure, cause_colours, figure, style
from rockstudy.rocks.causes import SETS, STAGES

DENSITIES = {"types": "density/plot", "occurrences": "density/text"}  # the paper's, of each kind


def rock_scatter(types: pd.DataFrame, rocks: Sequence[int], named: Sequence[int] = ()) -> Figure:
    """Mean reverse KL of every type against its frequency (figure 2a).

    The line is the mean over types in a bin of log frequency, the band their 10th to 90th
    percentile. Every type counts once. `types` has ``token_id, count, rkl_post_mean, spelling``;
    the `named` ones have their spelling beside them, the first ones first.
    """
    made, (axis,) = figure(7.0, 4.4)
    x, y = types["count"], types.rkl_post_mean.clip(lower=1e-4)
    chosen = types.token_id.isin(list(rocks))
    look = {"s": 9, "color": ROLES["random"], "alpha": 0.45, "lw": 0}
    axis.scatter(x[~chosen], y[~chosen], label=f"other types ({(~chosen).sum()})", **look)
    edges = np.linspace(0, np.log10(x.max()) + 1e-9, 11)
    grouped = y.groupby(np.digitize(np.log10(x), edges))  # bins 1 to 10
    places = [10 ** ((edges[i - 1] + edges[i]) / 2) for i in grouped.groups]
    axis.plot(places, grouped.mean(), color="black", lw=1.6, label="mean of a bin")
    look = {"color": "black", "alpha": 0.10, "lw": 0, "label": "10th to 90th percentile"}
    axis.fill_between(places, grouped.quantile(0.1), grouped.quantile(0.9), **look)
    look = style("rock") | {"label": f"rock tokens ({chosen.sum()})", "zorder": 3}
    axis.scatter(x[chosen], y[chosen], s=26, edgecolors="white", lw=0.5, **look)
    axis.set(xscale="log", yscale="log", xlabel="occurrences of the type")
    axis.set_ylabel("mean reverse KL after OPD (nats)")
    axis.set_ylim(bottom=y.min() * 0.8)
    legend_above(axis, 4)
    by_id = types.set_index("token_id")
    shown = [one for one in named if one in by_id.index]
    points = by_id.loc[shown]
    along = np.geomspace(places[0], places[-1], 200)
    line = np.column_stack([along, np.interp(np.log(along), np.log(places), grouped.mean())])
    name_points(
        axis,
        points["count"].to_numpy(float),
        points.rkl_post_mean.clip(lower=1e-4).to_numpy(float),
        points.spelling.tolist(),
        np.concatenate([np.column_stack([x, y]), line]),  # names cover neither
    )
    made.alt = "Mean reverse KL of each token type against its frequency, rocks marked and named."
    made.caption = (
        f"Each of {len(types)} token types: its mean reverse KL after OPD (nats, drawn at 1e-4 at "
        "least) against how often it occurs. Red: rock tokens, some with their spelling (blanks "
        "visible). Line and band: mean and 10th to 90th percentile over the types of a bin of "
        "frequency, each type counting once; nothing is resampled. The paper's figure 2a has the "
        "same axes and no published points."
    )
    return made


def rock_density(outputs: pd.DataFrame) -> Figure:
    """Share of each output's tokens that are rock tokens, by both definitions (figure 2b).

    A solid line is the median here, a dashed one the paper's number by the same definition.
    """
    made, axes = figure(7.0, 2.9, 2)
    theirs = {name: paper.number(number).value for name, number in DENSITIES.items()}
    titles = {"types": "tokens of a rock type", "occurrences": "rock occurrences"}
    right = max(outputs.types.max(), *theirs.values()) * 1.05
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        median = outputs[name].median()
        axis.hist(outputs[name], bins=np.linspace(0, right, 40), color=ROLES["rock"], alpha=0.6)
        axis.axvline(median, color="black", lw=1.4, label=f"here: median {median:.1%}")
        look = {"color": ROLES["high-KL"], "lw": 1.4, "ls": "--"}
        axis.axvline(theirs[name], label=f"paper: {theirs[name]:.1%}", **look)
        axis.set(xlabel=f"share of an answer's tokens:\n{title}", xlim=(0, right))
        legend_above(axis, 2)
    axes[0].set_ylabel("answers")
    made.alt = "Histograms of the density of rock tokens per answer, with medians and the paper's."
    made.caption = (
        f"Share of the tokens of each of {len(outputs)} answers that are rock tokens. Left: every "
        "token of a rock type counts (the paper's plot). Right: only rock occurrences, which "
        "persist in a context that repeats (the paper's text). Solid: the median here; dashed: "
        "the paper's number. Nothing is resampled."
    )
    return made


def rock_coverage(
    coverage: pd.DataFrame,
    stable: pd.DataFrame,
    halves: pd.DataFrame,
    theirs: pd.DataFrame,
    k: int,
    proposed: int | None,
) -> Figure:
    """Coverage of the loss and stability of the set against the cut-off K (figures 2c and 2d).

    `coverage` has ``k, coverage`` of every observed type; `stable` is `subcorpora.stability`,
    `halves` is `subcorpora.halves` of the study's score, and `theirs` has ``curve, share, value``,
    the paper's points. The axis is K as a share of the observed types, ours or the paper's. `k` is
    the study's cut-off and `proposed` that of `detection.propose_k`.
    """
    made, (left, right) = figure(7.0, 3.5, 2)
    share = 1 / len(coverage)
    left.plot(coverage.k * share, coverage.coverage, lw=2, label="here", color=ROLES["rock"])
    fresh = halves[halves.measure == "fresh"]
    error = [fresh.value - fresh.lo, fresh.hi - fresh.value]
    bars = {"fmt": "D", "ms": 5, "mfc": "white", "capsize": 2, "color": ROLES["rock"]}
    left.errorbar(fresh.k * share, fresh.value, error, label="on fresh prompts", **bars)
    mean = stable[stable.kind == "average"]
    look = {"lw": 2, "color": ROLES["teacher"]}
    right.plot(mean.k * share, mean.jaccard, label="here, nested", **look)
    right.fill_between(mean.k * share, mean.lo, mean.hi, color=ROLES["teacher"], alpha=0.15, lw=0)
    apart = stable[stable.kind == "disjoint"]
    apart = apart[apart.n == apart.n.max()]
    look |= {"ls": "--", "color": ROLES["control"]}
    right.plot(apart.k * share, apart.jaccard, label="here, disjoint halves", **look)
    right.fill_between(apart.k * share, apart.lo, apart.hi, color=look["color"], alpha=0.15, lw=0)
    for axis, curve in ((left, "coverage"), (right, "jaccard_mean")):
        rows = theirs[theirs.curve == curve]
        look = {"ls": "none", "marker": "x", "ms": 5, "color": "black", "label": "paper"}
        axis.plot(rows.share, rows.value, **look)
        axis.set(xscale="log", ylim=(0, 1.02), xlabel="K / observed types")
        axis.xaxis.set_minor_formatter(NullFormatter())  # its labels overlap
        _cutoff(axis, k * share, f"K = {k}")
        if proposed is not None and proposed != k:
            _cutoff(axis, proposed * share, f"proposed K = {proposed}", ls=":")
        legend_above(axis, 2)
    left.set_ylabel("share of the loss")
    right.set_ylabel("Jaccard index")
    made.alt = "Coverage of the loss and stability of the first K types against K; the paper's."
    n, sizes = int(fresh.n.iloc[0]), int(stable.n[stable.kind == "nested"].nunique())
    offer = (
        "no K is stable enough to be proposed"
        if proposed is None
        else (
            f"the dotted line is the proposed K = {proposed}"
            if proposed != k
            else "which is also the proposed one"
        )
    )
    made.caption = (
        f"Left: share of the loss after OPD on the first K of {len(coverage)} types; diamonds: on "
        f"prompts that did not choose them, 95% bootstrap over {n} prompts. Right: Jaccard index "
        f"of a sub-corpus's first K with those of all prompts (nested, mean of {sizes} sizes) and "
        "of two sub-corpora without a common prompt (disjoint); bands: 95% of the draws. Crosses: "
        f"the paper's figures 2c and 2d, at its own K / observed types. Line: K = {k}; {offer}."
    )
    return made


def _cutoff(axis: Axes, place: float, name: str, **look: str) -> None:
    """A named vertical line."""
    axis.axvline(place, color="black", lw=1, **look)
    at = {"rotation": 90, "va": "bottom", "ha": "right", "fontsize": 8}
    axis.text(place, 0.02, name, transform=axis.get_xaxis_transform(), **at)


def rock_stability(stable: pd.DataFrame, theirs: pd.DataFrame, k: int, n_types: int) -> Figure:
    """Jaccard index against K for each size of sub-corpus, nested and disjoint (figure 2d)."""
    made, axes = figure(7.0, 3.6, 2)
    for axis, kind in zip(axes, ("nested", "disjoint"), strict=True):
        some = stable[stable.kind == kind]
        sizes = sorted(some.n.unique())
        colours = dict(zip(sizes, sns.color_palette("viridis", len(sizes)), strict=True))
        for n, rows in some.groupby("n"):
            look = {"color": colours[n], "lw": 1.3, "label": f"{n} prompts"}
            axis.plot(rows.k / n_types, rows.jaccard, **look)
            axis.fill_between(
                rows.k / n_types, rows.lo, rows.hi, color=colours[n], alpha=0.12, lw=0
            )
            points = theirs[theirs.curve == f"jaccard_n{n}"]
            if kind == "nested" and len(points):
                look = {"ls": "none", "marker": "x", "ms": 4, "color": colours[n]}
                axis.plot(points.share, points.value, **look)
        axis.axvline(k / n_types, color="black", lw=1)
        axis.set(xscale="log", ylim=(0, 1.02), xlabel=f"K / observed types ({kind})")
        axis.xaxis.set_minor_formatter(NullFormatter())
        legend_above(axis, 2)
    axes[0].set_ylabel("Jaccard index")
    made.alt = "Jaccard index of the first K types by size of sub-corpus, nested and disjoint."
    made.caption = (
        "Jaccard index of the first K types. Left: of a sub-corpus of so many prompts with all "
        "prompts, which contain it, as in the paper, whose points are crosses of the same colour. "
        "Right: of two sub-corpora that share no prompt. Bands: 95% of the draws of sub-corpora. "
        f"Line: K = {k}."
    )
    return made


def rock_sensitivity(sweep: pd.DataFrame) -> Figure:
    """How far the top K moves when one setting changes: Jaccard index with the default's.

    `sweep` has ``setting, value, default, jaccard, n_types``.
    """
    settings = list(dict.fromkeys(sweep.setting))
    made, (axis,) = figure(7.0, 0.36 * len(settings) + 1.0)
    for place, name in enumerate(settings):
        rows = sweep[sweep.setting == name].sort_values(["jaccard", "default"])
        axis.plot([rows.jaccard.min(), 1], [place, place], color=ROLES["random"], lw=1, zorder=1)
        own = rows[rows.default]
        axis.plot(own.jaccard, [place] * len(own), "o", ms=6, color=ROLES["random"], zorder=2)
        others = rows[~rows.default]
        axis.plot(others.jaccard, [place] * len(others), "D", ms=5, color=ROLES["rock"], zorder=3)
        least = rows.iloc[0]
        if least.jaccard < 1:
            look = {"va": "center", "ha": "right", "fontsize": 8, "parse_math": False}
            axis.text(least.jaccard - 0.02, place, str(least.value), **look)
    axis.set_yticks(range(len(settings)), settings)
    axis.set(xlim=(-0.12, 1.04), ylim=(len(settings) - 0.5, -0.5))
    axis.set_xlabel("Jaccard index with the rocks of the defaults")
    axis.grid(visible=False, axis="y")
    made.alt = "Jaccard index of the rocks with those of the defaults when one setting changes."
    made.caption = (
        "Each point is the rock set with one setting changed (diamonds) or with none (circle): its "
        "Jaccard index with the rocks of the defaults. The value that moves the set most is beside "
        f"its point; {len(sweep)} settings in all, computed on one corpus, nothing resampled. The "
        "paper does not state these settings."
    )
    return made


def category_shares(shares: pd.DataFrame) -> Figure:
    """Share of each category (column) in each set of types (row), stacked."""
    made, (axis,) = figure(7.0, 0.34 * len(shares) + 1.3)
    left = np.zeros(len(shares))
    for name in shares:
        look = {"color": CATEGORIES[name], "label": name, "height": 0.75}
        axis.barh(shares.index, shares[name], left=left, **look)
        left += shares[name].to_numpy()
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    axis.set(xlim=(0, 1), xlabel="share of the types of a set")
    legend_above(axis, 4)
    made.alt = "Shares of token categories in the rocks and in comparison sets."
    made.caption = (
        "Shares of the categories of token in the rocks, in their controls matched by frequency "
        "and in as many types by other selectors; every type counts once, nothing is resampled. "
        "The paper names latex, structure, marker and digit as its clusters and gives no shares."
    )
    return made


def set_overlap(overlap: pd.DataFrame) -> Figure:
    """Jaccard index of every pair of token sets, as a heat map."""
    made, (axis,) = figure(6.6, 5.0)
    sns.heatmap(
        overlap, ax=axis, vmin=0, vmax=1, cmap="rocket_r", annot=True, fmt=".2f",
        annot_kws={"size": 8}, cbar_kws={"label": "Jaccard index"},
    )  # fmt: skip
    axis.set_xticks(axis.get_xticks(), overlap.columns, rotation=40, ha="right")
    made.alt = "Jaccard index between the rocks and the sets of comparison selectors."
    made.caption = (
        "Jaccard index (shared types over types of either) of every two sets of the same size: the "
        "rocks, those by the other score, the first types by other selectors, and the rocks' "
        "controls. Computed on one corpus; the paper has no such comparison of sets."
    )
    return made


def rank_frequency(types: pd.DataFrame, rocks: Sequence[int]) -> Figure:
    """Occurrences of every type against its rank by them, on log axes; rocks are marked."""
    made, (axis,) = figure(6.4, 3.2)
    ranked = types.sort_values(["count", "token_id"], ascending=[False, True])
    ranks, chosen = np.arange(1, len(ranked) + 1), ranked.token_id.isin(list(rocks)).to_numpy()
    look = {"color": ROLES["random"], "lw": 1.6, "label": f"all types ({len(ranked)})"}
    axis.plot(ranks, ranked["count"], **look)
    look = style("rock") | {"s": 22, "zorder": 3, "label": f"rock tokens ({chosen.sum()})"}
    axis.scatter(ranks[chosen], ranked["count"][chosen], **look)
    axis.set(xscale="log", yscale="log", ylabel="occurrences", xlabel="rank by occurrences")
    legend_above(axis, 2)
    made.alt = "Occurrences of each token type against its rank, on logarithmic axes."
    made.caption = (
        f"Occurrences of each of {len(ranked)} token types in the completions, by rank of "
        "frequency; rocks marked. Every type is a point and nothing is resampled. The paper "
        f"observes {paper.number('observed-types').value:,.0f} types."
    )
    return made


def loss_by_cause(table: pd.DataFrame) -> Figure:
    """Mean loss and share of the loss of each cause before OPD (pale) and after it.

    `table` has ``cause, measure, stage, value, lo, hi, n``.
    """
    causes = list(dict.fromkeys(table.cause))
    made, axes = figure(7.0, 0.42 * len(causes) + 1.0, 2)
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
        axis.set(xlabel=title, xlim=(0, None))
        axis.set_yticks(places, causes if axis is axes[0] else [""] * len(causes))
        axis.invert_yaxis()
    made.alt = "Mean loss and share of the loss of each cause before and after OPD."
    made.caption = (
        f"For each cause, before OPD (upper, pale) and after it (lower, full): the mean reverse KL "
        "of its positions, and its share of the whole loss. Whiskers: 95% bootstrap over "
        f"{table.n.iloc[0]} prompts. Only a task that knows why a token is hard can show this; the "
        "paper has no such numbers."
    )
    return made


def shares_of_causes(table: pd.DataFrame) -> Figure:
    """Which cause the remaining loss has: all positions, rocks and matched controls, stacked.

    `table` has ``name, measure, cause, value, n``.
    """
    rows = table[(table.measure == "loss") & table.name.isin(SETS)]
    wide = rows.pivot(index="name", columns="cause", values="value").loc[list(SETS)]
    made, (axis,) = figure(7.0, 2.5)
    left = np.zeros(len(wide))
    for cause, colour in cause_colours(dict.fromkeys(rows.cause)).items():
        axis.barh(wide.index, wide[cause], left=left, color=colour, label=cause)
        left += wide[cause].to_numpy()
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    axis.set(xlim=(0, 1), xlabel="share of the loss after OPD")
    legend_above(axis, 3)
    made.alt = "Shares of the causes in the remaining loss of all positions, rocks and controls."
    made.caption = (
        "Shares of the causes in the loss that remains after OPD: at all positions, at those of "
        f"rock types, and at their controls matched by frequency ({rows.n.iloc[0]} prompts; the "
        "reading below has the intervals). Not in the paper."
    )
    return made


def estimator_bias(table: pd.DataFrame) -> Figure:
    """Relative bias of estimators of the loss, and the rocks that they make, against k.

    `table` is `estimates.estimators`: ``stage, scope, estimator, k, measure, value, lo, hi, n``.
    """
    made, (left, right) = figure(7.0, 3.9, 2)
    whole = table[(table.scope == "all positions") & (table.measure == "relative")]
    sets = table[table.scope == "rock sets"]
    panels = [(left, whole[whole.stage == stage], stage == "post") for stage in ("pre", "post")]
    panels += [(right, sets[sets.measure == m], m == "score") for m in ("score_ctx", "score")]
    for axis, rows, full in panels:
        _by_cutoff(axis, rows, full)
    left.axhline(0, color="black", lw=1)
    left.set_yscale("symlog", linthresh=0.1)
    left.set_ylabel("relative bias of the mean loss")
    right.set(ylim=(0, 1.04), ylabel="Jaccard index with the rocks")
    for axis in (left, right):
        axis.set_xlabel("k: the teacher's most likely tokens")
    handles, labels = left.get_legend_handles_labels()
    look = {"frameon": False, "fontsize": 8, "ncols": len(labels)}
    made.legend(handles, labels, loc="outside upper center", **look)
    made.alt = "Bias of estimators of the loss and Jaccard index of their rocks against k."
    made.caption = (
        "Left: bias of each estimator of the mean loss over all positions, over the mean loss "
        "(symmetric log axis); filled: after OPD, open: before. Right: Jaccard index of the rocks "
        "that an estimator gives with those of the full divergence; filled: by R, open: by R_ctx. "
        f"Whiskers: 95% bootstrap over {_prompts(table)}. The paper uses the full divergence."
    )
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
    made, axes = figure(7.0, 3.3, 2)
    scopes = {"all positions": ROLES["student"], "rocks": ROLES["rock"]}
    measures = {"overlap": "shared tokens / k", "mass_student": "student's probability on them"}
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
        axis.set(ylim=(0, 1.02), ylabel=title, xlabel="k: most likely tokens of each model")
    handles, labels = axes[0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside upper center", frameon=False, fontsize=8, ncols=2)
    made.alt = "Share of likely tokens that student and teacher have in common, and its mass."
    made.caption = (
        "How far student and teacher agree on what is likely: shared tokens among the k most "
        "likely ones of each, and the student's probability on the shared ones. Bands: 95% "
        f"bootstrap over {table.n.iloc[0]} prompts. Not in the paper."
    )
    return made


def loss_along(table: pd.DataFrame) -> Figure:
    """Mean loss along completions, as it is and within types.

    `table` is `estimates.position`: ``by, loss, measure, way, start, value, lo, hi, n``.
    """
    ways = list(dict.fromkeys(table.by))
    made, axes = figure(7.0, 3.2, len(ways))
    for axis, by in zip(axes, ways, strict=True):
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
        axis.set(xlabel=f"{by}, from", ylim=(0, None))
    axes[0].set_ylabel("mean loss (nats)")
    handles, labels = axes[0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside upper center", frameon=False, fontsize=8, ncols=2)
    made.alt = "Mean loss along completions before and after OPD, as it is and within types."
    made.caption = (
        "Mean loss of the positions of a bin, by the number of tokens before them and by their "
        "share of the completion. Solid: as it is. Dashed: within types, so that a bin does not "
        "get the loss of the types that gather in it. Bands: 95% bootstrap over "
        f"{table.n.iloc[0]} prompts. Not in the paper."
    )
    return made


def explained_by_position(table: pd.DataFrame) -> Figure:
    """Shares of the rocks' loss that positions explain, and indices of the standardised sets."""
    ways = list(dict.fromkeys(table.by))
    made, (axis,) = figure(6.4, 2.5)
    table = table[table.loss == table.loss.iloc[-1]]
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
    axis.set_xlabel("share, or Jaccard index")
    legend_above(axis, 2)
    made.alt = "Share of the rocks' loss that positions explain, and indices of the sets."
    made.caption = (
        "Upper rows: share of what rocks lose above the average after OPD that the mean loss of "
        "their positions accounts for, as it is and within types. Lower rows: Jaccard index of the "
        "first K types with the loss standardised by position and the rocks. Whiskers: 95% "
        f"bootstrap over {table.n.iloc[0]} prompts. Not in the paper."
    )
    return made
