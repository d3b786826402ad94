"""An arm: a regime of stage 2."""

from dataclasses import dataclass, replace
from typing import Literal

from rockstudy.runs import Run
from rockstudy.training.position_weights import WeightFunction


@dataclass(frozen=True)
class Arm:
    """A regime of stage 2: its name, its position weights, the normaliser of its loss."""

    name: str
    weights: WeightFunction | None = None
    normalize: Literal["tokens", "weights"] = "tokens"

    def of(self, run: Run) -> Run:
        """Return the run with this arm's normaliser in stage 2."""
        stage = run.config.stage("stage2").model_copy(update={"normalize": self.normalize})
        return replace(run, config=run.config.model_copy(update={"stage2": stage}))


BASELINE = Arm("baseline")
