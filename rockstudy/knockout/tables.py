"""Tables of notebooks 05 and 06, computed from the stored knockouts without models."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import pandas as pd
from scipy import stats

from rockstudy.intervals import LEVEL
from rockstudy.knockout import calibrated, census, matched

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
WITHOUT_ANSWERS, TESTABLE = "not answer-bearing", "testable"
BOTH = "both"  # benchmarks together
DIGITS = r"[0-9]+"  # spellings, blanks aside
ENTROPIES = ("entropy_post_mean", "entropy_pre_mean", "entropy_teacher_mean")
PANELS = {name: PREDICTORS[name] for name in (*ENTROPIES, "frequency", "ccr", "rkl_post_mean")}


def with_mean(change: pd.DataFrame, some: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """`census.bootstrap` of each knockout, and the interval of the mean of all."""
    delta = census.deltas(change, some)
    mean = census.bootstrap(delta.mean(0, keepdims=True), rng).iloc[0]
    return census.bootstrap(delta, rng).assign(mean_lo=mean.lo, mean_hi=mean.hi)


def modes(
    change: pd.DataFrame, knockouts: pd.DataFrame, naive: pd.DataFrame, rng: np.random.Generator
) -> pd.DataFrame:
    """Mean Delta of the null knockouts, and of a few candidates by reuse and by naive.

    From the tables of `rockstudy.knockout.steps` of these names. The interval of the mean resamples
    problems. Columns: ``benchmark, mode, delta, lo, hi, mean_se, tokens_vs_naive, candidates, n``.
    """
    few = knockouts.merge(naive[["benchmark", "level", "target"]])
    parts = [few[few["mode"] == "reuse"], knockouts[knockouts["mode"] == "null"]]
    tables = [naive] + [
        some.reset_index(drop=True).join(with_mean(change, some, rng))
        for part in parts
        for _, some in part.groupby("benchmark", sort=False)
    ]
    rows = [
        {
            "benchmark": some.benchmark.iloc[0],
            "mode": some["mode"].iloc[0],
            "delta": some.delta.mean(),
            "lo": some.mean_lo.iloc[0],
            "hi": some.mean_hi.iloc[0],
            "mean_se": some.se.mean(),
            "tokens_vs_naive": some.tokens_generated.sum() / some.tokens_naive.sum(),
            "candidates": len(some),
            "n": some.n_problems.iloc[0],
        }
        for some in tables
    ]
    return pd.DataFrame(rows)


def classes(
    screen: pd.DataFrame, chosen: pd.DataFrame, answers: Collection[int] | None = None
) -> pd.DataFrame:
    """`census.census` of the screen, by the stronger of both levels, as `with_answers` has it."""
    return with_answers(census.census(screen), chosen, answers)


def with_answers(
    classes: pd.DataFrame, chosen: pd.DataFrame, answers: Collection[int] | None
) -> pd.DataFrame:
    """`census.census` with ``mechanical``: the ban that decided holds an answer-bearing type.

    A student that must not write a digit of the answer fails mechanically, which says nothing about
    rocks. `answers` are the ids of the answer-bearing types; without them the column is absent.
    """
    if answers is None:
        return classes
    banned = chosen.set_index(["level", "target"]).banned
    holds = banned.map(lambda ids: not set(answers).isdisjoint(ids))
    decided = pd.MultiIndex.from_frame(classes[["level", "target"]])
    return classes.assign(mechanical=holds.loc[decided].to_numpy())


def census_table(
    classes: pd.DataFrame, screen: pd.DataFrame, chosen: pd.DataFrame, k: int
) -> pd.DataFrame:
    """Table 2: candidates by class on each benchmark, all of them and three parts.

    `classes` is that of `with_answers`. The parts are the top K, the `TESTABLE` ones at token level
    (`census.reach`) and, where answer-bearing types are known, those whose ban holds none.
    ``paper_sign_p`` is the sign test as the paper has it (`census.sign_test`), which is not valid.
    """
    ranks = chosen[chosen.level == "token"].set_index("target")["rank"]
    single = screen[screen.level == "token"]
    able = single[census.reach(single).testable]
    able = pd.MultiIndex.from_frame(able[["benchmark", "target"]])
    testable = pd.MultiIndex.from_frame(classes[["benchmark", "target"]]).isin(able)
    named = classes.assign(testable=testable)
    rows = []
    for benchmark, some in [*named.groupby("benchmark", sort=False), (BOTH, named)]:
        parts = {"all": some, f"top {k}": some[some.target.map(ranks) <= k]}
        parts[TESTABLE] = some[some.testable]
        if "mechanical" in some:
            parts[WITHOUT_ANSWERS] = some[~some.mechanical]
        for name, part in parts.items():
            row = {"benchmark": benchmark, "candidates": name, "n": len(part)} | _counts(part)
            rows.append(row | {"paper_sign_p": census.sign_test(list(part["class"]))})
    return pd.DataFrame(rows)


def _counts(classes: pd.DataFrame) -> dict[str, int]:
    return classes["class"].value_counts().reindex(census.CLASSES, fill_value=0).to_dict()


def level_table(screen: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    """Classes by level, and ``banned``, the median number of ids banned together.

    In a small vocabulary a window bans many types, so its effect is hardly that of the candidate.
    """
    banned = chosen.groupby("level").banned.agg(lambda ids: int(ids.map(len).median()))
    rows = []
    for (benchmark, level), some in screen.groupby(["benchmark", "level"], sort=False):
        row = {"benchmark": benchmark, "level": level, "banned": banned[level]}
        classes = census.census(some.assign(level="token"))  # each level alone
        rows.append(row | _counts(classes) | {"mean_delta": some.delta.mean()})
    return pd.DataFrame(rows)


def by_level(
    screen: pd.DataFrame, chosen: pd.DataFrame, answers: Collection[int] | None = None
) -> pd.DataFrame:
    """The census of each level of knockout alone, as figure 4 draws it.

    The columns are those of `with_answers`, and ``level, spelling``; where knockouts stop early
    ``lo, hi, n_problems, stopped`` too.
    """
    parts = []
    for level in ("token", "window"):
        some = screen[screen.level == level]
        alone = census.census(some.assign(level="token")).assign(level=level)
        if "stopped" in some:
            its = some[["benchmark", "target", "lo", "hi", "n_problems", "stopped"]]
            alone = alone.merge(its, on=["benchmark", "target"])
        parts.append(with_answers(alone, chosen, answers))
    spelling = chosen[chosen.level == "token"].set_index("target").spelling
    table = pd.concat(parts, ignore_index=True)
    return table.assign(spelling=table.target.map(spelling))


def _of_benchmarks(
    table: pd.DataFrame, compute: Callable[[pd.DataFrame], pd.DataFrame]
) -> pd.DataFrame:
    """What is computed from the rows of each benchmark, with its name as the last column."""
    groups = table.groupby("benchmark", sort=False)
    made = [compute(some).assign(benchmark=name) for name, some in groups]
    return pd.concat(made, ignore_index=True)


def exact(changes: pd.DataFrame, screen: pd.DataFrame) -> pd.DataFrame:
    """The knockouts of the screen with ``p_exact`` (`census.exact_p`).

    Where knockouts stop early that test is not valid, and ``p_exact`` is the sequential rule's p.
    """

    def of(some: pd.DataFrame) -> pd.DataFrame:
        if "stopped" in some:
            return some.assign(p_exact=some.p)
        counts = census.deltas(changes, some) * some.samples.to_numpy()[:, None]
        return some.assign(p_exact=census.exact_p(np.rint(counts).astype(int)))

    return _of_benchmarks(screen, of)


def tests(changes: pd.DataFrame, screen: pd.DataFrame) -> pd.DataFrame:
    """`census.multiplicity` of each benchmark at token level, by both tests of a candidate.

    ``bootstrap, exact`` are the rejections of each; ``smallest`` is the exact test's. Where
    knockouts stop early both are those of the sequential rule, which ``test`` then says.
    """
    kind = {"test": "sequential"} if "stopped" in screen else {}

    def both(some: pd.DataFrame) -> pd.DataFrame:
        boot, exact = (census.multiplicity(some[p].to_numpy()) for p in ("p", "p_exact"))
        exact = exact.rename(columns={"rejected": "exact"})
        exact.insert(2, "bootstrap", boot.rejected)
        return exact.assign(**kind)

    return _of_benchmarks(exact(changes, screen[screen.level == "token"]), both)


def reach_table(screen: pd.DataFrame) -> pd.DataFrame:
    """Reach and power of the candidates at token level on each benchmark (`census.reach`).

    ``able`` and ``testable`` are counts; ``detectable_median`` is at 0.05, ``detectable_corrected``
    after Bonferroni (both Delta at 80% power).
    """
    rows = []
    for name, some in screen[screen.level == "token"].groupby("benchmark", sort=False):
        found = census.reach(some)
        row = {"benchmark": name, "candidates": len(some), "able": found.able.sum()}
        row |= {"testable": found.testable.sum(), "detectable_median": found.detectable.median()}
        corrected = census.least_detectable(some, census.ALPHA / len(some))
        rows.append(row | {"detectable_corrected": corrected.median()})
    return pd.DataFrame(rows)


def without_baseline(
    changes: pd.DataFrame, knockouts: pd.DataFrame
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The ids of the candidates and their D on every problem, by benchmark (`calibrated`).

    Empty where there are no nulls.
    """
    single = knockouts[(knockouts.level == "token") & (knockouts["mode"] != "naive")]
    made = {}
    for name, some in single.groupby("benchmark", sort=False):
        ban, null = (some[some["mode"] == mode] for mode in ("reuse", "null"))
        if len(null):
            ids = ban.target.to_numpy()
            assert (ids == null.target.to_numpy()).all()
            made[name] = ids, census.deltas(changes, ban) - census.deltas(changes, null)
    return made


def swaps(changes: pd.DataFrame, knockouts: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """`calibrated.swap_test` on each benchmark and on both, with ``benchmark, candidates``.

    Without rows where there are no nulls.
    """
    of = {name: [d] for name, (_, d) in without_baseline(changes, knockouts).items()}
    if len(of) > 1:
        of[BOTH] = [d for (d,) in of.values()]
    made = [
        calibrated.swap_test(d, rng).assign(benchmark=name, candidates=sum(map(len, d)))
        for name, d in of.items()
    ]
    columns = ["benchmark", "statistic", "observed", "expected", "lo", "hi", "p", "candidates"]
    return pd.concat(made, ignore_index=True)[columns] if made else pd.DataFrame(columns=columns)


def against_controls(
    changes: pd.DataFrame,
    screen: pd.DataFrame,
    chosen: pd.DataFrame,
    answers: Collection[int] | None = None,
) -> pd.DataFrame:
    """Rocks against their controls at token level, on each benchmark.

    Columns: ``benchmark, pairs`` (`"all"`, or those without an answer-bearing type), ``rock,
    control`` (mean Delta), ``difference, lo, hi, unit, n`` (`matched.two_way_mean`), and the counts
    and tests of `matched.pillars`. Without rows for fewer than two pairs.
    """
    control = chosen[chosen.level == "control"]
    pairs = control[["paired_with", "target"]].set_axis(["rock", "control"], axis=1)
    parts = {"all": pairs}
    if answers is not None:
        parts[WITHOUT_ANSWERS] = pairs[~pairs.isin(list(answers)).any(axis=1)]
    rows = []
    for name, some in screen.groupby("benchmark", sort=False):
        for part, these in parts.items():
            if len(these) < 2:
                continue
            sides = [
                _at(some, level, these[side])
                for level, side in (("token", "rock"), ("control",) * 2)
            ]
            deltas = [census.deltas(changes, side) for side in sides]
            classes = [_classes(side) for side in sides]
            row = {"benchmark": name, "pairs": part, "rock": deltas[0].mean()}
            mean = matched.two_way_mean(deltas[0] - deltas[1])
            row |= {"control": deltas[1].mean(), "difference": mean.pop("value")} | mean
            counts = matched.pillars(*classes)
            counts["n_pairs"] = counts.pop("pairs")
            rows.append(row | counts)
    return pd.DataFrame(rows)


def _at(screen: pd.DataFrame, level: str, ids: pd.Series) -> pd.DataFrame:
    """The rows of a benchmark's knockouts at a level, in the order of `ids`."""
    return screen[screen.level == level].set_index("target", drop=False).loc[ids]


def _classes(some: pd.DataFrame) -> pd.Series:
    """Class of each knockout alone."""
    return census.census(some.reset_index(drop=True).assign(level="token"))["class"]


def digit_bans(
    changes: pd.DataFrame, screen: pd.DataFrame, chosen: pd.DataFrame, rng: np.random.Generator
) -> pd.DataFrame:
    """Mean Delta of the candidates that are digits, problems resampled, on each benchmark.

    ``benchmark, digits, value, lo, hi, n``; without rows where no candidate is one.
    """
    single = chosen[chosen.level == "token"]
    digits = single.target[single.spelling.str.strip("␣").str.fullmatch(DIGITS)]
    rows = []
    for name, some in screen.groupby("benchmark", sort=False):
        if len(digits):
            these = _at(some, "token", digits)
            one = with_mean(changes, these, rng).iloc[0]
            mean = {"value": these.delta.mean(), "lo": one.mean_lo, "hi": one.mean_hi}
            rows.append(
                {"benchmark": name, "digits": len(digits)} | mean | {"n": these.n_problems.iloc[0]}
            )
    columns = ["benchmark", "digits", "value", "lo", "hi", "n"]
    return pd.DataFrame(rows, columns=columns)


def with_predictors(
    screen: pd.DataFrame, changes: pd.DataFrame, knockouts: pd.DataFrame, types: pd.DataFrame
) -> pd.DataFrame:
    """The token-level screen with the nine predictors of each candidate, a row per benchmark.

    ``d, d_se`` are the mean of D and its standard error (`calibrated`), NaN without nulls.
    """
    known = types.assign(
        frequency=np.log10(types["count"]), rkl_improvement=types.rkl_pre_mean - types.rkl_post_mean
    )
    columns = ["token_id", "spelling", "rank", *PREDICTORS]
    single = screen[screen.level == "token"]
    table = single.merge(known[columns], left_on="target", right_on="token_id")
    frames = [
        pd.DataFrame({"target": ids, "d": d.mean(1), "d_se": calibrated.standard_errors(d)}).assign(
            benchmark=name
        )
        for name, (ids, d) in without_baseline(changes, knockouts).items()
    ]
    if not frames:
        return table.assign(d=np.nan, d_se=np.nan)
    return table.merge(pd.concat(frames), on=["benchmark", "target"])


def correlations(table: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Table 1: `census.predictors` of Delta and of D on each benchmark, ``of`` says which."""

    def both(some: pd.DataFrame) -> pd.DataFrame:
        of = {"Delta": some, "D": some.assign(delta=some.d)}
        names = list(PREDICTORS)
        return pd.concat([census.predictors(t, names, rng).assign(of=n) for n, t in of.items()])

    return _of_benchmarks(table, both)


def power(
    table: pd.DataFrame,
    changes: pd.DataFrame,
    knockouts: pd.DataFrame,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Reliability of the candidates' differences on each benchmark.

    `table` is that of `with_predictors`. Columns: ``candidates``; ``of_delta``, the share of the
    spread of Delta that the errors leave, which the shared baseline makes too small; ``reliability,
    split_half`` of D (`calibrated.reliabilities`); ``largest_r``, the root of ``reliability``: the
    r of D with a perfect predictor. NaN without nulls.
    """
    taken, rows = without_baseline(changes, knockouts), []
    for name, some in table.groupby("benchmark", sort=False):
        share = census.reliability(some.delta.to_numpy(), some.se.to_numpy())
        row = {"benchmark": name, "candidates": len(some), "of_delta": share}
        row |= dict.fromkeys(("reliability", "split_half"), np.nan)
        if name in taken:
            row |= calibrated.reliabilities(taken[name][1], rng)
        rows.append(row | {"largest_r": np.sqrt(row["reliability"])})
    return pd.DataFrame(rows)


def together(table: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rho of two benchmarks' Delta and D over candidates: ``of, rho, p, lo, hi, n``.

    `table` is that of `with_predictors`; without rows for one benchmark.
    """
    rows = []
    for of, column in (("Delta", "delta"), ("D", "d")):
        wide = table.pivot(index="target", columns="benchmark", values=column).dropna()
        if wide.shape[1] < 2 or len(wide) < 4 or wide.nunique().min() < 2:
            continue
        rho, p = stats.spearmanr(*wide.to_numpy().T)
        # Fisher's z with the variance of a rank correlation (Fieller, Hartley, Pearson 1957)
        half = stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt(1.06 / (len(wide) - 3))
        lo, hi = np.tanh(np.arctanh(np.clip(rho, -1 + 1e-9, 1 - 1e-9)) + half * np.array([-1, 1]))
        rows.append({"of": of, "rho": rho, "p": p, "lo": lo, "hi": hi, "n": len(wide)})
    return pd.DataFrame(rows)
