r"""Are rocks types, or positions? The loss standardised for the place in a completion.

Positions are binned (`BINS`) in two ways, since a loss may belong to the beginning, whatever is
written, or to the end, wherever that is: by the number of tokens before, in bins that double in
width (the first tokens differ most from one another, and deciles would pool them), and by tenths of
the completion. With n_vb the occurrences of type v in bin b, R_vb their loss, and dots for sums:

    along     a_b = R_.b / n_.b - R_.. / n_..       how far a bin's mean loss is from the mean
    within    c_b of  l_i = mean + t_v + c_b + e_i  least squares, sum_b n_.b c_b = 0

    R_std(v) = R(v) - sum_b n_vb a_b                or with c_b: R at the average position
    explained = sum_rocks sum_b n_vb a_b / sum_rocks (R(v) - n_v mean)

``explained`` is the share of what the rocks lose above average that their positions' means
account for (indirect standardisation). Of positions with many hard types a_b is high though a type
may lose the same everywhere, so that ``along`` credits position with what its types lose.
``within`` compares occurrences of one type in different bins, and gives position what types cannot
explain; it is negative where rocks stand at positions that are easier for the same type.

How this can mislead: a type that is only ever in one bin says nothing about it, and where bin and
type are one (the first token), neither way can tell them apart: ``within`` then credits the type.
The rocks are held fixed in the intervals of ``explained``, and chosen anew in those of the indices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.random import Generator
from scipy import sparse

from rockstudy.intervals import ends, resample
from rockstudy.rocks.subcorpora import agreement, ranked

TENTHS = 10  # ours: bins of the share of a completion
DRAWS = 500  # ours: resampled sets of prompts, of which about 12 are beyond each end
WAYS = ("along", "within")


def _from_start(tokens: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Bins of the tokens before a position, [2^b - 1, 2^(b + 1) - 1): codes (N,), left edges."""
    codes = np.log2(tokens.position.to_numpy(np.float64) + 1).astype(np.int64)
    return codes, 2.0 ** np.arange(codes.max() + 1) - 1


def _of_completion(tokens: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Tenths of the completion: codes (N,), left edges."""
    length = tokens.groupby(["prompt_index", "sample_index"]).position.transform("size")
    codes = (tokens.position * TENTHS // length).to_numpy(np.int64)
    return codes, np.arange(TENTHS) / TENTHS


BINS: dict[str, Callable[[pd.DataFrame], tuple[np.ndarray, np.ndarray]]] = {
    "tokens before": _from_start,
    "share of the completion": _of_completion,
}


class Standardised(NamedTuple):
    """What position explains, by both of `WAYS`: the first axis (2, ...)."""

    effects: np.ndarray  # (2, B) nats: a_b and c_b
    scores: np.ndarray  # (2, V) nats: R_std
    explained: np.ndarray  # (2,); NaN where the rocks lose no more than the average


def standardise(count: np.ndarray, loss: np.ndarray, rocks: np.ndarray) -> Standardised:
    """Standardise the loss of types in bins; `rocks` is bool (V,), which types are rocks.

    `count` and `loss` are (V, B): occurrences of each type in each bin, and their loss in nats.
    """
    of_bin, n = count.sum(0), count.sum()
    mean = loss.sum() / n
    along = np.divide(loss.sum(0), of_bin, out=np.full(len(of_bin), mean), where=of_bin > 0) - mean
    effects = np.stack([along, within_types(count, loss)])
    due = effects @ count.T  # (2, V): loss by position alone, beyond the average
    score = loss.sum(1)
    excess = score[rocks].sum() - mean * count[rocks].sum()
    share = due[:, rocks].sum(1) / excess if excess > 0 else np.full(2, np.nan)
    return Standardised(effects, score - due, share)


def within_types(count: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Effects of the bins beside those of the types, by least squares; nats (B,).

    The effects of V types are eliminated, so that B equations are left. What the types of a bin
    alone explain, since they are in no other one, is theirs: the solution of least norm.
    """
    seen = count.sum(1) > 0
    count, loss = count[seen], loss[seen]
    share = count / count.sum(1, keepdims=True)
    left = np.diag(count.sum(0)) - count.T @ share
    right = loss.sum(0) - share.T @ loss.sum(1)
    effect = np.linalg.pinv(left, rcond=1e-9, hermitian=True) @ right
    return effect - count.sum(0) @ effect / count.sum()


def by_position(
    tokens: pd.DataFrame, losses: Sequence[str], rocks: Sequence[int], k: int, rng: Generator
) -> pd.DataFrame:
    """The loss along the completion, and what it says about the rocks.

    `tokens` is the token table, `losses` its columns to look at, such as ``rkl_pre``, `rocks` the
    ids of the rocks, and `k` the size of the sets that are compared.

    Returns ``by`` (one of `BINS`), ``loss, measure, way`` (one of `WAYS`), ``start, value, lo, hi,
    unit, n``. For each bin, from ``start`` on: ``mean`` loss in nats, along the completion as it
    is, and within types (the mean of all plus c_b); ``rocks``, the share of the bin's positions
    that are of a rock type. For all bins: ``explained``; ``jaccard``, the index of the first K
    types by R_std with those by R. 95% intervals over prompts.
    """
    frames = []
    for by, binned in BINS.items():
        codes, starts = binned(tokens)
        for column in losses:
            of_bins, of_all = _measured(tokens, codes, len(starts), column, rocks, k, rng)
            of_bins = of_bins.assign(start=np.tile(starts, len(of_bins) // len(starts)))
            if column != losses[0]:  # the share of rocks has no loss
                of_bins = of_bins[of_bins.measure != "rocks"]
            both = pd.concat([of_bins, of_all], ignore_index=True)
            frames.append(both.assign(by=by, loss=column))
    table = pd.concat(frames, ignore_index=True)
    table = table[["by", "loss", "measure", "way", "start", "value", "lo", "hi"]]
    return table.assign(unit="prompts", n=tokens.prompt_index.nunique())


def _measured(
    tokens: pd.DataFrame,
    codes: np.ndarray,
    n_bins: int,
    column: str,
    rocks: Sequence[int],
    k: int,
    rng: Generator,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The measures of each bin and those of all: ``measure, way, value, lo, hi``."""
    _, prompt = np.unique(tokens.prompt_index.to_numpy(), return_inverse=True)
    ids, types = np.unique(tokens.token_id.to_numpy(), return_inverse=True)
    chosen, shape = np.isin(ids, list(rocks)), (len(ids), n_bins)
    place = (types * n_bins + codes, prompt)
    of_prompts = [
        sparse.csr_array((values, place), shape=(len(ids) * n_bins, prompt.max() + 1))
        for values in (np.ones(len(tokens)), tokens[column].to_numpy(np.float64))
    ]

    def measures(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of prompts with weights (U,): the measures of bins (3, B) and of all (4,)."""
        count, loss = ((one @ weights).reshape(shape) for one in of_prompts)
        made, of_bin = standardise(count, loss, chosen), count.sum(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            means, share = loss.sum(0) / of_bin, count[chosen].sum(0) / of_bin
        inside = np.where(of_bin > 0, loss.sum() / count.sum() + made.effects[1], np.nan)
        index = agreement(ranked(made.scores), ranked(loss.sum(1)), [k])[:, 0]
        return np.stack([means, inside, share]), np.concatenate([made.explained, index])

    points = measures(np.ones(prompt.max() + 1))
    draws = [measures(w) for w in resample(lambda w: w, prompt.max() + 1, rng, DRAWS)]
    named = (("mean", "along"), ("mean", "within"), ("rocks", ""))
    overall = tuple((measure, way) for measure in ("explained", "jaccard") for way in WAYS)
    of_bins, of_all = (
        _told(names, point, np.stack(one))
        for names, point, one in zip(
            (named, overall), points, zip(*draws, strict=True), strict=True
        )
    )
    return of_bins, of_all


def _told(names: Sequence[tuple[str, str]], points: np.ndarray, draws: np.ndarray) -> pd.DataFrame:
    """Points (M, ...) and their draws (B, M, ...) as rows, by measure and then by bin."""
    lo, hi = ends(draws)
    size = points[0].size
    measure, way = ([name[i] for name in names for _ in range(size)] for i in (0, 1))
    values = {"value": points.ravel(), "lo": lo.ravel(), "hi": hi.ravel()}
    return pd.DataFrame({"measure": measure, "way": way} | values)
