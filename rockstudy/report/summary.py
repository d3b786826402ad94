"""Tables of notebook 11 from a finished run: the life of rock tokens, and a comparison of settings.

This module computes nothing that an earlier notebook computes, and stores nothing. The table of a
notebook that was not run is None.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd

from rockstudy.beyond.freezing import claims as freezing_claims
from rockstudy.claims import paper, records
from rockstudy.config.fields import StudyConfig
from rockstudy.gradients import group_losses
from rockstudy.gradients import steps as gradients_steps
from rockstudy.knockout import steps as knockout_steps
from rockstudy.knockout import tables as knockout_tables
from rockstudy.models import checkpoints
from rockstudy.rocks import steps as rocks_steps
from rockstudy.runs import NotStored, Run
from rockstudy.selective import claims as selective_claims
from rockstudy.selective import steps as selective_steps
from rockstudy.training import claims as training_claims
from rockstudy.training import steps as training_steps


def _of_stage(stage: str, *names: str) -> Callable[[StudyConfig], Any]:
    """The product of some fields of a stage."""
    return lambda config: math.prod(getattr(config.stage(stage), name) for name in names)


TRAINING: dict[str, Callable[[StudyConfig], Any]] = {  # id of the paper's number, and ours
    "stage1-answers": _of_stage("stage1", "steps", "prompts_per_step"),
    "stage1-temperature": _of_stage("stage1", "temperature"),
    "stage1-top-p": _of_stage("stage1", "top_p"),
    "stage1-max-new-tokens": _of_stage("stage1", "max_new_tokens"),
    "stage1-lr": _of_stage("stage1", "lr"),
    "stage1-batch": _of_stage("stage1", "prompts_per_step", "rollouts_per_prompt"),
    "stage2-prompts": _of_stage("stage2", "steps", "prompts_per_step"),
    "stage2-rollouts": _of_stage("stage2", "rollouts_per_prompt"),
    "stage2-temperature": _of_stage("stage2", "temperature"),
    "stage2-top-p": _of_stage("stage2", "top_p"),
    "stage2-max-new-tokens": _of_stage("stage2", "max_new_tokens"),
    "stage2-lr": _of_stage("stage2", "lr"),
    "stage2-clip": _of_stage("stage2", "max_grad_norm"),
    "stage2-batch": _of_stage("stage2", "prompts_per_step"),
}
SETTINGS: dict[str, Callable[[StudyConfig], Any]] = {
    "evaluation-runs": lambda c: c.evaluation.samples,
    "prompts": lambda c: c.statistics.n_prompts,
    "math-problems": lambda c: c.knockout.n_prompts,
}
SIZES: dict[str, Callable[[StudyConfig, int], int]] = {  # the same, by the observed types
    "cutoff": lambda c, observed: c.rocks.size(observed),
    "screened": lambda c, observed: c.screen_size(observed),
}


def described(run: Run) -> str:
    """A sentence on what the run is: its preset, its models, its training seeds."""
    config, models = run.config, run.config.models
    which = f"run {run.id}, preset {config.preset}: {config.pair.teacher} -> {config.pair.student}"
    if models is None:
        return f"{which}; training seeds {', '.join(map(str, config.seeds))}"
    students = [name for name in checkpoints.steps(models) if name not in ("pre", "post")]
    between = f", with {', '.join(students)} in between" if students else ""
    return f"{which}, distilled elsewhere to {models.after.name}{between}"


def claims(run: Run) -> pd.DataFrame:
    """The claims of the earlier notebooks.

    Notebooks 01, 07 and 09 do not apply to given models: what the graded models tell of the first
    is recorded here, and what needs training as `not run`.
    """
    if run.config.models is not None:
        outcomes = stored(run, training_steps.pair_accuracy)
        rng = run.rng("gains of given models")
        gain = None if outcomes is None else training_steps.given_gains(outcomes, rng)
        records.claims(run, "01_distillation", training_claims.distillation_claims(run, gain))
        records.claims(run, "07_selective_distillation", selective_claims.of_given_models())
        records.claims(run, "09_what_to_freeze", freezing_claims.of_given_models())
    return records.read_claims(run, before="11_report")


def stored(run: Run, step: Callable[[Run], pd.DataFrame]) -> pd.DataFrame | None:
    """A table of an earlier notebook, or None if that was not run."""
    try:
        return step(replace(run, reading=True))
    except NotStored:
        return None


def persistence(run: Run) -> pd.DataFrame | None:
    """Mean reverse KL of the groups of notebook 04 along stage 2: ``group, seed, step, rkl``.

    On the rollouts of training, with the occurrences of a logging window pooled.
    """
    types = stored(run, training_steps.type_losses)
    chosen = stored(run, gradients_steps.groups)
    if types is None or chosen is None:
        return None
    ids = gradients_steps.ids_of(chosen)
    frames = [
        group_losses.along_training(of, ids).assign(seed=seed) for seed, of in types.groupby("seed")
    ]
    return pd.concat(frames, ignore_index=True)


def knockout(run: Run) -> pd.DataFrame | None:
    """Candidates of notebook 05 that are banned alone, by class on each benchmark.

    The rows of `knockout.tables.by_level` at token level.
    """
    chosen = stored(run, knockout_steps.candidates)
    screen = stored(run, lambda r: knockout_steps.screen(r, knockout_steps.candidates(r)))
    if screen is None or chosen is None:
        return None
    levels = knockout_tables.by_level(screen, chosen)
    return levels[levels.level == "token"].reset_index(drop=True)


def utility(run: Run) -> pd.DataFrame | None:
    """Final accuracy of the training arms of notebook 07: ``arm, benchmark, value, lo, hi, seeds``.

    The interval is over training seeds and problems; NaN with a single seed.
    """
    accuracy = stored(run, selective_steps.accuracy)
    if accuracy is None:
        return None
    ends = selective_steps.at_end(accuracy)
    return selective_steps.means(ends).drop(columns="step")


def settings(run: Run) -> pd.DataFrame:
    """Settings of the paper and of this run: ``setting, unit, paper, here``.

    The numbers of rocks and candidates need the types of notebook 02.
    """
    types = stored(run, rocks_steps.types)
    known = TRAINING | SETTINGS if run.config.models is None else SETTINGS
    here = {name: f"{ours(run.config):,g}" for name, ours in known.items()}
    for name, size in SIZES.items():
        here[name] = "not run" if types is None else f"{size(run.config, len(types)):,g}"
    rows = []
    for name, ours in here.items():
        theirs = paper.number(name)
        stage = f"{name.split('-')[0].replace('stage', 'stage ')}: " * name.startswith("stage")
        row = {"setting": f"{stage}{theirs.what}", "unit": theirs.unit}
        rows.append(row | {"paper": f"{theirs.value:,g}", "here": ours})
    return pd.DataFrame(rows)
