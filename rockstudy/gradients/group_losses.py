"""Whether groups of token types keep their loss along training (paper 2.6, figure 3).

The groups of the paper, and a fourth:

    rock      the rock tokens
    high-KL   as many types with the highest mean reverse KL at the early checkpoint that occur at
              least twice and are no rocks
    random    twice as many of the other types, drawn at random
    control   as many other types as there are rocks, matched to them by frequency (ours)

Sizes are the paper's, 100 / 100 / 200 for 100 rocks; its figure 3c has 100, 85 and 150 types.

The loss of a group that is chosen for its high early loss falls by selection alone: part of the
early loss is noise, which does not return late (regression to the mean). Rocks are chosen for their
late loss, so that selection hides a fall of theirs. `split_sample` removes both effects: it chooses
the groups on one half of the prompts and measures them on the other half.

Relative change is that of the group's median, late / early - 1, as the paper states it. Intervals
resample prompts, because the types are fixed and only their means change with the prompts.
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

    Returns a row per group: ``group, n`` (types), and for ``early, late, change`` and ``relative``
    (of the median): value, ``_lo`` and ``_hi`` (95%, prompts resampled); ``n_fall``, the types that
    fall; ``wilcoxon_p``, two-sided, of the types' changes.
    """
    n = len(sums.counts)
    drawn_prompts = rng.multinomial(n, np.full(n, 1 / n), size=_BOOT)
    means = sums.means(np.vstack([np.ones(n), drawn_prompts]))
    means["change"] = means["late"] - means["early"]
    rows = []
    for name, ids in chosen.items():
        places = sums.ids.searchsorted(ids)
        row: dict[str, object] = {"group": name, "n": len(ids)}
        drawn = {what: np.nanmedian(mean[:, places], axis=1) for what, mean in means.items()}
        drawn["relative"] = drawn["late"] / drawn["early"] - 1
        for what, (value, *samples) in drawn.items():
            lo, hi = np.nanquantile(samples, [0.025, 0.975])
            row |= {what: value, f"{what}_lo": lo, f"{what}_hi": hi}
        changes = means["change"][0, places]
        changes = changes[np.isfinite(changes)]
        p = float(stats.wilcoxon(changes).pvalue) if np.any(changes) else float("nan")
        rows.append(row | {"n_fall": int((changes < 0).sum()), "wilcoxon_p": p})
    return pd.DataFrame(rows)


def split_sample(sums: PromptSums, k: int, draws: int, rng: Generator) -> pd.DataFrame:
    """Change of rocks and high-KL types, chosen and measured on the same prompts or on others.

    Every draw cuts the prompts in two halves at random. On the first half the `k` types with the
    largest R are the rocks (late mean x occurrences, whatever the study's selector) and the high-KL
    group is chosen by the early mean. Both are measured on that half (``same``) and on the other
    one (``other``).

    Returns a row per draw, group (``rock, high-KL``) and half: ``draw, group, half, n`` (types that
    occur there), and ``early, late, change`` (medians over them) and ``relative``.
    """
    n = len(sums.counts)
    if n < 4:
        raise StudyError(f"prompts: must be at least 4 to be cut in two halves; got {n}")
    rows = []
    for draw in range(draws):
        order = rng.permutation(n)
        halves = {"same": sums.table(order[: n // 2]), "other": sums.table(order[n // 2 :])}
        chosen = {"rock": highest_score(halves["same"], k)}
        seen = halves["same"].dropna(subset=["early"])
        chosen["high-KL"] = high_loss(seen, "early", chosen["rock"].tolist(), k)
        for half, table in halves.items():
            for group, ids in chosen.items():
                some = table[table.token_id.isin(ids) & (table["count"] > 0)]
                early, late = some.early.median(), some.late.median()
                row = {"draw": draw, "group": group, "half": half, "n": len(some)}
                row |= {"early": early, "late": late, "change": (some.late - some.early).median()}
                rows.append(row | {"relative": late / early - 1})
    return pd.DataFrame(rows)


def highest_score(types: pd.DataFrame, k: int) -> np.ndarray:
    """The `k` types with the largest R, late mean x occurrences (paper 2)."""
    score = (types.late * types["count"]).fillna(0)
    return types.token_id[score.nlargest(k).index].to_numpy()


def split_summary(draws: pd.DataFrame) -> pd.DataFrame:
    """Means over the draws of `split_sample`, by group and half, with 95% of the draws.

    Returns ``group, half, n`` (median) and for ``early, late, change, relative`` the mean, ``_lo``
    and ``_hi``; and rows for the group ``rock - high-KL`` with the difference of ``relative``.

    Halves of the prompts spread as much as the whole varies (delete-half jackknife, see
    `comparisons.half_sample_medians`), so 95% of the draws are an interval for the whole: a wide
    one, since every draw chooses its own types. On simulated corpora in which nothing changes it is
    about 1.5 times as wide as the spread of the mean.
    """
    names = ["early", "late", "change", "relative"]
    wide = draws.set_index(["draw", "half", "group"]).unstack("group")
    apart = (wide.relative["rock"] - wide.relative["high-KL"]).rename("relative").reset_index()
    apart["n"] = wide.n.sum(axis=1).to_numpy()
    rows = pd.concat([draws, apart.assign(group="rock - high-KL")])
    grouped = rows.groupby(["group", "half"], sort=False)
    table = grouped[names].mean().assign(n=grouped.n.median())
    ends = grouped[names].quantile([0.025, 0.975]).unstack()
    for name in names:
        table[f"{name}_lo"], table[f"{name}_hi"] = ends[name, 0.025], ends[name, 0.975]
    return table.reset_index()


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
