r"""Sub-corpora: how far a set of types, and what it carries, depends on the prompts that chose it.

A sub-corpus is some of the prompts with all of their occurrences, scored anew, context consistency
included; the thresholds stay those of the whole corpus, in nats. With T_K(S) the first K types by
the score of the sub-corpus S, and l_c(T) the loss of prompt c on the types T,

    nested      J(T_K(S), T_K(all))                  the paper's figure 2d: S is part of all
    disjoint    J(T_K(S), T_K(S'))                   S and S' of one size, with no prompt in common
    own         sum_c l_c(T_K(S)) / sum_c l_c        over the prompts c of S
    fresh       the same over the prompts that are not in S; S is a random half of the prompts

The paper compares nested sub-corpora and measures coverage on the prompts that chose the types.
Both flatter the set: 400 of 500 prompts agree with all 500 because they are most of them, and the
types that happened to lose most are the ones that were chosen (a winner's curse).

How this can mislead: the range over draws of an index shows how the choice of prompts from this
corpus matters, and gets narrow as n nears the number of prompts; it is no interval for other
prompts. A coverage has one: its standard error is the standard deviation over random halves (the
jackknife that deletes half of the sample, Shao and Wu 1989), the choice of the set included. It is
the interval of what half of such a corpus chooses and the other half measures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from rockstudy import progress
from rockstudy.errors import StudyError
from rockstudy.intervals import LEVEL, ends
from rockstudy.rocks.detection import Detection, Features, of_prompts

_CELLS = 4_000_000  # ours: scores in memory at once, 32 MB
_NORMAL = float(stats.norm.ppf((1 + LEVEL) / 2))


def losses(tokens: pd.DataFrame, found: Detection) -> np.ndarray:
    """Loss after OPD of each prompt on each type, float64 (U, V), both in order; nats."""
    _, prompt = np.unique(tokens.prompt_index.to_numpy(), return_inverse=True)
    shape = (prompt.max() + 1, len(found.types))
    cell = prompt * shape[1] + found.types.token_id.searchsorted(tokens.token_id.to_numpy())
    loss = tokens[f"{found.settings.loss}_post"].to_numpy(np.float64)
    return np.bincount(cell, weights=loss, minlength=shape[0] * shape[1]).reshape(shape)


def ranks(
    tokens: pd.DataFrame, found: Detection, features: Features, kept: np.ndarray
) -> np.ndarray:
    """Rank from 0 of every type in sub-corpora, int32 (B, V); V where its score is not positive.

    `kept` is bool (B, U), the prompts of each sub-corpus; `features` is `detection.encode` of
    ``found.occurrences``. R is a sum over prompts, so all its sub-corpora are one product of
    matrices; the types by every other score are found one sub-corpus at a time.
    """
    if found.settings.selector == "score":
        of_prompt = losses(tokens, found)
        step = max(1, _CELLS // of_prompt.shape[1])
        parts = [kept[i : i + step] @ of_prompt for i in range(0, len(kept), step)]
        return np.concatenate([ranked(part) for part in parts])
    prompts, size = np.unique(tokens.prompt_index.to_numpy()), len(found.types)
    places = np.full((len(kept), size), size, np.int32)
    with progress.bar(len(kept), "sub-corpora", "draw") as bar:
        for row, some in zip(places, kept, strict=True):
            types = of_prompts(tokens, found, features, prompts[some])
            types = types[types[found.settings.selector] > 0]
            row[found.types.token_id.searchsorted(types.token_id)] = types["rank"] - 1
            bar.update(1)
    return places


def agreement(first: np.ndarray, second: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """Jaccard index of the first K types of two rankings, float64 (B, K).

    Both are `ranks`, (B, V) or (V,). NaN where neither has a type.
    """
    low, high = np.minimum(first, second), np.maximum(first, second)
    shared, either = (np.stack([(side < k).sum(-1) for k in ks], -1) for side in (high, low))
    return np.divide(shared, either, out=np.full(shared.shape, np.nan), where=either > 0)


def stability(
    tokens: pd.DataFrame,
    found: Detection,
    features: Features,
    sizes: Sequence[int],
    ks: Sequence[int],
    draws: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Jaccard index of the top K of sub-corpora, nested and disjoint, against K.

    `sizes` are numbers of prompts, `ks` cut-offs, and `draws` is the number of sub-corpora of each
    size, drawn without replacement.

    Returns ``kind, n, k, jaccard, lo, hi``: mean over draws and their 2.5% to 97.5% range. The kind
    ``nested`` has every size, ``disjoint`` those up to half of the prompts, and the half itself.
    ``average`` is the mean over the nested sizes, each draw one sub-corpus of each size, as a point
    of the paper's curve is; ``fall`` is that at the study's K minus that at k. Their n is 0.

    `StudyError`: a size that is not below the number of prompts, or a cut-off above the number of
    types.
    """
    n_prompts = tokens.prompt_index.nunique()
    most = {"sizes": n_prompts - 1, "ks": len(found.types)}
    for field, values in (("sizes", sizes), ("ks", ks)):
        wrong = [v for v in values if not 1 <= v <= most[field]]
        if wrong or not values:
            raise StudyError(f"{field}: must be from 1 to {most[field]}; got {wrong or 'none'}")
    whole = _whole(found)
    made: dict[tuple[str, int], np.ndarray] = {}
    for n in sorted({*sizes, max(1, n_prompts // 2)}):
        first, second = _pair(n_prompts, n, draws, rng)
        top = ranks(tokens, found, features, first)
        if n in sizes:
            made["nested", n] = agreement(top, whole, ks)
        if second is not None:
            others = ranks(tokens, found, features, second)
            made["disjoint", n] = agreement(top, others, ks)
    average = np.mean([made["nested", n] for n in sizes], 0)
    at = int(np.abs(np.subtract(ks, found.k)).argmin())
    made |= {("average", 0): average, ("fall", 0): average[:, [at]] - average}
    frames = [_spread(values, ks).assign(kind=kind, n=n) for (kind, n), values in made.items()]
    table = pd.concat(frames)[["kind", "n", "k", "jaccard", "lo", "hi"]]
    return table.sort_values(["kind", "n", "k"], ignore_index=True)


def halves(
    tokens: pd.DataFrame,
    found: Detection,
    features: Features,
    ks: Sequence[int],
    draws: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Coverage of sets on the prompts that chose them and on the others, and their agreement.

    Every draw parts the prompts into random halves; each half chooses the first K types, and the
    loss of every prompt is measured on both sets.

    Returns ``k, measure, value, lo, hi, unit, n``. The measures are coverages: ``whole`` (all
    prompts choose and measure; the interval holds the set fixed), ``own`` and ``fresh``, with 95%
    intervals over prompts, and Jaccard indices of a half: ``nested`` and ``disjoint``, with 95%
    ranges over draws.
    """
    of_prompt, whole = losses(tokens, found), _whole(found)
    n_prompts, loss = len(of_prompt), of_prompt.sum(1)
    half = _pair(n_prompts, n_prompts // 2, draws, rng)[0]  # (B, U)
    sides = [(half, ranks(tokens, found, features, half))]
    sides += [(~half, ranks(tokens, found, features, ~half))]
    unit, rows = "prompts (delete-half jackknife)", []
    for k in ks:
        fixed = np.broadcast_to(of_prompt[:, whole < k].sum(1), half.shape)
        # (B, U): loss of each prompt on the types that the draw's first and second half chose
        first, second = ((top < k).astype(float) @ of_prompt.T for _, top in sides)
        pairs = {"whole": (fixed, fixed), "own": (first, second), "fresh": (second, first)}
        for name, (on_first, on_second) in pairs.items():
            measured = np.stack([(on_first * half).sum(1) / (half @ loss),
                                 (on_second * ~half).sum(1) / (~half @ loss)])  # fmt: skip
            value = fixed[0].sum() / loss.sum() if name == "whole" else measured.mean()
            reach = _NORMAL * np.sqrt(measured.var(axis=1, ddof=1).mean())
            rows.append((k, name, value, value - reach, value + reach, unit, n_prompts))
        for name, other in (("nested", whole), ("disjoint", sides[1][1])):
            spread = _spread(agreement(sides[0][1], other, [k]), [k]).iloc[0]
            rows.append((k, name, spread.jaccard, spread.lo, spread.hi, "draws of a half", draws))
    return pd.DataFrame(rows, columns=["k", "measure", "value", "lo", "hi", "unit", "n"])


def _whole(found: Detection) -> np.ndarray:
    """`ranks` of the whole corpus, (V,)."""
    able = found.types[found.settings.selector] > 0
    return np.where(able, found.types["rank"] - 1, len(found.types))


def _pair(
    n_prompts: int, n: int, draws: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None]:
    """Two disjoint samples of n prompts, bool (B, U); no second one where too few are left."""
    place = rng.permuted(np.tile(np.arange(n_prompts), (draws, 1)), axis=1)
    return place < n, (place >= n) & (place < 2 * n) if 2 * n <= n_prompts else None


def ranked(scores: np.ndarray) -> np.ndarray:
    """Rank from 0 of each score in its row, int32 (..., V); V where it is not positive."""
    ranks, size = np.arange(scores.shape[-1], dtype=np.int32), np.int32(scores.shape[-1])
    found = np.empty(scores.shape, np.int32)
    order = np.argsort(-scores, axis=-1, kind="stable")
    np.put_along_axis(found, order, np.broadcast_to(ranks, scores.shape), -1)
    return np.where(scores > 0, found, size)


def _spread(values: np.ndarray, ks: Sequence[int]) -> pd.DataFrame:
    """Mean and 95% range over draws (B, K): ``k, jaccard, lo, hi``."""
    lo, hi = ends(values)
    return pd.DataFrame({"k": ks, "jaccard": values.mean(0), "lo": lo, "hi": hi})
