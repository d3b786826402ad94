"""Figures of notebook 04."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from rockstudy.claims import paper
from rockstudy.display import p_equals
from rockstudy.figure_labels import many_seeds, name_points, ring
from rockstudy.figure_style import ROLES, SMALLEST, Figure, panels, style, whiskers

SPACES = ("logit", "hidden")
FLOOR = 1e-4  # nats, where a logarithmic axis of losses ends
COSINES = {"cos_balanced": "with the sum of all types", "cos_others": "with that of the others"}


def pull(pulls: pd.DataFrame, name: str) -> Figure:
    """Components of the gradient at occurrences of one token, and their means.

    `pulls` is that of `rockstudy.gradients.followed`, `name` the token as sentences show it.
    """
    made, [[axis]] = panels(6.6, 3.1, 1, 1)
    axis.axvline(0, color="black", lw=0.8)
    for place, (_, some) in enumerate(pulls.groupby("token_id", sort=False)):
        up = some.gradient <= 0
        for side, role in ((up, "teacher"), (~up, "student")):
            spread = place + _spread(len(some))[side.to_numpy()]
            axis.scatter(some.gradient[side], spread, s=9, color=ROLES[role], alpha=0.45, lw=0)
        mean = some.gradient.mean()
        axis.vlines(mean, place - 0.36, place + 0.36, color="black", lw=2, zorder=3)
    names = pulls.drop_duplicates("token_id").spelling
    axis.set_yticks(range(len(names)), names, family="monospace", parse_math=False)
    axis.invert_yaxis()
    axis.set_xlabel("component of the gradient\n← logit is pushed up      logit is pushed down →")
    n = pulls.occurrence.nunique()
    made.caption = (
        f"The gradient of the reverse KL at {n} occurrences of {name}, in logit space: a dot is "
        f"one occurrence's component for the token at the left ({len(names)} tokens with the "
        "largest components), a black bar the mean over the occurrences. Nothing is resampled. The "
        "paper shows no single gradient."
    )
    made.alt = f"Gradient components at occurrences of {name} for the tokens that move most."
    return made


def gradient_norms(
    rows: pd.DataFrame, fewer: pd.DataFrame, compared: pd.DataFrame, followed: int
) -> Figure:
    """Norms and unbiased norms of mean gradients by group, in both spaces (figure 3a).

    `rows` has a row per type: ``group, token_id, spelling`` and, in both spaces, ``norm_<space>,
    square_<space>``. `fewer` is `comparisons.norms_at_counts`, `compared` is that of
    `steps.in_both_spaces`, `followed` the id of the type that is named.
    """
    made, axes = panels(7.0, 5.2, 2, 2, sharey=True)
    for line, space in zip(axes, SPACES, strict=True):
        squares = rows[f"square_{space}"]
        shown = rows.assign(**{f"square_{space}": np.sign(squares) * np.sqrt(squares.abs())})
        line[0].set_xscale("log")
        _signed_axis(line[1], shown[f"square_{space}"])
        for axis, name in zip(line, ("norm", "square"), strict=True):
            _groups(axis, shown, f"{name}_{space}", compared, name)
        line[0].set_xlabel(f"norm of the mean gradient\n({space} space)")
        line[1].set_xlabel(f"unbiased norm, with the sign of its square\n({space} space)")
    place = list(dict.fromkeys(rows.group)).index("rock")
    at = fewer.set_index("counts").rock["high-KL"]
    axes[0, 0].vlines(at, place - 0.4, place + 0.4, color="black", lw=1.4, ls=":", zorder=3)
    theirs = {name: one.value for name, one in paper.labelled("norm").items()}
    _papers(axes[0, 0], rows, theirs)
    for axis, column in ((axes[0, 0], "norm_logit"), (axes[1, 0], "norm_hidden")):
        _name(axis, rows, column, followed, most=1)
    made.caption = _by_group(
        rows,
        "Norm of the mean gradient of each token type, by group; above in the space of the logits, "
        "below in that of the head's input. The dotted bar is the rocks' median at the high-KL "
        f"types' counts. Diamonds are the paper's medians ({_list(theirs)}); it gives a p-value "
        f"below {paper.number('norm-p').value:.0e} for rocks against high-KL types, by the norms "
        "at the left.",
    )
    made.alt = "Norms and unbiased norms of the mean gradients of token types, by group and space."
    return made


def gradient_cosines(rows: pd.DataFrame, compared: pd.DataFrame, followed: int) -> Figure:
    """Cosines of mean gradients with the sum over types, by group, in both spaces (figure 3b).

    `rows` has ``group, token_id, spelling`` and, in both spaces, the columns of `COSINES`; see
    `gradient_norms`.
    """
    made, axes = panels(7.0, 5.2, 2, 2, sharey=True, sharex=True)
    for line, space in zip(axes, SPACES, strict=True):
        for axis, (name, label) in zip(line, COSINES.items(), strict=True):
            axis.axvline(0, color="black", lw=0.8)
            _groups(axis, rows, f"{name}_{space}", compared, name)
            axis.set_xlabel(f"cosine {label}\n({space} space)")
    theirs = {name: one.value for name, one in paper.labelled("cos-balanced").items()}
    _papers(axes[0, 0], rows, theirs)
    for axis, column in ((axes[0, 0], "cos_balanced_logit"), (axes[0, 1], "cos_others_logit")):
        _name(axis, rows, column, followed, most=2)
    made.caption = _by_group(
        rows,
        "Cosine of each token type's mean gradient with the sum over types, at the left as in the "
        "paper, where the sum holds the type itself, at the right without it. Diamonds are the "
        f"paper's medians ({_list(theirs)}).",
    )
    made.alt = "Cosines of the mean gradients of token types with their sum, by group and space."
    return made


def _by_group(rows: pd.DataFrame, told: str) -> str:
    counts = ", ".join(f"{n} {group}" for group, n in _sizes(rows).items())
    return (
        f"{told} A dot is a token type ({counts}), a black bar the group's median; p is that of "
        "rocks against the group (Mann-Whitney, two-sided, token types). Nothing is resampled."
    )


def _sizes(rows: pd.DataFrame) -> dict[str, int]:
    return {str(name): len(some) for name, some in rows.groupby("group", sort=False)}


def _list(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in numbers.items())


def _spread(n: int) -> np.ndarray:
    """Distances of dots from the middle of their row, so that few hide each other; no chance."""
    return 0.5 * (np.arange(n) * 0.618034 % 1 - 0.5)


def _groups(
    axis: Axes, rows: pd.DataFrame, column: str, compared: pd.DataFrame, statistic: str
) -> None:
    """The values of each group's types in a row of dots, their median, and p against the rocks."""
    tested = compared[compared.statistic == statistic].set_index("group")
    of_space = "mann_whitney_p" if column.endswith("_logit") else "mann_whitney_p_hidden"
    for i, (group, some) in enumerate(rows.groupby("group", sort=False)):
        known = some[column].dropna()
        look = {"s": 10, "color": ROLES[str(group)], "alpha": 0.55, "lw": 0}
        axis.scatter(known, i + _spread(len(known)), **look)
        axis.vlines(known.median(), i - 0.36, i + 0.36, color="black", lw=1.8, zorder=3)
        if group in tested.index and pd.notna(tested.loc[group, of_space]):
            told = p_equals(tested.loc[group, of_space]).replace(" ", "\n", 1)
            where = {"xycoords": ("axes fraction", "data"), "ha": "left", "va": "center"}
            axis.annotate(told, (1.02, i), fontsize=SMALLEST, **where)
    sizes = _sizes(rows)
    axis.set_yticks(range(len(sizes)), [f"{group}\nn = {n}" for group, n in sizes.items()])
    axis.set_ylim(len(sizes) - 0.4, -0.6)
    axis.grid(visible=False, axis="y")


def _papers(axis: Axes, rows: pd.DataFrame, theirs: Mapping[str, float]) -> None:
    """The paper's medians of the groups as hollow diamonds."""
    for i, group in enumerate(_sizes(rows)):
        if group in theirs:
            look = {"marker": "D", "ms": 6, "mfc": "white", "mec": "black", "zorder": 4}
            axis.plot(theirs[group], i, **look)


def _name(axis: Axes, rows: pd.DataFrame, column: str, followed: int, most: int) -> None:
    """Name the followed type and those of each group with the largest values."""
    places, chosen = [], []
    for i, (_, some) in enumerate(rows.groupby("group", sort=False)):
        known = some[some[column].notna()].reset_index(drop=True)
        known = known.assign(place=i + _spread(len(known)))
        places.append(known)
        chosen.append(known[known.token_id == followed])
        chosen.append(known[known.token_id != followed].nlargest(most, column))
    every, named = pd.concat(places), pd.concat(chosen)
    own = every[every.token_id == followed]
    ring(axis, own[column], own.place)
    both = pd.concat([named, every])  # names cover no other point
    name_points(axis, both[column].tolist(), both.place.tolist(), named.spelling.tolist())


def _signed_axis(axis: Axes, values: pd.Series) -> None:
    """A logarithmic axis with both signs, linear up to the first quartile of sizes."""
    sizes = values.abs()[values.abs() > 0]
    linear = float(sizes.quantile(0.25)) if len(sizes) else 1.0
    largest = float(sizes.max()) if len(sizes) else 10.0
    axis.set_xscale("symlog", linthresh=linear)
    first, last = np.ceil(np.log10(linear)) + 1, np.floor(np.log10(largest))
    powers = 10.0 ** np.arange(first, max(first, last) + 1)
    axis.set_xticks([*-powers[::-1], 0, *powers])


def persistence(rows: pd.DataFrame, theirs: pd.DataFrame, followed: int) -> Figure:
    """Mean KL of every type late against early, here and in the paper (figure 3c).

    `rows` has ``group, early, late, token_id, spelling`` of each type, `theirs` the first three;
    the paper's are hollow. `followed` is the id of a type that is named, beside those that
    move most.
    """
    made, [axes] = panels(7.0, 4.1, 1, 2, sharex=True, sharey=True)
    every = pd.concat([rows, theirs])
    ends = (FLOOR, every[["early", "late"]].max(axis=None) * 1.3)
    for axis, types, title in zip(axes, (rows, theirs), ("this run", "the paper"), strict=True):
        for group, some in list(types.groupby("group", sort=False))[::-1]:
            early, late = (some[name].clip(lower=FLOOR) for name in ("early", "late"))
            look = style(str(group))
            face = "none" if types is theirs else look["color"]
            axis.scatter(
                early, late, s=18, alpha=0.65, lw=0.8, marker=look["marker"], facecolors=face,
                edgecolors=look["color"], label=group if types is rows else None,
            )  # fmt: skip
        axis.plot(ends, ends, color="black", lw=1, ls=":")
        axis.set(xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal", title=title)
        axis.set_xlabel("mean reverse KL early (nats)")
    axes[0].set_ylabel("mean reverse KL late (nats)")
    look = {"loc": "outside lower center", "ncols": 4, "frameon": False, "fontsize": SMALLEST}
    made.legend(*(part[::-1] for part in axes[0].get_legend_handles_labels()), **look)
    _name_moved(axes[0], rows, followed)
    sizes = [", ".join(f"{n} {g}" for g, n in _sizes(some).items()) for some in (rows, theirs)]
    made.caption = (
        "Mean reverse KL of each token type at the late checkpoint against the early one, on the "
        "same trajectories; on the dotted line nothing changes. A point is a token type: here "
        f"{sizes[0]}; the paper's own points, hollow, {sizes[1]}. Nothing is resampled. Values "
        f"below {FLOOR:g} are drawn there."
    )
    made.alt = "Mean reverse KL of token types late against early, here and in the paper."
    return made


def _name_moved(axis: Axes, rows: pd.DataFrame, followed: int) -> None:
    """Name the followed type, and of rocks and high-KL types the one that moves most."""
    known = rows.assign(x=rows.early.clip(lower=FLOOR), y=rows.late.clip(lower=FLOOR))
    known = known.dropna(subset=["x", "y"]).assign(moved=lambda t: np.log(t.y / t.x).abs())
    chosen = [known[known.token_id == followed]]
    for group in ("rock", "high-KL"):
        some = known[(known.group == group) & (known.token_id != followed)]
        chosen.append(some.nlargest(1, "moved"))
    named = pd.concat(chosen)
    ring(axis, chosen[0].x, chosen[0].y)
    both = pd.concat([named, known])  # names cover no other point
    name_points(axis, both.x.tolist(), both.y.tolist(), named.spelling.tolist())


def change_distributions(rows: pd.DataFrame, theirs: pd.DataFrame, changed: pd.DataFrame) -> Figure:
    """The distribution of late minus early mean KL over types, here and in the paper (figure 3d).

    `rows` and `theirs` have ``group, early, late`` of each type, `changed` is that of
    `steps.changes`.
    """
    made, [axes] = panels(7.0, 3.0, 1, 2, sharex=True, sharey=True)
    order = list(dict.fromkeys(rows.group))
    both = ((rows, "here", "this run"), (theirs, "paper", "the paper"))
    for axis, (types, source, title) in zip(axes, both, strict=True):
        tested = changed[changed.source == source].set_index("group")
        axis.axvline(0, color="black", lw=0.8)
        for i, group in enumerate(order):
            some = types[types.group == group].dropna(subset=["early", "late"])
            if some.empty:  # the paper has no controls
                continue
            change, colour = some.late - some.early, ROLES[group]
            look = {"facecolors": "none" if source == "paper" else colour, "edgecolors": colour}
            axis.scatter(change, i + _spread(len(some)), s=10, alpha=0.55, lw=0.6, **look)
            axis.boxplot(
                change, positions=[i], orientation="horizontal", widths=0.62, showfliers=False,
                medianprops={"color": "black", "lw": 2}, manage_ticks=False,
                **{kind: {"lw": 0.9} for kind in ("boxprops", "whiskerprops", "capprops")},
            )  # fmt: skip
            told = f"n = {len(some)}, {p_equals(tested.wilcoxon_p[group])}"
            where = {"xycoords": ("axes fraction", "data"), "ha": "left", "va": "bottom"}
            axis.annotate(told, (0.01, i - 0.36), fontsize=SMALLEST, **where)
        axis.set_xscale("symlog", linthresh=0.1, linscale=1.2)
        axis.set(title=title, xlabel="late minus early reverse KL (nats)")
        axis.set_yticks(range(len(order)), order)
        axis.set_ylim(len(order) - 0.4, -0.7)
        axis.grid(visible=False, axis="y")
    rows_of_paper = changed[changed.source == "paper"].itertuples()
    middle = [f"{row.group} {row.late - row.early:+.2f}" for row in rows_of_paper]
    made.caption = (
        "Late minus early mean reverse KL of each token type, by group: a dot is a type, a box "
        "holds the middle half, its bar is the median; p by Wilcoxon's signed-rank test over types "
        "(two-sided). Nothing is resampled. At the right the points of the paper's figure 3c, "
        f"whose medians differ by {', '.join(middle)} nats. The axis is linear between -0.1 and "
        "0.1."
    )
    made.alt = "Distributions of the change of mean reverse KL by group, here and in the paper."
    return made


def split_sample(halves: pd.DataFrame, prompts: int) -> Figure:
    """Change of each group on the prompts it was chosen on and, hollow, on other prompts.

    `halves` has ``group, half, relative, relative_lo, relative_hi``; `prompts` is their number.
    """
    made, [[axis]] = panels(6.6, 0.3 * len(halves) + 0.8, 1, 1)
    labels = [f"{row.group}, {row.half} half" for row in halves.itertuples()]
    _changes(axis, halves, labels, hollow=halves.half == "other")
    axis.set_xlabel("relative change of the median (mean and 95% of random halves)")
    theirs = paper.number("persistence/high-KL")
    made.caption = (
        "Change of the median of each group's mean reverse KL from the early to the late "
        "checkpoint, relative to the early one, where groups are chosen on one random half of the "
        f"{prompts} prompts and measured on it (full) and on the other half (hollow). Bars hold "
        f"95% of the random halves. The paper's {theirs.value:+.0%} of high-KL types is measured "
        "where they were chosen."
    )
    made.alt = "Change of mean KL on the prompts a group was chosen on and on other prompts."
    return made


def _changes(axis: Axes, rows: pd.DataFrame, labels: list[str], hollow: pd.Series) -> None:
    """The relative change of each row with its interval; a difference of groups is black."""
    for i, (row, empty) in enumerate(zip(rows.itertuples(), hollow, strict=True)):
        look = style(str(row.group)) if row.group in ROLES else {"color": "black", "marker": "|"}
        error = whiskers(row, "relative", ("relative_lo", "relative_hi"))
        look |= {"mfc": "white"} if empty else {}
        axis.errorbar(row.relative, i, xerr=error, capsize=3, ms=6, **look)
    axis.axvline(0, color="black", lw=0.8)
    axis.set_yticks(range(len(rows)), labels)
    axis.set_ylim(len(rows) - 0.5, -0.5)


def groups_along_training(table: pd.DataFrame, sizes: Mapping[str, int], seeds: int) -> Figure:
    """Mean reverse KL of each group along stage 2: ``group, step, rkl``, all seeds pooled.

    `sizes` are the groups' numbers of types, `seeds` is the number of trainings.
    """
    made, [[axis]] = panels(6.6, 3.0, 1, 1)
    for group, rows in table.groupby("group", sort=False):
        axis.plot(rows.step, rows.rkl, lw=1.8, ms=4, label=group, **style(str(group)))
    axis.set(xlabel="optimiser step", ylabel="reverse KL of the group (nats)", yscale="log")
    made.legend(loc="outside right center", frameon=False, fontsize=SMALLEST)
    counts = ", ".join(f"{n} {group}" for group, n in sizes.items())
    made.caption = (
        "Mean reverse KL over the occurrences of each group's types in the rollouts of training, "
        f"{many_seeds(seeds)} pooled ({counts} types). Nothing is resampled. The paper has two "
        "checkpoints and no curve."
    )
    made.alt = "Mean reverse KL of the groups of token types along training."
    return made
