"""A student at one point of its training, wherever it was trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from rockstudy.config.fields import CheckpointConfig, ModelsConfig, PairConfig
from rockstudy.models import loading, sources
from rockstudy.store import cache


@dataclass(frozen=True)
class Checkpoint:
    """A folder that a run has trained (`in_folder`), or a model that was given (`given`)."""

    source: Mapping[str, Any]  # arguments of `loading.load_model`
    dtype: loading.DType
    folder: Path | None = None  # of a run
    among: ModelsConfig | None = None  # the given models, which it shares a vocabulary with

    def load(self) -> PreTrainedModel:
        """Load the model in evaluation mode, with the ids that all have; `loading.load_model`."""
        return loading.load_model(**self.source, dtype=self.dtype, vocabulary=self._shared)

    @cached_property
    def _shared(self) -> int | None:
        """The number of ids that its head is cut to; None where nothing is cut."""
        return None if self.among is None else loading.shared_size(self.among)

    @cached_property
    def hash(self) -> str:
        """Hash of the folder, or identity of the given files and of how they are read."""
        if self.folder is not None:
            kind = "" if self.dtype == "auto" else f" {self.dtype}"
            return cache.hash_folder(self.folder) + kind
        cut = "" if self._shared is None else f" {self._shared} ids"
        return f"{sources.identity(**self.source)} {self.dtype}{cut}"


def in_folder(folder: Path, pair: PairConfig) -> Checkpoint:
    """A checkpoint that a run of this pair has trained, to be computed with as the pair is."""
    dtype: loading.DType = "fastest" if pair.dtype == "fastest" else "auto"
    return Checkpoint({"name": str(folder)}, dtype, folder)


def given(models: ModelsConfig) -> dict[str, Checkpoint]:
    """The students of a configuration: ``pre`` (before), ``post`` (after) and those in between."""

    def one(field: str, checkpoint: CheckpointConfig) -> Checkpoint:
        return Checkpoint(loading.of_checkpoint(checkpoint, field), models.dtype, among=models)

    between = {name: one(f"between__{name}", this) for name, this in models.between.items()}
    return {"pre": one("before", models.before), "post": one("after", models.after), **between}


def steps(models: ModelsConfig) -> dict[str, int]:
    """The optimiser steps of each student of `given`, in the order of training.

    Where one of them has no step, all are numbered by their place: before, in between as they are
    listed, after.
    """
    order = {"pre": models.before, **models.between, "post": models.after}
    known = {"pre": models.before.at_step or 0}
    known |= {name: one.at_step for name, one in order.items() if one.at_step is not None}
    if len(known) < len(order):
        return {name: place for place, name in enumerate(order)}
    return dict(sorted(known.items(), key=lambda pair: pair[1]))
