r"""Other optimisers of a stage than AdamW as torch has it.

With the gradient g, its running means m and s of g and of g^2, both bias-corrected,

    adamw          theta -= lr m / (sqrt(s) + eps)            s for every weight
    adamw-tensor   theta -= lr m / (sqrt(mean(s)) + eps)      one s for all weights of a tensor
    sgd            theta -= lr b,   b = momentum b + g

``adamw`` is what every other stage trains with, to the byte. A stage that names its optimiser keeps
the optimiser's running means beside the weights of each of its checkpoints (`read_moments`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from rockstudy.errors import StudyError
from rockstudy.store import files

MOMENTS = "moments.safetensors"
BETAS, EPS = (0.9, 0.999), 1e-8  # of AdamW, as transformers has them
MOMENTUM = 0.9  # ours: of SGD


@dataclass(frozen=True)
class Optimizer:
    """An optimiser by kind; its learning rate, warm-up, decay and clipping are the stage's."""

    kind: Literal["adamw", "adamw-tensor", "sgd"]

    def made_by(self, lr: float) -> tuple[type[torch.optim.Optimizer], dict[str, Any]] | None:
        """Class and arguments of the optimiser, as transformers takes them; None for its own."""
        if self.kind == "adamw":
            return None
        if self.kind == "adamw-tensor":
            return TensorAdamW, {"lr": lr}
        return torch.optim.SGD, {"lr": lr, "momentum": MOMENTUM}


class TensorAdamW(torch.optim.Optimizer):
    """AdamW with one second moment for a tensor: the running mean of its gradient's mean square."""

    def __init__(self, groups: Iterable[Any], lr: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Move every tensor that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, self.state[p], group["lr"], group["weight_decay"])

    def _move(self, p: Tensor, state: dict[str, Any], lr: float, decay: float) -> None:
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(p)
            state["exp_avg_sq"] = p.new_zeros(())
        state["step"] += 1
        state["exp_avg"].lerp_(p.grad, 1 - BETAS[0])
        state["exp_avg_sq"].lerp_(p.grad.square().mean(), 1 - BETAS[1])
        t = float(state["step"])
        first = state["exp_avg"] / (1 - BETAS[0] ** t)
        second = state["exp_avg_sq"] / (1 - BETAS[1] ** t)
        p.mul_(1 - lr * decay).sub_(lr * first / (second.sqrt() + EPS))


def write_moments(optimizer: Any, named: Iterable[tuple[str, Tensor]], folder: Path) -> None:
    """Write what an optimiser remembers of each parameter into the folder of a checkpoint."""
    kept = {
        f"{what}/{name}": value.detach().float()
        for name, p in named
        for what, value in optimizer.state[p].items()
        if isinstance(value, Tensor)
    }
    files.write_tensors(kept, folder / MOMENTS)


def read_moments(folder: Path) -> dict[str, dict[str, Tensor]]:
    """What `write_moments` has written: by quantity (``step, exp_avg, exp_avg_sq``) and parameter.

    `StudyError`: a checkpoint without it.
    """
    if not (folder / MOMENTS).is_file():
        raise StudyError(f"{folder.name}: must hold {MOMENTS}; it was trained without keeping it")
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in files.read_tensors(folder / MOMENTS).items():
        what, name = key.split("/", 1)
        found.setdefault(what, {})[name] = value
    return found
