"""The cached steps of notebooks 05 and 06: the screen, the census, predictors of a difference.

They use the scored types of `rockstudy.rocks.steps`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext

import numpy as np
import pandas as pd

from rockstudy import tasks
from rockstudy.config.fields import TaskConfig
from rockstudy.errors import StudyError
from rockstudy.knockout import census, prefix_reuse
from rockstudy.knockout.prefix_reuse import Candidate
from rockstudy.models import loading
from rockstudy.models.token_texts import visible
from rockstudy.parallel import cpu_pool
from rockstudy.parallel.out_of_memory import advised
from rockstudy.rocks.detection import Detection
from rockstudy.rocks.steps import ROCKS, TOKENS, measured, tokens_hash
from rockstudy.runs import Run, table
from rockstudy.sampling import evaluation
from rockstudy.sampling.engines import Engine
from rockstudy.sampling.rollout import Rollouts
from rockstudy.store.fingerprints import fingerprint

CONTROLS = 12  # ours: candidates of the null knockout and of the comparison with naive
PREDICTORS = {  # paper appendix D, in the order of its table 1
    "frequency": "log10 of occurrences",
    "n_rock": "rock count",
    "ccr": "rock rate",
    "rkl_pre_mean": "pre-OPD KL",
    "rkl_post_mean": "post-OPD KL",
    "rkl_improvement": "KL improvement",
    "entropy_teacher_mean": "teacher entropy",
    "entropy_pre_mean": "pre-OPD student entropy",
    "entropy_post_mean": "post-OPD student entropy",
}
WITHOUT_ANSWERS = "not answer-bearing"
ENTROPIES = ("entropy_post_mean", "entropy_pre_mean", "entropy_teacher_mean")
PANELS = {name: PREDICTORS[name] for name in (*ENTROPIES, "frequency", "ccr", "rkl_post_mean")}


def _screened_on(run: Run) -> dict[str, str]:
    """The tokens and the screened benchmarks as inputs."""
    benchmarks = fingerprint([tasks.identity(task) for task in run.config.screens])
    return tokens_hash(run) | {"benchmarks": benchmarks}


def candidates(run: Run) -> pd.DataFrame:
    """The candidates: ``arm, target, rank, spelling, banned`` (ids), a row per kind of knockout.

    They are the first ``screen`` types by rank that have a positive score. Special tokens are left
    out, because a student that cannot end its text is a different question.
    """
    size = "screen" if run.config.screen else "rocks.k"  # the field that sets how many
    fields = (*TOKENS, *ROCKS, "rocks.selector", size)
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
    single = pd.DataFrame({"arm": "token", "target": ids, "rank": ranked["rank"].to_numpy()})
    single["banned"] = [[target] for target in ids]
    window = single.assign(arm="window", banned=[together[target] for target in ids])
    both = pd.concat([single, window], ignore_index=True)
    return both.assign(spelling=[visible(text) for text in of_run.texts(both.target.tolist())])


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
    columns = zip(table.target.tolist(), table.banned, table["arm"], strict=True)
    return [Candidate(target, tuple(map(int, banned)), arm) for target, banned, arm in columns]


def baseline(run: Run, task: TaskConfig, student: Engine) -> tuple[Rollouts, str]:
    """Graded completions of the student after OPD on a benchmark, and their hash."""
    completions = (run, "knockout", f"knockout-{task.label}", task)
    return evaluation.answered(
        *completions, lambda: nullcontext(student), lambda: {"post": measured(run).hashes["post"]}
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
        inputs = {"student": of_run.hashes["post"], "rollouts": of_base}
        with advised(f"{name} on {task.label}", evaluation.sampling_knobs("knockout", how)):
            tokenizer, seed = loading.tokenizer_of(run), run.config.seed
            screening = prefix_reuse.Screen(sampler, tokenizer, base, chosen, how, seed, mode)
            name = f"{name}-{task.label}"
            return prefix_reuse.outcomes(run, name, screening, task, inputs=inputs)


@table(*TOKENS, "knockout", "screened", inputs=_screened_on)
def screen(run: Run, chosen: pd.DataFrame) -> pd.DataFrame:
    """Delta of every candidate on the screened benchmarks, token and window level.

    Columns: ``benchmark, arm, target``; `census.bootstrap`'s ``delta, se, lo, hi, p``; ``base``
    (the baseline's accuracy), ``completions`` that changed, ``tokens_generated, tokens_naive,
    n_problems``.
    """
    some = _candidates(chosen)
    outcomes = _sampled(
        run, [(task, some, "screen", _modes(run)[-1]) for task in run.config.screens]
    )
    return pd.concat([_deltas(run, *one) for one in outcomes], ignore_index=True)


def _modes(run: Run) -> tuple[prefix_reuse.Mode, ...]:
    """All modes, the longest first; naive alone with top-p below 1 (`prefix_reuse`)."""
    return ("naive", "null", "reuse") if run.config.knockout.top_p == 1 else ("naive",)


def _deltas(
    run: Run, task: TaskConfig, chosen: Sequence[Candidate], changed: pd.DataFrame, base: Rollouts
) -> pd.DataFrame:
    delta = prefix_reuse.differences(changed, chosen, base.n_prompts, run.config.knockout.samples)
    tested = census.bootstrap(delta, run.rng(f"bootstrap-{task.label}"))
    index = pd.MultiIndex.from_tuples([(c.arm, c.target) for c in chosen], names=["arm", "target"])
    grouped = changed.groupby(index.names).n_new_tokens.agg(["size", "sum"])
    grouped = grouped.reindex(index, fill_value=0).reset_index()
    assert base.correct is not None
    deltas = pd.DataFrame({"benchmark": task.label}, grouped.index)
    return (
        deltas.join(grouped[index.names])
        .join(tested)
        .assign(
            base=base.correct.mean(),
            completions=grouped["size"],
            tokens_generated=grouped["sum"],
            tokens_naive=base.n_tokens,
            n_problems=base.n_prompts,
        )
    )


@table(*TOKENS, "knockout", "screened", inputs=_screened_on)
def controls(run: Run, chosen: pd.DataFrame) -> pd.DataFrame:
    """The null knockout, and the comparison of reuse with naive, of a few candidates.

    The `CONTROLS` token-level candidates are spread evenly over the ranks.

    As `screen` for the first of its benchmarks, with ``mode`` (``null, reuse, naive``; naive alone
    where top-p is below 1) and ``mean_lo, mean_hi``: the interval of the mode's mean ``delta``,
    problems resampled, since candidates share their baseline.
    """
    task = run.config.screens[0]
    single = chosen[chosen["arm"] == "token"].sort_values("rank")
    places = np.unique(np.linspace(0, len(single) - 1, CONTROLS).round().astype(int))
    some = _candidates(single.iloc[places])
    frames, modes = [], _modes(run)
    outcomes = _sampled(run, [(task, some, f"control-{mode}", mode) for mode in modes])
    for (*one, changed, base), mode in zip(outcomes, modes, strict=True):
        delta = prefix_reuse.differences(changed, some, base.n_prompts, run.config.knockout.samples)
        rng = run.rng(f"bootstrap-{mode}")
        mean = census.bootstrap(delta.mean(0, keepdims=True), rng).iloc[0]
        table = _deltas(run, *one, changed, base)
        frames.append(table.assign(mode=mode, mean_lo=mean.lo, mean_hi=mean.hi))
    return pd.concat(frames, ignore_index=True)


def null_summary(controls: pd.DataFrame) -> pd.DataFrame:
    """Mean Delta of each mode with its interval over problems, and tokens against naive."""
    rows = [
        {
            "mode": mode,
            "delta": some.delta.mean(),
            "lo": some.mean_lo.iloc[0],
            "hi": some.mean_hi.iloc[0],
            "mean_se": some.se.mean(),
            "tokens_vs_naive": some.tokens_generated.sum() / some.tokens_naive.sum(),
            "candidates": len(some),
            "n": some.n_problems.iloc[0],
        }
        for mode, some in controls.groupby("mode", sort=False)
    ]
    return pd.DataFrame(rows)


def census_table(
    classes: pd.DataFrame, k: int, chosen: pd.DataFrame, answers: Collection[int] | None = None
) -> pd.DataFrame:
    """Table 2: candidates by class on each benchmark, all and inside the top K, with sign tests.

    With the ids of the answer-bearing types in `answers`, also without those: a student that must
    not write a digit of the answer fails mechanically, which says nothing about rocks.
    """
    ranks = chosen.drop_duplicates("target").set_index("target")["rank"]
    rows = []
    for benchmark, some in [*classes.groupby("benchmark", sort=False), ("both", classes)]:
        parts = {"all": some, f"top {k}": some[some.target.map(ranks) <= k]}
        if answers is not None:
            parts[WITHOUT_ANSWERS] = some[~some.target.isin(list(answers))]
        for name, part in parts.items():
            row = {"benchmark": benchmark, "candidates": name, "n": len(part)} | _counts(part)
            rows.append(row | {"sign_test_p": census.sign_test(list(part["class"]))})
    return pd.DataFrame(rows)


def census_reading(counted: pd.DataFrame) -> str:
    """Sentences on `census_table`: the pillars of each benchmark with and without answers."""
    pillar, _, stumbling = census.CLASSES
    rows = counted[counted.benchmark != "both"].set_index(["candidates", "benchmark"])
    if WITHOUT_ANSWERS not in rows.index:
        return "Which candidates are answer-bearing is not in this reference."
    sizes, told = rows[["n", pillar, stumbling]], []
    for name, every in sizes.loc["all"].iterrows():
        rest = sizes.loc[(WITHOUT_ANSWERS, name)]
        told.append(
            f"{name}: {every[pillar]} of {every.n} candidates are {pillar}s and {every[stumbling]} "
            f"{stumbling}s; without the {every.n - rest.n} answer-bearing ones, whose ban is "
            f"mechanical, {rest[pillar]} and {rest[stumbling]} of {rest.n}."
        )
    return "\n".join(told)


def _counts(classes: pd.DataFrame) -> dict[str, int]:
    return classes["class"].value_counts().reindex(census.CLASSES, fill_value=0).to_dict()


def arm_table(screen: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    """Classes by kind of knockout, and ``banned``, the median number of ids banned together.

    In a small vocabulary a window bans many types, so its effect is hardly that of the candidate.
    """
    banned = chosen.groupby("arm").banned.agg(lambda ids: int(ids.map(len).median()))
    rows = []
    for (benchmark, arm), some in screen.groupby(["benchmark", "arm"], sort=False):
        row = {"benchmark": benchmark, "arm": arm, "banned": banned[arm]}
        rows.append(row | _counts(census.census(some)) | {"mean_delta": some.delta.mean()})
    return pd.DataFrame(rows)


def _of_benchmarks(
    table: pd.DataFrame, compute: Callable[[pd.DataFrame], pd.DataFrame]
) -> pd.DataFrame:
    """What is computed from the rows of each benchmark, with its name as the last column."""
    groups = table.groupby("benchmark", sort=False)
    made = [compute(some).assign(benchmark=name) for name, some in groups]
    return pd.concat(made, ignore_index=True)


def tests(screen: pd.DataFrame) -> pd.DataFrame:
    """`census.multiplicity` of each benchmark, the token level alone."""
    single = screen[screen["arm"] == "token"]
    return _of_benchmarks(single, lambda some: census.multiplicity(some.p.to_numpy()))


# --- notebook 06 ----------------------------------------------------------------------------------


def with_predictors(screen: pd.DataFrame, types: pd.DataFrame) -> pd.DataFrame:
    """The token-level screen with the nine predictors of each candidate, a row per benchmark."""
    known = types.assign(
        frequency=np.log10(types["count"]), rkl_improvement=types.rkl_pre_mean - types.rkl_post_mean
    )
    columns = ["token_id", "spelling", "rank", *PREDICTORS]
    single = screen[screen["arm"] == "token"]
    return single.merge(known[columns], left_on="target", right_on="token_id")


def correlations(table: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Table 1: `census.predictors` on each benchmark."""
    return _of_benchmarks(table, lambda some: census.predictors(some, list(PREDICTORS), rng))


def power(screen: pd.DataFrame) -> pd.DataFrame:
    """Power of the screen on each benchmark.

    Columns: ``detectable_median, detectable_max`` (Delta at 80% power), ``reliability`` of Delta
    over candidates, ``largest_r`` (its square root, the r of a perfect predictor).
    """
    rows = []
    for name, some in screen[screen["arm"] == "token"].groupby("benchmark", sort=False):
        least = census.detectable(some.se.to_numpy())
        share = census.reliability(some.delta.to_numpy(), some.se.to_numpy())
        row = {"benchmark": name, "candidates": len(some), "detectable_median": np.median(least)}
        row |= {"detectable_max": least.max(), "reliability": share, "largest_r": np.sqrt(share)}
        rows.append(row)
    return pd.DataFrame(rows)
