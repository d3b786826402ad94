"""The cached steps of notebook 07: the arms of stage 2, their accuracy and their cost.

They use the scored types of `rockstudy.rocks.steps`; `rockstudy.selective.arms` describes the arms.
Every arm starts from the same stage 1 and is paired with the baseline of its seed: the checkpoints
of one seed answer the same problems with the same random numbers, those of another with others.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import torch

from rockstudy import intervals
from rockstudy.errors import StudyError
from rockstudy.models import loading
from rockstudy.rocks.steps import TOKENS, measured, tokens_hash
from rockstudy.runs import Run, table
from rockstudy.sampling import evaluation
from rockstudy.selective import arms, windows
from rockstudy.selective.material import Material
from rockstudy.store.code import kept_apart
from rockstudy.training import stages
from rockstudy.training import steps as training_steps
from rockstudy.training.arm import Arm
from rockstudy.training.position_weights import Batch, Redetected, evaluate
from rockstudy.training.stages import TrainResult

TIMED = ("baseline", "rock-freeze", "types")  # ours: windows save no heads, types do
AVERAGE = "average"  # of the benchmarks
ROUNDS, STEPS = 3, 4  # ours: nine steps of each arm, under a minute in all on the lab
ARMS = (*TOKENS, "evaluation", "rocks", "freeze")  # fields of the configuration behind the arms


def material(run: Run) -> Material:
    """The measurements that the arms need, from the baseline of the first seed."""
    special = tuple(map(int, loading.tokenizer_of(run).all_special_ids))
    made = measured(run)
    return Material(made.detection, made.tokens, special, run.config, run=run)


def planned(run: Run) -> pd.DataFrame:
    """Every arm with its number of training seeds and of graded checkpoints."""
    rows = pd.DataFrame(arms.plan(run.config), columns=["arm", "seed", "along"])
    counted = rows.groupby(["arm", "along"], sort=False).size().reset_index(name="seeds")
    graded = np.where(counted.along, len(run.config.stage("stage2").keep), 1)
    return counted.drop(columns="along").assign(graded=graded)


Trained = list[tuple[Arm, int, TrainResult, tuple[str, ...]]]  # seed, and checkpoints to grade


@kept_apart
def trained(run: Run, *, grade: bool = True) -> Trained:
    """Train every arm at every seed and grade it, in parallel, once in a run."""

    def train() -> Trained:
        run.needs_models("arms of stage 2")
        made, every = material(run), tuple(run.config.stage("stage2").keep)
        jobs = [
            (arms.build(name, made, seed), seed, every if along else ("late",))
            for name, seed, along in arms.plan(run.config)
        ]
        if not {arm.name for arm, _, _ in jobs}.isdisjoint(arms.CONTROLS):
            _check_match(matched(run))
        todo = jobs if grade else [(arm, seed, ()) for arm, seed, _ in jobs]
        training_steps.train_arms(run, todo)
        return [
            (arm, seed, training_steps.trained(run, arm, seed), names) for arm, seed, names in jobs
        ]

    return run.in_memory(f"arms, graded {grade}", train)


def trained_hashes(run: Run) -> dict[str, str]:
    """The trained arms as inputs."""
    return {f"{arm.name}-s{seed}": r.hash for arm, seed, r, _ in trained(run, grade=False)}


@table(*ARMS, inputs=lambda run: trained_hashes(run) | evaluation.graded_on(run))
def accuracy(run: Run) -> pd.DataFrame:
    """Accuracy of every arm and seed along training, on held-out problems.

    Columns: ``arm, seed, step, benchmark, prompt_index, accuracy`` (mean over ``samples``); step 0
    is the end of stage 1, which all arms of a seed share.
    """
    frames = []
    for arm, seed, result, names in trained(run):
        folders = {name: result.checkpoints[name] for name in names}
        rows = training_steps.along_training(run, arm, seed, folders)
        frames.append(rows.assign(arm=arm.name))
    keys = ["arm", "seed", "step", "benchmark", "prompt_index"]
    grouped = pd.concat(frames).groupby(keys, sort=False).correct
    return grouped.agg(accuracy="mean", samples="size").reset_index()


@table(*ARMS, inputs=trained_hashes)
def metrics(run: Run) -> pd.DataFrame:
    """`TrainResult.metrics` of every arm and seed, with ``arm, seed``."""
    logged = [
        result.metrics.assign(arm=arm.name, seed=seed)
        for arm, seed, result, _ in trained(run, grade=False)
    ]
    return pd.concat(logged, ignore_index=True)


@table(*ARMS, inputs=trained_hashes)
def timing(run: Run) -> pd.DataFrame:
    """Seconds of single steps of the arms in `TIMED`, which take turns on an idle machine.

    The real trainings run in parallel, so their times mean little. A round trains the first steps
    of each arm, with the same prompts, and leaves out the first one. The columns are those of
    `TrainResult.timing`, and ``arm, round``.
    """
    config, made, frames = run.config, material(run), []
    names = [name for name in TIMED if name in (*config.freeze.arms, *config.freeze.extra)]
    for number, name in itertools.product(range(ROUNDS), names):
        arm = arms.build(name, made, number)
        rows = stages.timed(arm.of(run), "stage2", seed=number, steps=STEPS, weights=arm.weights)
        frames.append(rows[rows.step > 1].assign(arm=name, round=number))
    return pd.concat(frames, ignore_index=True)


@table(*ARMS, inputs=tokens_hash)
def matched(run: Run) -> pd.DataFrame:
    """What each arm leaves out on the rollouts of the statistics, and the match of random windows.

    The columns are those of `windows.match`, and ``seed``, that of the draw. Other arms have only
    ``arm, seed, share, loss_share`` (by weight), except those that find their types in training.
    """
    made, rollouts, frames = material(run), measured(run).rollouts, []
    losses = np.zeros(rollouts.mask.shape)
    losses[rollouts.mask] = made.tokens.rkl_post
    corpus = (rollouts.completion_ids, rollouts.mask, losses)
    counts = made.detection.types.set_index("token_id")["count"]
    for seed in run.config.seeds:
        drawn = {name: arms.build(name, made, seed).weights for name in arms.CONTROLS}
        frames.append(windows.match(*corpus, counts, drawn).assign(seed=seed))
    first, *_ = run.config.seeds
    known = {*frames[0]["arm"]}
    names = (*run.config.freeze.arms, *run.config.freeze.extra)
    others = [arms.build(name, made, first) for name in names if name not in known]
    frames.append(pd.DataFrame([_left_out(arm, *corpus) | {"seed": first} for arm in others]))
    return pd.concat(frames, ignore_index=True)


def _left_out(arm: Arm, ids: np.ndarray, mask: np.ndarray, losses: np.ndarray) -> dict[str, Any]:
    """Shares of the positions and of the loss that the weights of an arm take away."""
    of_training = isinstance(arm.weights, Redetected)
    if of_training or getattr(arm.weights, "needs_log_probs", False):
        return {"arm": arm.name}
    tensors = (torch.from_numpy(array) for array in (ids.astype(np.int64), mask))
    weights = evaluate(arm.weights, Batch(*tensors), torch.from_numpy(losses).float()).numpy()
    kept, loss = ((weights * of)[mask].sum() / of[mask].sum() for of in (mask, losses))
    return {"arm": arm.name, "share": 1 - kept, "loss_share": 1 - loss}


def _check_match(match: pd.DataFrame) -> None:
    """Refuse random windows that do not match the rocks' own before they are trained."""
    shares = match.groupby("arm").share.mean()
    rock, random = shares["rock-freeze"], shares[list(arms.CONTROLS)].min()
    if random < (1 - arms.MATCH) * rock:
        raise StudyError(
            "rocks__k: must leave random windows room to match the rocks' own, which take "
            f"{rock:.0%} of the positions and the random ones {random:.0%}; raise rocks__tau_post, "
            f"or leave {' and '.join(arms.CONTROLS)} out of freeze__arms"
        )


# --- summaries that notebooks show ----------------------------------------------------------------


def at_end(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `accuracy` at the end of training."""
    return table[table.step == table.step.max()]


def with_average(table: pd.DataFrame) -> pd.DataFrame:
    """`accuracy` with all problems of all benchmarks once more, as the benchmark `AVERAGE`.

    With as many problems in each this is the benchmarks' average. One benchmark stays alone.
    """
    number, names = pd.factorize(table.benchmark)
    if len(names) < 2:
        return table
    problem = table.prompt_index * len(names) + number
    return pd.concat([table, table.assign(benchmark=AVERAGE, prompt_index=problem)])


def means(table: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy over seeds and problems, both random (`intervals.two_way_mean`).

    The columns are ``arm, benchmark, step`` and those of `changed`.
    """
    keys, rows = ["arm", "benchmark", "step"], []
    for names, some in table.groupby(keys, sort=False):
        single = some.seed.nunique() == 1
        mean = some.accuracy.mean() if single else intervals.two_way_mean(some, "accuracy")
        made = _columns(mean, some.prompt_index.nunique())
        rows.append(dict(zip(keys, names, strict=True)) | made)
    return pd.DataFrame(rows)


def differences(table: pd.DataFrame, against: str = "baseline") -> pd.DataFrame:
    """Final accuracy of each arm minus that of `against`, paired by seed and problem.

    The columns are ``arm, benchmark`` and the columns of `changed`.
    """
    ends, rows = at_end(table), []
    base = ends[ends["arm"] == against]
    groups = ends[ends["arm"] != against].groupby(["arm", "benchmark"], sort=False)
    for (arm, benchmark), some in groups:
        same = base[(base.benchmark == benchmark) & base.seed.isin(some.seed)]
        rows.append({"arm": arm, "benchmark": benchmark} | changed(same, some))
    return pd.DataFrame(rows)


def differences_along(table: pd.DataFrame, against: str = "baseline") -> pd.DataFrame:
    """`differences` at every graded checkpoint after the start, of arms that are graded along.

    The columns are those of `differences`, and ``step``.
    """
    steps = sorted(table.step[table.step > 0].unique())
    along = table.groupby("arm").step.nunique() == table.step.nunique()
    kept = table[table["arm"].map(along)]
    tables = [differences(kept[kept.step == step], against).assign(step=step) for step in steps]
    return pd.concat(tables, ignore_index=True)


def changed(before: pd.DataFrame, after: pd.DataFrame) -> dict[str, Any]:
    """Mean of after minus before over the same seeds and problems, rows of `accuracy`.

    The keys are ``value, lo, hi, lo90, hi90, unit, n`` and ``seeds``. A single seed has no interval
    (NaN), because its problems tell nothing about other trainings.
    """
    problems = after.prompt_index.nunique()
    if after.seed.nunique() == 1:
        return _columns(after.accuracy.mean() - before.accuracy.mean(), problems)
    return _columns(intervals.two_way_difference(before, after, "accuracy"), problems)


def _columns(mean: float | intervals.Estimate, problems: int) -> dict[str, Any]:
    """A mean over seeds and problems as columns; a number is that of a single seed."""
    if isinstance(mean, intervals.Estimate):
        assert isinstance(mean.n, tuple)
        narrow = {"lo90": mean.lo90, "hi90": mean.hi90}
        return intervals.as_columns(mean) | narrow | {"seeds": mean.n[0]}
    none = dict.fromkeys(("lo", "hi", "lo90", "hi90"), float("nan"))
    return (
        {"value": mean} | none | {"unit": "problems, one training seed", "n": problems, "seeds": 1}
    )


def cost(timing: pd.DataFrame, metrics: pd.DataFrame, match: pd.DataFrame) -> pd.DataFrame:
    """Shares of positions and of loss that each arm leaves out, and the time that this saves.

    `timing`, `metrics` and `match` are the tables `timing`, `metrics` and `matched`.

    Columns: ``arm, frozen`` (1 - mean weight over all tokens), ``loss_frozen`` (share of the
    reverse KL, the only loss of the stage, that the weights take away; NaN where positions skip the
    heads, so that their loss is not known), ``loss_after`` (the same on the rollouts of the
    statistics, after the baseline's OPD), ``projected`` (share of positions that reach the heads),
    ``seeds``; of the arms that were timed ``seconds_step`` (median) and ``speedup, lo,
    hi, n`` (seconds of a baseline step over those of the same step of the arm, mean over ``n``
    pairs with a t interval); ``bound`` (Amdahl: the baseline's step without the share ``frozen`` of
    its heads and their backward pass) and ``bound_all`` (without any heads at all).
    """
    weighted = metrics.assign(weight=metrics.mean_weight * metrics.n_tokens)
    weighted["kept"], weighted["all"] = (metrics[x] * metrics.n_tokens for x in ("loss", "rkl"))
    sums = weighted.groupby("arm", sort=False)[
        ["weight", "n_kept", "n_tokens", "kept", "all"]
    ].sum()
    after = match.groupby("arm").loss_share.mean()
    seeds = metrics.groupby("arm").seed.nunique()
    step = timing.pivot(index=["round", "step"], columns="arm", values="seconds_step")
    base = timing[timing["arm"] == "baseline"]
    head = base.seconds_head.sum() / base.seconds_step.sum()
    rows = []
    for arm, one in sums.iterrows():
        frozen = 1 - one.weight / one.n_tokens
        loss = 1 - one.kept / one["all"] if one.n_kept == one.n_tokens else float("nan")
        row = {"arm": arm, "frozen": frozen, "loss_frozen": loss, "loss_after": after.get(arm)}
        row |= {"projected": one.n_kept / one.n_tokens, "seeds": seeds[arm]}
        if arm in step.columns:
            ratio = intervals.seed_mean((step["baseline"] / step[arm]).to_numpy(), "steps")
            row |= {"seconds_step": step[arm].median(), "speedup": ratio.value}
            row |= {"lo": ratio.lo, "hi": ratio.hi, "n": ratio.n}
        rows.append(row | {"bound": 1 / (1 - head * frozen), "bound_all": 1 / (1 - head)})
    return pd.DataFrame(rows)


def phases(timing: pd.DataFrame) -> pd.DataFrame:
    """Median seconds of a step by phase (column) and arm (row)."""
    columns = [c for c in timing.columns if c.startswith("seconds_")]
    return timing.groupby("arm", sort=False)[columns].median()
