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
_CPU_BLOCK = 1 << 17  # ours: logits of each core, 512 kB; benchmarks/token_table.py measures it


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

    Tiles are float32, sums over tiles float64. Nothing of size N x V exists. A part of the heads is
    made float32 once for all positions, and what follows a product works on blocks that a
    processor's cache holds. The hidden states are those at the N positions *before* the `targets`,
    int64 (N,); all is copied to their device.
    """
    teacher, *students = (_beside(targets, states) for states in (teacher, *students))
    every, vocab = (teacher, *students), teacher.head.weight.shape[0]
    rows, width = _tile(targets.device, vocab)
    sweep = _Sweep(every, targets, rows)
    with products(all(_is_half(states) for states in every)):  # of such factors they are exact
        for left in range(0, vocab, width):
            heads = [_part(states.head, slice(left, left + width)) for states in every]
            for start in range(0, len(targets), rows):
                sweep.add(slice(start, start + rows), left, heads)
    return sweep.comparison()


def _is_half(states: States) -> bool:
    """Whether states and head are bfloat16, whose products have no more digits than float32."""
    return states.hidden.dtype == states.head.weight.dtype == torch.bfloat16


def _beside(targets: Tensor, states: States) -> States:
    return States(states.hidden.to(targets.device), states.head.to(targets.device))


def _part(head: Head, tokens: slice) -> Head:
    """The head of some tokens, in float32: products of half-precision states would round the KL."""
    bias = None if head.bias is None else head.bias[tokens]
    return replace(head, weight=head.weight[tokens].float(), bias=bias)


class _Sums:
    """Sums over tiles of one model's logits z, with m the largest so far: float64 (2 + K, N).

    The rows are the sums of exp(z - m), of exp(z - m) z, and of exp(z - m) times each of K gaps.
    """

    def __init__(self, n: int, n_gaps: int, device: torch.device) -> None:
        self.peak = torch.full((n, 1), -torch.inf, device=device)
        self.sums = torch.zeros(2 + n_gaps, n, dtype=torch.float64, device=device)

    def add(self, at: slice, z: Tensor) -> Tensor:
        """Add a block of logits (n, v) of the positions `at`; return exp(z - m)."""
        before, sums = self.peak[at], self.sums[:, at]
        peak = torch.maximum(before, z.amax(1, keepdim=True))
        sums *= (before - peak).exp().squeeze(1)
        self.peak[at] = peak
        weight = (z - peak).exp_()
        sums[0] += weight.sum(1)
        sums[1] += torch.linalg.vecdot(weight, z)
        return weight

    def add_gap(self, i: int, at: slice, weight: Tensor, gap: Tensor) -> None:
        """Add the block's part of the expected difference between two models' logits."""
        self.sums[2 + i, at] += torch.linalg.vecdot(weight, gap)

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


class _Sweep:
    """All models at N positions, along the vocabulary."""

    def __init__(self, every: Sequence[States], targets: Tensor, rows: int) -> None:
        n, device = len(targets), targets.device
        self.every, self.targets = every, targets
        self.q = _Sums(n, len(every) - 1, device)
        self.p = [_Sums(n, 1, device) for _ in every[1:]]
        self.q_target, *self.p_targets = (_target_logits(states, targets, rows) for states in every)
        self.rank = torch.zeros(n, dtype=torch.int32, device=device)

    def add(self, rows: slice, left: int, heads: Sequence[Head]) -> None:
        """Add the tokens from `left` on, whose part of every model's head is given."""
        whole = [  # products of few rows would be slower
            logits(States(states.hidden[rows].float(), head), 0, len(head.weight))
            for states, head in zip(self.every, heads, strict=True)
        ]
        n, v = whole[0].shape
        size = n if whole[0].is_cuda else max(1, _CPU_BLOCK * torch.get_num_threads() // v)
        for start in range(0, n, size):
            self._add(rows.start + start, left, *(z[start : start + size] for z in whole))

    def _add(self, start: int, left: int, z_q: Tensor, *z_ps: Tensor) -> None:
        """Add a block of all models' logits (n, v), of the positions from `start` on."""
        at = slice(start, start + len(z_q))
        self._rank(at, left, z_q)
        weight_q = self.q.add(at, z_q)
        for i, (z_p, p) in enumerate(zip(z_ps, self.p, strict=True)):
            weight_p = p.add(at, z_p)
            gap = z_p.sub_(z_q)
            p.add_gap(0, at, weight_p, gap)
            self.q.add_gap(i, at, weight_q, gap)

    def _rank(self, at: slice, left: int, z_q: Tensor) -> None:
        """Count the tokens of a block that the teacher prefers to the targets."""
        above = torch.gt(z_q, self.q_target[at, None], out=torch.empty_like(z_q))  # 1 where it does
        targets = self.targets[at] - left
        inside = ((targets >= 0) & (targets < z_q.shape[1])).nonzero().squeeze(1)
        above[inside, targets[inside]] = 0  # rounding must not count the target
        self.rank[at] += above.sum(1).int()

    def comparison(self) -> Comparison:
        """What the sums amount to at the end of the vocabulary."""
        statistics = []
        for i, (p, p_target) in enumerate(zip(self.p, self.p_targets, strict=True)):
            shift = p.log_total - self.q.log_total
            log_ratio = p_target.double() - self.q_target.double() - shift
            rkl, fkl = p.mean_gap(0) - shift, shift - self.q.mean_gap(i)
            made = (rkl.clamp(min=0), fkl.clamp(min=0), log_ratio, p.entropy, p.log_total)
            statistics.append(TokenStatistics(*(value.float() for value in made)))
        entropy, log_total = self.q.entropy.float(), self.q.log_total.float()
        return Comparison(statistics, entropy, self.rank, log_total)


def logits(states: States, left: int, right: int) -> Tensor:
    """Logits of tokens `left` to `right`, (n, right - left) in float32, as the model makes them."""
    head = states.head
    z = states.hidden @ head.weight[left:right].float().T
    return _shaped(z if head.bias is None else z.add_(head.bias[left:right]), head)


def _target_logits(states: States, targets: Tensor, rows: int) -> Tensor:
    """The logit of one token at each position, (N,), so many rows at a time."""
    head, parts = states.head, []
    for hidden, some in zip(states.hidden.split(rows), targets.split(rows), strict=True):
        z = torch.linalg.vecdot(hidden.float(), head.weight[some].float())
        parts.append(_shaped(z if head.bias is None else z + head.bias[some], head))
    return torch.cat(parts)


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
