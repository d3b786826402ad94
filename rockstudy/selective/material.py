"""The measurements of a finished baseline, and the arms that are made from them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from rockstudy.config.fields import StudyConfig
from rockstudy.rocks import controls, selectors
from rockstudy.rocks.detection import Detection
from rockstudy.runs import Run
from rockstudy.selective.windows import LossMatchedWindows, RandomWindows, WindowWeights
from rockstudy.training.arm import Arm
from rockstudy.training.position_weights import (
    Level,
    Ramp,
    Redetected,
    TokenWeights,
    WeightFunction,
    persistence_weights,
)

Normalize = Literal["tokens", "weights"]
REDETECTIONS = 4  # ours: how often a stage finds its rocks anew


@dataclass(frozen=True)
class Material:
    """Measurements of a finished baseline, and the arm that is being made from them."""

    detection: Detection  # scored types, thresholds, rock settings
    tokens: pd.DataFrame  # the token table behind it
    special: tuple[int, ...]  # ids of special tokens, which are never frozen as controls
    config: StudyConfig
    name: str = "baseline"  # of the arm
    seed: int = 0  # of its training
    run: Run | None = None  # that measured them; arms of rooms above read more of it

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
        """Reverse KL, which every arm trains on, above which a position belongs to a window.

        The rocks' own quantile of the reverse KL after OPD.
        """
        if self.detection.settings.loss == "rkl":
            return self.detection.tau_post
        return float(np.quantile(self.tokens.rkl_post, self.detection.settings.tau_post))

    @property
    def next_ranks(self) -> tuple[int, ...]:
        """The types of rank K + 1 to 2 K (the paper's figures: 101 to 200)."""
        k, types = self.detection.k, self.detection.types
        return tuple(sorted(types.token_id[types["rank"].between(k + 1, 2 * k)].tolist()))

    @property
    def ramp(self) -> Ramp:
        """A weight from 0 to 1 over the stage."""
        return Ramp(0.0, 1.0, self.config.stage("stage2").steps)

    def selected(self, selector: str) -> tuple[int, ...]:
        """The first K types of a selector; StudyError where it ranks fewer."""
        return selectors.select(self.tokens, selector, self.detection.k).ids

    def arm(self, weights: WeightFunction | None, normalize: Normalize = "tokens") -> Arm:
        """An arm with any position weights."""
        return Arm(self.name, weights, normalize)

    def types(
        self, ids: Collection[int], *, keep: bool = False, normalize: Normalize = "tokens"
    ) -> Arm:
        """Leave token types out of the loss, or with `keep` all the others."""
        return self.arm(TokenWeights(ids, 0.0, keep=keep), normalize)

    def windows(self, value: Level) -> Arm:
        """Weigh the rocks and their windows, which reach as far as the rocks' context windows."""
        return self.arm(WindowWeights(*self._windows(value)))

    def random_windows(self, value: Level, *, loss: bool = False) -> Arm:
        """Weigh random windows that match those of the rocks, with `loss` in their loss too."""
        kind = LossMatchedWindows if loss else RandomWindows
        return self.arm(kind(*self._windows(value), self.controls, self.seed))

    def _windows(self, value: Level) -> tuple[tuple[int, ...], Level, float, int]:
        return self.rocks, value, self.threshold, self.config.rocks.window

    def persistence(self) -> Arm:
        """Weigh each rock by 1 - its persistence."""
        return self.arm(persistence_weights(self.detection.types, self.rocks, 0.0))

    def redetected(self) -> Arm:
        """Leave out the K types with most loss lately, found anew `REDETECTIONS` times."""
        # the ledger closes a window every logging_steps, and a period has whole windows
        stage = self.config.stage("stage2")
        periods = max(1, round(stage.steps / REDETECTIONS / stage.logging_steps))
        return self.arm(Redetected(self.detection.k, periods * stage.logging_steps, 0.0))
