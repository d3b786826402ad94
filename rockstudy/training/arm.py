"""An arm: a regime of stage 2."""

from dataclasses import dataclass, replace
from typing import Literal

from rockstudy.runs import Run
from rockstudy.training.position_weights import WeightFunction


@dataclass(frozen=True)
class Arm:
    """A regime of stage 2: its name, its position weights, its normaliser, its learning rate."""

    name: str
    weights: WeightFunction | None = None
    normalize: Literal["tokens", "weights"] = "tokens"
    rate: float = 1.0  # factor on the learning rate of stage 2

    def of(self, run: Run) -> Run:
        """Return the run with this arm's normaliser and learning rate in stage 2."""
        stage = run.config.stage("stage2")
        own = {"normalize": self.normalize, "lr": stage.lr * self.rate}
        stage = stage.model_copy(update=own)
        return replace(run, config=run.config.model_copy(update={"stage2": stage}))


BASELINE = Arm("baseline")
