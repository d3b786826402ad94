"""Full-vocabulary divergences between student and teacher, position by position, in nats.

For student ``p = softmax(z_p / T)`` and teacher ``q = softmax(z_q / T)``:

    reverse KL  KL(p || q) = sum_v p_v (log p_v - log q_v)     the objective of stage 2 (paper 1)
    forward KL  KL(q || p) = sum_v q_v (log q_v - log p_v)     half of stage 1 (paper 1)
    entropy     H(p)       = - sum_v p_v log p_v

Both divergences hold their own entropy term: a "forward KL" without the teacher's entropy is a
cross-entropy. Input is hidden states at chosen positions, (N, H), because a position of weight 0
must cost nothing. Logits exist only tile by tile (TRL's kernels), so memory grows with N and V,
never with N x V. The gradient reaches the student's hidden states and head; the teacher and the
entropy have none.
"""

from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel
from trl.kernels import chunked_divergence, chunked_logprob

# TRL's tiles are cut from buffers of (4096, 32768) float32, 512 MB each, whatever the vocabulary.
_CUDA_TILE = (4096, 32768)  # TRL's own, narrowed to the vocabulary
_CPU_TILE = (128, 8192)  # ours: 4 MB, which caches hold; benchmarks/opd_step.py measures the gain


@dataclass(frozen=True)
class Head:
    """A model's last projection: ``softcap * tanh(scale * (h W' + b) / softcap)``, cap optional."""

    weight: Tensor  # (V, H)
    bias: Tensor | None = None  # (V,)
    logit_scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, model: PreTrainedModel) -> Self:
        """Read the head of a causal language model, and what its config does to the logits."""
        linear = model.get_output_embeddings()
        config = model.config.get_text_config()
        bias = getattr(linear, "bias", None)
        return cls(
            _whole(linear.weight),
            None if bias is None else _whole(bias),
            _logit_scale(config),
            getattr(config, "final_logit_softcapping", None),
        )


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
        Heads over one and the same vocabulary.
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
    h
        Hidden states (N, H).
    head
        Head of the same model.
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


def _tile(device: torch.device, vocab: int) -> tuple[int, int]:
    tokens, width = _CUDA_TILE if device.type == "cuda" else _CPU_TILE
    return tokens, min(width, vocab)


def _set_tiles(device: torch.device, vocab: int) -> None:
    """Size TRL's tiles; its kernels read these constants in the forward and in the backward.

    They give the same result at any size, so that a change between the two passes does no harm.
    """
    tokens, width = _tile(device, vocab)
    chunked_divergence.TOKEN_CHUNK_SIZE = chunked_logprob.TOKEN_CHUNK_SIZE = tokens
    chunked_divergence.VOCAB_CHUNK_SIZE = width


def _whole(parameter: Tensor) -> Tensor:
    """Gather a parameter that FSDP2 shards; others as they are."""
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter  # type: ignore[operator]


def _logit_scale(config: object) -> float:
    """Factor on the logits, under the names that architectures give it; 1 where there is none."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        scale = getattr(config, name, None)
        if scale is not None:
            return float(scale)
    divisor = getattr(config, "logits_scaling", None)
    if divisor is None:
        return 1.0
    multiplies = getattr(config, "model_type", None) == "hyperclovax"
    return float(divisor) if multiplies else 1.0 / divisor
