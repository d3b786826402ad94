"""The study's steps as notebooks call them: each computed once in a run, then read back.

A function here takes the run that a notebook opened (`rockstudy.report.open_run`) and returns a
frame. The frames are kept under ``tables/``; a replayed run (the committed reference) only reads
them, so a notebook opens in seconds from a clone, without models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from rockstudy import distill, inference, models, rollout, store, tasks, verdicts
from rockstudy.config import PairConfig, StudyConfig, StudyError


class OpenRun(Protocol):
    """What a step needs of a run: its configuration, its folder, whether it is only read."""

    config: StudyConfig
    path: Path
    replay: bool


def pair_accuracy(run: OpenRun) -> pd.DataFrame:
    """Grade the pair before any training: one row per completion.

    Returns
    -------
    DataFrame
        `rollout.evaluate`'s columns, ``text`` included, and ``model`` (teacher or student).
    """
    return _table(
        run,
        "pair_accuracy",
        {},
        lambda: pd.concat([_graded(run, "teacher"), _graded(run, "student")], ignore_index=True),
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


def _train(run: OpenRun, stage: str, seed: int) -> distill.TrainResult:
    return distill.train(
        run.config, stage, run=run.path, seed=seed, pair=loaded_pair(run.config.pair)
    )


def stage1_metrics(run: OpenRun) -> pd.DataFrame:
    """The metrics of stage 1 (one run, at the study's seed)."""
    if run.replay:
        return _read(run, "stage1_metrics")
    result = _train(run, "stage1", run.config.seed)
    return _table(run, "stage1_metrics", {"stage1": result.hash}, lambda: result.metrics)


def train_seeds(run: OpenRun) -> dict[int, distill.TrainResult]:
    """Train stage 1 at the study's seed, then stage 2 from its end for each of ``config.seeds``."""
    _train(run, "stage1", run.config.seed)
    return {seed: _train(run, "stage2", seed) for seed in run.config.seeds}


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
    first = _train(run, "stage1", run.config.seed)
    results = train_seeds(run)
    inputs = {"stage1": first.hash, **{f"stage2-s{s}": r.hash for s, r in results.items()}}
    return _table(run, "accuracy_along", inputs, lambda: _along(run, first, results))


def _along(
    run: OpenRun, first: distill.TrainResult, results: Mapping[int, distill.TrainResult]
) -> pd.DataFrame:
    stage = run.config.stage2
    before = _graded(run, "stage1-late", first.checkpoints["late"])
    frames = []
    for seed, result in results.items():
        frames.append(before.assign(seed=seed, step=0))
        for name, folder in result.checkpoints.items():
            graded = _graded(run, f"stage2-s{seed}-{name}", folder)
            frames.append(
                graded.assign(seed=seed, step=max(1, round(stage.keep[name] * stage.steps)))
            )
    along = pd.concat(frames, ignore_index=True)
    return along.drop(columns=["text", "model"]).sort_values(
        ["seed", "step"], kind="stable", ignore_index=True
    )


def _graded(run: OpenRun, label: str, folder: Path | None = None) -> pd.DataFrame:
    """Outcomes of one model on every benchmark, cached under ``evaluation/<label>``."""
    config = run.config
    settings = {"label": label, "pair": config.pair.model_dump(mode="json"), **_evaluated(config)}
    inputs = {} if folder is None else {"weights": store.hash_folder(folder)}

    def compute() -> pd.DataFrame:
        pair = loaded_pair(config.pair)
        model = getattr(pair, label) if folder is None else models.load_model(str(folder))
        seed = store.torch_seed(config.seed, "evaluation")
        graded = [
            rollout.evaluate(model, pair.tokenizer, task, config.evaluation, seed)
            for task in config.benchmarks
        ]
        return pd.concat(graded, ignore_index=True).assign(model=label)

    return store.cached(
        run.path, "evaluation", label, config=settings, inputs=inputs, compute=compute
    ).data


def _evaluated(config: StudyConfig) -> dict:
    return {
        "seed": config.seed,
        "evaluation": config.evaluation.model_dump(mode="json"),
        "benchmarks": [task.model_dump(mode="json") for task in config.benchmarks],
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


def problems(run: OpenRun, benchmark: int = 0) -> pd.DataFrame:
    """The evaluation problems of a benchmark as a frame: ``family, prompt, answer``."""
    loaded = tasks.load(run.config.benchmarks[benchmark], "eval")
    return pd.DataFrame(
        [{"family": p.family, "prompt": p.prompt, "answer": p.answer} for p in loaded]
    )


def _table(
    run: OpenRun, name: str, inputs: Mapping[str, str], compute: Callable[[], pd.DataFrame]
) -> pd.DataFrame:
    if run.replay:
        return _read(run, name)
    settings = run.config.model_dump(mode="json")
    return store.cached(
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
        rows.append(dict(zip(by, key, strict=True)) | _shown(estimate))
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
        rows.append({"benchmark": benchmark} | _shown(estimate))
    return pd.DataFrame(rows)


def named_types(
    run: OpenRun, types: pd.DataFrame, tokens: Sequence[str], most: int = 6
) -> pd.DataFrame:
    """Mean reverse KL of some token types along training, seeds pooled: ``name, step, count, rkl``.

    The types spelled `tokens`; where it is empty, the `most` types with the largest summed loss.

    Raises
    ------
    StudyError
        A spelling that is not exactly one token of the pair's tokenizer.
    """
    tokenizer = models.load_tokenizer(run.config.pair.student)
    ids = []
    for text in tokens:
        found = tokenizer.encode(text, add_special_tokens=False)
        if len(found) != 1:
            raise StudyError(
                f"tokens: each must be one token of the tokenizer; {text!r} is {len(found)}"
            )
        ids += found
    if not ids:
        ids = types.groupby("token_id").rkl_sum.sum().nlargest(most).index.tolist()
    names = {i: repr(tokenizer.decode([i])) for i in ids}
    kept = types[types.token_id.isin(ids)]
    sums = kept.groupby(["token_id", "step"], as_index=False)[["count", "rkl_sum"]].sum()
    sums["rkl"] = sums.rkl_sum / sums["count"]
    shown = sums.assign(name=sums.token_id.map(names))[["name", "step", "count", "rkl"]]
    order = {name: place for place, name in enumerate(names.values())}
    return shown.sort_values("name", key=lambda n: n.map(order), kind="stable", ignore_index=True)


def distillation_claims(run: OpenRun, gain: pd.DataFrame) -> list[dict]:
    """Claims rows of the baseline regime: a rise of accuracy, whatever its size (figure 5)."""
    rise = (
        "opd-accuracy-rises",
        "On-policy distillation raises the student's Pass@1 on the trained benchmark.",
        "accuracy-gain/baseline",
    )
    trained = gain[gain.benchmark == run.config.train_task.label]
    if trained.empty:
        return [verdicts.not_run(*rise, "the trained task is no benchmark here", headline=True)]
    return [verdicts.sign(*rise, trained.iloc[0].to_dict(), headline=True)]


def _shown(estimate: inference.Estimate) -> dict:
    """An estimate as columns; of a crossed one ``n`` counts the problems, the unit the seeds."""
    shown = {name: getattr(estimate, name) for name in ("value", "lo", "hi", "unit", "n")}
    if isinstance(estimate.n, tuple):
        seeds, problems = estimate.n
        shown |= {"n": problems, "unit": f"problems x {seeds} seeds"}
    return shown
