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

    Parameters
    ----------
    norms, compared, moved, halves, grouped
        `gradient_medians`, `in_both_spaces`, `medians`, `split`, and `by_group` of `gradients`.
    """
    return [*_gradient_claims(norms, compared, grouped), *_persistence_claims(moved, halves)]


def _gradient_claims(
    norms: pd.DataFrame, compared: pd.DataFrame, grouped: pd.DataFrame
) -> list[dict]:
    rows = []
    for statistic, words in (
        ("norm", "norm of the mean gradient"),
        ("cos-balanced", "cosine with the balanced sum"),
    ):
        of = norms[norms.statistic == f"{statistic.replace('-', '_')}_logit"].set_index("group")
        for group in paper.labelled(statistic):
            one = of.loc[group]
            number = {"value": one["median"], "lo": one.lo, "hi": one.hi, "n": int(one.n)}
            rows.append(
                verdicts.holds(
                    f"gradient-{statistic.split('-')[0]}-{group.lower()}",
                    f"Median {words} of the group {group}.",
                    f"{statistic}/{group}",
                    number | {"unit": "types (interval over half-samples of prompts)"},
                )
            )
    other = compared[(compared.group == "high-KL") & (compared.statistic == "norm")].iloc[0]
    size = {"unit": "token types", "n": int(other.n)}
    rocks = grouped[grouped.group == "rock"]
    above = int((rocks.cos_balanced_logit > paper.number("cos-balanced-some").value).sum())
    return [
        *rows,
        verdicts.sign(
            "gradient-norm-rock-below-high-kl",
            "Rocks have smaller mean gradients than rare high-KL types (rank-biserial).",
            None,
            {"value": other.logit, "lo": other.logit_lo, "hi": other.logit_hi} | size,
            positive=False,
            headline=True,
            locator=paper.number("norm-p").where,
        ),
        verdicts.concludes(
            "gradient-norm-p",
            "Norms of mean gradients of rocks against rare high-KL types: Mann-Whitney p-value.",
            "norm-p",
            {"value": other.mann_whitney_p} | size,
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
    rows, by = [], moved.set_index("group")
    for group in ("high-KL", "rock"):
        one = by.loc[group]
        for what in ("early", "late"):
            number = {"value": one[what], "lo": one[f"{what}_lo"], "hi": one[f"{what}_hi"]}
            rows.append(
                verdicts.holds(
                    f"persistence-{group.lower()}-{what}",
                    f"Median {what} mean KL of the group {group}, in nats.",
                    f"kl-{what}/{group}",
                    number | {"n": int(one.n), "unit": "types (interval over prompts)"},
                )
            )
    high = by.loc["high-KL"]
    size = {"n": int(high.n), "unit": "types"}
    fresh = halves[(halves.group == "high-KL") & (halves.half == "other")].iloc[0]
    change = {"value": fresh.change, "lo": fresh.change_lo, "hi": fresh.change_hi}
    return [
        *rows,
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
            change | {"n": int(fresh.n), "unit": "types (range over random halves)"},
            positive=False,
            headline=True,
            locator=f"{paper.number('kl-change').where}, without this control",
        ),
    ]
