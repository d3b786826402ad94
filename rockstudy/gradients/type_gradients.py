"""The gradient of the reverse KL by token type (paper 2.6, figure 3).

At one position, with student p = softmax(z) and teacher q, the gradient of KL(p || q) with respect
to the student's logits is

    g_u = p_u (A_u - KL),   A_u = log p_u - log q_u,   sum_u g_u = 0.

For a type t with n_t occurrences i, and over all types t that occur:

    g_t         = mean of its g_i                                       (V,)
    G_balanced  = sum_t g_t            every type counts once           (paper 2.6)
    G_total     = sum_t n_t g_t        every occurrence counts once     (ours: what training has)
    contrib(t)  = n_t |g_t| cos(g_t, G_balanced)

The same in the space of the head's input: g_t W, (H,), for logits z = scale * (h W' + b). Training
moves weights through that space; logit space counts directions that the head cannot tell apart.

A matrix (types, V) is never made. Everything above is a sum over the vocabulary once the
normalisers of both softmaxes are known, so one sweep over *vocabulary* blocks, each with all types,
gives all norms and products: the logits are made once, whatever the budget. (Blocks of types would
need the balanced sum before the products, hence every logit twice.)

Standard errors come from half-samples of the prompts' folds: the sums of every fold are kept apart,
so that a replicate costs no further logits. (Leaving out one fold at a time would not do: the
jackknife of a median is inconsistent unless a large share is left out, Shao and Wu 1989.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rockstudy import progress
from rockstudy.errors import StudyError
from rockstudy.models.divergence import Head, States, logits, token_statistics

BUDGET = 2 * 1024**3  # ours: bytes for sums over a vocabulary block
_ROWS = 512  # ours: positions whose logits of a block are in memory at once
SPACES = ("logit", "hidden")


@dataclass(frozen=True)
class Positions:
    """Hidden states before N completion tokens, which may be memory-mapped, and the tokens."""

    student: np.ndarray  # float (N, H)
    teacher: np.ndarray  # float (N, H), with its own H
    token_id: np.ndarray  # int (N,): the predicted token
    fold: np.ndarray  # int (N,): fold of the token's prompt, from 0


@dataclass(frozen=True)
class Share:
    """What processes must share where each of them has some of the positions."""

    ids: np.ndarray  # sorted token ids of the types that occur anywhere
    n_folds: int  # folds of all positions
    summed: Callable[[Tensor], Tensor]  # adds up, in place, a tensor of each process


@dataclass(frozen=True)
class TypeGradients:
    """Statistics of every type's mean gradient, and of its replicates on some of the folds.

    ``types`` has a row per type by id: ``token_id, count``, and for both `SPACES` ``norm_<space>,
    cos_balanced_<space>, cos_total_<space>, contrib_<space>``. ``replicates`` has these statistics
    by column name, float64 (R, types); NaN where nothing of the type is left.
    """

    types: pd.DataFrame
    replicates: dict[str, np.ndarray]


@torch.no_grad()
def type_gradients(
    positions: Positions,
    student: Head,
    teacher: Head,
    budget: int = BUDGET,
    keep: np.ndarray | None = None,
    share: Share | None = None,
) -> TypeGradients:
    """Norms, cosines and contributions of every type's mean gradient, in both spaces.

    The heads are over one vocabulary. `budget` is in bytes, for the sums over one vocabulary block;
    the result does not depend on it. `keep` is bool (R, F): the folds that each replicate is made
    of (`half_samples`). With a `share`, these positions are one process's part of all; every
    process gets all results, up to the order in which float32 sums are added.

    `StudyError`: no positions, states that are not finite, a soft-capped student, a budget too
    small for one column of the sums (the line has the least that works).

    With one occurrence g_t is a single position's gradient: its norm is not comparable with a mean
    over thousands, which shrinks as directions cancel. Compare types of equal frequency.
    """
    _check(positions, student)
    if share is None:
        share = Share(np.unique(positions.token_id), int(positions.fold.max()) + 1, lambda x: x)
    ids, n_folds, device = share.ids, share.n_folds, student.weight.device
    key = positions.fold * len(ids) + np.searchsorted(ids, positions.token_id)
    own = np.bincount(key, minlength=n_folds * len(ids)).reshape(n_folds, -1)
    counts = share.summed(torch.from_numpy(own).float().to(device)).double()
    every = np.ones((1, n_folds)) if keep is None else np.vstack([np.ones(n_folds), keep])
    vocab, n_hidden = student.weight.shape
    sums = _Sums(counts, torch.from_numpy(every), n_hidden)
    width = _width(budget, sums, vocab)
    tiles = _Tiles(positions, student, teacher, torch.from_numpy(key).to(device))
    blocks = range(0, vocab, width)
    with progress.bar(len(blocks) * len(key), "gradients", "position") as bar:
        for left in blocks:
            right = min(left + width, vocab)
            weight = student.weight[left:right].float() * student.logit_scale
            # no name for the block: it must be gone before the next one is made
            sums.add(share.summed(tiles.block(sums, left, right, bar)), weight)
    tables = {"logit": sums.table()}
    sums.add_hidden()
    tables["hidden"] = sums.table()
    values = {f"{name}_{s}": value for s in SPACES for name, value in tables[s].items()}
    types = {"token_id": ids, "count": counts.sum(0).cpu().numpy().astype(np.int64)}
    return TypeGradients(
        pd.DataFrame(types | {name: value[0] for name, value in values.items()}),
        {name: value[1:] for name, value in values.items()},
    )


def half_samples(n_folds: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `n` halves of the folds, bool (n, F); with an odd number the smaller half."""
    order = rng.permuted(np.tile(np.arange(n_folds), (n, 1)), axis=1)
    return order < n_folds // 2


def _check(positions: Positions, student: Head) -> None:
    if len(positions.token_id) == 0:
        raise StudyError("positions: must have at least one position; got none")
    for name in ("student", "teacher"):
        states = getattr(positions, name)
        for start in range(0, len(states), 65_536):
            bad = ~np.isfinite(states[start : start + 65_536]).all(1)
            if bad.any():
                raise StudyError(
                    f"hidden states of the {name}: must be finite; they are not at position "
                    f"{start + int(bad.argmax())}"
                )
    if student.softcap is not None:
        raise StudyError("student: must not have soft-capped logits here; it has")


def _width(budget: int, sums: _Sums, vocab: int) -> int:
    """Columns of a block: the folds' sums, matrices of a replicate, and tiles of logits.

    Of both torch makes temporaries; the numbers are what `benchmarks/geometry.py` saw.
    """
    column = 4 * ((sums.n_folds + 8) * sums.n_types + 6 * _ROWS)
    if budget < column:
        raise StudyError(
            f"budget: must be at least {column} bytes for {sums.n_types} types in {sums.n_folds} "
            f"folds; got {budget}"
        )
    return min(vocab, budget // column)


class _Tiles:
    """Positions and the heads over them, taken a few rows at a time."""

    def __init__(self, positions: Positions, student: Head, teacher: Head, key: Tensor) -> None:
        self.positions, self.student, self.teacher = positions, student, teacher
        self.key = key  # (N,): fold and type of each position
        self.terms = self._normalisers()

    def states(self, rows: slice) -> tuple[States, States]:
        """States of student and teacher, float32 on the device."""
        p, q = (
            torch.from_numpy(np.array(states[rows], np.float32)).to(self.key.device)
            for states in (self.positions.student, self.positions.teacher)
        )
        return States(p, self.student), States(q, self.teacher)

    def _normalisers(self) -> Tensor:
        """Log-normalisers of student and teacher, and the reverse KL: float32 (3, N)."""
        parts = []
        with progress.bar(len(self.key), "normalisers", "position") as bar:
            for start in range(0, len(self.key), 8 * _ROWS):
                rows = slice(start, start + 8 * _ROWS)
                p, q = self.states(rows)
                targets = torch.from_numpy(self.positions.token_id[rows].astype(np.int64))
                both = token_statistics(q, [p], targets.to(self.key.device))
                one = both.students[0]
                parts.append(torch.stack([one.log_total, both.log_total_teacher, one.rkl]))
                bar.update(parts[-1].shape[1])
        return torch.cat(parts, dim=1)

    def block(self, sums: _Sums, left: int, right: int, bar: progress.Bar) -> Tensor:
        """Sums of g over the occurrences of every fold and type: (F, types, right - left)."""
        total = torch.zeros(sums.n_folds * sums.n_types, right - left, device=self.key.device)
        for start in range(0, len(self.key), _ROWS):
            rows = slice(start, start + _ROWS)
            p, q = self.states(rows)
            log_z_p, log_z_q, rkl = self.terms[:, rows, None]
            log_p = logits(p, left, right).sub_(log_z_p)
            gap = log_p - logits(q, left, right).sub_(log_z_q)
            total.index_add_(0, self.key[rows], log_p.exp_().mul_(gap.sub_(rkl)))
            bar.update(len(log_p))
        return total.view(sums.n_folds, sums.n_types, -1)


class _Sums:
    """Products of the types' mean gradients, added up over blocks of the vocabulary.

    Row 0 of each is the whole corpus; row r + 1 is replicate r.
    """

    def __init__(self, counts: Tensor, keep: Tensor, hidden: int) -> None:
        self.n_folds, self.n_types = counts.shape
        self.keep = keep.to(counts)  # (1 + R, F)
        self.counts = self.keep @ counts
        self.inverse = torch.where(self.counts > 0, 1 / self.counts, 0).float()
        self.hidden = torch.zeros(self.n_folds, self.n_types, hidden, device=counts.device)
        self._restart()

    def _restart(self) -> None:
        shape = self.counts.shape
        self.norm, self.balanced, self.total = torch.zeros(3, *shape, dtype=torch.float64)
        self.g_balanced, self.g_total = torch.zeros(2, shape[0], dtype=torch.float64)

    def add(self, block: Tensor, weight: Tensor) -> None:
        """Add the sums (F, types, w) of a block of the vocabulary; weight is (w, H)."""
        for fold in range(self.n_folds):
            self.hidden[fold].addmm_(block[fold], weight)
        self._add_rows(block)

    def add_hidden(self) -> None:
        """Restart in hidden space, from its own sums."""
        self._restart()
        self._add_rows(self.hidden)

    def _add_rows(self, block: Tensor) -> None:
        for row, keep in enumerate(self.keep.float()):
            self._add(row, torch.tensordot(keep, block, 1))

    def _add(self, row: int, sums: Tensor) -> None:
        g = sums * self.inverse[row, :, None]
        balanced, total = g.sum(0), sums.sum(0)
        self.norm[row] += torch.linalg.vecdot(g, g).double().cpu()
        self.balanced[row] += (g @ balanced).double().cpu()
        self.total[row] += (g @ total).double().cpu()
        self.g_balanced[row] += float(balanced.double() @ balanced.double())
        self.g_total[row] += float(total.double() @ total.double())

    def table(self) -> dict[str, np.ndarray]:
        """Norms, cosines and contributions, (1 + R, types) each."""
        counts = self.counts.cpu()
        norm = torch.where(counts > 0, self.norm.sqrt(), torch.nan)
        cos_balanced = self.balanced / (norm * self.g_balanced.sqrt()[:, None])
        cos_total = self.total / (norm * self.g_total.sqrt()[:, None])
        every = {"norm": norm, "cos_balanced": cos_balanced, "cos_total": cos_total}
        every["contrib"] = counts * norm * cos_balanced
        return {name: value.numpy() for name, value in every.items()}
