r"""One step of AdamW from where a training stands, and steps of the same norm without its parts.

With the clipped gradient g of a batch, and the running means m of g and s of g^2 that training has
left (b1 = 0.9, b2 = 0.999, both bias-corrected at the new count k),

    m' = b1 m + (1 - b1) g         s' = b2 s + (1 - b2) g^2
    adamw      -lr (m' / (1 - b1^k)) / (sqrt(s' / (1 - b2^k)) + eps)
    momentum   -c m'               AdamW without its second moment
    sgd        -d g                and without its first

with c and d such that all three have the norm of the first. Weight decay is no part of any: it does
not depend on the loss. ``adamw`` against ``momentum`` is the second moment alone; against ``sgd``,
the memory of earlier batches as well.

Where training has kept no running means, they are rebuilt from fresh batches at fixed weights
(`Moments.rebuilt`): m and s then lack the drift of the weights, and s the larger gradients of early
training. Both are decaying means of the same quantities; how far this matters is measured where the
true ones are known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from rockstudy.errors import StudyError
from rockstudy.training.optimizers import BETAS, EPS

STEPS = ("adamw", "momentum", "sgd")


@dataclass(frozen=True)
class Moments:
    """Running means of the gradient and of its square, (P,) each, before bias correction."""

    first: Tensor
    second: Tensor
    count: int  # batches that are in them

    @classmethod
    def rebuilt(cls, gradients: Iterable[Tensor]) -> Self:
        """The running means of some gradients (P,), starting from 0; StudyError without any."""
        found: Moments | None = None
        for g in gradients:
            found = (found or Moments(torch.zeros_like(g), torch.zeros_like(g), 0)).after(g)
        if found is None:
            raise StudyError("gradients: must be at least one to rebuild the moments; got none")
        return cls(found.first, found.second, found.count)

    def after(self, gradient: Tensor) -> Moments:
        """The running means with one more gradient."""
        one, two = (1 - beta for beta in BETAS)
        first = self.first + one * (gradient - self.first)
        return Moments(first, self.second + two * (gradient**2 - self.second), self.count + 1)

    def step(self, lr: float) -> Tensor:
        """AdamW's step (P,) from these means, without weight decay."""
        first = self.first / (1 - BETAS[0] ** self.count)
        second = self.second / (1 - BETAS[1] ** self.count)
        return -lr * first / (second.sqrt() + EPS)


def clipped(gradient: Tensor, max_norm: float) -> Tensor:
    """The gradient (P,), shortened to a norm as torch's `clip_grad_norm_` does."""
    return gradient * min(1.0, max_norm / (float(gradient.norm()) + 1e-6))


def steps_of(moments: Moments, gradient: Tensor, lr: float) -> dict[str, Tensor]:
    """The steps of `STEPS` (P,) on a clipped gradient, from the means before it.

    `StudyError`: a gradient that is 0 or not finite.
    """
    norm = float(gradient.norm())
    if not 0 < norm < float("inf"):
        raise StudyError(f"gradient of the update: must be finite and not 0; its norm is {norm}")
    after = moments.after(gradient)
    adamw = after.step(lr)
    others = {"momentum": after.first, "sgd": gradient}
    return {"adamw": adamw} | {
        name: -direction * (adamw.norm() / direction.norm()) for name, direction in others.items()
    }
