"""The arms of the training-time intervention: stage 2 with other position weights (paper 5).

Each arm starts from the end of stage 1, with the same prompts and random numbers of the rollouts,
so that arms are paired by training seed. Rocks come from the type table of a finished baseline and
are frozen from the first step, as in the paper. lambda is the weight of what is frozen.

An arm is a function of `rockstudy.selective.material.Material`, which has the rocks, other sets of
types, and the weights that can be made of them.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from rockstudy.config.registry import ARMS, SELECTORS
from rockstudy.errors import StudyError

if TYPE_CHECKING:  # names of arms are checked without torch
    from rockstudy.config.fields import StudyConfig
    from rockstudy.selective.material import Material
    from rockstudy.training.arm import Arm

CONTROLS = ("random-windows", "random-windows-loss")  # of rock-freeze
MATCH = 0.01  # ours: largest relative difference between the shares of random and rock windows


@ARMS.register("baseline")
def baseline(made: Material) -> Arm:
    """Weight 1 everywhere."""
    return made.arm(None)


@ARMS.register("rock-freeze")
def rock_freeze(made: Material) -> Arm:
    """Weight 0 on rocks and their windows (paper 5)."""
    return made.windows(0.0)


@ARMS.register("random-windows")
def random_windows(made: Material) -> Arm:
    """Weight 0 on random windows that match those of the rocks (paper 5; ours: the match)."""
    return made.random_windows(0.0)


@ARMS.register("random-windows-loss")
def random_windows_loss(made: Material) -> Arm:
    """Weight 0 on random windows that match those of the rocks in their loss too (ours)."""
    return made.random_windows(0.0, loss=True)


def _lambda(text: str) -> float:
    """A weight below 1, in the one spelling that names an arm."""
    whole, _, digits = text.partition(".")
    if whole != "0" or not (digits.isascii() and digits.isdecimal()):
        raise StudyError(f"number: must be 0 and decimals, such as 0.5; got {text!r}")
    return float(text)


@ARMS.register("lambda-<number>", parse=_lambda)
def other_lambda(made: Material, number: float) -> Arm:
    """Rocks and windows with a different lambda, such as lambda-0.5: the sweep."""
    return made.windows(number)


@ARMS.register("types")
def types(made: Material) -> Arm:
    """Weight 0 on the rocks alone, without windows."""
    return made.types(made.rocks)


@ARMS.register("types-normalized")
def types_normalized(made: Material) -> Arm:
    """As types, divided by the sum of weights: what the paper's public code trains."""
    return made.types(made.rocks, normalize="weights")


@ARMS.register("next-ranks")
def next_ranks(made: Material) -> Arm:
    """Weight 0 on the next K types by the same score, as in the code of the paper's figures."""
    return made.types(made.next_ranks)


@ARMS.register("soft")
def soft(made: Material) -> Arm:
    """Weight 1 - persistence on each rock (ours; open in the paper's limitations)."""
    return made.persistence()


@ARMS.register("ramp")
def ramp(made: Material) -> Arm:
    """Weight from 0 to 1 over the stage on rocks and windows (ours)."""
    return made.windows(made.ramp)


@ARMS.register("redetected")
def redetected(made: Material) -> Arm:
    """Weight 0 on the K types with most loss lately, found anew (ours)."""
    return made.redetected()


@ARMS.register("keep-rocks")
def keep_rocks(made: Material) -> Arm:
    """Weight 0 on everything but the rocks (ours)."""
    return made.types(made.rocks, keep=True)


@ARMS.register("freeze-<selector>", parse=SELECTORS.check)
def freeze(made: Material, selector: str) -> Arm:
    """Weight 0 on the first K types of a selector (ours)."""
    return made.types(made.selected(selector))


@ARMS.register("keep-<selector>", parse=SELECTORS.check)
def keep(made: Material, selector: str) -> Arm:
    """Weight 0 on all but the first K types of a selector (ours)."""
    return made.types(made.selected(selector), keep=True)


def build(name: str, material: Material, seed: int) -> Arm:
    """Return an arm at a training seed.

    `StudyError`: a name that is no arm; a selector that ranks fewer than K types.
    """
    return ARMS[name](dataclasses.replace(material, name=name, seed=seed))


def plan(config: StudyConfig) -> list[tuple[str, int, bool]]:
    """Every arm and training seed, and whether it is graded at every named checkpoint."""
    freeze, few = config.freeze, config.seeds[: config.freeze.extra_seeds]
    main = [(name, seed, True) for name in freeze.arms for seed in config.seeds]
    return main + [(name, seed, False) for name in freeze.extra for seed in few]
