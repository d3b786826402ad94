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

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
        cap = _option(config, "final_logit_softcapping", "logits_soft_cap")
        whole = None if bias is None else _whole(bias)
        return cls(_whole(linear.weight), whole, _logit_scale(config), cap)

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
    """Divergence and the student's entropy, which has no gradient: float32 (N,) each, in nats.

    Hidden states (N, H), each model with its own H, are those at the positions *before* the tokens
    whose prediction is compared; the heads share a vocabulary. ``reverse`` is
    KL(student || teacher), ``forward`` KL(teacher || student). The KD temperature divides both
    models' logits (paper 1: 1.0). Rounding can leave the divergence of equal distributions a few
    1e-7 below 0.
    """
    _set_tiles(h_student.device, head_student.weight.shape[0])
    student, teacher = head_student, head_teacher
    return chunked_divergence.ChunkedDivergenceFunction.apply(
        *(h_student, student.weight, student.bias),
        *(h_teacher, teacher.weight, teacher.bias),
        {"forward": 0.0, "reverse": 1.0}[kind],
        temperature,
        *(student.logit_scale, student.softcap),
        *(teacher.logit_scale, teacher.softcap),
    )


def token_log_prob(h: Tensor, head: Head, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of the targets, int64 (N,), and the entropy: float32 (N,) each, in nats.

    Minus the first is the cross-entropy; the second has no gradient. `h` are the hidden states
    (N, H) of the positions that predict the targets.
    """
    vocab = head.weight.shape[0]
    _set_tiles(h.device, vocab)
    _, width = _tile(h.device, vocab)
    how = (1.0, width, head.softcap, head.logit_scale, ("entropy",))
    log_prob, entropy, *_ = chunked_logprob.ChunkedLogProbFunction.apply(
        h, head.weight, head.bias, targets, *how
    )
    return log_prob, entropy


class States(NamedTuple):
    """Hidden states (N, H) of one model at N positions, and its head."""

    hidden: Tensor
    head: Head


class TokenStatistics(NamedTuple):
    """A student against the teacher at N positions; float32 (N,) in nats.

    ``rkl`` and ``fkl`` are clamped at 0 against rounding. ``log_ratio`` is signed: log p minus
    log q of the target.
    """

    rkl: Tensor
    fkl: Tensor
    log_ratio: Tensor
    entropy: Tensor  # of the student
    log_total: Tensor  # log of the sum of exp(logits)


class Comparison(NamedTuple):
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

    Tiles are float32, sums over tiles float64. Nothing of size N x V exists. The hidden states are
    those at the N positions *before* the `targets`, int64 (N,); all is copied to their device.
    """
    vocab = teacher.head.weight.shape[0]
    rows, width = _tile(targets.device, vocab)
    teacher, *students = (_beside(targets, states) for states in (teacher, *students))
    every, parts = (teacher, *students), []
    with products(all(_is_half(states) for states in every)):  # of such factors they are exact
        for start in range(0, len(targets), rows):
            one = slice(start, start + rows)
            cut = [_cut(states, one) for states in every]
            parts.append(_compared(cut[0], cut[1:], targets[one], width))
    return _joined(parts)


def _is_half(states: States) -> bool:
    """Whether states and head are bfloat16, whose products have no more digits than float32."""
    return states.hidden.dtype == states.head.weight.dtype == torch.bfloat16


def _beside(targets: Tensor, states: States) -> States:
    return States(states.hidden.to(targets.device), states.head.to(targets.device))


def _cut(states: States, rows: slice) -> States:
    """The rows of one tile, in float32: products of half-precision states would round the KL."""
    return States(states.hidden[rows].float(), states.head)


class _Sums:
    """Sums over tiles of one model's logits z, with m the largest so far: float64 (2 + K, n).

    The rows are the sums of exp(z - m), of exp(z - m) z, and of exp(z - m) times each of K gaps.
    """

    def __init__(self, n: int, n_gaps: int, device: torch.device) -> None:
        self.peak = torch.full((n, 1), -torch.inf, device=device)
        self.sums = torch.zeros(2 + n_gaps, n, dtype=torch.float64, device=device)

    def add(self, z: Tensor) -> Tensor:
        """Add a tile (n, v); return exp(z - m)."""
        peak = torch.maximum(self.peak, z.amax(1, keepdim=True))
        self.sums *= (self.peak - peak).exp().squeeze(1)
        self.peak = peak
        weight = (z - peak).exp_()
        self.sums[0] += weight.sum(1)
        self.sums[1] += torch.linalg.vecdot(weight, z)
        return weight

    def add_gap(self, i: int, weight: Tensor, gap: Tensor) -> None:
        """Add the tile's part of the expected difference between two models' logits."""
        self.sums[2 + i] += torch.linalg.vecdot(weight, gap)

    def mean_gap(self, i: int) -> Tensor:
        """The expected difference."""
        return self.sums[2 + i] / self.sums[0]

    @property
    def log_total(self) -> Tensor:
        """The log of the sum of exp(z)."""
        return self.peak.squeeze(1).double() + self.sums[0].log()

    @property
    def entropy(self) -> Tensor:
        """Log Z minus the expected logit."""
        return self.log_total - self.sums[1] / self.sums[0]


def _compared(teacher: States, students: list[States], targets: Tensor, width: int) -> Comparison:
    """One tile of positions, all models, along the vocabulary."""
    n, vocab, device = len(targets), teacher.head.weight.shape[0], targets.device
    q, p = _Sums(n, len(students), device), [_Sums(n, 1, device) for _ in students]
    q_target = _target_logit(teacher, targets)
    rank = torch.zeros(n, dtype=torch.int32, device=device)
    for left in range(0, vocab, width):
        right = min(left + width, vocab)
        z_q = logits(teacher, left, right)
        above = z_q > q_target[:, None]
        inside = ((targets >= left) & (targets < right)).nonzero().squeeze(1)
        above[inside, targets[inside] - left] = False  # rounding must not count the target
        rank += above.sum(1, dtype=torch.int32)
        weight_q = q.add(z_q)
        for i, student in enumerate(students):
            z_p = logits(student, left, right)
            weight_p = p[i].add(z_p)
            gap = z_p.sub_(z_q)
            p[i].add_gap(0, weight_p, gap)
            q.add_gap(i, weight_q, gap)
    statistics = []
    for i, student in enumerate(students):
        shift = p[i].log_total - q.log_total
        log_ratio = _target_logit(student, targets).double() - q_target.double() - shift
        rkl, fkl = p[i].mean_gap(0) - shift, shift - q.mean_gap(i)
        made = (rkl.clamp(min=0), fkl.clamp(min=0), log_ratio, p[i].entropy, p[i].log_total)
        statistics.append(TokenStatistics(*(value.float() for value in made)))
    return Comparison(statistics, q.entropy.float(), rank, q.log_total.float())


def _joined(parts: Sequence[Any]) -> Any:
    """Tensors, or lists or tuples of them, joined along their positions."""
    if isinstance(parts[0], Tensor):
        return torch.cat(tuple(parts))
    joined = [_joined(values) for values in zip(*parts, strict=True)]
    return joined if isinstance(parts[0], list) else type(parts[0])(*joined)


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


@contextmanager
def products(rounded: bool) -> Iterator[None]:
    """Have products of float32 round their factors to bfloat16, where the processor has it."""
    how: Any = torch.backends.mkldnn.matmul
    before = how.fp32_precision
    if rounded:
        how.fp32_precision = "bf16"
    try:
        yield
    finally:
        how.fp32_precision = before


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


def _option(config: object, *names: str) -> Any:
    """An option whose name depends on the architecture; None without one."""
    given = (getattr(config, name, None) for name in names)
    return next((value for value in given if value is not None), None)


def _logit_scale(config: object) -> float:
    """Factor on the logits; 1 by default."""
    scale = _option(config, "logit_scale", "output_multiplier", "lm_head_multiplier")
    if scale is not None:
        return float(scale)
    divisor = _option(config, "logits_scaling")
    if divisor is None:
        return 1.0
    multiplies = getattr(config, "model_type", None) == "hyperclovax"
    return float(divisor) if multiplies else 1.0 / divisor
