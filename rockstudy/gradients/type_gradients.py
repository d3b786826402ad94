"""The gradient of the reverse KL by token type (paper 2.6, figure 3).

At one position, with student p = softmax(z) and teacher q, the gradient of KL(p || q) with respect
to the student's logits is

    g_u = p_u (A_u - KL),   A_u = log p_u - log q_u,   sum_u g_u = 0.

For a type t with n_t occurrences i, and over all types t that occur:

    g_t         = mean of its g_i                                       (V,)
    G_balanced  = sum_t g_t            every type counts once           (paper 2.6)
    G_total     = sum_t n_t g_t        every occurrence counts once     (ours: what training has)
    contrib(t)  = n_t |g_t| cos(g_t, G_balanced)

G_balanced holds g_t itself, which is much of it where g_t is large: ``cos_others`` is the cosine
with G_balanced - g_t, known from the same products.

|g_t|^2 does not estimate the squared norm of the *expected* gradient mu: its expectation is
|mu|^2 + tr(Sigma) / n_t, so that rare types have large norms whatever their tokens. Products of
different occurrences have no such term. Those of one prompt depend on each other; so with the sums
S_f over the n_f occurrences of every fold of whole prompts,

    square(t)   = (|S|^2 - sum_f |S_f|^2) / (n^2 - sum_f n_f^2)         unbiased for |mu|^2

which may be negative. This is the primary one: it needs the folds' sums alone, hence is known in
both spaces, and of the pairs from different prompts it lacks only those of one fold. A type that
one fold has alone is NaN. `square_each` takes every occurrence as independent. It needs the mean of
|g_i|^2, known in logit space only: g_i W is complete after the last block of the vocabulary, and
to add it up would take a matrix (N, H).

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
from numpy.typing import ArrayLike
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

    ``types`` has a row per type by id: ``token_id, count``; for both `SPACES` ``norm_<space>,
    square_<space>, cos_balanced_<space>, cos_others_<space>, cos_total_<space>, contrib_<space>``;
    and ``mean_square_logit``, the mean of |g_i|^2. ``replicates`` has these statistics by column
    name, float64 (R, types); NaN where nothing of the type is left.
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

    The norm of a mean over two occurrences is not comparable with that over thousands, where the
    noise cancels: compare ``square``, or types of equal frequency.
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
    tiles = _Tiles(positions, student, teacher, torch.from_numpy(key).to(device), own.size)
    blocks = range(0, vocab, width)
    with progress.bar(len(blocks) * len(key), "gradients", "position") as bar:
        for left in blocks:
            right = min(left + width, vocab)
            weight = student.weight[left:right].float() * student.logit_scale
            # no name for the block: it must be gone before the next one is made
            sums.add(share.summed(tiles.block(sums, left, right, bar)), weight)
    tables = {"logit": sums.table() | sums.mean_square(share.summed(tiles.squares))}
    sums.add_hidden()
    tables["hidden"] = sums.table()
    values = {f"{name}_{s}": value for s in SPACES for name, value in tables[s].items()}
    types = {"token_id": ids, "count": counts.sum(0).cpu().numpy().astype(np.int64)}
    return TypeGradients(
        pd.DataFrame(types | {name: value[0] for name, value in values.items()}),
        {name: value[1:] for name, value in values.items()},
    )


def between(whole: ArrayLike, parts: ArrayLike, n: ArrayLike, n_parts: ArrayLike) -> np.ndarray:
    """Unbiased squared norm of a mean, by products of different parts of a sample only.

    `whole` is |S|^2 of the sum of `n` vectors, `parts` the sum of |S_f|^2 over independent parts,
    and `n_parts` the sum of n_f^2. NaN where a single part has all.
    """
    pairs = np.asarray(n, np.float64) ** 2 - np.asarray(n_parts)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(pairs > 0, (np.asarray(whole) - np.asarray(parts)) / pairs, np.nan)


def square_each(types: pd.DataFrame) -> np.ndarray:
    """Unbiased squared norms (types,) in logit space if all occurrences were independent.

    `types` is that of `TypeGradients`. Where gradients of one prompt are alike this is too large.
    """
    n = types["count"].to_numpy(np.float64)
    whole = (n * types.norm_logit.to_numpy()) ** 2
    return between(whole, n * types.mean_square_logit.to_numpy(), n, n)


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

    def __init__(
        self, positions: Positions, student: Head, teacher: Head, key: Tensor, n_keys: int
    ) -> None:
        self.positions, self.student, self.teacher = positions, student, teacher
        self.key = key  # (N,): fold and type of each position
        self.terms = self._normalisers()
        self.squares = torch.zeros(
            n_keys, dtype=torch.float64, device=key.device
        )  # sums of |g_i|^2

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
        """Sums of g over the occurrences of every fold and type: (F, types, right - left).

        What the block adds to `squares` is added on the way.
        """
        total = torch.zeros(sums.n_folds * sums.n_types, right - left, device=self.key.device)
        for start in range(0, len(self.key), _ROWS):
            rows = slice(start, start + _ROWS)
            p, q = self.states(rows)
            log_z_p, log_z_q, rkl = self.terms[:, rows, None]
            log_p = logits(p, left, right).sub_(log_z_p)
            gap = log_p - logits(q, left, right).sub_(log_z_q)
            g = log_p.exp_().mul_(gap.sub_(rkl))
            total.index_add_(0, self.key[rows], g)
            self.squares.index_add_(0, self.key[rows], torch.linalg.vecdot(g, g).double())
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
        self.fold_pairs = self.keep @ counts**2
        self.inverse = torch.where(self.counts > 0, 1 / self.counts, 0).float()
        self.hidden = torch.zeros(self.n_folds, self.n_types, hidden, device=counts.device)
        self._restart()

    def _restart(self) -> None:
        shape = self.counts.shape
        self.norm, self.balanced, self.total = torch.zeros(3, *shape, dtype=torch.float64)
        self.folds = torch.zeros(self.n_folds, self.n_types, dtype=torch.float64)  # |S_f|^2
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
        for fold, sums in enumerate(block):
            self.folds[fold] += torch.linalg.vecdot(sums, sums).double().cpu()
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

    def mean_square(self, squares: Tensor) -> dict[str, np.ndarray]:
        """Mean of |g_i|^2 over the occurrences, (1 + R, types), from sums by fold and type."""
        sums = self.keep @ squares.view(self.n_folds, self.n_types).to(self.keep)
        return {"mean_square": (sums / self.counts).cpu().numpy()}

    def table(self) -> dict[str, np.ndarray]:
        """Norms, cosines and contributions, (1 + R, types) each."""
        counts, keep, pairs = self.counts.cpu(), self.keep.cpu(), self.fold_pairs.cpu()
        norm = torch.where(counts > 0, self.norm.sqrt(), torch.nan)
        g_balanced = self.g_balanced[:, None]
        cos_balanced = self.balanced / (norm * g_balanced.sqrt())
        g_others = (g_balanced - 2 * self.balanced + self.norm).clamp(min=0).sqrt()
        cos_others = (self.balanced - self.norm) / (norm * g_others)
        several = (counts > 0).sum(1, keepdim=True) > 1  # else no others are left
        square = between(counts**2 * self.norm, keep @ self.folds, counts, pairs)
        cos_total = self.total / (norm * self.g_total.sqrt()[:, None])
        every = {"norm": norm, "square": torch.from_numpy(square), "cos_balanced": cos_balanced}
        every |= {"cos_others": torch.where(several, cos_others, torch.nan), "cos_total": cos_total}
        every["contrib"] = counts * norm * cos_balanced
        return {name: value.numpy() for name, value in every.items()}
