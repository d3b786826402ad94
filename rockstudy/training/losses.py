"""The loss of stage 1 and 2 at every position, and the gradient of its weighted sum.

At a position with target x, student p, teacher q and weight w the loss is

    w (a KL(q || p) + b KL(p || q) - c log p_x),

and its gradient by the student's logits z, with A = KL(p || q) and T the KD temperature,

    w ((a (p - q) + b p (log p - log q - A)) / T + c (p - e_x)),   a, b at logits z / T, c at z.

On a CPU the products with the heads take most of the time. There the gradient is made in the same
sweep as the loss: rows of logits exist once, for a few positions at a time, never for all. The
kernels of TRL, which make them again in the backward pass, are for a card, where they are fused.
Under autocast products round their factors to bfloat16; sums and all else are float32.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rockstudy.models.divergence import (
    Head,
    States,
    products,
    token_divergence,
    token_log_prob,
)

_SWEPT = 6_000_000  # logits of one model at a time; benchmarks/opd_step.py measures
_ROWS = (16, 1024)  # positions at a time, at least and at most


class Mix(NamedTuple):
    """Factors of the loss, and the temperature that divides both models' logits in the KLs."""

    forward: float
    reverse: float
    cross_entropy: float
    temperature: float = 1.0


class Losses(NamedTuple):
    """Losses at N positions, float32 (N,) in nats, none with a gradient."""

    each: Tensor  # the mix, without weights
    rkl: Tensor | None  # where the mix has it
    entropy: Tensor  # of the student


class Gradients(NamedTuple):
    """Of the weighted sum by the student's states (N, H) and head, float32; None: not needed."""

    hidden: Tensor
    weight: Tensor | None
    bias: Tensor | None


def weighted(
    student: States,
    teacher: States | None,
    targets: Tensor,
    weights: Tensor | Callable[[Tensor], Tensor],
    mix: Mix,
) -> tuple[Tensor, Losses, Tensor]:
    """The weighted sum of the losses at N positions, the losses, and the weights (N,).

    The sum has a gradient for the student. Hidden states (N, H) are those *before* the `targets`,
    int64 (N,). `weights`, float (N,), may be a function of the losses. Only a mix of the
    cross-entropy alone needs no `teacher`.
    """
    given, known = (student, teacher, targets), isinstance(weights, Tensor)
    if fused(student.hidden.device):
        each, found = _by_trl(*given, mix)
        w = weights if known else weights(found.each)
        return (each * w).sum(), found, w
    if known and torch.is_grad_enabled():
        w = weights
    else:
        found, _ = _swept(*given, None, mix)
        w = weights if known else weights(found.each)
        if not torch.is_grad_enabled():
            return (found.each * w).sum(), found, w
    own: Any = (student.hidden, student.head.weight, student.head.bias)
    total, *losses = _OneSweep.apply(*own, student.head, teacher, targets, w, mix)
    return total, Losses(*losses), w


def fused(device: torch.device) -> bool:
    """Whether TRL's compiled kernels run on a device."""
    return device.type == "cuda"


def _by_trl(
    student: States, teacher: States | None, targets: Tensor, mix: Mix
) -> tuple[Tensor, Losses]:
    """Losses with a gradient, and without one."""
    losses = entropy = torch.zeros(len(targets), device=student.hidden.device)
    rkl = None
    for kind, factor in (("forward", mix.forward), ("reverse", mix.reverse)):
        if factor:
            assert teacher is not None
            how: Any = {"kind": kind, "temperature": mix.temperature}
            value, entropy = token_divergence(*student, *teacher, **how)
            losses = losses + factor * value
            rkl = value.detach() if kind == "reverse" else None
    if mix.cross_entropy:
        log_prob, entropy = token_log_prob(*student, targets)
        losses = losses - mix.cross_entropy * log_prob
    return losses, Losses(losses.detach(), rkl, entropy)


class _OneSweep(torch.autograd.Function):
    """The weighted sum, whose gradient is made with it; and the losses."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        head: Head,
        teacher: States | None,
        targets: Tensor,
        w: Tensor,
        mix: Mix,
    ) -> tuple[Tensor, ...]:
        """Make all of it."""
        needed = ctx.needs_input_grad[1:3]
        found, gradients = _swept(States(hidden, head), teacher, targets, w, mix, needed)
        assert gradients is not None
        ctx.save_for_backward(*gradients)
        ctx.dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
        ctx.mark_non_differentiable(*[one for one in found if one is not None])
        return (found.each * w).sum(), *found

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients; they are nobody else's."""
        made = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        scaled = [None if one is None else one.mul_(outer[0]).to(dtype) for one, dtype in made]
        return *scaled, *[None] * 5


def _swept(
    student: States,
    teacher: States | None,
    targets: Tensor,
    w: Tensor | None,
    mix: Mix,
    needed: tuple[bool, ...] = (False, False),
) -> tuple[Losses, Gradients | None]:
    """Losses, and with weights the gradients; `needed` tells whether of the head's two parts."""
    n, device, vocab = len(targets), targets.device, student.head.weight.shape[0]
    found = torch.zeros(3, n, device=device)
    rounded = _half(student.hidden)
    compared = bool(mix.forward or mix.reverse)
    with torch.no_grad(), torch.autocast(device.type, enabled=False), products(rounded):
        own = _float(student)
        other = _float(teacher) if compared and teacher is not None else None
        gradients = None
        if w is not None:
            made = [torch.zeros_like(own.head.weight) if needed[0] else None]
            made += [torch.zeros(vocab, device=device) if needed[1] else None]
            gradients = Gradients(torch.zeros_like(own.hidden), *made)
        rows = min(max(_SWEPT // vocab, _ROWS[0]), _ROWS[1], max(n, 1))
        room = [torch.empty(rows, vocab, device=device) for _ in range(2 if other is None else 3)]
        for start in range(0, n, rows):
            at = slice(start, min(start + rows, n))
            p, z_p, *rest = (one[: at.stop - start] for one in room)
            slope = _logits(own, at, z_p)
            z_q = None
            if other is not None:
                z_q = rest[0]
                _logits(other, at, z_q)
            given = None if w is None else w[at].float()
            dz = _rows(z_p, z_q, p, targets[at], given, mix, found[:, at])
            if gradients is not None:
                _add(gradients, dz if slope is None else dz.mul_(slope), own, at)
    return Losses(found[0], found[1] if mix.reverse else None, found[2]), gradients


def _rows(
    z_p: Tensor,
    z_q: Tensor | None,
    p: Tensor,
    targets: Tensor,
    w: Tensor | None,
    mix: Mix,
    found: Tensor,
) -> Tensor:
    """Fill in the losses `found` (3, n) of some rows of logits, which are written over, as is `p`.

    With weights what is returned is the gradient of these logits.
    """
    each, rkl, entropy = found
    at, temperature = targets[:, None], mix.temperature
    apart = z_p.clone() if mix.cross_entropy and z_q is not None and temperature != 1 else None
    if z_q is not None:
        if temperature != 1:
            z_p, z_q = z_p.div_(temperature), z_q.div_(temperature)
        _log_softmax(z_q, p)
    log_p = _softmax(z_p, p, entropy)
    if mix.cross_entropy and apart is None:
        each.sub_(log_p.gather(1, at)[:, 0], alpha=mix.cross_entropy)
    if z_q is None:
        dz = log_p.zero_()
    else:
        gap = log_p.sub_(z_q)
        rkl.copy_(torch.linalg.vecdot(p, gap))
        each.add_(rkl, alpha=mix.reverse)
        if mix.forward:
            q = z_q.exp_()
            each.sub_(torch.linalg.vecdot(q, gap), alpha=mix.forward)
        if w is not None:
            dz = gap.sub_(rkl[:, None]).mul_(p).mul_(mix.reverse / temperature)
            if mix.forward:
                dz.add_(q.neg_().add_(p), alpha=mix.forward / temperature)
    if apart is not None:
        each.sub_(_softmax(apart, p, entropy).gather(1, at)[:, 0], alpha=mix.cross_entropy)
    if w is None:
        return z_p
    if mix.cross_entropy:
        dz.add_(p, alpha=mix.cross_entropy)
        dz.scatter_add_(1, at, torch.full_like(at, -mix.cross_entropy, dtype=dz.dtype))
    return dz.mul_(w[:, None])


def _softmax(z: Tensor, p: Tensor, entropy: Tensor) -> Tensor:
    """Log-probabilities in place of the logits (n, V); fills in probabilities and entropies."""
    log_total = _log_softmax(z, p)
    p.mul_((-log_total).exp_())
    entropy.copy_(-torch.linalg.vecdot(p, z))
    return z


def _log_softmax(z: Tensor, room: Tensor) -> Tensor:
    """Put log-probabilities in place of the logits (n, V); return log sum exp(z - max), (n, 1).

    The exponentials are left in the room for as many numbers.
    """
    z.sub_(z.amax(1, keepdim=True))
    log_total = torch.exp(z, out=room).sum(1, keepdim=True).log_()
    z.sub_(log_total)
    return log_total


def _logits(states: States, at: slice, z: Tensor) -> Tensor | None:
    """Fill in logits (n, V) of some positions; return their slope by the product; None: 1."""
    head = states.head
    torch.mm(states.hidden[at], head.weight.T, out=z)
    if head.bias is not None:
        z.add_(head.bias)
    if head.logit_scale != 1:
        z.mul_(head.logit_scale)
    if head.softcap is not None:
        z.div_(head.softcap).tanh_()
        slope = z.square().neg_().add_(1).mul_(head.logit_scale)
        z.mul_(head.softcap)
        return slope
    return None if head.logit_scale == 1 else torch.full_like(z[:, :1], head.logit_scale)


def _add(gradients: Gradients, dz: Tensor, own: States, at: slice) -> None:
    """Carry the gradient of some rows of products over to the states and the head."""
    torch.mm(dz, own.head.weight, out=gradients.hidden[at])
    if gradients.weight is not None:
        gradients.weight.addmm_(dz.T, own.hidden[at])
    if gradients.bias is not None:
        gradients.bias.add_(dz.sum(0))


def _float(states: States) -> States:
    """States and head in float32."""
    head = states.head
    bias = None if head.bias is None else head.bias.float()
    whole = replace(head, weight=head.weight.float(), bias=bias)
    return States(states.hidden.float(), whole)


def _half(hidden: Tensor) -> bool:
    """Whether products are those of bfloat16: under autocast to it, or of states that have it."""
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    return dtype == torch.bfloat16
