"""The cached steps of notebook 04: gradients of token types, and whether groups persist.

They build on the rollouts and the token table of `rockstudy.rock_steps`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rockstudy import geometry, paper, persistence, processes, progress, store, verdicts
from rockstudy.config import StudyError
from rockstudy.divergence import Head
from rockstudy.geometry import Positions
from rockstudy.memory import advised
from rockstudy.persistence import PromptSums
from rockstudy.rock_steps import Measured, cached_table, detected, measured
from rockstudy.rollout import completion_states
from rockstudy.study import OpenRun

FOLDS = 20  # ours: prompts that are resampled together
HALVES = 40  # ours: half-samples of the folds; standard errors to about 11%
_ROWS = 64  # ours: rollouts in one forward
STATISTICS = tuple(
    f"{name}_{space}"
    for space in geometry.SPACES
    for name in ("norm", "cos_balanced", "cos_total", "contrib")
)


def gradients(run: OpenRun, budget: int) -> pd.DataFrame:
    """`geometry.type_gradients` of the student after OPD: a row per type."""

    def compute() -> pd.DataFrame:
        made = _gradients(run, budget)
        return made[[c for c in made.columns if "_half_" not in c]]

    return cached_table(run, "gradients", {}, compute)


def gradient_medians(run: OpenRun, chosen: pd.DataFrame, budget: int) -> pd.DataFrame:
    """`persistence.half_sample_medians` of the groups."""

    def compute() -> pd.DataFrame:
        made = _gradients(run, budget)
        halves = {
            name: made[[f"{name}_half_{r}" for r in range(HALVES)]].to_numpy().T
            for name in STATISTICS
        }
        return persistence.half_sample_medians(made, halves, ids_of(chosen), STATISTICS)

    return cached_table(run, "gradient_norms", {}, compute)


def _gradients(run: OpenRun, budget: int) -> pd.DataFrame:
    """Statistics of every type, with those of every half-sample of the prompts' folds."""
    found = measured(run.config, Path(run.path))
    settings = {"folds": FOLDS, "halves": HALVES, "seed": run.config.seed}

    def compute() -> pd.DataFrame:
        scratch = tempfile.TemporaryDirectory(dir=run.path)
        with scratch as folder, advised("gradients", {"budget": budget}):
            positions, share = _positions(found, Path(folder))
            student = found.student("post")
            made = geometry.type_gradients(
                positions,
                Head.of(student),
                Head.of(found.pair.teacher).to(student.device),
                budget,
                geometry.half_samples(share.n_folds, HALVES, store.rng(run.config.seed, "halves")),
                share,
            )
        halves = {
            f"{name}_half_{r}": row
            for name, rows in made.replicates.items()
            for r, row in enumerate(rows)
        }
        return pd.concat([made.types, pd.DataFrame(halves)], axis=1)

    inputs = {"tokens": found.table.hash}
    return processes.cached(
        Path(run.path), "gradients", "types", config=settings, inputs=inputs, compute=compute
    ).data


def _positions(found: Measured, folder: Path) -> tuple[Positions, geometry.Share]:
    """Hidden states of student and teacher before every completion token, memory-mapped.

    Of several processes each has some of the rollouts, with about as many tokens as the others.
    """
    rows = found.rollouts
    order = np.argsort(rows.lengths, kind="stable")
    order = order[rows.lengths[order] > 0]
    n_processes = processes.together().num_processes
    if len(order) < n_processes:
        raise StudyError(f"processes: must be at most the {len(order)} rollouts; got {n_processes}")
    order = np.asarray(processes.mine(order))
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
        geometry.Share(ids, n_folds, processes.summed),
    )


def groups(run: OpenRun) -> pd.DataFrame:
    """The four groups: ``group, token_id``, chosen by the loss of the early checkpoint."""

    def compute() -> pd.DataFrame:
        _, sums = _sums(run)
        rocks = detected(run.config, Path(run.path)).rocks().ids
        rng = store.rng(run.config.seed, "groups")
        chosen = persistence.groups(sums.table(), "early", rocks, rng)
        rows = [(name, int(token)) for name, ids in chosen.items() for token in ids]
        return pd.DataFrame(rows, columns=["group", "token_id"])

    return cached_table(run, "gradient_groups", {}, compute)


def ids_of(chosen: pd.DataFrame) -> dict[str, np.ndarray]:
    """Sorted token ids by group, in the order of the table."""
    grouped = chosen.groupby("group", sort=False)
    return {str(name): np.sort(rows.token_id.to_numpy()) for name, rows in grouped}


def _sums(run: OpenRun) -> tuple[Measured, PromptSums]:
    found = measured(run.config, Path(run.path))
    if "early" not in found.folders:
        raise StudyError(
            "stage2__keep: must name a checkpoint early, such as {'early': 0.1, 'late': 1.0}; got "
            f"{run.config.stage2.keep}"
        )
    columns = {"early": "rkl_early", "late": "rkl_post"}
    return found, PromptSums.of(found.tokens, columns)


def losses(run: OpenRun) -> pd.DataFrame:
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


def medians(run: OpenRun, chosen: pd.DataFrame) -> pd.DataFrame:
    """`persistence.medians` of the groups."""

    def compute() -> pd.DataFrame:
        _, sums = _sums(run)
        return persistence.medians(sums, ids_of(chosen), store.rng(run.config.seed, "medians"))

    return cached_table(run, "gradient_medians", {}, compute)


def split(run: OpenRun, draws: int) -> pd.DataFrame:
    """`persistence.split_summary` over random halves of the prompts."""
    if not 2 <= draws <= 1_000:
        raise StudyError(f"draws: must be from 2 to 1000; got {draws}")

    def compute() -> pd.DataFrame:
        _, sums = _sums(run)
        rocks = detected(run.config, Path(run.path)).rocks().ids
        rng = store.rng(run.config.seed, "split-sample")
        return persistence.split_summary(
            persistence.split_sample(sums, rocks, len(rocks), draws, rng)
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
    return persistence.effects(values, rng).assign(statistic=statistic)


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
        both = [effects(types, chosen, f"{statistic}_{space}", rng) for space in geometry.SPACES]
        for one, other in zip(both[0].itertuples(), both[1].itertuples(), strict=True):
            sides = [(e.lo > 0) - (e.hi < 0) for e in (one, other)]
            row: dict[str, Any] = {"statistic": statistic, "group": one.group}
            for space, e in zip(geometry.SPACES, (one, other), strict=True):
                row |= {space: e.rank_biserial, f"{space}_lo": e.lo, f"{space}_hi": e.hi}
            p = one.mann_whitney_p
            rows.append(row | {"mann_whitney_p": p, "n": one.n, "agree": sides[0] == sides[1]})
    return pd.DataFrame(rows)


def geometry_claims(
    norms: pd.DataFrame,
    compared: pd.DataFrame,
    moved: pd.DataFrame,
    halves: pd.DataFrame,
    grouped: pd.DataFrame,
) -> list[dict]:
    """Claims rows for the numbers of the paper's section on gradients and persistence.

    Parameters
    ----------
    norms, compared, moved, halves, grouped
        `gradient_medians`, `in_both_spaces`, `medians`, `split`, and `by_group` of `gradients`.
    """
    return [*_gradient_claims(norms, compared, grouped), *_persistence_claims(moved, halves)]


def _gradient_claims(
    norms: pd.DataFrame, compared: pd.DataFrame, grouped: pd.DataFrame
) -> list[dict]:
    rows = []
    for statistic, words in (
        ("norm", "norm of the mean gradient"),
        ("cos-balanced", "cosine with the balanced sum"),
    ):
        of = norms[norms.statistic == f"{statistic.replace('-', '_')}_logit"].set_index("group")
        for group in paper.labelled(statistic):
            one = of.loc[group]
            number = {"value": one["median"], "lo": one.lo, "hi": one.hi, "n": int(one.n)}
            rows.append(
                verdicts.holds(
                    f"gradient-{statistic.split('-')[0]}-{group.lower()}",
                    f"Median {words} of the group {group}.",
                    f"{statistic}/{group}",
                    number | {"unit": "types (interval over half-samples of prompts)"},
                )
            )
    other = compared[(compared.group == "high-KL") & (compared.statistic == "norm")].iloc[0]
    size = {"unit": "token types", "n": int(other.n)}
    rocks = grouped[grouped.group == "rock"]
    above = int((rocks.cos_balanced_logit > paper.number("cos-balanced-some").value).sum())
    return [
        *rows,
        verdicts.sign(
            "gradient-norm-rock-below-high-kl",
            "Rocks have smaller mean gradients than rare high-KL types (rank-biserial).",
            None,
            {"value": other.logit, "lo": other.logit_lo, "hi": other.logit_hi} | size,
            positive=False,
            headline=True,
            locator=paper.number("norm-p").where,
        ),
        verdicts.concludes(
            "gradient-norm-p",
            "Norms of mean gradients of rocks against rare high-KL types: Mann-Whitney p-value.",
            "norm-p",
            {"value": other.mann_whitney_p} | size,
            same_side=other.logit < 0,
        ),
        verdicts.judged(
            "gradient-cos-rock-some",
            "Some rocks follow the balanced sum closely: rocks with a cosine above 0.3.",
            "cos-balanced-some",
            {"value": above, "unit": "rocks", "n": len(rocks)},
            verdict="reproduced" if above else "differs",
            reason="must be at least one rock; the paper's column holds the cosine",
        ),
    ]


def _persistence_claims(moved: pd.DataFrame, halves: pd.DataFrame) -> list[dict]:
    rows, by = [], moved.set_index("group")
    for group in ("high-KL", "rock"):
        one = by.loc[group]
        for what in ("early", "late"):
            number = {"value": one[what], "lo": one[f"{what}_lo"], "hi": one[f"{what}_hi"]}
            rows.append(
                verdicts.holds(
                    f"persistence-{group.lower()}-{what}",
                    f"Median {what} mean KL of the group {group}, in nats.",
                    f"kl-{what}/{group}",
                    number | {"n": int(one.n), "unit": "types (interval over prompts)"},
                )
            )
    high = by.loc["high-KL"]
    size = {"n": int(high.n), "unit": "types"}
    fresh = halves[(halves.group == "high-KL") & (halves.half == "other")].iloc[0]
    change = {"value": fresh.change, "lo": fresh.change_lo, "hi": fresh.change_hi}
    return [
        *rows,
        verdicts.holds(
            "persistence-high-kl-change",
            "Relative change of the median mean KL of the group high-KL from early to late.",
            "kl-change",
            {"value": high.late / high.early - 1} | size,
        ),
        verdicts.concludes(
            "persistence-high-kl-p",
            "The fall of the group high-KL as a Wilcoxon test over types, its p-value.",
            "kl-change-p",
            {"value": high.wilcoxon_p} | size,
            same_side=high.change < 0,
        ),
        verdicts.sign(
            "persistence-high-kl-falls-split-sample",
            "The loss of rare high-KL types falls from early to late also on prompts that they "
            "were not chosen on (median change in nats).",
            None,
            change | {"n": int(fresh.n), "unit": "types (range over random halves)"},
            positive=False,
            headline=True,
            locator=f"{paper.number('kl-change').where}, without this control",
        ),
    ]
