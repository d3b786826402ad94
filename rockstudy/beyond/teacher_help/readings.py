"""Notebook 10 in words: what each table shows, how sure that is, what it cannot tell."""

from __future__ import annotations

import html

import numpy as np
import pandas as pd

from rockstudy.beyond.teacher_help.budget import WIDTH
from rockstudy.beyond.teacher_help.effects import APART, BOTH, EVERY, GROUPS, SIDES
from rockstudy.display import Html, p_equals
from rockstudy.knockout.tables import WITHOUT_ANSWERS
from rockstudy.models.token_texts import visible
from rockstudy.rocks.aligned_texts import aligned, aligned_table

NOWHERE = "No completion holds a rock or a control, so that nothing is measured."
CHANGES = {
    "L": "with another token of the student in place of what stands",
    "H": "with a draw of the teacher in place of one of the student",
    "H_best": "with the teacher's best in place of a draw of the student",
    "null": "with the same token and other random numbers",
}
TEXTS = {BOTH: "in all texts", "right": "in right texts", "wrong": "in wrong ones"}


def examples_html(examples: pd.DataFrame) -> Html:
    """Places of rocks with the share of right continuations under each choice; all is escaped."""
    rows = []
    for one in examples.itertuples():
        shares = (one.p_stands, one.p_without, one.p_teacher, one.p_best)
        cells = [f"{one.rkl:.2f}", *(f"{share:.0%}" for share in shares)]
        numbers = "".join(f"<td class='number'>{cell}</td>" for cell in cells)
        texts = aligned(one.before, one.token, one.after)
        rows.append(f"<tr>{numbers}<td>{html.escape(visible(one.best))}</td>{texts}</tr>")
    head = ["KL", "right: as it stands", "another token", "the teacher's draw", "its best"]
    return aligned_table([*head, "the teacher's best"], rows)


def of_examples(examples: pd.DataFrame) -> str:
    """A sentence on what is shown."""
    if examples.empty:
        return NOWHERE
    other = int((examples.best != examples.token).sum())
    return (
        f"At {other} of these {len(examples)} places the teacher's most likely token is another "
        "than what stands. The shares are those of a few continuations each; they are examples of "
        "a high KL and no evidence."
    )


def _interval(one: pd.Series) -> str:
    if pd.isna(one.lo):
        return f"{one.value:+.3f} (no interval)"
    return f"{one.value:+.3f} [{one.lo:+.3f}, {one.hi:+.3f}]"


def _means(one: pd.Series) -> str:
    """What an interval of an effect allows to say."""
    if pd.isna(one.lo):
        return "one problem has no interval"
    if one.lo == one.hi:
        return "nothing changes, in any place"
    if one.lo > 0 or one.hi < 0:
        size = "" if one.lo > WIDTH or one.hi < -WIDTH else f", perhaps of less than {WIDTH:g}"
        return f"a {'gain' if one.lo > 0 else 'loss'} is shown{size}"
    found = f"the smallest effect that this would find is {one.detectable:.3f}"
    inside = one.lo90 > -WIDTH and one.hi90 < WIDTH
    none = f"no effect beyond {WIDTH:g}" if inside else "no effect is shown"
    return f"{none}; {found}"


def of_null(table: pd.DataFrame) -> str:
    """Sentences on the null of `effects.table`."""
    told = []
    for group in GROUPS:
        one = _row(table, "null", group, BOTH)
        if one is None:
            continue
        known = not pd.isna(one.lo)
        holds = "holds 0, as it must" if one.lo <= 0 <= one.hi else "does not hold 0: look into it"
        told.append(
            f"The same token of a {group} continued with other random numbers changes P(correct) "
            f"by {_interval(one)}{f': the interval {holds}' if known else ''}."
        )
    return " ".join(told) or NOWHERE


def _row(
    table: pd.DataFrame, measure: str, group: str, side: str, types: str = EVERY
) -> pd.Series | None:
    same = (table.measure == measure) & (table.group == group) & (table.types == types)
    found = table[same & (table.side == side)]
    return None if found.empty else found.iloc[0]


def of_effect(table: pd.DataFrame, measure: str) -> str:
    """Sentences on one measure of `effects.table`: rocks, controls and their difference."""
    told = []
    for group in GROUPS:
        one = _row(table, measure, group, BOTH)
        if one is None:
            continue
        told.append(
            f"At a {group}, {CHANGES[measure]}, P(correct) goes from {one.before:.3f} to "
            f"{one.after:.3f}: {_interval(one)} over {one.n} {one.unit} ({one.places:,} places): "
            f"{_means(one)}."
        )
        apart = (_row(table, measure, group, side) for side in SIDES)
        parts = [f"{TEXTS[one.side]} {_interval(one)}" for one in apart if one is not None]
        told.append(f"Apart: {', '.join(parts)}.")
    one = _row(table, measure, APART, BOTH)
    if one is not None:
        told.append(f"Rocks minus controls: {_interval(one)}: {_means(one)}.")
    rest = [_row(table, measure, name, BOTH, WITHOUT_ANSWERS) for name in (*GROUPS, APART)]
    names = ("rocks", "controls", "difference")
    parts = [
        f"{name} {_interval(one)}" for name, one in zip(names, rest, strict=True) if one is not None
    ]
    if parts:
        told.append(f"Without answer-bearing types: {', '.join(parts)}.")
    return "\n".join(told) or NOWHERE


def of_kl(on_kl: pd.DataFrame, by_kl: pd.DataFrame) -> str:
    """Sentences on `effects.on_kl`: whether a high KL marks a useful correction."""
    known = on_kl.set_index("what")
    top, apart, change, slope, ban, bans = (known.loc[name] for name in known.index)
    parts = by_kl[by_kl.what == "H"]
    if parts.empty or pd.isna(apart.lo):
        return "Too few places differ in their KL to compare them."
    high = parts.iloc[-1]
    told = [
        f"In the quarter of positions with the highest KL (from {high.kl_from:.2g} nats, mean "
        f"{high.kl:.2g}) the draws of teacher and student differ in {high.tv:.0%}, and H is "
        f"{_interval(top)}: {_means(top)}.",
        f"That is {_interval(apart)} more than elsewhere, and {_interval(slope)} a nat.",
    ]
    if apart.lo > 0:
        told.append("So a high KL marks places where the teacher's token helps.")
    elif apart.hi < 0:
        told.append("So the teacher's token does harm where the KL is high.")
    else:
        told.append(
            "So a high KL is not shown to mark a useful correction; a gain there of "
            f"{apart.hi:.3f} more than elsewhere is not excluded."
        )
    if not pd.isna(change.lo):
        told.append(
            f"For each token that changes, the gain differs by {_interval(change)} from elsewhere."
        )
    if not pd.isna(bans.lo):
        where = "what stands there is not shown to matter less, or more"
        if bans.lo > 0 or bans.hi < 0:
            where = f"what stands there matters {'less' if bans.lo > 0 else 'more'}"
        told.append(
            f"Another token of the student's there changes P(correct) by {_interval(ban)}, "
            f"{_interval(bans)} from elsewhere: {where}."
        )
    return " ".join(told)


def of_types(types: pd.DataFrame, together: pd.DataFrame) -> str:
    """Sentences on `effects.by_type` and `effects.together`: one ban against all."""
    told, known = [], types.dropna(subset=["L", "delta_held"])
    for group in GROUPS:
        some = known[known.group == group]
        if len(some):
            told.append(
                f"The ban of a {group} at one place changes accuracy by {some['L'].mean():+.3f} in "
                f"the mean of {len(some)} types, and that of all its places by "
                f"{some.delta_held.mean():+.3f} in texts that hold it."
            )
    for one in together[together["of"] == "delta_held"].itertuples():
        shown = "go together" if one.lo > 0 else "are not shown to go together"
        told.append(
            f"Over {one.n} types the two {shown}: rho = {one.value:+.2f} [{one.lo:+.2f}, "
            f"{one.hi:+.2f}] ({p_equals(one.p)}); {one.reliability:.0%} of the spread of L is more "
            "than noise."
        )
    return " ".join(told) or "Too few types have a place and a ban to compare them."


def of_budget(needed: pd.DataFrame) -> str:
    """Sentences on `budget.needed`: what the interval of an effect of 0 takes to leave out 0.02."""
    told = []
    for one in needed[needed.group == "rock"].itertuples():
        parts = (one.sd_problems, one.sd_places, one.sd_continuations)
        spread = ", ".join(f"{value:.2f}" for value in parts)
        if not np.isfinite(one.continuations):
            enough = "no number of continuations of these problems does: more problems are needed"
        else:
            enough = (
                f"{one.continuations:,.0f} continuations at {one.places:,.0f} places do, or "
                f"{one.continuations_1:,.0f} at {one.places_1:,.0f} places with one each"
            )
        told.append(
            f"{one.measure} at rocks: standard deviations between problems, places and "
            f"continuations {spread}. For an interval of ±{WIDTH:g}, {enough}."
        )
    return "\n".join(told) or "No problem has two places, so that the parts are not known."


def verdict(table: pd.DataFrame, on_kl: pd.DataFrame) -> str:
    """The answers to the notebook's questions, each with what it could not have seen."""
    gain, ban = (_row(table, measure, "rock", BOTH) for measure in ("H", "L"))
    if gain is None or ban is None or pd.isna(gain.lo):
        return "This run has too few places for an answer."
    apart = _row(table, "L", APART, BOTH)
    told = [f"Does the teacher help at a rock? H = {_interval(gain)}: {_means(gain)}."]
    top = on_kl.set_index("what").loc["H, top"]
    if not pd.isna(top.lo):
        told.append(f"Where the KL is highest? H = {_interval(top)}: {_means(top)}.")
    told.append(f"Is what stands at a rock needed there? L = {_interval(ban)}: {_means(ban)}.")
    if apart is not None:
        told.append(f"Less than at a control? Rocks minus controls {_interval(apart)}.")
    return "\n".join(told)
