"""The cached steps of notebooks 05 and 06: the screen, the census, predictors of a difference.

They use the scored types of `rockstudy.rocks.steps`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

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
from rockstudy.rocks.steps import ROCKS, TOKENS, measured, tokens_hash
from rockstudy.runs import Run, table
from rockstudy.sampling import evaluation
from rockstudy.sampling.engines import Engine
from rockstudy.sampling.rollout import Rollouts
from rockstudy.store.fingerprints import fingerprint

ARMS = ("token", "window")
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
PANELS = {  # paper figure 6
    name: PREDICTORS[name]
    for name in (
        "entropy_post_mean",
        "entropy_pre_mean",
        "entropy_teacher_mean",
        "frequency",
        "ccr",
        "rkl_post_mean",
    )
}


def _screened_on(run: Run) -> dict[str, str]:
    """The tokens and the screened benchmarks as inputs."""
    benchmarks = fingerprint([tasks.identity(task) for task in run.config.screens])
    return tokens_hash(run) | {"benchmarks": benchmarks}


@table(*TOKENS, *ROCKS, "rocks.selector", "screen", inputs=tokens_hash)
def candidates(run: Run) -> pd.DataFrame:
    """The candidates: ``arm, target, rank, spelling, banned`` (ids), a row per kind of knockout.

    They are the first ``screen`` types by rank that have a positive score. Special tokens are left
    out, because a student that cannot end its text is a different question.
    """
    found, made = measured(run), measured(run).detection
    special = set(loading.tokenizer_of(run).all_special_ids)
    types = made.types[made.types[run.config.rocks.selector] > 0]
    ranked = types[~types.token_id.isin(special)].nsmallest(run.config.screen, "rank")
    ids = ranked.token_id.to_numpy()
    if len(ids) == 0:
        raise StudyError("screen: must have at least one candidate with a positive score")
    together = _together(found.tokens, made, ids, run.config.rocks.window)
    rows = []
    for arm in ARMS:
        for target, rank in zip(ids.tolist(), ranked["rank"].tolist(), strict=True):
            banned = [target] if arm == "token" else together[target]
            rows.append({"arm": arm, "target": target, "rank": rank, "banned": banned})
    texts = found.texts([row["target"] for row in rows])
    spelling = [visible(text) for text in texts]
    return pd.DataFrame(rows).assign(spelling=spelling)


def _together(
    tokens: pd.DataFrame, made: Any, ids: np.ndarray, window: int
) -> dict[int, list[int]]:
    """Candidates with a high loss within `window` tokens of a candidate's persistent occurrences.

    These are the local high-divergence windows W(v) of the paper. It gives neither width nor
    threshold; we take those of the rocks.
    """
    keys = ["prompt_index", "sample_index", "position"]
    losses = tokens[f"{made.settings.loss}_post"]
    high = tokens[(losses >= made.tau_post) & tokens.token_id.isin(ids)]
    centres = made.occurrences[made.occurrences.token_id.isin(ids)]
    pairs = []
    for offset in range(-window, window + 1):
        moved = centres[[*keys, "token_id"]].assign(position=centres.position + offset)
        near = moved.merge(high[[*keys, "token_id"]], on=keys, suffixes=("", "_near"))
        pairs.append(near[["token_id", "token_id_near"]].drop_duplicates())
    near = pd.concat(pairs).drop_duplicates()
    others = near.groupby("token_id").token_id_near.agg(set).to_dict()
    return {int(i): sorted({int(i), *map(int, others.get(i, set()))}) for i in ids}


def _candidates(table: pd.DataFrame) -> list[Candidate]:
    return [
        Candidate(int(row.target), tuple(int(i) for i in row.banned), str(row.arm))
        for row in table.itertuples()
    ]


def _student(run: Run) -> AbstractContextManager[Engine]:
    """Open the engine that samples from the student after OPD, one for a whole step."""
    return measured(run).sampler("post", run.config.knockout)


def baseline(run: Run, task: TaskConfig, student: Engine) -> tuple[Rollouts, str]:
    """Graded completions of the student after OPD on a benchmark, and their hash."""
    return evaluation.answered(
        run,
        "knockout",
        f"knockout-{task.label}",
        task,
        lambda: nullcontext(student),
        lambda: {"post": measured(run).hashes["post"]},
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
    with _student(run) as student:
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
    with nullcontext(student) if student is not None else _student(run) as sampler:
        base, of_base = baseline(run, task, sampler)
        knobs = evaluation.sampling_knobs("knockout", run.config.knockout)
        with advised(f"{name} on {task.label}", knobs):
            tokenizer, config = loading.tokenizer_of(run), run.config
            screening = prefix_reuse.Screen(
                sampler, tokenizer, task, base, chosen, config.knockout, config.seed, mode
            )
            inputs = {"student": measured(run).hashes["post"], "rollouts": of_base}
            return prefix_reuse.outcomes(run, f"{name}-{task.label}", screening, inputs=inputs)


@table(*TOKENS, "knockout", "screened", inputs=_screened_on)
def screen(run: Run, chosen: pd.DataFrame) -> pd.DataFrame:
    """Delta of every candidate on the screened benchmarks, token and window level.

    Returns
    -------
    DataFrame
        ``benchmark, arm, target``; `census.bootstrap`'s ``delta, se, lo, hi, p``; ``base`` (the
        baseline's accuracy), ``completions`` that changed, ``tokens_generated, tokens_naive,
        n_problems``.
    """
    some = _candidates(chosen)
    mode: prefix_reuse.Mode = "reuse" if _reuses(run) else "naive"
    outcomes = _sampled(run, [(task, some, "screen", mode) for task in run.config.screens])
    return pd.concat([_deltas(run, *one) for one in outcomes], ignore_index=True)


def _reuses(run: Run) -> bool:
    """Whether prefixes can be reused: not with top-p below 1 (`prefix_reuse`)."""
    return run.config.knockout.top_p == 1


def _deltas(
    run: Run, task: TaskConfig, chosen: Sequence[Candidate], changed: pd.DataFrame, base: Rollouts
) -> pd.DataFrame:
    delta = prefix_reuse.differences(changed, chosen, base.n_prompts, run.config.knockout.samples)
    tested = census.bootstrap(delta, run.rng(f"bootstrap-{task.label}"))
    keys = {"benchmark": task.label, "arm": [c.arm for c in chosen]}
    deltas = pd.DataFrame(keys | {"target": [c.target for c in chosen]}).join(tested)
    grouped = changed.groupby(["arm", "target"]).n_new_tokens.agg(["size", "sum"])
    index = pd.MultiIndex.from_arrays([deltas["arm"], deltas.target])
    grouped = grouped.reindex(index, fill_value=0)
    assert base.correct is not None
    return deltas.assign(
        base=base.correct.mean(),
        completions=grouped["size"].to_numpy(),
        tokens_generated=grouped["sum"].to_numpy(),
        tokens_naive=base.n_tokens,
        n_problems=base.n_prompts,
    )


@table(*TOKENS, "knockout", "screened", inputs=_screened_on)
def controls(run: Run, chosen: pd.DataFrame) -> pd.DataFrame:
    """The null knockout, and the comparison of reuse with naive, of a few candidates.

    The `CONTROLS` token-level candidates are spread evenly over the ranks.

    Returns
    -------
    DataFrame
        As `screen` for the first of its benchmarks, with ``mode`` (``null, reuse, naive``; naive
        alone where top-p is below 1) and ``mean_lo, mean_hi``: the interval of the mode's mean
        ``delta``, problems resampled, since candidates share their baseline.
    """
    task = run.config.screens[0]
    single = chosen[chosen["arm"] == "token"].sort_values("rank")
    places = np.unique(np.linspace(0, len(single) - 1, CONTROLS).round().astype(int))
    some = _candidates(single.iloc[places])
    modes: tuple[prefix_reuse.Mode, ...] = ("naive", "null", "reuse")  # the longest first
    modes = modes if _reuses(run) else modes[:1]
    outcomes = _sampled(run, [(task, some, f"control-{mode}", mode) for mode in modes])
    frames = []
    for (_, _, changed, base), mode in zip(outcomes, modes, strict=True):
        delta = prefix_reuse.differences(changed, some, base.n_prompts, run.config.knockout.samples)
        rng = run.rng(f"bootstrap-{mode}")
        mean = census.bootstrap(delta.mean(0, keepdims=True), rng).iloc[0]
        table = _deltas(run, task, some, changed, base)
        frames.append(table.assign(mode=mode, mean_lo=mean.lo, mean_hi=mean.hi))
    return pd.concat(frames, ignore_index=True)


def null_summary(controls: pd.DataFrame) -> pd.DataFrame:
    """Mean Delta of each mode with its interval over problems, and tokens against naive."""
    rows = []
    for mode, some in controls.groupby("mode", sort=False):
        rows.append(
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
        )
    return pd.DataFrame(rows)


def classes(screen: pd.DataFrame) -> pd.DataFrame:
    """`census.census` of the screen."""
    return census.census(screen)


def census_table(classes: pd.DataFrame, k: int, chosen: pd.DataFrame) -> pd.DataFrame:
    """Table 2: candidates by class on each benchmark, all and inside the top K, with sign tests."""
    ranks = chosen.drop_duplicates("target").set_index("target")["rank"]
    rows = []
    for benchmark, some in [*classes.groupby("benchmark", sort=False), ("both", classes)]:
        for name, part in (("all", some), (f"top {k}", some[some.target.map(ranks) <= k])):
            counts = part["class"].value_counts()
            row = {"benchmark": benchmark, "candidates": name, "n": len(part)}
            row |= {kind: int(counts.get(kind, 0)) for kind in census.CLASSES}
            rows.append(row | {"sign_test_p": census.sign_test(list(part["class"]))})
    return pd.DataFrame(rows)


def arm_table(screen: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    """Classes by kind of knockout, and ``banned``, the median number of ids banned together.

    In a small vocabulary a window bans many types, so its effect is hardly that of the candidate.
    """
    banned = chosen.groupby("arm").banned.agg(lambda ids: int(ids.map(len).median()))
    rows = []
    for (benchmark, arm), some in screen.groupby(["benchmark", "arm"], sort=False):
        counts = census.census(some)["class"].value_counts()
        row = {"benchmark": benchmark, "arm": arm, "banned": banned[arm]}
        row |= {kind: int(counts.get(kind, 0)) for kind in census.CLASSES}
        rows.append(row | {"mean_delta": some.delta.mean()})
    return pd.DataFrame(rows)


def tests(screen: pd.DataFrame) -> pd.DataFrame:
    """`census.multiplicity` of each benchmark, the token level alone."""
    single = screen[screen["arm"] == "token"]
    frames = [
        census.multiplicity(some.p.to_numpy()).assign(benchmark=name)
        for name, some in single.groupby("benchmark", sort=False)
    ]
    return pd.concat(frames, ignore_index=True)


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
    frames = [
        census.predictors(some, list(PREDICTORS), rng).assign(benchmark=name)
        for name, some in table.groupby("benchmark", sort=False)
    ]
    return pd.concat(frames, ignore_index=True)


def power(screen: pd.DataFrame) -> pd.DataFrame:
    """Power of the screen on each benchmark.

    Returns
    -------
    DataFrame
        ``detectable_median, detectable_max`` (Delta at 80% power), ``reliability`` of Delta over
        candidates, ``largest_r`` (its square root, the r of a perfect predictor).
    """
    rows = []
    for name, some in screen[screen["arm"] == "token"].groupby("benchmark", sort=False):
        least = census.detectable(some.se.to_numpy())
        share = census.reliability(some.delta.to_numpy(), some.se.to_numpy())
        rows.append(
            {
                "benchmark": name,
                "candidates": len(some),
                "detectable_median": float(np.median(least)),
                "detectable_max": float(least.max()),
                "reliability": share,
                "largest_r": float(np.sqrt(share)),
            }
        )
    return pd.DataFrame(rows)
