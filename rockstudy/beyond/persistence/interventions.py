r"""Stage 2 with other optimisers: whether rocks then fall more, for the fall of all.

    adamw          the baseline, to the byte; it keeps the optimiser's running means
    adamw-tensor   one second moment for a tensor: no weight is scaled against another of it
    adamw-types    AdamW with weights c / n(type) on the loss, c such that they are 1 on average
    sgd            with momentum; the first seed chooses the rate at which the loss of all types but
                   the rocks ends closest to AdamW's

What is compared is the fall of the rocks' mean loss over that of all positions, from the common
start of stage 2 to its end, on texts of that start, which no arm has written. An arm that learns
more of everything is not favoured by it. Rocks are the K types with the largest loss at the end
(paper 2, R), on half of the prompts; the other half measures them, and then the halves change
places. They are chosen under AdamW of the same seed (``adamw``), for which the choice holds a fall
that it missed by chance and other arms may have made, or under the arm itself (``own``), which
treats all arms alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.random import Generator

from rockstudy.beyond.persistence.suppression import FOLDS_OF, POOLED, pooled
from rockstudy.training.arm import Arm
from rockstudy.training.optimizers import Optimizer
from rockstudy.training.position_weights import TypeWeights

FOLDS = 20  # ours: of prompts, ten choose the rocks and ten measure them
DRAWS = 2_000  # ours
CHOICES = ("adamw", "own")


def balanced(counts: pd.Series) -> TypeWeights:
    """Weights c / n of types with counts n (by id) that are 1 on average over occurrences.

    A type that is not among them has weight 1.
    """
    weights = counts.sum() / len(counts) / counts.to_numpy(float)
    return TypeWeights(counts.index.tolist(), weights.tolist())


def arm_of(name: str, counts: pd.Series, moments_at: dict[str, float], lr: float | None) -> Arm:
    """An arm by name; `lr` is the rate of ``sgd``."""
    if name == "adamw":
        return Arm(name, optimizer=Optimizer("adamw"), keep=moments_at)
    if name == "adamw-tensor":
        return Arm(name, optimizer=Optimizer("adamw-tensor"))
    if name == "adamw-types":
        return Arm(name, weights=balanced(counts))
    return Arm(f"sgd-{lr:g}", optimizer=Optimizer("sgd"), lr=lr)


def last_losses(type_losses: pd.DataFrame, rocks: Sequence[int]) -> tuple[float, float]:
    """Mean loss of the rocks and of all other types in the last window of a training, in nats.

    NaN for the rocks where that window has none.
    """
    last = type_losses[type_losses.step == type_losses.step.max()]
    rock = last.token_id.isin(list(rocks))
    sums = last.groupby(rock.to_numpy())[["rkl_sum", "count"]].sum().reindex([True, False])
    of_rocks, of_others = (sums.rkl_sum / sums["count"]).tolist()
    return of_rocks, of_others


def ratios(ends: pd.DataFrame, k: int, rng: Generator) -> pd.DataFrame:
    """Fall of the rocks over the fall of all, by arm, and minus that of AdamW of the same seed.

    `ends` has ``arm, seed, fold, token_id, count, start, end`` (summed losses). A row per arm,
    choice of the rocks and measure (``ratio, minus adamw``) with the columns of
    `suppression.pooled`.
    """
    seeds, half = sorted(ends.seed.unique()), FOLDS // 2
    drawn = np.vstack([np.ones(half), rng.multinomial(half, np.full(half, 1 / half), DRAWS)])
    cubes = {key: _cube(some) for key, some in ends.groupby(["arm", "seed"])}
    found: dict[tuple[str, str], np.ndarray] = {}
    arms = list(dict.fromkeys(ends["arm"]))
    for arm in arms:
        for choice in CHOICES:
            of_seeds = [
                _ratio(cubes[arm, s], cubes["adamw" if choice == "adamw" else arm, s], k, drawn)
                for s in seeds
            ]
            found[arm, choice] = np.stack(of_seeds)
    rows = []
    for (arm, choice), values in found.items():
        measures = {"ratio": values}
        if arm != "adamw":
            measures["minus adamw"] = values - found["adamw", choice]
        for measure, one in measures.items():
            at = {"arm": arm, "choice": choice, "measure": measure}
            rows.append(at | pooled(one[:, 0], one[:, 1:], ends.fold.nunique(), FOLDS_OF))
    return pd.DataFrame(rows)


def _cube(some: pd.DataFrame) -> pd.DataFrame:
    """Sums by fold and type, from which halves are made."""
    columns = ["count", "start", "end"]
    whole = some.astype(dict.fromkeys(columns, np.float64))
    return whole.groupby(["fold", "token_id"])[columns].sum().reset_index()


def _ratio(mine: pd.DataFrame, chosen: pd.DataFrame, k: int, drawn: np.ndarray) -> np.ndarray:
    """The ratio (1 + draws,), mean over the two directions of the halves."""
    both = []
    for side in (0, 1):
        score = chosen[chosen.fold % 2 == side].groupby("token_id").end.sum()
        rocks = score.nlargest(k).index
        rest = mine[mine.fold % 2 != side]
        sums = [
            some.groupby("fold")[["count", "start", "end"]]
            .sum()
            .reindex(sorted(rest.fold.unique()), fill_value=0.0)
            for some in (rest[rest.token_id.isin(rocks)], rest)
        ]
        weights = drawn[:, : len(sums[1])]
        n, start, end = (
            np.stack([weights @ s[c].to_numpy(float) for s in sums])
            for c in ("count", "start", "end")
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            fall = (start - end) / n
            both.append(fall[0] / fall[1])
    return np.mean(both, axis=0)


def by_cause(ends: pd.DataFrame, rng: Generator) -> pd.DataFrame:
    """Fall of the mean loss by known cause and arm, from the start to the end of stage 2.

    `ends` as for `ratios`, with ``cause``; positions without one are left out of the rows and count
    in the fall of all. A row per arm, cause and measure with the columns of `suppression.pooled`:

    fall           mean loss at the start minus at the end, over the positions of the cause (nats)
    ratio          that over the fall of all positions, so that an arm that learns more of
                   everything is not favoured; not defined where all do not fall
    minus adamw    the ratio minus that of AdamW of the same seed

    Prompts are resampled by fold, the same in all arms and seeds.
    """
    causes, seeds = sorted(set(ends.cause) - {""}), sorted(ends.seed.unique())
    n = ends.fold.nunique()  # fewer than `FOLDS` where there are fewer prompts
    drawn = np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), DRAWS)])
    found: dict[tuple[str, str, str], np.ndarray] = {}
    for arm in dict.fromkeys(ends["arm"]):
        mine = ends[ends["arm"] == arm]
        falls = {seed: _falls(mine[mine.seed == seed], causes, drawn) for seed in seeds}
        for place, cause in enumerate(causes):
            fall = np.stack([falls[seed][:, place] for seed in seeds])
            whole = np.stack([falls[seed][:, -1] for seed in seeds])
            ratio = np.divide(fall, whole, out=np.full_like(fall, np.nan), where=whole > 0)
            found[arm, cause, "fall"], found[arm, cause, "ratio"] = fall, ratio
            if arm != "adamw":
                found[arm, cause, "minus adamw"] = ratio - found["adamw", cause, "ratio"]
    rows = [
        {"arm": arm, "cause": cause, "measure": measure}
        | pooled(values[:, 0], values[:, 1:], n, FOLDS_OF)
        for (arm, cause, measure), values in found.items()
    ]
    return pd.DataFrame(rows, columns=["arm", "cause", "measure", *POOLED])


def _falls(some: pd.DataFrame, causes: Sequence[str], drawn: np.ndarray) -> np.ndarray:
    """Falls of the mean loss (1 + draws, causes + 1) of each cause, and of all positions last."""
    fold = np.unique(some.fold, return_inverse=True)[1]
    places = {cause: place for place, cause in enumerate(causes)}
    place = some.cause.map(places).fillna(len(causes)).to_numpy(np.int64)
    shape = (drawn.shape[1], len(causes) + 1)
    fall = some.start.to_numpy(float) - some.end.to_numpy(float)
    above, below = (
        drawn @ _with_all(np.bincount(fold * shape[1] + place, values, shape[0] * shape[1]), shape)
        for values in (fall, some["count"].to_numpy(float))
    )
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def _with_all(cells: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Sums by fold and cause, those without a cause last, with the sum of all in their place."""
    sums = cells.reshape(shape)
    return np.hstack([sums[:, :-1], sums.sum(1, keepdims=True)])
