"""The cached steps of notebooks 00 and 01: problems, the pair, two stages of training, accuracy.

A step takes an opened run and returns a frame, which is computed once (`rockstudy.runs.table`). A
committed reference has the frames and no models.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from rockstudy import intervals, progress, tasks
from rockstudy.claims import paper
from rockstudy.errors import StudyError
from rockstudy.models import checkpoints, loading
from rockstudy.models.checkpoints import Checkpoint, in_folder
from rockstudy.models.token_texts import token_texts, visible
from rockstudy.parallel import cpu_pool
from rockstudy.runs import Run, table
from rockstudy.sampling import evaluation
from rockstudy.store.code import kept_apart
from rockstudy.training import stages
from rockstudy.training.arm import BASELINE, Arm

PAIR = ("pair", "seed", "evaluation", "benchmarks")  # fields of the configuration
TRAINED = ("pair", "seed", "seeds", "train_task", "stage1", "stage2")


def members(run: Run) -> dict[str, str]:
    """The pair, or all given models, and the benchmarks as inputs."""
    pair = run.config.pair
    members = {role: loading.identity_of(pair, role) for role in ("teacher", "student")}
    members |= {name: one.hash for name, one in _after(run).items()}
    return evaluation.graded_on(run) | members


def _after(run: Run) -> dict[str, Checkpoint]:
    """The given checkpoints after the start of distillation, in the order of their names."""
    if run.config.models is None:
        return {}
    return {
        name: one for name, one in checkpoints.given(run.config.models).items() if name != "pre"
    }


@table("benchmarks", inputs=evaluation.graded_on)
def problems(run: Run) -> pd.DataFrame:
    """The evaluation problems of the first benchmark as a frame: ``family, prompt, answer``.

    The prompt is its text, and a missing answer is empty.
    """
    loaded = tasks.load(run.config.benchmarks[0], "eval")
    rows = [(problem.family, problem.text, problem.answer or "") for problem in loaded]
    return pd.DataFrame(rows, columns=["family", "prompt", "answer"])


@table(*PAIR, inputs=members)
def pair_accuracy(run: Run) -> pd.DataFrame:
    """Grade the pair before any training: `rollout.evaluate`'s columns, and ``model``, the role.

    Of given models the students after the start of distillation as well, by `Measured`'s names.
    """
    graded = [evaluation.graded(run, role) for role in ("teacher", "student")]
    graded += [evaluation.graded(run, name, one) for name, one in _after(run).items()]
    return pd.concat(graded, ignore_index=True)


@table("pair", inputs=members)
def pair_sizes(run: Run) -> pd.DataFrame:
    """Architecture, layers, hidden size, vocabulary and parameters of teacher and student."""
    pair = loading.pair_of(run)
    rows = []
    for role, model in (("teacher", pair.teacher), ("student", pair.student)):
        config: Any = model.config.get_text_config()
        sizes = (config.model_type, config.num_hidden_layers, config.hidden_size, config.vocab_size)
        rows.append((role, *sizes, model.num_parameters()))
    columns = "model architecture layers hidden vocabulary parameters".split()
    return pd.DataFrame(rows, columns=columns)


@kept_apart
def stage1(run: Run) -> stages.TrainResult:
    """Stage 1, trained once at the study's seed."""
    return run.in_memory("stage1", lambda: stages.train(run, "stage1", seed=run.config.seed))


@table(*TRAINED, inputs=lambda run: {"stage1": stage1(run).hash})
def stage1_metrics(run: Run) -> pd.DataFrame:
    """The metrics of stage 1 (one run, at the study's seed)."""
    return stage1(run).metrics


@kept_apart
def baselines(run: Run) -> dict[int, stages.TrainResult]:
    """The baseline of stage 2 at every training seed, trained and graded in parallel."""

    def train() -> dict[int, stages.TrainResult]:
        names = tuple(run.config.stage("stage2").keep)
        train_arms(run, [(BASELINE, seed, names) for seed in run.config.seeds])
        return {seed: stages.train(run, "stage2", seed=seed) for seed in run.config.seeds}

    return run.in_memory("baselines", train)


@kept_apart
def first_baseline(run: Run) -> stages.TrainResult:
    """The baseline of the first training seed, with as many threads as when all seeds train."""
    first, *_ = run.config.seeds
    train_arms(run, [(BASELINE, seed, ()) for seed in run.config.seeds], only=[first])
    return stages.train(run, "stage2", seed=first)


def _hashes(run: Run) -> dict[str, str]:
    """The trained baselines as inputs."""
    return {f"stage2-s{seed}": result.hash for seed, result in baselines(run).items()}


def _stacked(run: Run, name: str) -> pd.DataFrame:
    """A table of `stages.TrainResult` over every training seed, which ``seed`` tells apart."""
    tables = [getattr(result, name).assign(seed=seed) for seed, result in baselines(run).items()]
    return pd.concat(tables, ignore_index=True)


@table(*TRAINED, inputs=_hashes)
def metrics(run: Run) -> pd.DataFrame:
    """`stages.TrainResult.metrics` of stage 2 at every seed."""
    return _stacked(run, "metrics")


@table(*TRAINED, inputs=_hashes)
def type_losses(run: Run) -> pd.DataFrame:
    """`stages.TrainResult.type_losses` of stage 2 at every seed."""
    return _stacked(run, "type_losses")


@table(*TRAINED, inputs=_hashes)
def timing(run: Run) -> pd.DataFrame:
    """`stages.TrainResult.timing` of stage 2 at every seed."""
    return _stacked(run, "timing")


@kept_apart
def train_arms(
    run: Run, jobs: Sequence[tuple[Arm, int, tuple[str, ...]]], only: Sequence[int] | None = None
) -> None:
    """Train arms of stage 2 and grade their named checkpoints, in parallel, once in a run.

    A job is an arm, a training seed and the names of the checkpoints to grade. With `only`, jobs of
    other seeds are skipped.
    """
    stage1(run)  # before several processes would want to
    named = {f"{arm.name}, seed {seed}": (run, arm, seed, names) for arm, seed, names in jobs}

    def done(name: str) -> bool:
        return (only is not None and named[name][2] not in only) or _is_graded(*named[name])

    if left := [name for name in named if not done(name)]:
        one, steps = run.took("training/stage2-"), run.config.stage("stage2").steps
        progress.announce(
            f"stage 2: {len(left)} trainings of {steps} steps, and their grades",
            None if one is None else one * len(left) / cpu_pool.processes(len(named)),
        )
    cpu_pool.run({name: (_train_and_grade, given) for name, given in named.items()}, done)


@kept_apart
def trained(run: Run, arm: Arm, seed: int) -> stages.TrainResult:
    """Train an arm at one seed, or read it back."""
    return stages.train(arm.of(run), "stage2", **_job(arm, seed))


def _job(arm: Arm, seed: int) -> dict[str, Any]:
    """An arm at one seed as arguments of `stages.train`."""
    how = {"arm": arm.name, "weights": arm.weights, "optimizer": arm.optimizer}
    return how | {"seed": seed}


def _train_and_grade(run: Run, arm: Arm, seed: int, names: tuple[str, ...]) -> None:
    for label, folder in _to_grade(run, arm, seed, names).items():
        evaluation.graded(run, label, in_folder(folder, run.config.pair), seed)


def _to_grade(run: Run, arm: Arm, seed: int, names: tuple[str, ...]) -> dict[str, Path]:
    """The checkpoints of a job by label; with the baseline's comes the start of its seed."""
    folders = trained(run, arm, seed).checkpoints
    start = {_start(seed): stage1(run).checkpoints["late"]}
    start = start if names and arm.name == BASELINE.name else {}
    return start | {f"{arm.name}-s{seed}-{name}": folders[name] for name in names}


def _start(seed: int) -> str:
    """Label of the end of stage 1, graded with the random numbers of a training seed."""
    return f"stage1-late-s{seed}"


def _is_graded(run: Run, arm: Arm, seed: int, names: tuple[str, ...]) -> bool:
    if not stages.is_trained(arm.of(run), "stage2", **_job(arm, seed)):
        return False
    folders = _to_grade(run, arm, seed, names)
    return all(
        evaluation.is_graded(run, label, in_folder(path, run.config.pair), seed)
        for label, path in folders.items()
    )


@table(
    *TRAINED,
    "evaluation",
    "benchmarks",
    inputs=lambda run: {"stage1": stage1(run).hash} | _hashes(run) | evaluation.graded_on(run),
)
def accuracy_along(run: Run) -> pd.DataFrame:
    """Grade the student before stage 2 (step 0) and at every named checkpoint of every seed.

    The columns of `rollout.evaluate` without ``text``, and ``seed, step``. Stage 2 starts from one
    checkpoint; at step 0 it has answered once with the random numbers of each seed.
    """
    trained_at = baselines(run).items()
    frames = [along_training(run, BASELINE, seed, made.checkpoints) for seed, made in trained_at]
    along = pd.concat(frames, ignore_index=True).drop(columns=["text", "model"])
    return along.sort_values(["seed", "step"], kind="stable", ignore_index=True)


def along_training(run: Run, arm: Arm, seed: int, checkpoints: Mapping[str, Path]) -> pd.DataFrame:
    """Outcomes of an arm at step 0 and at some of its checkpoints: `graded`, ``seed, step``."""
    stage = run.config.stage("stage2")
    start = in_folder(stage1(run).checkpoints["late"], run.config.pair)
    before = evaluation.graded(run, _start(seed), start, seed)
    frames = [before.assign(seed=seed, step=0)]
    for name, folder in checkpoints.items():
        label = f"{arm.name}-s{seed}-{name}"
        outcomes = evaluation.graded(run, label, in_folder(folder, run.config.pair), seed)
        step = max(1, round(stage.keep[name] * stage.steps))
        frames.append(outcomes.assign(seed=seed, step=step))
    return pd.concat(frames, ignore_index=True)


def accuracy_table(
    outcomes: pd.DataFrame, by: Sequence[str], rng: np.random.Generator
) -> pd.DataFrame:
    """Pass@1 with its interval for each group of `by`: columns ``*by, value, lo, hi, unit, n``.

    The interval resamples problems, and with several training seeds (``seed``) in a group it is
    that of `intervals.two_way_mean`.
    """
    rows = []
    for key, group in outcomes.groupby(list(by), sort=False):
        if "seed" in group and group.seed.nunique() > 1:
            estimate = intervals.two_way_mean(group, "correct")
        else:
            estimate = intervals.cluster_mean(group, "correct", "prompt_index", rng)
        rows.append(dict(zip(by, key, strict=True)) | intervals.as_columns(estimate))
    return pd.DataFrame(rows)


def by_family(outcomes: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Pass@1 of each model and family of problems: ``model, family, value, lo, hi, n``.

    The interval resamples problems; a family of one problem has none (NaN).
    """
    rows = []
    for (model, family), some in outcomes.groupby(["model", "family"], sort=False):
        n = some.prompt_index.nunique()
        row = {"value": some.correct.mean(), "lo": np.nan, "hi": np.nan, "n": n}
        if n > 1:
            found = intervals.cluster_mean(some, "correct", "prompt_index", rng)
            row |= {"value": found.value, "lo": found.lo, "hi": found.hi}
        rows.append({"model": model, "family": family} | row)
    return pd.DataFrame(rows)


def gains(along: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Pass@1 at the last checkpoint minus before stage 2, per benchmark.

    Paired by seed and problem, both random (`intervals.two_way_difference`). With a single training
    seed the interval resamples problems alone and does not cover other seeds.
    """
    last, rows = along.step.max(), []
    alone = {"unit": "problems, one training seed"}
    for benchmark, group in along.groupby("benchmark", sort=False):
        pair = [group[group.step == step] for step in (0, last)]
        if group.seed.nunique() > 1:
            estimate = intervals.two_way_difference(*pair, "correct")
        else:
            estimate = intervals.paired_difference(*pair, "correct", "prompt_index", rng, **alone)
        rows.append({"benchmark": benchmark} | intervals.as_columns(estimate))
    return pd.DataFrame(rows)


def papers_baseline() -> pd.DataFrame:
    """The baseline of the paper's figure 5: ``share`` (of its training), ``value, lo, hi, n``.

    Each point is one answer to each of its problems; the interval is Wilson's, at 95%.
    """
    points = paper.points("figure5")
    rows = points[points.regime == "baseline"].reset_index(drop=True)
    lo, hi = proportion_confint(rows.correct, rows.problems, 1 - intervals.LEVEL, method="wilson")
    ends = {"value": rows.correct / rows.problems, "lo": lo, "hi": hi, "n": rows.problems}
    return pd.DataFrame({"share": rows.step / rows.step.max()} | ends)


def given_gains(outcomes: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """`gains` of given models: Pass@1 of the student after distillation minus before it.

    `outcomes` are those of `pair_accuracy`.
    """
    places = {"student": 0, "post": 1}
    rows = outcomes[outcomes.model.isin(places)]
    return gains(rows.assign(step=rows.model.map(places), seed=0), rng)


def named_types(
    run: Run, types: pd.DataFrame, tokens: Sequence[str], also: str = "", most: int = 6
) -> pd.DataFrame:
    """Mean reverse KL of some token types along training, seeds pooled: ``name, step, count, rkl``.

    The types spelled `tokens`; where it is empty, the one spelled `also`, if training met it, and
    the `most` types with the largest summed loss. ``name`` is the text with blanks visible.
    `StudyError`: a spelling that is not a type which training met.
    """
    texts = type_texts(run, np.unique(types.token_id).tolist()).set_index("token_id").text
    if unmet := [text for text in tokens if text not in set(texts)]:
        raise StudyError(
            f"tokens: each must be one of {len(texts)} tokens that training met; got {unmet[0]!r}"
        )
    ids = texts.index[texts.isin(tokens)].tolist()
    if not ids:
        largest = types.groupby("token_id").rkl_sum.sum().nlargest(most).index.tolist()
        ids = list(dict.fromkeys([*texts.index[texts == also], *largest]))[:most]
    kept = types[types.token_id.isin(ids)]
    sums = kept.groupby(["token_id", "step"], as_index=False)[["count", "rkl_sum"]].sum()
    sums["rkl"] = sums.rkl_sum / sums["count"]
    sums["name"] = sums.token_id.map(lambda i: f"⟦{visible(texts[i])}⟧")
    place = sums.token_id.map({i: place for place, i in enumerate(ids)})
    order = place.sort_values(kind="stable").index
    return sums.loc[order, ["name", "step", "count", "rkl"]].reset_index(drop=True)


@table(inputs=lambda run: {"tokenizer": loading.identity_of(run.config.pair, "teacher")})
def type_texts(run: Run, ids: list[int]) -> pd.DataFrame:
    """``token_id, text`` of token types."""
    return pd.DataFrame({"token_id": ids, "text": token_texts(loading.tokenizer_of(run), ids)})
