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

The same argument lets candidates share what they write (`rockstudy.sampling.branching`). What a
window writes after its first token v is what the ban of v alone writes, up to the next token of the
window; then it is what the ban of both writes, and so on. Candidates that ban the same ids share
all, and all that a continuation shares is written once.

Two controls run through the same code. A *null* knockout keeps the first v and resamples the rest
without a ban, so the difference must centre on 0. A *naive* one regenerates everything.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rockstudy import progress, tasks
from rockstudy.config.fields import EvalConfig, TaskConfig
from rockstudy.config.identity import identity
from rockstudy.errors import StudyError
from rockstudy.models import configuration
from rockstudy.models.token_texts import decoded
from rockstudy.parallel import distributed
from rockstudy.runs import Run
from rockstudy.sampling import engines, rollout, shared
from rockstudy.sampling.branching import Leaf, Node, Tree
from rockstudy.sampling.decoding import Chooser
from rockstudy.sampling.engines import Engine, Request
from rockstudy.sampling.rollout import Rollouts
from rockstudy.store import cache
from rockstudy.store.code import kept_apart

Mode = Literal["reuse", "null", "naive"]
CHUNK = 2**20  # ours: tokens in a shard at most, a minute or two of work for a small model


@dataclass(frozen=True)
class Candidate:
    """A token type with the ids that its knockout bans."""

    target: int
    banned: tuple[int, ...]  # the target alone (token level), or with the rocks of its windows
    level: str = "token"  # kind of knockout, for tables


@dataclass(frozen=True)
class Screen:
    """Candidates to knock out of baseline completions, and how these were sampled."""

    model: PreTrainedModel | Engine
    tokenizer: PreTrainedTokenizerBase
    rollouts: Rollouts
    candidates: Sequence[Candidate]
    how: EvalConfig
    seed: int
    mode: Mode = "reuse"


def plan(screen: Screen) -> pd.DataFrame:
    """Find where each candidate's completions must be continued.

    ``reuse`` starts at the first banned token, ``null`` after it, ``naive`` at column 0 of every
    completion.

    A row per completion to generate: ``candidate`` (its place), ``row`` of the rollouts, ``start``
    (the first column that is new), ``limit`` (tokens to generate at most).

    `StudyError`: a candidate with no token, with one outside the vocabulary, or with all of them.
    """
    rollouts, naive = screen.rollouts, screen.mode == "naive"
    frames = []
    for number, candidate in enumerate(screen.candidates):
        _check(candidate, configuration.vocabulary(screen.model.config))
        hit = np.isin(rollouts.completion_ids, candidate.banned) & rollouts.mask
        rows = np.arange(len(rollouts)) if naive else np.flatnonzero(hit.any(1))
        start = np.zeros_like(rows) if naive else hit[rows].argmax(1) + (screen.mode == "null")
        todo = pd.DataFrame({"candidate": number, "row": rows, "start": start})
        frames.append(todo[start < rollouts.lengths[rows]])
    todo = pd.concat(frames, ignore_index=True)
    return todo.assign(limit=screen.how.max_new_tokens - todo.start)


def _check(candidate: Candidate, vocab: int) -> None:
    ids, about = candidate.banned, f"candidate {candidate.target}"
    if not ids or min(ids) < 0 or max(ids) >= vocab:
        raise StudyError(f"{about}: must ban ids from 0 to {vocab - 1}; got {list(ids)!r:.60}")
    if len(set(ids)) >= vocab:
        raise StudyError(f"{about}: must leave at least one of {vocab} tokens")


def resample(
    screen: Screen, todo: pd.DataFrame, bar: progress.Bar | None = None
) -> list[np.ndarray]:
    """Generate the planned completions, prefix included: one int32 array each.

    The random numbers of a completion depend on (seed, candidate, prompt, sample) alone, and on
    whether it is a null. The batch size and the other candidates change it only through rounding of
    the logits. `bar` counts tokens; those that a completion leaves unused count at its end.

    `StudyError`: ``top_p`` below 1 with a start other than 0; rollouts cut at another limit than
    that of the screen; logits that are not finite.
    """
    rollouts, how = screen.rollouts, screen.how
    _check_reuse(screen, bool(todo.start.any()))
    requests, prefixes = [], []
    for one in todo.itertuples():
        candidate, prompt = screen.candidates[one.candidate], int(rollouts.prompt_index[one.row])
        prefixes.append(rollouts.completion_ids[one.row, : one.start])
        ids = np.concatenate([rollouts.prompt_ids[prompt], prefixes[-1]]).tolist()
        unit = _unit(rollouts, one.row)
        null = screen.mode == "null"  # numbers of its own: a ban and its null are independent
        name = f"knockout-{'null-' * null}{candidate.level}-{candidate.target}"
        stream, banned = (screen.seed, name, unit), () if null else candidate.banned
        requests.append(Request(ids, one.limit, stream, banned))
    made = engines.of(screen.model, how.batch_size).complete(
        requests,
        Chooser(how.temperature, how.top_p),
        rollout.eos_ids(screen.model, screen.tokenizer),
        lambda request: bar.update(request.limit) if bar is not None else None,
    )
    return [np.concatenate(parts) for parts in zip(prefixes, made, strict=True)]


def _check_reuse(screen: Screen, kept: bool) -> None:
    """Refuse what makes reuse wrong; `kept` tells whether any part of a completion is kept."""
    rollouts, how = screen.rollouts, screen.how
    if how.top_p < 1 and kept:
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


class Written(NamedTuple):
    """What a part of a plan has become; arrays have a value for each of its rows."""

    ids: list[np.ndarray]  # the completions, int32, each once
    place: np.ndarray  # among them
    new: np.ndarray  # tokens that were drawn for it
    reused: np.ndarray  # its tokens that were there: of the baseline or of an earlier candidate


def share(screen: Screen, todo: pd.DataFrame, bar: progress.Bar | None = None) -> Written:
    """Generate the planned completions in the mode ``reuse``; candidates share what they can.

    The random numbers of a completion depend on (seed, prompt, sample, the banned ids that it has
    met) alone; those of a candidate that bans one id are those of `resample` at token level. Tokens
    count for the first candidate that needs them. `bar` and errors as `resample`.
    """
    rollouts, how = screen.rollouts, screen.how
    _check_reuse(screen, kept=True)
    (rows, text), (chosen, policy) = (
        np.unique(todo[name], return_inverse=True) for name in ("row", "candidate")
    )
    completions = [rollouts.completion_ids[row, : rollouts.lengths[row]] for row in rows]
    prompts = [rollouts.prompt_ids[i].tolist() for i in rollouts.prompt_index[rows]]

    def stream(node: Node) -> tuple[int, str, int]:
        name = "-".join(map(str, node.banned))
        return screen.seed, f"knockout-token-{name}", _unit(rollouts, rows[node.text])

    limit = np.zeros((len(chosen), len(rows)), np.int64)
    limit[policy, text] = todo.limit

    def left(leaf: Leaf) -> None:
        if bar is not None:
            bar.update(int(limit[leaf.members, leaf.text].sum()))

    tree = Tree([screen.candidates[c].banned for c in chosen], len(rows), left)
    shared.write(
        engines.of(screen.model, how.batch_size),
        tree,
        list(zip(prompts, completions, strict=True)),
        stream,
        Chooser(how.temperature, how.top_p),
        rollout.eos_ids(screen.model, screen.tokenizer),
        how.max_new_tokens,
    )
    place = np.zeros(limit.shape, np.int64)
    for number, leaf in enumerate(tree.leaves):
        place[leaf.members, leaf.text] = number
    ids = [leaf.ids for leaf in tree.leaves]
    lengths, of = np.array([*map(len, ids)], np.int64), (policy, text)
    reused = lengths[place[of]] - (tree.drawn - tree.lost)[of]
    return Written(ids, place[of], tree.drawn[of], reused)


def _alone(screen: Screen, todo: pd.DataFrame, bar: progress.Bar | None) -> Written:
    """The same without sharing, in the other modes."""
    ids, start = resample(screen, todo, bar), todo.start.to_numpy()
    return Written(ids, np.arange(len(ids)), np.array([*map(len, ids)], np.int64) - start, start)


def _unit(rollouts: Rollouts, row: int) -> int:
    """The unit of a row's random numbers."""
    return (int(rollouts.prompt_index[row]) << 15) + int(rollouts.sample_index[row])


@kept_apart
def outcomes(
    run: Run,
    name: str,
    screen: Screen,
    task: TaskConfig,
    *,
    inputs: Mapping[str, str],
    chunk: int = CHUNK,
) -> pd.DataFrame:
    """Outcomes of the completions that a knockout changes; the others are those of the baseline.

    Shards hold at most about `chunk` tokens: of the mode ``reuse`` all candidates on some of the
    completions, so that they share what they can, otherwise some of the candidates on all. A shard
    has one queue, so batches stay full. A killed screen continues after its last complete shard,
    and several processes divide the shards.

    Shards are ``<run>/knockout/<name>-<number>-<key>``. The evaluation problems of `task` are those
    of the rollouts; `inputs` are the hashes of the model and of the rollouts.

    Columns: ``benchmark, level, target, prompt_index, sample_index, correct, base_correct, stopped,
    n_new_tokens, reused_tokens``: a row per generated completion. A candidate that never occurs has
    none: its difference is 0 exactly. New tokens are those drawn for this candidate and no earlier
    one; reused ones are those of the completion that were there. Both together exceed its length
    where an engine that cannot stop at a ban has drawn tokens that no candidate takes.

    `StudyError`: rollouts without grades; as `plan` and `resample`.
    """
    if screen.rollouts.correct is None:
        raise StudyError("rollouts: must be graded; these are not")
    todo, problems = plan(screen), tasks.load(task, "eval")
    if todo.empty:  # no candidate occurs
        return _graded(screen, task, problems, todo)
    every = range(len(screen.candidates))
    by, n = ("row", len(screen.rollouts)) if screen.mode == "reuse" else ("candidate", len(every))
    ranges = _ranges(todo, by, n, chunk)
    shards = [(todo[todo[by].isin(part)], part) for part in ranges]
    own = distributed.mine(list(enumerate(shards)))

    def place(number: int, part: range) -> cache.Place:
        some = [screen.candidates[i] for i in (part if by == "candidate" else every)]
        config = {
            "task": tasks.identity(task),
            "candidates": [[c.level, c.target, list(c.banned)] for c in some],
            "evaluation": identity(screen.how, exclude={"stop_early"}),  # the same texts
            "seed": screen.seed,
            "mode": screen.mode,
        }
        config |= {"rows": [part.start, part.stop]} if by == "row" else {}
        return run.addressed(
            "knockout", f"{name}-{number:04d}", config=config, inputs=lambda: inputs, by=outcomes
        )

    new = [mine for number, (mine, part) in own if not cache.is_current(place(number, part))]
    if new:
        progress.announce(
            f"{name}: {sum(map(len, new)):,} completions are continued, "
            f"for {len(screen.candidates)} candidates on {len(screen.rollouts):,} completions each"
        )
    with progress.bar(sum(int(mine.limit.sum()) for _, (mine, _) in own), name, "token") as bar:
        for number, (mine, part) in own:
            compute = functools.partial(_graded, screen, task, problems, mine, bar)
            if not cache.cached(place(number, part), compute).fresh:
                bar.update(int(mine.limit.sum()))
    distributed.together().wait_for_everyone()
    made = [distributed.written(place(*one)).data for one in enumerate(ranges)]
    return pd.concat(made, ignore_index=True)


def _ranges(todo: pd.DataFrame, by: str, n: int, chunk: int) -> list[range]:
    """Cut the rows or the candidates, in order, into ranges of about `chunk` tokens, none empty.

    One that has more by itself is one range.
    """
    sizes = np.bincount(todo[by], weights=todo.limit, minlength=n)
    cuts, total = [0], 0.0
    for i, size in enumerate(sizes.tolist()):
        if total and size and total + size > chunk:
            cuts.append(i)
            total = 0.0
        total += size
    return [range(*ends) for ends in itertools.pairwise([*cuts, n])]


def _graded(
    screen: Screen,
    task: TaskConfig,
    problems: Sequence[tasks.Problem],
    todo: pd.DataFrame,
    bar: progress.Bar | None = None,
) -> pd.DataFrame:
    """The table of `outcomes` for a part of its plan."""

    def grade(prompts: Sequence[int], texts: Sequence[str]) -> np.ndarray:
        return tasks.grade(task, [problems[i] for i in prompts], texts)

    made = changes(screen, todo, grade, bar)
    made.insert(0, "benchmark", task.label)
    return made


def changes(
    screen: Screen,
    todo: pd.DataFrame,
    grade: Callable[[Sequence[int], Sequence[str]], Any],
    bar: progress.Bar | None = None,
) -> pd.DataFrame:
    """The columns of `outcomes` after ``benchmark`` for a part of the plan.

    `grade` gives a verdict for each of some prompts, by index, and texts.
    """
    tokenizer, rollouts = screen.tokenizer, screen.rollouts
    made = (share if screen.mode == "reuse" else _alone)(screen, todo, bar)
    ids = [one.tolist() for one in made.ids]
    prompt, of = rollouts.prompt_index[todo.row], np.zeros(len(ids), np.int64)
    of[made.place] = prompt
    right = grade(of.tolist(), decoded(tokenizer, ids, skip_special_tokens=True))
    ends = set(rollout.eos_ids(screen.model, tokenizer))
    chosen = [screen.candidates[i] for i in todo.candidate]
    assert rollouts.correct is not None
    return pd.DataFrame(
        {
            "level": [c.level for c in chosen],
            "target": np.array([c.target for c in chosen], np.int64),
            "prompt_index": prompt,
            "sample_index": rollouts.sample_index[todo.row],
            "correct": np.asarray(right, bool)[made.place],
            "base_correct": rollouts.correct[todo.row],
            "stopped": np.array([bool(one) and one[-1] in ends for one in ids], bool)[made.place],
            "n_new_tokens": made.new.astype(np.int32),
            "reused_tokens": made.reused.astype(np.int32),
        }
    )


def differences(
    changed: pd.DataFrame, candidates: Sequence[Candidate], n_prompts: int, samples: int
) -> np.ndarray:
    """Delta of every candidate on every problem: float64 (candidates, problems).

    The mean over a problem's rollouts of outcome minus baseline outcome; a rollout that a knockout
    does not change counts as 0. The mean over problems is Delta_B(v) of the paper.
    """
    place = {(c.level, c.target): i for i, c in enumerate(candidates)}
    delta = np.zeros((len(candidates), n_prompts))
    rows = [place[key] for key in zip(changed.level, changed.target, strict=True)]
    change = changed.correct.astype(int) - changed.base_correct.astype(int)
    np.add.at(delta, (rows, changed.prompt_index.to_numpy()), change.to_numpy() / samples)
    return delta
