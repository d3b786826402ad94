"""Position weights of the arms of equal shares, and of importance along a rollout.

Every function here sees the losses of the batch, although only `Importance` depends on anything
that is computed with them: then no position skips the heads, and the ledger knows the loss that is
left out. Such an arm saves no time; what a frozen position saves is measured in notebook 07.

Random parts are drawn from the arm's seed, the step and the part of it, so the same training draws
the same positions.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rockstudy.errors import StudyError
from rockstudy.store.seeds import generator
from rockstudy.training.position_weights import Batch, Checked, lowered, predicts


def drawn(batch: Batch, seed: int, part: float) -> Tensor:
    """A random part of the positions, bool (R, T)."""
    unit = (batch.step << 16) + batch.part
    chance = generator(seed, "equal-shares", unit).random(tuple(batch.mask.shape))
    return torch.from_numpy(chance < part).to(batch.mask.device)


def places(mask: Tensor) -> Tensor:
    """Relative place of each position in its completion, float (R, T): the middle of its token."""
    number, lengths = mask.cumsum(1), mask.sum(1, keepdim=True).clamp(min=1)
    return (number.double() - 0.5) / lengths


@dataclass(frozen=True)
class SplitTypes(Checked):
    """Weight 0 on token types, of one of which only a random part; 1 elsewhere."""

    ids: Collection[int]
    split: int  # one of the ids
    part: float  # of its occurrences
    seed: int
    needs_losses: ClassVar[bool] = True

    def __call__(self, batch: Batch, losses: Tensor | None) -> Tensor:
        """Return 0 where a type that is left out is being predicted, else 1, (R, T)."""
        spared = predicts(batch, [self.split]) & ~drawn(batch, self.seed, self.part)
        return lowered(predicts(batch, self.ids) & ~spared, 0.0)


@dataclass(frozen=True)
class Zone(Checked):
    """Weight 0 on a random part of the positions in a zone of each completion, 1 elsewhere."""

    begin: float  # relative places in a completion
    end: float
    part: float
    seed: int
    needs_losses: ClassVar[bool] = True

    def __call__(self, batch: Batch, losses: Tensor | None) -> Tensor:
        """Return 0 where a position of the zone is drawn, else 1, float (R, T)."""
        place = places(batch.mask)
        inside = (place >= self.begin) & (place < self.end) & batch.mask
        return lowered(inside & drawn(batch, self.seed, self.part), 0.0)


@dataclass(frozen=True)
class Unlikely(Checked):
    """Weight 0 on tokens that the student found improbable when it wrote them, 1 elsewhere."""

    threshold: float  # of the surprisal -log p(x_t), in nats
    needs_losses: ClassVar[bool] = True
    needs_log_probs: ClassVar[bool] = True

    def __call__(self, batch: Batch, losses: Tensor | None) -> Tensor:
        """Return 0 where the surprisal reaches the threshold, else 1, float (R, T)."""
        return lowered((-_log_probs(batch)[0] >= self.threshold) & batch.mask, 0.0)


@dataclass(frozen=True)
class Importance(Checked):
    r"""Weights by how much likelier the teacher was to write what precedes a position.

    The student's rollouts stand in for the teacher's: the prefix of position t comes from p and
    would come from q, so an expectation over the teacher's own prefixes weighs it by

        r_t = prod_{s < t} q(x_s | x_<s) / p(x_s | x_<s) = exp(sum_{s < t} log q - log p)

    which is truncated at ``most`` (Ionides 2008, truncated importance sampling) and divided by its
    mean over the tokens that are weighed together: w_t = min(r_t, most) / mean. The weight of a
    first token is that of r = 1. The log-ratios drift downwards by the reverse KL of each position,
    so late positions weigh little.
    """

    most: float
    needs_losses: ClassVar[bool] = True
    needs_log_probs: ClassVar[bool] = True

    def __call__(self, batch: Batch, losses: Tensor | None) -> Tensor:
        """Return w, float (R, T), with mean 1 over the mask."""
        student, teacher = _log_probs(batch).double()
        ratio = (teacher - student).masked_fill(~batch.mask, 0.0)
        before = ratio.cumsum(1) - ratio
        weight = before.exp().clamp(max=self.most).masked_fill(~batch.mask, 0.0)
        mean = weight.sum() / batch.mask.sum().clamp(min=1)
        return (weight / mean.clamp(min=torch.finfo(torch.float64).tiny)).float()


def _log_probs(batch: Batch) -> Tensor:
    """Log-probabilities of the batch; `StudyError` where the trainer has not made them."""
    if batch.log_probs is None:
        raise StudyError("weights: must be given the log-probabilities of the batch; got none")
    return batch.log_probs
