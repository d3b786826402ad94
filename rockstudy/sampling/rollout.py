r"""Sampling completions; this module alone defines which column is which token.

The uniform numbers that draw a rollout's tokens depend only on (seed, prompt, sample). The same
seed therefore gives the same completion for any batch size or neighbouring rows (up to floating
point in the logits), and torch's generators are not used. `decoding` has the inner loop.

Alignment, everywhere in rockstudy: column t of anything derived from `Rollouts` concerns the
prediction of ``completion_ids[:, t]``, made from the prompt and ``completion_ids[:, :t]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rockstudy import progress, tasks
from rockstudy.config.fields import EvalConfig, TaskConfig
from rockstudy.errors import StudyError
from rockstudy.models import chats, configuration, loading
from rockstudy.models.chats import Prompt
from rockstudy.models.token_texts import decoded
from rockstudy.parallel import distributed
from rockstudy.sampling import engines
from rockstudy.sampling.decoding import Chooser
from rockstudy.sampling.engines import Engine, Request
from rockstudy.tasks import Problem

PART = 512  # ours: prompts sampled between two writes to disk


@dataclass(frozen=True)
class Rollouts:
    """Completions and their prompts: R rows, each of a prompt and a sample of it."""

    prompt_ids: list[np.ndarray]  # int64 token ids of each prompt; prompt_index points into it
    completion_ids: np.ndarray  # int32 (R, T), padded on the right; a sampled end-of-text is part
    mask: np.ndarray  # bool (R, T), True on the tokens of the completion
    prompt_index: np.ndarray  # int32 (R,)
    sample_index: np.ndarray  # int16 (R,)
    stopped: np.ndarray  # bool (R,): ends with an end-of-text token, not cut at the token limit
    correct: np.ndarray | None = None  # bool (R,) where graded

    def __post_init__(self) -> None:
        """Refuse wrong shapes, dtypes and masks."""
        rows = self.completion_ids.shape[0]
        for name, (dtype, ndim) in _FIELDS.items():
            value = getattr(self, name)
            if name == "correct" and value is None:
                continue
            if value.dtype != dtype or value.ndim != ndim or len(value) != rows:
                raise ValueError(
                    f"{name}: must be {dtype} with {ndim} axes and {rows} rows; "
                    f"got {value.dtype} {value.shape}"
                )
        if self.mask.shape != self.completion_ids.shape:
            raise ValueError(f"mask: must be {self.completion_ids.shape}; got {self.mask.shape}")
        if any(ids.dtype != np.int64 or ids.ndim != 1 for ids in self.prompt_ids):
            raise ValueError("prompt_ids: must be one int64 array per prompt")
        if rows and not 0 <= self.prompt_index.min() <= self.prompt_index.max() < self.n_prompts:
            raise ValueError(f"prompt_index: must be in [0, {self.n_prompts})")
        if (self.mask[:, 1:] & ~self.mask[:, :-1]).any():
            raise ValueError("mask: must be True up to the end of a row and False after it")

    def __len__(self) -> int:
        return len(self.completion_ids)

    @property
    def n_prompts(self) -> int:
        """Number of prompts."""
        return len(self.prompt_ids)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens in each completion, int64 (R,)."""
        return self.mask.sum(1)

    @property
    def n_tokens(self) -> int:
        """Total number of completion tokens."""
        return int(self.mask.sum())

    @property
    def completions(self) -> list[np.ndarray]:
        """Token ids of each completion without padding, int32."""
        return [ids[m] for ids, m in zip(self.completion_ids, self.mask, strict=True)]

    def texts(self, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """Decode completions without special tokens: for grading and reading, not for training."""
        return decoded(tokenizer, self.completions, skip_special_tokens=True)

    def of_prompts(self, prompts: np.ndarray) -> Rollouts:
        """The rollouts of some prompts, which keep their index."""
        some = np.isin(self.prompt_index, prompts)
        values = {name: getattr(self, name) for name in _FIELDS}
        taken = {name: v if v is None else v[some] for name, v in values.items()}
        return replace(self, **taken)

    def to_frame(self, first: int = 0) -> pd.DataFrame:
        """Return a row per rollout, ids without padding; prompts are numbered from `first`."""
        columns = {
            "prompt_index": self.prompt_index + np.int32(first),
            "sample_index": self.sample_index,
            "prompt_ids": [self.prompt_ids[i] for i in self.prompt_index],
            "completion_ids": self.completions,
            "stopped": self.stopped,
        }
        return pd.DataFrame(columns | ({} if self.correct is None else {"correct": self.correct}))

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Rollouts:
        """Rebuild rollouts from `to_frame`; a prompt without a rollout becomes empty."""
        if frame.empty:
            raise StudyError("rollouts: must have at least one row; got none")
        prompts = [np.empty(0, np.int64)] * (int(frame["prompt_index"].to_numpy().max()) + 1)
        for i, ids in zip(frame["prompt_index"], frame["prompt_ids"], strict=True):
            prompts[i] = np.asarray(ids, np.int64)
        padded = _pad([np.asarray(ids, np.int32) for ids in frame["completion_ids"]])
        rest = ("prompt_index", "sample_index", "stopped", "correct")
        columns = {n: frame[n].to_numpy(_FIELDS[n][0]) for n in rest if n in frame}
        return cls(prompts, *padded, **columns)


_FIELDS: dict[str, tuple[type, int]] = {  # type and number of axes
    "completion_ids": (np.int32, 2),
    "mask": (np.bool_, 2),
    "prompt_index": (np.int32, 1),
    "sample_index": (np.int16, 1),
    "stopped": (np.bool_, 1),
    "correct": (np.bool_, 1),
}


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    max_prompt_tokens: int,
    chat: str = "template",
) -> list[list[int]]:
    """Apply the chat template, with its generation prompt and without thinking (`chats`).

    A prompt is the text of a user or a list of messages; no text of theirs is a control token.
    Where `chat` is ``none``, prompts are raw text that the tokenizer reads as it is.

    `StudyError`: no prompts, no usable chat template, a chat that is none, or a prompt longer than
    `max_prompt_tokens` or than the tokenizer's own limit.
    """
    if len(prompts) == 0:
        raise StudyError("prompts: must hold at least one prompt; got none")
    encoder, limit = chats.encoder(tokenizer, chat), min(max_prompt_tokens, chats.room(tokenizer))
    template = " with its chat template" if chat == "template" else ""
    ids = []
    for i, prompt in enumerate(prompts):
        ids.append(encoder.ids(prompt, f"prompt {i}"))
        if len(ids[-1]) > limit:
            raise StudyError(
                f"max_prompt_tokens: prompt {i} must have at most {limit} tokens{template}; "
                f"it has {len(ids[-1])}"
            )
    return ids


def fitting(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    max_prompt_tokens: int,
    chat: str = "template",
) -> list[Prompt]:
    """Return the prompts that `prompt_ids` accepts.

    A token has at least one byte, so texts with few bytes need no tokenisation.
    """
    encoder, limit = chats.encoder(tokenizer, chat), min(max_prompt_tokens, chats.room(tokenizer))
    room = limit - len(encoder.ids("", "an empty prompt"))

    def fits(i: int, prompt: Prompt) -> bool:
        if isinstance(prompt, str) and len(prompt.encode(errors="surrogatepass")) <= room:
            return True
        return len(encoder.ids(prompt, f"prompt {i}")) <= limit

    return [prompt for i, prompt in enumerate(prompts) if fits(i, prompt)]


def eos_ids(model: PreTrainedModel | Engine, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end a completion: the model's generation config and the tokenizer's."""
    own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return sorted({*chats.ends_of(getattr(model, "generation_config", None)), *own})


def generate(
    model: PreTrainedModel | Engine,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[Sequence[int]],
    *,
    samples: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    max_new_tokens: int,
    batch_size: int,
    seed: int,
    first: int = 0,
    desc: str | None = "rollouts",
) -> Rollouts:
    """Sample `samples` completions of every prompt.

    Rows are sorted by prompt, then by sample. Temperature 0 is greedy. `top_k` (0: off) and then
    `top_p` truncate the distribution after the temperature, as in transformers. A row ends with an
    end-of-text token, or at `max_new_tokens` without one.

    `first` is the index of the first prompt in a longer list: a process with prompts 8 to 15 of a
    step passes 8 and samples the same completions as a single process. ``desc=None`` draws no bar.

    `StudyError`: no prompts, an empty prompt, a prompt that with its completion does not fit the
    context, or logits that are not finite.
    """
    _check_lengths(model, prompt_ids, max_new_tokens)
    prompts = np.repeat(np.arange(len(prompt_ids), dtype=np.int32), samples)
    numbers = np.tile(np.arange(samples, dtype=np.int16), len(prompt_ids))
    # ours: sample_index is an int16, so prompt and sample make one unit without collisions
    rows = [
        Request(prompt_ids[p], max_new_tokens, (seed, "rollout", ((first + p) << 15) + s))
        for p, s in zip(prompts.tolist(), numbers.tolist(), strict=True)
    ]
    ends, choose = eos_ids(model, tokenizer), Chooser(temperature, top_p, top_k)
    with nullcontext() if desc is None else progress.bar(len(rows), desc, "rollout") as bar:
        left = (lambda _: bar.update(1)) if bar is not None else (lambda _: None)
        done = engines.of(model, batch_size).complete(rows, choose, ends, left)
    stopped = np.array([ids[-1] in ends for ids in done], bool)
    prompt_arrays = [np.asarray(ids, np.int64) for ids in prompt_ids]
    return Rollouts(prompt_arrays, *_pad(done), prompts, numbers, stopped)


def answer(
    model: PreTrainedModel | Engine,
    tokenizer: PreTrainedTokenizerBase,
    task: TaskConfig,
    eval: EvalConfig,
    seed: int,
    part: slice = slice(None),
) -> tuple[Rollouts, list[str]]:
    """Sample and grade the evaluation prompts of a task; return the rollouts and their texts.

    A `part` of the prompts gets the same completions as in the whole. Where the prompts have no
    answers, ``correct`` is None.
    """
    problems = tasks.load(task, "eval")[: eval.n_prompts][part]
    how = {"samples", "temperature", "top_p", "max_new_tokens", "batch_size"}
    rollouts = generate(
        model,
        tokenizer,
        prompt_ids(tokenizer, [p.prompt for p in problems], task.max_prompt_tokens, task.chat),
        **eval.model_dump(include=how),
        seed=seed,
        first=part.start or 0,
        desc=f"answer {task.label}",
    )
    texts = rollouts.texts(tokenizer)
    if not tasks.has_answers(task, problems):
        return rollouts, texts
    correct = tasks.grade(task, [problems[i] for i in rollouts.prompt_index], texts)
    return replace(rollouts, correct=np.asarray(correct, dtype=bool)), texts


def gradable(task: TaskConfig) -> list[Problem]:
    """Return the evaluation problems of a task; `StudyError` if they have no answers."""
    problems = tasks.load(task, "eval")
    if not tasks.has_answers(task, problems):
        raise StudyError(f"benchmarks: {task.label} must have answers to be graded; it has none")
    return problems


def parts(task: TaskConfig, eval: EvalConfig) -> list[slice]:
    """Cut the evaluation prompts of a task into parts that are sampled and stored separately."""
    return distributed.cut(len(tasks.load(task, "eval")[: eval.n_prompts]), PART)


def evaluate(
    model: PreTrainedModel | Engine,
    tokenizer: PreTrainedTokenizerBase,
    task: TaskConfig,
    eval: EvalConfig,
    seed: int,
    part: slice = slice(None),
) -> pd.DataFrame:
    """Sample and grade the evaluation prompts of a task, or some: one row per completion.

    Its columns are ``benchmark, prompt_index, sample_index, correct, stopped, n_new_tokens, family,
    text``. The mean of `correct` is Pass@1 averaged over `eval.samples` runs; its interval
    resamples problems (`intervals.cluster_mean`), never rows.

    `StudyError`: prompts without answers, before anything is sampled.
    """
    problems = gradable(task)
    rollouts, texts = answer(model, tokenizer, task, eval, seed, part)
    first = part.start or 0
    problems = problems[first:]
    return pd.DataFrame(
        {
            "benchmark": task.label,
            "prompt_index": rollouts.prompt_index + np.int32(first),
            "sample_index": rollouts.sample_index,
            "correct": rollouts.correct,
            "stopped": rollouts.stopped,
            "n_new_tokens": rollouts.lengths.astype(np.int32),
            "family": [problems[i].family for i in rollouts.prompt_index],
            "text": texts,
        }
    )


def completion_states(
    model: PreTrainedModel, rollouts: Rollouts, rows: Sequence[int] | np.ndarray
) -> torch.Tensor:
    """Last hidden states that predict the completions of some rows, in one forward without logits.

    State i of a row has read the prompt and the completion tokens before token i: a row of n tokens
    has n states. They are ordered by row, then by position: (N, H) in the model's type and on its
    device; N counts the rows' completion tokens.

    `StudyError`: a prompt without tokens, so that nothing predicts the first token.
    """
    prompts = [rollouts.prompt_ids[rollouts.prompt_index[row]] for row in rows]
    _check_prompts(prompts)
    written = [rollouts.completion_ids[row][rollouts.mask[row]] for row in rows]
    read = [np.concatenate([p, ids[:-1]]) for p, ids in zip(prompts, written, strict=True)]
    ids, mask = (torch.from_numpy(padded).to(model.device) for padded in _pad(read))
    starts = torch.tensor([len(prompt) - 1 for prompt in prompts], device=model.device)
    predicts = mask & (torch.arange(ids.shape[1], device=model.device) >= starts[:, None])
    given: Any = {"input_ids": ids.long(), "attention_mask": mask.long(), "use_cache": False}
    with loading.evaluating(model):
        return model.get_decoder()(**given).last_hidden_state[predicts]


def _check_lengths(
    model: PreTrainedModel | Engine, prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> None:
    if not prompts:
        raise StudyError("prompt_ids: must hold at least one prompt; got none")
    _check_prompts(prompts)
    context = configuration.context(model.config)
    i = max(range(len(prompts)), key=lambda i: len(prompts[i]))
    if context is not None and len(prompts[i]) + max_new_tokens > context:
        raise StudyError(
            f"max_new_tokens: must fit the model's context of {context} tokens after the prompt; "
            f"prompt {i} has {len(prompts[i])} tokens and max_new_tokens is {max_new_tokens}"
        )


def _check_prompts(prompts: Sequence[Sequence[int]] | Sequence[np.ndarray]) -> None:
    for i, ids in enumerate(prompts):
        if len(ids) == 0:
            raise StudyError(f"prompt_ids: prompt {i} must have at least one token; it has none")


def _pad(rows: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Pad on the right with 0: ids int32 (R, T) and mask bool (R, T)."""
    lengths = np.array([len(ids) for ids in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.zeros(mask.shape, np.int32)
    ids[mask] = np.concatenate(rows)
    return ids, mask
