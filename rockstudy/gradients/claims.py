"""Claims rows of notebook 04: gradients and persistence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from rockstudy.claims import paper, verdicts
from rockstudy.gradients import comparisons

WIDEST_EFFECT = 0.5  # ours: half width of a rank-biserial correlation that can tell its sign
WIDEST_CHANGE = 0.25  # ours: half width of a relative change; half the paper's fall of high-KL
WIDEST_COSINE = 0.15  # ours: half of the cosine that some rocks exceed in the paper


def gradient_claims(
    norms: pd.DataFrame,
    compared: pd.DataFrame,
    fewer: pd.DataFrame,
    order: pd.DataFrame,
    grouped: pd.DataFrame,
) -> list[dict]:
    """Claims rows on norms and cosines of mean gradients, in logit space.

    The frames are `gradient_medians`, `in_both_spaces`, `norms_at_counts`, `order_of_cosines` and
    `by_group` of `rockstudy.gradients.steps`.
    """
    effects = compared.set_index(["group", "statistic"]).loc["high-KL"]
    steps = order[order.statistic == "cos_others"].sort_values("rank_biserial", na_position="first")
    rocks = grouped[grouped.group == "rock"]
    some = paper.number("cos-balanced-some").value
    return [
        verdicts.finding(
            "gradient-norm-rock-below-high-kl",
            "The expected gradient of a rock is smaller than that of a rare high-KL type (unbiased "
            "squared norms, rank-biserial).",
            _measured(effects.loc["square"], "logit", "logit_", "token types"),
            direction=verdicts.below(0, widest=WIDEST_EFFECT),
            locator=paper.number("norm-p").where,
            headline=True,
        ),
        verdicts.finding(
            "gradient-cos-order",
            "Rocks follow the sum of the other types' gradients more closely than high-KL types, "
            "and these more closely than random types (rank-biserial of the weaker step).",
            _measured(steps.iloc[0], "rank_biserial", "", "token types"),
            direction=verdicts.above(0, widest=WIDEST_EFFECT),
            locator=paper.number("cos-balanced/rock").where,
        ),
        verdicts.finding(
            "gradient-cos-rock-some",
            "Some rock follows the sum of the other types' gradients closely: the largest cosine.",
            comparisons.largest(rocks, "cos_others_logit") | {"unit": "rocks (simultaneous)"},
            direction=verdicts.above(some, widest=WIDEST_COSINE),
            number="cos-balanced-some",
        ),
        *_shown_gradients(norms, effects, fewer),
    ]


def _shown_gradients(norms: pd.DataFrame, effects: pd.DataFrame, fewer: pd.DataFrame) -> list[dict]:
    by = norms.set_index(["statistic", "group"])
    unit = "types (interval over half-samples of prompts)"
    levels = [
        verdicts.shown(
            f"gradient-{statistic.split('-')[0]}-{group.lower()}",
            f"Median {words} of the group {group}.",
            _measured(by.loc[f"{statistic.replace('-', '_')}_logit", group], "median", "", unit),
            f"{statistic}/{group}",
            why="a level of another world",
        )
        for statistic, words in (
            ("norm", "norm of the mean gradient"),
            ("cos-balanced", "cosine with the balanced sum, which holds the type itself"),
        )
        for group in paper.labelled(statistic)
    ]
    same = fewer.set_index("counts").loc["high-KL"]
    n = int(effects.n["norm"])
    return [
        *levels,
        verdicts.shown(
            "gradient-norm-plain",
            "Norms of mean gradients of rocks against rare high-KL types (rank-biserial).",
            _measured(effects.loc["norm"], "logit", "logit_", "token types"),
            locator=paper.number("norm-p").where,
            why="a mean of fewer occurrences has a larger norm, whatever the tokens",
        ),
        verdicts.shown(
            "gradient-norm-same-count",
            "The same with each rock at the number of occurrences of the high-KL type.",
            _measured(same, "rank_biserial", "", "token types") | {"n": n},
            locator="ours",
            why="at equal counts noise weighs alike on both, and it grows with the loss",
        ),
    ]


def persistence_claims(changed: pd.DataFrame, halves: pd.DataFrame) -> list[dict]:
    """Claims rows on early and late losses.

    The frames are `changes` and `split` of `rockstudy.gradients.steps`.
    """
    here = changed[changed.source == "here"].set_index("group")
    fresh = halves[halves.half == "other"].set_index("group")
    rock, high = (paper.number(f"persistence/{group}") for group in ("rock", "high-KL"))
    unit = "types (95% of random halves of the prompts)"
    return [
        verdicts.finding(
            "persistence-rock",
            "The loss of rocks persists: from an early to a late checkpoint it falls by less than "
            "half of what the paper's high-KL types fall by (relative change of the median).",
            _relative(here.loc["rock"], "types"),
            direction=verdicts.above(high.value / 2, widest=WIDEST_CHANGE),
            size=verdicts.near(rock.id, widest=WIDEST_CHANGE),
            number=rock.id,
            headline=True,
        ),
        verdicts.finding(
            "persistence-high-kl-falls",
            "The loss of rare high-KL types falls, on prompts that they were not chosen on "
            "(relative change of the median).",
            _relative(fresh.loc["high-KL"], unit),
            direction=verdicts.below(0, widest=WIDEST_CHANGE),
            size=verdicts.not_testable(
                "the paper's types were chosen on the prompts that measure them"
            ),
            number=high.id,
        ),
        verdicts.finding(
            "persistence-rock-above-high-kl",
            "Rocks keep more of their loss than rare high-KL types, on prompts that chose neither "
            "(difference of the relative changes).",
            _relative(fresh.loc["rock - high-KL"], unit),
            direction=verdicts.above(0, widest=WIDEST_CHANGE),
            locator=f"{high.where}, without this control",
        ),
        *(
            verdicts.shown(
                f"persistence-{group.lower()}-{what}",
                f"Median {what} mean KL of the group {group}, in nats.",
                _level(here.loc[group], what),
                f"kl-{what}/{group}",
                why="a level of another world",
            )
            for group in ("rock", "high-KL")
            for what in ("early", "late")
        ),
        verdicts.shown(
            "persistence-high-kl-plain",
            "Relative change of the median of rare high-KL types, on the prompts that chose them.",
            _relative(here.loc["high-KL"], "types"),
            high.id,
            why="a group chosen for its early loss falls by the choice alone",
        ),
        verdicts.shown(
            "persistence-rock-falls",
            "Share of rocks whose mean KL is lower late than early.",
            verdicts.share(int(here.n_fall["rock"]), int(here.n["rock"]), "rocks"),
            "persistence-falls/rock",
        ),
    ]


def _measured(row: pd.Series, value: str, ends: str, unit: str) -> dict[str, Any]:
    """A row's number, its interval in the columns ``<ends>lo`` and ``<ends>hi``, and its n."""
    measured = {"value": row[value], "lo": row[f"{ends}lo"], "hi": row[f"{ends}hi"]}
    return measured | {"unit": unit, "n": int(row.get("n", 0))}


def _relative(row: pd.Series, unit: str) -> Mapping[str, Any]:
    return _measured(row, "relative", "relative_", unit)


def _level(row: pd.Series, what: str) -> Mapping[str, Any]:
    return {"value": row[what], "unit": "types", "n": int(row.n)}
