"""The study's steps as notebooks call them: each computed once in a run, then read back.

A function here takes the run that a notebook opened (`rockstudy.report.open_run`) and returns a
frame. The frames are kept under ``tables/``; a replayed run (the committed reference) only reads
them, so a notebook opens in seconds from a clone, without models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rockstudy import (
    arms,
    backends,
    categories,
    distill,
    inference,
    models,
    processes,
    rollout,
    sources,
    store,
    tasks,
    verdicts,
    workers,
)
from rockstudy.arms import Arm
from rockstudy.config import (
    EvalConfig,
    PairConfig,
    StudyConfig,
    StudyError,
    TaskConfig,
    fingerprint,
)
from rockstudy.memory import advised


class OpenRun(Protocol):
    """What a step needs of a run: its configuration, its folder, whether it is only read."""

    config: StudyConfig
    path: Path
    replay: bool


@dataclass(frozen=True)
class Run:
    """A run to compute in where no notebook has opened one."""

    config: StudyConfig
    path: Path
    replay: bool = False


def pair_accuracy(run: OpenRun) -> pd.DataFrame:
    """Grade the pair before any training: one row per completion.

    Returns
    -------
    DataFrame
        `rollout.evaluate`'s columns, ``text`` included, and ``model`` (teacher or student).
    """
    if run.replay:
        return _read(run, "pair_accuracy")
    roles = ("teacher", "student")
    return _table(
        run,
        "pair_accuracy",
        graded_on(run.config) | {role: _weights(run.config.pair, role) for role in roles},
        lambda: pd.concat([graded(run, "teacher"), graded(run, "student")], ignore_index=True),
    )


def pair_sizes(run: OpenRun) -> pd.DataFrame:
    """Architecture, layers, hidden size, vocabulary and parameters of teacher and student."""
    return _table(run, "pair_sizes", {}, lambda: _sizes(run))


def training(run: OpenRun, name: str) -> pd.DataFrame:
    """One table of stage 2 over every training seed; trains what has not been trained.

    Parameters
    ----------
    run : OpenRun
        The run.
    name : {"metrics", "type_losses", "timing"}
        Which of `distill.TrainResult`'s tables; ``seed`` is added.
    """
    if run.replay:
        return _read(run, f"stage2_{name}")
    results = train_seeds(run)
    inputs = {f"stage2-s{seed}": result.hash for seed, result in results.items()}
    stacked = [getattr(result, name).assign(seed=seed) for seed, result in results.items()]
    return _table(run, f"stage2_{name}", inputs, lambda: pd.concat(stacked, ignore_index=True))


@lru_cache(maxsize=1)
def loaded_pair(config: PairConfig) -> models.Pair:
    """The pair, loaded once for all steps of a notebook; nobody changes it."""
    return models.load_pair(config)


def stage1(run: OpenRun) -> distill.TrainResult:
    """Stage 1, trained once at the study's seed."""
    config = run.config
    pair = loaded_pair(config.pair)
    return distill.train(config, "stage1", run=run.path, seed=config.seed, pair=pair)


def stage1_metrics(run: OpenRun) -> pd.DataFrame:
    """The metrics of stage 1 (one run, at the study's seed)."""
    if run.replay:
        return _read(run, "stage1_metrics")
    result = stage1(run)
    return _table(run, "stage1_metrics", {"stage1": result.hash}, lambda: result.metrics)


def train_seeds(run: OpenRun, only: Sequence[int] | None = None) -> dict[int, distill.TrainResult]:
    """Train stage 1, then the baseline of stage 2 from its end for each of ``config.seeds``.

    With `only` some of the seeds, not graded, on as many threads as with all of them.
    """
    seeds = run.config.seeds if only is None else only
    wanted = tuple(run.config.stage2.keep) if only is None else ()
    train_arms(run, [(arms.BASELINE, seed, wanted) for seed in run.config.seeds], only=seeds)
    pair = loaded_pair(run.config.pair)
    return {seed: arms.BASELINE.train(run.config, run.path, seed, pair) for seed in seeds}


def train_arms(
    run: OpenRun,
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

    workers.run({name: (_train_and_grade, given) for name, given in named.items()}, done)


def _train_and_grade(run: OpenRun, arm: Arm, seed: int, names: tuple[str, ...]) -> None:
    result = arm.train(run.config, run.path, seed, loaded_pair(run.config.pair))
    for name in names:
        graded(run, f"{arm.name}-s{seed}-{name}", result.checkpoints[name])


def _is_graded(run: OpenRun, arm: Arm, seed: int, names: tuple[str, ...]) -> bool:
    if not arm.is_trained(run.config, run.path, seed, loaded_pair(run.config.pair)):
        return False
    folders = arm.train(run.config, run.path, seed, loaded_pair(run.config.pair)).checkpoints
    places = [_grading(run, f"{arm.name}-s{seed}-{name}", folders[name]) for name in names]
    return all(store.is_current(run.path, "evaluation", **place) for place in places)


def accuracy_along(run: OpenRun) -> pd.DataFrame:
    """Grade the student before stage 2 (step 0) and at every named checkpoint of every seed.

    Returns
    -------
    DataFrame
        `rollout.evaluate`'s columns without ``text``, and ``seed, step``. Stage 2 starts from one
        checkpoint, so the rows of step 0 are the same completions for every seed.
    """
    if run.replay:
        return _read(run, "accuracy_along")
    first, results = stage1(run), train_seeds(run)
    inputs = {"stage1": first.hash, **{f"stage2-s{s}": r.hash for s, r in results.items()}}
    inputs |= graded_on(run.config)
    return _table(run, "accuracy_along", inputs, lambda: _along(run, results))


def _along(run: OpenRun, results: Mapping[int, distill.TrainResult]) -> pd.DataFrame:
    frames = [
        along_training(run, arms.BASELINE, seed, result.checkpoints)
        for seed, result in results.items()
    ]
    along = pd.concat(frames, ignore_index=True)
    return along.drop(columns=["text", "model"]).sort_values(
        ["seed", "step"], kind="stable", ignore_index=True
    )


def along_training(
    run: OpenRun, arm: Arm, seed: int, checkpoints: Mapping[str, Path]
) -> pd.DataFrame:
    """Outcomes of an arm at step 0 and at some of its checkpoints: `graded`, ``seed, step``."""
    stage = run.config.stage2
    before = graded(run, "stage1-late", stage1(run).checkpoints["late"])
    frames = [before.assign(seed=seed, step=0)]
    for name, folder in checkpoints.items():
        found = graded(run, f"{arm.name}-s{seed}-{name}", folder)
        step = max(1, round(stage.keep[name] * stage.steps))
        frames.append(found.assign(seed=seed, step=step))
    return pd.concat(frames, ignore_index=True)


def graded(run: OpenRun, label: str, folder: Path | None = None) -> pd.DataFrame:
    """Outcomes of one model on every benchmark, cached under ``evaluation/<label>``.

    The model in a folder; without one, the pair's ``teacher`` or ``student``, whichever the label.
    """
    config = run.config

    how, tokenizer = config.evaluation, _tokenizer(config.pair)
    seed = store.torch_seed(config.seed, "evaluation")

    def compute(model: backends.Backend, piece: tuple[TaskConfig, slice]) -> pd.DataFrame:
        task, part = piece
        with advised(f"evaluation of {label}", sampling_knobs("evaluation", how)):
            made = rollout.evaluate(model, tokenizer, task, how, seed, part)
        return made.assign(model=label)

    done = processes.pieced(
        run.path,
        "evaluation",
        **_grading(run, label, folder),
        pieces=lambda: [
            (task, part) for task in config.benchmarks for part in rollout.parts(task, how)
        ],
        opened=lambda: (
            _member(config, label) if folder is None else checkpoint(config, folder, how)
        ),
        compute=compute,
    )
    return done.data


def sampling_knobs(stage: str, how: EvalConfig) -> dict[str, int]:
    """What makes the sampling of a stage smaller, by the names of the parameters."""
    names = ("batch_size", "max_new_tokens") if how.backend == "transformers" else ()
    return {f"{stage}__{name}": getattr(how, name) for name in names or ("max_new_tokens",)}


def answered(
    run: OpenRun,
    stage: str,
    name: str,
    task: TaskConfig,
    opened: Callable[[], AbstractContextManager[backends.Backend]],
    tokenizer: PreTrainedTokenizerBase,
    inputs: Mapping[str, str],
) -> tuple[rollout.Rollouts, str]:
    """Graded completions of a task's evaluation prompts, and their hash: ``rollouts/<name>``.

    Parameters
    ----------
    stage
        ``statistics`` or ``knockout``: the field of the configuration that says how.
    opened
        Gives what samples, whose hash is in `inputs`.
    """
    how, seed = getattr(run.config, stage), store.torch_seed(run.config.seed, stage)

    def compute(model: backends.Backend, part: slice) -> pd.DataFrame:
        with advised(f"{stage} on {task.label}", sampling_knobs(stage, how)):
            made, _ = rollout.answer(model, tokenizer, task, how, seed, part)
        return made.to_frame(part.start)

    settings = {"seed": run.config.seed, stage: how.model_dump(mode="json")}
    done = processes.pieced(
        Path(run.path),
        "rollouts",
        name,
        config=settings | {"task": tasks.identity(task)},
        inputs=inputs,
        pieces=lambda: rollout.parts(task, how),
        opened=opened,
        compute=compute,
    )
    return rollout.Rollouts.from_frame(done.data), done.hash


def _grading(run: OpenRun, label: str, folder: Path | None) -> dict[str, Any]:
    """Name, configuration and inputs of an evaluation."""
    pair = run.config.pair.model_dump(mode="json")
    settings = {"label": label, "pair": pair, **_evaluated(run.config)}
    weights = _weights(run.config.pair, label) if folder is None else store.hash_folder(folder)
    return {"name": label, "config": settings, "inputs": {"weights": weights}}


def graded_on(config: StudyConfig) -> dict[str, str]:
    """The benchmarks as an input of a table, for their files are not in the configuration."""
    return {"benchmarks": fingerprint([tasks.identity(task) for task in config.benchmarks])}


def _weights(pair: PairConfig, role: str) -> str:
    """What the teacher's or the student's weights depend on before any training."""
    name, revision = getattr(pair, role), getattr(pair, f"{role}_revision")
    shares_file = role == "teacher" or pair.student == pair.teacher
    return sources.identity(name, revision, pair.gguf_file if shares_file else None, role)


def checkpoint(
    config: StudyConfig,
    folder: Path,
    how: EvalConfig,
) -> AbstractContextManager[backends.Backend]:
    """What samples from a checkpoint (`backends.opened`)."""
    return backends.opened(
        how,
        str(folder),
        lambda: models.load_model(str(folder)),
        max_prompt_tokens=max(task.max_prompt_tokens for task in config.benchmarks),
        resting=_loaded(config.pair),
    )


def _loaded(pair: PairConfig) -> list[PreTrainedModel]:
    """The pair's models where they are in memory already."""
    if loaded_pair.cache_info().currsize == 0:
        return []
    found = loaded_pair(pair)
    return [found.teacher, found.student]


def _member(config: StudyConfig, role: str) -> AbstractContextManager[backends.Backend]:
    """What samples from the teacher or the student before any training."""
    pair, how = config.pair, config.evaluation
    if how.backend == "vllm" and role == "student" and pair.drop_every is not None:
        raise StudyError(
            "evaluation__backend: must be transformers where drop_every is "
            f"{pair.drop_every}, since no folder holds that student; got 'vllm'"
        )
    shares_file = role == "teacher" or pair.student == pair.teacher
    return backends.opened(
        how,
        getattr(pair, role),
        lambda: getattr(loaded_pair(pair), role),
        max_prompt_tokens=max(task.max_prompt_tokens for task in config.benchmarks),
        revision=getattr(pair, f"{role}_revision"),
        gguf_file=pair.gguf_file if shares_file else None,
        dtype=pair.dtype,
        field=role,
        resting=_loaded(pair),
    )


def _tokenizer(pair: PairConfig) -> PreTrainedTokenizerBase:
    """The pair's tokenizer, without its models."""
    revision, file = pair.teacher_revision, pair.gguf_file
    return models.load_tokenizer(pair.teacher, revision=revision, gguf_file=file, field="teacher")


def _evaluated(config: StudyConfig) -> dict:
    return {
        "seed": config.seed,
        "evaluation": config.evaluation.model_dump(mode="json"),
        "benchmarks": [tasks.identity(task) for task in config.benchmarks],
    }


def _sizes(run: OpenRun) -> pd.DataFrame:
    pair = loaded_pair(run.config.pair)
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


def problems(run: OpenRun) -> pd.DataFrame:
    """The evaluation problems of the first benchmark as a frame: ``family, prompt, answer``."""
    columns = ["family", "prompt", "answer"]

    def compute() -> pd.DataFrame:
        loaded = tasks.load(run.config.benchmarks[0], "eval")
        return pd.DataFrame([{name: getattr(p, name) for name in columns} for p in loaded])

    return _table(run, "problems", graded_on(run.config), compute)


def _table(
    run: OpenRun, name: str, inputs: Mapping[str, str], compute: Callable[[], pd.DataFrame]
) -> pd.DataFrame:
    if run.replay:
        return _read(run, name)
    settings = run.config.model_dump(mode="json")
    return processes.cached(
        run.path, "tables", name, config=settings, inputs=inputs, compute=compute
    ).data


def _read(run: OpenRun, name: str) -> pd.DataFrame:
    return store.load(run.path / "tables" / name)


# --- summaries that notebooks show ----------------------------------------------------------------


def accuracy_table(
    outcomes: pd.DataFrame, by: Sequence[str], rng: np.random.Generator
) -> pd.DataFrame:
    """Pass@1 with its interval for each group of `by`: columns ``*by, value, lo, hi, unit, n``.

    Several seeds in one group are averaged within a problem, so the interval resamples problems.
    """
    rows = []
    for key, group in outcomes.groupby(list(by), sort=False):
        estimate = inference.cluster_mean(group, "correct", "prompt_index", rng)
        rows.append(dict(zip(by, key, strict=True)) | shown(estimate))
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
            estimate = inference.crossed_difference(before, after, "correct", rng)
        else:
            unit = "problems, one training seed"
            estimate = inference.paired_difference(
                before, after, "correct", "prompt_index", rng, unit=unit
            )
        rows.append({"benchmark": benchmark} | shown(estimate))
    return pd.DataFrame(rows)


def named_types(
    run: OpenRun, types: pd.DataFrame, tokens: Sequence[str], most: int = 6
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


def _type_texts(run: OpenRun, types: pd.DataFrame) -> pd.DataFrame:
    """``token_id, text`` of the types that training met: a replay has no tokenizer to ask."""

    def compute() -> pd.DataFrame:
        ids = np.unique(types.token_id)
        texts = categories.token_texts(_tokenizer(run.config.pair), ids)
        return pd.DataFrame({"token_id": ids, "text": texts})

    return _table(run, "stage2_type_texts", {"ids": fingerprint(types.token_id)}, compute)


def distillation_claims(run: OpenRun, gain: pd.DataFrame) -> list[dict]:
    """Claims rows of the baseline regime: a rise of accuracy, whatever its size (figure 5)."""
    config, name = run.config, run.config.main_benchmark
    where = (
        "the trained benchmark" if name == config.train_task.label else f"{name}, not trained on"
    )
    words = f"On-policy distillation raises the student's Pass@1 on {where}."
    one = gain[gain.benchmark == name].iloc[0].to_dict()
    number = "accuracy-gain/baseline"
    return [verdicts.sign("opd-accuracy-rises", words, number, one, headline=True)]


def shown(estimate: inference.Estimate) -> dict:
    """An estimate as columns; of a crossed one ``n`` counts the problems, the unit the seeds."""
    shown = {name: getattr(estimate, name) for name in ("value", "lo", "hi", "unit", "n")}
    if isinstance(estimate.n, tuple):
        seeds, problems = estimate.n
        shown |= {"n": problems, "unit": f"problems x {seeds} seeds"}
    return shown
