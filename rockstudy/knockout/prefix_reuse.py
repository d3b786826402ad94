"""Knockouts by prefix reuse: the student without a token or a set of tokens (paper 3).

The knockout policy for a set of tokens v gives each of them a logit of minus infinity at every
step. At T = 1 without truncation a baseline completion up to (not including) its first v is already
an exact sample of that policy's prefix: keep a token u != v with probability p(u), else redraw from
p without v, which sums to p(u) / (1 - p(v)). So

    a completion without v        is reused whole: nothing to generate, no difference
    a completion with a first v   is continued from there, with v banned from then on

Both sides share their prefix, so a difference of outcomes comes from the ban and not from a
different sample. Its variance is far below that of two independent runs. The argument covers greedy
decoding too. It fails with top-p or top-k below 1, because the kept set changes when a token is
banned: the mode *naive* then regenerates in full.

Two controls run through the same code. A *null* knockout keeps the first v and resamples the rest
without a ban, so the difference must centre on 0. A *naive* one regenerates everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rockstudy import progress, tasks
from rockstudy.config.fields import EvalConfig, TaskConfig
from rockstudy.config.identity import identity
from rockstudy.errors import StudyError
from rockstudy.models import configuration
from rockstudy.parallel import distributed
from rockstudy.runs import Run
from rockstudy.sampling import engines, rollout
from rockstudy.sampling.decoding import Chooser
from rockstudy.sampling.engines import Engine, Request
from rockstudy.sampling.rollout import Rollouts
from rockstudy.store import cache, code
from rockstudy.store.code import kept_apart

Mode = Literal["reuse", "null", "naive"]
CHUNK = 2**20  # ours: tokens in a shard at most, a minute or two of work for a small model


@dataclass(frozen=True)
class Candidate:
    """A token type with the ids that its knockout bans."""

    target: int
    banned: tuple[int, ...]  # the target alone (token level), or with the rocks of its windows
    arm: str = "token"  # kind of knockout, for tables


@dataclass(frozen=True)
class Screen:
    """Candidates to knock out of graded baseline completions, and how to sample and grade.

    ``task`` has the evaluation problems of ``rollouts``; ``how`` has their sampling settings.
    """

    model: PreTrainedModel | Engine
    tokenizer: PreTrainedTokenizerBase
    task: TaskConfig
    rollouts: Rollouts
    candidates: Sequence[Candidate]
    how: EvalConfig
    seed: int
    mode: Mode = "reuse"


@dataclass(frozen=True)
class Plan:
    """Completions to generate: candidate, row of the base rollouts, first column that is new."""

    candidate: np.ndarray  # int (J,)
    row: np.ndarray  # int (J,)
    start: np.ndarray  # int (J,)

    def __len__(self) -> int:
        return len(self.row)


def plan(
    rollouts: Rollouts, candidates: Sequence[Candidate], vocab: int, mode: Mode = "reuse"
) -> Plan:
    """Find where each candidate's completions must be continued.

    Parameters
    ----------
    rollouts, candidates, vocab
        Baseline completions, what to knock out of them, and the size of the vocabulary.
    mode
        ``reuse`` starts at the first banned token, ``null`` after it, ``naive`` at column 0 of
        every completion.

    Raises
    ------
    StudyError
        A candidate with no token, with one outside the vocabulary, or with all of them.
    """
    columns: list[list[np.ndarray]] = [[], [], []]
    for number, candidate in enumerate(candidates):
        _check(candidate, vocab)
        hit = np.isin(rollouts.completion_ids, candidate.banned) & rollouts.mask
        rows = np.arange(len(rollouts)) if mode == "naive" else np.flatnonzero(hit.any(1))
        first = hit[rows].argmax(1) if mode != "naive" else np.zeros(len(rows), np.int64)
        start = first + (mode == "null")
        rows, start = (x[start < rollouts.lengths[rows]] for x in (rows, start))
        for column, values in zip(columns, (np.full(len(rows), number), rows, start), strict=True):
            column.append(values)
    return Plan(*(np.concatenate([np.empty(0, np.int64), *column]) for column in columns))


def _check(candidate: Candidate, vocab: int) -> None:
    ids = candidate.banned
    if not ids or min(ids) < 0 or max(ids) >= vocab:
        raise StudyError(
            f"candidate {candidate.target}: must ban ids from 0 to {vocab - 1}; "
            f"got {list(ids)!r:.60}"
        )
    if len(set(ids)) >= vocab:
        raise StudyError(f"candidate {candidate.target}: must leave at least one of {vocab} tokens")


def resample(
    model: PreTrainedModel | Engine,
    tokenizer: PreTrainedTokenizerBase,
    rollouts: Rollouts,
    candidates: Sequence[Candidate],
    todo: Plan,
    how: EvalConfig,
    seed: int,
    *,
    bans: bool = True,
    bar: progress.Bar | None = None,
) -> list[np.ndarray]:
    """Generate the planned completions, prefix included: one int32 array each.

    The random numbers of a completion depend on (seed, candidate, prompt, sample) alone. The batch
    size and the other candidates change it only through rounding of the logits. `bar` counts
    tokens; those that a completion leaves unused count at its end.

    Raises
    ------
    StudyError
        ``top_p`` below 1 with a start other than 0; rollouts cut at another limit than that of
        `how`; logits that are not finite.
    """
    if how.top_p < 1 and todo.start.any():
        raise StudyError(
            f"knockout__top_p: must be 1 for prefix reuse, which is not exact with truncation; "
            f"got {how.top_p}; use the mode naive"
        )
    cut = np.unique(rollouts.lengths[~rollouts.stopped])
    if len(cut) and (cut[0], cut[-1]) != (how.max_new_tokens,) * 2:
        raise StudyError(
            f"knockout__max_new_tokens: must be the limit of the rollouts, which are cut at "
            f"{cut[-1]} tokens; got {how.max_new_tokens}"
        )
    rows, prefixes = [], []
    for number, row, start in zip(todo.candidate, todo.row, todo.start, strict=True):
        candidate, prompt = candidates[number], int(rollouts.prompt_index[row])
        prefixes.append(rollouts.completion_ids[row, :start])
        rows.append(
            Request(
                np.concatenate([rollouts.prompt_ids[prompt], prefixes[-1]]).tolist(),
                how.max_new_tokens - int(start),
                (
                    seed,
                    f"knockout-{candidate.arm}-{candidate.target}",
                    (prompt << 15) + int(rollouts.sample_index[row]),
                ),
                candidate.banned if bans else (),
            )
        )
    made = engines.of(model, how.batch_size).complete(
        rows,
        Chooser(how.temperature, how.top_p),
        rollout.eos_ids(model, tokenizer),
        lambda row: bar.update(row.limit) if bar is not None else None,
    )
    return [np.concatenate(parts) for parts in zip(prefixes, made, strict=True)]


@kept_apart
def outcomes(
    run: Run,
    name: str,
    screen: Screen,
    *,
    inputs: Mapping[str, str],
    chunk: int = CHUNK,
) -> pd.DataFrame:
    """Outcomes of the completions that a knockout changes; the others are those of the baseline.

    Candidates form shards of at most about `chunk` tokens. All candidates of a shard share one
    queue, so batches stay full. A killed screen continues after its last complete shard, and
    several processes divide the shards.

    Parameters
    ----------
    run, name
        Shards are ``<run>/knockout/<name>-<number>-<key>``.
    inputs
        Hashes of the model and of the rollouts.

    Returns
    -------
    DataFrame
        ``benchmark, arm, target, prompt_index, sample_index, correct, base_correct, stopped,
        n_new_tokens, reused_tokens``: a row per generated completion. A candidate that never
        occurs has none: its difference is 0 exactly.

    Raises
    ------
    StudyError
        Rollouts without grades; as `plan` and `resample`.
    """
    if screen.rollouts.correct is None:
        raise StudyError("rollouts: must be graded; these are not")
    candidates = screen.candidates
    size = configuration.vocabulary(screen.model.config)
    todo = plan(screen.rollouts, candidates, size, screen.mode)
    problems = tasks.load(screen.task, "eval")
    if not len(todo):  # no candidate occurs
        return _frame(screen, todo, [], problems)
    limits = screen.how.max_new_tokens - todo.start
    parts = _shards(todo, limits, len(candidates), chunk)
    own, made_by = distributed.mine(list(enumerate(parts))), code.identity(outcomes)
    total = sum(int(limits[_between(todo, *part)].sum()) for _, part in own)

    def place(number: int, part: tuple[int, int]) -> dict[str, Any]:
        config = {
            "task": tasks.identity(screen.task),
            "candidates": [[c.arm, c.target, list(c.banned)] for c in candidates[slice(*part)]],
            "evaluation": identity(screen.how),
            "seed": screen.seed,
            "mode": screen.mode,
        }
        return run.addressed(
            "knockout", f"{name}-{number:04d}", config, lambda: inputs, by=outcomes
        )

    def shard(number: int, part: tuple[int, int], bar: progress.Bar) -> cache.Artefact:
        chosen = _between(todo, *part)
        mine = Plan(todo.candidate[chosen], todo.row[chosen], todo.start[chosen])

        def compute() -> pd.DataFrame:
            made = resample(
                screen.model, screen.tokenizer, screen.rollouts, candidates, mine, screen.how,
                screen.seed, bans=screen.mode != "null", bar=bar,
            )  # fmt: skip
            return _frame(screen, mine, made, problems)

        return cache.cached(run.path, **place(number, part), code=made_by, compute=compute)

    with progress.bar(total, name, "token") as bar:
        for number, part in own:
            if not shard(number, part, bar).fresh:
                bar.update(int(limits[_between(todo, *part)].sum()))
    distributed.together().wait_for_everyone()
    made = [distributed.written(run.path, **place(*one)).data for one in enumerate(parts)]
    return pd.concat(made, ignore_index=True)


def _shards(todo: Plan, limits: np.ndarray, n_candidates: int, chunk: int) -> list[tuple[int, int]]:
    """Cut the candidates, in their order, into ranges of about `chunk` tokens, none of them empty.

    A candidate that has more by itself is one range.
    """
    sizes = np.bincount(todo.candidate, weights=limits, minlength=n_candidates)
    cuts, total = [0], 0.0
    for i, n in enumerate(sizes.tolist()):
        if total and n and total + n > chunk:
            cuts.append(i)
            total = 0.0
        total += n
    return list(zip(cuts, [*cuts[1:], n_candidates], strict=True))


def _between(todo: Plan, first: int, last: int) -> np.ndarray:
    """Places of the plan that belong to a range of candidates."""
    return np.flatnonzero((todo.candidate >= first) & (todo.candidate < last))


def _frame(
    screen: Screen, mine: Plan, made: list[np.ndarray], problems: list[tasks.Problem]
) -> pd.DataFrame:
    task, tokenizer, rollouts = screen.task, screen.tokenizer, screen.rollouts
    candidates, rows = screen.candidates, [ids.tolist() for ids in made]
    texts = tokenizer.batch_decode(rows, skip_special_tokens=True) if rows else []
    prompt = rollouts.prompt_index[mine.row]
    lengths = np.array([len(ids) for ids in made], np.int64)
    ends = set(rollout.eos_ids(screen.model, tokenizer))
    graded = tasks.grade(task, [problems[i] for i in prompt], texts)
    assert rollouts.correct is not None
    return pd.DataFrame(
        {
            "benchmark": task.label,
            "arm": [candidates[c].arm for c in mine.candidate],
            "target": np.array([candidates[c].target for c in mine.candidate], np.int64),
            "prompt_index": prompt,
            "sample_index": rollouts.sample_index[mine.row],
            "correct": graded,
            "base_correct": rollouts.correct[mine.row],
            "stopped": [bool(len(ids)) and int(ids[-1]) in ends for ids in made],
            "n_new_tokens": (lengths - mine.start).astype(np.int32),
            "reused_tokens": mine.start.astype(np.int32),
        }
    )


def differences(
    changed: pd.DataFrame, candidates: Sequence[Candidate], n_prompts: int, samples: int
) -> np.ndarray:
    """Delta of every candidate on every problem: float64 (candidates, problems).

    The mean over a problem's rollouts of outcome minus baseline outcome; a rollout that a knockout
    does not change counts as 0. The mean over problems is Delta_B(v) of the paper.
    """
    place = {(c.arm, c.target): i for i, c in enumerate(candidates)}
    delta = np.zeros((len(candidates), n_prompts))
    rows = [place[key] for key in zip(changed.arm, changed.target, strict=True)]
    change = changed.correct.astype(np.int64) - changed.base_correct.astype(np.int64)
    np.add.at(delta, (rows, changed.prompt_index.to_numpy()), change.to_numpy() / samples)
    return delta
