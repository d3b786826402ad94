r"""Counting similar pairs within groups: exact, in blocks, never an (m, m) matrix.

Rows x_i of one group are similar where

    x_i . x_j - least |x_i| |x_j| >= 0                                                         (1)

Dense rows are compared tile by tile. Sparse rows are windows of tokens, and of two windows most
share a few frequent tokens and nothing else. So for sparse rows of a large group

1. identical rows are merged, their copies kept as weights;
2. features that more than `_FREQUENT` of the rows have go into a small dense matrix. Rows with the
   same frequent part and the same norm (a *pattern*) are many, so (1) with the frequent part alone
   is a table of patterns x patterns, a product of thin dense matrices;
3. the other features are rare, so a sparse product lists the pairs that share one. For those alone
   (1) is looked up in the table and corrected.

Many small groups are counted by one sparse product, their features made distinct.

Source: the definition is that of arXiv 2605.09253, section 2; the algorithm is ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from scipy import sparse

from rockstudy import progress
from rockstudy.errors import StudyError

Csr: TypeAlias = Any  # scipy.sparse.csr_matrix, whose stubs allow a shape of None

BLOCK = 1_048_576  # ours: similarities in memory at once, 4 MB in float32: they stay in cache
_LARGE = 512  # ours: rows from which a table of patterns pays
_FREQUENT = 0.04  # ours: share of rows; near it a dense column costs what its sparse pairs do
_MAX_FREQUENT = 256  # ours: dense features of a group, 1 kB a row at most
_RUN = 65_536  # ours: rows of small groups in one count


def count_dense(features: np.ndarray, group: np.ndarray, least: float) -> np.ndarray:
    """Number of similar other rows of the same group for each row of dense features, float64 (N,).

    `features` are (N, H), `group` is int (N,) from 0, and `least` is the minimum cosine, above 0.
    StudyError where features are not finite.
    """
    features = np.asarray(features)
    _check_finite(features)
    order, sizes = np.argsort(group, kind="stable"), np.bincount(group)
    starts = np.cumsum(sizes) - sizes
    counts = np.zeros(len(group))
    with _full_precision(), progress.bar(len(group), "similar contexts", "occurrence") as bar:
        for size in np.unique(sizes):  # groups of one size go together: no loop over small groups
            first = starts[sizes == size]
            step = max(1, BLOCK // (size * max(size, features.shape[1], 1)))
            for i in range(0, len(first), step):
                rows = order[first[i : i + step, None] + np.arange(size)]  # (G, m)
                counts[rows] = _similar(features[rows], least)
                bar.update(rows.size)
    return counts


def count_sparse(features: Any, group: np.ndarray, least: float) -> np.ndarray:
    """The same as `count_dense` for sparse features."""
    features = sparse.csr_matrix(features, dtype=np.float32, copy=True)
    features.sum_duplicates()
    features.eliminate_zeros()
    _check_finite(features.data)
    first, inverse, copies = _identical(features, group)  # sorted by group
    bags, group = features[first], group[first]
    norms = np.sqrt(_row_sums(bags, bags.data.astype(np.float64) ** 2)).astype(np.float32)
    weights = np.where(norms > 0, copies, 0).astype(np.float32)  # a row of zeros never counts
    counts = np.zeros(len(first))
    with _full_precision(), progress.bar(len(first), "similar contexts", "occurrence") as bar:
        for start, end in _parts(np.bincount(group)):
            part = slice(start, end)
            rows = _split(bags[part], group[part], norms[part], weights[part], least)
            count = _count_large if rows.frequent.nnz else _count_small
            counts[part] = count(rows)
            bar.update(end - start)
    return np.where(norms > 0, counts - 1, 0)[inverse]  # a row is no neighbour of itself


@contextmanager
def _full_precision() -> Iterator[None]:
    """Products in float32 proper: TF32, which a trainer may have allowed, is off by 1e-3."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _similar(features: np.ndarray, least: float) -> np.ndarray:
    """Similar others float64 (G, m) within each of G groups of rows (G, m, H), on CUDA if any."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    unit = torch.from_numpy(np.asarray(features, np.float32)).to(device)
    norms = torch.linalg.vector_norm(unit, dim=-1, keepdim=True, dtype=torch.float64)
    unit.div_(torch.where(norms > 0, norms, 1))  # zeros stay zeros
    n_groups, size, _ = unit.shape
    side = size if n_groups * size**2 <= BLOCK else max(1, math.isqrt(BLOCK // n_groups))
    counts = torch.zeros((n_groups, size), dtype=torch.float64, device=unit.device)
    ones = torch.ones(side, device=unit.device)
    room = torch.empty(n_groups * side**2, device=unit.device)
    for i in range(0, size, side):
        left = unit[:, i : i + side]
        for j in range(i, size, side):  # a tile below the diagonal is one above, transposed
            right = unit[:, j : j + side]
            shape = (n_groups, left.shape[1], right.shape[1])
            cosines = torch.bmm(left, right.mT, out=room[: math.prod(shape)].view(shape))
            # In place and as a product with ones: a tenth of the time of a sum of new booleans.
            counts[:, i : i + side] += cosines.ge_(least) @ ones[: shape[2]]
            if j > i:
                counts[:, j : j + side] += cosines.mT @ ones[: shape[1]]
    itself = (unit != 0).any(-1)  # a row of zeros was not even its own neighbour
    return (counts - itself.double()).cpu().numpy()


@dataclass(frozen=True)
class _Part:
    """Rows of one large group, or of many small ones, their features split in two."""

    frequent: Csr  # (m, F): nothing in it for small groups
    rare: Csr  # (m, F): features of different groups are different columns
    transposed: Csr  # (F, m), of the rare
    cost: np.ndarray  # (m,): most entries that the row can have in rare @ transposed
    norms: np.ndarray  # float32 (m,)
    weights: np.ndarray  # float32 (m,): copies of the row, 0 for a row of zeros
    least: float

    def cuts(self, rows: np.ndarray) -> list[np.ndarray]:
        """Cut rows so that the sparse product of each cut has about `BLOCK` entries."""
        ends = np.flatnonzero(np.diff(np.cumsum(self.cost[rows]) // BLOCK)) + 1
        return np.split(rows, ends)

    def pairs(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs that share a rare feature: place in `rows`, the other row, their rare product."""
        product = (self.rare[rows] @ self.transposed).tocoo()
        return product.row, product.col, product.data


def _split(
    bags: Csr, group: np.ndarray, norms: np.ndarray, weights: np.ndarray, least: float
) -> _Part:
    """Number the features of each group on their own and part them by the rows that have them."""
    row = bags.tocoo().row
    keys = group[row] * np.int64(bags.shape[1]) + bags.indices
    _, column, rows_with = np.unique(keys, return_inverse=True, return_counts=True)
    chosen = np.zeros(len(rows_with), bool)
    if len(group) >= _LARGE and group[0] == group[-1]:
        most = np.argsort(-rows_with, kind="stable")[:_MAX_FREQUENT]
        chosen[most] = rows_with[most] > _FREQUENT * len(group)
    frequent, rare = (
        _some(bags, column, keep, (len(group), len(rows_with)))
        for keep in (chosen[column], ~chosen[column])
    )
    cost = _row_sums(rare, rows_with[rare.indices])
    return _Part(frequent, rare, rare.T.tocsr(), cost, norms, weights, least)


def _count_small(part: _Part) -> np.ndarray:
    """Similar rows of each row, itself included, from the pairs that share any feature."""
    counts = np.zeros(len(part.norms))
    for rows in part.cuts(np.arange(len(counts))):
        place, other, product = part.pairs(rows)
        bound = (part.least * part.norms)[rows][place] * part.norms[other]
        similar = np.flatnonzero(product >= bound)
        counts[rows] = np.bincount(place[similar], part.weights[other[similar]], len(rows))
    return counts


def _count_large(part: _Part) -> np.ndarray:
    """The same for one group, most of it from the table of patterns (see the module)."""
    first, pattern, _ = _identical(part.frequent, part.norms.view(np.int32))
    order = np.argsort(pattern, kind="stable")
    ends = np.concatenate([[0], np.cumsum(np.bincount(pattern))])
    copies = torch.from_numpy(np.bincount(pattern, part.weights).astype(np.float32))
    counts = np.zeros(len(pattern))
    norms, frequent = part.norms[first, None], part.frequent[first]
    dense = frequent[:, np.unique(frequent.indices)].toarray()  # (P, frequent)
    left = torch.from_numpy(np.hstack([dense, -part.least * norms]).astype(np.float32))
    right = torch.from_numpy(np.hstack([dense, norms])).T
    height = min(len(first), max(64, BLOCK // len(first)))  # fewer would leave the cores idle
    # float32 for both: new booleans would take ten times as long
    table_room, room = torch.empty((height, len(first))), torch.empty((height, len(first)))
    for start in range(0, len(first), height):
        lines = left[start : start + height]
        table = torch.mm(lines, right, out=table_room[: len(lines)])  # equation (1), frequent part
        passes = torch.ge(table, 0, out=room[: len(lines)])
        alone = (passes @ copies).numpy()  # exact: whole numbers below 2^24
        rows = order[ends[start] : ends[start + len(table)]]
        counts[rows] = alone[pattern[rows] - start]
        for cut in part.cuts(rows):
            counts[cut] += _correction(part, cut, table.numpy(), pattern, start)
    return counts


def _correction(
    part: _Part, rows: np.ndarray, table: np.ndarray, pattern: np.ndarray, start: int
) -> np.ndarray:
    """Neighbours that rows gain (or with negative features lose) by what rare features add."""
    place, other, product = part.pairs(rows)
    line = (pattern[rows] - start) * table.shape[1]
    slack = table.ravel()[line[place] + pattern[other]]
    now = slack + product >= 0
    changed = np.flatnonzero(now != (slack >= 0))
    gain = np.where(now[changed], 1, -1) * part.weights[other[changed]]
    return np.bincount(place[changed], gain, len(rows))


def _parts(sizes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of rows sorted by group: a large group alone, small ones in runs."""
    start = end = previous = 0
    for size in sizes.tolist():
        alone = max(previous, size) >= _LARGE or end - start + size > _RUN
        if end > start and alone:
            yield start, end
            start = end
        end, previous = end + size, size
    if end > start:
        yield start, end


def _identical(rows: Csr, also: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First of each set of rows that are equal, also in `also`; the set of each row; set sizes.

    Sets are sorted by `also`, where that is not negative.
    """
    width = int(np.diff(rows.indptr).max(initial=0))
    row = rows.tocoo().row
    slot = 1 + np.arange(len(row)) - rows.indptr[row]
    binary = bool((rows.data == 1).all())
    keys = np.full((rows.shape[0], 1 + width * (1 if binary else 2)), -1, ">i4")
    keys[:, 0] = also  # big-endian, so that the order of bytes is that of numbers
    keys[row, slot] = rows.indices
    if not binary:
        keys[row, width + slot] = rows.data.view(np.int32)
    rows_as_bytes = keys.view(f"V{keys.shape[1] * 4}").ravel()
    sets = np.unique(rows_as_bytes, return_index=True, return_inverse=True, return_counts=True)
    return sets[1:]


def _some(bags: Csr, column: np.ndarray, keep: np.ndarray, shape: tuple[int, int]) -> Csr:
    """Some entries of a matrix, in columns numbered anew."""
    indptr = np.concatenate([[0], np.cumsum(keep)])[bags.indptr]
    return sparse.csr_matrix((bags.data[keep], column[keep], indptr), shape=shape)


def _row_sums(matrix: Csr, values: np.ndarray) -> np.ndarray:
    """Sum over each row of one value per entry."""
    return np.bincount(matrix.tocoo().row, values, matrix.shape[0])


def _check_finite(values: np.ndarray) -> None:
    step = max(1, BLOCK // max(1, values[:1].size))
    if not all(np.isfinite(values[i : i + step]).all() for i in range(0, len(values), step)):
        raise StudyError("features: must be finite; got NaN or infinity")
