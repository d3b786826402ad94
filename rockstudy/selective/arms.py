r"""The arms of the training-time intervention: stage 2 with other position weights (paper 5).

Each arm starts from the end of stage 1, with the same prompts and random numbers of the rollouts,
so that arms are paired by training seed. Rocks come from the type table of a finished baseline and
are frozen from the first step, as in the paper. lambda is the weight of what is frozen.

    baseline           1 everywhere
    rock-freeze        lambda = 0 on rocks and their windows (paper 5)
    random-windows     lambda = 0 on random windows that match them (paper 5; ours: really matched)
    lambda-0.5         rocks and windows with another lambda: the sweep
    types              lambda = 0 on the rocks alone, without windows
    types-normalized   the same, divided by the sum of weights: what the paper's public code trains
    next-ranks         lambda = 0 on the next K types by the same score: its random baseline
    soft               1 - persistence on each rock (ours; open in the paper's limitations)
    ramp               lambda from 0 to 1 over the stage on rocks and windows (ours)
    redetected         lambda = 0 on the K types with most loss lately, found anew (ours)
    keep-rocks         lambda = 0 on everything but the rocks (ours)
    freeze-X, keep-X   lambda = 0 on, or on all but, the set of `selectors` X (ours)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rockstudy.config.fields import StudyConfig
from rockstudy.errors import StudyError
from rockstudy.rocks import controls, selectors
from rockstudy.rocks.detection import Detection
from rockstudy.selective.windows import RandomWindows, WindowWeights
from rockstudy.training.arm import BASELINE, Arm
from rockstudy.training.position_weights import Ramp, Redetected, TokenWeights, persistence_weights

REDETECTIONS = 4  # ours: how often a stage finds its rocks anew
MATCH = 0.01  # ours: how far the share of random windows may be from that of the rocks' own


@dataclass(frozen=True)
class Material:
    """What arms are made from, measured on a finished baseline.

    Attributes
    ----------
    detection
        Scored types, thresholds, rock settings.
    tokens
        The token table behind it.
    special
        Ids of special tokens, which are never frozen as controls.
    """

    detection: Detection
    tokens: pd.DataFrame
    special: tuple[int, ...]

    @property
    def rocks(self) -> tuple[int, ...]:
        """The rocks: the first K types by rank."""
        return self.detection.rocks().ids

    @property
    def controls(self) -> tuple[int, ...]:
        """As many other types, matched to the rocks by frequency."""
        pairs = controls.assign(self.detection.types, self.rocks, exclude=self.special).pairs
        return tuple(sorted(pairs.token_id_control.tolist()))

    @property
    def threshold(self) -> float:
        """Reverse KL, which every arm trains on, above which a position belongs to a window."""
        if self.detection.settings.loss == "rkl":
            return self.detection.tau_post
        return float(np.quantile(self.tokens.rkl_post, self.detection.settings.tau_post))

    @property
    def next_ranks(self) -> tuple[int, ...]:
        """The types of rank K + 1 to 2 K (the paper's code: 101 to 200)."""
        k, types = self.detection.settings.k, self.detection.types
        return tuple(sorted(types.token_id[types["rank"].between(k + 1, 2 * k)].tolist()))


def build(name: str, material: Material, config: StudyConfig, seed: int) -> Arm:
    """Return an arm of `config.freeze` at a training seed.

    Windows reach as far as the rocks' context windows, and their threshold is the rocks' own
    quantile of the reverse KL after OPD.

    Raises
    ------
    StudyError
        A name that is no arm; a selector that ranks fewer than K types.
    """
    rocks, k = material.rocks, config.rocks.k
    threshold, width = material.threshold, config.rocks.window
    if name == "baseline":
        return BASELINE
    if name == "rock-freeze":
        return Arm(name, WindowWeights(rocks, 0.0, threshold, width))
    if name == "random-windows":
        others = material.controls
        weights = RandomWindows(rocks, others, 0.0, threshold, width, seed)
        return Arm(name, weights)
    if name == "ramp":
        ramp = Ramp(0.0, 1.0, config.stage2.steps)
        return Arm(name, WindowWeights(rocks, ramp, threshold, width))
    if found := re.fullmatch(r"lambda-(0\.\d+)", name):
        return Arm(name, WindowWeights(rocks, float(found[1]), threshold, width))
    if name in ("types", "types-normalized"):
        normalize = "weights" if name == "types-normalized" else "tokens"
        return Arm(name, TokenWeights(rocks, 0.0), normalize)
    if name == "next-ranks":
        return Arm(name, TokenWeights(material.next_ranks, 0.0))
    if name == "soft":
        return Arm(name, persistence_weights(material.detection.types, rocks, 0.0))
    if name == "redetected":
        # the ledger closes a window every logging_steps: a period is made of whole ones
        logged = config.stage2.logging_steps
        periods = max(1, round(config.stage2.steps / REDETECTIONS / logged))
        return Arm(name, Redetected(k, periods * logged, 0.0))
    if name == "keep-rocks":
        return Arm(name, TokenWeights(rocks, 0.0, keep=True))
    how, _, selector = name.partition("-")
    if how not in ("freeze", "keep"):
        raise StudyError(
            f"freeze__arms: must be names listed in rockstudy.selective.arms; got {name!r}"
        )
    chosen = selectors.select(material.tokens, selector, k).ids
    return Arm(name, TokenWeights(chosen, 0.0, keep=how == "keep"))


def plan(config: StudyConfig) -> list[tuple[str, int, bool]]:
    """Every arm and training seed, and whether it is graded at every named checkpoint."""
    main: Sequence[tuple[str, int, bool]] = [
        (name, seed, True) for name in config.freeze.arms for seed in config.seeds
    ]
    few = config.seeds[: config.freeze.extra_seeds]
    return [*main, *((name, seed, False) for name in config.freeze.extra for seed in few)]
