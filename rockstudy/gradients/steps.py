"""The cached steps of notebook 04: gradients of token types, and losses of groups over training.

They use the rollouts and the token table of `rockstudy.rocks.steps`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rockstudy import progress
from rockstudy.errors import StudyError
from rockstudy.gradients import group_losses, type_gradients
from rockstudy.gradients.group_losses import PromptSums
from rockstudy.gradients.type_gradients import Positions
from rockstudy.models.divergence import Head
from rockstudy.parallel import distributed
from rockstudy.parallel.out_of_memory import advised
from rockstudy.rocks.steps import TOKENS, Measured, measured, tokens_hash
from rockstudy.runs import Run, table
from rockstudy.sampling.rollout import completion_states

FOLDS = 20  # ours: prompts that are resampled together
HALVES = 40  # ours: half-samples of the folds; standard errors to about 11%
_ROWS = 64  # ours: rollouts in one forward
STATISTICS = tuple(
    f"{name}_{space}"
    for space in type_gradients.SPACES
    for name in ("norm", "cos_balanced", "cos_total", "contrib")
)


@table(*TOKENS, inputs=tokens_hash)
def gradients(run: Run) -> pd.DataFrame:
    """`type_gradients.type_gradients` of the student after OPD: a row per type."""
    made = half_samples(run)
    return made[[c for c in made.columns if "_half_" not in c]]


@table(*TOKENS, inputs=tokens_hash)
def gradient_medians(run: Run, chosen: pd.DataFrame) -> pd.DataFrame:
    """`group_losses.half_sample_medians` of the groups."""
    made = half_samples(run)
    halves = {
        name: made[[f"{name}_half_{r}" for r in range(HALVES)]].to_numpy().T for name in STATISTICS
    }
    return group_losses.half_sample_medians(made, halves, ids_of(chosen), STATISTICS)


@table(*TOKENS, inputs=tokens_hash)
def half_samples(run: Run) -> pd.DataFrame:
    """Statistics of every type, with those of every half-sample of the prompts' folds."""
    run.needs_models("gradients")
    found, megabytes = measured(run), run.config.gradient_memory_mb
    scratch = tempfile.TemporaryDirectory(dir=run.path)
    with scratch as folder, advised("gradients", {"gradient_memory_mb": megabytes}):
        positions, share = _positions(found, Path(folder))
        student = found.model("post")
        made = type_gradients.type_gradients(
            positions,
            Head.of(student),
            Head.of(found.model("teacher")).to(student.device),
            megabytes * 2**20,
            type_gradients.half_samples(share.n_folds, HALVES, run.rng("halves")),
            share,
        )
    halves = {
        f"{name}_half_{r}": row
        for name, rows in made.replicates.items()
        for r, row in enumerate(rows)
    }
    return pd.concat([made.types, pd.DataFrame(halves)], axis=1)


def _positions(found: Measured, folder: Path) -> tuple[Positions, type_gradients.Share]:
    """Hidden states of student and teacher before every completion token, memory-mapped.

    Several processes share the rollouts, with about as many tokens each.
    """
    rows = found.rollouts
    order = np.argsort(rows.lengths, kind="stable")
    order = order[rows.lengths[order] > 0]
    n_processes = distributed.together().num_processes
    if len(order) < n_processes:
        raise StudyError(f"processes: must be at most the {len(order)} rollouts; got {n_processes}")
    order = np.asarray(distributed.mine(order))
    n_tokens = int(rows.lengths[order].sum())
    token, prompt = [], []
    states: dict[str, Any] = {}
    models = {"student": found.model("post"), "teacher": found.model("teacher")}
    with progress.bar(len(order), "hidden states", "rollout") as bar:
        done = 0
        for start in range(0, len(order), _ROWS):
            batch = order[start : start + _ROWS]
            for name, model in models.items():
                some = completion_states(model, rows, batch).float().cpu().numpy()
                if name not in states:
                    shape = (n_tokens, some.shape[1])
                    states[name] = np.memmap(folder / name, np.float32, "w+", shape=shape)
                states[name][done : done + len(some)] = some
            done += len(some)
            token.append(rows.completion_ids[batch][rows.mask[batch]])
            prompt.append(np.repeat(rows.prompt_index[batch], rows.lengths[batch]))
            bar.update(len(batch))
    asked = np.unique(rows.prompt_index[rows.lengths > 0])
    n_folds = min(FOLDS, len(asked))
    fold = np.searchsorted(asked, np.concatenate(prompt)) % n_folds
    ids = np.unique(rows.completion_ids[rows.mask])
    return (
        Positions(states["student"], states["teacher"], np.concatenate(token), fold),
        type_gradients.Share(ids, n_folds, distributed.summed),
    )


@table(*TOKENS, "rocks", inputs=tokens_hash)
def groups(run: Run) -> pd.DataFrame:
    """The four groups: ``group, token_id``, chosen by the loss of the early checkpoint."""
    _, sums = _sums(run)
    rocks = measured(run).detection.rocks().ids
    rng = run.rng("groups")
    chosen = group_losses.groups(sums.table(), "early", rocks, rng)
    rows = [(name, int(token)) for name, ids in chosen.items() for token in ids]
    return pd.DataFrame(rows, columns=["group", "token_id"])


def ids_of(chosen: pd.DataFrame) -> dict[str, np.ndarray]:
    """Sorted token ids by group, in the order of the table."""
    grouped = chosen.groupby("group", sort=False)
    return {str(name): np.sort(rows.token_id.to_numpy()) for name, rows in grouped}


def _sums(run: Run) -> tuple[Measured, PromptSums]:
    found = measured(run)
    if "early" not in run.config.stage2.keep:
        raise StudyError(
            "stage2__keep: must name a checkpoint early, such as {'early': 0.1, 'late': 1.0}; got "
            f"{run.config.stage2.keep}"
        )
    columns = {"early": "rkl_early", "late": "rkl_post"}
    return found, PromptSums.of(found.tokens, columns)


@table(*TOKENS, inputs=tokens_hash)
def losses(run: Run) -> pd.DataFrame:
    """Mean reverse KL of every type early and late, on two kinds of trajectories.

    Returns
    -------
    DataFrame
        ``token_id, count, early, late`` on the rollouts of the student after OPD, and
        ``early_own, count_own`` of the early checkpoint on its own rollouts (NaN where it does not
        write the type); the late checkpoint's own rollouts are the former.
    """
    found, sums = _sums(run)
    own = found.token_table("early", ["early"]).read()
    grouped = own.groupby("token_id").rkl_early
    both = pd.DataFrame({"early_own": grouped.mean().astype(float), "count_own": grouped.size()})
    merged = sums.table().merge(both.reset_index(), on="token_id", how="left")
    return merged.assign(count_own=merged.count_own.fillna(0).astype(np.int64))


@table(*TOKENS, inputs=tokens_hash)
def medians(run: Run, chosen: pd.DataFrame) -> pd.DataFrame:
    """`group_losses.medians` of the groups."""
    _, sums = _sums(run)
    return group_losses.medians(sums, ids_of(chosen), run.rng("medians"))


@table(*TOKENS, "rocks", inputs=tokens_hash)
def split(run: Run, draws: int) -> pd.DataFrame:
    """`group_losses.split_summary` over random halves of the prompts."""
    if not 2 <= draws <= 1_000:
        raise StudyError(f"draws: must be from 2 to 1000; got {draws}")
    _, sums = _sums(run)
    rocks = measured(run).detection.rocks().ids
    rng = run.rng("split-sample")
    return group_losses.split_summary(
        group_losses.split_sample(sums, rocks, len(rocks), draws, rng)
    )


def persistence_table(
    moved: pd.DataFrame, losses: pd.DataFrame, chosen: pd.DataFrame
) -> pd.DataFrame:
    """`medians` with the same on own rollouts: ``early_own`` on those of the early checkpoint.

    The late checkpoint's own rollouts are the shared ones; ``n_own`` types occur on both.
    """
    rows = by_group(losses, chosen).dropna(subset=["early_own"])
    grouped = rows.groupby("group", sort=False)
    own = grouped.agg(early_own=("early_own", "median"), n_own=("early_own", "size"))
    return moved.merge(own.reset_index(), on="group", how="left")


def by_group(types: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    """The rows of the type table whose type is in a group, and the group."""
    return chosen.merge(types, on="token_id")


def effects(
    types: pd.DataFrame, chosen: pd.DataFrame, statistic: str, rng: np.random.Generator
) -> pd.DataFrame:
    """`group_losses.effects` of the rocks against the other groups, for one statistic."""
    rows = by_group(types, chosen)
    values = {str(n): g[statistic].to_numpy() for n, g in rows.groupby("group", sort=False)}
    return group_losses.effects(values, rng).assign(statistic=statistic)


def in_both_spaces(
    types: pd.DataFrame, chosen: pd.DataFrame, rng: np.random.Generator
) -> pd.DataFrame:
    """Effect sizes of rocks against each other group, in logit and in hidden space.

    Returns
    -------
    DataFrame
        A row per group and statistic (``norm, cos_balanced``): rank-biserial ``logit, hidden`` with
        ``_lo, _hi``; ``mann_whitney_p`` (logit), ``n``; and ``agree``: both intervals lie on the
        same side of 0, or neither excludes it.
    """
    rows = []
    for statistic in ("norm", "cos_balanced"):
        both = [
            effects(types, chosen, f"{statistic}_{space}", rng) for space in type_gradients.SPACES
        ]
        for one, other in zip(both[0].itertuples(), both[1].itertuples(), strict=True):
            sides = [(e.lo > 0) - (e.hi < 0) for e in (one, other)]
            row: dict[str, Any] = {"statistic": statistic, "group": one.group}
            for space, e in zip(type_gradients.SPACES, (one, other), strict=True):
                row |= {space: e.rank_biserial, f"{space}_lo": e.lo, f"{space}_hi": e.hi}
            p = one.mann_whitney_p
            rows.append(row | {"mann_whitney_p": p, "n": one.n, "agree": sides[0] == sides[1]})
    return pd.DataFrame(rows)
