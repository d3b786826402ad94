r"""Does the optimiser suppress what would teach the rocks? One step against others, by type.

With phi_v(o) the fall of the mean loss of type v by a step of optimiser o (`updates`), to first
order or really taken,

    S_v = log(phi_v(adamw) / phi_v(o)) - the same for the rest         0: nothing is suppressed

A group's fall is the mean over its occurrences. Logarithms need falls above 0: a group or a type
that rises under one of the two steps has no S and is left out, and its share is given. Beside S
stands a number that needs no logarithm: the share of the summed fall that goes to the group, under
AdamW minus under the other step, where the summed fall is above 0 under both.

Over types, S is regressed by least squares on the log of the type's frequency and on whether it is
a rock; that rare types are suppressed, or rocks beyond their frequency, are its two slopes.

Intervals: prompts are resampled, all sums of one seed together, and what is left is the mean over
training seeds. Its standard error adds the spread of seeds (with Student's t) to that of prompts,
which counts the noise of prompts within a seed twice: a little too wide (`pooled`).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.random import Generator
from scipy import stats

from rockstudy.intervals import LEVEL

DRAWS = 500  # ours: each needs a regression for every seed and checkpoint
LEAST = 10  # ours: occurrences of a type in a regression
POOLED = ("value", "lo", "hi", "unit", "n", "seeds")  # what `pooled` gives
FOLDS_OF = "folds of prompts"
AGAINST = ("momentum", "sgd")
KINDS = {"phi": "first order", "real": "really taken"}


def pooled(
    values: np.ndarray, draws: np.ndarray, resampled: int, what: str = "prompts"
) -> dict[str, Any]:
    """Mean of the values of S seeds (S,), with an interval from the seeds and from draws (S, B).

    The draws resample prompts, or folds of them, the same ones in all seeds; `resampled` is their
    number. The keys are those of `POOLED`: ``n`` counts prompts or folds, ``seeds`` the seeds.
    Seeds without a value are left out.
    """
    known = np.isfinite(values)
    values, draws, n = values[known], draws[known], int(known.sum())
    unit = f"{what} x {n} seeds" if n > 1 else f"{what}, one training seed"
    if n == 0:
        none = dict.fromkeys(("value", "lo", "hi"), float("nan"))
        return none | {"unit": what, "n": 0, "seeds": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a draw without any value
        of_prompts = np.nanvar(np.nanmean(draws, axis=0), ddof=1)
    of_seeds = values.var(ddof=1) / n if n > 1 else 0.0
    total = of_prompts + of_seeds
    free = np.inf if of_seeds == 0 else (n - 1) * (total / of_seeds) ** 2
    half = stats.t.ppf((1 + LEVEL) / 2, free) * np.sqrt(total)
    mean = float(values.mean())
    ends = {"value": mean, "lo": mean - half, "hi": mean + half}
    return ends | {"unit": unit, "n": resampled, "seeds": n}


class Falls:
    """Sums of one seed and checkpoint by prompt and label, from which all resampling is a product.

    `sums` has ``prompt_index, count`` and the summed falls; `labels` (rows,) what they are grouped
    by.
    """

    def __init__(self, sums: pd.DataFrame, labels: np.ndarray) -> None:
        self.columns = [c for c in sums.columns if c.split("_")[0] in KINDS]
        prompts, row = np.unique(sums.prompt_index.to_numpy(), return_inverse=True)
        self.labels, place = np.unique(labels, return_inverse=True)
        shape = (len(prompts), len(self.labels))
        cell = row * shape[1] + place
        self.sums = {
            c: np.bincount(cell, sums[c].to_numpy(np.float64), shape[0] * shape[1]).reshape(shape)
            for c in ["count", *self.columns]
        }
        self.n_prompts = len(prompts)

    def under(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Sums (B, labels) by column under weights of the prompts (B, U)."""
        return {c: weights @ values for c, values in self.sums.items()}


def weights_of(n: int, rng: Generator) -> np.ndarray:
    """Weights of prompts (1 + `DRAWS`, n): all once, then resampled."""
    return np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), DRAWS)])


def log_ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Log of a ratio where both are above 0, else NaN."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((above > 0) & (below > 0), np.log(above / below), np.nan)


def of_groups(sums: pd.DataFrame, column: str, rest: str | None, rng: Generator) -> pd.DataFrame:
    """Falls, S and shares of the groups that `column` of `sums` names, against the group `rest`.

    Without a `rest` against all positions.

    `sums` has ``seed, checkpoint, prompt_index, count`` and for each of `KINDS` and each step a
    summed fall, such as ``phi_adamw``. A row per checkpoint, group, kind, other step and measure
    (``S, share``): ``checkpoint, group, kind, against, measure`` and those of `pooled`.
    """
    rows = []
    for checkpoint, some in sums.groupby("checkpoint", sort=False):
        seeds = [Falls(one, one[column].to_numpy()) for _, one in some.groupby("seed")]
        weights = weights_of(seeds[0].n_prompts, rng)  # the same prompts in all seeds
        drawn = [one.under(weights) for one in seeds]
        labels = sorted({str(x) for one in seeds for x in one.labels})
        for kind in KINDS:
            for other in AGAINST:
                pair = (f"{kind}_adamw", f"{kind}_{other}")
                for label in labels:
                    at = {"checkpoint": checkpoint, "group": label, "kind": kind, "against": other}
                    for measure in ("S", "share"):
                        parts = [
                            _measured(measure, one, label, rest, under, *pair)
                            for one, under in zip(seeds, drawn, strict=True)
                        ]
                        values, n = np.stack(parts), seeds[0].n_prompts
                        found = pooled(values[:, 0], values[:, 1:], n)
                        rows.append(at | {"measure": measure} | found)
    return pd.DataFrame(rows)


def _measured(
    measure: str,
    falls: Falls,
    label: str,
    rest: str | None,
    under: Mapping[str, np.ndarray],
    adamw: str,
    other: str,
) -> np.ndarray:
    """A measure of one group under all weights (B,)."""
    mine = falls.labels == label
    base = np.ones_like(mine) if rest is None else falls.labels == rest
    if not (mine.any() and base.any()):
        return np.full(len(under["count"]), np.nan)
    if measure == "share":
        parts = []
        for c in (adamw, other):
            whole = under[c].sum(1)
            parts.append(under[c][:, mine].sum(1) / np.where(whole > 0, whole, np.nan))
        return parts[0] - parts[1]
    own, its = (
        log_ratio(under[adamw][:, some].sum(1), under[other][:, some].sum(1))
        for some in (mine, base)
    )
    return own - its


def over_types(
    sums: pd.DataFrame, counts: pd.Series, rocks: np.ndarray, rng: Generator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """S of every type against all others, and its regression on log frequency and rock membership.

    `counts` has the frequency of each type by id, `rocks` the ids of rocks. The first frame has a
    row per checkpoint, kind, other step and type with at least `LEAST` occurrences: ``token_id, n,
    rock, S`` (mean over the seeds that have it). The second: ``checkpoint, kind, against, term``
    (``log n, rock``), those of `pooled`, and ``types`` and ``left_out``, the share of types that
    have no logarithm.
    """
    types, slopes = [], []
    for checkpoint, some in sums.groupby("checkpoint", sort=False):
        seeds = [Falls(one, one.token_id.to_numpy()) for _, one in some.groupby("seed")]
        weights = weights_of(seeds[0].n_prompts, rng)
        drawn = [one.under(weights) for one in seeds]
        for kind in KINDS:
            for other in AGAINST:
                at = {"checkpoint": checkpoint, "kind": kind, "against": other}
                fits, found = [], []
                for one, under in zip(seeds, drawn, strict=True):
                    often = under["count"][0] >= LEAST
                    ids = one.labels[often]
                    pair = (under[f"{kind}_{o}"][:, often] for o in ("adamw", other))
                    whole = (under[f"{kind}_{o}"].sum(1, keepdims=True) for o in ("adamw", other))
                    S = log_ratio(*pair) - log_ratio(*whole)
                    n, rock = counts.reindex(ids).to_numpy(float), np.isin(ids, rocks)
                    fits.append(np.stack([_slopes(y, np.log(n), rock) for y in S]))
                    found.append(pd.DataFrame({"token_id": ids, "n": n, "rock": rock, "S": S[0]}))
                every = pd.concat(found)
                left_out = float(every.S.isna().mean()) if len(every) else float("nan")
                kept = every.dropna().groupby("token_id", as_index=False)
                types.append(kept.agg({"n": "first", "rock": "first", "S": "mean"}).assign(**at))
                for place, term in enumerate(("log n", "rock")):
                    values = np.stack(fits)[:, :, place]
                    ends = pooled(values[:, 0], values[:, 1:], seeds[0].n_prompts)
                    row = at | {"term": term} | ends
                    number = every.token_id.nunique()
                    slopes.append(row | {"types": number, "left_out": left_out})
    return pd.concat(types, ignore_index=True), pd.DataFrame(slopes)


def _slopes(y: np.ndarray, log_n: np.ndarray, rock: np.ndarray) -> np.ndarray:
    """Slopes (2,) of y on log n and on rock, by least squares over the types that have a y."""
    known = np.isfinite(y)
    design = np.column_stack([np.ones(known.sum()), log_n[known], rock[known]])
    if len(design) <= 3 or np.linalg.matrix_rank(design) < 3:
        return np.full(2, np.nan)
    return np.linalg.lstsq(design, y[known], rcond=None)[0][1:]
