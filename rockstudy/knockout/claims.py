"""Claims rows of notebooks 05 and 06: the census, its corrections, pillars, predictors.

The first benchmark of a run corresponds to the paper's MATH-500, the second to its IFEval. The
paper counts classes among 200 candidates; the rows compare shares, with Wilson's interval.
"""

from __future__ import annotations

import pandas as pd

from rockstudy import display
from rockstudy.claims import paper, verdicts
from rockstudy.claims.verdicts import ClaimRow
from rockstudy.knockout import census, steps
from rockstudy.models.token_texts import visible
from rockstudy.runs import Run

BENCHMARKS = ("MATH-500", "IFEval")  # paper 3, in the order of a run's benchmarks
PILLAR, NEUTRAL, STUMBLING = census.CLASSES
_MEASURED = ("value", "lo", "hi", "unit", "n")


def of_screen(
    run: Run, screen: pd.DataFrame, chosen: pd.DataFrame, controls: pd.DataFrame
) -> list[ClaimRow]:
    """Claims rows of notebook 05, one for each number of the paper's census.

    `screen`, `chosen` and `controls` are the tables `screen`, `candidates` and `controls` of
    `rockstudy.knockout.steps`.
    """
    classes = steps.classes(screen)
    counted = steps.census_table(classes, run.config.rocks.k, chosen)
    benchmarks = dict(zip(BENCHMARKS, dict.fromkeys(screen.benchmark), strict=False))
    right = {
        ours: screen.base[screen.benchmark == ours].iloc[0] > 0 for ours in benchmarks.values()
    }
    rows = []
    for theirs, ours in benchmarks.items():
        rows.append(_base(theirs, ours, screen))
        rows += _seen(_census(theirs, ours, counted), right[ours])
    rows += _seen(_cross_task(classes), all(right.values()))
    for theirs, ours in benchmarks.items():
        rows += _seen(_corrected(theirs, ours, steps.tests(screen)), right[ours])
    rows += _signs(benchmarks, counted, run.config.rocks.k)
    rows += [
        row for theirs, ours in benchmarks.items() for row in _ranks(theirs, ours, classes, chosen)
    ]
    null = _seen([_null(controls)], next(iter(right.values())))
    return [*rows, _core(counted, run.config.rocks.k), *null]


def _seen(rows: list[ClaimRow], right: bool) -> list[ClaimRow]:
    """The rows; without numbers where the student is never right.

    An answer that is never right cannot become wrong, so no candidate could be a pillar.
    """
    if right:
        return rows
    why = "the student is never right there, so a knockout cannot lower its accuracy"
    bare = [{k: v for k, v in row.items() if k not in _MEASURED} for row in rows]
    return [row | {"verdict": "not run", "reason": why} for row in bare]


def _base(theirs: str, ours: str, screen: pd.DataFrame) -> ClaimRow:
    one = screen[screen.benchmark == ours].iloc[0]
    return verdicts.shown(
        f"census-base-{ours}",
        f"Accuracy of the student after OPD on {ours} without any knockout.",
        f"base-accuracy/{theirs}",
        {"value": one.base, "unit": "problems", "n": int(one.n_problems)},
        f"the paper's benchmark is a different one, {theirs}",
    )


def _census(theirs: str, ours: str, counted: pd.DataFrame) -> list[ClaimRow]:
    """The share of each class among the candidates on one benchmark."""
    one = counted[(counted.benchmark == ours) & (counted.candidates == "all")].iloc[0]
    rows = []
    for kind, number in ((PILLAR, "pillar"), (NEUTRAL, "neutral"), (STUMBLING, "stumbling")):
        count, n = int(one[kind]), int(one.n)
        of_paper = paper.number(f"{'pillars' if kind == PILLAR else number}/{theirs}").value
        rows.append(
            verdicts.holds(
                f"census-{number}-{ours}",
                f"Share of candidates that are {_a(kind)} on {ours}: {count} of {n} "
                f"(the paper: {of_paper:.0f} of 200 on {theirs}).",
                f"{number}-share/{theirs}",
                verdicts.share(count, n, "candidates"),
                headline=kind == PILLAR,
            )
        )
    return rows


def _a(kind: str) -> str:
    return kind.lower() if kind == NEUTRAL else f"a {kind}"


def _cross_task(classes: pd.DataFrame) -> list[ClaimRow]:
    """Candidates by their classes on both benchmarks."""
    letters = {"N": NEUTRAL, "P": PILLAR}
    pairs = census.agreement(classes) if classes.benchmark.nunique() > 1 else None
    rows = []
    for label in paper.labelled("cross-task-share"):
        first, second = (letters[letter] for letter in label.split("|"))
        about = (
            f"census-cross-{label.replace('|', '').lower()}",
            f"Share of candidates that are {_a(first)} on the first benchmark and {_a(second)} on "
            "the second.",
            f"cross-task-share/{label}",
        )
        if pairs is None:
            rows.append(verdicts.not_run(*about, "the run has one benchmark"))
            continue
        count = pairs["count"][(pairs["first"] == first) & (pairs["second"] == second)].sum()
        n = int(pairs["count"].sum())
        rows.append(verdicts.holds(*about, verdicts.share(int(count), n, "candidates")))
    return rows


def _corrected(theirs: str, ours: str, corrected: pd.DataFrame) -> list[ClaimRow]:
    """Rejections of the token-level tests on one benchmark before and after correction."""
    of = corrected[corrected.benchmark == ours]
    raw = of[of.method == "none"].iloc[0]
    size = {"unit": "tests", "n": int(raw.tests)}
    rows = [
        verdicts.shown(
            f"census-rejected-{ours}",
            f"Rejections at 0.05 on {ours} before correction; {raw.expected_false:.1f} would be "
            "expected without any effect (the paper gives that expectation alone).",
            "expected-false",
            {"value": int(raw.rejected)} | size,
            "the paper does not count its rejections",
        ),
        verdicts.shown(
            f"census-smallest-p-{ours}",
            f"Smallest p-value of the screen on {ours}.",
            f"smallest-p/{theirs}",
            {"value": raw.smallest} | size,
            "it falls with the number of tests; the corrected counts are judged instead",
        ),
    ]
    for method, level, number, words in (
        ("bonferroni", census.ALPHA, "bonferroni", "Bonferroni"),
        ("fdr_bh", paper.number("fdr").value, "fdr", "Benjamini-Hochberg at q = 0.20"),
    ):
        left = of[(of.method == method) & (of.level == level)].rejected.iloc[0]
        rows.append(
            verdicts.equals(
                f"census-{number}-{ours}",
                f"Rejections on {ours} that remain after {words}.",
                f"{number}-survivors/{theirs}",
                {"value": int(left)} | size,
                headline=number == "fdr",
            )
        )
    return rows


def _signs(benchmarks: dict[str, str], counted: pd.DataFrame, k: int) -> list[ClaimRow]:
    """Pillars against stumbling blocks: both benchmarks, each, and inside the top K."""
    rows = []
    for label in paper.labelled("sign-p"):
        if label in BENCHMARKS and label not in benchmarks:
            continue
        name, part = benchmarks.get(label, "both"), f"top {k}" if label == "core" else "all"
        one = counted[(counted.benchmark == name) & (counted.candidates == part)].iloc[0]
        ours = (int(one[PILLAR]), int(one[STUMBLING]))
        theirs = [paper.number(f"sign-{side}/{label}").value for side in ("pillars", "stumbling")]
        where = {
            "both": "both benchmarks together",
            "core": f"both, inside the top {k} of the ranking",
        }
        rows.append(
            verdicts.concludes(
                f"census-sign-test-{name if label in benchmarks else label}",
                f"More pillars than stumbling blocks, {where.get(label, f'on {name}')}: "
                f"{ours[0]} to {ours[1]} (the paper: {theirs[0]:.0f} to {theirs[1]:.0f}), p-value "
                "of the sign test.",
                f"sign-p/{label}",
                {"value": one.sign_test_p, "unit": "strong candidates", "n": sum(ours)},
                same_side=ours[0] > ours[1],
                headline=label == "both",
            )
        )
    return rows


def _ranks(theirs: str, ours: str, classes: pd.DataFrame, chosen: pd.DataFrame) -> list[ClaimRow]:
    """Where the paper's pillars rank here, and whether they are pillars."""
    ranks = chosen.drop_duplicates("target").drop_duplicates("spelling").set_index("spelling")
    kinds = classes[classes.benchmark == ours].set_index("target")["class"]
    rows = []
    for text in paper.labelled(f"pillar-rank/{theirs}"):
        about = (
            f"pillar-rank-{text.strip(' -').lower()}",
            f"{text!r}, a pillar in the paper on {theirs}, is a pillar on {ours} too: its rank.",
            f"pillar-rank/{theirs}/{text}",
        )
        if visible(text) not in ranks.index:
            why = f"no candidate of this vocabulary is spelled {text!r}"
            rows.append(verdicts.not_run(*about, why))
            continue
        one = ranks.loc[visible(text)]
        rows.append(
            verdicts.judged(
                *about,
                {"value": int(one["rank"]), "unit": "candidates", "n": len(ranks)},
                verdict="reproduced" if kinds[one.target] == PILLAR else "differs",
                reason="must be a pillar here too, whatever its rank",
            )
        )
    return rows


def _core(counted: pd.DataFrame, k: int) -> ClaimRow:
    both = counted[counted.benchmark == "both"].set_index("candidates")
    inside, pillars = (int(both.loc[name, PILLAR]) for name in (f"top {k}", "all"))
    part = both.loc[f"top {k}", "n"] / both.loc["all", "n"]
    about = ("census-core", f"Share of the pillars that rank in the top {k}.", "core-share")
    if not pillars:
        return verdicts.not_run(*about, "no candidate is a pillar here")
    why = f"the top {k} is {part:.0%} of the candidates here and half of them in the paper"
    return verdicts.shown(*about, verdicts.share(inside, pillars, "pillars"), why)


def _null(controls: pd.DataFrame) -> ClaimRow:
    modes = steps.null_summary(controls).set_index("mode")
    about = ("null-knockout", "Resampling the same suffixes without a ban changes nothing", None)
    more = {"headline": True, "locator": "ours: a control that the paper does not have"}
    if "null" not in modes.index:
        return verdicts.not_run(
            *about, "the control needs prefix reuse, which is not exact with top-p below 1", **more
        )
    null = modes.loc["null"]
    claim, words, number = about
    return verdicts.judged(
        claim,
        f"{words} (mean Delta of {null.candidates:.0f} candidates).",
        number,
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
    for theirs, (ours, some) in zip(
        BENCHMARKS, table.groupby("benchmark", sort=False), strict=False
    ):
        by_name = some.set_index("predictor")
        rows += [_correlation(theirs, ours, name, by_name.loc[name]) for name in by_name.index]
        number = min(paper.labelled(f"predictor-p/{theirs}").values(), key=lambda one: one.value)
        about = (
            f"predictor-smallest-p-{ours}",
            f"No property predicts Delta on {ours}: the smallest p-value of the nine (Bonferroni).",
            number.id,
        )
        rows.append(
            verdicts.concludes(
                *about,
                {"value": some.p.min(), "unit": "candidates", "n": int(some.n.max())},
                level=census.ALPHA / len(some),
                headline=True,
            )
        )
    return rows


def _correlation(theirs: str, ours: str, name: str, one: pd.Series) -> ClaimRow:
    words = steps.PREDICTORS[name]
    p = f"p = {display.rounded(one.p)}"
    of_paper = paper.number(f"predictor-p/{theirs}/{name}").value
    return verdicts.holds(
        f"predictor-{name.replace('_', '-')}-{ours}",
        f"Pearson r of Delta on {ours} with {words} ({p}; the paper: {of_paper:.3f}).",
        f"predictor-r/{theirs}/{name}",
        {"value": one.r, "lo": one.lo, "hi": one.hi, "unit": "candidates", "n": int(one.n)},
    )
