"""The arms of notebook 09: equal shares of the positions or of the loss, and scales of training.

They join the arms of notebook 07 (`rockstudy.selective.arms`) and start from the same stage 1, with
the same prompts and random numbers. The share is ``freezing__share``.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from rockstudy.beyond.freezing import orders
from rockstudy.config.registry import ARMS
from rockstudy.errors import StudyError
from rockstudy.selective import arms as selective  # whose names come first

if TYPE_CHECKING:  # names of arms are checked without torch
    from rockstudy.config.fields import StudyConfig
    from rockstudy.selective.material import Material
    from rockstudy.training.arm import Arm

POSITIONS, LOSS = "equal-positions-", "equal-loss-"
RATE, UNIFORM = "rate-", "uniform-"
MOST = 2.0  # ours: the truncation of importance weights, as is usual where rollouts lag behind


def _factor(text: str) -> float:
    """A positive number other than 1, in the one spelling that names an arm."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (0 < number < math.inf and number != 1 and f"{number:g}" == text):
        raise StudyError(f"number: must be positive, finite and not 1, such as 0.5; got {text!r}")
    return number


@ARMS.register(f"{POSITIONS}<selector>", parse=orders.check)
def equal_positions(made: Material, selector: str) -> Arm:
    """Weight 0 in the order of a selector until the share of the positions is left out (ours)."""
    return _equal(made, selector, "positions")


@ARMS.register(f"{LOSS}<selector>", parse=orders.check)
def equal_loss(made: Material, selector: str) -> Arm:
    """Weight 0 in the order of a selector until the share of the loss is left out (ours)."""
    return _equal(made, selector, "loss")


@ARMS.register(f"{UNIFORM}<number>", parse=_factor)
def uniform(made: Material, number: float) -> Arm:
    """The same weight everywhere (ours); AdamW hardly sees it, since its steps have no scale."""
    from rockstudy.training.position_weights import Constant

    return made.arm(Constant(number))


@ARMS.register(f"{RATE}<number>", parse=_factor)
def rate(made: Material, number: float) -> Arm:
    """Weight 1 everywhere, and the learning rate times a number: less of the same training."""
    return dataclasses.replace(made.arm(None), rate=number)


@ARMS.register("importance")
def importance(made: Material) -> Arm:
    """Weights by the accumulated log-ratio of teacher and student along the rollout, mean 1."""
    from rockstudy.beyond.freezing.weights import Importance

    return made.arm(Importance(MOST))


def _equal(made: Material, selector: str, of: str) -> Arm:
    from rockstudy.beyond.freezing import steps

    return made.arm(steps.equal_share(made, selector, of))


def plan(config: StudyConfig) -> list[tuple[str, int, bool]]:
    """Arms and seeds in the order of training, and whether every named checkpoint is graded.

    An arm's seeds come together, so that a plan that is cut short has whole arms. A learning rate
    is trained at every seed, because arms of notebook 07 are compared with it too. What notebook 07
    trains at a seed is not in it.
    """
    trained = {(name, seed) for name, seed, _ in selective.plan(config)}
    few = config.seeds[: config.freezing.seeds]
    jobs = [
        (name, seed)
        for name in config.freezing.arms
        for seed in (config.seeds if name.startswith(RATE) else few)
    ]
    return [(*job, job[0].startswith(RATE)) for job in jobs if job not in trained]
