r"""Controls: as many other token types as there are rocks, and about as frequent.

Rocks are frequent, so knocking them out or reweighting them changes more than doing the same to
rare words. Every comparison therefore needs types that occur as often and are no rocks. Rocks and
controls are paired one to one with the smallest total

    sum_i | log count(control_i) - log count(rock_i) |,

an assignment problem (arXiv 2605.09253, section 2). On one axis many pairings share that total: for
rocks 10, 100 and controls 1, 5 both do. Of these we take the one in the order of frequency, whose
worst pair is the least bad; the paper does not say.

The paper does not report how good its match is. Where the rocks are the most frequent types, all
controls are rarer, and a difference between rocks and controls is a difference of frequency.
`match` refuses such a pool; `assign` shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from rockstudy.errors import StudyError, unknown
from rockstudy.intervals import paired_difference
from rockstudy.rocks.categories import CATEGORIES

TOLERANCE = 2.0  # ours: a factor between the frequencies of rocks and of controls


@dataclass(frozen=True)
class Matched:
    """Rocks with their controls: a row of ``pairs`` for each rock, in the order they were given.

    Columns: ``token_id_rock, count_rock, token_id_control, count_control`` and ``log_ratio``, the
    logarithm of control over rock.
    """

    pairs: pd.DataFrame

    @property
    def total_ratio(self) -> float:
        """Occurrences of all controls over those of all rocks."""
        return float(self.pairs["count_control"].sum() / self.pairs["count_rock"].sum())

    @property
    def median_ratio(self) -> float:
        """Factor, at least 1, between the two counts of the median pair."""
        return float(np.exp(self.pairs["log_ratio"].abs().median()))

    @property
    def worst_ratio(self) -> float:
        """Factor, at least 1, between the two counts of the worst pair."""
        return float(np.exp(self.pairs["log_ratio"].abs().max()))

    def __str__(self) -> str:
        return (
            f"{len(self.pairs)} pairs: the controls occur {self.total_ratio:.3g} times as often as"
            f" the rocks; the median pair differs by a factor of {self.median_ratio:.3g},"
            f" the worst by {self.worst_ratio:.3g}"
        )


def assign(types: pd.DataFrame, rock_ids: Sequence[int], *, exclude: Iterable[int] = ()) -> Matched:
    """Pair each rock with a control by frequency, however bad the best match is.

    `types` has ``token_id, count`` (occurrences) of each observed token type, `rock_ids` are some
    of its ids, and `exclude` has ids that cannot be controls.

    `StudyError`: a missing column, a repeated or unobserved id, a count below 1, no rocks, or fewer
    candidates than rocks, which leaves no match to show.

    Types of equal count are interchangeable. Which of them become controls depends on the counts
    and the ids alone, not on the order of the rows.
    """
    rocks, pool = _split(types, [int(token) for token in rock_ids], exclude)
    log_rock, log_pool = np.log(rocks["count"].to_numpy()), np.log(pool["count"].to_numpy())
    _, chosen = linear_sum_assignment(np.abs(log_rock[:, None] - log_pool))
    rank = np.argsort(np.argsort(log_rock, kind="stable"))
    controls = pool.iloc[np.sort(chosen)[rank]]  # the pool is in the order of frequency
    pairs = rocks.add_suffix("_rock").join(controls.reset_index(drop=True).add_suffix("_control"))
    return Matched(pairs.assign(log_ratio=np.log(pairs.count_control / pairs.count_rock)))


def match(types: pd.DataFrame, rock_ids: Sequence[int], tolerance: float = TOLERANCE) -> Matched:
    """Pair each rock with a control by frequency, or refuse where the pool cannot give a match.

    `tolerance` is the largest factor between the total frequencies of rocks and controls, and
    between those of the median pair; single pairs may differ by more. See `assign` for the rest.

    `StudyError`: as `assign`, and where either factor exceeds ``tolerance``; the line has the
    figures.
    """
    matched = assign(types, rock_ids)
    total = max(matched.total_ratio, 1 / matched.total_ratio)
    if total > tolerance or matched.median_ratio > tolerance:
        far = int((matched.pairs["log_ratio"].abs() > np.log(tolerance)).sum())
        raise StudyError(
            f"controls: must match the rocks' frequency within a factor of {tolerance:g};"
            f" {far} do not, of {matched}; take fewer rocks or a larger corpus"
        )
    return matched


def enrichment(
    categories_rock: Sequence[str], categories_control: Sequence[str], rng: np.random.Generator
) -> pd.DataFrame:
    """Share of each category among the rocks and among their controls, with the difference.

    The arguments are keys of `rockstudy.rocks.categories.CATEGORIES` (K,), rock i paired with
    control i.

    Returns one row per category that occurs on either side, in the order of `CATEGORIES`:
    ``category, share_rock, share_control, difference, lo, hi, n, unit``. The interval of rocks
    minus controls resamples matched pairs; ``n`` is their number.

    `StudyError`: sides of different length, fewer than two pairs, or an unknown category.

    All pairs come from one corpus. The interval shows how much the difference depends on single
    types, not how it would vary over corpora. Shares add up to one, so the rows are not independent
    findings.
    """
    rock, control = np.asarray(categories_rock, str), np.asarray(categories_control, str)
    if rock.shape != control.shape:
        raise StudyError(
            f"categories: must be as many for rocks as for controls; got {len(rock)} and"
            f" {len(control)}"
        )
    present = set(rock.tolist()) | set(control.tolist())
    for name in sorted(present - set(CATEGORIES)):
        raise StudyError(unknown("category", name, CATEGORIES))
    rows = []
    for name in (name for name in CATEGORIES if name in present):
        before, after = (
            pd.DataFrame({"pair": np.arange(len(side)), "share": side == name})
            for side in (control, rock)
        )
        change = paired_difference(before, after, "share", "pair", rng, unit="matched pairs")
        shares = (name, after.share.mean(), before.share.mean(), change.value)
        rows.append((*shares, change.lo, change.hi, change.n, change.unit))
    shown = ["category", "share_rock", "share_control", "difference", "lo", "hi", "n", "unit"]
    return pd.DataFrame(rows, columns=shown)


def _split(
    types: pd.DataFrame, ids: list[int], exclude: Iterable[int]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rocks in their own order, and the candidates by count and id; both are checked."""
    for name in ("token_id", "count"):
        if name not in types:
            given = ", ".join(map(str, types)) or "none"
            raise StudyError(f"types: must include {name}; got {given}")
    if types["token_id"].duplicated().any():
        raise StudyError("types: must have each token_id once; some are repeated")
    if not (types["count"].to_numpy() >= 1).all():
        raise StudyError(f"count: must be at least 1 for each type; got {types['count'].min()}")
    counts = types.set_index("token_id")["count"]
    absent = [token for token in ids if token not in counts.index]
    if not ids or len(set(ids)) < len(ids) or absent:
        what = f"{len(absent)} unobserved, such as {absent[0]}" if absent else f"{len(ids)} ids"
        raise StudyError(f"rock_ids: must be distinct ids of observed token types; got {what}")
    pool = types.loc[~types["token_id"].isin([*ids, *exclude]), ["token_id", "count"]]
    if len(pool) < len(ids):
        raise StudyError(
            f"controls: must have at least as many candidates as rocks; got {len(pool)} candidates"
            f" for {len(ids)} rocks; take fewer rocks or a larger corpus"
        )
    return counts.loc[ids].reset_index(), pool.sort_values(["count", "token_id"])
