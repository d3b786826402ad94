"""Grading checkpoints, and sampling the rollouts that are measured; each computed once in a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rockstudy import tasks
from rockstudy.config.fields import EvalConfig, PairConfig, StudyConfig, TaskConfig
from rockstudy.errors import StudyError
from rockstudy.models import loading, sources
from rockstudy.parallel import distributed
from rockstudy.parallel.out_of_memory import advised
from rockstudy.runs import Run
from rockstudy.sampling import engines, rollout
from rockstudy.store import files
from rockstudy.store.fingerprints import fingerprint
from rockstudy.store.seeds import torch_seed


@lru_cache(maxsize=1)
def loaded_pair(config: PairConfig) -> loading.Pair:
    """The pair, loaded once for all steps of a notebook; nobody changes it."""
    return loading.load_pair(config)


def graded(run: Run, label: str, folder: Path | None = None) -> pd.DataFrame:
    """Outcomes of one model on every benchmark, cached under ``evaluation/<label>``.

    The model in a folder; without one, the pair's ``teacher`` or ``student``, whichever the label.
    """
    config = run.config

    how, tokenizer = config.evaluation, tokenizer_of(config.pair)
    seed = torch_seed(config.seed, "evaluation")

    def compute(model: engines.Engine, piece: tuple[TaskConfig, slice]) -> pd.DataFrame:
        task, part = piece
        with advised(f"evaluation of {label}", sampling_knobs("evaluation", how)):
            made = rollout.evaluate(model, tokenizer, task, how, seed, part)
        return made.assign(model=label)

    done = distributed.pieced(
        run.path,
        "evaluation",
        **grading_key(run, label, folder),
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
    names = ("batch_size", "max_new_tokens") if how.engine == "transformers" else ()
    return {f"{stage}__{name}": getattr(how, name) for name in names or ("max_new_tokens",)}


def answered(
    run: Run,
    stage: str,
    name: str,
    task: TaskConfig,
    opened: Callable[[], AbstractContextManager[engines.Engine]],
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
    how, seed = getattr(run.config, stage), torch_seed(run.config.seed, stage)

    def compute(model: engines.Engine, part: slice) -> pd.DataFrame:
        with advised(f"{stage} on {task.label}", sampling_knobs(stage, how)):
            made, _ = rollout.answer(model, tokenizer, task, how, seed, part)
        return made.to_frame(part.start)

    settings = {"seed": run.config.seed, stage: how.model_dump(mode="json")}
    done = distributed.pieced(
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


def grading_key(run: Run, label: str, folder: Path | None) -> dict[str, Any]:
    """Name, configuration and inputs of an evaluation."""
    pair = run.config.pair.model_dump(mode="json")
    settings = {"label": label, "pair": pair, **_evaluated(run.config)}
    weights = (
        weights_identity(run.config.pair, label) if folder is None else files.hash_folder(folder)
    )
    return {"name": label, "config": settings, "inputs": {"weights": weights}}


def graded_on(config: StudyConfig) -> dict[str, str]:
    """The benchmarks as an input of a table, for their files are not in the configuration."""
    return {"benchmarks": fingerprint([tasks.identity(task) for task in config.benchmarks])}


def weights_identity(pair: PairConfig, role: str) -> str:
    """What the teacher's or the student's weights depend on before any training."""
    name, revision = getattr(pair, role), getattr(pair, f"{role}_revision")
    shares_file = role == "teacher" or pair.student == pair.teacher
    return sources.identity(name, revision, pair.gguf_file if shares_file else None, role)


def checkpoint(
    config: StudyConfig,
    folder: Path,
    how: EvalConfig,
) -> AbstractContextManager[engines.Engine]:
    """What samples from a checkpoint (`engines.opened`)."""
    return engines.opened(
        how,
        str(folder),
        lambda: loading.load_model(str(folder)),
        max_prompt_tokens=max(task.max_prompt_tokens for task in config.benchmarks),
        resting=_loaded(config.pair),
    )


def _loaded(pair: PairConfig) -> list[PreTrainedModel]:
    """The pair's models where they are in memory already."""
    if loaded_pair.cache_info().currsize == 0:
        return []
    found = loaded_pair(pair)
    return [found.teacher, found.student]


def _member(config: StudyConfig, role: str) -> AbstractContextManager[engines.Engine]:
    """What samples from the teacher or the student before any training."""
    pair, how = config.pair, config.evaluation
    if how.engine == "vllm" and role == "student" and pair.drop_every is not None:
        raise StudyError(
            "evaluation__engine: must be transformers where drop_every is "
            f"{pair.drop_every}, since no folder holds that student; got 'vllm'"
        )
    shares_file = role == "teacher" or pair.student == pair.teacher
    return engines.opened(
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


def tokenizer_of(pair: PairConfig) -> PreTrainedTokenizerBase:
    """The pair's tokenizer, without its models."""
    revision, file = pair.teacher_revision, pair.gguf_file
    return loading.load_tokenizer(pair.teacher, revision=revision, gguf_file=file, field="teacher")


def _evaluated(config: StudyConfig) -> dict:
    return {
        "seed": config.seed,
        "evaluation": config.evaluation.model_dump(mode="json"),
        "benchmarks": [tasks.identity(task) for task in config.benchmarks],
    }
