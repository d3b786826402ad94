"""Encodings of a context: features of the tokens around an occurrence.

A context is the window of `radius` tokens on each side of the position, without the position
itself, the prompt or padding. An encoder is a function of rollouts, places and radius, and of the
student where it has a parameter of that name. It returns a row of features for each occurrence,
dense or sparse; the similarity of two contexts is the cosine of their rows (`rocks.contexts`).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from rockstudy import progress
from rockstudy.config.registry import ENCODERS
from rockstudy.errors import StudyError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rockstudy.sampling.rollout import Rollouts

_WINDOWS = 65_536  # ours: occurrences whose windows are in memory at once, a few MB
ROLLOUTS = 32  # ours: rollouts in one forward of the student


def needs_student(encoder: str) -> bool:
    """Whether an encoder has a parameter ``student``."""
    return "student" in inspect.signature(ENCODERS[encoder]).parameters


@ENCODERS.register("bag")
def bag_of_ids(
    rollouts: Rollouts, rows: np.ndarray, columns: np.ndarray, radius: int
) -> sparse.csr_matrix:
    """The window's token ids, as a multiset.

    `rows` and `columns` are int (N,): rollout and completion column of each occurrence. `radius` is
    the number of tokens on each side of the position, at least 1.

    Returns csr float32 (N, F) of ones. Feature ``2 * radius * id + k`` is the k-th copy of a token
    in the window, so the dot product of two rows is the size of the windows' multiset intersection,
    and their cosine is that over the geometric mean of the two sizes: between windows of equal size
    the share of tokens that both have.

    `StudyError`: a radius below 1, or an occurrence that is not a token of a completion.
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


@ENCODERS.register("embedding")
def mean_embedding(
    rollouts: Rollouts, rows: np.ndarray, columns: np.ndarray, radius: int, student: PreTrainedModel
) -> np.ndarray:
    """Mean input embedding of the window's tokens, float32 (N, H); zeros for an empty window.

    Parameters and errors as in `bag_of_ids`; StudyError also where a token id has no embedding.
    """
    table = student.get_input_embeddings().weight.detach().float().cpu().numpy()
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


@ENCODERS.register("hidden")
def hidden_states(
    rollouts: Rollouts, rows: np.ndarray, columns: np.ndarray, radius: int, student: PreTrainedModel
) -> np.ndarray:
    """Last hidden state that predicts the occurrence, float32 (N, H); it sees all tokens before.

    Parameters and errors as in `bag_of_ids`; the radius has no effect. Only the decoder of the
    student runs, with `ROLLOUTS` rollouts of similar length in a forward pass.
    """
    import torch  # here, because names of encoders are checked without it

    from rockstudy.sampling.rollout import completion_states

    rows, columns = _occurrences(rollouts, rows, columns)
    lengths, needed = rollouts.lengths, np.unique(rows)
    needed = needed[np.argsort(lengths[needed], kind="stable")]
    first = np.zeros(len(rollouts), np.int64)  # of a rollout's states among those of its batch
    states = np.empty((len(rows), student.config.get_text_config().hidden_size), np.float32)
    with progress.bar(len(needed), "contexts", "rollout") as bar:
        for start in range(0, len(needed), ROLLOUTS):
            batch = needed[start : start + ROLLOUTS]
            first[batch] = np.cumsum(lengths[batch]) - lengths[batch]
            mine = np.flatnonzero(np.isin(rows, batch))
            hidden = completion_states(student, rollouts, batch)
            place = torch.from_numpy(first[rows[mine]] + columns[mine]).to(hidden.device)
            states[mine] = hidden[place].float().cpu().numpy()
            bar.update(len(batch))
    return states


def _windows(
    rollouts: Rollouts, rows: np.ndarray, columns: np.ndarray, radius: int
) -> Iterator[np.ndarray]:
    """Blocks of windows int32 (n, 2 radius) without their centres; -1 outside the completion."""
    if isinstance(radius, bool) or not isinstance(radius, Integral) or radius < 1:
        raise StudyError(f"radius: must be a whole number of at least 1; got {radius}")
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
        worst = rows.min() if rows.min() < 0 else rows.max()
        raise StudyError(f"rows: must be in [0, {len(rollouts)}); got {worst}")
    outside = (columns < 0) | (columns >= rollouts.lengths[rows])
    if outside.any():
        i = int(outside.argmax())
        n = rollouts.lengths[rows[i]]
        raise StudyError(
            f"columns: must be in [0, {n}), the completion of row {rows[i]}; got {columns[i]}"
        )
    return rows, columns
