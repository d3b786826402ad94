"""Arms: every name builds what it says; differences, costs and verdicts against closed forms."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from rockstudy import intervals
from rockstudy.config.fields import RockConfig
from rockstudy.config.overrides import from_parameters
from rockstudy.config.registry import ARMS
from rockstudy.errors import StudyError
from rockstudy.rocks import selectors
from rockstudy.rocks.detection import Detection
from rockstudy.runs import Run
from rockstudy.selective import arms, readings
from rockstudy.selective import claims as selective_claims
from rockstudy.selective import steps as selective_steps
from rockstudy.selective.material import Material
from rockstudy.selective.windows import LossMatchedWindows, RandomWindows, WindowWeights
from rockstudy.training.position_weights import Ramp, TokenWeights, describe

CONFIG = from_parameters("tiny", rocks__k=3)
NAMES = [
    *("baseline", "rock-freeze", "random-windows", "random-windows-loss"),
    *("lambda-0.25", "types", "types-normalized"),
    *("next-ranks", "soft", "ramp", "redetected", "keep-rocks"),
    *(f"{how}-{name}" for how in ("freeze", "keep") for name in selectors.SELECTORS),
]


@pytest.fixture(scope="module")
def material():
    """Forty types whose rank is their id, the third of them special; k = 3."""
    rng = np.random.default_rng(0)
    ids = np.arange(40)
    types = pd.DataFrame(
        {
            "token_id": ids,
            "count": 10 + rng.permutation(40),
            "n_persistent": 5,
            "score": 1.0,
            "rank": ids + 1,
        }
    )
    tokens = pd.DataFrame({"token_id": np.repeat(ids, 5)})
    for name in ("rkl_post", "entropy_post", "entropy_teacher"):
        tokens[name] = rng.random(len(tokens)).astype(np.float32)
    none = pd.DataFrame({"token_id": [], "rock": []})
    return Material(Detection(types, none, 0.3, 0.4, RockConfig(k=3)), tokens, (7, 8), CONFIG)


@pytest.mark.parametrize("name", NAMES)
def test_every_legal_name_builds_an_arm_of_that_name(material, name):
    main = CONFIG.freeze.arms
    assert from_parameters("tiny", freeze__extra=[name] if name not in main else [])
    arm = arms.build(name, material, seed=5)
    assert arm.name == name
    assert (arm.weights is None) == (name == "baseline")


def test_the_legal_names_are_those_with_the_selectors_there_are():
    assert all(name in ARMS for name in NAMES)
    for wrong in ("freeze", "lambda-1.5", "lambda-.5", "freeze-nothing", "rock_freeze", "keep-"):
        assert wrong not in ARMS
    with pytest.raises(StudyError, match=r"arm: .*keep-<selector>.*selector: must be one of fork"):
        ARMS["keep-nothing"]


def test_arms_are_made_of_rocks_matched_controls_and_the_next_ranks(material):
    def build(name):
        return arms.build(name, material, 5)

    freeze, random = build("rock-freeze").weights, build("random-windows").weights
    assert isinstance(freeze, WindowWeights) and isinstance(random, RandomWindows)
    assert freeze.ids == random.ids == (0, 1, 2)
    assert (freeze.value, freeze.threshold, freeze.width) == (0.0, 0.4, CONFIG.rocks.window)
    loss = build("random-windows-loss").weights
    assert isinstance(loss, LossMatchedWindows) and vars(loss) == vars(random)
    assert describe(loss) != describe(random)  # they are told apart in a manifest
    assert random.seed == 5 and not set(random.controls) & {0, 1, 2, 7, 8}
    assert build("lambda-0.25").weights.value == 0.25
    assert build("ramp").weights.value == Ramp(0.0, 1.0, CONFIG.stage2.steps)
    assert build("next-ranks").weights == TokenWeights((3, 4, 5), 0.0)
    assert build("types").weights == build("types-normalized").weights
    assert [build(n).normalize for n in ("types", "types-normalized")] == ["tokens", "weights"]
    assert build("keep-rocks").weights == TokenWeights((0, 1, 2), 0.0, keep=True)
    rkl = build("freeze-rkl").weights.ids
    assert rkl == selectors.select(material.tokens, "rkl", 3).ids


def test_arms_of_a_share_of_the_types_are_those_of_its_number(material):
    rocks = RockConfig(k=0.075)  # 3 of 40
    config = CONFIG.model_copy(update={"rocks": rocks})
    detection = dataclasses.replace(material.detection, settings=rocks)
    share = dataclasses.replace(material, detection=detection, config=config)
    for name in NAMES:
        assert arms.build(name, share, 5) == arms.build(name, material, 5)


def test_the_normaliser_changes_stage_2_and_nothing_else(material, tmp_path):
    run = Run(CONFIG, tmp_path)
    changed = arms.build("types-normalized", material, 0).of(run)
    assert changed.config.stage2.normalize == "weights"
    stage2 = changed.config.stage2.model_copy(update={"normalize": CONFIG.stage2.normalize})
    assert changed.config.model_copy(update={"stage2": stage2}) == CONFIG == run.config
    assert changed.path == run.path


def test_extra_arms_have_fewer_seeds_and_are_graded_at_the_end():
    config = from_parameters("tiny", freeze__extra=["types"], freeze__extra_seeds=1)
    main = [(name, seed, True) for name in config.freeze.arms for seed in (0, 1)]
    assert arms.plan(config) == [*main, ("types", 0, False)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"freeze__extra": ["rock-frieze"]}, "freeze__extra.*rock-freeze.*got 'rock-frieze'"),
        ({"freeze__arms": ["rock-freeze"]}, "must hold baseline"),
        ({"freeze__extra": ["rock-freeze"]}, "distinct"),
    ],
)
def test_arms_that_make_no_sense_are_refused_before_anything_runs(given, message):
    with pytest.raises(StudyError, match=message) as error:
        from_parameters("tiny", **given)
    assert "\n" not in str(error.value)


def answers(accuracy, arm: str, seed: int, step: int) -> pd.DataFrame:
    """Rows of `arm_steps.accuracy` for one checkpoint: its accuracy on each problem."""
    return pd.DataFrame({"accuracy": accuracy}).assign(
        arm=arm, seed=seed, step=step, benchmark="maths", prompt_index=lambda t: t.index, samples=1
    )


@pytest.fixture
def table():
    """Three arms, four seeds, 40 problems; one extra arm with one seed at the end."""
    draw = np.random.default_rng(1)
    found = [
        answers(draw.random(40) - 0.5 * (arm == "b") * (step > 0), arm, seed, step)
        for arm in ("baseline", "a", "b") for seed in range(4) for step in (0, 40)
    ]  # fmt: skip
    return pd.concat([*found, answers(np.full(40, 0.5), "c", 2, 40)], ignore_index=True)


def test_differences_are_paired_by_seed_and_problem(table):
    found = selective_steps.differences(table).set_index("arm")
    ends = table[table.step == 40]
    wide = ends.pivot(index=["seed", "prompt_index"], columns="arm", values="accuracy")
    for arm in ("a", "b"):
        apart = (wide[arm] - wide["baseline"]).unstack()  # (seeds, problems)
        assert found.loc[arm, "value"] == pytest.approx(apart.to_numpy().mean())
        long = apart.stack().rename("x").reset_index()
        both = intervals.two_way_mean(long, "x")
        ends = ["lo", "hi", "lo90", "hi90"]
        assert found.loc[arm, ends].tolist() == pytest.approx([getattr(both, e) for e in ends])
        assert found.loc[arm, ["n", "seeds"]].tolist() == [40, 4]
    assert found.loc["c", "value"] == pytest.approx(0.5 - wide["baseline"][2].mean())
    assert np.isnan(found.loc["c", "lo"]) and found.loc["c", "seeds"] == 1


def test_luck_that_all_seeds_share_is_no_difference():
    """The same problems and random numbers at every seed: seeds alone would seem to agree."""
    excluded = {"seeds": 0, "both": 0}
    for trial in range(40):
        draw = np.random.default_rng(trial)
        shared = draw.choice([-1.0, 1.0], 60)
        frames = [answers(np.zeros(60), "baseline", seed, 40) for seed in range(4)]
        frames += [answers(shared + 0.2 * draw.standard_normal(60), "a", s, 40) for s in range(4)]
        found = selective_steps.differences(pd.concat(frames)).iloc[0]
        excluded["both"] += not found.lo <= 0 <= found.hi
        means = pd.concat(frames[4:]).groupby("seed").accuracy.mean()
        excluded["seeds"] += scipy.stats.ttest_1samp(means, 0).pvalue < 0.05
    assert excluded["seeds"] > 20 and excluded["both"] <= 5


def test_means_are_over_seeds_and_problems(table):
    found = selective_steps.means(table).set_index(["arm", "step"])
    assert found.loc[("a", 40), "value"] == pytest.approx(
        table.accuracy[(table["arm"] == "a") & (table.step == 40)].mean()
    )
    assert found.loc[("a", 40), "unit"] == "problems x 4 seeds"
    assert np.isnan(found.loc[("c", 40), "lo"])


def test_the_reading_says_what_can_be_concluded_and_what_not(table):
    said = readings.of_differences(selective_steps.differences(table), "maths").splitlines()
    assert [line.split(":")[0] for line in said] == ["- a", "- b", "- c"]
    assert "no difference shown" in said[0] and "cannot be excluded" in said[0]
    assert "over 4 seeds: worse than the baseline" in said[1]
    assert "one seed" in said[2]
    same = table[table["arm"] == "baseline"]
    same = pd.concat([same, same.assign(arm="same")])
    assert readings.of_differences(selective_steps.differences(same), "maths").endswith(
        "over 4 seeds: no variation, and no conclusion."
    )


@pytest.fixture
def costs():
    phases = {"baseline": (4, 4), "a": (4, 2), "b": (4, 4)}
    timing = pd.DataFrame(
        [
            {"arm": arm, "round": r, "step": step, "seconds_head": head * step,
             "seconds_step": (rest + head) * step}
            for arm, (rest, head) in phases.items() for r in (0, 1) for step in (2, 3)
        ]
    )  # fmt: skip
    metrics = pd.DataFrame(
        {
            "arm": ["baseline", "a", "b", "c"],
            "seed": 0,
            "n_tokens": 100,
            "n_kept": [100, 50, 100, 100],
            "mean_weight": [1.0, 0.5, 0.75, 1.0],
            "rkl": [0.4, 0.8, 0.5, 0.5],
            "loss": [0.4, 0.4, 0.1, 0.5],
        }
    )
    match = pd.DataFrame({"arm": ["b", "b", "c"], "loss_share": [0.5, 0.7, 0.4]})
    return selective_steps.cost(timing, metrics, match).set_index("arm")


def test_costs_are_ratios_of_paired_steps_and_amdahls_bound(costs):
    assert costs.speedup[:3].tolist() == pytest.approx([1, 8 / 6, 1])
    assert costs.n[:3].tolist() == [4, 4, 4] and np.isnan(costs.speedup["c"])  # was not timed
    assert costs.lo["a"] == pytest.approx(8 / 6) == costs.hi["a"]
    assert costs.frozen.tolist() == pytest.approx([0, 0.5, 0.25, 0])
    assert costs.loss_frozen[["baseline", "b", "c"]].tolist() == pytest.approx([0, 0.8, 0])
    assert np.isnan(costs.loss_frozen["a"])  # half of its positions have no known loss
    assert costs.loss_after[["b", "c"]].tolist() == pytest.approx([0.6, 0.4])
    assert costs.projected.tolist() == [1, 0.5, 1, 1]
    assert costs.bound.tolist() == pytest.approx([1, 8 / 6, 8 / 7, 1])  # heads are half of it
    assert costs.bound_all.tolist() == pytest.approx([2, 2, 2, 2])


def accuracies(freeze: float, random: float, loss=0.0, seeds=4, spread=0.01, benchmark="maths"):
    """Four regimes whose final accuracies differ from the baseline's, about the same each seed."""
    draw = np.random.default_rng(2)
    shifts = {"baseline": 0.0, "rock-freeze": freeze, "random-windows": random}
    rows = []
    for arm, shift in (shifts | {"random-windows-loss": loss}).items():
        for seed in range(seeds):
            rows.append(answers(np.full(20, 0.3), arm, seed, 0))
            noise = spread * draw.standard_normal(20)
            rows.append(answers(0.45 + shift + noise, arm, seed, 40))
    return pd.concat(rows, ignore_index=True).assign(benchmark=benchmark)


MATCH = pd.DataFrame(
    {
        "arm": ["rock-freeze", *arms.CONTROLS],
        "share": 0.2,
        "loss_share": [0.7, 0.02, 0.3],
        "seed": 0,
    }
)
COMPARED = [one.claim for one in selective_claims.COMPARISONS]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"freeze": 0.0, "random": -0.2, "loss": -0.1}, "reproduced reproduced reproduced"),
        (
            {"freeze": -0.015, "random": 0.0, "spread": 0.5},
            "inconclusive inconclusive inconclusive",
        ),
        ({"freeze": -0.2, "random": 0.2, "loss": 0.1}, "differs differs differs"),
        ({"freeze": 0.0, "random": -0.2, "seeds": 1}, "inconclusive inconclusive inconclusive"),
    ],
)
def test_verdicts_on_accuracy_follow_their_rules(costs, given, expected):
    rows = selective_claims.rows(accuracies(**given), costs.reset_index(), MATCH, "maths")
    verdict = {row["claim"]: row.get("direction") for row in rows}
    keeps, loses, beats, beats_matched, untrained = (verdict[claim] for claim in COMPARED)
    assert [keeps, loses, beats] == expected.split()
    assert beats_matched == ("reproduced" if beats == "reproduced" else beats)
    assert untrained == "not run"


def test_sizes_are_compared_with_the_papers_and_equivalence_has_none(costs):
    table = accuracies(0.0, -0.14, spread=0.001)
    rows = {
        r["claim"]: r for r in selective_claims.rows(table, costs.reset_index(), MATCH, "maths")
    }
    assert rows["random-windows-cost-accuracy"]["size"] == "inconclusive"  # the paper's is too wide
    assert "size" not in rows["rock-freeze-keeps-accuracy"]
    assert "size" not in rows["rock-freeze-beats-loss-matched-windows"]
    assert rows["rock-freeze-beats-loss-matched-windows"]["locator"] == "not in the paper"
    far = accuracies(0.0, -0.4, spread=0.001)
    rows = {r["claim"]: r for r in selective_claims.rows(far, costs.reset_index(), MATCH, "maths")}
    assert rows["random-windows-cost-accuracy"]["size"] == "differs"


def test_the_untrained_benchmark_has_a_finding_of_its_own(costs):
    table = pd.concat([accuracies(0.0, 0.0), accuracies(0.1, 0.0, benchmark="other")])
    given = (table, costs.reset_index(), MATCH, "maths")
    rows = {row["claim"]: row for row in selective_claims.rows(*given, "other")}
    assert rows["rock-freeze-raises-untrained"]["direction"] == "reproduced"
    assert rows["rock-freeze-raises-untrained"]["value"] == pytest.approx(0.1, abs=0.01)
    assert selective_claims.untrained(["maths", "other"], "maths", "maths") == "other"
    assert selective_claims.untrained(["maths"], "maths", "maths") is None


def test_what_was_not_trained_is_not_run_and_says_why(costs):
    table = accuracies(0.0, -0.2)
    table = table[table["arm"] != "random-windows"]
    given = (table, costs.reset_index(), MATCH, "maths")
    rows = {r["claim"]: r for r in selective_claims.rows(*given)}
    for claim in COMPARED[1:3]:
        assert rows[claim]["direction"] == "not run" and "not trained" in rows[claim]["reason"]
    assert rows[COMPARED[0]]["direction"] == "reproduced"
    assert "gain-random-windows" not in rows and "speed-up-types" not in rows
    assert rows["gain-rock-freeze"]["kind"] == "shown"
    assert rows["random-windows-match"]["direction"] == "passed"
    apart = MATCH.assign(share=[0.2, 0.2, 0.1])
    (check,) = [
        r for r in selective_claims.rows(table, *given[1:2], apart, "maths") if r["kind"] == "check"
    ]
    assert (check["direction"], check["value"]) == ("failed", pytest.approx(0.5))


def test_windows_have_their_threshold_in_the_loss_that_is_trained(material):
    """Where rocks are found by the one-sample estimate, its own threshold is another quantity."""
    settings = RockConfig(k=3, loss="log_ratio", tau_post=0.75)
    other = Detection(material.detection.types, pd.DataFrame(), 0.3, -0.1, settings)
    found = Material(other, material.tokens, (7, 8), CONFIG)
    assert found.threshold == pytest.approx(np.quantile(material.tokens.rkl_post, 0.75))
    assert material.threshold == 0.4  # the detection's own, which is of the reverse KL


def test_a_control_that_cannot_match_is_refused():
    selective_steps._check_match(MATCH)
    with pytest.raises(StudyError, match=r"rocks__k: must leave .* take 66% .* random ones 34%"):
        selective_steps._check_match(MATCH.assign(share=[0.66, 0.34, 0.34]))
