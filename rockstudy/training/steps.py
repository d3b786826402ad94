"""The study's steps as notebooks call them: each computed once in a run, then read back.

A function here takes the run that a notebook opened (`rockstudy.runs.open_run`) and returns a
frame. The frames are kept under ``tables/``; a replayed run (the committed reference) only reads
them, so a notebook opens in seconds from a clone, without models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from rockstudy import intervals, tasks
from rockstudy.errors import StudyError
from rockstudy.models.token_texts import token_texts
from rockstudy.parallel import cpu_pool
from rockstudy.runs import Run, read, table
from rockstudy.sampling import evaluation
from rockstudy.store import cache
from rockstudy.store.fingerprints import fingerprint
from rockstudy.training import stages
from rockstudy.training.arm import BASELINE, Arm


def pair_accuracy(run: Run) -> pd.DataFrame:
    """Grade the pair before any training: one row per completion.

    Returns
    -------
    DataFrame
        `rollout.evaluate`'s columns, ``text`` included, and ``model`` (teacher or student).
    """
    if run.replay:
        return read(run, "pair_accuracy")
    roles = ("teacher", "student")
    return table(
        run,
        "pair_accuracy",
        evaluation.graded_on(run.config)
        | {role: evaluation.weights_identity(run.config.pair, role) for role in roles},
        lambda: pd.concat(
            [evaluation.graded(run, "teacher"), evaluation.graded(run, "student")],
            ignore_index=True,
        ),
    )


def pair_sizes(run: Run) -> pd.DataFrame:
    """Architecture, layers, hidden size, vocabulary and parameters of teacher and student."""
    return table(run, "pair_sizes", {}, lambda: _sizes(run))


def training(run: Run, name: str) -> pd.DataFrame:
    """One table of stage 2 over every training seed; trains what has not been trained.

    Parameters
    ----------
    run : Run
        The run.
    name : {"metrics", "type_losses", "timing"}
        Which of `distill.TrainResult`'s tables; ``seed`` is added.
    """
    if run.replay:
        return read(run, f"stage2_{name}")
    results = train_seeds(run)
    inputs = {f"stage2-s{seed}": result.hash for seed, result in results.items()}
    stacked = [getattr(result, name).assign(seed=seed) for seed, result in results.items()]
    return table(run, f"stage2_{name}", inputs, lambda: pd.concat(stacked, ignore_index=True))


def stage1(run: Run) -> stages.TrainResult:
    """Stage 1, trained once at the study's seed."""
    config = run.config
    pair = evaluation.loaded_pair(config.pair)
    return stages.train(config, "stage1", run=run.path, seed=config.seed, pair=pair)


def stage1_metrics(run: Run) -> pd.DataFrame:
    """The metrics of stage 1 (one run, at the study's seed)."""
    if run.replay:
        return read(run, "stage1_metrics")
    result = stage1(run)
    return table(run, "stage1_metrics", {"stage1": result.hash}, lambda: result.metrics)


def train_seeds(run: Run, only: Sequence[int] | None = None) -> dict[int, stages.TrainResult]:
    """Train stage 1, then the baseline of stage 2 from its end for each of ``config.seeds``.

    With `only` some of the seeds, not graded, on as many threads as with all of them.
    """
    seeds = run.config.seeds if only is None else only
    wanted = tuple(run.config.stage2.keep) if only is None else ()
    train_arms(run, [(BASELINE, seed, wanted) for seed in run.config.seeds], only=seeds)
    pair = evaluation.loaded_pair(run.config.pair)
    return {seed: BASELINE.train(run.config, run.path, seed, pair) for seed in seeds}


def train_arms(
    run: Run,
    jobs: Sequence[tuple[Arm, int, tuple[str, ...]]],
    only: Sequence[int] | None = None,
) -> None:
    """Train arms of stage 2 and grade their named checkpoints, side by side, each once in a run.

    Parameters
    ----------
    run
        The run.
    jobs
        Arm, training seed, and the names of the checkpoints to grade.
    only
        Leave the jobs of other seeds alone.
    """
    stage1(run)  # before several processes would want to
    named = {f"{arm.name}, seed {seed}": (run, arm, seed, names) for arm, seed, names in jobs}

    def done(name: str) -> bool:
        return (only is not None and named[name][2] not in only) or _is_graded(*named[name])

    cpu_pool.run({name: (_train_and_grade, given) for name, given in named.items()}, done)


def _train_and_grade(run: Run, arm: Arm, seed: int, names: tuple[str, ...]) -> None:
    result = arm.train(run.config, run.path, seed, evaluation.loaded_pair(run.config.pair))
    for name in names:
        evaluation.graded(run, f"{arm.name}-s{seed}-{name}", result.checkpoints[name])


def _is_graded(run: Run, arm: Arm, seed: int, names: tuple[str, ...]) -> bool:
    if not arm.is_trained(run.config, run.path, seed, evaluation.loaded_pair(run.config.pair)):
        return False
    folders = arm.train(
        run.config, run.path, seed, evaluation.loaded_pair(run.config.pair)
    ).checkpoints
    places = [
        evaluation.grading_key(run, f"{arm.name}-s{seed}-{name}", folders[name]) for name in names
    ]
    return all(cache.is_current(run.path, "evaluation", **place) for place in places)


def accuracy_along(run: Run) -> pd.DataFrame:
    """Grade the student before stage 2 (step 0) and at every named checkpoint of every seed.

    Returns
    -------
    DataFrame
        `rollout.evaluate`'s columns without ``text``, and ``seed, step``. Stage 2 starts from one
        checkpoint, so the rows of step 0 are the same completions for every seed.
    """
    if run.replay:
        return read(run, "accuracy_along")
    first, results = stage1(run), train_seeds(run)
    inputs = {"stage1": first.hash, **{f"stage2-s{s}": r.hash for s, r in results.items()}}
    inputs |= evaluation.graded_on(run.config)
    return table(run, "accuracy_along", inputs, lambda: _along(run, results))


def _along(run: Run, results: Mapping[int, stages.TrainResult]) -> pd.DataFrame:
    frames = [
        along_training(run, BASELINE, seed, result.checkpoints) for seed, result in results.items()
    ]
    along = pd.concat(frames, ignore_index=True)
    return along.drop(columns=["text", "model"]).sort_values(
        ["seed", "step"], kind="stable", ignore_index=True
    )


def along_training(run: Run, arm: Arm, seed: int, checkpoints: Mapping[str, Path]) -> pd.DataFrame:
    """Outcomes of an arm at step 0 and at some of its checkpoints: `graded`, ``seed, step``."""
    stage = run.config.stage2
    before = evaluation.graded(run, "stage1-late", stage1(run).checkpoints["late"])
    frames = [before.assign(seed=seed, step=0)]
    for name, folder in checkpoints.items():
        found = evaluation.graded(run, f"{arm.name}-s{seed}-{name}", folder)
        step = max(1, round(stage.keep[name] * stage.steps))
        frames.append(found.assign(seed=seed, step=step))
    return pd.concat(frames, ignore_index=True)


def _sizes(run: Run) -> pd.DataFrame:
    pair = evaluation.loaded_pair(run.config.pair)
    rows = []
    for role in ("teacher", "student"):
        model = getattr(pair, role)
        rows.append(
            {
                "model": role,
                "architecture": model.config.model_type,
                "layers": model.config.num_hidden_layers,
                "hidden": model.config.hidden_size,
                "vocabulary": model.config.vocab_size,
                "parameters": model.num_parameters(),
            }
        )
    return pd.DataFrame(rows)


def problems(run: Run) -> pd.DataFrame:
    """The evaluation problems of the first benchmark as a frame: ``family, prompt, answer``."""
    columns = ["family", "prompt", "answer"]

    def compute() -> pd.DataFrame:
        loaded = tasks.load(run.config.benchmarks[0], "eval")
        return pd.DataFrame([{name: getattr(p, name) for name in columns} for p in loaded])

    return table(run, "problems", evaluation.graded_on(run.config), compute)


def accuracy_table(
    outcomes: pd.DataFrame, by: Sequence[str], rng: np.random.Generator
) -> pd.DataFrame:
    """Pass@1 with its interval for each group of `by`: columns ``*by, value, lo, hi, unit, n``.

    Several seeds in one group are averaged within a problem, so the interval resamples problems.
    """
    rows = []
    for key, group in outcomes.groupby(list(by), sort=False):
        estimate = intervals.cluster_mean(group, "correct", "prompt_index", rng)
        rows.append(dict(zip(by, key, strict=True)) | intervals.as_columns(estimate))
    return pd.DataFrame(rows)


def gains(along: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Pass@1 at the last checkpoint minus before stage 2, per benchmark.

    The interval resamples problems, paired, and training seeds (`inference.crossed_difference`);
    with a single training seed problems alone, and it says nothing about other seeds.
    """
    last = along.step.max()
    rows = []
    for benchmark, group in along.groupby("benchmark", sort=False):
        before, after = (group[group.step == step] for step in (0, last))
        if group.seed.nunique() > 1:
            estimate = intervals.crossed_difference(before, after, "correct", rng)
        else:
            unit = "problems, one training seed"
            estimate = intervals.paired_difference(
                before, after, "correct", "prompt_index", rng, unit=unit
            )
        rows.append({"benchmark": benchmark} | intervals.as_columns(estimate))
    return pd.DataFrame(rows)


def named_types(
    run: Run, types: pd.DataFrame, tokens: Sequence[str], most: int = 6
) -> pd.DataFrame:
    """Mean reverse KL of some token types along training, seeds pooled: ``name, step, count, rkl``.

    The types spelled `tokens`; where it is empty, the `most` types with the largest summed loss.

    Raises
    ------
    StudyError
        A spelling that is not a type which training met.
    """
    texts = _type_texts(run, types).set_index("token_id").text
    for text in tokens:
        if text not in set(texts):
            raise StudyError(
                f"tokens: each must be one of {len(texts)} tokens that training met; got {text!r}"
            )
    ids = texts.index[texts.isin(tokens)].tolist()
    if not ids:
        ids = types.groupby("token_id").rkl_sum.sum().nlargest(most).index.tolist()
    names = {i: repr(texts[i]) for i in ids}
    kept = types[types.token_id.isin(ids)]
    sums = kept.groupby(["token_id", "step"], as_index=False)[["count", "rkl_sum"]].sum()
    sums["rkl"] = sums.rkl_sum / sums["count"]
    shown = sums.assign(name=sums.token_id.map(names))[["name", "step", "count", "rkl"]]
    order = {name: place for place, name in enumerate(names.values())}
    return shown.sort_values("name", key=lambda n: n.map(order), kind="stable", ignore_index=True)


def _type_texts(run: Run, types: pd.DataFrame) -> pd.DataFrame:
    """``token_id, text`` of the types that training met: a replay has no tokenizer to ask."""

    def compute() -> pd.DataFrame:
        ids = np.unique(types.token_id)
        texts = token_texts(evaluation.tokenizer_of(run.config.pair), ids)
        return pd.DataFrame({"token_id": ids, "text": texts})

    return table(run, "stage2_type_texts", {"ids": fingerprint(types.token_id)}, compute)
