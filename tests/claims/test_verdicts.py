"""Verdicts follow from the numbers by their rules alone; every rule is walked through by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep

from rockstudy.claims import paper, verdicts
from rockstudy.errors import StudyError
from rockstudy.intervals import Estimate

NAN = math.nan
PAPERS = {  # value, lo, hi and bound of some numbers of a paper
    "share": (0.6, 0.55, 0.65, ""),
    "small": (0.035, 0.017, 0.07, ""),
    "fall": (-0.58, -0.76, -0.47, ""),
    "none": (0.0, 0.0, 0.02, ""),
    "no interval": (0.6, NAN, NAN, ""),
    "exact": (0.6, 0.6, 0.6, ""),
    "over 40": (0.6, NAN, NAN, ""),
    "bound": (0.7, NAN, NAN, "at least"),
}


@pytest.fixture(autouse=True)
def numbers(monkeypatch):
    """A few numbers instead of the paper's."""

    def number(name):
        value, lo, hi, bound = PAPERS[name]
        about = {"over": 40 if name == "over 40" else None, "where": f"paper, {name}"}
        return SimpleNamespace(value=value, lo=lo, hi=hi, bound=bound, **about)

    monkeypatch.setattr(paper, "number", number)


def measured(lo, hi, value=None):
    value = (lo + hi) / 2 if value is None else value
    return {"value": value, "lo": lo, "hi": hi, "unit": "prompts", "n": 10}


def direction(rule, ours):
    return verdicts.finding("id", "words", ours, direction=rule, locator="somewhere")["direction"]


def size(number, ours, widest):
    rule = verdicts.near(number, widest=widest)
    return verdicts.finding("id", "words", ours, direction=None, size=rule, number=number)["size"]


# A side of a bound.


@pytest.mark.parametrize(
    ("lo", "hi", "verdict"),
    [
        (0.1, 0.2, "reproduced"),
        (0.1, 0.5, "reproduced"),  # as wide as it may be
        (0.1, 0.51, "inconclusive"),  # above, and too wide to tell how far
        (-0.1, 0.2, "inconclusive"),
        (0.0, 0.2, "inconclusive"),  # an end at the bound is not beyond it
        (-0.2, 0.0, "inconclusive"),
        (-0.2, -0.1, "differs"),
        (-9.0, -0.1, "differs"),  # however wide, none of it is above
        (0.1, 0.1, "inconclusive"),  # no width: units that are all equal
        (-0.1, -0.1, "inconclusive"),
        (NAN, NAN, "inconclusive"),
        (-math.inf, math.inf, "inconclusive"),
        (0.1, math.inf, "inconclusive"),
    ],
)
def test_a_side_of_a_bound_needs_an_interval_beyond_it_that_is_narrow(lo, hi, verdict):
    ours = measured(lo, hi, 0.1)
    assert direction(verdicts.above(0, widest=0.2), ours) == verdict
    mirrored = measured(-hi, -lo, -0.1)
    assert direction(verdicts.below(0, widest=0.2), mirrored) == verdict
    shifted = measured(lo + 1, hi + 1, 1.1)
    assert direction(verdicts.above(1, widest=0.2000001), shifted) == verdict


def test_a_number_without_an_interval_is_on_no_side():
    row = verdicts.finding(
        "id", "words", {"value": 0.5}, direction=verdicts.above(0, widest=1), locator="x"
    )
    assert row["direction"] == "inconclusive" and row["reason"].endswith("there is none")


# Equivalence.


@pytest.mark.parametrize(
    ("lo", "hi", "verdict"),
    [
        (-0.01, 0.015, "reproduced"),
        (-0.02, 0.02, "reproduced"),
        (-0.01, 0.03, "inconclusive"),
        (-0.03, 0.01, "inconclusive"),
        (-0.03, 0.03, "inconclusive"),  # too wide to lie inside, wherever it is
        (0.01, 0.06, "inconclusive"),
        (0.021, 0.03, "differs"),
        (-0.9, -0.021, "differs"),
        (0.0, 0.0, "inconclusive"),  # no width
        (NAN, NAN, "inconclusive"),
        (-math.inf, math.inf, "inconclusive"),
    ],
)
def test_equivalence_needs_the_interval_inside_the_margin(lo, hi, verdict):
    ours = measured(-0.02, 0.02)
    assert direction(verdicts.within(0.02, lo, hi), ours) == verdict
    assert direction(verdicts.within(0.02, -hi, -lo), ours) == verdict  # both sides alike


def test_equivalence_is_two_one_sided_tests_at_5_percent():
    rng = np.random.default_rng(0)
    margin, se, draws = 0.02, 0.008, 20_000
    half = stats.norm.ppf(0.95) * se
    for truth, expected in ((margin, 0.05), (-margin, 0.05)):  # just not equivalent
        found = rng.normal(truth, se, draws)
        told = [verdicts.within(margin, x - half, x + half).verdict for x in found]
        share = told.count("reproduced") / draws
        assert share == pytest.approx(expected, abs=4 * math.sqrt(expected / draws))
        assert told.count("differs") / draws == pytest.approx(0.05, abs=0.007)


# Tests.


@pytest.mark.parametrize(
    ("p", "same_side", "verdict"),
    [
        (0.01, True, "reproduced"),
        (0.01, False, "differs"),
        (0.05, True, "inconclusive"),
        (0.2, True, "inconclusive"),
        (0.2, False, "inconclusive"),
        (NAN, True, "inconclusive"),
        (NAN, False, "inconclusive"),
    ],
)
def test_a_test_must_reject_on_the_papers_side(p, same_side, verdict):
    rule = verdicts.rejects(p, same_side=same_side)
    assert direction(rule, measured(0, 1)) == verdict
    assert "nan" not in rule.rule


def test_a_test_may_have_a_level_of_its_own():
    levels = {level: verdicts.rejects(0.01, level=level).verdict for level in (0.05, 0.005)}
    assert levels == {0.05: "reproduced", 0.005: "inconclusive"}


# Sizes.


@pytest.mark.parametrize(
    ("lo", "hi", "verdict"),
    [
        (0.57, 0.67, "reproduced"),  # 0.62 ± 0.05 less 0.60 ± 0.05: 0.02 ± 0.071
        (0.50, 0.60, "reproduced"),  # -0.05 ± 0.071
        (0.47, 0.57, "differs"),  # -0.08 ± 0.071
        (0.66, 0.76, "differs"),
        (0.50, 0.70, "inconclusive"),  # 0 ± 0.112, wider than 0.1
        (0.0, 1.0, "inconclusive"),
        (0.9, 2.9, "differs"),  # 1.3 ± 1.0 excludes 0 however wide it is
        (0.6, 0.6, "inconclusive"),  # no width
        (NAN, NAN, "inconclusive"),
        (-math.inf, math.inf, "inconclusive"),
    ],
)
def test_a_size_is_near_where_the_difference_of_two_samples_may_be_none(lo, hi, verdict):
    value = None if math.isfinite(lo) else 0.6
    assert size("share", measured(lo, hi, value), widest=0.1) == verdict


@pytest.mark.parametrize(
    ("number", "ours", "verdict"),
    [
        ("small", (0.0, 0.088, 0.0), "inconclusive"),  # 0 of 40 holds no effect, and 0.035 too
        ("small", (0.02, 0.06, 0.04), "inconclusive"),
        ("small", (0.03, 0.045, 0.0375), "reproduced"),  # 0.0025 [-0.0333, 0.0220]
        ("small", (0.15, 0.3, 0.2), "differs"),
        ("fall", (-0.7, 0.1, -0.3), "inconclusive"),
        ("fall", (-0.6, -0.4, -0.5), "reproduced"),
        ("fall", (-0.2, 0.0, -0.1), "differs"),
        ("none", (0.0, 0.01, 0.005), "inconclusive"),  # that there is no effect is for `within`
    ],
)
def test_a_size_that_may_be_no_effect_at_all_reproduces_none(number, ours, verdict):
    assert size(number, measured(*ours), widest=0.5) == verdict


@pytest.mark.parametrize("number", ["no interval", "exact"])
@pytest.mark.parametrize("ours", [(0.59, 0.61), (0.2, 0.3), (0.0, 1.0), (NAN, NAN, 0.6)])
def test_a_size_is_not_testable_where_the_papers_number_has_no_interval(number, ours):
    assert size(number, measured(*ours), widest=0.1) == "not testable here"


@pytest.mark.parametrize(
    ("n", "value", "verdict"),
    [  # ours within 0.1: over 10 units theirs is within 0.05, together within 0.112
        (10, 0.7, "reproduced"),
        (10, 0.72, "differs"),
        (40, 0.72, "reproduced"),  # theirs within 0.1, together within 0.141
        (40, 0.75, "differs"),
    ],
)
def test_a_number_over_known_units_has_the_spread_of_ours(n, value, verdict):
    ours = measured(value - 0.1, value + 0.1, value) | {"n": n}
    assert size("over 40", ours, widest=0.2) == verdict


def test_a_bound_of_the_paper_is_refused_as_a_size():
    with pytest.raises(StudyError, match=r"near: must be a number .* got 'bound', at least 0.7"):
        verdicts.near("bound", widest=0.1)


@pytest.mark.parametrize("widest", [0, -1, math.inf, NAN])
def test_a_rule_without_a_finite_width_is_refused(widest):
    rules = (
        lambda: verdicts.above(0, widest=widest),
        lambda: verdicts.below(0, widest=widest),
        lambda: verdicts.near("share", widest=widest),
        lambda: verdicts.within(widest, -0.1, 0.1),
    )
    for rule in rules:
        with pytest.raises(StudyError, match="half width: must be above 0 and finite"):
            rule()


def test_nothing_is_reproduced_by_being_wide_or_without_a_sample():
    rng = np.random.default_rng(1)
    widest = 0.1
    for value in rng.normal(0.6, 0.3, 2_000):
        down, up = rng.exponential(0.3, 2) * rng.integers(0, 2)
        ours = measured(value - down, value + up, value)
        told = {
            direction(verdicts.above(0.3, widest=widest), ours),
            direction(verdicts.below(0.9, widest=widest), ours),
            direction(verdicts.within(widest, ours["lo"], ours["hi"]), ours),
            size("share", ours, widest),
        }
        if (down + up) / 2 > widest + 1e-12 or down + up == 0:
            assert "reproduced" not in told


# The difference of two samples.


@pytest.mark.parametrize(
    "counts", [(7, 40, 60, 200), (0, 30, 12, 500), (38, 38, 480, 500), (1, 6, 45, 90)]
)
def test_the_difference_of_two_shares_has_newcombes_interval(counts):
    one, n, other, m = counts
    (a, b) = (verdicts.share(*pair, "x") for pair in ((one, n), (other, m)))
    ends = [part[name] for part in (a, b) for name in ("value", "lo", "hi")]
    difference, lo, hi = verdicts.two_samples(*ends)
    expected = confint_proportions_2indep(one, n, other, m, method="newcomb", compare="diff")
    assert (lo, hi) == pytest.approx(expected, abs=1e-9)
    assert difference == one / n - other / m


def test_the_interval_of_two_means_is_the_normal_one_where_both_are_symmetric():
    assert verdicts.two_samples(3, 3 - 0.3, 3 + 0.3, 1, 1 - 0.4, 1 + 0.4) == pytest.approx(
        (2, 1.5, 2.5)
    )


@pytest.mark.parametrize(("p", "n", "q", "m"), [(0.3, 90, 0.4, 500), (0.05, 60, 0.035, 200)])
def test_the_interval_of_the_difference_covers_the_truth_as_often_as_it_should(p, n, q, m):
    """Exactly: the sum over all pairs of counts of their probability where the truth is held."""
    ours, theirs = ([verdicts.share(k, size, "x") for k in range(size + 1)] for size in (n, m))
    held = 0.0
    weights = stats.binom.pmf(np.arange(n + 1), n, p), stats.binom.pmf(np.arange(m + 1), m, q)
    for i in np.flatnonzero(weights[0] > 1e-6):
        for j in np.flatnonzero(weights[1] > 1e-6):
            ends = [part[name] for part in (ours[i], theirs[j]) for name in ("value", "lo", "hi")]
            _, lo, hi = verdicts.two_samples(*ends)
            held += weights[0][i] * weights[1][j] * (lo <= p - q <= hi)
    assert held == pytest.approx(0.95, abs=0.015)


def test_skewed_intervals_cover_the_difference_too():
    """Means of exponential samples, each with its exact chi-square interval."""
    rng, n, m, draws = np.random.default_rng(2), 20, 60, 4_000
    ours, theirs = rng.gamma(n, 1 / n, draws), 0.5 * rng.gamma(m, 1 / m, draws)
    factors = {
        size: [2 * size / stats.chi2.ppf(q, 2 * size) for q in (0.975, 0.025)] for size in (n, m)
    }
    held = 0
    for x, y in zip(ours, theirs, strict=True):
        (a, b), (c, d) = factors[n], factors[m]
        _, lo, hi = verdicts.two_samples(x, x * a, x * b, y, y * c, y * d)
        held += lo <= 0.5 <= hi
    assert held / draws == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / draws))


def test_an_interval_that_misses_its_own_value_is_extended_to_it():
    assert verdicts.two_samples(1.0, 1.1, 1.3, 0, -0.1, 0.1) == verdicts.two_samples(
        1.0, 1.0, 1.3, 0, -0.1, 0.1
    )


# Rows.


def test_a_finding_has_both_verdicts_with_their_rules_and_the_papers_interval():
    row = verdicts.finding(
        "id",
        "words",
        Estimate(0.62, 0.57, 0.67, "prompts", 40, 100),
        direction=verdicts.above(0.5, widest=0.1),
        size=verdicts.near("share", widest=0.1),
        number="share",
        headline=True,
    )
    assert (row["kind"], row["direction"], row["size"]) == ("finding", "reproduced", "reproduced")
    assert (row["paper"], row["paper_lo"], row["paper_hi"]) == (0.6, 0.55, 0.65)
    assert (row["value"], row["lo"], row["hi"], row["n"]) == (0.62, 0.57, 0.67, 40)
    assert row["locator"] == "paper, share" and row["headline"]
    first, second = row["reason"].split("; size: ")
    assert first.startswith("direction: the interval must lie above 0.5")
    assert second.endswith("it is [-0.0507, 0.0907]")


def test_a_crossed_estimate_has_one_n_and_its_seeds_in_the_unit():
    crossed = Estimate(0.1, 0.05, 0.15, "seeds x problems", (3, 200), 100)
    row = verdicts.finding("id", "words", crossed, direction=verdicts.above(0, widest=1))
    assert (row["n"], row["unit"]) == (200, "problems x 3 seeds")


def test_what_the_paper_does_not_give_has_no_verdict():
    rule = verdicts.above(0, widest=0.2)
    row = verdicts.finding("id", "words", measured(0.1, 0.2), direction=rule, locator="x")
    assert "size" not in row and "paper" not in row
    assert row["reason"] == "the interval must lie above 0, with a half width of at most 0.2"


def test_a_number_that_is_not_defined_is_not_run_and_a_stated_reason_stays():
    row = verdicts.finding(
        "id",
        "words",
        measured(NAN, NAN, NAN),
        direction=verdicts.rejects(0.01),
        size=verdicts.not_testable("another vocabulary"),
    )
    assert (row["direction"], row["size"]) == ("not run", "not testable here")
    assert row["reason"] == "direction: it is not defined here; size: another vocabulary"


def test_what_was_not_run_gives_why_once_and_where_the_paper_has_it():
    why = verdicts.not_run("no rocks here")
    row = verdicts.finding("id", "words", None, direction=why, size=why, number="share")
    assert row == {
        "kind": "finding", "claim": "id", "statement": "words", "locator": "paper, share",
        "paper": 0.6, "paper_lo": 0.55, "paper_hi": 0.65, "headline": False,
        "direction": "not run", "size": "not run", "reason": "no rocks here",
    }  # fmt: skip


def test_a_shown_number_and_a_check_have_no_verdict_on_the_paper():
    shown = verdicts.shown("id", "words", measured(0.1, 0.2), "share", why="our own K")
    assert (shown["kind"], shown["paper"], shown["reason"]) == ("shown", 0.6, "our own K")
    assert not {"direction", "size"} & set(shown)
    for passed, word in ((True, "passed"), (False, "failed")):
        row = verdicts.check("id", "words", {"value": 1}, passed=passed, rule="must be 1")
        assert (row["kind"], row["direction"], row["locator"]) == ("check", word, "ours")
        assert "size" not in row and row["reason"] == "must be 1"


def test_a_share_has_wilsons_interval_and_is_not_defined_for_no_sample():
    found = verdicts.share(7, 200, "candidates")
    z, n, p = 1.959963984540054, 200, 0.035
    centre, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = ((centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n))
    assert (found["lo"], found["hi"]) == pytest.approx(expected)
    assert verdicts.share(0, 10, "x")["lo"] == 0
    assert verdicts.share(10, 10, "x")["hi"] == 1
    row = verdicts.finding(
        "id", "words", verdicts.share(0, 0, "x"), direction=verdicts.above(0.1, widest=0.2)
    )
    assert row["direction"] == "not run" and row.get("lo") is None
