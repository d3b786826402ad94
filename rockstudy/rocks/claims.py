"""Claims rows of notebooks 02 and 03: figure 2 and the clusters."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rockstudy import intervals
from rockstudy.claims import paper, verdicts
from rockstudy.runs import Run


def rock_claims(
    run: Run,
    types: pd.DataFrame,
    outputs: pd.DataFrame,
    stable: pd.DataFrame,
    vocabulary: int,
    rng: np.random.Generator,
) -> list[dict]:
    """Claims rows of figure 2: coverage, Jaccard index, densities and the size of the rock set.

    The paper's cut-offs of 50, 100 and 150 correspond to K/2, K and 3K/2 here.
    """
    k = run.config.rocks.k
    rows = [*_coverage_claims(types, outputs, k, rng), *_jaccard_claims(stable, k)]
    rows += _density_claims(outputs, rng)
    size = {"value": k / vocabulary, "n": vocabulary, "unit": "token ids"}
    observed = {"value": k / len(types), "n": len(types), "unit": "observed types"}
    count = {"value": len(types), "n": len(outputs), "unit": "completions"}
    return [
        *rows,
        verdicts.holds(
            "rock-share-of-vocabulary",
            f"The top {k} as a share of the vocabulary.",
            "share-of-vocabulary",
            size,
        ),
        verdicts.holds(
            "rock-share-of-observed",
            f"The top {k} as a share of the observed types.",
            "share-of-observed",
            observed,
        ),
        verdicts.shown(
            "rock-observed-types",
            "Distinct token types in the completions.",
            "observed-types",
            count,
            "the vocabulary is a different one",
        ),
    ]


def _coverage_claims(
    types: pd.DataFrame, outputs: pd.DataFrame, k: int, rng: np.random.Generator
) -> list[dict]:
    unit = {"cluster": "prompt_index", "rng": rng, "unit": "prompts"}
    half = max(1, k // 2)
    carried = types.nsmallest(half, "rank").score.sum() / types.score.sum()
    return [
        verdicts.holds(
            "rock-coverage",
            f"The top {k} types carry a large part of the loss after OPD.",
            "coverage/100",
            intervals.cluster_ratio(outputs, "loss_rocks", "loss_sum", **unit),
            headline=True,
        ),
        verdicts.holds(
            "rock-coverage-half",
            f"The top {half}, half of the rocks, carry almost as much of the loss after OPD.",
            "coverage/50",
            {"value": carried, "n": len(types), "unit": "observed types"},
        ),
    ]


def _jaccard_claims(stable: pd.DataFrame, k: int) -> list[dict]:
    """The average Jaccard index at K, at half of K, and from one and a half times K on."""
    largest = int(stable.k.max())
    near = [min(stable.k, key=lambda at, cut=cut: abs(at - cut)) for cut in (k, k / 2)]
    at_k, at_half = (_jaccard(stable[stable.k == at]) for at in near)
    rows = [
        verdicts.exceeds(
            "rock-jaccard",
            f"The top {near[0]} of a sub-corpus agrees with the top {near[0]} of the whole corpus "
            "(mean Jaccard index).",
            "jaccard-to-cutoff",
            at_k,
            headline=True,
        ),
        verdicts.holds(
            "rock-jaccard-half",
            f"The top {near[1]}, half of the rocks, is more stable (mean Jaccard index).",
            "jaccard-at-50",
            at_half,
        ),
    ]
    floor = (
        "rock-jaccard-floor",
        "Beyond one and a half times K the mean Jaccard index falls to a floor.",
    )
    beyond = stable[stable.k >= 1.5 * k]
    if beyond.empty:
        why = f"only {largest} types have a positive score, K is {k}"
        return [*rows, verdicts.not_run(*floor, "jaccard-floor", why)]
    return [*rows, verdicts.holds(*floor, "jaccard-floor", _jaccard(beyond))]


def _jaccard(rows: pd.DataFrame) -> dict:
    """Mean over sizes of sub-corpora, with the mean of the ranges of their draws."""
    return {
        "value": rows.jaccard.mean(),
        "lo": rows.lo.mean(),
        "hi": rows.hi.mean(),
        "unit": "sizes of sub-corpora (mean of the 95% ranges of their draws)",
        "n": rows.n.nunique(),
    }


def _density_claims(outputs: pd.DataFrame, rng: np.random.Generator) -> list[dict]:
    """Density by both definitions of a rock, against both numbers of the paper."""
    meanings = {"types": "whose type is a rock", "occurrences": "that are rock occurrences"}
    places = {"text": "18% in its text, 18.5% in a caption", "plot": "52.5% in its plot"}
    rows = []
    for name, meaning in meanings.items():
        median = intervals.cluster_median(outputs, name, "prompt_index", rng, unit="prompts")
        for place, said in places.items():
            rows.append(
                verdicts.holds(
                    f"rock-density-{name}-{place}",
                    f"Median share of an output's tokens {meaning} (the paper: {said}).",
                    f"density/{place}",
                    median,
                    headline=(name, place) == ("types", "text"),
                )
            )
    return rows


def category_claims(enriched: pd.DataFrame | None, why: str = "not matched") -> list[dict]:
    """Claims rows of the clusters; ``not run``, and why, where no control set can be matched."""
    rows = []
    for name in ("latex", "structure", "marker", "digit", "word"):
        fewer = name == "word"
        about = (
            f"rocks-{name}",
            f"The category {name} is {'rarer' if fewer else 'more common'} among rocks than among "
            "controls of the same frequency (share of rocks minus share of controls).",
            None,  # the paper gives no number
        )
        more = {"locator": f"{paper.number('clusters').where}; no number is given"}
        of_category = None if enriched is None else enriched[enriched.category == name]
        if of_category is None or of_category.empty:
            reason = why if enriched is None else "neither the rocks nor their controls include one"
            rows.append(verdicts.not_run(*about, reason, headline=True, **more))
            continue
        one = of_category.iloc[0]
        number = {"value": one.difference, "lo": one.lo, "hi": one.hi, "unit": one.unit}
        number |= {"n": int(one.n)}
        rows.append(verdicts.sign(*about, number, positive=not fewer, headline=True, **more))
    return rows
