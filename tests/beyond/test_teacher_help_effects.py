"""Effects and their errors against closed forms, regressions and simulations with known truth."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import statsmodels.api as sm

from rockstudy import intervals
from rockstudy.beyond.teacher_help import budget, effects
from rockstudy.beyond.teacher_help.choices import CHOICES


def places(rng, seeds=1, problems=40, each=3, weight=None):
    """Places of both groups and sides, with measures that are noise."""
    grid = np.indices((seeds, problems, each)).reshape(3, -1)
    n = grid.shape[1]
    weights = np.ones(n) if weight is None else weight(n)
    return pd.DataFrame(
        {
            "seed": grid[0],
            "prompt_index": grid[1],
            "group": np.where(np.arange(n) % 2, "rock", "control"),
            "right": rng.random(n) < 0.5,
            "weight": weights,
            "token_id": rng.integers(0, 6, n),
            "rkl": rng.exponential(size=n),
            "tv": rng.random(n) / 2 + 0.1,
            "L": rng.normal(size=n),
            "H": rng.normal(size=n),
        }
    )


def test_measures_are_means_of_differences_over_draws():
    rng = np.random.default_rng(0)
    some = places(rng, problems=4, each=1).drop(columns=["L", "H"])
    rows = pd.DataFrame(rng.random((12, len(CHOICES))) < 0.5, columns=list(CHOICES))
    rows = rows.assign(place=np.repeat(range(4), 3), draw=np.tile(range(3), 4))
    made = effects.of_places(some, rows)
    for place in range(4):
        mine = rows[rows.place == place].astype(float)
        for name, (what, minus) in effects.MEASURES.items():
            assert made[name][place] == pytest.approx((mine[what] - mine[minus]).mean())
            within = np.var(mine[what] - mine[minus], ddof=1)
            assert made[f"{name}_within"][place] == pytest.approx(within)
        assert made.p_teacher[place] == pytest.approx(mine.teacher.mean())


def test_with_every_problem_alike_the_estimate_is_that_of_the_two_way_table():
    some = places(np.random.default_rng(1), seeds=3)
    mine, theirs = effects.estimate(effects.ratio(some, "L")), intervals.two_way_mean(some, "L")
    assert (mine["value"], mine["lo"], mine["hi"], mine["lo90"]) == pytest.approx(
        (theirs.value, theirs.lo, theirs.hi, theirs.lo90)
    )
    assert (mine["unit"], mine["n"]) == ("problems x 3 seeds", 40)


def test_of_one_seed_the_error_is_that_of_clustered_least_squares():
    rng = np.random.default_rng(2)
    some = places(rng, weight=lambda n: rng.integers(1, 6, n).astype(float))
    some = some.sample(90, random_state=3)  # problems with different numbers of places
    groups = some.prompt_index.to_numpy()
    k = len(np.unique(groups))
    for linear, x in (
        (effects.ratio(some, "H"), np.ones((len(some), 1))),
        (effects.slope(some, "H", "rkl"), sm.add_constant(some.rkl.to_numpy())),
    ):
        fit = sm.WLS(some.H, x, weights=some.weight).fit(
            cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}
        )
        one = effects.estimate(linear)
        assert one["value"] == pytest.approx(fit.params.iloc[-1])
        assert one["se"] == pytest.approx(fit.bse.iloc[-1] * np.sqrt(k / (k - 1)))
        half = scipy.stats.t.ppf(0.975, k - 1) * one["se"]
        assert one["hi"] - one["value"] == pytest.approx(half)


def test_a_ratio_of_columns_agrees_with_the_bootstrap():
    rng = np.random.default_rng(4)
    some = places(rng, problems=150)
    one = effects.estimate(effects.ratio(some, "H", "tv"))
    found = intervals.prompt_ratio(some, "H", "tv", rng)
    assert one["value"] == pytest.approx(found.value)
    assert (one["lo"], one["hi"]) == pytest.approx((found.lo, found.hi), abs=0.03)


@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_hold_the_truth_as_often_as_they_say(seeds):
    rng, inside, n = np.random.default_rng(5), 0, 400
    for _ in range(n):
        some = places(rng, seeds, problems=30, each=2, weight=lambda n: rng.random(n) + 0.5)
        of_problem, of_seed = rng.normal(size=30), 0.3 * rng.normal(size=seeds) * (seeds > 1)
        cell = 0.5 * rng.normal(size=(seeds, 30))
        shared = of_problem[some.prompt_index] + of_seed[some.seed]
        some["L"] = 0.2 + some.L + shared + cell[some.seed, some.prompt_index]
        some = some[rng.random(len(some)) < 0.6]
        one = effects.estimate(effects.ratio(some, "L"))
        inside += one["lo"] <= 0.2 <= one["hi"]
    assert 0.92 <= inside / n <= 0.985


def test_a_difference_of_groups_is_paired_by_problem():
    rng = np.random.default_rng(6)
    some = places(rng, problems=80, each=4)
    some["L"] += 5 * rng.normal(size=80)[some.prompt_index]
    rock, control = (some[some.group == name] for name in ("rock", "control"))
    one = effects.estimate(effects.ratio(rock, "L") - effects.ratio(control, "L"))
    by = some.pivot_table("L", "prompt_index", "group")
    paired = by.rock - by.control
    assert one["value"] == pytest.approx(paired.mean())
    assert one["se"] == pytest.approx(scipy.stats.sem(paired))
    assert one["detectable"] / one["se"] == pytest.approx(1.99 + 0.846, abs=0.01)


def test_both_sides_together_weigh_places_as_they_occur():
    some = pd.DataFrame(
        {
            "seed": 0,
            "prompt_index": [0, 1, 2, 3],
            "group": "rock",
            "right": [True, True, False, False],
            "weight": [9.0, 9.0, 1.0, 1.0],
            "p_stands": [1.0, 1.0, 0.0, 0.0],
        }
    )
    some = some.assign(**{name: [0.0, 0.0, 1.0, 1.0] for name in effects.MEASURES})
    names = {f"p_{one}" for pair in effects.MEASURES.values() for one in pair}
    some = some.assign(**dict.fromkeys(names, some.p_stands))
    table = effects.table(some).set_index(["measure", "group", "side"])
    assert set(table.types) == {"all"}
    assert table.value["L", "rock", "both"] == pytest.approx(0.1)
    assert table.value["L", "rock", "wrong"] == 1 and table.value["L", "rock", "right"] == 0
    assert table.before["H", "rock", "both"] == pytest.approx(0.9)
    assert set(table.index.get_level_values("group")) == {"rock"}


def test_parts_by_kl_hold_equal_weight_and_find_a_gain_that_grows_with_it():
    rng = np.random.default_rng(7)
    some = places(rng, problems=400, each=4, weight=lambda n: rng.integers(1, 4, n).astype(float))
    some["H"] = 0.1 * some.rkl + 0.05 * some.H
    part = effects.parts(some)
    shares = some.weight.groupby(part).sum() / some.weight.sum()
    assert shares.to_numpy() == pytest.approx(np.full(effects.PARTS, 0.25), abs=0.01)
    assert some.rkl[part == 2].min() >= some.rkl[part == 1].max()
    table = effects.by_kl(some)
    gains = table[table.what == "H"].value
    assert gains.is_monotonic_increasing
    found = effects.on_kl(some).set_index("what")
    assert found.lo["slope"] < 0.1 < found.hi["slope"]
    assert found.lo["H, top - rest"] > 0
    high, rest = some[part == 4], some[part < 4]
    apart = np.average(high.H, weights=high.weight) - np.average(rest.H, weights=rest.weight)
    assert found.value["H, top - rest"] == pytest.approx(apart)
    apart = np.average(high["L"], weights=high.weight) - np.average(rest["L"], weights=rest.weight)
    assert found.value["L, top - rest"] == pytest.approx(apart)


def test_no_places_or_one_problem_give_no_number():
    some = places(np.random.default_rng(8))
    assert np.isnan(effects.estimate(effects.ratio(some.head(0), "L"))["value"])
    one = effects.estimate(effects.ratio(some.head(1), "L"))
    assert one["value"] == some["L"][0] and np.isnan(one["lo"])


def test_types_are_put_beside_the_delta_of_their_ban():
    rng = np.random.default_rng(9)
    some = places(rng, problems=200, each=6)
    some["group"] = np.where(some.token_id < 3, "rock", "control")
    some["L"] = -0.1 * some.token_id + 0.05 * rng.normal(size=len(some))
    screen = pd.DataFrame(
        {
            "level": ["token"] * 3 + ["control"] * 3 + ["window"],
            "target": [*range(6), 0],
            "delta": [-0.01 * i for i in range(6)] + [9.0],
            "se": 0.001,
            "holding": [100, 100, 100, 50, 50, 0, 7],
            "n_problems": 100,
            "samples": 2,
        }
    )
    types = effects.by_type(some, screen).set_index("token_id")
    assert types.sort_index().group.tolist() == ["rock"] * 3 + ["control"] * 3
    for token in range(6):
        mine = some[some.token_id == token]
        assert types["L"][token] == pytest.approx(mine["L"].mean())
    assert types.delta_held[1] == pytest.approx(-0.02) and np.isnan(types.delta_held[5])
    found = effects.together(types.reset_index()).set_index("of")
    assert found.value["delta"] == pytest.approx(1) and found.reliability["delta"] > 0.9
    assert found.n["delta_held"] == 5


def test_types_with_the_same_delta_share_a_rank_whatever_its_rounding():
    L = np.array([-0.1, 0.25, 0.3, -0.05, 0.1])
    exact = pd.DataFrame({"L": L, "L_se": 0.01, "delta": [-0.02, -0.02, 0.1, 0.2, 0.3]})
    noise = np.array([1, -1, 0, 1, -1]) * 1e-16
    values = [
        effects.together(some.assign(delta_held=some.delta)).value.tolist()
        for some in (exact, exact.assign(delta=exact.delta + noise, L=L + noise[::-1]))
    ]
    assert values[0] == values[1] and len(values[0]) == 2


# The budget.

TRUE = {"problems": 0.02, "places": 0.05, "continuations": 0.3}


def simulated(rng, problems, most, draws, weights=False):
    """A mean of 0 with the parts `TRUE`, and up to `most` places a problem."""
    each = rng.integers(1, most + 1, problems)
    problem = np.repeat(np.arange(problems), each)
    n = len(problem)
    mean = rng.normal(0, TRUE["problems"] ** 0.5, problems)[problem]
    mean = mean + rng.normal(0, TRUE["places"] ** 0.5, n)
    made = mean[:, None] + rng.normal(0, TRUE["continuations"] ** 0.5, (n, draws))
    w = rng.integers(1, 5, n).astype(float) if weights else np.ones(n)
    columns = {"prompt_index": problem, "weight": w, "group": "rock"}
    columns |= {"L": made.mean(1), "L_within": made.var(1, ddof=1)}
    return pd.DataFrame(columns | {"H": columns["L"], "H_within": columns["L_within"]})


@pytest.mark.parametrize("weights", [False, True])
def test_parts_of_the_variance_are_estimated_without_bias(weights):
    rng = np.random.default_rng(10)
    found = [budget.components(simulated(rng, 300, 4, 3, weights), "L", 3) for _ in range(150)]
    for name, true in TRUE.items():
        values = np.array([one[name] for one in found])
        error = values.std() / np.sqrt(len(values))
        assert abs(values.mean() - true) < 4 * error + 1e-4, name


def test_the_half_width_is_that_of_simulated_means():
    rng = np.random.default_rng(11)
    for problems, places_each, draws in ((50, 1, 1), (50, 4, 2), (20, 8, 8)):
        means = [
            (
                rng.normal(0, TRUE["problems"] ** 0.5, (problems, 1, 1))
                + rng.normal(0, TRUE["places"] ** 0.5, (problems, places_each, 1))
                + rng.normal(0, TRUE["continuations"] ** 0.5, (problems, places_each, draws))
            ).mean()
            for _ in range(3_000)
        ]
        expected = budget.half_width(TRUE, problems, problems * places_each, draws)
        assert 1.96 * np.std(means) == pytest.approx(expected, rel=0.05)


def test_the_places_that_are_needed_give_the_width_and_fewer_do_not():
    for problems, draws in ((500, 1), (500, 4), (10**6, 4)):
        places = budget.places_needed(TRUE, problems, draws)
        assert budget.half_width(TRUE, problems, places, draws) == pytest.approx(budget.WIDTH)
        assert budget.half_width(TRUE, problems, places * 0.9, draws) > budget.WIDTH
    assert places == pytest.approx((0.02 + 0.05 + 0.3 / 4) * (1.96 / 0.02) ** 2, rel=1e-3)
    assert budget.places_needed(TRUE, 100, 4) == np.inf  # the problems alone are too few
    assert budget.places_needed(dict.fromkeys(TRUE, 0.0), 100, 4) == 0


def test_a_table_and_a_curve_of_the_budget_agree_with_each_other():
    rng = np.random.default_rng(12)
    some = simulated(rng, 500, 4, 4)
    some = some.assign(H_best=some.H, H_best_within=some.H_within)
    table = budget.needed(some, 4, 500).set_index(["measure", "group"])
    assert set(table.index) == {(name, "rock") for name in ("L", "H", "H_best")}
    row = table.loc[("L", "rock")]
    assert row.continuations == pytest.approx(2 * 4 * row.places)
    curve = budget.curve(some, 4, 500)
    mine = curve[(curve.measure == "L") & (curve.draws == 4)]
    at = np.interp(row.continuations, mine.continuations, mine.half_width)
    assert at == pytest.approx(budget.WIDTH, rel=0.05)
    assert mine.half_width.is_monotonic_decreasing


def test_without_two_places_of_a_problem_there_are_no_parts():
    some = simulated(np.random.default_rng(13), 10, 1, 2)
    assert np.isnan(budget.components(some, "L", 2)["problems"])


def test_answer_bearing_types_are_left_out_of_a_part_of_the_table():
    rng = np.random.default_rng(14)
    some = places(rng).assign(null=0.0, H_best=0.0)
    names = {f"p_{one}" for pair in effects.MEASURES.values() for one in pair}
    some = some.assign(**dict.fromkeys(names, 0.5))
    table = effects.table(some, answers=[0, 1]).set_index(["measure", "types", "group", "side"])
    rest = some[(some.token_id > 1) & (some.group == "rock") & some.right]
    found = table.loc[("L", "not answer-bearing", "rock", "right")]
    assert found.value == pytest.approx(rest["L"].mean()) and found.places == len(rest)
    whole = table.xs("all", level="types")
    assert whole.places["L", "rock - control", "both"] == len(some)


def test_tables_of_no_places_have_their_columns_and_no_rows():
    none = places(np.random.default_rng(15)).head(0)
    names = {f"p_{one}" for pair in effects.MEASURES.values() for one in pair}
    none = none.assign(**dict.fromkeys([*names, "H_best", "null"], 0.0))
    columns = ["level", "target", "delta", "se", "holding", "n_problems", "samples"]
    types = effects.by_type(none, pd.DataFrame(columns=columns))
    tables = (effects.table(none), effects.by_kl(none), types, effects.together(types))
    for table in (*tables, budget.needed(none, 4, 500)):
        assert len(table) == 0 and len(table.columns) > 5
    assert effects.on_kl(none).value.isna().all()
    assert budget.curve(none, 4, 500).half_width.isna().all()
