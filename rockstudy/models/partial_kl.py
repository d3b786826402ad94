r"""The reverse KL from a part of the vocabulary: what training frameworks log in its place.

For student p and teacher q at one position, the sampled token x and the teacher's k most likely
tokens S, with P = sum_S p and Q = sum_S q:

    full         sum_v p_v log(p_v / q_v)                      over the whole vocabulary
    k1           log(p_x / q_x)                                Schulman 2020, "Approximating KL
    k3           q_x / p_x - 1 + log(p_x / q_x)                divergence"; both for x from p
    plain        sum_S p_v log(p_v / q_v)                      negative where p has little on S
    clamped      max(plain, 0)
    tail         plain + (1 - P) log((1 - P) / (1 - Q))        the rest as one outcome
    generalised  plain + Q - P                                 sum_S of p log(p / q) - p + q >= 0

The tail bucket is the KL of a coarser distribution, so that it never exceeds the full one (log-sum
inequality); nor does the generalised one, each of whose terms is >= 0. All but the sampled ones
equal the full KL at k = V. Of tokens with equal logits the smaller id comes first.

A tail of mass 1 - Q would lose its digits where Q is nearly 1, so it is added up by itself. Ranks
need whole rows of logits, which exist for a few positions at a time; all is float64.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rockstudy.errors import StudyError
from rockstudy.models.divergence import Head, States, logits

# ours: logits of one model in memory at once, 8 MB in float64, and 256 MB on a CUDA device
_CELLS, _CUDA_CELLS = 1 << 20, 1 << 25


class Estimates(NamedTuple):
    """Estimates of KL(student || teacher) in nats at N positions, and agreement on likely tokens.

    float64: (N,), or (N, K) with a column for each of K cut-offs k.
    """

    full: Tensor
    k1: Tensor
    k3: Tensor
    plain: Tensor  # from here (N, K)
    clamped: Tensor
    tail: Tensor
    generalised: Tensor
    overlap: Tensor  # share of the teacher's first k that are among the student's first k
    mass_student: Tensor  # probability that the student has on what both have among their first k
    mass_teacher: Tensor


@torch.no_grad()
def estimates(log_p: Tensor, log_q: Tensor, targets: Tensor, ks: Sequence[int]) -> Estimates:
    """Estimates from log-probabilities (N, V) of student and teacher, which are finite.

    `targets` are the sampled tokens, int64 (N,), and `ks` the cut-offs, each from 1 to V.

    `StudyError`: a cut-off that is not.
    """
    return _against(log_p.double(), _top(log_q.double(), ks), targets, ks)


@torch.no_grad()
def streamed(
    teacher: States, students: Sequence[States], targets: Tensor, ks: Sequence[int]
) -> list[Estimates]:
    """`estimates` of every student, from hidden states (N, H) before the targets.

    The teacher's logits are computed once. All is copied to the device of `targets`.
    """
    device, vocab = targets.device, teacher.head.weight.shape[0]
    every = [States(one.hidden.to(device), one.head.to(device)) for one in (teacher, *students)]
    rows = max(1, (_CUDA_CELLS if device.type == "cuda" else _CELLS) // vocab)
    parts: list[list[Estimates]] = [[] for _ in students]
    for start in range(0, len(targets), rows):
        some = slice(start, start + rows)
        log_q, *of_students = (_log_probs(one.hidden[some], one.head) for one in every)
        top = _top(log_q, ks)
        for part, log_p in zip(parts, of_students, strict=True):
            part.append(_against(log_p, top, targets[some], ks))
    return [Estimates(*(torch.cat(one) for one in zip(*part, strict=True))) for part in parts]


def top_ids(scores: Tensor, k: int) -> Tensor:
    """Ids of the k largest scores of each row (N, V), from the largest on: int64 (N, k).

    Of equal scores the smaller id comes first, on every device.
    """
    values, ids = scores.topk(k)
    last = values[:, -1:]
    cut = (scores == last).sum(1) > (values == last).sum(1)  # equal scores on both sides
    if cut.any():
        ids[cut] = scores[cut].sort(dim=1, descending=True, stable=True).indices[:, :k]
    ids = ids.sort(1).values
    order = scores.gather(1, ids).sort(dim=1, descending=True, stable=True).indices
    return ids.gather(1, order)


def _log_probs(hidden: Tensor, head: Head) -> Tensor:
    """Log-probabilities of the whole vocabulary, float64 (n, V), from logits in float32."""
    states = States(hidden.float(), head)
    return logits(states, 0, head.weight.shape[0]).double().log_softmax(1)


class _Top(NamedTuple):
    """The teacher at a few positions: all its log-probabilities (n, V), and its likely tokens."""

    log_q: Tensor
    ids: Tensor  # (n, K), the most likely first
    inside: Tensor  # their probabilities
    rests: Tensor  # mass outside the first 0, 1, ... K, (n, K + 1)


def _top(log_q: Tensor, ks: Sequence[int]) -> _Top:
    if not ks or not all(1 <= k <= log_q.shape[1] for k in ks):
        raise StudyError(f"ks: must be from 1 to {log_q.shape[1]}, all tokens; got {list(ks)}")
    ids, q = top_ids(log_q, max(ks)), log_q.exp()
    return _Top(log_q, ids, q.gather(1, ids), _rests(q, ids))


def _against(log_p: Tensor, top: _Top, targets: Tensor, ks: Sequence[int]) -> Estimates:
    """The estimates of a few positions."""
    at, p, gap = [k - 1 for k in ks], log_p.exp(), log_p - top.log_q
    full = torch.linalg.vecdot(p, gap)
    k1 = gap.gather(1, targets[:, None]).squeeze(1)
    inside = p.gather(1, top.ids)
    plain = (inside * gap.gather(1, top.ids)).cumsum(1)[:, at]
    mass_p, mass_q = (one.cumsum(1)[:, at] for one in (inside, top.inside))
    rest_p, rest_q = (one[:, list(ks)] for one in (_rests(p, top.ids), top.rests))
    least = torch.finfo(torch.float64).tiny  # a teacher's rest that underflows
    rest = torch.where(rest_p > 0, rest_p * (rest_p / rest_q.clamp(min=least)).log(), 0.0)
    return Estimates(
        full,
        k1,
        torch.expm1(-k1) + k1,
        plain,
        plain.clamp(min=0),
        plain + rest,
        plain + mass_q - mass_p,
        *_shared(log_p, inside, top, ks),
    )


def _rests(p: Tensor, ids: Tensor) -> Tensor:
    """Mass outside the first 0, 1, ... K of `ids`, (n, K + 1): a sum of what is there.

    One minus the mass inside would be rounding error where the rest is small.
    """
    outside = p.scatter(1, ids, 0.0).sum(1, keepdim=True)
    return torch.cat([outside, p.gather(1, ids).flip(1)], 1).cumsum(1).flip(1)


def _shared(
    log_p: Tensor, inside: Tensor, top: _Top, ks: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Overlap of the first k of both models, and each model's mass on the shared ones: (n, K)."""
    n, most = top.ids.shape
    ranks = torch.arange(most, dtype=torch.int32, device=log_p.device).expand(n, most)
    unranked = torch.full(log_p.shape, most, dtype=torch.int32, device=log_p.device)
    ranks = unranked.scatter_(1, top_ids(log_p, most), ranks).gather(1, top.ids)
    both = [(ranks[:, :k] < k).double() for k in ks]
    overlap = torch.stack([one.mean(1) for one in both], 1)
    masses = (
        torch.stack([(m[:, :k] * one).sum(1) for k, one in zip(ks, both, strict=True)], 1)
        for m in (inside, top.inside)
    )
    return overlap, *masses
