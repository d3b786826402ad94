"""Position weights: factors on the loss at each completion position.

The weighted objective (paper 5) is ``sum_t w_t * loss_t / N``, where N is the number of completion
tokens of the global batch in every arm unless the stage asks otherwise (``normalize``). A weight
function maps the rollouts of a step to w, float (R, T).

Column t is the prediction of ``completion_ids[:, t]``: the weight of a token type v belongs where v
is *being predicted*. Off by one, it would weigh whatever follows v. Positions of weight 0 are never
projected to the vocabulary, so a frozen position costs no LM head; only where the weights depend on
the losses themselves must every position be projected. Windows are in `selective.windows`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rockstudy.errors import StudyError


@dataclass(frozen=True)
class Batch:
    """Rollouts that are weighed together: those of a step in this process, or a micro-batch."""

    completion_ids: Tensor  # int64 (R, T), padded on the right
    mask: Tensor  # bool (R, T), True on completion tokens
    step: int = 0  # optimiser steps done before this one
    part: int = 0  # number of the part of the step, over processes and micro-batches
    # the closed windows of the ledger, float64 (N, 4): step, token id, count, summed loss
    type_losses: np.ndarray = field(default_factory=lambda: np.empty((0, 4)))
    # log p and log q of the tokens by student and teacher, float (2, R, T), where they are needed
    log_probs: Tensor | None = None


class WeightFunction(Protocol):
    """A frozen dataclass that can be called; its fields are its identity in a run's manifest.

    With ``needs_losses`` it receives the stage's loss in nats at every position, float (R, T), zero
    outside the mask. The heads then project every position, because a weight that depends on
    the loss cannot save its computation. One that has ``needs_log_probs`` as well finds the tokens'
    log-probabilities in the batch (``log_probs``); by default a function has not.
    """

    needs_losses: ClassVar[bool]

    def __call__(self, batch: Batch, losses: Tensor | None) -> Tensor:
        """Return the weights, float (R, T); values outside the mask do not matter."""
        ...


def legal_ids(name: str, ids: Collection[int]) -> tuple[int, ...]:
    """Sorted, unique ids; StudyError where there are none or one is negative."""
    unique = tuple(sorted({int(i) for i in ids}))
    if not unique or unique[0] < 0:
        raise StudyError(f"weights: {name} must be at least one token id; got {list(unique)!r:.60}")
    return unique


def _legal_value(name: str, value: Level) -> Level:
    if isinstance(value, Ramp):  # whose own fields are checked
        return value
    if not 0 <= value < float("inf"):
        raise StudyError(f"weights: {name} must be finite and not negative; got {value!r}")
    return float(value)


def _legal_count(name: str, count: int) -> int:
    if count < 1:
        raise StudyError(f"weights: {name} must be at least 1; got {count}")
    return int(count)


LEGAL: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("ids", "controls"), legal_ids),
    **dict.fromkeys(("first", "last", "threshold", "value"), _legal_value),
    **dict.fromkeys(("k", "every", "width", "steps"), _legal_count),
}


@dataclass(frozen=True)
class Checked:
    """A dataclass whose fields are converted and checked by their names (`LEGAL`).

    `StudyError` for no ids or a negative one, a weight or threshold that is negative or not finite,
    a count below 1.
    """

    needs_losses: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name in LEGAL:
                object.__setattr__(self, name, LEGAL[name](name, value))


@dataclass(frozen=True)
class Ramp(Checked):
    """A weight on a straight line from ``first`` to ``last`` over ``steps`` steps, then level."""

    first: float
    last: float
    steps: int


Level = float | Ramp


def level(value: Level, step: int) -> float:
    """The paper's lambda after some optimiser steps."""
    if not isinstance(value, Ramp):
        return value
    return value.first + (value.last - value.first) * min(step / value.steps, 1.0)


@dataclass(frozen=True)
class Constant(Checked):
    """The same weight everywhere."""

    value: float = 1.0

    def __call__(self, batch: Batch, losses: Tensor | None) -> Tensor:
        """Return ``value`` at every position, float (R, T)."""
        return torch.full_like(batch.mask, self.value, dtype=torch.float32)


@dataclass(frozen=True)
class TokenWeights(Checked):
    """One weight where a token of a set is being predicted, 1 elsewhere; ``keep`` is the reverse.

    ``value`` is the paper's lambda (paper 5), or a `Ramp` of it. With 0 the positions skip the LM
    head.
    """

    ids: Collection[int]
    value: Level
    keep: bool = False

    def __call__(self, batch: Batch, losses: Tensor | None) -> Tensor:
        """Return the level of ``value`` where the predicted token is chosen, else 1, (R, T)."""
        chosen = predicts(batch, self.ids) != self.keep
        return lowered(chosen, level(self.value, batch.step))


@dataclass(frozen=True)
class TypeWeights(Checked):
    """A separate weight for each token type of ``ids``, in their order, and 1 elsewhere."""

    ids: Sequence[int]
    values: Sequence[float]

    def __post_init__(self) -> None:
        pairs = sorted(zip(self.ids, self.values, strict=True))  # both by the ids
        object.__setattr__(self, "values", tuple(_legal_value("value", v) for _, v in pairs))
        super().__post_init__()

    def __call__(self, batch: Batch, losses: Tensor | None) -> Tensor:
        """Return the weight of the type that is being predicted, float (R, T)."""
        device = batch.completion_ids.device
        size = max(self.ids[-1], int(batch.completion_ids.max())) + 1
        table = torch.ones(size, device=device)
        table[torch.tensor(self.ids, device=device)] = torch.tensor(self.values, device=device)
        return table[batch.completion_ids]


@dataclass(frozen=True)
class Redetected(Checked):
    """One weight on the ``k`` types that carried most loss in the ``every`` steps before.

    The set is found anew every ``every`` steps by the rock score R(v), mean loss times occurrences
    (paper 2), from the ledger of this very training; nothing is frozen before the first time. No
    context filter: that needs the losses of the student before training. Ours.
    """

    k: int
    every: int
    value: Level
    needs_losses: ClassVar[bool] = True  # so that the ledger sees the types that are frozen too

    def __call__(self, batch: Batch, losses: Tensor | None) -> Tensor:
        """Return the level of ``value`` where a type of the last set is predicted, (R, T)."""
        chosen = predicts(batch, self.redetected(batch))
        return lowered(chosen, level(self.value, batch.step))

    def redetected(self, batch: Batch) -> tuple[int, ...]:
        """Return the types that are frozen at a step, by what the ledger has closed so far."""
        last = batch.step // self.every * self.every
        steps, ids, _, loss = batch.type_losses.T
        recent = (steps > last - self.every) & (steps <= last)
        scores = np.bincount(ids[recent].astype(np.int64), loss[recent])
        order = np.argsort(-scores, kind="stable")[: self.k]
        return tuple(sorted(order[scores[order] > 0].tolist()))


def predicts(batch: Batch, ids: Collection[int]) -> Tensor:
    """Where a token of the set is being predicted, bool (R, T)."""
    wanted = torch.tensor(list(ids), dtype=torch.int64, device=batch.completion_ids.device)
    return torch.isin(batch.completion_ids, wanted) & batch.mask


def lowered(chosen: Tensor, value: float) -> Tensor:
    """``value`` where `chosen`, 1 elsewhere, float (R, T)."""
    return torch.ones_like(chosen, dtype=torch.float32).masked_fill(chosen, value)


def persistence_weights(types: pd.DataFrame, ids: Collection[int], value: float) -> TypeWeights:
    """Soft weights that fall with a type's persistence: 1 - (1 - value) x persistence.

    Persistence is the share of a type's occurrences whose loss is high before and after OPD (paper
    2, O_PH); the weights are ours. `types` has ``token_id, count, n_persistent``, and `value` is
    the weight of a type that always persists. `StudyError`: as `Checked`, and an id that is not in
    the table.
    """
    share = (types.n_persistent / types["count"]).set_axis(types.token_id)
    absent = sorted(set(ids) - set(share.index))
    if absent:
        raise StudyError(f"weights: ids must be observed token types; got {absent[0]}")
    ids = legal_ids("ids", ids)
    return TypeWeights(ids, [1 - (1 - value) * float(share[i]) for i in ids])


def describe(weights: WeightFunction | None) -> dict[str, Any]:
    """Return the name and all fields of a weight function, for a manifest.

    `StudyError`: not a dataclass, so two arms could not be told apart.
    """
    weights = Constant() if weights is None else weights
    if not dataclasses.is_dataclass(weights) or isinstance(weights, type):
        raise StudyError(
            "weights: must be a dataclass instance with __call__(batch, losses) and needs_losses; "
            f"got {type(weights).__name__}"
        )
    return {"name": type(weights).__name__, **dataclasses.asdict(weights)}


def evaluate(weights: WeightFunction | None, batch: Batch, losses: Tensor | None) -> Tensor:
    """Weights float32 (R, T), zero outside the mask, of a function; None is 1 everywhere.

    `StudyError`: a shape other than (R, T), or a weight that is negative or not finite.
    """
    w = (Constant() if weights is None else weights)(batch, losses)
    if w.shape != batch.mask.shape:
        raise StudyError(
            f"weights: must be one number per rollout and position, {tuple(batch.mask.shape)}; "
            f"got {tuple(w.shape)}"
        )
    w = w.float().masked_fill(~batch.mask, 0.0)
    if not bool((w.isfinite() & (w >= 0)).all()):
        raise StudyError("weights: must be finite and not negative; got some that are not")
    return w
