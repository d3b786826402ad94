"""What takes long in a study, computed by several processes together; notebooks then only read it.

A notebook has one process. `rockstudy measure --processes 8`, or `accelerate launch -m rockstudy
measure` on several nodes, calls the same steps as the notebooks do, in the same order, and leaves
the same artefacts:

    data         training prompts of the Hub, and its benchmarks, which then lie in its cache
    training     stage 1, and the baseline of stage 2 at every seed
    statistics   gradings of the pair and the checkpoints, token tables, gradients, knockouts
    arms         the other arms of stage 2 at their seeds, and the times of their steps
    outcomes     gradings of the arms

Two of them train, which FSDP2 may shard; two sample and measure with whole models. So a large study
takes them as a command each, and `data` first where only some nodes have a network.

Rows are divided among the processes and do not depend on how many there are, up to the rounding of
logits in batches of another shape and of gradients that are added in another order.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

import torch

from rockstudy import tasks
from rockstudy.errors import StudyError, unknown
from rockstudy.gradients import steps as gradients_steps
from rockstudy.knockout import steps as knockout_steps
from rockstudy.parallel.distributed import together
from rockstudy.rocks.steps import measured
from rockstudy.runs import Run
from rockstudy.selective import steps as selective_steps
from rockstudy.training import steps as training_steps
from rockstudy.training.arm import BASELINE
from rockstudy.training.prompts import train_prompts

GRACE_S = 30  # ours: in which the launcher sees who failed first, and ends those who lost it


def data(run: Run) -> None:
    """Read what is on the Hub, so that what follows needs no network."""
    train_prompts(run)
    for task in run.config.benchmarks:
        tasks.load(task, "eval")


def training(run: Run) -> None:
    """Train stage 1 and the baseline of stage 2."""
    training_steps.stage1_metrics(run)
    arms = [(BASELINE, seed, ()) for seed in run.config.seeds]
    training_steps.train_arms(run, arms)


def statistics(run: Run) -> None:
    """Grade, and measure what the notebooks 02 to 06 need of the models."""
    training_steps.pair_accuracy(run)
    training_steps.accuracy_along(run)
    found = measured(run)
    if "early" in run.config.stage2.keep:
        found.token_table("early", ["early"])
        gradients_steps.half_samples(run)
    chosen = knockout_steps.candidates(run)
    knockout_steps.screen(run, chosen)
    knockout_steps.controls(run, chosen)


def arms(run: Run) -> None:
    """Train and time the arms of notebook 07."""
    selective_steps.metrics(run)
    selective_steps.timing(run)


def outcomes(run: Run) -> None:
    """Grade the arms."""
    selective_steps.accuracy(run)


PARTS: dict[str, Callable[[Run], None]] = {
    "data": data,
    "training": training,
    "statistics": statistics,
    "arms": arms,
    "outcomes": outcomes,
}


def check(parts: Sequence[str]) -> None:
    """Refuse an unknown part."""
    for name in parts:
        if name not in PARTS:
            raise StudyError(unknown("part", name, list(PARTS)))


def measure(run: Run, parts: Sequence[str] = ()) -> None:
    """Compute some parts of a study, all for none, with the processes that were launched together.

    Raises
    ------
    StudyError
        An unknown part; whatever the steps raise, with the number of the process.
    """
    check(parts)
    together()  # each process takes its own device before it loads models
    try:
        for name in PARTS:
            if not parts or name in parts:
                PARTS[name](run)
    except StudyError as error:
        if "RANK" in os.environ:
            raise StudyError(f"process {together().process_index}: {error}") from None
        raise
    except RuntimeError as error:
        if "RANK" in os.environ and _lost_another(error):
            time.sleep(GRACE_S)
        raise


def _lost_another(error: RuntimeError) -> bool:
    """Whether this process cannot go on because another one ended, in gloo's words or NCCL's."""
    lost = any(word in str(error) for word in ("gloo", "Connection closed", "NCCL"))
    return lost or isinstance(error, torch.distributed.DistError)
