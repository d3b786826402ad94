"""The engines that sample completions: transformers models through `decoding`, or vLLM.

An `Engine` continues rows of token ids. Each row has its own limit, banned tokens and random
numbers; `rollout.generate` and `knockout.prefix_reuse` make the rows. From the same rows both
engines sample the same distribution and the same greedy completions, but not the same draws:
transformers models invert the cumulative distribution with the row's uniform numbers, while vLLM
adds noise from a generator with the row's seed. In both, a row does not depend on other rows, up
to floating point in the logits.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from rockstudy.config.fields import EvalConfig
from rockstudy.errors import StudyError
from rockstudy.models import loading
from rockstudy.sampling.decoding import Chooser, check_recurrent, decode
from rockstudy.store.seeds import generator


@dataclass(frozen=True)
class Request:
    """A completion to write."""

    ids: Sequence[int]  # to continue: a prompt, in a knockout with the kept part of its completion
    limit: int  # maximum number of tokens to write, at least 1
    stream: tuple[int, str, int]  # seed, stage and unit of its random numbers (`store.seeds`)
    banned: tuple[int, ...] = ()  # token ids whose logit is minus infinity at every step


Left = Callable[[Request], Any]


class Engine(ABC):
    """A model that continues rows of token ids, with transformers' configurations of it."""

    config: Any
    generation_config: Any

    @abstractmethod
    def complete(
        self, rows: Sequence[Request], choose: Chooser, ends: Sequence[int], left: Left
    ) -> list[np.ndarray]:
        """Write the completions: an int32 array of new token ids for every row.

        A row ends with its first token in `ends`, or at its limit without one. Each finished row is
        passed to `left`. An engine that sees logits raises `StudyError` if they are not finite.
        """


class TransformersEngine(Engine):
    """A transformers model that decodes batches of rows of similar length."""

    def __init__(self, model: PreTrainedModel, batch_size: int) -> None:
        self.model, self.batch_size = model, batch_size
        self.config = model.config
        self.generation_config = getattr(model, "generation_config", None)

    def complete(
        self, rows: Sequence[Request], choose: Chooser, ends: Sequence[int], left: Left
    ) -> list[np.ndarray]:
        """Write the completions; rows are sorted by length, then by limit."""
        order = sorted(range(len(rows)), key=lambda r: (len(rows[r].ids), rows[r].limit, r))
        done: list[np.ndarray] = [np.empty(0, np.int32)] * len(rows)
        stop = torch.tensor(ends, device=self.model.device)
        with loading.evaluating(self.model):
            if order:
                check_recurrent(self.model)
            for first in range(0, len(order), self.batch_size):
                places = order[first : first + self.batch_size]
                batch = [rows[r] for r in places]
                limits = np.array([row.limit for row in batch])
                uniforms = _uniforms(batch, int(limits.max()), choose)
                given = ([list(row.ids) for row in batch], uniforms, choose, stop, limits)
                for i, ids in decode(self.model, *given, _banned(batch)):
                    done[places[i]] = ids
                    left(batch[i])
        return done


def _uniforms(rows: Sequence[Request], n: int, choose: Chooser) -> np.ndarray:
    """Uniform numbers float64 (B, n), one stream per row; zeros when greedy."""
    if choose.temperature == 0:
        return np.zeros((len(rows), n))
    return np.stack([generator(*row.stream).random(n) for row in rows])


def _banned(rows: Sequence[Request]) -> np.ndarray | None:
    """Banned ids int64 (B, n), padded with -1; None if no row has any."""
    padded = list(itertools.zip_longest(*(row.banned for row in rows), fillvalue=-1))
    return np.array(padded, np.int64).T if padded else None


def of(model: PreTrainedModel | Engine, batch_size: int) -> Engine:
    """Return the engine of a transformers model; an engine is returned unchanged."""
    return model if isinstance(model, Engine) else TransformersEngine(model, batch_size)


@contextmanager
def opened(
    how: EvalConfig,
    name: str,
    load: Callable[[], PreTrainedModel],
    *,
    max_prompt_tokens: int,
    **model: Any,
) -> Iterator[Engine]:
    """Open the engine that `how` names; a vLLM engine frees its memory at the end.

    `load` returns the model for transformers. vLLM takes its `name` and further arguments of
    `VllmEngine`, and reserves memory for prompts of `max_prompt_tokens`.

    `StudyError`: vLLM is not installed or cannot read the model.
    """
    if how.engine == "transformers":
        yield TransformersEngine(load(), how.batch_size)
        return
    try:
        from rockstudy.sampling.vllm_engine import VllmEngine
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("vllm"):
            raise
        raise StudyError(
            "engine: vllm is not installed; install the extra rockstudy[vllm], or take the "
            "engine transformers"
        ) from None
    with closing(VllmEngine(name, max_prompt_tokens + how.max_new_tokens, **model)) as served:
        yield served
