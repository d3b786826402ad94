"""Other answers to "which tokens matter": each gives a `TokenSet` that can stand for the rocks.

A selector ranks the observed token types by one number from the type table or the token table and
takes the first K:

    forking          share of its occurrences among the fifth of all positions with the highest
                     student entropy, times their number: how many of them it holds (Wang et al.,
                     arXiv 2506.01939, choose positions; a type-level set is ours)
    tip              mean of student entropy x reverse KL (after TIP, arXiv 2604.14084)
    entropy_teacher  mean entropy of the teacher
    rkl              mean reverse KL after training: the rare types that are hard where they occur
    frequency        occurrences
    random           types drawn at random, each as frequent as a rock: matched controls
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from rockstudy.config import StudyError, unknown
from rockstudy.tokens import TokenSet

FORKING = 0.2  # arXiv 2506.01939: the 20% of positions with the highest entropy
SELECTORS = ("forking", "tip", "entropy_teacher", "rkl", "frequency")
LEAST = 2  # paper 2.6: rare high-KL types have at least 2 occurrences


def scores(tokens: pd.DataFrame, selector: str) -> pd.Series:
    """The number that a selector ranks token types by, indexed by ``token_id``.

    Parameters
    ----------
    tokens
        Token table with ``token_id, rkl_post, entropy_post, entropy_teacher``.
    selector
        One of `SELECTORS`.

    Raises
    ------
    StudyError
        An unknown selector.
    """
    if selector not in SELECTORS:
        raise StudyError(unknown("selector", selector, SELECTORS))
    if selector == "forking":
        value = tokens.entropy_post >= tokens.entropy_post.quantile(1 - FORKING)
        return value.groupby(tokens.token_id).sum()
    if selector == "frequency":
        return tokens.groupby("token_id").size()
    values = {
        "tip": tokens.entropy_post.astype(np.float64) * tokens.rkl_post,
        "entropy_teacher": tokens.entropy_teacher.astype(np.float64),
        "rkl": tokens.rkl_post.astype(np.float64),
    }
    grouped = values[selector].groupby(tokens.token_id)
    return grouped.mean()[grouped.size() >= LEAST]


def select(tokens: pd.DataFrame, selector: str, k: int) -> TokenSet:
    """The first `k` types of a selector, ties by the smaller id.

    Raises
    ------
    StudyError
        An unknown selector, or `k` above the number of types that it ranks.
    """
    ranked = scores(tokens, selector).sort_index().sort_values(ascending=False, kind="stable")
    if not 1 <= k <= len(ranked):
        raise StudyError(
            f"k: must be from 1 to {len(ranked)}, the types ranked by {selector}; got {k}"
        )
    return TokenSet.of(selector, ranked.index[:k].to_numpy(), selector=selector, k=k)


def overlap(sets: list[TokenSet]) -> pd.DataFrame:
    """Jaccard index of every pair of sets: a symmetric frame by their names."""
    names = [one.name for one in sets]
    values = [[one.jaccard(other) for other in sets] for one in sets]
    return pd.DataFrame(values, index=names, columns=names)
