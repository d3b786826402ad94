"""Selectors: other ways to choose the tokens that matter, to compare with the rocks.

A selector is a function of the token table and returns a number for each token type. The first K
types are its `TokenSet`. Types as frequent as the rocks are in `rockstudy.rocks.controls`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from rockstudy.config.registry import SELECTORS
from rockstudy.errors import StudyError
from rockstudy.rocks.token_set import TokenSet

FORKING = 0.2  # arXiv 2506.01939: the 20% of positions with the highest entropy
LEAST = 2  # the paper's code: rare high-KL types have at least 2 occurrences


@SELECTORS.register("forking")
def forking(tokens: pd.DataFrame) -> pd.Series:
    """Occurrences among the fifth of all positions with the highest student entropy.

    Wang et al. (arXiv 2506.01939) choose positions; a set of types is ours.
    """
    high = tokens.entropy_post >= tokens.entropy_post.quantile(1 - FORKING)
    return high.groupby(tokens.token_id).sum()


@SELECTORS.register("tip")
def tip(tokens: pd.DataFrame) -> pd.Series:
    """Mean of student entropy times reverse KL (after TIP, arXiv 2604.14084)."""
    return _means(tokens, tokens.entropy_post.astype(np.float64) * tokens.rkl_post)


@SELECTORS.register("entropy_teacher")
def entropy_teacher(tokens: pd.DataFrame) -> pd.Series:
    """Mean entropy of the teacher."""
    return _means(tokens, tokens.entropy_teacher)


@SELECTORS.register("rkl")
def rkl(tokens: pd.DataFrame) -> pd.Series:
    """Mean reverse KL after training: the rare types that are hard where they occur."""
    return _means(tokens, tokens.rkl_post)


@SELECTORS.register("frequency")
def frequency(tokens: pd.DataFrame) -> pd.Series:
    """Occurrences."""
    return tokens.groupby("token_id").size()


def _means(tokens: pd.DataFrame, values: pd.Series) -> pd.Series:
    """Mean of each type with at least `LEAST` occurrences."""
    grouped = values.astype(np.float64).groupby(tokens.token_id)
    return grouped.mean()[grouped.size() >= LEAST]


def select(tokens: pd.DataFrame, selector: str, k: int) -> TokenSet:
    """The first `k` types of a selector, ties by the smaller id.

    `tokens` has ``token_id, rkl_post, entropy_post, entropy_teacher``.
    `StudyError`: an unknown selector, or `k` above the number of types that it ranks.
    """
    ranked = SELECTORS[selector](tokens).sort_index().sort_values(ascending=False, kind="stable")
    if not 1 <= k <= len(ranked):
        raise StudyError(
            f"k: must be from 1 to {len(ranked)}, the types ranked by {selector}; got {k}"
        )
    return TokenSet.of(selector, ranked.index[:k])


def overlap(sets: list[TokenSet]) -> pd.DataFrame:
    """Jaccard index of every pair of sets: a symmetric frame by their names."""
    names = [one.name for one in sets]
    values = [[one.jaccard(other) for other in sets] for one in sets]
    return pd.DataFrame(values, index=names, columns=names)
