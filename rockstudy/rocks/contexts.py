r"""Context consistency: how many of a token's other occurrences stand in a similar context.

For a persistent high-loss occurrence o of token type v,

    rho(o) = #{o' in O_PH(v), o' != o : sim(f_ctx(o), f_ctx(o')) >= gamma} / (|O_PH(v)| - 1)

with sim the cosine. f_ctx is one of `rockstudy.rocks.encoders`: the multiset of the window's token
ids, the mean of their input embeddings, or the model's hidden state (which sees everything before
the position instead of a window).

The paper counts o where rho(o) >= eta. rho is a share of few others, so chance alone takes it over
eta more often the fewer there are: with a true similarity of 0.05 and eta = 0.1, for 40% of the
occurrences of a type with 11 and for 10% with 51. `repeats` therefore tests it: given o, the others
are similar independently of each other, so their number is binomial, and the lower bound of Clopper
and Pearson (1934) lies above eta for at most 5% of the occurrences whose true similarity is at most
eta, however many others there are.

Departures: that bound is the default and ours; the share is `repeats = "share"`. The paper names w,
f_ctx, sim and gamma but gives no values. The choices here are ours.
How this can mislead: rho falls as a group's contexts get more varied, and a window of common tokens
is similar to many others by chance, so compare values at the same radius and gamma.

Source: arXiv 2605.09253, section 2. `neighbours` does the counting.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import sparse, stats

from rockstudy.errors import StudyError
from rockstudy.rocks import neighbours

LEVEL = 0.05  # ours: chance that the bound exceeds a similarity that is no higher than eta
_TOLERANCE = 1e-6  # ours: what float32 rounding can take from a similarity that equals gamma


def consistency(features: Any, groups: np.ndarray, gamma: float) -> np.ndarray:
    """Share of the other occurrences of the same group whose context is similar (paper 2).

    `features` are (N, F) sparse, or dense (N, H); similarity is the cosine of two rows, and a row
    of zeros, an empty window, is similar to nothing. `groups` is int (N,): the token type of each
    occurrence. `gamma` is the minimum similarity that counts, in (0, 1]; one up to 1e-6 below it
    counts too, because of rounding in float32.

    Returns float64 (N,); NaN where an occurrence is the only one of its group.

    `StudyError`: gamma out of bounds, groups that do not fit the features, or features that are not
    finite or have not two axes.

    Exact: every pair of a group counts, whatever its size; time grows with its square, memory does
    not. Dense features run on CUDA where there is one, sparse ones on the CPU.
    """
    if isinstance(gamma, bool) or not 0 < gamma <= 1:
        raise StudyError(f"gamma: must be in (0, 1]; got {gamma}")
    if features.ndim != 2:
        raise StudyError(f"features: must have two axes; got {features.shape}")
    groups = np.asarray(groups)
    if groups.shape != features.shape[:1] or not np.issubdtype(groups.dtype, np.integer):
        raise StudyError(
            f"groups: must be {features.shape[0]} integers; got {groups.dtype} {groups.shape}"
        )
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    least = max(gamma - _TOLERANCE, gamma / 2)  # above 0: no shared token is never similar
    count = neighbours.count_sparse if sparse.issparse(features) else neighbours.count_dense
    others = sizes[group] - 1
    similar = count(features, group, least)
    return np.divide(similar, others, out=np.full(len(group), math.nan), where=others > 0)


def repeats(rho: np.ndarray, groups: np.ndarray, eta: float, test: str) -> np.ndarray:
    """Whether the context of an occurrence repeats among those of its group, bool (N,).

    `rho` is `consistency` of the `groups`, both (N,). `test` is ``share`` (rho >= eta, as in the
    paper) or ``bound``: the one-sided lower bound of rho at `LEVEL`, exact for any number of
    others, exceeds eta. False where rho is NaN.
    """
    if test == "share":
        return rho >= eta
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    others = sizes - 1
    # the bound exceeds eta where P(Binomial(others, eta) >= similar) <= LEVEL
    needed = 1 + stats.binom.isf(LEVEL, others, eta)
    return np.rint(rho * others[group]) >= needed[group]
