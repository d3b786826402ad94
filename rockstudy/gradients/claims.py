"""Claims rows of notebook 04: gradients and persistence."""

from __future__ import annotations

import pandas as pd

from rockstudy.claims import paper, verdicts


def geometry_claims(
    norms: pd.DataFrame,
    compared: pd.DataFrame,
    moved: pd.DataFrame,
    halves: pd.DataFrame,
    grouped: pd.DataFrame,
) -> list[dict]:
    """Claims rows for the numbers of the paper's section on gradients and persistence.

    The frames are `gradient_medians`, `in_both_spaces`, `medians`, `split` and `by_group` of
    `rockstudy.gradients.steps`.
    """
    return [*_gradient_claims(norms, compared, grouped), *_persistence_claims(moved, halves)]


def _gradient_claims(
    norms: pd.DataFrame, compared: pd.DataFrame, grouped: pd.DataFrame
) -> list[dict]:
    by = norms.set_index(["statistic", "group"])
    unit = "types (interval over half-samples of prompts)"
    medians = [
        verdicts.holds(
            f"gradient-{statistic.split('-')[0]}-{group.lower()}",
            f"Median {words} of the group {group}.",
            f"{statistic}/{group}",
            _number(by.loc[f"{statistic.replace('-', '_')}_logit", group], "median", "", unit),
        )
        for statistic, words in (
            ("norm", "norm of the mean gradient"),
            ("cos-balanced", "cosine with the balanced sum"),
        )
        for group in paper.labelled(statistic)
    ]
    other = compared.set_index(["group", "statistic"]).loc["high-KL", "norm"]
    rocks = grouped[grouped.group == "rock"]
    above = int((rocks.cos_balanced_logit > paper.number("cos-balanced-some").value).sum())
    return [
        *medians,
        verdicts.sign(
            "gradient-norm-rock-below-high-kl",
            "Rocks have smaller mean gradients than rare high-KL types (rank-biserial).",
            None,
            _number(other, "logit", "logit_", "token types"),
            positive=False,
            headline=True,
            locator=paper.number("norm-p").where,
        ),
        verdicts.concludes(
            "gradient-norm-p",
            "Norms of mean gradients of rocks against rare high-KL types: Mann-Whitney p-value.",
            "norm-p",
            {"value": other.mann_whitney_p, "unit": "token types", "n": int(other.n)},
            same_side=other.logit < 0,
        ),
        verdicts.judged(
            "gradient-cos-rock-some",
            "Some rocks follow the balanced sum closely: rocks with a cosine above 0.3.",
            "cos-balanced-some",
            {"value": above, "unit": "rocks", "n": len(rocks)},
            verdict="reproduced" if above else "differs",
            reason="must be at least one rock; the paper's column holds the cosine",
        ),
    ]


def _persistence_claims(moved: pd.DataFrame, halves: pd.DataFrame) -> list[dict]:
    by = moved.set_index("group")
    high, size = by.loc["high-KL"], {"n": int(by.n["high-KL"]), "unit": "types"}
    fresh = halves.set_index(["group", "half"]).loc["high-KL", "other"]
    return [
        *(
            verdicts.holds(
                f"persistence-{group.lower()}-{what}",
                f"Median {what} mean KL of the group {group}, in nats.",
                f"kl-{what}/{group}",
                _number(by.loc[group], what, f"{what}_", "types (interval over prompts)"),
            )
            for group in ("high-KL", "rock")
            for what in ("early", "late")
        ),
        verdicts.holds(
            "persistence-high-kl-change",
            "Relative change of the median mean KL of the group high-KL from early to late.",
            "kl-change",
            {"value": high.late / high.early - 1} | size,
        ),
        verdicts.concludes(
            "persistence-high-kl-p",
            "The fall of the group high-KL as a Wilcoxon test over types, its p-value.",
            "kl-change-p",
            {"value": high.wilcoxon_p} | size,
            same_side=high.change < 0,
        ),
        verdicts.sign(
            "persistence-high-kl-falls-split-sample",
            "The loss of rare high-KL types falls from early to late also on prompts that they "
            "were not chosen on (median change in nats).",
            None,
            _number(fresh, "change", "change_", "types (range over random halves)"),
            positive=False,
            headline=True,
            locator=f"{paper.number('kl-change').where}, without this control",
        ),
    ]


def _number(row: pd.Series, value: str, ends: str, unit: str) -> dict:
    """A row's number, its interval in the columns ``<ends>lo`` and ``<ends>hi``, and its n."""
    measured = {"value": row[value], "lo": row[f"{ends}lo"], "hi": row[f"{ends}hi"]}
    return measured | {"unit": unit, "n": int(row.n)}
