"""Tables of the stored knockouts: parts of the census, nulls, controls, predictors."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from rockstudy.claims import paper
from rockstudy.knockout import calibrated, census, figures, readings, tables

PILLAR, NEUTRAL, STUMBLING = census.CLASSES
N, K, PROBLEMS = 12, 5, 400  # candidates, rocks, problems


def knocked_out(benchmarks=("maths", "words"), rock=0.0, control=-0.3, null=True, seed=0):
    """Chosen types, changes and knockouts of one completion a problem.

    Rocks change the accuracy by `rock`, their controls by `control` and other candidates by 0.
    """
    rng, ids = np.random.default_rng(seed), np.arange(N)
    pair = np.where(ids < K, ids + 100, -1)
    levels = [("token", ids, pair), ("window", ids, -1), ("control", ids[:K] + 100, ids[:K])]
    chosen = pd.concat(
        [
            pd.DataFrame({"level": name, "target": targets, "paired_with": with_}).assign(
                rank=targets + 1, banned=[[t] for t in targets]
            )
            for name, targets, with_ in levels
        ],
        ignore_index=True,
    )
    chosen["spelling"] = chosen.target.astype(str).where(chosen.target == 2, "x")
    mean = {"token": np.where(ids < K, rock, 0.0), "window": np.zeros(N), "control": [control] * K}
    rows, changes = [], []
    for benchmark in benchmarks:
        for level, targets, _ in levels:
            for mode in ("reuse", "null") if null and level == "token" else ("reuse",):
                for target, shift in zip(targets, mean[level], strict=True):
                    shift = 0 if mode == "null" else shift
                    p = np.array([0.1 - shift / 2, 0.1 + shift / 2])
                    change = rng.choice(
                        [-1, 1, 0], PROBLEMS, p=[*np.maximum(p, 0), 1 - np.maximum(p, 0).sum()]
                    )
                    key = {"benchmark": benchmark, "mode": mode, "level": level, "target": target}
                    rows.append(key)
                    (where,) = change.nonzero()
                    one = pd.DataFrame({"prompt_index": where, "change": change[where]})
                    changes.append(one.assign(**key))
    counts = {"completions": 100, "tokens_generated": 10, "tokens_naive": 100, "holding": 100}
    counts |= {"holding_correct": 60, "base": 0.5, "n_problems": PROBLEMS, "samples": 1}
    knockouts = pd.DataFrame(rows).assign(**counts)
    return chosen, pd.concat(changes, ignore_index=True), knockouts


def screen_of(changes, knockouts):
    some = knockouts[knockouts["mode"] == "reuse"].reset_index(drop=True)
    tested = census.bootstrap(census.deltas(changes, some), np.random.default_rng(0), 2_000)
    return some.join(tested)


def everything(**changed):
    chosen, changes, knockouts = knocked_out(**changed)
    return chosen, changes, knockouts, screen_of(changes, knockouts)


def test_each_kind_of_knockout_is_counted_by_itself():
    screen = pd.DataFrame(
        [("b", "token", 1, 0.0, 1.0), ("b", "token", 2, -0.1, 0.01), ("b", "window", 1, -0.2, 0.01),
         ("b", "window", 2, 0.2, 0.01), ("b", "control", 3, -0.2, 0.01)],
        columns=["benchmark", "level", "target", "delta", "p"],
    )  # fmt: skip
    chosen = pd.DataFrame(
        {
            "level": ["token", "token", "window", "window", "control"],
            "banned": [[1], [2], [1, 2, 3], [2, 3, 4], [3]],
        }
    )
    table = tables.level_table(screen, chosen).set_index("level")
    assert table["banned"].to_dict() == {"token": 1, "window": 3, "control": 1}
    assert table[PILLAR].to_dict() == {"token": 1, "window": 1, "control": 1}
    assert table[STUMBLING].to_dict() == {"token": 0, "window": 1, "control": 0}
    assert set(census.census(screen).target) == {1, 2}  # a control is no candidate


def test_the_census_is_counted_for_all_for_rocks_for_testable_and_without_answer_bearing_ones():
    classes = pd.DataFrame(
        {"benchmark": "b", "target": [1, 2, 3, 4], "delta": [-0.1, -0.2, 0.0, 0.1],
         "class": [PILLAR, PILLAR, NEUTRAL, STUMBLING], "level": ["window", *["token"] * 3]}
    )  # fmt: skip
    ids = [1, 2, 3, 4]
    chosen = pd.DataFrame(
        {"level": "token", "target": ids, "rank": ids, "banned": [[i] for i in ids]}
    )
    window = chosen.assign(level="window", banned=[[1, 9], [2], [3, 9], [4]])
    chosen = pd.concat([chosen, window], ignore_index=True)
    reach = {"holding": [50, 50, 0, 50], "holding_correct": [50, 50, 0, 0], "se": 0.01}
    screen = classes.assign(**reach, level="token", n_problems=100, samples=1)
    assert "mechanical" not in tables.with_answers(classes, chosen, None)
    marked = tables.with_answers(
        classes, chosen, [9]
    )  # one by its window, one was not decided by it
    assert marked.mechanical.tolist() == [True, False, False, False]
    marked = tables.with_answers(classes, chosen, [2])
    assert marked.mechanical.tolist() == [False, True, False, False]
    table = tables.census_table(marked, screen, chosen, 2)
    table = table.set_index(["benchmark", "candidates"])
    rest = table.loc[("b", tables.WITHOUT_ANSWERS)]
    assert (rest.n, rest[PILLAR], rest[NEUTRAL], rest[STUMBLING]) == (3, 1, 1, 1)
    assert table.loc[("b", "all"), PILLAR] == table.loc[("b", "top 2"), "n"] == 2
    assert table.loc[("b", tables.TESTABLE), ["n", NEUTRAL]].tolist() == [3, 0]
    assert rest.paper_sign_p == scipy.stats.binomtest(1, 2).pvalue
    told = readings.of_census(table.reset_index())
    assert told == (
        "b: among 4 candidates, by the stronger of both levels, there are 2 Strong Pillars and 1 "
        "Strong Stumbling Block; without the 1 whose ban holds an answer-bearing type, 1 and 1 of "
        "3."
    )
    older = tables.census_table(classes, screen, chosen, 2)
    assert tables.WITHOUT_ANSWERS not in set(older.candidates)
    assert readings.of_census(older).endswith("not in this reference.")


def test_figure_4_has_both_levels_and_the_papers_points_beside_each_benchmark():
    chosen, _, _, screen = everything()
    levels = tables.by_level(screen, chosen, [2])
    assert set(levels.level) == {"token", "window"} and len(levels) == 2 * 2 * N
    assert levels.mechanical.sum() == 4  # its own ban, at both levels on both benchmarks
    points = paper.points("figure4")
    drawn = figures.census_bars(levels, points, followed=0)
    axes = np.array(drawn.axes).reshape(2, 2)
    for line in axes:
        for axis, (name, some) in zip(line, points.groupby("benchmark", sort=False), strict=True):
            (line_of,) = (one for one in axis.lines if one.get_label() == f"the paper, {name}")
            assert line_of.get_ydata() == pytest.approx(sorted(some.delta_correct / some.problems))
    assert axes[0, 0].get_title().startswith("maths, token level")
    assert "token level" in drawn.caption and "window" in drawn.caption
    assert len(figures.control_bars(screen, chosen, followed=0).axes) == 2


def test_the_followed_candidate_is_named_in_the_figures_of_predictors_and_nulls():
    chosen, changes, knockouts, screen = everything()
    spelled = types().assign(spelling=[f"t{i}" for i in range(len(types()))])
    table = tables.with_predictors(screen, changes, knockouts, spelled)
    for axis in figures.ban_and_null(table, followed=3).axes:
        assert "t3" in {text.get_text() for text in axis.texts}
    of = tables.correlations(table, np.random.default_rng(0))
    levels = tables.by_level(screen, chosen)
    parts = (some[some.benchmark == "maths"] for some in (table, of[of["of"] == "Delta"], levels))
    first, of_first, classes = parts
    classes = classes[classes.level == "token"]
    drawn = figures.predictor_panels(first, of_first, classes, tables.PANELS, followed=3)
    shown = [axis for axis in drawn.axes if axis.get_visible()]
    assert len(shown) == len(tables.PANELS)
    assert all("t3" in {text.get_text() for text in axis.texts} for axis in shown)
    assert "maths" in drawn.caption


def test_d_is_the_ban_minus_the_null_of_every_candidate():
    _, changes, knockouts, screen = everything()
    found = tables.without_baseline(changes, knockouts)
    assert list(found) == ["maths", "words"]
    ids, d = found["words"]
    null = knockouts[(knockouts["mode"] == "null") & (knockouts.benchmark == "words")]
    ban = screen[(screen.level == "token") & (screen.benchmark == "words")]
    assert ids.tolist() == ban.target.tolist()
    expected = ban.delta.to_numpy() - census.deltas(changes, null).mean(1)
    assert d.mean(1) == pytest.approx(expected)


def test_without_nulls_there_are_no_swaps_and_no_reliability():
    _, changes, knockouts, screen = everything(null=False)
    assert tables.without_baseline(changes, knockouts) == {}
    swaps = tables.swaps(changes, knockouts, np.random.default_rng(0))
    assert swaps.empty and "statistic" in swaps
    table = tables.with_predictors(screen, changes, knockouts, types())
    assert table.d.isna().all()
    assert (
        tables.power(table, changes, knockouts, np.random.default_rng(0)).reliability.isna().all()
    )


def test_swaps_are_of_each_benchmark_and_of_both():
    _, changes, knockouts, _ = everything(rock=-0.2)
    swaps = tables.swaps(changes, knockouts, np.random.default_rng(0))
    assert list(dict.fromkeys(swaps.benchmark)) == ["maths", "words", tables.BOTH]
    both = swaps[swaps.statistic == "strong"].set_index("benchmark")
    assert both.observed[tables.BOTH] == both.observed["maths"] + both.observed["words"]
    assert both.candidates[tables.BOTH] == 2 * N and both.p[tables.BOTH] < 0.05


def test_rocks_are_compared_with_their_own_controls():
    chosen, changes, _, screen = everything(rock=0.0, control=-0.2)
    found = tables.against_controls(changes, screen, chosen, [0, 104])
    table = found.set_index(["benchmark", "pairs"])
    one, rest = table.loc[("maths", "all")], table.loc[("maths", tables.WITHOUT_ANSWERS)]
    of = screen[screen.benchmark == "maths"].set_index(["level", "target"]).delta
    apart = [of["token", i] - of["control", 100 + i] for i in range(K)]
    assert one.difference == pytest.approx(np.mean(apart)) and one.lo > 0
    assert rest.difference == pytest.approx(np.mean(apart[1:4])) and rest.n_pairs == 3
    assert one.control_pillars == K and one.fisher < 0.05
    assert "difference +0." in readings.of_controls(found)
    alone = tables.against_controls(changes, screen, chosen[chosen.level != "control"])
    assert alone.empty


def test_digits_are_found_by_their_spelling():
    chosen, changes, _, screen = everything(rock=-0.2)
    found = tables.digit_bans(changes, screen, chosen, np.random.default_rng(0))
    of = screen[(screen.level == "token") & (screen.target == 2)]
    assert found.value.tolist() == pytest.approx(of.delta.tolist()) and (found.hi < 0).all()
    assert found.digits.tolist() == [1, 1]
    words = chosen.assign(spelling="x")
    none = tables.digit_bans(changes, screen, words, np.random.default_rng(0))
    assert none.empty and none.columns.equals(found.columns)


def test_corrections_are_counted_by_both_tests_of_a_candidate():
    _, changes, _, screen = everything(rock=-0.2)
    table = tables.tests(changes, screen)
    assert (table.tests == N).all()
    exact = tables.exact(changes, screen[screen.level == "token"])
    left = table[table.method == "none"].set_index("benchmark")
    for column, p in (("exact", "p_exact"), ("bootstrap", "p")):
        expected = (exact[p] < 0.05).groupby(exact.benchmark).sum().to_dict()
        assert left[column].to_dict() == expected


def types():
    rng = np.random.default_rng(3)
    columns = {name: rng.normal(size=N) for name in tables.PREDICTORS}
    for name in ("frequency", "rkl_improvement"):
        columns.pop(name)
    frame = pd.DataFrame({"token_id": np.arange(N), "rank": np.arange(N) + 1} | columns)
    return frame.assign(spelling="x", count=np.arange(N) + 10)


def test_predictors_are_correlated_with_delta_and_with_d():
    _, changes, knockouts, screen = everything()
    table = tables.with_predictors(screen, changes, knockouts, types())
    assert len(table) == 2 * N
    found = tables.correlations(table, np.random.default_rng(0))
    of = found.set_index(["of", "benchmark", "predictor"]).r
    some = table[table.benchmark == "words"]
    for name, column in (("Delta", "delta"), ("D", "d")):
        r = scipy.stats.pearsonr(some.frequency, some[column]).statistic
        assert of[name, "words", "frequency"] == pytest.approx(r)
    power = tables.power(table, changes, knockouts, np.random.default_rng(0)).set_index("benchmark")
    _, d = tables.without_baseline(changes, knockouts)["maths"]
    assert (
        power.reliability["maths"]
        == calibrated.reliabilities(d, np.random.default_rng(0))["reliability"]
    )
    assert power.largest_r["maths"] == pytest.approx(np.sqrt(power.reliability["maths"]))


def test_benchmarks_are_compared_by_the_ranks_of_their_differences():
    _, changes, knockouts, screen = everything(rock=-0.2)
    table = tables.with_predictors(screen, changes, knockouts, types())
    found = tables.together(table).set_index("of")
    wide = table.pivot(index="target", columns="benchmark", values="d")
    exact = scipy.stats.spearmanr(wide.maths, wide.words)
    assert found.rho["D"] == pytest.approx(exact.statistic)
    assert found.p["D"] == pytest.approx(exact.pvalue)
    assert found.lo["D"] < found.rho["D"] < found.hi["D"]
    assert tables.together(table[table.benchmark == "maths"]).empty


def test_reach_is_summed_up_by_benchmark():
    _, _, _, screen = everything()
    table = tables.reach_table(screen).set_index("benchmark")
    assert (table.candidates == N).all() and (table.able == N).all()
    assert (table.detectable_corrected > table.detectable_median).all()
