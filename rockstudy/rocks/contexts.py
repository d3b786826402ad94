r"""Context consistency: how many of a token's other occurrences stand in a similar context.

For a persistent high-loss occurrence o of token type v,

    rho(o) = #{o' in O_PH(v), o' != o : sim(f_ctx(o), f_ctx(o')) >= gamma} / (|O_PH(v)| - 1)

with sim the cosine. A context is the window of `radius` tokens on each side of the position,
without the position itself, clipped to the completion: never the prompt, never padding. Three
encodings f_ctx: the multiset of the window's token ids, the mean of their input embeddings, and the
model's hidden state (which sees everything before the position instead of a window).

Departure: the paper names w, f_ctx, sim and gamma and states none of them. The choices here are
ours. How this can mislead: rho falls as a group's contexts get more varied, and a window of common
tokens is similar to many others by chance alone, so compare values at one radius and one gamma.

Source: arXiv 2605.09253, section 2. `neighbours` does the counting.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from numbers import Integral
from typing import Any

import numpy as np
import torch
from scipy import sparse
from transformers import PreTrainedModel

from rockstudy import progress
from rockstudy.errors import StudyError
from rockstudy.rocks import neighbours
from rockstudy.sampling.rollout import Rollouts, completion_states

_WINDOWS = 65_536  # ours: occurrences whose windows are held at once, a few MB at small radii
_TOLERANCE = 1e-6  # ours: what float32 rounding can take from a similarity that equals gamma


def bag_of_ids(
    rollouts: Rollouts, rows: np.ndarray, columns: np.ndarray, radius: int
) -> sparse.csr_matrix:
    """Encode windows as multisets of token ids.

    Parameters
    ----------
    rollouts
        Completions; the windows are cut from ``completion_ids``.
    rows, columns
        int (N,): rollout and completion column of each occurrence.
    radius
        Tokens on each side of the position, at least 1.

    Returns
    -------
    csr_matrix
        float32 (N, F) of ones. Feature ``2 * radius * id + k`` is the k-th copy of a token in the
        window, so the dot product of two rows is the size of the windows' multiset intersection,
        and their cosine is that over the geometric mean of the two sizes: between windows of equal
        size the share of tokens that both have.

    Raises
    ------
    StudyError
        A radius below 1, or an occurrence that is not a token of a completion.
    """
    kept, counts = [], [np.zeros(1, np.int64)]
    for ids in _windows(rollouts, rows, columns, radius):
        ids.sort(axis=1)
        slot = np.arange(ids.shape[1], dtype=np.int32)
        new = np.ones(ids.shape, bool)
        new[:, 1:] = ids[:, 1:] != ids[:, :-1]
        copy = slot - np.maximum.accumulate(np.where(new, slot, 0), axis=1)
        inside = ids >= 0
        kept.append((ids * np.int64(ids.shape[1]) + copy)[inside])
        counts.append(inside.sum(1))
    indices = np.concatenate([*kept, np.empty(0, np.int64)])
    width = 2 * radius * (int(rollouts.completion_ids.max(initial=0)) + 1)
    indptr = np.cumsum(np.concatenate(counts))
    ones = np.ones(len(indices), np.float32)
    return sparse.csr_matrix((ones, indices, indptr), shape=(len(indptr) - 1, width))


def mean_embedding(
    rollouts: Rollouts,
    rows: np.ndarray,
    columns: np.ndarray,
    radius: int,
    embeddings: np.ndarray | torch.Tensor,
) -> np.ndarray:
    """Mean input embedding of each window's tokens, float32 (N, H); zeros for an empty window.

    Parameters
    ----------
    rollouts, rows, columns, radius
        As `bag_of_ids`.
    embeddings
        (V, H): the student's input embeddings.

    Raises
    ------
    StudyError
        As `bag_of_ids`, and where a token id lies outside ``embeddings``.
    """
    if isinstance(embeddings, torch.Tensor):
        embeddings = embeddings.detach().float().cpu().numpy()
    table = np.asarray(embeddings, np.float32)
    means = [np.empty((0, table.shape[1]), np.float32)]
    for ids in _windows(rollouts, rows, columns, radius):
        if ids.max(initial=-1) >= len(table):
            raise StudyError(
                f"embeddings: must have a row for every token id; got {len(table)} rows and"
                f" id {ids.max()}"
            )
        inside = ids >= 0
        sizes = inside.sum(1)
        weights = np.repeat(1 / np.maximum(sizes, 1), sizes).astype(np.float32)
        indptr = np.concatenate([[0], np.cumsum(sizes)])
        shape = (len(ids), len(table))
        # A product with the sparse (n, V) weights, so that no (n, 2 radius, H) is ever made.
        means.append(sparse.csr_matrix((weights, ids[inside], indptr), shape=shape) @ table)
    return np.concatenate(means)


def hidden_states(
    rollouts: Rollouts,
    rows: np.ndarray,
    columns: np.ndarray,
    model: PreTrainedModel,
    batch_size: int,
) -> np.ndarray:
    """Last hidden state that predicts each occurrence: after the prompt and the columns before it.

    Parameters
    ----------
    rollouts, rows, columns
        As `bag_of_ids`.
    model
        Causal language model; only its decoder runs, so no logits are made.
    batch_size
        Rollouts in a forward. Rows go by length, padded on the right.

    Returns
    -------
    ndarray
        float32 (N, H).

    Raises
    ------
    StudyError
        A batch size below 1, an occurrence that is not a token of a completion, or a prompt without
        tokens.
    """
    rows, columns = _occurrences(rollouts, rows, columns)
    _at_least_one("batch_size", batch_size)
    needed = np.unique(rows)
    needed = needed[np.argsort(rollouts.lengths[needed], kind="stable")]
    line = np.empty(len(rollouts), np.int64)
    line[needed] = np.arange(len(needed))
    order = np.argsort(line[rows], kind="stable")
    ends = np.searchsorted(line[rows][order], np.arange(len(needed) + 1))
    states = np.empty((len(rows), model.config.get_text_config().hidden_size), np.float32)
    with progress.bar(len(needed), "contexts", "rollout") as bar:
        for start in range(0, len(needed), batch_size):
            batch = needed[start : start + batch_size]
            mine = order[ends[start] : ends[start + len(batch)]]
            first = np.cumsum(rollouts.lengths[batch]) - rollouts.lengths[batch]
            place = first[line[rows[mine]] - start] + columns[mine]
            found = completion_states(model, rollouts, batch)
            states[mine] = found[torch.from_numpy(place).to(found.device)].float().cpu().numpy()
            bar.update(len(batch))
    return states


def consistency(
    features: Any,
    groups: np.ndarray,
    gamma: float,
    *,
    block: int = neighbours.BLOCK,
) -> np.ndarray:
    """Share of the other occurrences of the same group whose context is similar (paper 2).

    Parameters
    ----------
    features
        (N, F) sparse, or dense (N, H); similarity is the cosine of two rows. A row of zeros, an
        empty window, is similar to nothing.
    groups
        int (N,): the token type of each occurrence.
    gamma
        Least similarity that counts, in (0, 1]. A similarity up to 1e-6 below it counts too, since
        float32 rounding may have put it there.
    block
        Similarities held at once: speed and memory, never the result.

    Returns
    -------
    ndarray
        float64 (N,); NaN where an occurrence is the only one of its group.

    Raises
    ------
    StudyError
        gamma or block out of bounds, groups that do not fit the features, or features that are not
        finite or have not two axes.

    Notes
    -----
    Exact: every pair of a group counts, whatever its size; time grows with its square, memory does
    not. Dense features run on CUDA where there is one, sparse ones on the CPU.
    """
    if isinstance(gamma, bool) or not 0 < gamma <= 1:
        raise StudyError(f"gamma: must be in (0, 1]; got {gamma}")
    _at_least_one("block", block)
    if features.ndim != 2:
        raise StudyError(f"features: must have two axes; got {features.shape}")
    groups = np.asarray(groups)
    if groups.shape != features.shape[:1] or not np.issubdtype(groups.dtype, np.integer):
        raise StudyError(
            f"groups: must be {features.shape[0]} integers; got {groups.dtype} {groups.shape}"
        )
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    least = max(gamma - _TOLERANCE, gamma / 2)  # above 0: no shared token is never similar
    count = neighbours.count_sparse if sparse.issparse(features) else neighbours.count_dense
    others = sizes[group] - 1
    similar = count(features, group, least, block)
    return np.divide(similar, others, out=np.full(len(group), math.nan), where=others > 0)


def _windows(
    rollouts: Rollouts, rows: np.ndarray, columns: np.ndarray, radius: int
) -> Iterator[np.ndarray]:
    """Blocks of windows int32 (n, 2 radius) without their centres; -1 outside the completion."""
    _at_least_one("radius", radius)
    rows, columns = _occurrences(rollouts, rows, columns)
    lengths = rollouts.lengths
    offsets = np.concatenate([np.arange(-radius, 0), np.arange(1, radius + 1)])
    step = max(1, _WINDOWS * 8 // len(offsets))
    for start in range(0, len(rows), step):
        row = rows[start : start + step, None]
        column = columns[start : start + step, None] + offsets
        inside = (column >= 0) & (column < lengths[row])
        yield np.where(inside, rollouts.completion_ids[row, np.where(inside, column, 0)], -1)


def _occurrences(
    rollouts: Rollouts, rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns as int64, each the place of a completion's token."""
    rows, columns = np.asarray(rows, np.int64), np.asarray(columns, np.int64)
    if rows.ndim != 1 or rows.shape != columns.shape:
        raise StudyError(f"rows, columns: must have one length; got {rows.shape}, {columns.shape}")
    if ((rows < 0) | (rows >= len(rollouts))).any():
        raise StudyError(f"rows: must be in [0, {len(rollouts)}); got {_worst(rows)}")
    outside = (columns < 0) | (columns >= rollouts.lengths[rows])
    if outside.any():
        i = int(outside.argmax())
        n = rollouts.lengths[rows[i]]
        raise StudyError(
            f"columns: must be in [0, {n}), the completion of row {rows[i]}; got {columns[i]}"
        )
    return rows, columns


def _worst(values: np.ndarray) -> int:
    return int(values.min() if values.min() < 0 else values.max())


def _at_least_one(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise StudyError(f"{name}: must be a whole number of at least 1; got {value}")
