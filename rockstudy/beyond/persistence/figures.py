"""Figures of notebook 08."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from rockstudy.beyond.persistence.capacity import ALL
from rockstudy.beyond.persistence.interventions import CHOICES
from rockstudy.beyond.persistence.suppression import AGAINST, KINDS
from rockstudy.figure_labels import name_points
from rockstudy.figure_style import ROLES, SMALLEST, Figure, cause_colours, panels, style

LOOKS = {"rock": "rock", "control": "control", "high-KL": "high-KL", "rest": "neutral"}
STEP_NAMES = {"adamw": "AdamW", "momentum": "momentum", "sgd": "SGD"}
ARM_LOOKS = {"adamw": "student", "sgd": "rock", "adamw-tensor": "control", "adamw-types": "high-KL"}
WIDTH_LOOKS = {"ordinary": "student", "wide": "rock"}
TEXT_LOOKS = {
    "students": ("control", "texts of both students"),
    "teacher": ("teacher", "texts of the teacher"),
}
CHOSEN_BY = {"adamw": "rocks under AdamW", "own": "rocks under the arm itself"}
NAMED = 4  # ours: types with names


def one_step(types: pd.DataFrame) -> Figure:
    """Fall of each type's loss by a step of SGD and by one of AdamW of the same norm.

    `types` has ``spelling, group, n`` and the mean falls ``phi_sgd, phi_adamw`` (nats).
    """
    made, [[axis]] = panels(6.4, 4.0, 1, 1)
    largest = max(types[["phi_sgd", "phi_adamw"]].abs().to_numpy().max(initial=0.0), 1e-12)
    for scale in (axis.set_xscale, axis.set_yscale):
        scale("symlog", linthresh=largest / 100)
    axis.plot([-largest, largest], [-largest, largest], color="black", lw=0.8)
    for group, role in LOOKS.items():
        some = types[types.group == group]
        look = {"s": 6 + 3 * np.log1p(some.n), "color": ROLES[role], "lw": 0}
        alpha = 0.35 if group == "rest" else 0.8
        axis.scatter(some.phi_sgd, some.phi_adamw, label=group, alpha=alpha, **look)
    axis.set_xlabel("fall by a step of SGD (nats)")
    axis.set_ylabel("fall by a step of AdamW (nats)")
    axis.legend(frameon=False, fontsize=SMALLEST, markerscale=0.8)
    named = types[types.group == "rock"].nlargest(NAMED, "n")
    if len(named):
        name_points(axis, named.phi_sgd.tolist(), named.phi_adamw.tolist(), named.spelling.tolist())
    made.caption = (
        f"A dot is one of {len(types)} token types, larger where it is frequent: how much its mean "
        "loss falls, to first order, by one step of training on other prompts, once with AdamW and "
        "once with SGD of the same norm. On the line both do the same. The "
        f"{len(named)} most frequent rocks have names. Nothing is resampled."
    )
    made.alt = "Fall of the loss of token types by one step of SGD and of AdamW."
    return made


def suppression(effects: pd.DataFrame, shares: Mapping[str, float]) -> Figure:
    """S of the groups against the rest at every checkpoint: `steps.effects` with ``by == group``.

    `shares` has how much of training is done at each checkpoint.
    """
    some = effects[(effects.by == "group") & (effects.measure == "S") & (effects.group != "rest")]
    made, axes = panels(7.0, 4.4, len(KINDS), len(AGAINST), sharex=True, sharey=True)
    for line, (kind, words) in zip(axes, KINDS.items(), strict=True):
        for axis, other in zip(line, AGAINST, strict=True):
            rows = some[(some.kind == kind) & (some.against == other)]
            _along(axis, rows, shares)
            axis.set_title(f"{words}, against {STEP_NAMES[other]}", fontsize=SMALLEST + 1)
        line[0].set_ylabel("S (log of a ratio)")
    _shared(made, axes, "share of stage 2 that is done")
    made.caption = (
        "Fall of a group's loss by a step of AdamW over its fall by another step of the same norm, "
        "relative to the same of the rest, in logs: below 0 AdamW suppresses the group. Momentum "
        "is AdamW without its second moment. " + _unit(some)
    )
    made.alt = "Suppression of rocks, controls and high-KL types by AdamW along training."
    return made


def over_types(types: pd.DataFrame, slopes: pd.DataFrame, checkpoint: str) -> Figure:
    """S of every type by its frequency at one checkpoint, and the two slopes at all of them.

    The frames are those of `suppression.over_types`, the first with ``group``.
    """
    made, [axes] = panels(7.0, 3.4, 1, 2)
    here = types[(types.checkpoint == checkpoint) & (types.kind == "phi")]
    here = here[here.against == "sgd"]
    for group, role in LOOKS.items():
        some = here[here.group == group]
        alpha = 0.35 if group == "rest" else 0.8
        axes[0].scatter(some.n, some.S, s=10, lw=0, alpha=alpha, color=ROLES[role], label=group)
    axes[0].axhline(0, color="black", lw=0.8)
    axes[0].set(xlabel="occurrences of the type", ylabel="S against SGD")
    if len(here):  # an axis without a point has no logarithms
        axes[0].set_xscale("log")
    axes[0].legend(frameon=False, fontsize=SMALLEST)
    rows = slopes[(slopes.checkpoint == checkpoint)].reset_index(drop=True)
    names = [f"{r.term}, {KINDS[r.kind]}, {STEP_NAMES[r.against]}" for r in rows.itertuples()]
    _forest(axes[1], rows, names, [ROLES["rock" if t == "rock" else "neutral"] for t in rows.term])
    axes[1].set_xlabel("slope of S")
    made.caption = (
        f"At the checkpoint {checkpoint}. Left: S of each type, to first order against SGD. Right: "
        "slopes of S on the log of the frequency and on whether the type is a rock, by least "
        "squares over types. " + _unit(rows)
    )
    made.alt = "Suppression of token types by frequency, and its slopes."
    return made


def coherence(found: pd.DataFrame, types: pd.DataFrame, shares: Mapping[str, float]) -> Figure:
    """Kappa of the groups along training, and of every type after OPD.

    `found` is `steps.coherences`, `types` `steps.type_coherence`.
    """
    made, [axes] = panels(7.0, 3.4, 1, 2)
    some = found[(found.by == "group") & (found.measure == "kappa")]
    _along(axes[0], some, shares)
    axes[0].set_xlabel("share of stage 2 that is done")
    axes[0].set_ylabel("kappa, in the space of all weights")
    axes[0].legend(frameon=False, fontsize=SMALLEST)
    for group, role in LOOKS.items():
        mine = types[types.group == group]
        alpha = 0.35 if group == "rest" else 0.8
        axes[1].scatter(mine["count"], mine.kappa, s=10, lw=0, alpha=alpha, color=ROLES[role])
    axes[1].axhline(0, color="black", lw=0.8)
    axes[1].set(xlabel="occurrences of the type", ylabel="kappa, in logit space")
    if len(types):
        axes[1].set_xscale("log")
    made.caption = (
        "Share of the squared gradients that is common to a group: 0 where gradients cancel, 1 "
        f"where all are equal. Left: groups. Right: each of {len(types)} types after OPD, in the "
        "space of the logits. " + _unit(some)
    )
    made.alt = "Coherence of the gradients of groups along training, and of token types."
    return made


def causes(effects: pd.DataFrame, found: pd.DataFrame, checkpoint: str) -> Figure:
    """S and kappa by the known cause of a position at one checkpoint."""
    made, [axes] = panels(7.0, 3.2, 1, 2, sharey=True)
    S = effects[(effects.by == "cause") & (effects.measure == "S") & (effects.kind == "phi")]
    S = S[(S.against == "sgd") & (S.checkpoint == checkpoint)]
    kappa = found[(found.by == "cause") & (found.checkpoint == checkpoint)]
    names = sorted({*S.group, *kappa.group})
    colours = cause_colours(names)
    for axis, rows in zip(axes, (S, kappa), strict=True):
        by = rows.drop_duplicates("group").set_index("group").reindex(names).reset_index()
        _forest(axis, by, names, [colours[name] for name in names])
    axes[0].set_xlabel("S against SGD, first order")
    axes[1].set_xlabel("kappa")
    made.caption = (
        f"By the known cause of a position, at the checkpoint {checkpoint}: suppression by AdamW "
        "against all positions (left) and coherence of the gradients (right). " + _unit(S)
    )
    made.alt = "Suppression and coherence by the cause of a position."
    return made


def arms(ratios: pd.DataFrame) -> Figure:
    """Fall of the rocks over the fall of all, by arm, and minus that of AdamW."""
    made, [axes] = panels(7.0, 2.8, 1, 2, sharey=True)
    names = list(dict.fromkeys(ratios["arm"]))
    roles = dict(zip(CHOICES, ("rock", "student"), strict=True))
    for axis, measure in zip(axes, ("ratio", "minus adamw"), strict=True):
        for number, choice in enumerate(CHOICES):
            rows = ratios[(ratios.measure == measure) & (ratios.choice == choice)]
            by = rows.set_index("arm").reindex(names).reset_index()
            look = [ROLES[roles[choice]]] * len(names)
            _forest(axis, by, names, look, shift=0.25 * (number - 0.5), zero=measure != "ratio")
    for choice, role in roles.items():
        axes[0].plot([], [], "o", ms=4, color=ROLES[role], label=CHOSEN_BY[choice])
    axes[0].legend(frameon=False, fontsize=SMALLEST)
    axes[0].set_xlabel("fall of the rocks / fall of all")
    axes[1].set_xlabel("minus AdamW of the same seed")
    made.caption = (
        "From the start to the end of stage 2 with each optimiser, on texts of the start: fall of "
        "the mean loss of the rocks over that of all positions. Rocks are chosen on half of the "
        "prompts and measured on the other half. " + _unit(ratios)
    )
    made.alt = "Fall of the rocks over the fall of all, by optimiser."
    return made


def arms_by_cause(falls: pd.DataFrame) -> Figure:
    """Fall of the loss by known cause and arm, in nats and over that of all, minus AdamW's.

    `falls` is `interventions.by_cause`.
    """
    made, [axes] = panels(7.0, 4.2, 1, 2, sharey=True)
    causes, arms = sorted(set(falls.cause)), list(dict.fromkeys(falls["arm"]))
    for axis, measure in zip(axes, ("fall", "minus adamw"), strict=True):
        for number, arm in enumerate(arms):
            rows = falls[(falls.measure == measure) & (falls["arm"] == arm)]
            by = rows.set_index("cause").reindex(causes).reset_index()
            shift = 0.18 * (number - (len(arms) - 1) / 2)
            _forest(axis, by, causes, [_arm_colour(arm)] * len(causes), shift=shift)
    _keys(made, axes[0], {arm: _arm_colour(arm) for arm in arms})
    axes[0].set_xlabel("fall of the mean loss (nats)")
    axes[1].set_xlabel("fall over that of all, minus AdamW's")
    made.caption = (
        "From the start to the end of stage 2 with each optimiser, on texts of the start, by the "
        "known cause of a position: fall of its mean loss (left), and that over the fall of all "
        "positions, minus the same of AdamW with the same seed (right). " + _unit(falls)
    )
    made.alt = "Fall of the loss by cause and optimiser."
    return made


def _arm_colour(arm: str) -> str:
    return ROLES[ARM_LOOKS.get(arm, "neutral")]


def capacity(found: pd.DataFrame) -> Figure:
    """What two students of different width keep by cause: `capacity.by_cause`."""
    made, [axes] = panels(7.0, 3.8, 1, 3, sharey=True)
    names = [ALL, *sorted(set(found.cause) - {ALL})]

    def draw(axis: Axes, texts: str, measure: str, role: str, shift: float) -> None:
        rows = found[(found.texts == texts) & (found.measure == measure)]
        by = rows.set_index("cause").reindex(names).reset_index()
        _forest(axis, by, names, [ROLES[role]] * len(names), shift=shift)

    keys = {}
    for number, (width, role) in enumerate(WIDTH_LOOKS.items()):
        draw(axes[0], "students", f"{width}_after", role, 0.25 * (number - 0.5))
        keys[f"left: {width} student"] = ROLES[role]
    for number, (texts, (role, words)) in enumerate(TEXT_LOOKS.items()):
        for axis, measure in zip(axes[1:], ("cured", "part"), strict=True):
            draw(axis, texts, measure, role, 0.25 * (number - 0.5))
        keys[words] = ROLES[role]
    _keys(made, axes[0], keys)
    axes[0].set_xlabel("loss after OPD (nats)")
    axes[1].set_xlabel("first minus second (nats)")
    axes[2].set_xlabel("part of the whole")
    made.caption = (
        "Mean reverse KL that the student and a wider one keep after OPD, by the known cause of a "
        "position, on completions of both (left); the first minus the second (middle), and the "
        "share of the whole difference that a cause has (right), also on completions of the "
        "teacher. " + _unit(found)
    )
    made.alt = "Loss after OPD by cause of two students of different width."
    return made


def _along(axis: Axes, rows: pd.DataFrame, shares: Mapping[str, float]) -> None:
    """Values with intervals by the share of training, the groups beside each other."""
    groups = [group for group in LOOKS if group in set(rows.group)]
    for number, group in enumerate(groups):
        some = rows[rows.group == group]
        at = some.checkpoint.map(dict(shares)).to_numpy(float) + 0.012 * number
        error = np.abs([some.value - some.lo, some.hi - some.value])
        look = {"lw": 1, "ms": 4, "capsize": 2, "label": group}
        axis.errorbar(at, some.value, error, **look, **style(LOOKS[group]))
    axis.axhline(0, color="black", lw=0.8)
    if rows.checkpoint.nunique() == 1:  # the limits would be those of the gap between groups
        where = shares[rows.checkpoint.iloc[0]]
        axis.set(xlim=(where - 0.1, where + 0.1), xticks=[where])
    if len(rows) and rows.value.isna().all():
        centre = {"ha": "center", "va": "bottom", "transform": axis.transAxes}
        axis.text(0.5, 0.55, "not defined", fontsize=SMALLEST, **centre)


def _keys(made: Figure, axis: Axes, colours: Mapping[str, str]) -> None:
    """A legend of colours below all axes."""
    for label, colour in colours.items():
        axis.plot([], [], "o", ms=4, color=colour, label=label)
    _legend(made, axis)


def _forest(
    axis: Axes,
    rows: pd.DataFrame,
    names: list[str],
    colours: list[str],
    shift: float = 0.0,
    zero: bool = True,
) -> None:
    """A row for each name with its value and interval; one without a value is empty."""
    for place, (row, colour) in enumerate(zip(rows.itertuples(), colours, strict=True)):
        if pd.notna(row.value):
            axis.hlines(place + shift, row.lo, row.hi, color=colour, lw=1.4)
            axis.plot(row.value, place + shift, "o", ms=4, color=colour)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    if zero:
        axis.axvline(0, color="black", lw=0.8)


def _shared(made: Figure, axes: np.ndarray, label: str) -> None:
    for axis in axes[-1]:
        axis.set_xlabel(label)
    _legend(made, axes[0, 0])


def _legend(made: Figure, axis: Axes) -> None:
    """What an axis shows, below all axes."""
    where = {"loc": "outside lower center", "ncols": 4, "frameon": False, "fontsize": SMALLEST}
    made.legend(*axis.get_legend_handles_labels(), **where)


def _unit(rows: pd.DataFrame) -> str:
    """What the intervals of a table resample."""
    n = int(rows.seeds.max()) if len(rows) else 0
    told = f"Bars are 95% intervals over prompts and {n} training seeds."
    if n == 1:
        told = "Bars are 95% intervals over prompts; one training seed."
    return told + " The paper measures no such thing."
