"""An arm: a regime of stage 2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rockstudy.config.fields import StudyConfig
from rockstudy.models import loading
from rockstudy.training import stages
from rockstudy.training.position_weights import WeightFunction


@dataclass(frozen=True)
class Arm:
    """A regime of stage 2: its name, its position weights, the normaliser of its loss."""

    name: str
    weights: WeightFunction | None = None
    normalize: Literal["tokens", "weights"] = "tokens"

    def configured(self, config: StudyConfig) -> StudyConfig:
        """Return the study with this arm's normaliser in stage 2."""
        stage = config.stage2.model_copy(update={"normalize": self.normalize})
        return config.model_copy(update={"stage2": stage})

    def train(
        self, config: StudyConfig, run: Path, seed: int, pair: loading.Pair | None = None
    ) -> stages.TrainResult:
        """Train the arm at one seed, or read it back; see `distill.train`."""
        return stages.train(self.configured(config), "stage2", **self._given(run, seed, pair))

    def is_trained(self, config: StudyConfig, run: Path, seed: int, pair: loading.Pair) -> bool:
        """Whether `train` would only read."""
        return stages.is_trained(self.configured(config), "stage2", **self._given(run, seed, pair))

    def _given(self, run: Path, seed: int, pair: loading.Pair | None) -> dict[str, Any]:
        named = {"arm": self.name, "weights": self.weights}
        return {"run": run, "seed": seed, "pair": pair, **named}


BASELINE = Arm("baseline")
