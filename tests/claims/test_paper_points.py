"""The paper's numbers follow from the points of its figures, and the prose on them from both."""

import re
import tomllib
from math import isnan

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep

from rockstudy import paths
from rockstudy.claims import paper

GROUPS = {"rock": "rock", "high-KL": "high_kl", "random": "random"}
REGIMES = {"baseline": "baseline", "rock-freeze": "rock_freeze", "random": "random_windows"}
PAIRS = {
    "rock-freeze-baseline": ("rock-freeze", "baseline"),
    "random-baseline": ("random", "baseline"),
    "rock-freeze-random": ("rock-freeze", "random"),
}
BENCHMARKS = ("MATH-500", "IFEval")


def values(name):
    return {label: one.value for label, one in paper.labelled(name).items()}


def digits(number):
    """A number as text with three digits that count, and a tolerance for the last one."""
    return pytest.approx(number, rel=0.005, abs=5e-5)


# --- figure 2 ----------------------------------------------------------------------------------


def curve(name):
    points = paper.points("figure2")
    return points[points.curve == name].set_index("k").value


@pytest.mark.parametrize(("name", "of"), [("coverage", "coverage"), ("jaccard", "jaccard_mean")])
def test_coverage_and_jaccard_are_points_of_figure_2(name, of):
    assert {int(k): value for k, value in values(name).items()}.items() <= dict(curve(of)).items()


def test_jaccard_is_the_mean_over_the_five_sub_corpora_and_has_every_cutoff():
    sub = np.mean([curve(f"jaccard_n{n:.0f}") for n in values("sub-corpora").values()], axis=0)
    assert list(values("jaccard").values()) == pytest.approx(list(sub), abs=2e-4)
    assert len(sub) == len(values("jaccard")) == 16


def test_a_jaccard_index_of_two_sets_of_k_is_a_ratio_of_whole_numbers():
    for n in values("sub-corpora").values():
        for k, value in curve(f"jaccard_n{n:.0f}").loc[:500].items():  # neighbours 0.001 apart
            common = round(2 * k * value / (1 + value))
            assert value == pytest.approx(common / (2 * k - common), abs=2e-4)


def test_the_text_on_the_cutoff_holds_at_most_where_the_figure_says_so():
    index = curve("jaccard_mean")
    low = index.loc[:100] <= paper.number("jaccard-to-cutoff").value
    assert low[low].index.tolist() == [5]
    assert index[50] == pytest.approx(paper.number("jaccard-at-50").value, abs=0.005)
    floor = paper.number("jaccard-floor").value
    assert (index.loc[500:] - floor).abs().max() < 0.015 < (index.loc[:300] - floor).min()
    assert paper.number("jaccard-floor-cutoff").value < 500


def test_the_text_rounds_the_coverage():
    assert values("coverage") == pytest.approx({"100": 0.60, "50": 0.49}, abs=0.005)


def test_the_share_of_observed_types_follows_from_the_legend():
    observed, rocks, others = (
        paper.number(name).value for name in ("observed-types", "cutoff", "unselected-types")
    )
    assert observed == rocks + others
    assert paper.number("share-of-observed").value == digits(rocks / observed)
    assert paper.number("share-of-observed-text").value - rocks / others > 0.002


# --- figure 3c ---------------------------------------------------------------------------------


def group(label):
    points = paper.points("figure3c")
    some = points[points.group == GROUPS[label]]
    return some.mean_kl_early.to_numpy(), some.mean_kl_late.to_numpy()


def change(early, late, axis=-1):
    return np.median(late, axis=axis) / np.median(early, axis=axis) - 1


@pytest.mark.parametrize("label", GROUPS)
def test_medians_and_tests_of_a_group_follow_from_figure_3c(label):
    early, late = group(label)
    falls = paper.number(f"persistence-falls/{label}")
    assert paper.number(f"kl-early/{label}").value == digits(np.median(early))
    assert paper.number(f"kl-late/{label}").value == digits(np.median(late))
    assert (falls.value, falls.n) == (digits(np.mean(late < early)), len(early))
    p = stats.wilcoxon(late, early).pvalue
    assert paper.number(f"persistence-p/{label}").value == pytest.approx(p, rel=0.02)
    for name in ("kl-early", "kl-late", "persistence", "persistence-p"):
        assert paper.number(f"{name}/{label}").n == len(early)


@pytest.mark.parametrize("label", GROUPS)
def test_persistence_is_the_change_of_medians_with_a_bootstrap_over_types(label):
    early, late = group(label)
    one = paper.number(f"persistence/{label}")
    assert one.value == digits(change(early, late))
    ends = stats.bootstrap(
        (early, late), change, paired=True, method="percentile", batch=1000,
        rng=np.random.default_rng(3),
    ).confidence_interval  # fmt: skip
    assert (one.lo, one.hi) == pytest.approx((ends.low, ends.high), abs=0.03 * (one.hi - one.lo))


def test_the_text_rounds_the_fall_of_the_types_of_high_kl():
    assert paper.number("kl-change").value == pytest.approx(change(*group("high-KL")), abs=0.005)
    assert paper.number("persistence-p/high-KL").value < paper.number("kl-change-p").value


@pytest.mark.parametrize(
    ("label", "low", "high"), [("above-1", 1, np.inf), ("0.3-to-1", 0.3, 1), ("below-0.1", 0, 0.1)]
)
def test_random_types_regress_to_the_mean(label, low, high):
    early, late = group("random")
    chosen = (early > low) & (early <= high)
    one = paper.number(f"persistence-random/{label}")
    assert (one.value, one.n) == (digits(change(early[chosen], late[chosen])), chosen.sum())


# --- figure 4 ----------------------------------------------------------------------------------


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_signs_and_moments_of_delta_follow_from_figure_4(benchmark):
    points = paper.points("figure4")
    bars = points[points.benchmark == benchmark]
    counts = bars.delta_correct.to_numpy()
    assert counts.dtype == np.int64 and len(counts) == paper.number("screened").value
    name = {"MATH-500": "math-problems", "IFEval": "ifeval-problems"}[benchmark]
    assert set(bars.problems) == {paper.number(name).value}
    signs = {"below": (counts < 0).sum(), "none": (counts == 0).sum(), "above": (counts > 0).sum()}
    assert values(f"delta-signs/{benchmark}") == signs
    delta = counts / bars.problems.to_numpy()
    assert paper.number(f"delta-mean/{benchmark}").value == pytest.approx(delta.mean(), abs=5e-5)
    assert paper.number(f"delta-sd/{benchmark}").value == digits(delta.std(ddof=1))
    assert paper.number(f"delta-lowest/{benchmark}").value == digits(delta.min())


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_the_spread_of_delta_is_what_the_noise_of_one_rollout_gives(benchmark):
    # The smallest p-value is that of the lowest bar at best: z = count / sqrt(discordant problems).
    # Both rollouts add noise to a count, and the one without a ban is the same for all candidates.
    n, lowest, mean, sd = (
        paper.number(name).value
        for name in (
            {"MATH-500": "math-problems", "IFEval": "ifeval-problems"}[benchmark],
            f"delta-lowest/{benchmark}", f"delta-mean/{benchmark}", f"delta-sd/{benchmark}",
        )
    )  # fmt: skip
    z = stats.norm.isf(paper.number(f"smallest-p/{benchmark}").value / 2)
    discordant = (lowest * n / z) ** 2
    assert 14 < discordant < 37
    noise = np.sqrt(discordant / 2) / n
    assert sd == pytest.approx(noise, rel=0.1)
    assert -1.5 < mean / noise < -0.5


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_the_sign_test_rejects_far_too_often_where_nothing_has_an_effect(benchmark):
    rng, screens = np.random.default_rng(4), 2000
    noise, least = paper.number(f"delta-sd/{benchmark}").value, paper.number("least-delta").value
    candidates = int(paper.number("screened").value)
    delta = noise * (rng.normal(size=(screens, 1)) + rng.normal(size=(screens, candidates)))
    least = max(least, stats.norm.isf(0.025) * noise * np.sqrt(2))
    pillars, stumbling = (delta <= -least).sum(1), (delta >= least).sum(1)
    p = 2 * stats.binom.cdf(np.minimum(pillars, stumbling), pillars + stumbling, 0.5)
    assert np.mean(p < 0.05) == pytest.approx(0.40, abs=0.04)  # 3 binomial errors are 0.033


# --- figure 5 ----------------------------------------------------------------------------------


def correct(regime, step):
    points = paper.points("figure5")
    assert set(points.problems) == {sum(values("competition-problems").values())} == {90}
    row = points[(points.regime == REGIMES[regime]) & (points.step == int(step))]
    return row.correct.item()


def newcombe(a, b):
    return confint_proportions_2indep(a, 90, b, 90, method="newcomb", compare="diff")


def test_accuracy_along_training_is_counts_of_90_problems():
    for label, one in paper.labelled("accuracy").items():
        assert (one.value, one.n) == (digits(correct(*label.split("/")) / 90), 90)
    assert len(paper.labelled("accuracy")) == len(paper.points("figure5"))


def test_differences_of_accuracy_follow_from_counts_with_newcombes_interval():
    ends = {f"accuracy-gain/{name}": ((name, 1500), (name, 0)) for name in REGIMES}
    ends |= {f"accuracy-difference/{k}": tuple((x, 1500) for x in v) for k, v in PAIRS.items()}
    for name, (after, before) in ends.items():
        one, counts = paper.number(name), (correct(*after), correct(*before))
        assert one.value == digits((counts[0] - counts[1]) / 90)
        assert (one.lo, one.hi) == pytest.approx(newcombe(*counts), abs=1e-4)
        assert one.n == 90
    assert {*ends} == {i for i in paper.numbers() if re.match("accuracy-(gain|difference)/", i)}


@pytest.mark.parametrize("label", PAIRS)
def test_no_difference_at_the_last_step_is_significant(label):
    a, b = (correct(regime, 1500) for regime in PAIRS[label])
    p = stats.fisher_exact([[a, 90 - a], [b, 90 - b]]).pvalue
    assert paper.number(f"accuracy-p/{label}").value == pytest.approx(p, rel=0.01)
    assert p > paper.number("alpha").value


# --- samples and prose -------------------------------------------------------------------------


def test_an_interval_of_a_share_is_of_a_whole_count():
    shares = [one for one in paper.numbers().values() if one.n and one.unit.startswith("share of")]
    assert len(shares) > 10
    for one in shares:
        assert one.value * one.n == pytest.approx(round(one.value * one.n), abs=0.01)
        assert one.lo <= one.value <= one.hi and not isnan(one.lo)


def spellings(number):
    """How prose may write a number: as it is, in percent, in points, without its sign."""
    size = abs(number.value)
    plain = (f"{size:g}", f"{size:,.0f}" if size == round(size) else "", f"{size:.1e}")
    small = f"{size:.3g}".replace("e-0", "e-")
    tens = [f"{100 * size:{form}}" for form in ("g", ".0f", ".1f", ".3g")]
    return [text for text in (*plain, small, f"{size:.3f}", *tens) if text]


def test_a_row_on_a_disagreement_writes_the_numbers_it_refers_to():
    file = paths.data_dir() / "paper" / "disagreements.toml"
    for row, said in tomllib.loads(file.read_text()).items():
        words = " ".join(said[part] for part in ("question", "text", "other"))
        for name in said["numbers"]:
            pattern = "|".join(map(re.escape, spellings(paper.number(name))))
            assert re.search(rf"(?<![\d.,])({pattern})(?!\d|[.,]\d)", words), (row, name)
