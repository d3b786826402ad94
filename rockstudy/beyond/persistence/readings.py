"""Notebook 08 in words: what each table shows, how sure that is, what it cannot tell."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from rockstudy.beyond.persistence.capacity import ALL, TEXTS
from rockstudy.beyond.persistence.interventions import CHOICES
from rockstudy.beyond.persistence.suppression import AGAINST, KINDS
from rockstudy.beyond.persistence.updates import STEPS
from rockstudy.figure_labels import many_seeds

NO_CAUSES = "The task names no causes of its tokens."
NAMES = {"momentum": "AdamW's own momentum", "sgd": "SGD"}


def of_one_step(types: pd.DataFrame) -> str:
    """Sentences on the picture of one step: on which side of the line rocks and the others are."""
    told = []
    for group in ("rock", "rest"):
        some = types[types.group == group]
        if some.empty:
            told.append(f"No type of the group {group} occurs often enough here.")
            continue
        above = (some.phi_adamw > some.phi_sgd).mean()
        rising = (some[["phi_adamw", "phi_sgd"]] <= 0).any(axis=1).mean()
        told.append(
            f"Of {len(some)} types in the group {group}, {above:.0%} fall more by AdamW's step "
            f"than by SGD's; {rising:.0%} do not fall by one of the two."
        )
    return " ".join(told)


def of_size(sums: pd.DataFrame) -> str:
    """How much is measured: training seeds, checkpoints, prompts."""
    n = sums.checkpoint.nunique()
    many = many_seeds(sums.seed.nunique())
    at = "one checkpoint" if n == 1 else f"{n} checkpoints"
    return f"{many[0].upper()}{many[1:]}, {at}, {sums.prompt_index.nunique()} prompts followed."


def of_effects(effects: pd.DataFrame, checkpoint: str) -> str:
    """Sentences on S of the rocks at one checkpoint: four answers, and what they allow."""
    rocks = (
        effects[(effects.by == "group") & (effects.group == "rock")] if len(effects) else effects
    )
    told = [f"At the checkpoint {checkpoint}, rocks against the rest:"]
    for kind, words in KINDS.items():
        for other in AGAINST:
            some = rocks[(rocks.checkpoint == checkpoint) & (rocks.kind == kind)]
            some = some[some.against == other].set_index("measure")
            if some.empty:
                continue
            S, share = some.loc["S"], some.loc["share"]
            told.append(
                f"{words}, against {NAMES[other]}: {_suppressed(S)}; {_share_moved(share)}."
            )
    return "\n".join(told)


def _suppressed(S: pd.Series) -> str:
    if pd.isna(S.value):
        return "S is not defined, since the rocks or the rest do not fall by both steps"
    return f"S {_number(S)}, {_means(S)}"


def _share_moved(share: pd.Series) -> str:
    if pd.isna(share.value):
        return "the whole loss does not fall by both steps, so that the rocks have no share of it"
    return f"the rocks' share of the whole fall changes by {_number(share)}"


def of_whole(sums: pd.DataFrame, checkpoint: str) -> str:
    """Sentences on what each step does to the mean loss at one checkpoint, over all positions."""
    here = sums[sums.checkpoint == checkpoint]
    told = [f"At the checkpoint {checkpoint} one step changes the mean loss of all positions:"]
    for step in STEPS:
        first, real = (-here[f"{kind}_{step}"].sum() / here["count"].sum() for kind in KINDS)
        beyond = ": it is too long for its first order" if real > 0 > first else ""
        told.append(f"{step}: {first:+.4f} nats to first order, {real:+.4f} really{beyond}.")
    return "\n".join(told)


def of_slopes(slopes: pd.DataFrame, checkpoint: str) -> str:
    """Sentences on the regression of S over types at one checkpoint."""
    told = []
    for row in slopes[slopes.checkpoint == checkpoint].itertuples():
        one = pd.Series(row._asdict())
        about = "a type that is e times as frequent" if row.term == "log n" else "a rock"
        told.append(
            f"{KINDS[row.kind]}, against {NAMES[row.against]}: {about} has an S that differs by "
            f"{_number(one)}, {_means(one)} ({row.types} types, of which {_share(row.left_out)} "
            "have no logarithm)."
        )
    return "\n".join(told)


def of_coherence(found: pd.DataFrame, checkpoint: str) -> str:
    """Sentences on kappa of the groups at one checkpoint."""
    some = found[(found.by == "group") & (found.checkpoint == checkpoint)]
    told = []
    for group in ("rock", "control", "high-KL", "rest"):
        by = some[some.group == group].set_index("measure")
        if "kappa" not in by.index:
            continue
        one = by.loc["kappa"]
        line = f"{group}: kappa {_number(one)}, cosine of the two halves {one.cosine:+.3f}"
        if "minus rest" in by.index:
            apart = by.loc["minus rest"]
            side = _sign(apart, "less than the rest", "more than the rest", "not shown to differ")
            line += f"; minus the rest {_number(apart)}: common gradient is {side}"
        told.append(f"{line}.")
    return "\n".join(told)


def of_causes(effects: pd.DataFrame, found: pd.DataFrame, checkpoint: str) -> str:
    """Sentences on S and kappa by cause at one checkpoint, or that there are no causes."""
    S = effects[(effects.by == "cause") & (effects.measure == "S") & (effects.kind == "phi")]
    S = S[(S.against == "sgd") & (S.checkpoint == checkpoint)].set_index("group")
    kappa = found[(found.by == "cause") & (found.checkpoint == checkpoint)].set_index("group")
    if S.empty:
        return NO_CAUSES
    told = []
    for cause in sorted({*S.index} & {*kappa.index}):
        one, other = S.loc[cause], kappa.loc[cause]
        told.append(f"{cause}: S {_number(one)}, {_means(one)}; kappa {_number(other)}.")
    return "\n".join(told)


def of_rebuilt(check: pd.DataFrame) -> str:
    """A sentence on S of the rocks from rebuilt running means beside that from the true ones."""
    if check.empty:
        return (
            "Training kept no running means of AdamW here: they are rebuilt, and how far that "
            "matters cannot be checked in this run."
        )
    told = []
    for row in check.itertuples():
        kept, rebuilt = (_signed(value) for value in (row.kept, row.rebuilt))
        told.append(f"{row.checkpoint}: {kept} from the kept ones, {rebuilt} from rebuilt")
    most = np.abs(check.kept - check.rebuilt).max()
    apart = "" if pd.isna(most) else f" They differ by at most {most:.2f}."
    return (
        "S of the rocks against SGD, first order, first seed, from AdamW's running means: "
        f"{'; '.join(told)}.{apart}"
    )


def _signed(value: float) -> str:
    return "not defined" if pd.isna(value) else f"{value:+.2f}"


def of_rates(rates: pd.DataFrame) -> str:
    """A sentence on the learning rate that SGD was given, and how close it came to AdamW."""
    base, one = rates.iloc[0], rates[rates.chosen].iloc[0]
    edge = one.lr in (rates.lr.min(), rates.lr.max())
    return (
        f"SGD trains at {one.lr:g}: in the last window all types but the rocks have "
        f"{one.loss_others:.4f} nats, under AdamW {base.loss_others:.4f}."
        + " This is the end of the rates that were tried; a rate beyond it may match better."
        * edge
    )


def of_arms(ratios: pd.DataFrame) -> str:
    """A line for each arm and choice of the rocks: the ratio minus AdamW's, and what it allows."""
    told = []
    for choice in CHOICES:
        by = ratios[ratios.choice == choice]
        base = by[(by["arm"] == "adamw") & (by.measure == "ratio")].iloc[0]
        who = "AdamW" if choice == "adamw" else "each arm itself"
        told.append(f"Rocks chosen under {who}; AdamW's own ratio is {_number(base)}.")
        for row in by[by.measure == "minus adamw"].itertuples():
            one = pd.Series(row._asdict())
            side = _sign(one, "rocks fall less", "rocks fall more", _blind(one))
            told.append(f"{row.arm}: {_number(one)} against it: {side}.")
    return "\n".join(told)


def of_arms_by_cause(falls: pd.DataFrame) -> str:
    """A line for each cause: AdamW's fall there, and the arms that fall more or less for all."""
    if falls.empty:
        return NO_CAUSES
    told = []
    for cause, some in falls.groupby("cause"):
        by = some.set_index(["arm", "measure"])
        own, ratio = (by.loc["adamw", measure] for measure in ("fall", "ratio"))
        line = f"{cause}: falls by {_number(own)} nats under AdamW, {_number(ratio)} times as all"
        parts = []
        for row in some[some.measure == "minus adamw"].itertuples():
            one = pd.Series(row._asdict())
            side = _sign(one, "less", "more", "not shown to differ")
            parts.append(f"{row.arm} {side} ({_number(one)})")
        told.append(f"{line}; for the fall of all: {', '.join(parts)}." if parts else f"{line}.")
    return "\n".join(told)


def of_capacity(found: pd.DataFrame) -> str:
    """Which causes the wider student has less of after OPD, how much, and what is left to doubt."""
    by = found.set_index(["cause", "texts", "measure"])
    causes = [ALL, *sorted(set(found.cause) - {ALL})]
    sides = {cause: [_cured(by.loc[cause, texts, "cured"]) for texts in TEXTS] for cause in causes}
    told = []
    for cause in causes:
        kept, wide, cured, share, start = (
            by.loc[cause, "students", measure]
            for measure in ("ordinary_after", "wide_after", "cured", "cured share", "head start")
        )
        other = by.loc[cause, "teacher", "cured"]
        told.append(
            f"{cause}: the student keeps {_plain(kept)} nats, the wider one {_plain(wide)}: "
            f"{_number(cured)} less, {_share(share.value)} of it; before OPD {_number(start)} "
            f"less; on the teacher's texts {_number(other)}. {_agreed(sides[cause])}."
        )
    told.append(_shares_of_difference(by, causes[1:]))
    whole = [cause for cause in causes[1:] if sides[cause] == [1] * len(TEXTS)]
    listed = ", ".join(whole) if whole else "none is shown"
    told.append(f"Which causes does capacity cure, on both kinds of texts? {listed}.")
    return "\n".join(told)


def _shares_of_difference(by: pd.DataFrame, causes: list[str]) -> str:
    """The share of the whole difference that each cause has, where there is a difference."""
    if _cured(by.loc[ALL, "students", "cured"]) == 0:
        return "The students do not differ as a whole, so that no cause has a share of that."
    parts = [f"{cause} {_number(by.loc[cause, 'students', 'part'])}" for cause in causes]
    return f"Shares of the whole difference, on texts of both students: {', '.join(parts)}."


def _cured(one: pd.Series) -> int:
    """1 where an interval lies above 0, -1 below, else 0."""
    return 0 if pd.isna(one.lo) else int(one.lo > 0) - int(one.hi < 0)


def _agreed(sides: list[int]) -> str:
    """What the signs on both kinds of texts say together."""
    if set(sides) == {1}:
        return "Capacity lowers it on both kinds of texts"
    if set(sides) == {-1}:
        return "The wider student keeps more on both kinds of texts"
    return "Not shown" if set(sides) == {0} else "The two kinds of texts do not agree"


def verdict(effects: pd.DataFrame, found: pd.DataFrame, checkpoint: str) -> str:
    """Which of the causes the run supports, one line each."""
    rocks = effects[(effects.by == "group") & (effects.group == "rock") & (effects.measure == "S")]
    here = rocks[(rocks.checkpoint == checkpoint) & (rocks.kind == "phi")].set_index("against")
    apart = found[
        (found.by == "group") & (found.group == "rock") & (found.checkpoint == checkpoint)
    ]
    apart = apart[apart.measure == "minus rest"]
    told = []
    for other, what in {"sgd": "the optimiser as a whole", "momentum": "its second moment"}.items():
        one = here.loc[other]
        side = _sign(one, "suppresses the rocks", "favours the rocks", _blind(one))
        told.append(f"To first order {what}: {side} (S {_number(one)}).")
    if len(apart):
        one = apart.iloc[0]
        side = _sign(one, "cancel more", "cancel less", _blind(one))
        told.append(f"The rocks' gradients, against the rest's: {side} ({_number(one)}).")
    return "\n".join(told)


def _means(one: pd.Series) -> str:
    return _sign(one, "suppressed by AdamW", "favoured by AdamW", _blind(one))


def _sign(one: pd.Series, below: str, above: str, neither: str) -> str:
    if pd.isna(one.value) or pd.isna(one.lo):
        return "not defined here"
    return below if one.hi < 0 else above if one.lo > 0 else neither


def _blind(one: pd.Series) -> str:
    """What an interval that holds 0 leaves open."""
    most = max(abs(one.lo), abs(one.hi))
    shown = f"{most:.2f}" if most >= 0.1 else f"{most:.2g}"
    return f"nothing shown, and effects up to {shown} not excluded"


def _number(one: pd.Series) -> str:
    """A value with its interval, whose half width has two digits and the value three decimals."""
    if pd.isna(one.value):
        return "not defined"
    half, places = (one.hi - one.lo) / 2, 3
    if 0 < half < 0.01:
        places = min(1 - math.floor(math.log10(half)), 7)
    shown = [f"{round(number, places) + 0.0:+.{places}f}" for number in (one.value, one.lo, one.hi)]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]"


def _plain(one: pd.Series) -> str:
    return "none that is defined" if pd.isna(one.value) else f"{one.value:.3f}"


def _share(value: float) -> str:
    return "none are known" if pd.isna(value) else f"{value:.0%}"
