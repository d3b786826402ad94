"""Grading checkpoints and sampling rollouts, each computed once in a run."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pandas as pd

from rockstudy import progress, tasks
from rockstudy.config.fields import EvalConfig, TaskConfig
from rockstudy.config.identity import identity
from rockstudy.errors import StudyError
from rockstudy.models import loading
from rockstudy.models.checkpoints import Checkpoint
from rockstudy.parallel import distributed
from rockstudy.parallel.out_of_memory import advised
from rockstudy.runs import Run
from rockstudy.sampling import engines, rollout
from rockstudy.store.code import kept_apart
from rockstudy.store.fingerprints import fingerprint
from rockstudy.store.seeds import torch_seed

Opened = Callable[[], AbstractContextManager[engines.Engine]]


@kept_apart
def graded(
    run: Run, label: str, one: Checkpoint | None = None, trained_with: int | None = None
) -> pd.DataFrame:
    """Outcomes of one model on every benchmark, stored as ``evaluation/<label>``.

    Without a checkpoint the model is the pair's ``teacher`` or ``student``, named by the label. The
    columns are those of `rollout.evaluate`, and ``model``, the label.

    `trained_with` is the training seed that the checkpoint belongs to. All checkpoints of a seed,
    of every arm, answer with the same random numbers, which differ from those of other seeds: arms
    are paired, and the noise of sampling is independent between seeds.
    """
    config, how = run.config, run.config.evaluation
    stream = ("evaluation",) if trained_with is None else ("evaluation by seed", trained_with)
    seed = torch_seed(config.seed, *stream)

    def compute(
        tool: tuple[engines.Engine, progress.Bar], piece: tuple[TaskConfig, slice]
    ) -> pd.DataFrame:
        (model, bar), (task, part) = tool, piece
        with advised(f"evaluation of {label}", sampling_knobs("evaluation", how)):
            made = rollout.evaluate(model, loading.tokenizer_of(run), task, how, seed, part)
        bar.update(len(made))
        return made.assign(model=label)

    @contextmanager
    def opened() -> Iterator[tuple[engines.Engine, progress.Bar]]:
        asked = sum(part.stop - part.start for _, part in distributed.mine(pieces()))
        with (
            checkpoint(run, one, how) if one else _member(run, label) as model,
            progress.bar(asked * how.samples, f"grading {label}", "completion") as bar,
        ):
            yield model, bar

    def pieces() -> list[tuple[TaskConfig, slice]]:
        for task in config.benchmarks:
            rollout.gradable(task)  # refused before a model is opened
        return [(task, part) for task in config.benchmarks for part in rollout.parts(task, how)]

    return run.sampled(
        "evaluation",
        label,
        **_grading(run, label, one, trained_with),
        by=rollout.evaluate,
        pieces=pieces,
        opened=opened,
        compute=compute,
    ).data


def is_graded(run: Run, label: str, one: Checkpoint, trained_with: int) -> bool:
    """Whether `graded` finds its outcomes in the run."""
    return run.is_stored("evaluation", label, **_grading(run, label, one, trained_with))


def _grading(
    run: Run, label: str, one: Checkpoint | None, trained_with: int | None
) -> dict[str, Any]:
    """Configuration and inputs of an evaluation."""
    pair: Any = run.config.pair
    stream = {} if trained_with is None else {"trained_with": trained_with}
    config = {"label": label, "seed": run.config.seed, **stream, **graded_on(run)}

    def inputs() -> dict[str, str]:
        model = one.hash if one else loading.identity_of(pair, label)  # pyright: ignore
        return {"model": model, "tokenizer": loading.identity_of(pair, "teacher")}

    return {"config": config | {"evaluation": identity(run.config.evaluation)}, "inputs": inputs}


def graded_on(run: Run) -> dict[str, str]:
    """The benchmarks as an input, with the contents of their files."""
    return {"benchmarks": fingerprint([tasks.identity(task) for task in run.config.benchmarks])}


def sampling_knobs(stage: str, how: EvalConfig) -> dict[str, int]:
    """Parameters to lower when the sampling of a stage runs out of memory."""
    names = ("batch_size", "max_new_tokens") if how.engine == "transformers" else ()
    return {f"{stage}__{name}": getattr(how, name) for name in names or ("max_new_tokens",)}


@kept_apart
def answered(
    run: Run,
    stage: str,
    name: str,
    task: TaskConfig,
    opened: Opened,
    inputs: Callable[[], Mapping[str, str]],
) -> tuple[rollout.Rollouts, str]:
    """Graded completions of a task's evaluation prompts, and their hash: ``rollouts/<name>``.

    The section `stage` of the configuration, ``statistics`` or ``knockout``, is for the sampling.
    `opened` gives the engine, and `inputs` the hashes of its model.
    """
    how, seed = getattr(run.config, stage), torch_seed(run.config.seed, stage)
    sampled = identity(how, exclude={"stop_early"})  # of knockouts, which have the same baseline

    def compute(model: engines.Engine, part: slice) -> pd.DataFrame:
        with advised(f"{stage} on {task.label}", sampling_knobs(stage, how)):
            made, _ = rollout.answer(model, loading.tokenizer_of(run), task, how, seed, part)
        return made.to_frame(part.start)

    done = run.sampled(
        "rollouts",
        name,
        config={"seed": run.config.seed, stage: sampled, "task": tasks.identity(task)},
        inputs=inputs,
        by=rollout.answer,
        pieces=lambda: rollout.parts(task, how),
        opened=opened,
        compute=compute,
    )
    return rollout.Rollouts.from_frame(done.data), done.hash


@kept_apart
def checkpoint(
    run: Run, one: Checkpoint, how: EvalConfig
) -> AbstractContextManager[engines.Engine]:
    """The engine of a checkpoint (`engines.opened`)."""
    return engines.opened(how, load=one.load, dtype=one.dtype, **one.source, **_common(run))


def _member(run: Run, role: str) -> AbstractContextManager[engines.Engine]:
    """The engine of the teacher or the student before any training."""
    pair, how = run.config.pair, run.config.evaluation
    if how.engine == "vllm" and role == "student" and pair.drop_every is not None:
        raise StudyError(
            "evaluation__engine: must be transformers where drop_every is "
            f"{pair.drop_every}, since no folder holds that student; got 'vllm'"
        )
    return engines.opened(
        how,
        load=lambda: getattr(loading.pair_of(run), role),
        dtype=pair.dtype,
        **loading.of_role(pair, role),
        **_common(run),
    )


def _common(run: Run) -> dict[str, Any]:
    """Token limit of prompts, and the pair's models if they are in memory."""
    pair = run.held("pair")
    longest = max(task.max_prompt_tokens for task in run.config.benchmarks)
    return {"max_prompt_tokens": longest, "resting": [pair.teacher, pair.student] if pair else []}
