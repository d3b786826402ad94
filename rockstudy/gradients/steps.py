"""The cached steps of notebook 04: gradients of token types, and losses of groups over training.

They use the rollouts and the token table of `rockstudy.rocks.steps`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.random import Generator
from transformers import PreTrainedModel

from rockstudy import progress
from rockstudy.errors import StudyError
from rockstudy.gradients import comparisons, group_losses, published, type_gradients
from rockstudy.gradients.group_losses import PromptSums
from rockstudy.gradients.type_gradients import Positions
from rockstudy.models import checkpoints
from rockstudy.models.divergence import Head
from rockstudy.parallel import distributed
from rockstudy.parallel.out_of_memory import advised
from rockstudy.rocks.steps import TOKENS, measured, tokens_hash
from rockstudy.rocks.steps import types as types_of
from rockstudy.runs import Run, table
from rockstudy.sampling.rollout import Rollouts, completion_states
from rockstudy.training import steps as training_steps

FOLDS = 20  # ours: prompts that are resampled together
HALVES = 40  # ours: half-samples of the folds; standard errors to about 11%
COMPARED = ("norm", "square", "cos_balanced", "cos_others")
_ROWS = 64  # ours: rollouts in one forward


@table(*TOKENS, inputs=tokens_hash)
def gradients(run: Run) -> pd.DataFrame:
    """`type_gradients.type_gradients` of the student after OPD: a row per type.

    ``cos_others_logit_se`` is the standard error of that cosine over half-samples of the prompts.
    """
    made = half_samples(run)
    name = "cos_others_logit"
    halves = made[[f"{name}_half_{r}" for r in range(HALVES)]].std(axis=1, ddof=0)
    types = made[[c for c in made.columns if "_half_" not in c]]
    return types.assign(**{f"{name}_se": halves})


@table(*TOKENS, inputs=tokens_hash)
def gradient_medians(run: Run, chosen: pd.DataFrame) -> pd.DataFrame:
    """`comparisons.half_sample_medians` of the groups."""
    made = half_samples(run)
    names = [c for c in made.columns[2:] if "_half_" not in c]
    halves = {c: made[[f"{c}_half_{r}" for r in range(HALVES)]].to_numpy().T for c in names}
    return comparisons.half_sample_medians(made, halves, ids_of(chosen), names)


@table(*TOKENS, inputs=tokens_hash)
def half_samples(run: Run) -> pd.DataFrame:
    """Statistics of every type, with those of every half-sample of the prompts' folds."""
    run.needs_models("gradients")
    corpus, megabytes = measured(run), run.config.gradient_memory_mb
    n = len(np.unique(corpus.tokens.token_id))
    progress.announce(f"gradients of {n:,} token types at {len(corpus.tokens):,} positions")
    scratch = tempfile.TemporaryDirectory(dir=run.path)
    with scratch as folder, advised("gradients", {"gradient_memory_mb": megabytes}):
        student, teacher = corpus.model("post"), corpus.model("teacher")
        positions, share = _positions(corpus.rollouts, student, teacher, Path(folder))
        made = type_gradients.type_gradients(
            positions,
            Head.of(student),
            Head.of(teacher).to(student.device),
            megabytes * 2**20,
            type_gradients.half_samples(share.n_folds, HALVES, run.rng("halves")),
            share,
        )
    halves = [
        pd.DataFrame(rows.T).add_prefix(f"{name}_half_") for name, rows in made.replicates.items()
    ]
    return pd.concat([made.types, *halves], axis=1)


def _positions(
    rows: Rollouts, student: PreTrainedModel, teacher: PreTrainedModel, folder: Path
) -> tuple[Positions, type_gradients.Share]:
    """Hidden states of student and teacher before every completion token, memory-mapped.

    Several processes share the rollouts, with about as many tokens each.
    """
    order = np.argsort(rows.lengths, kind="stable")
    order = order[rows.lengths[order] > 0]
    n_processes = distributed.together().num_processes
    if len(order) < n_processes:
        raise StudyError(f"processes: must be at most the {len(order)} rollouts; got {n_processes}")
    order = np.asarray(distributed.mine(order))
    n_tokens = int(rows.lengths[order].sum())
    token, prompt = [], []
    models = {"student": student, "teacher": teacher}
    widths = {name: one.config.get_text_config().hidden_size for name, one in models.items()}
    states: dict[str, Any] = {
        name: np.memmap(folder / name, np.float32, "w+", shape=(n_tokens, width))
        for name, width in widths.items()
    }
    with progress.bar(len(order), "hidden states", "rollout") as bar:
        done = 0
        for start in range(0, len(order), _ROWS):
            batch = order[start : start + _ROWS]
            token.append(rows.completion_ids[batch][rows.mask[batch]])
            prompt.append(np.repeat(rows.prompt_index[batch], rows.lengths[batch]))
            for name, model in models.items():
                some = completion_states(model, rows, batch).float().cpu().numpy()
                states[name][done : done + len(some)] = some
            done += len(token[-1])
            bar.update(len(batch))
    prompts = np.unique(rows.prompt_index[rows.lengths > 0])
    n_folds = min(FOLDS, len(prompts))
    fold = np.searchsorted(prompts, np.concatenate(prompt)) % n_folds
    ids = np.unique(rows.completion_ids[rows.mask])
    return (
        Positions(states["student"], states["teacher"], np.concatenate(token), fold),
        type_gradients.Share(ids, n_folds, distributed.summed),
    )


@table(*TOKENS, "rocks", inputs=tokens_hash)
def groups(run: Run) -> pd.DataFrame:
    """The four groups: ``group, token_id``, chosen by the loss of the early checkpoint."""
    rocks = measured(run).detection.rocks().ids
    chosen = group_losses.groups(_sums(run).table(), "early", rocks, run.rng("groups"))
    rows = [(name, int(token)) for name, ids in chosen.items() for token in ids]
    return pd.DataFrame(rows, columns=["group", "token_id"])


def ids_of(chosen: pd.DataFrame) -> dict[str, np.ndarray]:
    """Sorted token ids by group, in the order of the table."""
    grouped = chosen.groupby("group", sort=False)
    return {str(name): np.sort(rows.token_id.to_numpy()) for name, rows in grouped}


def _sums(run: Run) -> PromptSums:
    names = {"early": f"rkl_{measured(run).early}", "late": "rkl_post"}
    return PromptSums.of(measured(run).tokens, names)


@table(*TOKENS, inputs=tokens_hash)
def losses(run: Run) -> pd.DataFrame:
    """Mean reverse KL of every type early and late, on two kinds of trajectories.

    ``token_id, count, early, late`` on the rollouts of the student after OPD, and ``early_own,
    count_own`` of the early checkpoint on its own rollouts: NaN where it does not write the type,
    and where rollouts are given. The late checkpoint's own rollouts are the former.
    """
    sums = _sums(run)
    if run.config.rollouts is not None:  # where some are given, none are sampled
        return sums.table().assign(early_own=np.nan, count_own=0)
    early = measured(run).early
    of_early = measured(run).token_table(early, [early]).read()
    own = of_early.groupby("token_id")[f"rkl_{early}"]
    both = pd.DataFrame({"early_own": own.mean().astype(float), "count_own": own.size()})
    merged = sums.table().merge(both.reset_index(), on="token_id", how="left")
    return merged.assign(count_own=merged.count_own.fillna(0).astype(np.int64))


def compared(run: Run) -> str:
    """A sentence on which checkpoints the notebook compares."""
    early = measured(run).early
    if run.config.models is None:
        share = run.config.stage("stage2").keep["early"]
        return f"early checkpoint: {share} of stage 2; late: its end"
    which = "the student before distillation" if early == "pre" else "the given checkpoint early"
    return f"early checkpoint: {which}; late: the student after distillation"


def along(run: Run, chosen: pd.DataFrame) -> pd.DataFrame:
    """Mean reverse KL of the groups along training: `group_losses.along_training`.

    From the accumulators of training, seeds pooled. Of given models, from every checkpoint's losses
    on the rollouts of the last.
    """
    if run.config.models is None:
        types = training_steps.type_losses(run)
    else:
        of_type, places = (
            measured(run).tokens.groupby("token_id"),
            checkpoints.steps(run.config.models),
        )
        sums = [
            of_type[f"rkl_{name}"].agg(count="size", rkl_sum="sum").reset_index().assign(step=step)
            for name, step in places.items()
        ]
        types = pd.concat(sums, ignore_index=True)
    return group_losses.along_training(types, ids_of(chosen))


@table(*TOKENS, inputs=tokens_hash)
def medians(run: Run, chosen: pd.DataFrame) -> pd.DataFrame:
    """`group_losses.medians` of the groups."""
    return group_losses.medians(_sums(run), ids_of(chosen), run.rng("medians"))


@table(*TOKENS, "rocks", inputs=tokens_hash)
def split(run: Run, draws: int) -> pd.DataFrame:
    """`group_losses.split_summary` over random halves of the prompts."""
    if not 2 <= draws <= 1_000:
        raise StudyError(f"draws: must be from 2 to 1000; got {draws}")
    k, rng = len(measured(run).detection.rocks().ids), run.rng("split-sample")
    return group_losses.split_summary(group_losses.split_sample(_sums(run), k, draws, rng))


def persistence_table(
    moved: pd.DataFrame, losses: pd.DataFrame, chosen: pd.DataFrame
) -> pd.DataFrame:
    """`medians` with the same on own rollouts: ``early_own`` on those of the early checkpoint.

    The late checkpoint's own rollouts are the shared ones; ``n_own`` types occur on both.
    """
    rows = by_group(losses, chosen).dropna(subset=["early_own"])
    own = rows.groupby("group", sort=False).early_own.agg(early_own="median", n_own="size")
    return moved.merge(own, on="group", how="left")


def changes(losses: pd.DataFrame, chosen: pd.DataFrame, rng: Generator) -> pd.DataFrame:
    """`published.changes` of this run's groups and of the paper's, ``source`` here or paper."""
    both = {"here": by_group(losses, chosen), "paper": published.figure_types()}
    tables = [published.changes(rows, rng).assign(source=name) for name, rows in both.items()]
    return pd.concat(tables, ignore_index=True)


def by_group(types: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    """The rows of the type table whose type is in a group, and the group."""
    return chosen.merge(types, on="token_id")


def spelled(run: Run, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with ``token_id``, and the ``spelling`` of each type."""
    return rows.merge(types_of(run)[["token_id", "spelling"]], on="token_id")


def in_both_spaces(types: pd.DataFrame, chosen: pd.DataFrame, rng: Generator) -> pd.DataFrame:
    """Effect sizes of rocks against each other group, in logit and in hidden space.

    Returns a row per group and statistic (`COMPARED`): rank-biserial ``logit, hidden`` with ``_lo,
    _hi``; ``mann_whitney_p`` (logit), ``mann_whitney_p_hidden``, ``n``; and ``agree``: both
    intervals lie on the same side of 0, or neither excludes it.
    """
    tables = []
    for statistic in COMPARED:
        effects = {
            space: comparisons.effects(_values(types, chosen, f"{statistic}_{space}"), rng)
            for space in type_gradients.SPACES
        }
        table = pd.DataFrame({"statistic": statistic, "group": effects["logit"].group})
        for space, effect in effects.items():
            table[[space, f"{space}_lo", f"{space}_hi"]] = effect[["rank_biserial", "lo", "hi"]]
        sides = [(effect.lo > 0).astype(int) - (effect.hi < 0) for effect in effects.values()]
        test = effects["logit"][["mann_whitney_p", "n"]]
        test = test.assign(mann_whitney_p_hidden=effects["hidden"].mann_whitney_p)
        tables.append(table.join(test).assign(agree=sides[0] == sides[1]))
    return pd.concat(tables, ignore_index=True)


def order_of_cosines(types: pd.DataFrame, chosen: pd.DataFrame, rng: Generator) -> pd.DataFrame:
    """`comparisons.in_order` of the cosines in logit space: ``statistic``, and a row per step."""
    tables = [
        comparisons.in_order(_values(types, chosen, f"{name}_logit"), rng).assign(statistic=name)
        for name in ("cos_balanced", "cos_others")
    ]
    return pd.concat(tables, ignore_index=True)


def _values(types: pd.DataFrame, chosen: pd.DataFrame, column: str) -> dict[str, np.ndarray]:
    grouped = by_group(types, chosen).groupby("group", sort=False)[column]
    return {str(name): values.to_numpy() for name, values in grouped}
