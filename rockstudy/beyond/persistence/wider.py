"""The cached steps of notebook 08 that distil a second, wider student and compare it by cause.

The wider student (``persistence__wider``) learns in the same two stages, from the same prompts and
with the same settings as the student, at the first ``persistence__seeds`` seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from rockstudy import progress, tasks
from rockstudy.beyond.persistence import capacity, steps
from rockstudy.beyond.persistence.texts import FixedTexts
from rockstudy.models import checkpoints, loading
from rockstudy.models.checkpoints import Checkpoint
from rockstudy.rocks.steps import TOKENS, annotator_hash, measured
from rockstudy.runs import Run, table
from rockstudy.sampling.rollout import Rollouts, generate
from rockstudy.store.code import kept_apart
from rockstudy.store.seeds import torch_seed
from rockstudy.training import steps as training_steps
from rockstudy.training.arm import Arm

WIDER = Arm("wider")  # the baseline's settings, under a name of its own
FIELDS = (*TOKENS, "persistence.seeds", "persistence.wider")


def has_wider(run: Run) -> str:
    """Why the run distils no wider student; empty where it does."""
    if run.config.models is not None:
        return "This run's models are given, so that no wider student is distilled."
    if run.config.persistence.wider is None:
        return (
            "No wider student is distilled in this run: persistence__wider names none, since it "
            "takes as long as both stages of training and longer."
        )
    if not tasks.causes(run.config.benchmarks[0]):
        return "No wider student is distilled in this run: the task names no causes of its tokens."
    return ""


def _seeds(run: Run) -> tuple[int, ...]:
    return run.config.seeds[: run.config.persistence.seeds]


@kept_apart
def _wide(run: Run) -> Run:
    """The run with the wider student in place of the student, in the same folder.

    A training's key holds the student that it starts from.
    """

    def made() -> Run:
        config = run.config.model_copy(update={"pair": run.config.wider_pair})
        return replace(run, config=config, _kept={})  # models in memory are those of the pair

    return run.in_memory("wider run", made)


@kept_apart
def students(run: Run) -> dict[int, dict[str, Checkpoint]]:
    """The four students of `capacity.LOSSES` at every seed, trained where they are not yet."""

    def made() -> dict[int, dict[str, Checkpoint]]:
        run.needs_models("a wider student")
        wide, ordinary = _wide(run), training_steps.baselines(run)
        training_steps.train_arms(wide, [(WIDER, seed, ()) for seed in _seeds(run)])
        starts = [training_steps.stage1(one).checkpoints["late"] for one in (run, wide)]
        found = {}
        for seed in _seeds(run):
            ends = [ordinary[seed], training_steps.trained(wide, WIDER, seed)]
            late = [one.checkpoints["late"] for one in ends]
            folders = [starts[0], late[0], starts[1], late[1]]
            found[seed] = {
                name: checkpoints.in_folder(folder, run.config.pair)
                for name, folder in zip(capacity.LOSSES, folders, strict=True)
            }
        return found

    return run.in_memory("wider students", made)


def _inputs(run: Run) -> dict[str, str]:
    """The four students at every seed, the prompts and the causes as inputs."""
    hashes = {
        f"{name}-s{seed}": one.hash
        for seed, some in students(run).items()
        for name, one in some.items()
    }
    teacher = loading.identity_of(run.config.pair, "teacher")
    return (
        hashes
        | annotator_hash(run)
        | {"teacher": teacher, "texts": measured(run).sampled("post")[1]}
    )


@table(*FIELDS, inputs=_inputs)
def losses(run: Run, seed: int) -> pd.DataFrame:
    """Losses of the four students of a seed on the same completions, by writer, prompt and cause.

    Sums over positions: ``seed, writer, prompt_index, cause, count`` and `capacity.LOSSES` (nats).
    The writers are both students after OPD and the teacher; all answer the prompts of the
    statistics once.
    """
    progress.announce(f"losses of two students of different width by cause, seed {seed}")
    models = {name: steps.load(one) for name, one in students(run)[seed].items()}
    teacher = measured(run).model("teacher")
    writers = {width: models[f"{width}_after"] for width in capacity.WIDTHS} | {"teacher": teacher}
    frames, keys = [], ["prompt_index", "cause"]
    for writer, model in writers.items():
        written = _written(run, model, torch_seed(seed, f"capacity-{writer}"))
        frame, found = _positions(written, models, teacher)
        cause = steps.causes_of(run, written, frame)
        made = frame.assign(count=1, cause=cause, **found)
        made = made.groupby(keys, as_index=False)[["count", *found]].sum()
        frames.append(made.assign(seed=seed, writer=writer))
    return pd.concat(frames, ignore_index=True)


def _positions(
    written: Rollouts, models: Mapping[str, Any], teacher: Any
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The positions of completions, and the losses (N,) of each student there."""
    found: dict[str, np.ndarray] = {}
    for width in capacity.WIDTHS:
        texts = FixedTexts(written, np.arange(len(written)), models[f"{width}_before"], teacher)
        for time in capacity.TIMES:  # one architecture: the teacher is read once
            weights = texts.weights_of(models[f"{width}_{time}"])
            found[f"{width}_{time}"] = texts.losses(weights=weights)
    return texts.frame, found


def _written(run: Run, model: Any, seed: int) -> Rollouts:
    """One completion of every prompt of the statistics."""
    how, given = run.config.statistics, measured(run).rollouts
    asked = np.unique(given.prompt_index)
    written = generate(
        model,
        loading.tokenizer_of(run),
        [given.prompt_ids[i].tolist() for i in asked],
        temperature=how.temperature,
        top_p=how.top_p,
        max_new_tokens=how.max_new_tokens,
        batch_size=how.batch_size,
        seed=seed,
        desc=None,
    )
    place = asked[written.prompt_index].astype(np.int32)
    return replace(written, prompt_ids=given.prompt_ids, prompt_index=place)


def all_losses(run: Run) -> pd.DataFrame:
    """`losses` at every seed."""
    return pd.concat([losses(run, seed) for seed in _seeds(run)], ignore_index=True)


@table(*FIELDS)
def by_cause(run: Run, sums: pd.DataFrame) -> pd.DataFrame:
    """`capacity.by_cause` of `all_losses`."""
    return capacity.by_cause(sums, run.rng("persistence-capacity"))
