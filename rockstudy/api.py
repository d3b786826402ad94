"""The study's measurements for a notebook of one's own: arrays and frames in, frames out.

    import rockstudy as rs

    models = rs.checkpoints(teacher="...", before="...", after="...")
    rollouts = rs.sample(models, prompts, max_new_tokens=512)
    tokens = rs.token_table(models, rollouts)
    found = rs.rocks(tokens, rollouts, models=models)
    rs.view(models, rollouts, tokens, found)
    deltas = rs.knockout(models, rollouts, found.rocks().ids, grade)

Nothing here is stored, resumed or recorded: a run (`rockstudy run --config FILE`) does that, with
the same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rockstudy import progress
from rockstudy.config.fields import ModelsConfig, PairConfig, pair_of
from rockstudy.config.overrides import changed
from rockstudy.config.presets import PRESETS
from rockstudy.errors import StudyError, unknown
from rockstudy.exports.tables import display_name
from rockstudy.knockout import census, prefix_reuse
from rockstudy.knockout.prefix_reuse import Candidate, Screen
from rockstudy.models import checkpoints as students
from rockstudy.models import loading
from rockstudy.models.chats import Prompt
from rockstudy.models.token_texts import token_texts, visible
from rockstudy.rocks import detection, likeliest
from rockstudy.rocks import token_table as tables
from rockstudy.rocks.detection import Detection
from rockstudy.rocks.encoders import needs_student
from rockstudy.rocks.token_file import TokenFile
from rockstudy.rocks.token_set import TokenSet
from rockstudy.sampling import given, rollout
from rockstudy.sampling.given import GivenRollouts
from rockstudy.sampling.rollout import Rollouts
from rockstudy.selective.rock_weights import RockWeights
from rockstudy.store.seeds import generator, torch_seed
from rockstudy.viewer import page, study
from rockstudy.viewer.page import Viewer
from rockstudy.viewer.payload import Shown, payload

Grade = Callable[[int, str], bool]
STUDENTS = {"before": "pre", "after": "post"}  # names of columns


@dataclass(frozen=True)
class Models:
    """A teacher and the checkpoints of a student, each loaded when it is first needed."""

    config: ModelsConfig
    _loaded: dict[str, PreTrainedModel] = field(default_factory=dict, repr=False)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The teacher's tokenizer, which the students share."""
        return loading.pair_tokenizer(self._pair)

    @property
    def names(self) -> list[str]:
        """The students: ``before``, ``after`` and those in between."""
        return [*STUDENTS, *self.config.between]

    def model(self, name: str) -> PreTrainedModel:
        """The ``teacher`` or a student by name; `StudyError` for another name."""
        if name not in ("teacher", *self.names):
            raise StudyError(unknown("model", name, ["teacher", *self.names]))
        if name not in self._loaded and name in ("teacher", "before"):
            self._loaded.update(self._both())
        elif name not in self._loaded:
            every = students.given(self.config)
            self._loaded[name] = every[STUDENTS.get(name, name)].load()
        return self._loaded[name]

    @property
    def _pair(self) -> PairConfig:
        return pair_of(self.config)

    def _both(self) -> dict[str, PreTrainedModel]:
        """The teacher and the student before, which are checked against one another."""
        others = loading.vocabulary_sizes(self.config, ("after", "between"))
        how: Any = {"others": others, "needs_template": False}  # `sample` asks for one
        pair = loading.load_pair(self._pair, None, self.tokenizer, **how)
        return {"teacher": pair.teacher, "before": pair.student}


def checkpoints(
    *,
    teacher: str | Mapping[str, Any],
    before: str | Mapping[str, Any],
    after: str | Mapping[str, Any],
    between: Mapping[str, str | Mapping[str, Any]] | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "fastest"] = "auto",
    chat_template: Literal["teacher", "student"] = "teacher",
) -> Models:
    """Name the models: each a Hub id, a folder (also of an adapter) or a GGUF file.

    In place of a name a mapping may give ``name, revision, gguf_file, adapter``. Nothing is loaded
    yet. `between` are further checkpoints of the student by name.

    `StudyError`: a value that is not legal.
    """
    named = {"teacher": teacher, "before": before, "after": after}
    named |= {"dtype": dtype, "chat_template": chat_template}
    config = changed(PRESETS["own"], {"models": named | {"between": dict(between or {})}})
    assert config.models is not None
    return Models(config.models)


def sample(
    models: Models,
    prompts: Sequence[Prompt],
    *,
    by: str = "after",
    samples: int = 1,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    batch_size: int = 32,
    max_prompt_tokens: int = 2_048,
    seed: int = 0,
) -> Rollouts:
    """Sample `samples` completions of every prompt by a student or the teacher.

    A prompt is the text of a user or a list of messages, to which the teacher's chat template is
    applied. Completions depend on the seed, the prompt and the sample alone, not on the batch.

    `StudyError`: what `rollout.prompt_ids` and `rollout.generate` refuse.
    """
    ids = rollout.prompt_ids(models.tokenizer, prompts, max_prompt_tokens)
    how = {"samples": samples, "temperature": temperature, "top_p": top_p}
    how |= {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    stream = torch_seed(seed, "statistics")
    return rollout.generate(models.model(by), models.tokenizer, ids, **how, seed=stream)


def read_rollouts(
    path: str | Path,
    models: Models,
    *,
    reward_column: str | None = None,
    chat: Literal["template", "none"] = "none",
) -> GivenRollouts:
    """Read completions that were sampled elsewhere: JSONL or parquet of verl, TRL, vLLM or others.

    `rockstudy.sampling.given.read` has the columns that are known, and what is refused. The
    completions are ``.rollouts``; ``.log_probs`` (float32 (R, T), nats) and ``.reward`` are those
    that were logged, or None.
    """
    ends = rollout.eos_ids(models.model("after"), models.tokenizer)
    how: Any = {"reward_column": reward_column, "chat": chat, "ends": ends}
    return given.read(path, models.tokenizer, **how)


def token_table(models: Models, rollouts: Rollouts) -> pd.DataFrame:
    """Return the token table of rollouts: a row per completion token, for every student.

    Columns: ``prompt_index, sample_index, position, token_id``; ``rkl_<name>, fkl_<name>,
    log_ratio_<name>, entropy_<name>`` in nats, where the name is ``pre`` (before), ``post`` (after)
    or that of a checkpoint in between; ``entropy_teacher`` (nats), ``rank_teacher`` (0: the
    teacher's most likely token). `rockstudy.rocks.token_table` defines them.

    `StudyError`: no completion tokens, another vocabulary, values that are not finite.
    """
    names = {STUDENTS.get(name, name): name for name in models.names}
    every = {"teacher": models.model("teacher")}
    every |= {column: models.model(name) for column, name in names.items()}
    return tables.in_memory(rollouts, every)


def rocks(
    tokens: pd.DataFrame, rollouts: Rollouts, models: Models | None = None, **settings: Any
) -> Detection:
    """Find the rocks of a token table: scored and ranked types, and persistent occurrences.

    `settings` are the fields of the section ``rocks`` (`rockstudy fields rocks`), such as ``k=100``
    or ``selector="score_ctx"``. With `models` the types get ``text`` and ``spelling``, and an
    encoder may need the student.

    `StudyError`: a setting that is not legal; thresholds that no occurrence is above.
    """
    named = {f"rocks__{name}": value for name, value in settings.items()}
    config = changed(PRESETS["own"], named).rocks
    wants = needs_student(config.encoder)
    if wants and models is None:
        raise StudyError(f"models: must be given for the encoder {config.encoder}; got None")
    student = models.model("after") if wants and models is not None else None
    found = detection.detect(tokens, rollouts, config, student)
    if models is None:
        return found
    text = token_texts(models.tokenizer, found.types.token_id.tolist())
    types = found.types.assign(text=text, spelling=[visible(one) for one in text])
    return replace(found, types=types)


def view(
    models: Models,
    rollouts: Rollouts,
    tokens: pd.DataFrame,
    found: Detection,
    *,
    n: int = likeliest.SHOWN,
    rows: Sequence[int] | np.ndarray | None = None,
    prompts: Sequence[str] | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
    title: str = "Token viewer",
) -> Viewer:
    """Show rollouts as text, each token in the colour of its loss, with the models' likeliest ones.

    A notebook shows what is returned in a frame of its own; ``.save("tokens.html")`` writes it as
    one file. The three models read the shown rollouts once, for the five likeliest tokens of each
    at every position.

    `rows` are the rollouts to show; without them, `n` that differ in loss (half right, half wrong,
    where they are graded). `prompts` are texts to show, by prompt; by default the decoded ids.
    `weights` are more measures by name, float (R, T), such as those of `weights` or of a trainer;
    Rock-Freeze's are always there for rocks by the reverse KL.

    `StudyError`: rows that are no rollouts with a token; weights of another shape; a token table of
    other rollouts.
    """
    if rows is None:
        chosen = likeliest.chosen(rollouts, tokens, n)
    else:
        chosen = np.unique(np.asarray(rows, np.int64))
        there = np.flatnonzero(rollouts.lengths)
        if not len(chosen) or not np.isin(chosen, there).all():
            got = f"{chosen.min()} to {chosen.max()}" if len(chosen) else "none"
            raise StudyError(f"rows: must be rollouts with a token, of {len(there)}; got {got}")
    if prompts is not None and len(prompts) != rollouts.n_prompts:
        must = f"must have a text for each of {rollouts.n_prompts} prompts"
        raise StudyError(f"prompts: {must}; got {len(prompts)}")
    arms = dict(weights or {})
    for name, one in arms.items():
        if one.shape != rollouts.mask.shape:
            must = f"must have the shape of the rollouts, {rollouts.mask.shape}"
            raise StudyError(f"weights {name}: {must}; got {one.shape}")
    if found.settings.loss == "rkl":
        arms = {study.FREEZE: study.freeze(rollouts, tokens.rkl_post.to_numpy(), found)} | arms
    columns = {column: name for name, column in STUDENTS.items()} | {"teacher": "teacher"}
    top = likeliest.of_rows(rollouts, chosen, lambda name: models.model(columns[name]))
    shown = Shown(rollouts, tokens, found, top, arms, prompts)
    named = {"before": models.config.before, "after": models.config.after}
    about = {name: display_name(one.name) for name, one in named.items()}
    return page.page(payload(shown, models.tokenizer, title, about))


def knockout(
    models: Models,
    rollouts: Rollouts,
    ids: Sequence[int] | np.ndarray,
    grade: Grade,
    *,
    max_new_tokens: int | None = None,
    temperature: float = 1.0,
    batch_size: int = 32,
    seed: int = 0,
) -> pd.DataFrame:
    """Ban each token type from the student after distillation, and grade what it then writes.

    `rollouts` are its own completions, sampled without truncation at `temperature`; they are reused
    up to the first banned token (`rockstudy.knockout.prefix_reuse`). ``grade(prompt_index, text)``
    returns whether a completion is right. `max_new_tokens` is the limit that the rollouts were
    sampled with, which those that were cut tell.

    Returns a row per type: ``target, spelling, completions`` (written anew), ``delta`` (Pass@1 with
    the ban minus without), ``se, lo, hi`` (95%, problems resampled), ``p`` (two-sided).

    `StudyError`: rollouts of another limit, or of one that nothing tells; prompts with different
    numbers of completions; an id outside the vocabulary; fewer than two prompts.
    """
    counts = np.bincount(rollouts.prompt_index, minlength=rollouts.n_prompts)
    if counts.min() < counts.max():
        got = f"{counts.min()} to {counts.max()}"
        raise StudyError(f"rollouts: must have as many completions of each prompt; got {got}")
    cut = rollouts.lengths[~rollouts.stopped]
    if max_new_tokens is None and not len(cut):
        raise StudyError("max_new_tokens: must be given where no rollout was cut at it; got None")
    student, tokenizer = models.model("after"), models.tokenizer
    known = zip(rollouts.prompt_index.tolist(), rollouts.texts(tokenizer), strict=True)
    base = replace(rollouts, correct=np.array([bool(grade(i, text)) for i, text in known], bool))
    samples, limit = int(counts.max()), int(cut.max()) if max_new_tokens is None else max_new_tokens
    named = {"n_prompts": base.n_prompts, "samples": samples, "max_new_tokens": limit}
    named |= {"temperature": temperature, "batch_size": batch_size}
    values = {f"knockout__{name}": value for name, value in named.items()}
    how = changed(PRESETS["own"], values).knockout
    chosen = [Candidate(int(i), (int(i),)) for i in ids]
    screen = Screen(student, tokenizer, base, chosen, how, seed)
    todo = prefix_reuse.plan(screen)
    with progress.bar(int(todo.limit.sum()), "knockouts", "token") as bar:
        found = prefix_reuse.changes(screen, todo, lambda *given: [*map(grade, *given)], bar)
    delta = prefix_reuse.differences(found, chosen, base.n_prompts, samples)
    written = np.bincount(todo.candidate, minlength=len(chosen))
    targets = [one.target for one in chosen]
    spelling = [visible(text) for text in token_texts(tokenizer, targets)]
    about = {"target": targets, "spelling": spelling, "completions": written}
    return pd.DataFrame(about).join(census.bootstrap(delta, generator(seed, "bootstrap")))


def weights(
    rocks: TokenFile | Detection | TokenSet | Collection[int],
    dose: float = 0.0,
    *,
    windows: bool = False,
    threshold: float | None = None,
    width: int | None = None,
) -> RockWeights:
    """Weights on the loss of rocks for a trainer of your own: see `RockWeights`.

    The result is called with ``(completion_ids, mask)``, both (R, T), and returns float (R, T):
    `dose` at the rocks, and 1 elsewhere. With `windows` it also takes the current loss, (R, T); a
    `threshold` in nats and a `width` in tokens are those of the rocks unless they are given.
    """
    return RockWeights.of(rocks, dose, windows=windows, threshold=threshold, width=width)
