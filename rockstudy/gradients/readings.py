"""Notebook 04 in words: what each table shows, how sure that is, what it cannot tell."""

from __future__ import annotations

import pandas as pd


def of_norms(compared: pd.DataFrame, fewer: pd.DataFrame) -> str:
    """Sentences on the norms of rocks against high-KL types, three ways.

    The frames are `steps.in_both_spaces` and `comparisons.norms_at_counts`.
    """
    by = compared[compared.group == "high-KL"].set_index("statistic")
    plain, unbiased = by.loc["norm"], by.loc["square"]
    same = fewer.set_index("counts").loc["high-KL"]
    told = [
        "A rock's mean gradient against that of a rare high-KL type (rank-biserial: +1 if every "
        "rock has the larger one, -1 if none has): the plain norm gives "
        f"{_effect(plain.logit, plain.logit_lo, plain.logit_hi)}, with each rock at the other's "
        f"number of occurrences {_effect(same.rank_biserial, same.lo, same.hi)}, the unbiased norm "
        f"{_effect(unbiased.logit, unbiased.logit_lo, unbiased.logit_hi)} in logit space and "
        f"{_effect(unbiased.hidden, unbiased.hidden_lo, unbiased.hidden_hi)} in hidden space."
    ]
    if pd.isna(unbiased.logit_lo):
        told.append("There are too few types for an interval.")
    elif unbiased.logit_hi < 0:
        told.append("So the expected gradient of a rock is smaller, whatever its frequency.")
    elif unbiased.logit_lo > 0:
        told.append("So the expected gradient of a rock is larger, whatever its frequency.")
    elif plain.logit_hi < 0:
        told.append(
            "So the plain norms differ and the unbiased ones are not shown to: that rocks are "
            "frequent, and their mean holds less noise, is enough to explain the difference."
        )
    else:
        told.append("So no difference is shown, either way.")
    if not unbiased.agree:
        told.append("The two spaces lead to different conclusions; hidden space is what moves.")
    return " ".join(told)


def _effect(value: float, lo: float, hi: float) -> str:
    return f"{value:+.2f} [{lo:+.2f}, {hi:+.2f}]"


def of_order(order: pd.DataFrame) -> str:
    """Sentences on `steps.order_of_cosines`: whether the paper's order of the groups holds."""
    words = {"cos_balanced": "as in the paper", "cos_others": "without the type itself"}
    told = []
    for statistic, some in order.groupby("statistic", sort=False):
        steps = "; ".join(
            f"{row.above} above {row.below} {_effect(row.rank_biserial, row.lo, row.hi)}"
            for row in some.itertuples()
        )
        if (some.lo > 0).all():
            means = "the paper's order is shown"
        elif (some.hi < 0).any():
            means = "one step goes the other way, so that the order does not hold"
        else:
            means = "the order is not shown"
        told.append(f"Cosine with the sum, {words[str(statistic)]}: {steps}; {means}.")
    return "\n".join(told)


def of_changes(changed: pd.DataFrame) -> str:
    """Sentences on `steps.changes`: how far each group falls, here and in the paper."""
    theirs = changed[changed.source == "paper"].set_index("group")
    told = []
    for row in changed[changed.source == "here"].itertuples():
        if pd.isna(row.relative_lo):
            means = "which has no interval"
        elif row.relative_hi < 0:
            means = "it falls"
        elif row.relative_lo > 0:
            means = "it rises"
        else:
            means = "no change is shown"
        line = (
            f"{row.group}: {row.n_fall} of {row.n} types fall; the median changes by "
            f"{row.relative:+.1%} [{row.relative_lo:+.1%}, {row.relative_hi:+.1%}]: {means}"
        )
        if row.group in theirs.index:
            one = theirs.loc[row.group]
            line += f" (in the paper {one.relative:+.1%}, {one.n_fall} of {one.n} fall)"
        told.append(f"{line}.")
    return "\n".join(told)


def of_split(halves: pd.DataFrame) -> str:
    """Sentences on `steps.split`: the same on prompts that did not choose the groups."""
    fresh = halves[halves.half == "other"].set_index("group")
    parts = [
        f"{group} {row.relative:+.1%} [{row.relative_lo:+.1%}, {row.relative_hi:+.1%}]"
        for group, row in fresh.iterrows()
    ]
    told = f"On prompts that did not choose the groups: {', '.join(parts)}."
    if "rock - high-KL" not in fresh.index:
        return told
    row = fresh.loc["rock - high-KL"]
    if row.relative_lo > 0:
        return f"{told} Rocks keep more of their loss than high-KL types, beyond selection."
    if row.relative_hi < 0:
        return f"{told} Rocks keep less of their loss than high-KL types, beyond selection."
    most = max(abs(row.relative_lo), abs(row.relative_hi))
    return (
        f"{told} That rocks keep more of their loss is not shown, and a difference of up to "
        f"{most:.0%} either way is possible."
    )


def of_along(along: pd.DataFrame) -> str:
    """A sentence on `steps.along`: each group from the first to the last logging window."""
    parts = []
    for group, rows in along.groupby("group", sort=False):
        first, last = rows.sort_values("step").rkl.iloc[[0, -1]]
        change = last / first - 1 if first > 0 else float("nan")
        parts.append(f"{group} {first:.2f} to {last:.2f} nats ({change:+.0%})")
    return (
        f"From the first to the last logging window: {', '.join(parts)}. Here the texts change "
        "with the student, and seeds are pooled, so that no interval is given."
    )
