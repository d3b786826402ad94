"""Position weights: how much the loss at each completion position counts.

The weighted objective (paper 4) is ``sum_t w_t * loss_t / N``, where N is the number of completion
tokens of the global batch in every arm unless the stage asks otherwise (``normalize``). A weight
function maps the rollouts of a step to w, float (R, T).

Column t is the prediction of ``completion_ids[:, t]``: the weight of a token type v belongs where v
is *being predicted*. Off by one, it would weigh whatever follows v. Positions of weight 0 are never
projected to the vocabulary, so a frozen position costs no LM head.
"""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from rockstudy.config import StudyError


@dataclass(frozen=True)
class Batch:
    """The rollouts of one optimiser step on this process.

    Attributes
    ----------
    completion_ids
        int64 (R, T), padded on the right.
    mask
        bool (R, T), True on completion tokens.
    step
        Optimiser steps done before this one.
    """

    completion_ids: Tensor
    mask: Tensor
    step: int = 0


class WeightFunction(Protocol):
    """A frozen dataclass that can be called; its fields are its identity in a run's manifest.

    ``needs_losses`` asks for the stage's loss in nats at every position, float (R, T), zero outside
    the mask. It costs one more forward of both models and their heads.
    """

    needs_losses: ClassVar[bool]

    def __call__(self, batch: Batch, losses: Tensor | None) -> Tensor:
        """Return the weights, float (R, T); values outside the mask do not matter."""
        ...


@dataclass(frozen=True)
class Constant:
    """The same weight everywhere."""

    value: float
    needs_losses: ClassVar[bool] = False

    def __call__(self, batch: Batch, losses: Tensor | None) -> Tensor:
        """Return ``value`` at every position, float (R, T)."""
        return torch.full_like(batch.mask, self.value, dtype=torch.float32)


@dataclass(frozen=True)
class TokenWeights:
    """One weight where a token of a set is being predicted, 1 elsewhere."""

    ids: tuple[int, ...]
    value: float
    needs_losses: ClassVar[bool] = False

    def __call__(self, batch: Batch, losses: Tensor | None) -> Tensor:
        """Return ``value`` where the predicted token is in ``ids``, else 1, float (R, T)."""
        ids = torch.tensor(self.ids, dtype=torch.int64, device=batch.completion_ids.device)
        chosen = torch.isin(batch.completion_ids, ids)
        return torch.ones_like(batch.mask, dtype=torch.float32).masked_fill(chosen, self.value)


def constant(value: float = 1.0) -> Constant:
    """Weigh every position by ``value``."""
    return Constant(_legal(value))


def token_weights(ids: Collection[int], value: float) -> TokenWeights:
    """Weigh by ``value`` the positions whose *predicted* token is in ``ids``.

    Parameters
    ----------
    ids
        Token ids; their order does not matter.
    value
        The paper's lambda (paper 4); 0 takes the positions out of the LM head altogether.

    Raises
    ------
    StudyError
        No ids, a negative id, or a value that is negative or not finite.
    """
    unique = tuple(sorted({int(i) for i in ids}))
    if not unique or unique[0] < 0:
        raise StudyError(f"weights: ids must be at least one token id; got {list(unique)!r:.60}")
    return TokenWeights(unique, _legal(value))


def describe(weights: WeightFunction | None) -> dict[str, Any]:
    """Return what a manifest records of a weight function: its name and every field.

    Raises
    ------
    StudyError
        Something whose parameters cannot be read, so that two arms could be taken for one.
    """
    weights = constant() if weights is None else weights
    if not dataclasses.is_dataclass(weights) or isinstance(weights, type):
        raise StudyError(
            "weights: must be a dataclass instance with __call__(batch, losses) and needs_losses; "
            f"got {type(weights).__name__}"
        )
    return {"name": type(weights).__name__, **dataclasses.asdict(weights)}


def evaluate(weights: WeightFunction | None, batch: Batch, losses: Tensor | None) -> Tensor:
    """Call a weight function (None: 1 everywhere) and check its answer.

    Returns
    -------
    Tensor
        float32 (R, T), zero outside the mask.

    Raises
    ------
    StudyError
        A shape other than (R, T), or a weight that is negative or not finite.
    """
    w = (constant() if weights is None else weights)(batch, losses)
    if w.shape != batch.mask.shape:
        raise StudyError(
            f"weights: must be one number per rollout and position, {tuple(batch.mask.shape)}; "
            f"got {tuple(w.shape)}"
        )
    w = w.float().masked_fill(~batch.mask, 0.0)
    if not bool((w.isfinite() & (w >= 0)).all()):
        raise StudyError("weights: must be finite and not negative; got some that are not")
    return w


def _legal(value: float) -> float:
    if not 0 <= value < float("inf"):
        raise StudyError(f"weights: value must be finite and not negative; got {value!r}")
    return float(value)
