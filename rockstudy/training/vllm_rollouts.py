"""The vLLM engine that writes the student's rollouts inside the process that trains it.

TRL starts an engine for every trainer, and neither it nor vLLM (0.31) leaves the process as it was:

- The environment then looks as if a launcher had started the process, so the next trainer waits
  for others, and no engine can have a separate process (`sampling.vllm_engine`).
- vLLM reads none of its own variables again, and takes every object that there is out of garbage
  collection: no trainer that was finished later would give its memory back.
- An engine that is ended destroys the process group, which belongs to all that train together.

So a process starts one engine for all trainings with the same settings, never ends it, and undoes
the changes. Each training writes its own weights into the engine.
"""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trl.generation.vllm_generation import VLLMGeneration

from rockstudy.store.fingerprints import fingerprint

_ENGINES: dict[str, Any] = {}  # vllm.LLM by what it was started with


class Generation(VLLMGeneration):
    """TRL's rollouts of one trainer, by the engine that the process has."""

    # Replaces VLLMGeneration._init_vllm where there is an engine already.
    def _init_vllm(self) -> None:
        # what an engine is made for; its weights are replaced at every use
        names = ("max_model_length", "max_num_seqs", "gpu_memory_utilization", "model_impl")
        shape = self.model.config.to_dict() | {"_name_or_path": None}
        key = fingerprint({"model": shape, **{name: getattr(self, name) for name in names}})
        if key not in _ENGINES:
            with unchanged():
                super()._init_vllm()
            _ENGINES[key] = self.llm
        self.llm = _ENGINES[key]


@contextmanager
def unchanged() -> Iterator[None]:
    """Start an engine inside, and undo what that does to the process."""
    before = dict(os.environ)
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # no telemetry
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
        gc.unfreeze()
        forget = getattr(sys.modules.get("vllm.envs"), "disable_envs_cache", None)
        if forget is not None:
            forget()
