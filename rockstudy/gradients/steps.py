"""The cached steps of notebook 04: gradients of token types, and whether groups persist.

They build on the rollouts and the token table of `rockstudy.rocks.steps`.
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
from rockstudy.rocks.steps import Measured, cached_table, detected, measured
from rockstudy.runs import Run
from rockstudy.sampling.rollout import completion_states
from rockstudy.store.seeds import generator

FOLDS = 20  # ours: prompts that are resampled together
HALVES = 40  # ours: half-samples of the folds; standard errors to about 11%
_ROWS = 64  # ours: rollouts in one forward
STATISTICS = tuple(
    f"{name}_{space}"
    for space in type_gradients.SPACES
    for name in ("norm", "cos_balanced", "cos_total", "contrib")
)


def gradients(run: Run, budget: int) -> pd.DataFrame:
    """`geometry.type_gradients` of the student after OPD: a row per type."""

    def compute() -> pd.DataFrame:
        made = _gradients(run, budget)
        return made[[c for c in made.columns if "_half_" not in c]]

    return cached_table(run, "gradients", {}, compute)


def gradient_medians(run: Run, chosen: pd.DataFrame, budget: int) -> pd.DataFrame:
    """`persistence.half_sample_medians` of the groups."""

    def compute() -> pd.DataFrame:
        made = _gradients(run, budget)
        halves = {
            name: made[[f"{name}_half_{r}" for r in range(HALVES)]].to_numpy().T
            for name in STATISTICS
        }
        return group_losses.half_sample_medians(made, halves, ids_of(chosen), STATISTICS)

    return cached_table(run, "gradient_norms", {}, compute)


def _gradients(run: Run, budget: int) -> pd.DataFrame:
    """Statistics of every type, with those of every half-sample of the prompts' folds."""
    found = measured(run.config, Path(run.path))
    settings = {"folds": FOLDS, "halves": HALVES, "seed": run.config.seed}

    def compute() -> pd.DataFrame:
        scratch = tempfile.TemporaryDirectory(dir=run.path)
        with scratch as folder, advised("gradients", {"budget": budget}):
            positions, share = _positions(found, Path(folder))
            student = found.student("post")
            made = type_gradients.type_gradients(
                positions,
                Head.of(student),
                Head.of(found.pair.teacher).to(student.device),
                budget,
                type_gradients.half_samples(
                    share.n_folds, HALVES, generator(run.config.seed, "halves")
                ),
                share,
            )
        halves = {
            f"{name}_half_{r}": row
            for name, rows in made.replicates.items()
            for r, row in enumerate(rows)
        }
        return pd.concat([made.types, pd.DataFrame(halves)], axis=1)

    inputs = {"tokens": found.table.hash}
    return distributed.cached(
        Path(run.path), "gradients", "types", config=settings, inputs=inputs, compute=compute
    ).data


def _positions(found: Measured, folder: Path) -> tuple[Positions, type_gradients.Share]:
    """Hidden states of student and teacher before every completion token, memory-mapped.

    Of several processes each has some of the rollouts, with about as many tokens as the others.
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
    models = {"student": found.student("post"), "teacher": found.pair.teacher}
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


def groups(run: Run) -> pd.DataFrame:
    """The four groups: ``group, token_id``, chosen by the loss of the early checkpoint."""

    def compute() -> pd.DataFrame:
        _, sums = _sums(run)
        rocks = detected(run.config, Path(run.path)).rocks().ids
        rng = generator(run.config.seed, "groups")
        chosen = group_losses.groups(sums.table(), "early", rocks, rng)
        rows = [(name, int(token)) for name, ids in chosen.items() for token in ids]
        return pd.DataFrame(rows, columns=["group", "token_id"])

    return cached_table(run, "gradient_groups", {}, compute)


def ids_of(chosen: pd.DataFrame) -> dict[str, np.ndarray]:
    """Sorted token ids by group, in the order of the table."""
    grouped = chosen.groupby("group", sort=False)
    return {str(name): np.sort(rows.token_id.to_numpy()) for name, rows in grouped}


def _sums(run: Run) -> tuple[Measured, PromptSums]:
    found = measured(run.config, Path(run.path))
    if "early" not in found.folders:
        raise StudyError(
            "stage2__keep: must name a checkpoint early, such as {'early': 0.1, 'late': 1.0}; got "
            f"{run.config.stage2.keep}"
        )
    columns = {"early": "rkl_early", "late": "rkl_post"}
    return found, PromptSums.of(found.tokens, columns)


def losses(run: Run) -> pd.DataFrame:
    """Mean reverse KL of every type early and late, on two kinds of trajectories.

    Returns
    -------
    DataFrame
        ``token_id, count, early, late`` on the rollouts of the student after OPD, and
        ``early_own, count_own`` of the early checkpoint on its own rollouts (NaN where it does not
        write the type); the late checkpoint's own rollouts are the former.
    """

    def compute() -> pd.DataFrame:
        found, sums = _sums(run)
        own = found.token_table("early", ["early"]).read(["rkl_early"])
        grouped = own.groupby("token_id").rkl_early
        both = pd.DataFrame(
            {"early_own": grouped.mean().astype(float), "count_own": grouped.size()}
        )
        merged = sums.table().merge(both.reset_index(), on="token_id", how="left")
        return merged.assign(count_own=merged.count_own.fillna(0).astype(np.int64))

    return cached_table(run, "gradient_losses", {}, compute)


def medians(run: Run, chosen: pd.DataFrame) -> pd.DataFrame:
    """`persistence.medians` of the groups."""

    def compute() -> pd.DataFrame:
        _, sums = _sums(run)
        return group_losses.medians(sums, ids_of(chosen), generator(run.config.seed, "medians"))

    return cached_table(run, "gradient_medians", {}, compute)


def split(run: Run, draws: int) -> pd.DataFrame:
    """`persistence.split_summary` over random halves of the prompts."""
    if not 2 <= draws <= 1_000:
        raise StudyError(f"draws: must be from 2 to 1000; got {draws}")

    def compute() -> pd.DataFrame:
        _, sums = _sums(run)
        rocks = detected(run.config, Path(run.path)).rocks().ids
        rng = generator(run.config.seed, "split-sample")
        return group_losses.split_summary(
            group_losses.split_sample(sums, rocks, len(rocks), draws, rng)
        )

    return cached_table(run, "gradient_split", {"draws": draws}, compute)


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
    """The rows of a type table that are in a group, with it; a type may be in one group only."""
    return chosen.merge(types, on="token_id")


def effects(
    types: pd.DataFrame, chosen: pd.DataFrame, statistic: str, rng: np.random.Generator
) -> pd.DataFrame:
    """`persistence.effects` of the rocks against the other groups, for one statistic."""
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
