"""Windows around rock tokens, and random windows that match them (paper 5).

A window is the contiguous run of positions around a rock occurrence at which the current loss stays
at or above a threshold, at most ``width`` positions each side; where the rock's own loss is below
it, the window is the rock alone. The paper gives neither threshold nor width: ours.

**Matched random windows** are the control that Rock-Freeze needs: as many positions frozen, in runs
as long, around tokens as frequent, that are not rocks. In every batch the rocks' own windows are
found first. Runs of their lengths are then laid around occurrences of the control types (matched to
the rocks by frequency, `rocks.controls`) in random order, never on a position of a rock's window,
until as many positions are covered. Other tokens follow where the controls do not suffice. The
paper's public code freezes no windows but two lists of types, rocks and controls. It too assigns
each rock a type of similar frequency, yet its controls are several times rarer in all, and the two
lists hold very different shares of the positions (``code-random-match`` and ``frozen-share`` in
``data/paper/``). The next ranks of the same score are called random only in the figures' script.

**Random windows matched on loss** leave out as much loss as well. Each run of the rocks' windows,
the one with most loss first, gets a free run of its length whose summed loss is nearest to its own
plus what is still owed by the runs before it. A difference in frequency between the tokens at
their centres counts as a distance too, and chance decides between runs that are about as near.
Where rocks carry most of the loss nothing else has as much: what is laid is then close to the most
that as many other positions can hold, and `match` reports the share that it reaches.

Losses must be known at every position, so windows save no computation of losses.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from scipy import ndimage, stats
from torch import Tensor

from rockstudy.errors import StudyError
from rockstudy.store.seeds import generator
from rockstudy.training.position_weights import Batch, Checked, Level, level, lowered

DECADE = 2.0  # ours: nats that a token ten times as frequent, or as rare, counts as
TIE = 0.1  # ours: nats; runs that are as near as that are equally near
BLOCK = 64  # ours: rollouts in which a run is looked for, at least a step of training


@dataclass(frozen=True)
class WindowWeights(Checked):
    """One weight on a set of tokens and their windows, 1 elsewhere."""

    ids: Collection[int]
    value: Level  # the paper's lambda, or a `Ramp` of it
    threshold: float  # minimum loss in nats inside a window
    width: int  # maximum number of positions on each side of a token of ``ids``
    needs_losses: ClassVar[bool] = True

    def __call__(self, batch: Batch, losses: Tensor | None) -> Tensor:
        """Return the level of ``value`` on the chosen positions, else 1, float (R, T)."""
        if losses is None:
            raise StudyError("weights: windows need the losses of the batch; got none")
        arrays = (x.detach().cpu().numpy() for x in (batch.completion_ids, batch.mask, losses))
        chosen = torch.from_numpy(self._chosen(batch, *arrays)).to(batch.mask.device)
        return lowered(chosen, level(self.value, batch.step))

    def of_rocks(
        self, ids: np.ndarray, mask: np.ndarray, losses: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the occurrences of ``ids``, and these with their windows: bool (R, T)."""
        rocks = np.isin(ids, self.ids) & mask
        return rocks, windows(rocks, (losses >= self.threshold) & mask, self.width)

    def _chosen(self, batch: Batch, *arrays: np.ndarray) -> np.ndarray:
        return self.of_rocks(*arrays)[1]


@dataclass(frozen=True)
class RandomWindows(WindowWeights):
    """One weight on random windows that match those of a set of tokens, drawn anew by each seed.

    `StudyError`: as `Checked`, and a control that is one of the ids.
    """

    controls: Collection[int]
    seed: int

    def __post_init__(self) -> None:
        """Check the fields, then that no control is a rock."""
        super().__post_init__()
        if common := sorted({*self.ids} & {*self.controls}):
            raise StudyError(f"weights: controls must not be ids too; got {common[0]} in both")

    def _chosen(self, batch: Batch, *arrays: np.ndarray) -> np.ndarray:
        return self.drawn(*arrays, (batch.step << 16) + batch.part)

    def drawn(self, ids: np.ndarray, mask: np.ndarray, losses: np.ndarray, unit: int) -> np.ndarray:
        """Return the random windows of some completions, bool (R, T); `unit` numbers the draw."""
        controls = np.isin(ids, self.controls) & mask
        return random_windows(*self.of_rocks(ids, mask, losses), controls, mask, self._rng(unit))

    def _rng(self, unit: int) -> np.random.Generator:
        return generator(self.seed, "random-windows", unit)


@dataclass(frozen=True)
class LossMatchedWindows(RandomWindows):
    """One weight on random windows that match those of a set of tokens in loss too."""

    def drawn(self, ids: np.ndarray, mask: np.ndarray, losses: np.ndarray, unit: int) -> np.ndarray:
        """Return the windows matched on loss, bool (R, T); the controls are not needed."""
        rocks, frozen = self.of_rocks(ids, mask, losses)
        return loss_matched_windows(ids, rocks, frozen, mask, losses, self._rng(unit))


def windows(centres: np.ndarray, high: np.ndarray, width: int) -> np.ndarray:
    """The centres, and the runs of high positions around high centres, bool (R, T) as both inputs.

    A run reaches at most `width` positions to each side, width 1 or more.
    """
    along = np.ones((1, 3), bool)  # a run stays in its row
    return centres | ndimage.binary_dilation(centres & high, along, width, mask=high)


def random_windows(
    rocks: np.ndarray,
    frozen: np.ndarray,
    controls: np.ndarray,
    mask: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """As many positions as are frozen, in runs of the same lengths, elsewhere; bool (R, T).

    All inputs are bool (R, T): the rock occurrences, these with their windows (`frozen`), those of
    the control types, which come first as centres, and the completion tokens (`mask`). `rng` orders
    the centres and assigns a run to each. Fewer positions only where `mask` has fewer left.
    """
    free = mask & ~frozen
    wanted = min(int(frozen.sum()), int(free.sum()))
    chosen = np.zeros(mask.size, bool)
    if wanted:
        order = (controls & free, ~controls & free)
        centres = [rng.permutation(np.flatnonzero(some)) for some in order]
        _, length, offset = _runs(frozen, rocks)
        rank = _first_cover(np.concatenate(centres), length, offset, mask.shape, rng)
        rank[~free.ravel()] = np.iinfo(np.int64).max
        chosen[np.argsort(rank, kind="stable")[:wanted]] = True
    return chosen.reshape(mask.shape)


def _first_cover(
    centres: np.ndarray,
    length: np.ndarray,
    offset: np.ndarray,
    shape: tuple[int, ...],
    rng: np.random.Generator,
) -> np.ndarray:
    """For each position the place of the first window that covers it, nearer ones first, (R T,)."""
    drawn = rng.integers(len(length), size=len(centres))
    length, offset, longest = length[drawn], offset[drawn], int(length.max())
    rank = np.full(shape[0] * shape[1], np.iinfo(np.int64).max)
    column = centres % shape[1]
    for d in range(longest):
        away = d - offset
        inside = (d < length) & (column + away >= 0) & (column + away < shape[1])
        place = np.flatnonzero(inside) * longest + np.abs(away[inside])
        np.minimum.at(rank, centres[inside] + away[inside], place)
    return rank


def loss_matched_windows(
    ids: np.ndarray,
    rocks: np.ndarray,
    frozen: np.ndarray,
    mask: np.ndarray,
    losses: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """As many positions as are frozen, in runs of the same lengths, with as much loss elsewhere.

    The inputs are those of `random_windows`, and ids and loss in nats of each position, (R, T).
    Bool (R, T): never a frozen position, and fewer only where `mask` has fewer left. A run for
    which there is no room is broken up. Frequencies are those in a block of `BLOCK` rollouts. `rng`
    decides between runs that are equally near.
    """
    chosen, owed = np.zeros_like(mask), 0.0
    for first in range(0, len(mask), BLOCK):
        rows = slice(first, first + BLOCK)
        some = (array[rows] for array in (ids, rocks, frozen, mask, losses))
        chosen[rows], owed = _match_losses(*some, owed, rng)
    return chosen


def _match_losses(
    ids: np.ndarray,
    rocks: np.ndarray,
    frozen: np.ndarray,
    mask: np.ndarray,
    losses: np.ndarray,
    owed: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, float]:
    """`loss_matched_windows` of a block, and the loss still owed after it."""
    # a last column that is never free, so that no run of the flat arrays leaves its row
    ids, rocks, frozen, mask, losses = (
        np.pad(array, ((0, 0), (0, 1))) for array in (ids, rocks, frozen, mask, losses)
    )
    free = (mask & ~frozen).ravel()
    chosen = np.zeros(free.size, bool)
    start, length, offset = _runs(frozen, rocks)
    _, types, counts = np.unique(ids[mask], return_inverse=True, return_counts=True)
    frequency = np.zeros(ids.shape)
    frequency[mask] = DECADE * np.log10(counts)[types]
    frequency, chance = frequency.ravel(), TIE * rng.random(free.size)
    before = np.concatenate([[0.0], np.cumsum(losses, dtype=np.float64)])
    taken = np.concatenate([[0], np.cumsum(~free)])
    loss = before[start + length] - before[start]
    held = {  # by length: summed loss of the run that starts at each position, if all of it is free
        n: np.where(taken[n:] == taken[:-n], before[n:] - before[:-n], np.inf)
        for n in np.unique(length)
    }
    for run in np.argsort(-loss, kind="stable"):
        n, shift = length[run], offset[run]
        owed += loss[run]
        centres = slice(shift, shift + len(held[n]))
        distance = np.abs(frequency[centres] - frequency[start[run] + shift]) + chance[centres]
        distance += np.abs(held[n] - owed)
        at = int(np.argmin(distance))
        if np.isfinite(distance[at]):
            owed -= held[n][at]
            chosen[at : at + n] = True
            for other, runs in held.items():  # what would overlap it or touch it
                runs[max(0, at - other) : at + n + 1] = np.inf
    left = np.flatnonzero(free & ~chosen)
    missing = min(int(frozen.sum()) - int(chosen.sum()), len(left))
    if missing:
        distance = np.abs(losses.ravel()[left] - owed / missing) + chance[left]
        single = left[np.argsort(distance, kind="stable")[:missing]]
        chosen[single] = True
        owed -= losses.ravel()[single].sum()
    return chosen.reshape(mask.shape)[:, :-1], owed


def _runs(frozen: np.ndarray, rocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Start (of the flat array) and length of each run, and how far its first rock is from it."""
    edge = np.diff(np.pad(frozen, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = (edge == 1).nonzero()
    _, ends = (edge == -1).nonzero()
    flat = rows * frozen.shape[1] + starts
    centres = np.flatnonzero(rocks)
    return flat, ends - starts, centres[np.searchsorted(centres, flat)] - flat


def match(
    ids: np.ndarray,
    mask: np.ndarray,
    losses: np.ndarray,
    counts: pd.Series,
    controls: Mapping[str, RandomWindows],
) -> pd.DataFrame:
    """Compare the random windows of a corpus with those of the rocks.

    `ids`, `mask` and `losses` are int, bool and float (R, T): completions and the loss at each
    position in nats. `counts` has the occurrences of each token type by id.

    A row for ``rock-freeze`` and one for each arm in `controls`: ``arm, share`` (of all positions),
    ``loss_share`` (of the loss of all positions), ``runs, length_mean, length_p90`` (positions),
    ``log10_count`` (mean over the frozen tokens of log10 of the type's occurrences), ``ks_length``
    (Kolmogorov-Smirnov distance of the lengths to the rocks'), ``control_share`` (of the frozen
    positions, those on a rock or control type).
    """
    how = next(iter(controls.values()))
    rocks, frozen = how.of_rocks(ids, mask, losses)
    compared = [("rock-freeze", frozen, rocks)]
    for name, how in controls.items():
        random = how.drawn(ids, mask, losses, 0)
        compared.append((name, random, np.isin(ids, how.controls) & mask))
    log_count = np.log10(counts.reindex(ids[mask]).to_numpy())
    rows, of_rocks = [], _runs(frozen, frozen)[1]
    for name, some, types in compared:
        lengths = _runs(some, some)[1]
        row = {"arm": name, "share": some.sum() / mask.sum()}
        row |= {"loss_share": losses[some].sum() / losses[mask].sum(), "runs": len(lengths)}
        row |= {"length_mean": lengths.mean(), "length_p90": np.quantile(lengths, 0.9)}
        row |= {"log10_count": log_count[some[mask]].mean()}
        row |= {"ks_length": stats.ks_2samp(of_rocks, lengths).statistic}
        rows.append(row | {"control_share": types[some].mean()})
    return pd.DataFrame(rows)
