"""An arm: a regime of stage 2."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from rockstudy.runs import Run
from rockstudy.training.optimizers import Optimizer
from rockstudy.training.position_weights import WeightFunction


@dataclass(frozen=True)
class Arm:
    """A regime of stage 2: its name, its position weights, the normaliser of its loss.

    ``optimizer`` is None for what every stage trains with. ``lr`` and ``keep`` take the place of
    the stage's own, where they are given, and ``rate`` is a factor on the learning rate.
    """

    name: str
    weights: WeightFunction | None = None
    normalize: Literal["tokens", "weights"] = "tokens"
    optimizer: Optimizer | None = None
    lr: float | None = None
    rate: float = 1.0
    keep: Mapping[str, float] | None = None

    def of(self, run: Run) -> Run:
        """Return the run with this arm's settings in stage 2."""
        stage = run.config.stage("stage2")
        lr = (stage.lr if self.lr is None else self.lr) * self.rate
        own: dict[str, Any] = {"normalize": self.normalize, "lr": lr}
        own |= {} if self.keep is None else {"keep": dict(self.keep)}
        stage = stage.model_copy(update=own)
        return replace(run, config=run.config.model_copy(update={"stage2": stage}))


BASELINE = Arm("baseline")
