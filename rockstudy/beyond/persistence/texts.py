"""Completions that stay fixed while the student's weights move: losses, slopes and gradients.

At position i of the texts, with the student's weights theta and a direction d,

    loss_i(theta)             the reverse KL in nats, over the whole vocabulary
    slope_i = <grad loss_i, d>     by forward-mode differentiation, exact
    sum_i w_i grad loss_i     by the backward pass, for any weights w

Slopes give the first-order effect of one step of training on *every position* for the price of
about three forward passes; gradients of single positions are never made. Texts are read a few at a
time, so that logits of a few rows exist at once, and never those of a corpus. Vectors of all
weights lie in the machine's memory; the device holds the student in float32, its gradient or a
direction, and the teacher.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from rockstudy.errors import StudyError
from rockstudy.models import loading
from rockstudy.models.divergence import Head, States, logits
from rockstudy.sampling.rollout import Rollouts, completion_states

LOGITS = 2**21  # ours: logits of one model in memory at once, 8 MB


class _Part(NamedTuple):
    """Some completions, ready to be read: a row each, and the teacher's states before N tokens."""

    ids: Tensor  # int64 (R, L)
    mask: Tensor  # bool (R, L): what is no padding
    predicts: Tensor  # bool (R, L): where a completion token is predicted
    teacher: Tensor  # (N, H of the teacher)


class _Losses(nn.Module):
    """The student as a function of its weights: reverse KL (N,) of a part."""

    def __init__(self, student: PreTrainedModel, teacher: Head) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher

    def forward(self, part: _Part) -> Tensor:
        given: Any = {"input_ids": part.ids, "attention_mask": part.mask.long()}
        hidden = self.student.get_decoder()(**given, use_cache=False).last_hidden_state
        own = States(hidden[part.predicts].float(), Head.of(self.student))
        other = States(part.teacher, self.teacher)
        log_p, log_q = (
            logits(states, 0, states.head.weight.shape[0]).log_softmax(-1)
            for states in (own, other)
        )
        return (log_p.exp() * (log_p - log_q)).sum(-1)


class FixedTexts:
    """Completions, a student whose weights are moved, and a teacher; both must fit the vocabulary.

    ``frame`` has a row per position, in the order of everything this class returns: ``prompt_index,
    sample_index, position, token_id``. `rows` are those of the rollouts that are read.

    `StudyError`: no completion tokens.
    """

    def __init__(
        self,
        rollouts: Rollouts,
        rows: np.ndarray,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
    ) -> None:
        rows = np.asarray(rows)[rollouts.lengths[rows] > 0]
        if len(rows) == 0:
            raise StudyError("completions: must hold at least one token; got none")
        rows = rows[np.argsort(rollouts.lengths[rows], kind="stable")]  # little padding
        self.student = student.requires_grad_(True)
        self.module = _Losses(student, Head.of(teacher).to(student.device))
        self.frame = _frame(rollouts, rows)
        vocabulary = self.module.teacher.weight.shape[0]
        self.parts = []
        for some in _cut(rows, rollouts.lengths, LOGITS // vocabulary):
            with torch.no_grad():
                states = completion_states(teacher, rollouts, some).float().to(student.device)
            self.parts.append(_read(rollouts, some, states, student.device))

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The student's weights by name, detached."""
        return self.weights_of(self.student)

    @staticmethod
    def weights_of(student: PreTrainedModel) -> dict[str, Tensor]:
        """The weights of a student of the same architecture, as `losses` takes them."""
        return {f"student.{name}": p.detach() for name, p in student.named_parameters()}

    @torch.no_grad()
    def losses(
        self, step: Tensor | None = None, weights: Mapping[str, Tensor] | None = None
    ) -> np.ndarray:
        """Reverse KL (N,) in nats, after a step (P,) or with other weights of the same student.

        The student's own weights stay as they are.
        """
        used = dict(weights or self.parameters)
        if step is not None:
            moved = self.split(step)
            used = {name: p + moved[name] for name, p in used.items()}
        with loading.evaluating(self.student):
            parts = [functional_call(self.module, used, (part,)) for part in self.parts]
        return torch.cat(parts).double().cpu().numpy()

    def slopes(self, step: Tensor) -> np.ndarray:
        """Derivative (N,) of the losses along a step (P,): <grad loss_i, step>, in nats."""
        moved, found = self.split(step), []
        _load_derivatives()
        # the fused kernels of attention have no forward derivative
        with loading.evaluating(self.student), sdpa_kernel(SDPBackend.MATH):
            for part in self.parts:
                with torch.no_grad(), forward_ad.dual_level():
                    dual = {
                        n: forward_ad.make_dual(p, moved[n]) for n, p in self.parameters.items()
                    }
                    made = functional_call(self.module, dual, (part,))
                    found.append(forward_ad.unpack_dual(made).tangent)
        return torch.cat(found).double().cpu().numpy()

    def gradients(self, weights: np.ndarray, width: int | None = None) -> Tensor:
        """Weighted sums of the positions' gradients: float32 (K, P) on the CPU for weights (K, N).

        With a `width` below P each sum is sketched to (K, width): a block of weights is shifted by
        a random number of places, and every weight has a random sign, the same in all calls, so
        that products of two sums have the right expectation, with a standard deviation of about
        their norms' product over the root of the width (after Charikar, Chen and Farach-Colton
        2002, where each weight has a place of its own). A row of weights that is 0 on a part costs
        nothing there.
        """
        own = [p for _, p in self.module.named_parameters()]
        size = sum(p.numel() for p in own)
        sketched = width is not None and width < size
        device = own[0].device if sketched else "cpu"
        total = torch.zeros(len(weights), width if sketched else size, device=device)
        done = 0
        for part in self.parts:
            n = int(part.predicts.sum())
            some = torch.from_numpy(np.asarray(weights[:, done : done + n], np.float32))
            wanted = [k for k in range(len(some)) if bool(some[k].any())]
            done += n
            if not wanted:
                continue
            with loading.evaluating(self.student), torch.enable_grad():
                losses = self.module(part)
            for k in wanted:
                aim = some[k].to(losses.device) @ losses
                found = torch.autograd.grad(aim, own, retain_graph=k != wanted[-1])
                if sketched:
                    _sketch(total[k], found)
                else:
                    total[k] += torch.cat([g.reshape(-1).float().cpu() for g in found])
        return total.cpu()

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """A vector of all weights (P,) by name, in their shapes."""
        own = self.parameters
        parts = flat.split([p.numel() for p in own.values()])
        device = self.student.device
        return {n: x.view(own[n].shape).to(device) for n, x in zip(own, parts, strict=True)}


def _load_derivatives() -> None:
    """Let torch load its forward derivatives, for which it calls its own deprecated compiler."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.filterwarnings("ignore", ".*jit.script. is deprecated", DeprecationWarning)
        forward_ad.make_dual(torch.zeros(()), torch.zeros(()))


def _sketch(total: Tensor, gradients: Sequence[Tensor]) -> None:
    """Add gradients of all weights, with random signs and shifted by blocks, in place (W,).

    A weight's sign is that of its place in its block times that of the block: two weights that
    meet have independent signs, even where two blocks are shifted alike.
    """
    width, signs = len(total), _signs(len(total), total.device)
    for number, g in enumerate(gradients):
        rng = torch.Generator().manual_seed(number)
        for block in g.reshape(-1).float().split(width):
            shift = int(torch.randint(width, (), generator=rng))
            sign = 1 - 2 * int(torch.randint(2, (), generator=rng))
            ahead = min(len(block), width - shift)  # the rest begins at the first place again
            for where, some in ((shift, slice(ahead)), (0, slice(ahead, len(block)))):
                given = block[some]
                total[where : where + len(given)].addcmul_(given, signs[some], value=sign)


@functools.cache
def _signs(width: int, device: torch.device) -> Tensor:
    """A random sign for each place in a block, float32 (W,)."""
    rng = torch.Generator().manual_seed(0)
    signs = torch.randint(2, (width,), generator=rng, dtype=torch.int8) * 2 - 1
    return signs.to(device, torch.float32)


def _frame(rollouts: Rollouts, rows: np.ndarray) -> pd.DataFrame:
    lengths = rollouts.lengths[rows]
    return pd.DataFrame(
        {
            "prompt_index": np.repeat(rollouts.prompt_index[rows], lengths),
            "sample_index": np.repeat(rollouts.sample_index[rows], lengths),
            "position": np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]),
            "token_id": rollouts.completion_ids[rows][rollouts.mask[rows]],
        }
    )


def _cut(rows: np.ndarray, lengths: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """Rows, sorted by length, in parts of at most `most` positions, or one row."""
    place = (np.cumsum(lengths[rows]) - 1) // max(most, 1)
    for number in np.unique(place):
        yield rows[place == number]


def _read(rollouts: Rollouts, rows: np.ndarray, teacher: Tensor, device: torch.device) -> _Part:
    prompts = [rollouts.prompt_ids[rollouts.prompt_index[row]] for row in rows]
    written = [rollouts.completion_ids[row][rollouts.mask[row]] for row in rows]
    read = [np.concatenate([p, ids[:-1]]) for p, ids in zip(prompts, written, strict=True)]
    width = max(map(len, read))
    ids = np.zeros((len(read), width), np.int64)
    mask, predicts = np.zeros_like(ids, bool), np.zeros_like(ids, bool)
    for i, (one, prompt) in enumerate(zip(read, prompts, strict=True)):
        ids[i, : len(one)] = one
        mask[i, : len(one)] = True
        predicts[i, len(prompt) - 1 : len(one)] = True
    return _Part(*(torch.from_numpy(x).to(device) for x in (ids, mask, predicts)), teacher)
