"""Claims rows of notebooks 02 and 03: figure 2 and the clusters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from rockstudy import intervals
from rockstudy.claims import paper, verdicts
from rockstudy.rocks.steps import BOTH
from rockstudy.runs import Run

WIDEST = 0.1  # ours: half width of a share or an index that still tells where it lies
CLUSTER_WIDEST = 0.25  # ours: of a difference of shares over a few tens of pairs of types
CLUSTERS = ("latex", "structure", "marker", "digit")  # paper appendix B
SAME_SHARE = 0.25  # ours: relative difference of two set sizes that still compare


def rock_claims(
    run: Run,
    types: pd.DataFrame,
    outputs: pd.DataFrame,
    stable: pd.DataFrame,
    halves: pd.DataFrame,
    vocabulary: int,
    rng: np.random.Generator,
) -> list[dict]:
    """Claims rows of figure 2: coverage, stability and densities, for the study's own score.

    The arguments are the tables of `rockstudy.rocks.steps`. The paper's 100 and 50 types correspond
    to K and K / 2 here, its 500 to 5 K.
    """
    k, n_types, theirs = run.config.rocks.size(len(types)), len(types), paper.number
    asked = theirs("share-of-observed").value
    comparable = abs(k / n_types / asked - 1) <= SAME_SHARE
    other_size = f"K is {k / n_types:.1%} of the observed types, the paper's {asked:.1%}"

    def near(number: str) -> verdicts.Judge:
        """The size of a number that grows with the share of the types that are rocks."""
        if not comparable:
            return verdicts.not_testable(other_size)
        return verdicts.near(number, widest=WIDEST)

    own = halves[halves.selector == run.config.rocks.selector]
    at = {"full": own[own.k == k], "half": own[own.k == max(1, k // 2)]}
    fresh, half, chose = (
        _row(at[size], measure)
        for size, measure in (("full", "fresh"), ("half", "fresh"), ("full", "whole"))
    )
    rows = [
        verdicts.finding(
            "rock-coverage",
            f"The first {k} types, {k / n_types:.1%} of those observed, carry most of the loss "
            "after OPD on prompts that did not choose them.",
            fresh,
            direction=verdicts.above(0.5, widest=WIDEST),
            size=near("coverage/100"),
            number="coverage/100",
            headline=True,
        ),
        verdicts.finding(
            "rock-coverage-half",
            f"Half of them, {max(1, k // 2)} types, carry almost as much of it.",
            half,
            direction=None,
            size=near("coverage/50"),
            number="coverage/50",
        ),
        verdicts.shown(
            "rock-coverage-chosen",
            "Coverage on the prompts that chose the types, as the paper measures it.",
            chose,
            "coverage/100",
            why="a set carries more where it was chosen",
        ),
        *_stability_claims(stable, k, near("jaccard/100")),
        *_density_claims(outputs, near, rng),
    ]
    for name in BOTH:
        if name != run.config.rocks.selector:
            of_other = halves[(halves.selector == name) & (halves.k == k)]
            rows.append(
                verdicts.shown(
                    f"rock-coverage-{name}",
                    f"Coverage of the first {k} types by {name} on prompts that did not choose "
                    "them.",
                    _row(of_other, "fresh"),
                    "coverage/100",
                    why="the paper's curve is of R",
                )
            )
    return rows + _sizes(k, n_types, len(outputs), vocabulary)


def _row(rows: pd.DataFrame, measure: str) -> Mapping[str, Any]:
    return rows[rows.measure == measure].iloc[0].to_dict()


def _sizes(k: int, n_types: int, n_outputs: int, vocabulary: int) -> list[dict]:
    """What the study's own settings and vocabulary decide."""
    asked = "it is what rocks__k asks for"
    return [
        verdicts.shown(
            "rock-share-of-vocabulary",
            f"The first {k} types as a share of the vocabulary.",
            {"value": k / vocabulary, "n": vocabulary, "unit": "token ids"},
            "share-of-vocabulary",
            why=asked,
        ),
        verdicts.shown(
            "rock-share-of-observed",
            f"The first {k} types as a share of the observed types.",
            {"value": k / n_types, "n": n_types, "unit": "observed types"},
            "share-of-observed",
            why=asked,
        ),
        verdicts.shown(
            "rock-observed-types",
            "Distinct token types in the completions.",
            {"value": n_types, "n": n_outputs, "unit": "completions"},
            "observed-types",
            why="the vocabulary is a different one",
        ),
    ]


def _stability_claims(stable: pd.DataFrame, k: int, size: verdicts.Judge) -> list[dict]:
    """The Jaccard index at K, nested as in the paper, and how it falls beyond the cut-off."""
    average, fall = (stable[stable.kind == kind].set_index("k") for kind in ("average", "fall"))
    ks = average.index.to_numpy()
    at, half, far = (int(ks[np.abs(ks - wanted).argmin()]) for wanted in (k, k / 2, 5 * k))
    apart = stable[(stable.kind == "disjoint") & (stable.k == at)]
    apart = apart.loc[apart.n.idxmax()]
    sizes = stable[stable.kind == "nested"].n.nunique()
    unit = {"unit": "sizes of sub-corpora (range of draws of one of each)", "n": sizes}
    bound = paper.number("jaccard-to-cutoff").value

    def index(row: pd.Series) -> dict[str, Any]:
        return {"value": row.jaccard, "lo": row.lo, "hi": row.hi} | unit

    falls = (
        "rock-jaccard-falls",
        f"Beyond the cut-off the set is less stable: mean Jaccard index at K = {at} minus that at "
        f"K = {far}.",
    )
    where = {"locator": paper.number("jaccard-floor").where}
    beyond = far >= 4 * at
    why = verdicts.not_run(f"only {ks.max()} types have a positive score, K is {k}")
    return [
        verdicts.finding(
            "rock-jaccard",
            f"The first {at} types of a sub-corpus agree with those of all prompts (mean Jaccard "
            f"index above {bound:g}).",
            index(average.loc[at]),
            direction=verdicts.above(bound, widest=WIDEST),
            size=size,
            number="jaccard/100",
            headline=True,
        ),
        verdicts.finding(
            *falls,
            index(fall.loc[far]) if beyond else None,
            direction=verdicts.above(0, widest=WIDEST) if beyond else why,
            **where,
        ),
        verdicts.shown(
            "rock-jaccard-disjoint",
            f"The first {at} types of two sub-corpora of {apart.n} prompts that share none.",
            {"value": apart.jaccard, "lo": apart.lo, "hi": apart.hi, "n": apart.n,
             "unit": "prompts in a sub-corpus (range of draws)"},
            "jaccard/100",
            why="the paper's sub-corpora are part of what they are compared with",
        ),
        verdicts.shown(
            "rock-jaccard-half",
            f"Mean Jaccard index of the first {half} types, half of the rocks.",
            index(average.loc[half]),
            "jaccard/50",
        ),
    ]  # fmt: skip


def _density_claims(outputs: pd.DataFrame, near: Any, rng: np.random.Generator) -> list[dict]:
    """Density by both definitions of a rock, each against the paper's number of its kind."""
    kinds = {
        "types": ("whose type is a rock", "density/plot"),
        "occurrences": ("that are rock occurrences, the context filter passed", "density/text"),
    }
    return [
        verdicts.finding(
            f"rock-density-{name}",
            f"Median share of an output's tokens {meaning}.",
            intervals.prompt_median(outputs, name, rng),
            direction=None,
            size=near(number),
            number=number,
        )
        for name, (meaning, number) in kinds.items()
    ]


def category_claims(enriched: pd.DataFrame | None, why: str = "not matched") -> list[dict]:
    """Claims rows of the clusters; ``not run``, and why, where no control set can be matched.

    Shares of one table add up to 1, so there is one finding: that rocks are words less often. The
    clusters are shown beside it.
    """
    by = {} if enriched is None else enriched.set_index("category").to_dict("index")
    if enriched is not None:
        why = "neither the rocks nor their controls include a word"
    measured = {name: row | {"value": row["difference"]} for name, row in by.items()}
    locator = f"{paper.number('clusters').where}; no number is given"
    words = measured.pop("word", None)
    finding = verdicts.finding(
        "rocks-word",
        "Rocks are markup, markers and digits rather than words: words are rarer among them than "
        "among controls of the same frequency (share of rocks minus share of controls).",
        words,
        direction=verdicts.below(0, widest=CLUSTER_WIDEST) if words else verdicts.not_run(why),
        locator=locator,
        headline=True,
    )
    clusters = [
        verdicts.shown(
            f"rocks-{name}",
            f"The category {name}: share of rocks minus share of controls.",
            measured[name],
            locator=locator,
        )
        for name in CLUSTERS
        if name in measured
    ]
    return [finding, *clusters]
