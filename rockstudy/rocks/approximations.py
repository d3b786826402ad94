r"""Which estimator makes which rocks: approximations of a position's loss against the full one.

`models.partial_kl` has the formulas: the sampled k1 and k3, and the teacher's top k plain, clamped,
with a tail bucket and generalised. With e_i an estimate and l_i the full reverse KL of position i,

    bias        sum_i (e_i - l_i) / N          relative: bias / mean l_i
    error       sqrt(sum_i (e_i - l_i)^2 / N)  of a single position, in nats
    rock set    the first K types by R, and by R_ctx, made from e before and after OPD
                (`detection.detect`): its Jaccard index with the set made from l

Intervals resample whole prompts, for all estimates at once, so that a bias is paired. Those of the
Jaccard index of R resample the prompts of both sets together.

How this can mislead: k1 and k3 are unbiased over the student's *own* tokens, at temperature 1 and
without truncation, and over all positions. Over the occurrences of one type they are not, for any
number of samples: that the token was drawn is what they depend on. Before OPD they are taken on
tokens that the student *after* OPD has written, so they estimate something else. An index between
sets depends on how close the scores at the cut are; its own noise is that of `subcorpora.halves`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.random import Generator
from scipy import stats
from transformers import PreTrainedModel

from rockstudy import progress
from rockstudy.config.fields import RockConfig
from rockstudy.intervals import LEVEL, ends, ratio_draws, resample
from rockstudy.models.divergence import Head, States
from rockstudy.models.partial_kl import Estimates, streamed
from rockstudy.rocks import detection, subcorpora
from rockstudy.rocks.token_set import TokenSet
from rockstudy.rocks.token_table import batches, joined, keys, type_table
from rockstudy.sampling.rollout import Rollouts, completion_states

KS = (1, 4, 16, 64, 256)  # the cut-offs that frameworks offer, by factors of 4
SAMPLED = ("k1", "k3")
TOP = ("plain", "clamped", "tail", "generalised")
SHARED = ("overlap", "mass_student", "mass_teacher")
STAGES = ("pre", "post")
SCOPES = ("all positions", "rocks")
DRAWS = 500  # ours: resampled sets of prompts, of which about 12 are beyond each end
COMMON = 0.1  # ours: a type in fewer of 100 prompts has too narrow an interval (`intervals`)


def estimators(ks: Sequence[int]) -> dict[str, tuple[str, int]]:
    """Kind and cut-off of every approximation by its name; the sampled ones have a cut-off of 0."""
    tops = {f"{kind}_{k}": (kind, k) for kind in TOP for k in ks}
    return {kind: (kind, 0) for kind in SAMPLED} | tops


def by_position(
    rollouts: Rollouts,
    rows: np.ndarray,
    models: Mapping[str, PreTrainedModel],
    ks: Sequence[int],
) -> pd.DataFrame:
    """Every estimate at every position of some rows of rollouts, in nats.

    `models` has the ``teacher`` first, then checkpoints of the student by stage. A row for each
    position, sorted by the keys of the token table: these, and for each stage ``rkl_<stage>`` (the
    full one), ``<name>_<stage>`` for each of `estimators`, and ``overlap_<k>_<stage>`` with the
    masses on the shared tokens (`partial_kl.Estimates`).
    """
    n_tokens, frames = int(rollouts.lengths[rows].sum()), []
    with progress.bar(n_tokens, "estimators of the loss", "token") as bar:
        for some in batches(rollouts, rows):
            frames.append(_batch(rollouts, some, models, ks))
            bar.update(len(frames[-1]))
    return joined(frames)


def _batch(
    rollouts: Rollouts,
    rows: np.ndarray,
    models: Mapping[str, PreTrainedModel],
    ks: Sequence[int],
) -> pd.DataFrame:
    columns: dict[str, Any] = keys(rollouts, rows)
    teacher, *students = (
        States(completion_states(model, rollouts, rows), Head.of(model))
        for model in models.values()
    )
    targets = torch.from_numpy(columns["token_id"]).long().to(models["teacher"].device)
    found = streamed(teacher, students, targets, ks)
    for stage, one in zip(list(models)[1:], found, strict=True):
        columns |= {f"{name}_{stage}": value for name, value in _columns(one, ks).items()}
    return pd.DataFrame(columns)


def _columns(found: Estimates, ks: Sequence[int]) -> dict[str, np.ndarray]:
    """The columns of one student, float64 (N,) each; the full one is never below 0."""
    wide = {name: value.cpu().numpy() for name, value in found._asdict().items()}
    columns = {"rkl": wide["full"].clip(min=0)} | {kind: wide[kind] for kind in SAMPLED}
    for kind in (*TOP, *SHARED):
        columns |= {f"{kind}_{k}": wide[kind][:, i] for i, k in enumerate(ks)}
    return columns


def _of_prompts(
    positions: pd.DataFrame, columns: Sequence[str], inside: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of columns (U, scopes, C) and counts of positions (U, scopes) of each prompt."""
    _, prompt = np.unique(positions.prompt_index.to_numpy(), return_inverse=True)
    values = positions[list(columns)].to_numpy(np.float64)
    sums = np.zeros((prompt.max() + 1, len(SCOPES), len(columns)))
    counts = np.zeros(sums.shape[:2])
    for i, some in enumerate((np.ones(len(positions), bool), inside)):
        np.add.at(sums[:, i], prompt[some], values[some])
        counts[:, i] = np.bincount(prompt[some], minlength=len(counts))
    return sums, counts


def biases(positions: pd.DataFrame, rocks: TokenSet, rng: Generator) -> pd.DataFrame:
    """Bias and error of every estimate, over all positions and over those of rock types.

    `positions` is `by_position`. A row for each stage, scope (`SCOPES`), estimate and measure:
    ``stage, scope, estimator, k, measure, value, lo, hi, unit, n``. The measures are ``mean``,
    ``bias`` and ``error`` in nats, and ``relative`` bias. The full one has its ``mean`` alone.
    """
    names, frames = _known(positions), []
    inside = rocks.mask(positions.token_id.to_numpy())
    for stage in STAGES:
        full = positions[f"rkl_{stage}"]
        wide = positions[["prompt_index"]].assign(full=full)
        estimates = positions[[f"{name}_{stage}" for name in names]].set_axis(list(names), axis=1)
        errors = estimates.sub(full, axis=0).pow(2).add_prefix("error ")
        wide = pd.concat([wide, estimates, errors], axis=1)
        sums, counts = _of_prompts(wide, list(wide.columns[1:]), inside)
        value, draws = ratio_draws(sums, np.broadcast_to(counts[..., None], sums.shape), rng)
        made = (_measures(v, len(names)) for v in (value, draws))
        for (measure, point), (_, samples) in zip(*(one.items() for one in made), strict=True):
            lo, hi = ends(samples)
            for i, scope in enumerate(SCOPES):
                which = [("full", 0)] if measure == "full" else list(names.values())
                some = pd.DataFrame(which, columns=["estimator", "k"])
                some["measure"] = "mean" if measure == "full" else measure
                told = {"value": point[i], "lo": lo[i], "hi": hi[i]}
                frames.append(some.assign(stage=stage, scope=scope, **told))
    table = pd.concat(frames, ignore_index=True).assign(unit="prompts")
    return table.assign(n=positions.prompt_index.nunique())


def _known(positions: pd.DataFrame) -> dict[str, tuple[str, int]]:
    """The estimators whose columns a frame of positions has."""
    stage, kind = STAGES[-1], TOP[0]
    names = (c.removesuffix(f"_{stage}") for c in positions.columns if c.endswith(f"_{stage}"))
    ks = [int(name.removeprefix(f"{kind}_")) for name in names if name.startswith(f"{kind}_")]
    return estimators(sorted(ks))


def _measures(means: np.ndarray, n: int) -> dict[str, np.ndarray]:
    """The measures of means (..., 1 + 2 n): of the full KL, of n estimates, of n squared errors."""
    full, estimates = means[..., :1], means[..., 1 : n + 1]
    bias = estimates - full
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = bias / full
    error = np.sqrt(means[..., n + 1 :])
    return {"full": full, "mean": estimates, "bias": bias, "relative": relative, "error": error}


def overlaps(positions: pd.DataFrame, rocks: TokenSet, rng: Generator) -> pd.DataFrame:
    """Agreement of both models on likely tokens, over all positions and over those of rock types.

    `positions` is `by_position`. A row for each stage, scope, cut-off and measure: ``stage, scope,
    k, measure, value, lo, hi, unit, n``. The measures are the means of `SHARED`: the share of the
    teacher's first k tokens that are among the student's, and the probability that each model has
    on those that both have.
    """
    cutoffs, frames = [k for kind, k in _known(positions).values() if kind == TOP[0]], []
    inside = rocks.mask(positions.token_id.to_numpy())
    for stage in STAGES:
        which = [(k, measure) for k in cutoffs for measure in SHARED]
        columns = [f"{measure}_{k}_{stage}" for k, measure in which]
        sums, counts = _of_prompts(positions, columns, inside)
        value, draws = ratio_draws(sums, np.broadcast_to(counts[..., None], sums.shape), rng)
        lo, hi = ends(draws)
        for i, scope in enumerate(SCOPES):
            some = pd.DataFrame(which, columns=["k", "measure"])
            told = {"value": value[i], "lo": lo[i], "hi": hi[i]}
            frames.append(some.assign(stage=stage, scope=scope, **told))
    table = pd.concat(frames, ignore_index=True).assign(unit="prompts")
    return table.assign(n=positions.prompt_index.nunique())


def type_biases(positions: pd.DataFrame, stage: str = "post") -> pd.DataFrame:
    """Bias of every estimate for each token type in a tenth of the prompts or more, at one stage.

    Returns ``token_id, count, n_prompts, rkl`` (the full mean, nats), ``estimator, k, bias, lo, hi,
    error`` (nats). The interval is Student's t with the standard error clustered by prompt
    (`token_table.type_table`), and a degree of freedom less than the type has prompts.
    """
    names = _known(positions)
    full = positions[f"rkl_{stage}"]
    base = positions[["prompt_index", "token_id"]].assign(rkl=full)
    biases = positions[[f"{name}_{stage}" for name in names]].sub(full, axis=0)
    biases = biases.set_axis(list(names), axis=1)
    wide = pd.concat([base, biases, biases.pow(2).add_prefix("error ")], axis=1)
    types = type_table(wide, [c for c in wide.columns if c not in base.columns[:2]])
    types = types[types.n_prompts >= max(2, COMMON * positions.prompt_index.nunique())]
    reach = stats.t.ppf((1 + LEVEL) / 2, types.n_prompts - 1)
    told, frames = types[["token_id", "count", "n_prompts"]].assign(rkl=types.rkl_mean), []
    for name, (kind, k) in names.items():
        bias, half = types[f"{name}_mean"], reach * types[f"{name}_se"]
        some = told.assign(estimator=kind, k=k, bias=bias, lo=bias - half, hi=bias + half)
        frames.append(some.assign(error=np.sqrt(types[f"error {name}_mean"])))
    table = pd.concat(frames, ignore_index=True)
    small = {"token_id": np.int32, "count": np.int32, "n_prompts": np.int32, "k": np.int16}
    return table.astype(small | dict.fromkeys(("rkl", "bias", "lo", "hi", "error"), np.float32))


def rock_sets(
    positions: pd.DataFrame,
    rollouts: Rollouts,
    settings: RockConfig,
    model: PreTrainedModel | None,
    rng: Generator,
) -> pd.DataFrame:
    """Jaccard index of the rocks by every estimate with those by the full KL.

    `positions` is `by_position` of some of the `rollouts`; `model` is for an encoder that needs
    one. ``estimator, k, measure, value, lo, hi, unit, n``: the measure ``score`` compares the first
    K types by R, with the 95% interval over prompts, ``score_ctx`` those by R_ctx, without one. A
    set has fewer than K types where fewer have a positive score, and the index is 0 where nothing
    persists.
    """
    how = settings.model_copy(update={"loss": "rkl", "selector": "score"})
    n_prompts, n_types = positions.prompt_index.nunique(), positions.token_id.nunique()
    weights = resample(lambda w: w, n_prompts, rng, DRAWS)
    tokens = positions[["prompt_index", "sample_index", "position", "token_id"]]
    found: list[_Sets] = []
    names = {"rkl": ("full", 0)} | _known(positions)
    with progress.bar(len(names), "rock sets by estimator", "estimator") as bar:
        for name in names:
            losses = {f"rkl_{stage}": positions[f"{name}_{stage}"] for stage in STAGES}
            found.append(_sets(tokens.assign(**losses), rollouts, how, model, weights))
            bar.update(1)
    k, full, rows = [how.size(n_types)], found[0], []
    for which, one in zip(list(names.values())[1:], found[1:], strict=True):
        index = float(subcorpora.agreement(full.ranks, one.ranks, k)[0])
        lo, hi = ends(subcorpora.agreement(full.draws, one.draws, k))[:, 0]
        rows.append((*which, "score", index, lo, hi, "prompts", n_prompts))
        index = full.in_context.jaccard(one.in_context)
        rows.append((*which, "score_ctx", index, np.nan, np.nan, "types", n_types))
    return pd.DataFrame(rows, columns="estimator k measure value lo hi unit n".split())


class _Sets(NamedTuple):
    """Ranks of all types by R from 0, in the corpus (V,) and in draws (B, V); rocks by R_ctx."""

    ranks: np.ndarray
    draws: np.ndarray
    in_context: TokenSet


def _sets(
    tokens: pd.DataFrame,
    rollouts: Rollouts,
    how: RockConfig,
    model: PreTrainedModel | None,
    weights: np.ndarray,
) -> _Sets:
    """What the losses of a token table rank first; `weights` (B, U) are draws of its prompts."""
    _, prompt = np.unique(tokens.prompt_index.to_numpy(), return_inverse=True)
    ids, types = np.unique(tokens.token_id.to_numpy(), return_inverse=True)
    loss = tokens.rkl_post.to_numpy(np.float64)
    shape = (weights.shape[1], len(ids))
    of_prompt = np.bincount(prompt * shape[1] + types, weights=loss, minlength=shape[0] * shape[1])
    of_prompt = of_prompt.reshape(shape)
    try:
        found = detection.detect(tokens, rollouts, how, model).by("score_ctx")
        in_context = found.top(found.k)
    except detection.NothingPersists:
        in_context = TokenSet.of("score_ctx", [])
    ranks = (subcorpora.ranked(of_prompt.sum(0)), subcorpora.ranked(weights @ of_prompt))
    return _Sets(*ranks, in_context)
