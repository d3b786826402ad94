"""What happens when the student may not write a token: knockouts by prefix reuse (paper 3).

The knockout policy for a set of tokens v gives each of them a logit of minus infinity at every
step. At T = 1 without truncation a baseline completion up to (not including) its first v is already
an exact sample of that policy's prefix: keep a token u != v with probability p(u), else redraw from
p without v, which sums to p(u) / (1 - p(v)). So

    a completion without v        is reused whole: nothing to generate, no difference
    a completion with a first v   is continued from there, with v banned from then on

Both sides share their prefix, so that a difference of outcomes comes from what was knocked out and
not from another sample: its variance is far below that of two independent runs. Greedy decoding is
the same argument without the probabilities. With top-p or top-k below 1 it does not hold, since the
kept set changes when a token is banned: then the mode *naive* regenerates in full.

Two controls run through the same code: a *null* knockout keeps the first v and resamples what comes
after it with no ban (the difference must centre on 0), a *naive* one regenerates everything.
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
from rockstudy.parallel import distributed
from rockstudy.runs import Run
from rockstudy.sampling import engines, rollout
from rockstudy.sampling.decoding import Chooser
from rockstudy.sampling.engines import Engine, Row
from rockstudy.sampling.rollout import Rollouts
from rockstudy.store import cache, code
from rockstudy.store.code import kept_apart

Mode = Literal["reuse", "null", "naive"]
CHUNK = 2**20  # ours: tokens in a shard at most, a minute or two of work for a small model


@dataclass(frozen=True)
class Candidate:
    """What is knocked out together.

    Attributes
    ----------
    target
        The token that the outcome is about.
    banned
        Its id alone (token level), or with the rocks of its windows (window level); sorted.
    arm
        Name of the kind of knockout, for tables.
    """

    target: int
    banned: tuple[int, ...]
    arm: str = "token"


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
    rollouts
        The baseline completions.
    candidates
        What to knock out.
    vocab
        Size of the vocabulary.
    mode
        ``reuse`` starts at the first banned token, ``null`` after it, ``naive`` at column 0 of
        every completion.

    Raises
    ------
    StudyError
        A candidate with no token, with one outside the vocabulary, or with all of them.
    """
    found: list[list[np.ndarray]] = [[], [], []]
    for number, candidate in enumerate(candidates):
        _check(candidate, vocab)
        hit = np.isin(rollouts.completion_ids, candidate.banned) & rollouts.mask
        rows = np.arange(len(rollouts)) if mode == "naive" else np.flatnonzero(hit.any(1))
        first = hit[rows].argmax(1) if mode != "naive" else np.zeros(len(rows), np.int64)
        start = first + (mode == "null")
        rows, start = (x[start < rollouts.lengths[rows]] for x in (rows, start))
        for kept, values in zip(found, (np.full(len(rows), number), rows, start), strict=True):
            kept.append(values)
    return Plan(*(np.concatenate([np.empty(0, np.int64), *kept]) for kept in found))


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

    The random numbers of a completion come from (seed, candidate, prompt, sample) alone: neither
    the batch size nor the other candidates change it, up to floating point in the logits. `bar`
    counts tokens; one that its completion does not come to write counts when that is done.

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
            Row(
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
    model: PreTrainedModel | Engine,
    tokenizer: PreTrainedTokenizerBase,
    task: TaskConfig,
    rollouts: Rollouts,
    candidates: Sequence[Candidate],
    how: EvalConfig,
    seed: int,
    *,
    inputs: Mapping[str, str],
    mode: Mode = "reuse",
    chunk: int = CHUNK,
) -> pd.DataFrame:
    """Outcomes of the completions that a knockout changes; the others are those of the baseline.

    Candidates are taken in shards of about `chunk` tokens, if every completion came to its limit,
    all candidates of a shard in one queue, so that batches stay full whatever the candidate. A
    shard is complete or not there, and a killed screen goes on from the last one; several processes
    take them in turns.

    Parameters
    ----------
    run, name
        Shards are ``<run>/knockout/<name>-<number>-<key>``.
    task
        What grades the completions; its evaluation problems are those of the rollouts.
    rollouts
        Graded baseline completions.
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
    if rollouts.correct is None:
        raise StudyError("rollouts: must be graded; these are not")
    todo = plan(rollouts, candidates, model.config.vocab_size, mode)
    problems = tasks.load(task, "eval")
    if not len(todo):  # no candidate occurs
        return _frame(model, task, tokenizer, rollouts, candidates, todo, [], problems)
    limits = how.max_new_tokens - todo.start
    parts = _shards(todo, limits, len(candidates), chunk)
    own, made_by = distributed.mine(list(enumerate(parts))), code.identity(outcomes)
    total = sum(int(limits[_between(todo, *part)].sum()) for _, part in own)

    def place(number: int, part: tuple[int, int]) -> dict[str, Any]:
        config = _settings(task, candidates[slice(*part)], how, seed, mode)
        return run.addressed(
            "knockout", f"{name}-{number:04d}", config, lambda: inputs, by=outcomes
        )

    def shard(number: int, part: tuple[int, int], bar: progress.Bar) -> cache.Artefact:
        chosen = _between(todo, *part)
        mine = Plan(todo.candidate[chosen], todo.row[chosen], todo.start[chosen])

        def compute() -> pd.DataFrame:
            made = resample(
                model, tokenizer, rollouts, candidates, mine, how, seed,
                bans=mode != "null", bar=bar,
            )  # fmt: skip
            return _frame(model, task, tokenizer, rollouts, candidates, mine, made, problems)

        return cache.cached(run.path, **place(number, part), code=made_by, compute=compute)

    with progress.bar(total, name, "token") as bar:
        for number, part in own:
            if not shard(number, part, bar).fresh:
                bar.update(int(limits[_between(todo, *part)].sum()))
    distributed.together().wait_for_everyone()
    made = [distributed.written(run.path, **place(*one)).data for one in enumerate(parts)]
    return pd.concat(made, ignore_index=True)


def _settings(
    task: TaskConfig, candidates: Sequence[Candidate], how: EvalConfig, seed: int, mode: Mode
) -> dict[str, Any]:
    return {
        "task": tasks.identity(task),
        "candidates": [[c.arm, c.target, list(c.banned)] for c in candidates],
        "evaluation": identity(how),
        "seed": seed,
        "mode": mode,
    }


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
    model: PreTrainedModel | Engine,
    task: TaskConfig,
    tokenizer: PreTrainedTokenizerBase,
    rollouts: Rollouts,
    candidates: Sequence[Candidate],
    mine: Plan,
    made: list[np.ndarray],
    problems: list[tasks.Problem],
) -> pd.DataFrame:
    rows = [ids.tolist() for ids in made]
    texts = tokenizer.batch_decode(rows, skip_special_tokens=True) if rows else []
    prompt = rollouts.prompt_index[mine.row]
    lengths = np.array([len(ids) for ids in made], np.int64)
    ends = set(rollout.eos_ids(model, tokenizer))
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
