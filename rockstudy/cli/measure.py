"""The long parts of a study, computed by several processes; notebooks then only read the results.

A notebook has one process. `rockstudy measure --processes 8`, or `accelerate launch -m rockstudy
measure` on several nodes, calls the same steps as the notebooks, in the same order, and writes the
same artefacts. Its parts are the functions `data`, `training`, `statistics`, `arms`, `outcomes`.

Two parts train, which FSDP2 may shard; two sample and measure with whole models. A large study
therefore runs each part as a separate command, with `data` first if some nodes have no network.

Rows are divided among the processes and do not depend on their number, up to rounding: logits in
batches of a different shape, gradients added in a different order.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import torch

from rockstudy import tasks
from rockstudy.cli import running
from rockstudy.errors import StudyError, unknown
from rockstudy.gradients import steps as gradients_steps
from rockstudy.knockout import steps as knockout_steps
from rockstudy.parallel.distributed import together
from rockstudy.rocks.steps import causes, measured
from rockstudy.runs import Run
from rockstudy.selective import steps as selective_steps
from rockstudy.training import steps as training_steps
from rockstudy.training.arm import BASELINE
from rockstudy.training.prompts import train_prompts

GRACE_S = 30  # ours: time for the launcher to see which process failed first


def data(run: Run) -> None:
    """Read prompts and benchmarks from the Hub into its cache: later parts need no network."""
    if run.config.models is None:
        train_prompts(run)
    for task in run.config.benchmarks if run.config.has_prompts else ():
        tasks.load(task, "eval")


def training(run: Run) -> None:
    """Train stage 1, and the baseline of stage 2 at every seed."""
    training_steps.stage1_metrics(run)
    arms = [(BASELINE, seed, ()) for seed in run.config.seeds]
    training_steps.train_arms(run, arms)


def statistics(run: Run) -> None:
    """Grade the models, and measure them for notebooks 02 to 06.

    Given models are not graded where their prompts have no answers.
    """
    graded = running.grades(run.config)
    if graded:
        training_steps.pair_accuracy(run)
    if run.config.models is None:
        training_steps.accuracy_along(run)
    measurement = measured(run)
    measurement.token_table("post", measurement.names)
    if run.config.models is not None or "early" in measurement.names:
        gradients_steps.losses(run)
        gradients_steps.half_samples(run)
    if tasks.causes(run.config.benchmarks[0]):
        causes(run)
    if not graded:
        return
    chosen = knockout_steps.candidates(run)
    knockout_steps.screen(run, chosen)
    knockout_steps.naive(run, chosen)


def arms(run: Run) -> None:
    """Train the other arms of stage 2 (notebook 07) at their seeds, and time their steps."""
    selective_steps.metrics(run)
    selective_steps.timing(run)


def outcomes(run: Run) -> None:
    """Grade the arms."""
    selective_steps.accuracy(run)


PARTS = {part.__name__: part for part in (data, training, statistics, arms, outcomes)}


def check(parts: Sequence[str]) -> None:
    """Refuse an unknown part."""
    for name in parts:
        if name not in PARTS:
            raise StudyError(unknown("part", name, list(PARTS)))


def measure(run: Run, parts: Sequence[str] = ()) -> None:
    """Compute parts of a study (default: all) with the processes that were launched together.

    `StudyError`: an error of a step, with the number of the process.
    """
    together()  # each process selects its device before it loads models
    try:
        of_all = PARTS if run.config.models is None else ("data", "statistics")
        for name in PARTS:
            if name in (parts or of_all):
                PARTS[name](run)
    except StudyError as error:
        if "RANK" in os.environ:
            raise StudyError(f"process {together().process_index}: {error}") from None
        raise
    except RuntimeError as error:
        if "RANK" in os.environ and _lost_peer(error):
            time.sleep(GRACE_S)
        raise


def _lost_peer(error: RuntimeError) -> bool:
    """Whether this process failed because a peer ended, by the messages of gloo and NCCL."""
    lost = any(word in str(error) for word in ("gloo", "Connection closed", "NCCL"))
    return lost or isinstance(error, torch.distributed.DistError)
