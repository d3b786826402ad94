"""Full-vocabulary divergences between student and teacher, position by position, in nats.

For student ``p = softmax(z_p / T)`` and teacher ``q = softmax(z_q / T)``:

    reverse KL  KL(p || q) = sum_v p_v (log p_v - log q_v)     the objective of stage 2 (paper 1)
    forward KL  KL(q || p) = sum_v q_v (log q_v - log p_v)     half of stage 1 (paper 1)
    entropy     H(p)       = - sum_v p_v log p_v

Both divergences include their own entropy term: a "forward KL" without the teacher's entropy is a
cross-entropy. Inputs are hidden states at chosen positions, (N, H), because a position of weight 0
must cost nothing. Logits exist only tile by tile (TRL's kernels), so memory grows with N and V,
never with N x V. The student's hidden states and head receive a gradient; the teacher and the
entropy do not.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel
from trl.kernels import chunked_divergence, chunked_logprob

# TRL's tiles are cut from buffers of (4096, 32768) float32, 512 MB each, whatever the vocabulary.
_CUDA_TILE = (4096, 32768)  # TRL's own, narrowed to the vocabulary
_CPU_TILE = (128, 8192)  # ours: 4 MB fit into caches; benchmarks/opd_step.py measures the gain


@dataclass(frozen=True)
class Head:
    """A model's last projection: ``softcap * tanh(scale * (h W' + b) / softcap)``, cap optional."""

    weight: Tensor  # (V, H)
    bias: Tensor | None = None  # (V,)
    logit_scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, model: PreTrainedModel) -> Self:
        """Read the head of a causal language model, and the scale and cap of its logits."""
        linear = model.get_output_embeddings()
        config = model.config.get_text_config()
        bias = getattr(linear, "bias", None)
        return cls(
            _whole(linear.weight),
            None if bias is None else _whole(bias),
            _logit_scale(config),
            _softcap(config),
        )

    def to(self, device: torch.device) -> Self:
        """Return the head on a device."""
        bias = None if self.bias is None else self.bias.to(device)
        return replace(self, weight=self.weight.to(device), bias=bias)


def token_divergence(
    h_student: Tensor,
    head_student: Head,
    h_teacher: Tensor,
    head_teacher: Head,
    *,
    kind: Literal["reverse", "forward"] = "reverse",
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Divergence at each position, and the student's entropy there.

    Parameters
    ----------
    h_student, h_teacher
        Hidden states (N, H), each model with its own H, at the positions *before* the tokens whose
        prediction is compared.
    head_student, head_teacher
        Heads over the same vocabulary.
    kind
        ``reverse`` is KL(student || teacher), ``forward`` KL(teacher || student).
    temperature
        Divides both models' logits (the KD temperature; paper 1: 1.0).

    Returns
    -------
    tuple of Tensor
        float32 (N,) in nats, and float32 (N,) in nats without a gradient. Rounding can leave the
        divergence of equal distributions a few 1e-7 below 0.
    """
    _set_tiles(h_student.device, head_student.weight.shape[0])
    return chunked_divergence.ChunkedDivergenceFunction.apply(
        h_student,
        head_student.weight,
        head_student.bias,
        h_teacher,
        head_teacher.weight,
        head_teacher.bias,
        {"forward": 0.0, "reverse": 1.0}[kind],
        temperature,
        head_student.logit_scale,
        head_student.softcap,
        head_teacher.logit_scale,
        head_teacher.softcap,
    )


def token_log_prob(h: Tensor, head: Head, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of one token at each position, and the distribution's entropy.

    Parameters
    ----------
    h, head
        Hidden states (N, H) and head of one model.
    targets
        int64 (N,), the token that each position predicts.

    Returns
    -------
    tuple of Tensor
        float32 (N,) in nats (minus it is the cross-entropy), and float32 (N,) without a gradient.
    """
    vocab = head.weight.shape[0]
    _set_tiles(h.device, vocab)
    log_prob, entropy, *_ = chunked_logprob.ChunkedLogProbFunction.apply(
        h,
        head.weight,
        head.bias,
        targets,
        1.0,
        _tile(h.device, vocab)[1],
        head.softcap,
        head.logit_scale,
        ("entropy",),
    )
    return log_prob, entropy


class States(NamedTuple):
    """Hidden states (N, H) of one model at N positions, and its head."""

    hidden: Tensor
    head: Head


@dataclass(frozen=True)
class TokenStatistics:
    """A student against the teacher at N positions; float32 (N,) in nats.

    ``rkl`` and ``fkl`` are clamped at 0 against rounding. ``log_ratio`` is signed: log p minus
    log q of the target.
    """

    rkl: Tensor
    fkl: Tensor
    log_ratio: Tensor
    entropy: Tensor  # of the student
    log_total: Tensor  # log of the sum of exp(logits)


@dataclass(frozen=True)
class Comparison:
    """Statistics of every student, and of the teacher: float32 (N,) but for the rank, int32."""

    students: list[TokenStatistics]
    entropy_teacher: Tensor
    rank_teacher: Tensor  # of the target; 0 for the teacher's most likely token
    log_total_teacher: Tensor


@torch.no_grad()
def token_statistics(teacher: States, students: Sequence[States], targets: Tensor) -> Comparison:
    """Compare any number of students with one teacher, whose logits are computed once.

    One sweep over the vocabulary: for each tile of logits z the sums of exp(z - m), of
    exp(z - m) z and of exp(z_p - m) (z_p - z_q) are added up, m being the largest logit so far. So

        KL(p || q) = E_p[z_p - z_q] - (log Z_p - log Z_q),   H(p) = log Z_p - E_p[z_p].

    Tiles are float32, sums over tiles float64. Nothing of size N x V exists.

    Parameters
    ----------
    teacher, students
        Hidden states at the same N positions, *before* the tokens that are predicted.
    targets
        int64 (N,), the tokens at these positions. Everything is copied to their device.
    """
    vocab = teacher.head.weight.shape[0]
    rows, width = _tile(targets.device, vocab)
    teacher, *students = (_beside(targets, states) for states in (teacher, *students))
    parts = []
    for start in range(0, len(targets), rows):
        one = slice(start, start + rows)
        sweep = _Sweep(_cut(teacher, one), [_cut(s, one) for s in students], targets[one])
        for left in range(0, vocab, width):
            sweep.add(left, min(left + width, vocab))
        parts.append(sweep.result())
    return _joined(parts, len(students))


def _beside(targets: Tensor, states: States) -> States:
    device = targets.device
    return States(states.hidden.to(device), states.head.to(device))


def _cut(states: States, rows: slice) -> States:
    """The rows of one tile, in float32: products of half-precision states would round the KL."""
    return States(states.hidden[rows].float(), states.head)


class _Sums:
    """Running sums of one distribution over tiles of its logits z, (n,) float64."""

    def __init__(self, n: int, device: torch.device) -> None:
        self.peak = torch.full((n, 1), -torch.inf, device=device)
        self.total, self.energy = torch.zeros(2, n, dtype=torch.float64, device=device)
        self.gaps: dict[int, Tensor] = {}  # E[z - z of the other model], by student

    def add(self, z: Tensor) -> Tensor:
        """Add a tile (n, v); return exp(z - m)."""
        peak = torch.maximum(self.peak, z.amax(1, keepdim=True))
        shrink = (self.peak - peak).exp().squeeze(1)
        self.peak = peak
        for sums in (self.total, self.energy, *self.gaps.values()):
            sums.mul_(shrink)
        weight = (z - peak).exp_()
        self.total += weight.sum(1)
        self.energy += torch.linalg.vecdot(weight, z)
        return weight

    def add_gap(self, key: int, weight: Tensor, gap: Tensor) -> None:
        """Add the tile's part of the expected difference to another model's logits."""
        self.gaps.setdefault(key, torch.zeros_like(self.total))
        self.gaps[key] += torch.linalg.vecdot(weight, gap)

    @property
    def log_total(self) -> Tensor:
        """The log of the sum of exp(z)."""
        return self.peak.squeeze(1).double() + self.total.log()

    @property
    def entropy(self) -> Tensor:
        """Log Z minus the expected logit."""
        return self.log_total - self.energy / self.total


class _Sweep:
    """One tile of positions, all models, along the vocabulary."""

    def __init__(self, teacher: States, students: list[States], targets: Tensor) -> None:
        self.teacher, self.students, self.targets = teacher, students, targets
        n, device = len(targets), targets.device
        self.q = _Sums(n, device)
        self.p = [_Sums(n, device) for _ in students]
        self.q_target = _target_logit(teacher, targets)
        self.p_target = [_target_logit(s, targets) for s in students]
        self.rank = torch.zeros(n, dtype=torch.int32, device=device)

    def add(self, left: int, right: int) -> None:
        """Add the logits of tokens ``left`` to ``right``."""
        z_q = logits(self.teacher, left, right)
        self.rank += self._above(z_q, left).sum(1, dtype=torch.int32)
        weight_q = self.q.add(z_q)
        for i, (student, sums) in enumerate(zip(self.students, self.p, strict=True)):
            z_p = logits(student, left, right)
            weight_p = sums.add(z_p)
            gap = z_p.sub_(z_q)
            sums.add_gap(i, weight_p, gap)
            self.q.add_gap(i, weight_q, gap)

    def _above(self, z_q: Tensor, left: int) -> Tensor:
        """Tokens that the teacher prefers to the target; rounding must not count the target."""
        above = z_q > self.q_target[:, None]
        inside = (self.targets >= left) & (self.targets < left + z_q.shape[1])
        rows = inside.nonzero().squeeze(1)
        above[rows, self.targets[rows] - left] = False
        return above

    def result(self) -> Comparison:
        """Turn the sums into statistics."""
        students = [self._student(i) for i in range(len(self.students))]
        q = self.q
        return Comparison(students, q.entropy.float(), self.rank, q.log_total.float())

    def _student(self, i: int) -> TokenStatistics:
        p, q = self.p[i], self.q
        shift = p.log_total - q.log_total
        return TokenStatistics(
            rkl=(p.gaps[i] / p.total - shift).clamp(min=0).float(),
            fkl=(shift - q.gaps[i] / q.total).clamp(min=0).float(),
            log_ratio=(self.p_target[i].double() - self.q_target.double() - shift).float(),
            entropy=p.entropy.float(),
            log_total=p.log_total.float(),
        )


def _joined(parts: list[Comparison], n_students: int) -> Comparison:
    def joined(values: list[Any], kind: type) -> dict[str, Tensor]:
        names = [field.name for field in fields(kind) if field.name != "students"]
        return {name: torch.cat([getattr(v, name) for v in values]) for name in names}

    students = [
        TokenStatistics(**joined([part.students[i] for part in parts], TokenStatistics))
        for i in range(n_students)
    ]
    return Comparison(students, **joined(parts, Comparison))


def logits(states: States, left: int, right: int) -> Tensor:
    """Logits of tokens `left` to `right`, (n, right - left) in float32, as the model makes them."""
    head = states.head
    z = states.hidden @ head.weight[left:right].float().T
    return _shaped(z if head.bias is None else z.add_(head.bias[left:right]), head)


def _target_logit(states: States, targets: Tensor) -> Tensor:
    """The logit of one token at each position, (n,)."""
    head = states.head
    z = torch.linalg.vecdot(states.hidden, head.weight[targets].float())
    return _shaped(z if head.bias is None else z + head.bias[targets], head)


def _shaped(z: Tensor, head: Head) -> Tensor:
    """Scale and soft-cap, in TRL's order."""
    if head.logit_scale != 1.0:
        z = z * head.logit_scale
    return z if head.softcap is None else head.softcap * torch.tanh(z / head.softcap)


def _tile(device: torch.device, vocab: int) -> tuple[int, int]:
    tokens, width = _CUDA_TILE if device.type == "cuda" else _CPU_TILE
    return tokens, min(width, vocab)


def _set_tiles(device: torch.device, vocab: int) -> None:
    """Size TRL's tiles; its kernels read these constants in the forward and in the backward.

    Every size gives the same result, so a change between the two passes does no harm.
    """
    tokens, width = _tile(device, vocab)
    chunked_divergence.TOKEN_CHUNK_SIZE = chunked_logprob.TOKEN_CHUNK_SIZE = tokens
    chunked_divergence.VOCAB_CHUNK_SIZE = width


def _whole(parameter: Tensor) -> Tensor:
    """Gather a parameter that FSDP2 shards; return others unchanged."""
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter  # type: ignore[operator]


def _softcap(config: object) -> float | None:
    """Cap of the logits, whose name depends on the architecture; None without one."""
    names = ("final_logit_softcapping", "logits_soft_cap")
    return next((cap for name in names if (cap := getattr(config, name, None)) is not None), None)


def _logit_scale(config: object) -> float:
    """Factor on the logits, whose name depends on the architecture; 1 by default."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        scale = getattr(config, name, None)
        if scale is not None:
            return float(scale)
    divisor = getattr(config, "logits_scaling", None)
    if divisor is None:
        return 1.0
    multiplies = getattr(config, "model_type", None) == "hyperclovax"
    return float(divisor) if multiplies else 1.0 / divisor
