"""Whether groups of token types keep their loss along training (paper 2.6, figure 3).

The groups of the paper, and a fourth:

    rock      the rock tokens
    high-KL   as many types with the highest mean reverse KL at the early checkpoint that occur at
              least twice and are no rocks
    random    twice as many of the other types, drawn at random
    control   as many other types as there are rocks, matched to them by frequency (ours)

The loss of a group that is chosen for its high early loss falls by selection alone: part of the
early loss is noise, which does not return late (regression to the mean). `split_sample` removes
this effect: it chooses the group on one half of the prompts and measures it on the other half.

Intervals of medians resample prompts, because the types are fixed and only their means change with
the prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.random import Generator
from scipy import stats

from rockstudy.errors import StudyError
from rockstudy.rocks.controls import assign

GROUPS = ("rock", "high-KL", "random", "control")
LEAST = 2  # the paper's code: occurrences of a high-KL type
Arrays = Mapping[str, np.ndarray]
_BOOT = 2_000  # ours: prompts are few hundred; end points to about 2% of the width


@dataclass(frozen=True)
class PromptSums:
    """Sums of losses by prompt and type, from which any resampling of prompts is a product."""

    ids: np.ndarray  # int (T,): observed token types
    counts: np.ndarray  # float64 (P, T): occurrences
    losses: dict[str, np.ndarray]  # float64 (P, T) by checkpoint, nats

    @classmethod
    def of(cls, tokens: pd.DataFrame, columns: Mapping[str, str]) -> PromptSums:
        """Add up the token table; `columns` names the loss column of each checkpoint."""
        ids, types = np.unique(tokens.token_id.to_numpy(), return_inverse=True)
        prompts, rows = np.unique(tokens.prompt_index.to_numpy(), return_inverse=True)
        cell, shape = rows * len(ids) + types, (len(prompts), len(ids))

        def summed(values: np.ndarray | None) -> np.ndarray:
            return np.bincount(cell, values, np.prod(shape)).reshape(shape).astype(np.float64)

        losses = {name: summed(tokens[c].to_numpy(np.float64)) for name, c in columns.items()}
        return cls(ids, summed(None), losses)

    def means(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Mean loss of every type under prompt weights (B, P): (B, T), NaN where there is none."""
        counts = weights @ self.counts
        with np.errstate(invalid="ignore"):
            return {name: (weights @ loss) / counts for name, loss in self.losses.items()}

    def table(self, prompts: np.ndarray | None = None) -> pd.DataFrame:
        """Count and means of every type over all or some prompts, by checkpoint."""
        weights = np.zeros((1, len(self.counts)))
        weights[:, slice(None) if prompts is None else prompts] = 1
        means = {name: mean[0] for name, mean in self.means(weights).items()}
        count = (weights[0] @ self.counts).astype(np.int64)
        return pd.DataFrame({"token_id": self.ids, "count": count, **means})


def high_loss(types: pd.DataFrame, column: str, rocks: Sequence[int], k: int) -> np.ndarray:
    """The `k` types with the highest mean among those that occur twice and are no rocks."""
    able = types[(types["count"] >= LEAST) & ~types.token_id.isin(list(rocks))]
    return able.nlargest(k, column).token_id.to_numpy()


def groups(types: pd.DataFrame, column: str, rocks: Sequence[int], rng: Generator) -> Arrays:
    """Token ids of the four groups, no type in two of them.

    `types` has ``token_id, count`` and the mean loss in `column`; `rocks` are the ids of K rocks.

    `StudyError`: a group that comes out empty; rocks that were not observed.
    """
    k = len(rocks)
    chosen = {"rock": np.asarray(sorted(rocks)), "high-KL": high_loss(types, column, rocks, k)}
    matched = assign(types, list(rocks), exclude=chosen["high-KL"])
    controls = matched.pairs.token_id_control.to_numpy()
    taken = np.concatenate([*chosen.values(), controls])
    others = types.token_id[~types.token_id.isin(taken)].to_numpy()
    # The paper's code has 100 rocks and 200 random types.
    chosen["random"] = rng.choice(others, min(2 * k, len(others)), replace=False)
    chosen["control"] = controls
    for name, ids in chosen.items():
        if len(ids) == 0:
            raise StudyError(
                f"group {name}: must have at least one of {len(types)} types; got none; lower "
                f"rocks__k (now {k} types)"
            )
    return chosen


def medians(sums: PromptSums, chosen: Arrays, rng: Generator) -> pd.DataFrame:
    """Median over a group's types of the mean loss early, late, and late minus early.

    Returns a row per group: ``group, n`` (types), and for ``early, late, change``: value, ``_lo``
    and ``_hi`` (95%, prompts resampled); ``wilcoxon_p``, two-sided, of the types' changes.
    """
    n = len(sums.counts)
    drawn_prompts = rng.multinomial(n, np.full(n, 1 / n), size=_BOOT)
    means = sums.means(np.vstack([np.ones(n), drawn_prompts]))
    means["change"] = means["late"] - means["early"]
    rows = []
    for name, ids in chosen.items():
        places = sums.ids.searchsorted(ids)
        row: dict[str, object] = {"group": name, "n": len(ids)}
        for what in ("early", "late", "change"):
            value, *drawn = np.nanmedian(means[what][:, places], axis=1)
            lo, hi = np.nanquantile(drawn, [0.025, 0.975])
            row |= {what: value, f"{what}_lo": lo, f"{what}_hi": hi}
        changes = means["change"][0, places]
        changes = changes[np.isfinite(changes)]
        p = float(stats.wilcoxon(changes).pvalue) if np.any(changes) else float("nan")
        rows.append(row | {"wilcoxon_p": p})
    return pd.DataFrame(rows)


def split_sample(
    sums: PromptSums, rocks: Sequence[int], k: int, draws: int, rng: Generator
) -> pd.DataFrame:
    """Change of the high-KL group, chosen and measured on the same prompts or on different ones.

    Every draw cuts the prompts in two halves at random. The group is chosen by the early mean on
    the first half, then its early and late medians are taken on that half (``same``) and on the
    other one (``other``). The rocks are measured on both halves too.

    Returns means over draws, for group (``high-KL, rock``) and half (``same, other``): ``early,
    late, change`` (medians over types that occur there), ``n`` (median), and 95% of the draws'
    changes in ``change_lo, change_hi``.
    """
    n = len(sums.counts)
    if n < 4:
        raise StudyError(f"prompts: must be at least 4 to be cut in two halves; got {n}")
    rows = []
    for _ in range(draws):
        order = rng.permutation(n)
        halves = {"same": sums.table(order[: n // 2]), "other": sums.table(order[n // 2 :])}
        picked = high_loss(halves["same"].dropna(subset=["early"]), "early", rocks, k)
        for half, table in halves.items():
            for group, ids in (("high-KL", picked), ("rock", rocks)):
                seen = table[table.token_id.isin(list(ids)) & (table["count"] > 0)]
                both = {"early": seen.early.median(), "late": seen.late.median()}
                row = {"group": group, "half": half, "n": len(seen)} | both
                rows.append(row | {"change": (seen.late - seen.early).median()})
    grouped = pd.DataFrame(rows).groupby(["group", "half"], sort=False)
    table = grouped[["early", "late", "change"]].mean()
    spread = grouped.change.quantile([0.025, 0.975]).unstack()
    table["change_lo"], table["change_hi"] = spread[0.025], spread[0.975]
    return table.assign(n=grouped.n.median()).reset_index()


def along_training(types: pd.DataFrame, chosen: Arrays) -> pd.DataFrame:
    """Mean reverse KL of each group along stage 2, occurrences pooled: ``group, step, rkl, count``.

    `types` has the sums that training logs by type: ``step, token_id, count, rkl_sum``.
    """
    frames = []
    for name, ids in chosen.items():
        mine = types[types.token_id.isin(list(ids))]
        sums = mine.groupby("step", as_index=False)[["count", "rkl_sum"]].sum()
        frames.append(sums.assign(group=name, rkl=sums.rkl_sum / sums["count"]))
    return pd.concat(frames, ignore_index=True)[["group", "step", "rkl", "count"]]
