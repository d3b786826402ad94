"""The cached steps of notebooks 05 and 06: the candidates, their knockouts, the screen.

They use the scored types of `rockstudy.rocks.steps`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from rockstudy import tasks
from rockstudy.config.fields import TaskConfig
from rockstudy.errors import StudyError
from rockstudy.knockout import census, prefix_reuse, sequential, tables
from rockstudy.knockout.prefix_reuse import Candidate
from rockstudy.models import loading
from rockstudy.models.token_texts import visible
from rockstudy.parallel import cpu_pool
from rockstudy.parallel.out_of_memory import advised
from rockstudy.rocks import controls
from rockstudy.rocks.detection import Detection
from rockstudy.rocks.steps import ROCKS, TOKENS, measured, tokens_hash
from rockstudy.runs import Run, table
from rockstudy.sampling import evaluation
from rockstudy.sampling.engines import Engine
from rockstudy.sampling.rollout import Rollouts
from rockstudy.store.fingerprints import content, fingerprint

FEW = 6  # ours: candidates of the comparison with naive, which is the most expensive part
SCREENED = "screen"  # name of what is sampled of all candidates
UNPAIRED = -1  # `paired_with` of a knockout without a partner


def screened_on(run: Run) -> dict[str, str]:
    """The tokens and the screened benchmarks as inputs."""
    benchmarks = fingerprint([tasks.identity(task) for task in run.config.screens])
    return tokens_hash(run) | {"benchmarks": benchmarks}


def candidates(run: Run) -> pd.DataFrame:
    """The knockouts: ``level, target, rank, paired_with, spelling, banned`` (ids), a row for each.

    Candidates are the first ``screen`` types by rank that have a positive score, at two levels:
    ``token`` and ``window``. Special tokens are left out, because a student that cannot end its
    text is a different question. A third level, ``control``, bans for each rock among them one type
    that is no rock and as frequent (`rocks.controls.assign`); ``paired_with`` is the id of the
    partner, in the rows of rocks at token level and of controls.
    """
    size = ("screen",) if run.config.screen else ()
    fields = (*TOKENS, *ROCKS, "rocks.selector", "rocks.k", *size)
    return run.table(
        _by_rank, run, name="knockout.candidates", fields=fields, inputs=lambda: tokens_hash(run)
    )


def _by_rank(run: Run) -> pd.DataFrame:
    of_run, detection = measured(run), measured(run).detection
    special = loading.tokenizer_of(run).all_special_ids
    types = detection.types[detection.types[run.config.rocks.selector] > 0]
    most = run.config.screen_size(len(detection.types))
    ranked = types[~types.token_id.isin(special)].nsmallest(most, "rank")
    ids = ranked.token_id.tolist()
    if not ids:
        raise StudyError("screen: must have at least one candidate with a positive score")
    together = _together(of_run.tokens, detection, ids, run.config.rocks.window)
    alone = [[target] for target in ids]
    single = pd.DataFrame({"level": "token", "target": ids, "rank": ranked["rank"].to_numpy()})
    single = single.assign(paired_with=UNPAIRED, banned=alone)
    window = single.assign(level="window", banned=[together[target] for target in ids])
    table = _paired(single, window, detection, special)
    return table.assign(spelling=[visible(text) for text in of_run.texts(table.target.tolist())])


def _paired(
    single: pd.DataFrame, window: pd.DataFrame, detection: Detection, special: Sequence[int]
) -> pd.DataFrame:
    """Both levels of the candidates with the controls of the rocks among them."""
    types, k = detection.types, detection.k
    rocks = single.target[single["rank"] <= k].tolist()
    if not rocks:  # the first k are special tokens
        return pd.concat([single, window], ignore_index=True)
    out = {*types.token_id[types["rank"] <= k], *special}
    pairs = controls.assign(types, rocks, exclude=out).pairs
    ids = pairs.token_id_control.tolist()
    matched = pd.DataFrame({"level": "control", "target": ids, "paired_with": rocks})
    matched["rank"] = types.set_index("token_id")["rank"].loc[ids].to_numpy()
    matched["banned"] = [[target] for target in ids]
    partner = dict(zip(rocks, ids, strict=True))
    single = single.assign(paired_with=[partner.get(i, UNPAIRED) for i in single.target])
    return pd.concat([single, window, matched], ignore_index=True)


def _together(
    tokens: pd.DataFrame, detection: Detection, ids: list[int], window: int
) -> dict[int, list[int]]:
    """Candidates with a high loss within `window` tokens of a candidate's persistent occurrences.

    These are the local high-divergence windows W(v) of the paper. It gives neither width nor
    threshold; we take those of the rocks.
    """
    keys = ["prompt_index", "sample_index", "position"]
    losses = tokens[f"{detection.settings.loss}_post"]
    high = tokens[(losses >= detection.tau_post) & tokens.token_id.isin(ids)]
    centres = detection.occurrences[detection.occurrences.token_id.isin(ids)]
    together = {i: {i} for i in ids}
    for offset in range(-window, window + 1):
        moved = centres[[*keys, "token_id"]].assign(position=centres.position + offset)
        near = moved.merge(high[[*keys, "token_id"]], on=keys, suffixes=("", "_near"))
        for i, other in zip(near.token_id, near.token_id_near, strict=True):
            together[i].add(other)
    return {i: sorted(others) for i, others in together.items()}


def _candidates(table: pd.DataFrame) -> list[Candidate]:
    columns = zip(table.target.tolist(), table.banned, table.level, strict=True)
    return [Candidate(target, tuple(map(int, banned)), level) for target, banned, level in columns]


def baseline(run: Run, task: TaskConfig, student: Engine) -> tuple[Rollouts, str]:
    """Graded completions of the student after OPD on a benchmark, and their hash."""
    after = measured(run).checkpoints["post"]
    return evaluation.answered(
        run,
        "knockout",
        f"knockout-{task.label}",
        task,
        lambda: nullcontext(student),
        lambda: {"post": after.hash},
    )


# what is sampled, and its name
Screening = tuple[TaskConfig, list[Candidate], str, prefix_reuse.Mode]


def _sampled(
    run: Run, screenings: Sequence[Screening]
) -> list[tuple[TaskConfig, list[Candidate], pd.DataFrame, Rollouts]]:
    """Outcomes and baselines of some screenings, sampled in parallel.

    With vLLM one engine serves all of them, in batches of its own.
    """
    run.needs_models("knockouts")
    with measured(run).sampler("post", run.config.knockout) as student:  # for a whole step
        bases = [baseline(run, task, student) for task, *_ in screenings]
        if run.config.knockout.engine == "transformers":
            jobs = {f"{one[2]} on {one[0].label}": (_outcomes, (run, *one)) for one in screenings}
            cpu_pool.run(jobs, lambda name: False)
        return [
            (one[0], one[1], _outcomes(run, *one, student), base)
            for one, (base, _) in zip(screenings, bases, strict=True)
        ]


def _outcomes(
    run: Run,
    task: TaskConfig,
    chosen: Sequence[Candidate],
    name: str,
    mode: prefix_reuse.Mode,
    student: Engine | None = None,
) -> pd.DataFrame:
    """`prefix_reuse.outcomes` on one benchmark; `student` is an engine that is already open."""
    of_run, how = measured(run), run.config.knockout
    with nullcontext(student) if student is not None else of_run.sampler("post", how) as sampler:
        base, of_base = baseline(run, task, sampler)
        inputs = {"student": of_run.checkpoints["post"].hash, "rollouts": of_base}
        with advised(f"{name} on {task.label}", evaluation.sampling_knobs("knockout", how)):
            tokenizer, seed = loading.tokenizer_of(run), run.config.seed
            screening = prefix_reuse.Screen(sampler, tokenizer, base, chosen, how, seed, mode)

            def outcomes(name: str, some: prefix_reuse.Screen, **more: str) -> pd.DataFrame:
                return prefix_reuse.outcomes(run, name, some, task, inputs=inputs | more)

            if run.config.knockout.stop_early:
                stops, name = name == SCREENED, f"{name}-{task.label}"
                return _in_looks(run, task, name, screening, outcomes, stops)
            return outcomes(f"{name}-{task.label}", screening)


def _in_looks(
    run: Run,
    task: TaskConfig,
    name: str,
    screening: prefix_reuse.Screen,
    outcomes: Callable[..., pd.DataFrame],
    stops: bool,
) -> pd.DataFrame:
    """Outcomes of a screening that stops early, look by look; each look is stored by itself.

    What a look writes depends on stored outcomes alone, so that a killed screen ends as one that
    was not. What does not stop, nulls and the naive comparison, has the first look's problems.
    """
    base, every = screening.rollouts, screening.candidates
    n, samples, levels = base.n_prompts, screening.how.samples, [c.level for c in every]
    order = _order(run, task, n)
    sizes = sequential.sizes(n, levels) if stops else [sequential.first_look(n)]
    going, frames = np.arange(len(every)), []
    for start, stop in itertools.pairwise([0, *sizes]):
        problems = np.sort(order[start:stop])
        some, some_of = [every[i] for i in going], base.of_prompts(problems)
        part = replace(screening, candidates=some, rollouts=some_of)
        key = fingerprint(problems.tolist())
        frames.append(outcomes(f"{name}-{stop:05d}", part, problems=key))
        changed = pd.concat(frames, ignore_index=True)
        delta = prefix_reuse.differences(changed, every, n, samples)[:, order[:stop]]
        kinds = [levels[i] for i in going]
        going = going[sequential.going_on(delta[going], kinds, stop, n)]
        if not len(going):
            break
    return pd.concat(frames, ignore_index=True)


def _order(run: Run, task: TaskConfig, n: int) -> np.ndarray:
    return sequential.order(run.config.seed, task.label, n)


def _knocked_out(run: Run, chosen: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables `changes` and `knockouts`, sampled once for both."""
    name = f"knockouts-{fingerprint(content(chosen))}"
    return run.in_memory(name, lambda: _tables(run, chosen))


def _tables(run: Run, chosen: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    mode = mode_of(run)
    every, single = _candidates(chosen), _candidates(chosen[chosen.level == "token"])
    asked = [(task, every, SCREENED, mode) for task in run.config.screens]
    if mode == "reuse":
        asked += [(task, single, "null", "null") for task in run.config.screens]
    made = [
        _of_outcomes(run, *one, how, whole=name != SCREENED)
        for one, (*_, name, how) in zip(_sampled(run, asked), asked, strict=True)
    ]
    changes, knockouts = zip(*made, strict=True)
    return pd.concat(changes, ignore_index=True), pd.concat(knockouts, ignore_index=True)


def mode_of(run: Run) -> prefix_reuse.Mode:
    """How bans are sampled; naive where top-p cuts (`prefix_reuse`), and then there is no null."""
    return "reuse" if run.config.knockout.top_p == 1 else "naive"


def _of_outcomes(
    run: Run,
    task: TaskConfig,
    chosen: Sequence[Candidate],
    changed: pd.DataFrame,
    base: Rollouts,
    mode: prefix_reuse.Mode,
    *,
    whole: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of `changes` and of `knockouts` of one benchmark and mode.

    `whole`: of a screening in which no knockout stops before another.
    """
    samples, about = run.config.knockout.samples, {"benchmark": task.label, "mode": mode}
    delta = prefix_reuse.differences(changed, chosen, base.n_prompts, samples)
    counts = np.rint(delta * samples).astype(np.int16)
    places, prompts = counts.nonzero()
    index = pd.MultiIndex.from_tuples([(c.level, c.target) for c in chosen])
    named = index.to_frame(index=False, name=["level", "target"])
    rows = pd.DataFrame(about, range(len(places))).join(named.iloc[places].reset_index(drop=True))
    rows = rows.assign(prompt_index=prompts.astype(np.int32), change=counts[places, prompts])
    new = changed.groupby(["level", "target"]).n_new_tokens.agg(["size", "sum"])
    new = new.reindex(index, fill_value=0).reset_index(drop=True)
    assert base.correct is not None
    holding = [(np.isin(base.completion_ids, c.banned) & base.mask).any(1) for c in chosen]
    one = pd.DataFrame(about, named.index).join(named)
    made = one.assign(
        completions=new["size"],
        tokens_generated=new["sum"],
        tokens_naive=base.n_tokens,
        holding=[int(held.sum()) for held in holding],
        holding_correct=[int(base.correct[held].sum()) for held in holding],
        base=base.correct.mean(),
        n_problems=base.n_prompts,
        samples=samples,
    )
    if run.config.knockout.stop_early:
        return _of_looks(run, task, base, delta, rows, made, np.array(holding), whole)
    return rows, made


def _of_looks(
    run: Run,
    task: TaskConfig,
    base: Rollouts,
    delta: np.ndarray,
    rows: pd.DataFrame,
    made: pd.DataFrame,
    holding: np.ndarray,
    whole: bool,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The same for a screening that stops early: counts are those of the problems it had."""
    n, order = base.n_prompts, _order(run, task, base.n_prompts)
    place, first = np.argsort(order), sequential.first_look(n)
    had = np.full(len(made), first)
    if not whole:
        had = sequential.had(delta[:, order], made.level.tolist()).n_problems.to_numpy()
    of_row = place[base.prompt_index]  # (R,)
    lengths, seen = base.mask.sum(1), of_row < had[:, None]  # (knockouts, R)
    assert base.correct is not None
    return rows.assign(place=place[rows.prompt_index].astype(np.int32)), made.assign(
        tokens_naive=seen @ lengths,
        holding=(holding & seen).sum(1),
        holding_correct=(holding & seen & base.correct).sum(1),
        holding_first=(holding & (of_row < first)).sum(1),
        n_problems=had,
        n_planned=n,
    )


@table(*TOKENS, "knockout", "screened", inputs=screened_on)
def changes(run: Run, chosen: pd.DataFrame) -> pd.DataFrame:
    """What every knockout changes, from which all that follows is computed without models.

    Columns: ``benchmark, mode, level, target, prompt_index``, and ``change``: correct completions
    of the problem with the knockout minus without it. The mode is that of `prefix_reuse`: ``reuse``
    (``naive`` where top-p is below 1) or, at token level, ``null``. Rows without a change are left
    out. Where knockouts stop early, ``place`` is that of the problem in their order.
    """
    return _knocked_out(run, chosen)[0]


@table(*TOKENS, "knockout", "screened", inputs=screened_on)
def knockouts(run: Run, chosen: pd.DataFrame) -> pd.DataFrame:
    """A row for each knockout of `changes`, those that change nothing too.

    Columns: ``benchmark, mode, level, target``; ``completions`` that were written anew,
    ``tokens_generated, tokens_naive``; ``holding``, the baseline's completions with a banned id,
    and ``holding_correct``, the right ones among them; ``base`` (the baseline's accuracy),
    ``n_problems, samples`` (completions of a problem).

    Where knockouts stop early (`sequential`), all counts are those of the ``n_problems`` that each
    had, of ``n_planned``; ``holding_first`` is ``holding`` on those of the first look.
    """
    return _knocked_out(run, chosen)[1]


@table(*TOKENS, "knockout", "screened", inputs=screened_on)
def screen(run: Run, chosen: pd.DataFrame) -> pd.DataFrame:
    """Delta of every knockout on the screened benchmarks, without the nulls.

    `knockouts` with `census.bootstrap`'s ``delta, se, lo, hi, p``; where knockouts stop early with
    `sequential.decided`'s, and ``stopped``.
    """
    of_bans, change = knockouts(run, chosen), changes(run, chosen)
    parts = []
    for name, some in of_bans[of_bans["mode"] != "null"].groupby("benchmark", sort=False):
        some = some.reset_index(drop=True)
        if run.config.knockout.stop_early:
            delta = census.deltas(_by_place(change), some.assign(n_problems=some.n_planned))
            tested = sequential.had(delta, some.level.tolist()).drop(columns="n_problems")
        else:
            tested = census.bootstrap(census.deltas(change, some), run.rng(f"bootstrap-{name}"))
        parts.append(some.join(tested))
    return pd.concat(parts, ignore_index=True)


def _by_place(change: pd.DataFrame) -> pd.DataFrame:
    """`changes` whose problems are numbered in the order of the looks."""
    return change.assign(prompt_index=change.place)


class Compared(NamedTuple):
    """What compares knockouts with each other: tables of problems that all of them had."""

    screen: pd.DataFrame
    changes: pd.DataFrame
    knockouts: pd.DataFrame


def compared(run: Run, chosen: pd.DataFrame) -> Compared:
    """The tables `screen, changes, knockouts`; where knockouts stop early, of the first look alone.

    Estimates of knockouts that stopped when they looked strong are too large, and their problems
    differ; the first look's problems were fixed beforehand and no single-token ban stops before.
    """
    of_bans, change = knockouts(run, chosen), changes(run, chosen)
    if not run.config.knockout.stop_early:
        return Compared(screen(run, chosen), change, of_bans)
    # windows may stop before, and are in no comparison
    of_bans = of_bans[of_bans.level != "window"]
    first = of_bans.n_planned.map(sequential.first_look)
    of_bans = of_bans.assign(n_problems=first, holding=of_bans.holding_first)
    sizes = of_bans.groupby("benchmark").n_problems.first()
    inside = change[(change.place < change.benchmark.map(sizes)) & (change.level != "window")]
    inside = _by_place(inside)
    parts = []
    for name, some in of_bans[of_bans["mode"] != "null"].groupby("benchmark", sort=False):
        some = some.reset_index(drop=True)
        rng = run.rng(f"bootstrap-first-{name}")
        parts.append(some.join(census.bootstrap(census.deltas(inside, some), rng)))
    return Compared(pd.concat(parts, ignore_index=True), inside, of_bans)


@table(*TOKENS, "knockout", "screened", inputs=screened_on)
def naive(run: Run, chosen: pd.DataFrame) -> pd.DataFrame:
    """A few candidates on the first benchmark with everything written anew.

    The `FEW` candidates are spread evenly over the ranks. Columns as `screen`, and ``mean_lo,
    mean_hi``: the interval of the mean ``delta``, problems resampled, since candidates share their
    baseline.
    """
    task = run.config.screens[0]
    single = chosen[chosen.level == "token"].sort_values("rank")
    places = np.unique(np.linspace(0, len(single) - 1, FEW).round().astype(int))
    some = _candidates(single.iloc[places])
    ((*one, changed, base),) = _sampled(run, [(task, some, "naive", "naive")])
    change, of_naive = _of_outcomes(run, *one, changed, base, "naive")
    change = _by_place(change) if run.config.knockout.stop_early else change
    return of_naive.join(tables.with_mean(change, of_naive, run.rng("bootstrap-naive")))
