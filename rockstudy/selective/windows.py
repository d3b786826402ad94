"""Windows around rock tokens, and random windows that match them (paper 5).

A window is the contiguous run of positions around a rock occurrence at which the current loss stays
at or above a threshold, at most ``width`` positions each side; where the rock's own loss is below
it, the window is the rock alone. The paper gives neither threshold nor width: ours.

**Matched random windows** are the control that Rock-Freeze needs: as many positions frozen, in runs
as long, around tokens as frequent, that are not rocks. In every batch the rocks' own windows are
found first. Runs of their lengths are then laid around occurrences of the control types (matched to
the rocks by frequency, `rocks.controls`) in random order, never on a position of a rock's window,
until as many positions are covered. Other tokens follow where the controls do not suffice. The
paper's code takes ranks 101 to 200 of the same score instead, which are several times rarer.

Losses must be known at every position, so windows save no computation of losses.
"""

from __future__ import annotations

from collections.abc import Collection
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
        ids, mask, _ = arrays
        rng = generator(self.seed, "random-windows", (batch.step << 16) + batch.part)
        controls = np.isin(ids, self.controls) & mask
        return random_windows(*self.of_rocks(*arrays), controls, mask, rng)


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
        length, offset = _runs(frozen, rocks)
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


def _runs(frozen: np.ndarray, rocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Length of every run of frozen positions, and how far its first rock is from its start."""
    edge = np.diff(np.pad(frozen, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = (edge == 1).nonzero()
    _, ends = (edge == -1).nonzero()
    flat = rows * frozen.shape[1] + starts
    centres = np.flatnonzero(rocks)
    return ends - starts, centres[np.searchsorted(centres, flat)] - flat


def match(
    ids: np.ndarray, mask: np.ndarray, losses: np.ndarray, counts: pd.Series, how: RandomWindows
) -> pd.DataFrame:
    """Compare the random windows of a corpus with those of the rocks.

    `ids`, `mask` and `losses` are int, bool and float (R, T): completions and the loss at each
    position in nats. `counts` has the occurrences of each token type by id.

    A row for ``rock`` and one for ``random``: ``arm, share`` (of all positions), ``runs,
    length_mean, length_p90`` (positions), ``log10_count`` (mean over the frozen tokens of log10 of
    the type's occurrences), ``ks_length`` (Kolmogorov-Smirnov distance of the lengths to the
    rocks'), ``control_share`` (of the frozen positions, those on a rock or control type).
    """
    rocks, frozen = how.of_rocks(ids, mask, losses)
    controls = np.isin(ids, how.controls) & mask
    rng = generator(how.seed, "random-windows-match")
    random = random_windows(rocks, frozen, controls, mask, rng)
    log_count = np.log10(counts.reindex(ids[mask]).to_numpy())
    rows, of_rocks = [], _runs(frozen, frozen)[0]
    for name, some, types in (("rock", frozen, rocks), ("random", random, controls)):
        lengths = _runs(some, some)[0]
        row = {"arm": name, "share": some.sum() / mask.sum(), "runs": len(lengths)}
        row |= {"length_mean": lengths.mean(), "length_p90": np.quantile(lengths, 0.9)}
        row |= {"log10_count": log_count[some[mask]].mean()}
        row |= {"ks_length": stats.ks_2samp(of_rocks, lengths).statistic}
        rows.append(row | {"control_share": types[some].mean()})
    return pd.DataFrame(rows)
