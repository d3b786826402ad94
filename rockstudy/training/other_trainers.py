"""Position weights, and the loss of each token type, for a TRL trainer that is not this package's.

One line each, before ``trainer.train()``:

    weigh(trainer, weights)                           # such as `selective.rock_weights.RockWeights`
    TypeLosses("type_losses.parquet").watch(trainer)

TRL has no place for a weight at a position, and its callbacks see no losses. Both lines therefore
pass the divergence at each position through a hook on the one object: for `trl.DistillationTrainer`
where its loss adds up the divergences of a micro-batch, for GKD's trainer at
``generalized_jsd_loss``. The trainer's class stays as it is, and so do its data, rollouts, teacher
and normaliser: the loss is divided by TRL's own number of completion tokens whatever the weights
are. Evaluation is left alone. The hook reads a private name of TRL, whose version is pinned; a
trainer that computes its loss another way is an error, never a training without its weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import TrainerCallback
from trl import DistillationTrainer
from trl.trainer import distillation_trainer

from rockstudy.errors import StudyError
from rockstudy.models.token_texts import token_texts
from rockstudy.store import files
from rockstudy.training.metrics import Ledger

Weights = Callable[[Tensor, Tensor, Tensor], Tensor]
_KINDS = {0.0: "fkl", 1.0: "rkl"}  # by TRL's beta; the generalised JSD between them
_HOOK = "_rockstudy_positions"  # the attribute of a trainer that has the hook


def weigh(trainer: Any, weights: Weights) -> None:
    """Have a trainer multiply the divergence at each position by a weight.

    ``weights(ids, mask, losses)`` gets the tokens that are being predicted, int64 (R, T), which of
    them count, bool (R, T), and the divergence in nats at each, float32 (R, T), without a gradient
    and 0 outside the mask. It returns the weights, float (R, T).

    `StudyError`: a trainer of another kind, or one that has weights already.
    """
    hook = _hooked(trainer)
    if hook.weights is not None:
        raise StudyError("trainer: must not be weighed twice; got one that has weights")
    hook.weights = weights


class TypeLosses(TrainerCallback):
    """Records the loss of each token type along training, and writes it as parquet.

    A row for each logging window and each type met in it: ``step`` (the window's last), ``token_id,
    text, count, <kind>_sum, <kind>_mean``, nats. The kind is ``rkl``, KL(student || teacher), where
    the trainer's beta is 1; ``fkl`` where it is 0; ``jsd`` between. The sums are unweighted, over
    all processes, and cost no forward pass. The file is written with each checkpoint and at the
    end; a resumed training continues what it holds up to its step.
    """

    def __init__(self, file: str | Path) -> None:
        self.file, self._before = Path(file), pd.DataFrame()
        if self.file.suffix != ".parquet":
            raise StudyError(f"file: must end in .parquet; got {str(file)!r}")
        if not self.file.parent.is_dir():
            raise StudyError(f"file: must be in a folder that exists; got {str(file)!r}")

    def watch(self, trainer: Any) -> Self:
        """Record a trainer; `StudyError` for one of another kind."""
        _hooked(trainer).watchers.append(self._add)
        trainer.add_callback(self)
        self._kind, self._accelerator = _KINDS.get(float(trainer.beta), "jsd"), trainer.accelerator
        self._tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
        self._ledger = Ledger(trainer.model.config.get_text_config().vocab_size)
        return self

    def _add(self, ids: Tensor, mask: Tensor, losses: Tensor) -> None:
        """Add a micro-batch."""
        values, types = losses[mask], ids[mask]
        self._ledger.add_rollouts(mask.sum(1), mask.any(1))
        self._ledger.add_positions(values, values, types, torch.ones_like(values))

    def frame(self) -> pd.DataFrame:
        """What has been recorded up to the last closed window."""
        made = self._ledger.table("type_losses")
        made = made.rename(columns={"rkl_sum": f"{self._kind}_sum"})
        unique, places = np.unique(made.token_id.to_numpy(), return_inverse=True)
        made.insert(2, "text", np.array(token_texts(self._tokenizer, unique), object)[places])
        made[f"{self._kind}_mean"] = made[f"{self._kind}_sum"] / made["count"]
        return pd.concat([self._before, made.astype({"text": "str"})], ignore_index=True)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take over what the file holds of the training that is resumed."""
        if state.global_step and self.file.is_file():
            stored = files.read_frame(self.file)
            self._before = stored[stored.step <= state.global_step]

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count the step."""
        self._ledger.add_step({})

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close a window."""
        self._close(state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close a window, so that no step is lost where training resumes, and write the file."""
        self._close(state.global_step)
        self._write(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the last window and write the file."""
        self._close(state.global_step)
        self._write(state)

    def _close(self, step: int) -> None:
        if self._ledger.sums["n_steps"]:  # as many in every process
            window = torch.from_numpy(self._ledger.window()).to(self._accelerator.device)
            total = self._accelerator.reduce(window, "sum").cpu().numpy()
            self._ledger.close(step, total, float("nan"), float("nan"))

    def _write(self, state: Any) -> None:
        if state.is_world_process_zero:
            with files.writing(self.file), files.temporary(self.file) as waiting:
                files.write_frame(self.frame(), waiting, self.file.name)
                files.put(waiting, self.file)


class _Positions:
    """What happens to the divergence at each position of a trainer's loss."""

    def __init__(self, trainer: Any) -> None:
        self.weights: Weights | None = None
        self.watchers: list[Callable[[Tensor, Tensor, Tensor], None]] = []
        self._trainer = trainer
        if isinstance(trainer, DistillationTrainer):
            trainer._compute_loss = self._chunked(trainer._compute_loss)
        else:
            trainer.generalized_jsd_loss = self._whole(trainer.generalized_jsd_loss)

    def _chunked(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        """DistillationTrainer._compute_loss, in which divergences pass through this object."""

        def compute(student: Any, inputs: Any, *given: Any) -> Any:
            if not self._trainer.model.training:
                return inner(student, inputs, *given)
            mask = inputs["completion_mask"].bool()
            if "tool_mask" in inputs:
                mask = mask & inputs["tool_mask"].bool()
            with self._seam(inputs["completion_ids"], mask):
                return inner(student, inputs, *given)

        return compute

    @contextlib.contextmanager
    def _seam(self, ids: Tensor, mask: Tensor) -> Iterator[None]:
        """Replace TRL's function of divergences for the time of one loss."""
        own, seen = distillation_trainer.ChunkedDivergenceFunction, []

        def apply(*given: Any) -> tuple[Tensor, Tensor]:
            divergence, entropy = own.apply(*given)
            seen.append(True)
            return self._weighed(divergence, ids, mask), entropy

        distillation_trainer.ChunkedDivergenceFunction = SimpleNamespace(apply=apply)
        try:
            yield
        finally:
            distillation_trainer.ChunkedDivergenceFunction = own
        if not seen:
            raise StudyError(
                "trainer: must compute its loss as TRL's DistillationTrainer does; got a "
                f"{type(self._trainer).__name__} that does not"
            )

    def _whole(self, inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """GKDTrainer.generalized_jsd_loss; its labels are the tokens that are predicted."""

        def loss(*given: Any, labels: Tensor, num_items_in_batch: Any = None, **how: Any) -> Tensor:
            if not self._trainer.model.training:
                return inner(*given, labels=labels, num_items_in_batch=num_items_in_batch, **how)
            mask = labels != -100
            each = inner(*given, labels=labels, **how | {"reduction": "none"}).sum(-1)
            n = mask.sum().clamp_min(1) if num_items_in_batch is None else num_items_in_batch
            return self._weighed(each, labels, mask).sum() / n

        return loss

    def _weighed(self, divergence: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """The divergences with their weights; they are of every position, or of the mask alone."""
        flat = mask.reshape(-1)
        whole = len(divergence) == len(flat)
        losses = torch.zeros(len(flat), device=divergence.device)
        losses[flat] = (divergence[flat] if whole else divergence).detach().float()
        losses = losses.view(mask.shape)
        for watch in self.watchers:
            watch(ids, mask, losses)
        if self.weights is None:
            return divergence
        w = self.weights(ids, mask, losses)
        if w.shape != mask.shape:
            must = f"must be one number per position, {tuple(mask.shape)}"
            raise StudyError(f"weights: {must}; got {tuple(w.shape)}")
        w = w.reshape(-1).to(divergence)
        return divergence * (w if whole else w[flat])


def _hooked(trainer: Any) -> _Positions:
    """The hook of a trainer, which gets one where it has none."""
    if not hasattr(trainer, _HOOK):
        kinds = {one.__name__ for one in type(trainer).__mro__}
        if not kinds & {"DistillationTrainer", "GKDTrainer"}:
            raise StudyError(
                "trainer: must be TRL's DistillationTrainer or GKDTrainer; "
                f"got {type(trainer).__name__}"
            )
        setattr(trainer, _HOOK, _Positions(trainer))
    return getattr(trainer, _HOOK)
