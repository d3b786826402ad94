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
    k, n_types = run.config.rocks.size(len(types)), len(types)
    half, chosen = max(1, k // 2), "it is what rocks__k asks for"
    carried = types.nsmallest(half, "rank").score.sum() / types.score.sum()
    return [
        verdicts.holds(
            "rock-coverage",
            f"The top {k} types carry a large part of the loss after OPD.",
            "coverage/100",
            intervals.prompt_ratio(outputs, "loss_rocks", "loss_sum", rng),
            headline=True,
        ),
        verdicts.holds(
            "rock-coverage-half",
            f"The top {half}, half of the rocks, carry almost as much of the loss after OPD.",
            "coverage/50",
            {"value": carried, "n": n_types, "unit": "observed types"},
        ),
        *_jaccard_claims(stable, k),
        *_density_claims(outputs, rng),
        verdicts.shown(
            "rock-share-of-vocabulary",
            f"The top {k} as a share of the vocabulary.",
            "share-of-vocabulary",
            {"value": k / vocabulary, "n": vocabulary, "unit": "token ids"},
            chosen,
        ),
        verdicts.shown(
            "rock-share-of-observed",
            f"The top {k} as a share of the observed types.",
            "share-of-observed",
            {"value": k / n_types, "n": n_types, "unit": "observed types"},
            chosen,
        ),
        verdicts.shown(
            "rock-observed-types",
            "Distinct token types in the completions.",
            "observed-types",
            {"value": n_types, "n": len(outputs), "unit": "completions"},
            "the vocabulary is a different one",
        ),
    ]


def _jaccard_claims(stable: pd.DataFrame, k: int) -> list[dict]:
    """The average Jaccard index at K, at half of K, and from one and a half times K on."""
    at_k, at_half = (min(stable.k, key=lambda at, cut=cut: abs(at - cut)) for cut in (k, k / 2))
    beyond = stable[stable.k >= 1.5 * k]
    floor = (
        "rock-jaccard-floor",
        "Beyond one and a half times K the mean Jaccard index falls to a floor.",
        "jaccard-floor",
    )
    why = f"only {stable.k.max()} types have a positive score, K is {k}"
    return [
        verdicts.exceeds(
            "rock-jaccard",
            f"The top {at_k} of a sub-corpus agrees with the top {at_k} of the whole corpus "
            "(mean Jaccard index).",
            "jaccard-to-cutoff",
            _jaccard(stable[stable.k == at_k]),
            headline=True,
        ),
        verdicts.holds(
            "rock-jaccard-half",
            f"The top {at_half}, half of the rocks, is more stable (mean Jaccard index).",
            "jaccard-at-50",
            _jaccard(stable[stable.k == at_half]),
        ),
        verdicts.not_run(*floor, why) if beyond.empty else verdicts.holds(*floor, _jaccard(beyond)),
    ]


def _jaccard(rows: pd.DataFrame) -> dict:
    """Mean over sizes of sub-corpora, with the mean of the ranges of their draws."""
    unit = "sizes of sub-corpora (mean of the 95% ranges of their draws)"
    ends = {"value": rows.jaccard.mean(), "lo": rows.lo.mean(), "hi": rows.hi.mean()}
    return ends | {"unit": unit, "n": rows.n.nunique()}


def _density_claims(outputs: pd.DataFrame, rng: np.random.Generator) -> list[dict]:
    """Density by both definitions of a rock, against both numbers of the paper."""
    meanings = {"types": "whose type is a rock", "occurrences": "that are rock occurrences"}
    places = {"text": "18% in its text, 18.5% in a caption", "plot": "52.5% in its plot"}
    medians = {name: intervals.prompt_median(outputs, name, rng) for name in meanings}
    return [
        verdicts.holds(
            f"rock-density-{name}-{place}",
            f"Median share of an output's tokens {meaning} (the paper: {said}).",
            f"density/{place}",
            medians[name],
            headline=(name, place) == ("types", "text"),
        )
        for name, meaning in meanings.items()
        for place, said in places.items()
    ]


def category_claims(enriched: pd.DataFrame | None, why: str = "not matched") -> list[dict]:
    """Claims rows of the clusters; ``not run``, and why, where no control set can be matched."""
    by = {} if enriched is None else enriched.set_index("category").to_dict("index")
    if enriched is not None:
        why = "neither the rocks nor their controls include one"
    about: dict = {"locator": f"{paper.number('clusters').where}; no number is given"}
    about["headline"] = True
    rows = []
    for name in ("latex", "structure", "marker", "digit", "word"):
        fewer = name == "word"
        claim = (
            f"rocks-{name}",
            f"The category {name} is {'rarer' if fewer else 'more common'} among rocks than among "
            "controls of the same frequency (share of rocks minus share of controls).",
            None,  # the paper gives no number
        )
        if name in by:
            number = by[name] | {"value": by[name]["difference"]}
            rows.append(verdicts.sign(*claim, number, positive=not fewer, **about))
        else:
            rows.append(verdicts.not_run(*claim, why, **about))
    return rows
