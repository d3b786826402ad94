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
from transformers import PreTrainedTokenizerBase

from rockstudy import tasks
from rockstudy.config.fields import EvalConfig, TaskConfig
from rockstudy.config.identity import identity
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
    """Return a row per prompt of every step, in the order of training: ``prompt_ids``.

    Where the stage's source is the teacher, it samples the completions: once, stored in the run as
    token ids. A row then has also ``completions``, one list of token ids per rollout, and
    ``stopped``.

    `StudyError`: fewer than two distinct problems that are short enough.
    """
    tokenizer = loading.tokenizer_of(run)
    prompts, order = _prompts(run, stage, seed, tokenizer)
    task = run.config.trained_on
    ids = rollout.prompt_ids(tokenizer, prompts, task.max_prompt_tokens, task.chat)
    taught: list[Lesson] = [{"prompt_ids": prompt} for prompt in ids]
    if run.config.stage(stage).source == "teacher":
        given = _completions(run, stage, seed, ids)
        taught = [row | completions for row, completions in zip(taught, given, strict=True)]
    return [taught[i] for i in order]


def train_prompts(run: Run) -> list[Prompt]:
    """Return the distinct prompts to train on; those of the Hub are read once and kept in the run.

    Every training of every process needs them, a set of the Hub may have gigabytes, and training
    nodes may have no network. `rockstudy measure data` reads them on a node that has one.
    `StudyError`: what `rockstudy.tasks.load` raises.
    """
    task = run.config.trained_on

    def read() -> list[str]:  # an artefact holds no chats
        return list(dict.fromkeys(_text(problem.prompt) for problem in tasks.load(task, "train")))

    def kept() -> pd.DataFrame | None:
        main = distributed.together().is_main_process
        return pd.DataFrame({"prompt": read()}) if main else None

    if is_read_each_time(task):
        texts = read()
    else:
        texts = distributed.cached(kept_at(run.path, task), kept).data.prompt.tolist()
    return [json.loads(t.removeprefix(CHAT)) if t.startswith(CHAT) else t for t in texts]


def _text(prompt: Prompt) -> str:
    """A text as it is, a chat as JSON after `CHAT`."""
    if isinstance(prompt, str):
        return prompt
    return CHAT + json.dumps(chats.messages_of(prompt, "a training prompt"))


def short_enough(
    task: TaskConfig, every: list[Prompt], tokenizer: PreTrainedTokenizerBase
) -> list[Prompt]:
    """Return the prompts of at most ``max_prompt_tokens`` tokens; `StudyError`: fewer than two."""
    known = rollout.fitting(tokenizer, every, task.max_prompt_tokens, task.chat)
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
    source = identity(task, exclude={"max_prompt_tokens"})
    return Place(run, "prompts", f"train-{fingerprint(source)[:8]}", source)


def _prompts(
    run: Run, stage: str, seed: int, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[Prompt], list[int]]:
    """The stage's distinct prompts, and the index of the prompt at each place in training.

    Those that are too long are left out (paper 1: prompts up to 800 tokens).
    """
    config = run.config
    known = short_enough(config.trained_on, train_prompts(run), tokenizer)
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
    config, settings, what = run.config, run.config.stage(stage), "teacher's completions"
    how = settings.model_dump(include={"temperature", "top_p", "max_new_tokens"})
    how |= {"samples": settings.rollouts_per_prompt, "batch_size": config.evaluation.batch_size}
    how |= {"seed": torch_seed(seed, f"{stage}-teacher"), "desc": what}
    recorded = {"temperature", "top_p", "max_new_tokens", "rollouts_per_prompt", "engine"}
    knobs = {
        "evaluation__batch_size": config.evaluation.batch_size,
        f"{stage}__max_new_tokens": settings.max_new_tokens,
    }

    def compute(model: Engine, part: slice) -> pd.DataFrame:
        given = (model, loading.tokenizer_of(run), prompts[part])
        with advised(what, knobs):
            made = rollout.generate(*given, **how, first=part.start)
        return made.to_frame(part.start)

    def inputs() -> dict[str, str]:
        teacher = loading.identity_of(config.pair, "teacher")
        return {"teacher": teacher, "prompts": fingerprint(prompts)}

    frame = run.sampled(
        "rollouts",
        f"{stage}-teacher-s{seed}",
        config=settings.model_dump(mode="json", include=recorded) | {"seed": seed},
        inputs=inputs,
        by=rollout.generate,
        pieces=lambda: distributed.cut(len(prompts), rollout.PART),
        opened=lambda: _teaching(run, stage),
        compute=compute,
    ).data
    by_prompt = frame.assign(completions=[ids.tolist() for ids in frame.completion_ids])
    groups = by_prompt.groupby("prompt_index", sort=True)[["completions", "stopped"]]
    return [group.to_dict("list") for _, group in groups]


@contextmanager
def _teaching(run: Run, stage: str) -> Iterator[Engine]:
    """Open an engine that samples from the teacher: the model itself, or vLLM alone on the device.

    A teacher that waits in the machine's memory to be sharded moves to the device meanwhile.
    """
    config, teacher = run.config, loading.pair_of(run).teacher
    settings = config.stage(stage)
    how = EvalConfig(
        n_prompts=1,  # not used: the caller passes the prompts
        samples=settings.rollouts_per_prompt,
        max_new_tokens=settings.max_new_tokens,
        batch_size=config.evaluation.batch_size,
        engine=settings.engine,
    )
    before = teacher.device
    try:
        with engines.opened(
            how,
            load=lambda: placement.moved(teacher, placement.default_device()),
            max_prompt_tokens=config.trained_on.max_prompt_tokens,
            dtype=config.pair.dtype,
            resting=(teacher,),
            **loading.of_role(config.pair, "teacher"),
        ) as engine:
            yield engine
    finally:
        placement.moved(teacher, before)
