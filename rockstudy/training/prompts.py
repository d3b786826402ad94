"""The prompts of a stage in the order of training, and the teacher's completions of them.

The training problems are shuffled once and divided between the stages in proportion to the prompts
that each needs, so the two stages see different prompts (paper 1). A stage goes through its part in
a new order as often as its steps need. Everything depends on seeds alone, never on the arm.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rockstudy import tasks
from rockstudy.config.fields import EvalConfig, TaskConfig
from rockstudy.errors import StudyError
from rockstudy.models import chats, loading
from rockstudy.models.chats import Prompt
from rockstudy.parallel import distributed, placement
from rockstudy.parallel.out_of_memory import advised
from rockstudy.runs import Run
from rockstudy.sampling import engines, rollout
from rockstudy.sampling.engines import Engine
from rockstudy.store.cache import Place
from rockstudy.store.fingerprints import fingerprint
from rockstudy.store.seeds import generator, torch_seed
from rockstudy.tasks import rows

Lesson = dict[str, Any]
CHAT = "\0chat "  # ours: begins no text


def lessons(run: Run, stage: str, seed: int) -> list[Lesson]:
    """Return a row per prompt of every step, in the order of training.

    Where the stage's source is the teacher, it samples the completions: once, stored in the run as
    token ids.

    Returns
    -------
    list of dict
        ``prompt_ids``; with a teacher's completions also ``completions``, one list of token ids per
        rollout, and ``stopped``.

    Raises
    ------
    StudyError
        Fewer than two distinct problems that are short enough.
    """
    tokenizer = loading.tokenizer_of(run)
    prompts, order = _prompts(run, stage, seed, tokenizer)
    ids = rollout.prompt_ids(tokenizer, prompts, run.config.train_task.max_prompt_tokens)
    taught: list[Lesson] = [{"prompt_ids": prompt} for prompt in ids]
    if run.config.stage(stage).source == "teacher":
        given = _completions(run, stage, seed, ids)
        taught = [row | completions for row, completions in zip(taught, given, strict=True)]
    return [taught[i] for i in order]


def train_prompts(run: Run) -> list[Prompt]:
    """Return the distinct prompts to train on; those of the Hub are read once and kept in the run.

    Every training of every process needs them, a set of the Hub may have gigabytes, and training
    nodes may have no network. `rockstudy measure data` reads them on a node that has one.

    Raises
    ------
    StudyError
        What `rockstudy.tasks.load` raises.
    """
    return [_prompt(text) for text in _texts(run)]


def _texts(run: Run) -> list[str]:
    """The prompts as `_text` writes them, since an artefact holds no chats."""
    task = run.config.train_task

    def read() -> list[str]:
        return list(dict.fromkeys(_text(problem.prompt) for problem in tasks.load(task, "train")))

    if is_read_each_time(task):
        return read()
    first = distributed.together().is_main_process
    return distributed.cached(
        kept_at(run.path, task), lambda: pd.DataFrame({"prompt": read()}) if first else None
    ).data.prompt.tolist()


def _text(prompt: Prompt) -> str:
    """A text as it is, a chat as JSON after `CHAT`."""
    if isinstance(prompt, str):
        return prompt
    return CHAT + json.dumps(chats.messages_of(prompt, "a training prompt"))


def _prompt(text: str) -> Prompt:
    return json.loads(text.removeprefix(CHAT)) if text.startswith(CHAT) else text


def short_enough(
    task: TaskConfig, every: list[Prompt], tokenizer: PreTrainedTokenizerBase
) -> list[Prompt]:
    """Return the prompts to train on that have at most ``max_prompt_tokens`` tokens.

    `StudyError`: fewer than two.
    """
    known = rollout.fitting(tokenizer, every, task.max_prompt_tokens)
    if len(known) < 2:
        raise StudyError(
            "train_task: must leave each of the two stages a prompt of its own; "
            f"n_train {task.n_train} gives {len(every)} distinct, of which {len(known)} have at "
            f"most max_prompt_tokens = {task.max_prompt_tokens} tokens"
        )
    return known


def is_read_each_time(task: TaskConfig) -> bool:
    """Whether training prompts do not come from the Hub: they are generated or in a local file."""
    return task.path is None or rows.is_local(task.path)


def kept_at(run: Path, task: TaskConfig) -> Place:
    """Where `train_prompts` keeps prompts of the Hub in a run: a file for each source."""
    source = task.model_dump(mode="json", exclude={"max_prompt_tokens"})
    return Place(run, "prompts", f"train-{fingerprint(source)[:8]}", source)


def _prompts(
    run: Run, stage: str, seed: int, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[Prompt], list[int]]:
    """The stage's distinct prompts, and the index of the prompt at each place in training.

    Those that are too long are left out (paper 1: prompts up to 800 tokens).
    """
    config = run.config
    known = short_enough(config.train_task, train_prompts(run), tokenizer)
    cut, _ = config.pools(len(known))
    shuffled = generator(config.seed, "split").permutation(len(known))
    pool = shuffled[:cut] if stage == "stage1" else shuffled[cut:]
    settings = config.stage(stage)
    order = _epochs(pool, settings.steps * settings.prompts_per_step, seed, stage)
    used, places = np.unique(order, return_inverse=True)
    return [known[i] for i in used], places.tolist()


def _epochs(pool: np.ndarray, places: int, seed: int, stage: str) -> np.ndarray:
    """Go through the pool, in a new order each time, as often as the places need; (places,)."""
    n = -(-places // len(pool))
    orders = [generator(seed, f"{stage}-order", epoch).permutation(pool) for epoch in range(n)]
    return np.concatenate(orders)[:places]


def _completions(run: Run, stage: str, seed: int, prompts: list[list[int]]) -> list[Lesson]:
    """The teacher's completions of every prompt, a part of them by each process."""
    config, settings, tokenizer = run.config, run.config.stage(stage), loading.tokenizer_of(run)
    sampling = {"temperature", "top_p", "max_new_tokens", "rollouts_per_prompt", "engine"}

    knobs = {
        "evaluation__batch_size": config.evaluation.batch_size,
        f"{stage}__max_new_tokens": settings.max_new_tokens,
    }

    def compute(model: Engine, part: slice) -> pd.DataFrame:
        with advised("teacher's completions", knobs):
            made = rollout.generate(
                model,
                tokenizer,
                prompts[part],
                samples=settings.rollouts_per_prompt,
                **settings.model_dump(include={"temperature", "top_p", "max_new_tokens"}),
                batch_size=config.evaluation.batch_size,
                seed=torch_seed(seed, f"{stage}-teacher"),
                first=part.start,
                desc="teacher's completions",
            )
        return made.to_frame(part.start)

    frame = run.sampled(
        "rollouts",
        f"{stage}-teacher-s{seed}",
        config=settings.model_dump(mode="json", include=sampling) | {"seed": seed},
        inputs=lambda: {
            "teacher": loading.identity_of(config.pair, "teacher"),
            "prompts": fingerprint(prompts),
        },
        by=rollout.generate,
        pieces=lambda: distributed.cut(len(prompts), rollout.PART),
        opened=lambda: _teaching(run, stage),
        compute=compute,
    ).data
    return [
        {
            "completions": [ids.tolist() for ids in of_prompt.completion_ids],
            "stopped": of_prompt.stopped.tolist(),
        }
        for _, of_prompt in frame.groupby("prompt_index", sort=True)
    ]


@contextmanager
def _teaching(run: Run, stage: str) -> Iterator[Engine]:
    """Open an engine that samples from the teacher: the model itself, or vLLM alone on the device.

    A teacher that waits in the machine's memory to be sharded moves to the device meanwhile.
    """
    config, teacher = run.config, loading.pair_of(run).teacher
    settings, pair = config.stage(stage), config.pair
    how = EvalConfig(
        n_prompts=1,  # not used: the caller passes the prompts
        samples=settings.rollouts_per_prompt,
        max_new_tokens=settings.max_new_tokens,
        batch_size=config.evaluation.batch_size,
        engine=settings.engine,
    )
    opened = engines.opened(
        how,
        pair.teacher,
        lambda: _moved(teacher, placement.default_device()),
        max_prompt_tokens=config.train_task.max_prompt_tokens,
        revision=pair.teacher_revision,
        gguf_file=pair.gguf_file,
        dtype=pair.dtype,
        field="teacher",
        resting=(teacher,),
    )
    before = teacher.device
    try:
        with opened as engine:
            yield engine
    finally:
        _moved(teacher, before)


def _moved(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    return model.to(device)  # pyright: ignore[reportArgumentType]
