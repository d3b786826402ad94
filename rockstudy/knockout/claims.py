"""Claims rows of notebooks 05 and 06: the census, its corrections, pillars, predictors.

The first benchmark of a run corresponds to the paper's MATH-500, the second to its IFEval. The
paper counts classes among 200 candidates; the rows compare shares, with Wilson's interval.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import pandas as pd

from rockstudy import display
from rockstudy.claims import paper, verdicts
from rockstudy.claims.verdicts import ClaimRow
from rockstudy.knockout import census, steps
from rockstudy.models.token_texts import visible

BENCHMARKS = ("MATH-500", "IFEval")  # paper 3, in the order of a run's benchmarks
PILLAR, NEUTRAL, STUMBLING = census.CLASSES


def of_screen(
    k: int,
    screen: pd.DataFrame,
    chosen: pd.DataFrame,
    modes: pd.DataFrame,
    answers: Collection[int] | None,
) -> list[ClaimRow]:
    """Claims rows of notebook 05, one for each number of the paper's census.

    `k` is the number of rocks; `screen`, `chosen` and `modes` are the tables `screen`,
    `candidates` and `modes` of `rockstudy.knockout.steps`, and `answers` the ids of
    answer-bearing types, None where a reference does not have them.
    """
    classes, tested = census.census(screen), steps.tests(screen)
    counted = steps.census_table(classes, k, chosen, answers)
    base = screen.drop_duplicates("benchmark").set_index("benchmark")
    benchmarks = dict(zip(BENCHMARKS, base.index, strict=False))
    right = base.base > 0
    rows = []
    for theirs, ours in benchmarks.items():
        rows.append(_base(theirs, ours, base.loc[ours]))
        rows += _seen(_census(theirs, ours, counted), right[ours])
        rows += _seen([_without_answers(theirs, ours, counted)], right[ours])
    rows += _seen(_cross_task(classes), right[list(benchmarks.values())].all())
    for theirs, ours in benchmarks.items():
        rows += _seen(_corrected(theirs, ours, tested), right[ours])
    rows += _signs(benchmarks, counted, k)
    for theirs, ours in benchmarks.items():
        rows += _ranks(theirs, ours, classes, chosen)
    return [*rows, _core(counted, k), *_seen([_null(modes)], right.iloc[0])]


def _seen(rows: Iterable[ClaimRow], right: bool) -> Iterator[ClaimRow]:
    """The rows; without numbers where the student is never right.

    An answer that is never right cannot become wrong, so no candidate could be a pillar.
    """
    why = "the student is never right there, so a knockout cannot lower its accuracy"
    for row in rows:
        bare = {k: v for k, v in row.items() if k not in ("value", "lo", "hi", "unit", "n")}
        yield row if right else bare | {"verdict": "not run", "reason": why}


def _base(theirs: str, ours: str, one: pd.Series) -> ClaimRow:
    return verdicts.shown(
        f"census-base-{ours}",
        f"Accuracy of the student after OPD on {ours} without any knockout.",
        f"base-accuracy/{theirs}",
        {"value": one.base, "unit": "problems", "n": int(one.n_problems)},
        f"the paper's benchmark is a different one, {theirs}",
    )


def _census(theirs: str, ours: str, counted: pd.DataFrame) -> Iterator[ClaimRow]:
    """The share of each class among the candidates on one benchmark."""
    one = counted[(counted.benchmark == ours) & (counted.candidates == "all")].iloc[0]
    for kind, number in zip(census.CLASSES, ("pillar", "neutral", "stumbling"), strict=True):
        count, n = int(one[kind]), int(one.n)
        of_paper = paper.number(f"{'pillars' if kind == PILLAR else number}/{theirs}").value
        yield verdicts.holds(
            f"census-{number}-{ours}",
            f"Share of candidates that are {_a(kind)} on {ours}: {count} of {n} "
            f"(the paper: {of_paper:.0f} of 200 on {theirs}).",
            f"{number}-share/{theirs}",
            verdicts.share(count, n, "candidates"),
            headline=kind == PILLAR,
        )


def _without_answers(theirs: str, ours: str, counted: pd.DataFrame) -> ClaimRow:
    """The share of pillars among the candidates that are not answer-bearing."""
    about = (
        f"census-pillar-without-answers-{ours}",
        f"Share of candidates that are {_a(PILLAR)} on {ours} once answer-bearing types, whose ban "
        "is mechanical, are left out",
        f"pillar-share/{theirs}",
    )
    one = counted[(counted.benchmark == ours) & (counted.candidates == steps.WITHOUT_ANSWERS)]
    if one.empty or not one.n.iloc[0]:
        why = "not in this reference" if one.empty else "every candidate is answer-bearing"
        return verdicts.not_run(about[0], f"{about[1]}.", about[2], why)
    count, n = int(one[PILLAR].iloc[0]), int(one.n.iloc[0])
    share = verdicts.share(count, n, "candidates")
    why = "the paper does not tell such candidates apart"
    return verdicts.shown(about[0], f"{about[1]}: {count} of {n}.", about[2], share, why)


def _a(kind: str) -> str:
    return kind.lower() if kind == NEUTRAL else f"a {kind}"


def _cross_task(classes: pd.DataFrame) -> Iterator[ClaimRow]:
    """Candidates by their classes on both benchmarks."""
    for label in paper.labelled("cross-task-share"):
        first, second = ({"N": NEUTRAL, "P": PILLAR}[letter] for letter in label.split("|"))
        about = (
            f"census-cross-{label.replace('|', '').lower()}",
            f"Share of candidates that are {_a(first)} on the first benchmark and {_a(second)} on "
            "the second.",
            f"cross-task-share/{label}",
        )
        if classes.benchmark.nunique() < 2:
            yield verdicts.not_run(*about, "the run has one benchmark")
            continue
        counts = census.agreement(classes).set_index(["first", "second"])["count"]
        share = verdicts.share(int(counts[first, second]), int(counts.sum()), "candidates")
        yield verdicts.holds(*about, share)


def _corrected(theirs: str, ours: str, tested: pd.DataFrame) -> Iterator[ClaimRow]:
    """Rejections of the token-level tests on one benchmark before and after correction."""
    corrected = tested[tested.benchmark == ours].set_index(["method", "level"])
    raw = corrected.loc["none", census.ALPHA]
    size = {"unit": "tests", "n": int(raw.tests)}
    yield verdicts.shown(
        f"census-rejected-{ours}",
        f"Rejections at 0.05 on {ours} before correction; {raw.expected_false:.1f} would be "
        "expected without any effect (the paper gives that expectation alone).",
        "expected-false",
        {"value": int(raw.rejected)} | size,
        "the paper does not count its rejections",
    )
    yield verdicts.shown(
        f"census-smallest-p-{ours}",
        f"Smallest p-value of the screen on {ours}.",
        f"smallest-p/{theirs}",
        {"value": raw.smallest} | size,
        "it falls with the number of tests; the corrected counts are judged instead",
    )
    for method, level, number, words in (
        ("bonferroni", census.ALPHA, "bonferroni", "Bonferroni"),
        ("fdr_bh", paper.number("fdr").value, "fdr", "Benjamini-Hochberg at q = 0.20"),
    ):
        yield verdicts.equals(
            f"census-{number}-{ours}",
            f"Rejections on {ours} that remain after {words}.",
            f"{number}-survivors/{theirs}",
            {"value": int(corrected.rejected[method, level])} | size,
            headline=number == "fdr",
        )


def _signs(benchmarks: dict[str, str], counted: pd.DataFrame, k: int) -> Iterator[ClaimRow]:
    """Pillars against stumbling blocks: both benchmarks, each, and inside the top K."""
    tests = {
        "both": ("both", "all", "both benchmarks together"),
        "core": ("both", f"top {k}", f"both, inside the top {k} of the ranking"),
    } | {theirs: (ours, "all", f"on {ours}") for theirs, ours in benchmarks.items()}
    for label in [label for label in paper.labelled("sign-p") if label in tests]:
        name, part, where = tests[label]
        one = counted[(counted.benchmark == name) & (counted.candidates == part)].iloc[0]
        ours = (int(one[PILLAR]), int(one[STUMBLING]))
        theirs = [paper.number(f"sign-{side}/{label}").value for side in ("pillars", "stumbling")]
        yield verdicts.concludes(
            f"census-sign-test-{benchmarks.get(label, label)}",
            f"More pillars than stumbling blocks, {where}: {ours[0]} to {ours[1]} (the paper: "
            f"{theirs[0]:.0f} to {theirs[1]:.0f}), p-value of the sign test.",
            f"sign-p/{label}",
            {"value": one.sign_test_p, "unit": "strong candidates", "n": sum(ours)},
            same_side=ours[0] > ours[1],
            headline=label == "both",
        )


def _ranks(
    theirs: str, ours: str, classes: pd.DataFrame, chosen: pd.DataFrame
) -> Iterator[ClaimRow]:
    """Where the paper's pillars rank here, and whether they are pillars."""
    ranks = chosen.drop_duplicates("target").drop_duplicates("spelling").set_index("spelling")
    kinds = classes[classes.benchmark == ours].set_index("target")["class"]
    for text in paper.labelled(f"pillar-rank/{theirs}"):
        about = (
            f"pillar-rank-{text.strip(' -').lower()}",
            f"{text!r}, a pillar in the paper on {theirs}, is a pillar on {ours} too: its rank.",
            f"pillar-rank/{theirs}/{text}",
        )
        if visible(text) not in ranks.index:
            why = f"no candidate of this vocabulary is spelled {text!r}"
            yield verdicts.not_run(*about, why)
            continue
        one = ranks.loc[visible(text)]
        measured = {"value": int(one["rank"]), "unit": "candidates", "n": len(ranks)}
        verdict = "reproduced" if kinds[one.target] == PILLAR else "differs"
        reason = "must be a pillar here too, whatever its rank"
        yield verdicts.judged(*about, measured, verdict=verdict, reason=reason)


def _core(counted: pd.DataFrame, k: int) -> ClaimRow:
    top, every = (
        counted[(counted.benchmark == "both") & (counted.candidates == name)].iloc[0]
        for name in (f"top {k}", "all")
    )
    about = ("census-core", f"Share of the pillars that rank in the top {k}.", "core-share")
    if not every[PILLAR]:
        return verdicts.not_run(*about, "no candidate is a pillar here")
    part = top.n / every.n
    why = f"the top {k} is {part:.0%} of the candidates here and half of them in the paper"
    share = verdicts.share(int(top[PILLAR]), int(every[PILLAR]), "pillars")
    return verdicts.shown(*about, share, why)


def _null(modes: pd.DataFrame) -> ClaimRow:
    modes = modes.drop_duplicates("mode").set_index("mode")
    claim, words = "null-knockout", "Resampling the same suffixes without a ban changes nothing"
    more = {"headline": True, "locator": "ours: a control that the paper does not have"}
    if "null" not in modes.index:
        why = "the control needs prefix reuse, which is not exact with top-p below 1"
        return verdicts.not_run(claim, words, None, why, **more)
    null = modes.loc["null"]
    return verdicts.judged(
        claim,
        f"{words} (mean Delta of {null.candidates:.0f} candidates).",
        None,
        {"value": null.delta, "lo": null.lo, "hi": null.hi, "unit": "problems", "n": int(null.n)},
        verdict="reproduced" if null.lo <= 0 <= null.hi else "differs",
        reason="the interval must contain 0",
        **more,
    )


def of_predictors(table: pd.DataFrame) -> list[ClaimRow]:
    """Claims rows of notebook 06: table 1, r of each predictor, and the smallest p of each half.

    `table` is that of `rockstudy.knockout.steps.correlations`.
    """
    rows = []
    halves = table.groupby("benchmark", sort=False)
    for theirs, (ours, half) in zip(BENCHMARKS, halves, strict=False):
        for one in half.itertuples():
            of_paper = paper.number(f"predictor-p/{theirs}/{one.predictor}").value
            row = verdicts.holds(
                f"predictor-{one.predictor.replace('_', '-')}-{ours}",
                f"Pearson r of Delta on {ours} with {steps.PREDICTORS[one.predictor]} "
                f"(p = {display.rounded(one.p)}; the paper: {of_paper:.3f}).",
                f"predictor-r/{theirs}/{one.predictor}",
                {"value": one.r, "lo": one.lo, "hi": one.hi, "unit": "candidates", "n": one.n},
            )
            rows.append(row)
        number = min(paper.labelled(f"predictor-p/{theirs}").values(), key=lambda one: one.value)
        row = verdicts.concludes(
            f"predictor-smallest-p-{ours}",
            f"No property predicts Delta on {ours}: the smallest p-value of the nine (Bonferroni).",
            number.id,
            {"value": half.p.min(), "unit": "candidates", "n": int(half.n.max())},
            level=census.ALPHA / len(half),
            headline=True,
        )
        rows.append(row)
    return rows
