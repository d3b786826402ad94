"""Verdicts of notebook 04 where the truth of the frames is known."""

import numpy as np
import pandas as pd
import pytest

from rockstudy.claims import paper, records
from rockstudy.gradients import claims, published
from rockstudy.gradients.comparisons import in_order, norms_at_counts

RNG = np.random.default_rng(0)


def _persistence(rock, high):
    """Verdicts where rocks and high-KL types change by these shares, known to a hundredth."""
    early = RNG.uniform(0.9, 1.1, 60)
    groups = [("rock", early, 1 + rock), ("high-KL", early, 1 + high), ("random", early, 1.0)]
    types = pd.concat(
        pd.DataFrame({"group": name, "early": e, "late": e * factor * RNG.uniform(0.98, 1.02, 60)})
        for name, e, factor in groups
    )
    changed = published.changes(types, RNG).assign(source="here")
    apart = {"rock": rock, "high-KL": high, "rock - high-KL": rock - high}
    halves = pd.DataFrame(
        {"group": name, "half": "other", "n": 60, "relative": value,
         "relative_lo": value - 0.01, "relative_hi": value + 0.01}
        for name, value in apart.items()
    )  # fmt: skip
    rows = claims.persistence_claims(changed, halves)
    assert all(records._claim(row, 1) for row in rows)  # what the table of claims accepts
    return {row["claim"]: row for row in rows}


def test_the_papers_changes_are_reproduced_and_the_opposite_differs():
    rock, high = (paper.number(f"persistence/{name}").value for name in ("rock", "high-KL"))
    same = _persistence(rock, high)
    for name in ("persistence-rock", "persistence-high-kl-falls", "persistence-rock-above-high-kl"):
        assert same[name]["direction"] == "reproduced"
    assert same["persistence-rock"]["size"] == "reproduced"
    other = _persistence(high, 0.1)
    for name in ("persistence-rock", "persistence-high-kl-falls", "persistence-rock-above-high-kl"):
        assert other[name]["direction"] == "differs"
    assert other["persistence-rock"]["size"] == "differs"


def _gradients(cosines, largest, effect):
    """Verdicts where the groups' cosines centre on some values, and an effect of norms is known."""
    values = {
        name: RNG.normal(mean, 0.01, 60)
        for name, mean in zip(("rock", "high-KL", "random"), cosines, strict=True)
    }
    grouped = pd.DataFrame(
        {"group": name, "count": 5, "norm_logit": 1.0, "mean_square_logit": 2.0,
         "cos_others_logit": v, "cos_others_logit_se": 0.02}
        for name, group in values.items() for v in group
    )  # fmt: skip
    grouped.loc[0, "cos_others_logit"] = largest
    compared = pd.DataFrame(
        {"group": "high-KL", "statistic": name, "logit": effect, "logit_lo": effect - 0.1,
         "logit_hi": effect + 0.1, "mann_whitney_p": 0.0, "n": 120}
        for name in ("norm", "square")
    )  # fmt: skip
    norms = pd.DataFrame(
        {"statistic": name, "group": group, "median": 0.1, "lo": 0.0, "hi": 0.2, "n": 60}
        for name in ("norm_logit", "cos_balanced_logit") for group in values
    )  # fmt: skip
    order = in_order(values, RNG).assign(statistic="cos_others")
    rows = claims.gradient_claims(norms, compared, norms_at_counts(grouped, RNG), order, grouped)
    assert all(records._claim(row, 1) for row in rows)
    return {row["claim"]: row for row in rows}


@pytest.mark.parametrize(
    ("cosines", "largest", "effect", "verdict"),
    [
        ((0.2, 0.1, 0.0), 0.5, -0.8, "reproduced"),
        ((0.1, 0.2, 0.0), 0.2, 0.8, "differs"),
        ((0.2, 0.1, 0.1), 0.35, -0.05, "inconclusive"),  # one step of the order is a tie
    ],
)
def test_norms_order_and_largest_cosine_have_the_verdict_of_their_truth(
    cosines, largest, effect, verdict
):
    rows = _gradients(cosines, largest, effect)
    for name in ("norm-rock-below-high-kl", "cos-order", "cos-rock-some"):
        assert rows[f"gradient-{name}"]["direction"] == verdict
    assert rows["gradient-norm-same-count"]["kind"] == "shown"
