"""Orders in which token types, or positions, are left out of the loss until a share is reached.

A selector of this notebook puts types or positions in an order. Of **types** these are the study's
scores (``score``, ``score_ctx``) and its selectors (``frequency``, ``rkl``, ``tip``, ``forking``,
``entropy_teacher`` and those of a plugin), and two by the gradients of notebook 04:

    gradient-norm       |g_t| of the type's mean gradient, in the space of the logits
    gradient-alignment  cos(g_t, G_balanced), with the sum that every type enters once

Types are left out whole, in their order, until what they hold of the positions or of the loss
reaches the share; of the last one a random part is left out, so that the share is met exactly
(`cut`). Of **positions**:

    low-probability     those whose token the student found least probable
    first, last         random ones in the first, or the last, 30% of a completion
    random              random ones anywhere

Shares are matched on the rollouts of the statistics, after the baseline's OPD. In training, where
the student changes and the loss falls, they come out as they do; they are reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rockstudy.config.registry import SCORES, SELECTORS
from rockstudy.errors import StudyError, one_of

if TYPE_CHECKING:
    from rockstudy.selective.material import Material

GRADIENTS = {"gradient-norm": "norm_logit", "gradient-alignment": "cos_balanced_logit"}
ZONES = {"first": (0.0, 0.3), "last": (0.7, 1.0), "random": (0.0, 1.0)}  # of a completion
UNLIKELY = "low-probability"
LEAST = 2  # ours, as in `rocks.selectors`: a type that occurs once has the gradient of one position


def check(selector: str) -> str:
    """Return the name of an order; `StudyError` where there is none."""
    legal = [*SCORES, *SELECTORS, *GRADIENTS, UNLIKELY, *ZONES]
    if selector not in legal:
        raise StudyError(f"selector: {one_of(selector, legal)}")
    return selector


@dataclass(frozen=True)
class Cut:
    """Token types that are left out: all of them whole but for ``split``, of which a part is."""

    ids: tuple[int, ...]  # in their order; the last one is ``split``
    split: int
    part: float  # of the occurrences of ``split``, above 0 and at most 1


def cut(order: Sequence[int], held: pd.Series, share: float) -> Cut:
    """Leave out types in their order until they hold a share.

    `held` has what every type of the corpus holds, by id: occurrences, or summed loss. An order
    that is too short to hold the share is left out whole, and so is less than the share.

    `StudyError`: no type in the order that holds anything.
    """
    ids = np.asarray([i for i in order if held.get(i, 0.0) > 0], dtype=np.int64)
    if not len(ids):
        raise StudyError("order: must hold at least one type with something to leave out; got none")
    wanted, summed = share * float(held.sum()), held.loc[ids].to_numpy(np.float64).cumsum()
    last = min(int(np.searchsorted(summed, wanted)), len(ids) - 1)
    before = summed[last - 1] if last else 0.0
    part = min(float((wanted - before) / (summed[last] - before)), 1.0)
    return Cut(tuple(ids[: last + 1].tolist()), int(ids[last]), part)


def of_types(selector: str, made: Material, gradients: pd.DataFrame | None = None) -> list[int]:
    """Ids of token types in the order of a selector, ties by the smaller id.

    Types with a score of 0, and types that the selector does not rank, are not in it. `gradients`
    is the table of `gradients.steps`, for the orders that need it.
    """
    types = made.detection.types.set_index("token_id").sort_index()
    if selector in SCORES:
        values = types[selector]
        values = values[values > 0]
    elif selector in GRADIENTS:
        assert gradients is not None
        known = gradients[gradients["count"] >= LEAST].set_index("token_id")
        values = known[GRADIENTS[selector]].dropna()
    else:
        values = SELECTORS[selector](made.tokens)
    return values.sort_index().sort_values(ascending=False, kind="stable").index.tolist()


def held_by_types(tokens: pd.DataFrame, of: str) -> pd.Series:
    """Occurrences (`of` is ``positions``) or summed reverse KL (``loss``) of every type, by id."""
    grouped = tokens.rkl_post.astype(np.float64).groupby(tokens.token_id)
    return grouped.size().astype(np.float64) if of == "positions" else grouped.sum()


def part_of_zone(places: np.ndarray, held: np.ndarray, zone: str, share: float) -> float:
    """Part of a zone's positions to leave out at random, so that a share is left out.

    `places` are the relative places of positions in their completions and `held` what each holds,
    float (N,). At most 1: a zone that holds less than the share is left out whole.
    """
    begin, end = ZONES[zone]
    inside = float(held[(places >= begin) & (places < end)].sum())
    return min(share * float(held.sum()) / inside, 1.0) if inside > 0 else 1.0


def least_probable(surprisals: np.ndarray, held: np.ndarray, share: float) -> float:
    """Surprisal in nats from which positions are left out, so that they hold a share at most.

    Float (N,) each. The least such value: one more position would pass the share.
    """
    order = np.argsort(-surprisals, kind="stable")
    summed = held[order].cumsum()
    n = int(np.searchsorted(summed, share * summed[-1], side="right"))
    return float(surprisals[order[max(n, 1) - 1]])
