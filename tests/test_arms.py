"""Arms: every name builds what it says; differences, costs and verdicts against closed forms."""

import re

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from rockstudy import arm_claims, arm_steps, arms, schema, selectors
from rockstudy.config import RockConfig, StudyError, from_parameters
from rockstudy.rocks import Detection
from rockstudy.weights import Ramp, TokenWeights
from rockstudy.windows import RandomWindows, WindowWeights

NAMES = [
    *("baseline", "rock-freeze", "random-windows", "lambda-0.25", "types", "types-normalized"),
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
            "score_ctx": 1.0,
            "rank": ids + 1,
        }
    )
    tokens = pd.DataFrame({"token_id": np.repeat(ids, 5)})
    for name in ("rkl_post", "entropy_post", "entropy_teacher"):
        tokens[name] = rng.random(len(tokens)).astype(np.float32)
    none = pd.DataFrame({"token_id": [], "rock": []})
    return arms.Material(Detection(types, none, 0.3, 0.4, RockConfig(k=3)), tokens, (7, 8))


CONFIG = from_parameters("tiny", rocks__k=3)


@pytest.mark.parametrize("name", NAMES)
def test_every_legal_name_builds_an_arm_of_that_name(material, name):
    assert from_parameters("tiny", freeze__extra=[name] if name not in (
        "baseline", "rock-freeze", "random-windows") else [])  # fmt: skip
    arm = arms.build(name, material, CONFIG, seed=5)
    assert arm.name == name
    assert (arm.weights is None) == (name == "baseline")


def test_the_legal_names_are_those_with_the_selectors_there_are():
    pattern = re.compile(next(m for m in schema.ArmName.__metadata__).metadata[0].pattern)
    assert all(pattern.fullmatch(name) for name in NAMES)
    for wrong in ("freeze", "lambda-1.5", "freeze-nothing", "rock_freeze", "keep-"):
        assert not pattern.fullmatch(wrong)


def test_arms_are_made_of_rocks_matched_controls_and_the_next_ranks(material):
    def build(name):
        return arms.build(name, material, CONFIG, 5)

    freeze, random = build("rock-freeze").weights, build("random-windows").weights
    assert isinstance(freeze, WindowWeights) and isinstance(random, RandomWindows)
    assert freeze.ids == random.ids == (0, 1, 2)
    assert (freeze.value, freeze.threshold, freeze.width) == (0.0, 0.4, CONFIG.rocks.window)
    assert random.seed == 5 and not set(random.controls) & {0, 1, 2, 7, 8}
    assert build("lambda-0.25").weights.value == 0.25
    assert build("ramp").weights.value == Ramp(0.0, 1.0, CONFIG.stage2.steps)
    assert build("next-ranks").weights == TokenWeights((3, 4, 5), 0.0)
    assert build("types").weights == build("types-normalized").weights
    assert [build(n).normalize for n in ("types", "types-normalized")] == ["tokens", "weights"]
    assert build("keep-rocks").weights == TokenWeights((0, 1, 2), 0.0, keep=True)
    rkl = build("freeze-rkl").weights.ids
    assert rkl == selectors.select(material.tokens, "rkl", 3).ids


def test_the_normaliser_changes_stage_2_and_nothing_else(material):
    changed = arms.build("types-normalized", material, CONFIG, 0).configured(CONFIG)
    assert changed.stage2.normalize == "weights"
    assert changed.model_copy(update={"stage2": CONFIG.stage2}) == CONFIG


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


@pytest.fixture
def table():
    """Three arms, four seeds; one extra arm with one seed at the end."""
    rng = np.random.default_rng(1)
    rows = [
        (arm, seed, step, "maths", 0.4 + 0.1 * rng.random() - 0.2 * (arm == "b") * (step > 0))
        for arm in ("baseline", "a", "b") for seed in range(4) for step in (0, 40)
    ]  # fmt: skip
    rows.append(("c", 2, 40, "maths", 0.5))
    return pd.DataFrame(rows, columns=["arm", "seed", "step", "benchmark", "accuracy"])


def test_differences_are_paired_by_seed_with_the_t_interval_of_scipy(table):
    found = arm_steps.at_end(arm_steps.differences(table)).set_index("arm")
    wide = table[table.step == 40].pivot(index="seed", columns="arm", values="accuracy")
    for arm in ("a", "b"):
        test = scipy.stats.ttest_rel(wide[arm], wide["baseline"])
        interval = test.confidence_interval(0.95)
        assert found.loc[arm, "value"] == pytest.approx((wide[arm] - wide["baseline"]).mean())
        assert found.loc[arm, ["lo", "hi"]].tolist() == pytest.approx([interval.low, interval.high])
    assert found.loc["c", "value"] == pytest.approx(0.5 - wide["baseline"][2])
    assert np.isnan(found.loc["c", "lo"]) and found.loc["c", "n"] == 1


def test_the_reading_says_what_can_be_concluded_and_what_not(table):
    said = arm_steps.reading(arm_steps.differences(table), "maths").splitlines()
    assert [line.split(":")[0] for line in said] == ["a", "b", "c"]
    assert "no difference shown" in said[0] and "cannot be excluded" in said[0]
    assert "over 4 seeds: worse than the baseline" in said[1]
    assert "one seed" in said[2]


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
            "n_tokens": 100,
            "n_kept": [100, 50, 100, 100],
            "mean_weight": [1.0, 0.5, 0.75, 1.0],
        }
    )
    return arm_steps.cost(timing, metrics).set_index("arm")


def test_costs_are_ratios_of_paired_steps_and_amdahls_bound(costs):
    assert costs.speedup[:3].tolist() == pytest.approx([1, 8 / 6, 1])
    assert costs.n[:3].tolist() == [4, 4, 4] and np.isnan(costs.speedup["c"])  # was not timed
    assert costs.lo["a"] == pytest.approx(8 / 6) == costs.hi["a"]
    assert costs.frozen.tolist() == pytest.approx([0, 0.5, 0.25, 0])
    assert costs.projected.tolist() == [1, 0.5, 1, 1]
    assert costs.bound.tolist() == pytest.approx([1, 8 / 6, 8 / 7, 1])  # heads are half of it
    assert costs.bound_all.tolist() == pytest.approx([2, 2, 2, 2])


def accuracies(freeze: float, random: float, seeds: int = 4, spread: float = 0.01):
    """Three regimes whose final accuracies differ from the baseline's, about the same each seed."""
    rng = np.random.default_rng(2)
    rows = []
    for arm, shift in (("baseline", 0.0), ("rock-freeze", freeze), ("random-windows", random)):
        for seed in range(seeds):
            rows.append((arm, seed, 0, "maths", 0.3))
            rows.append((arm, seed, 40, "maths", 0.5 + shift + spread * rng.standard_normal()))
    return pd.DataFrame(rows, columns=["arm", "seed", "step", "benchmark", "accuracy"])


MATCH = pd.DataFrame({"arm": ["rock", "random"], "share": [0.2, 0.2], "seed": 0})
KEEPS, LOSES, BEATS = (
    "freeze-keeps-accuracy",
    "random-freeze-costs-accuracy",
    "freeze-beats-random-freeze",
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"freeze": 0.0, "random": -0.2, "spread": 0.001}, ("reproduced",) * 3),
        ({"freeze": 0.0, "random": 0.0, "spread": 0.1}, ("inconclusive",) * 3),
        (
            {"freeze": -0.2, "random": 0.2, "spread": 0.001},
            ("differs", "differs", "differs"),
        ),
        ({"freeze": 0.0, "random": -0.2, "seeds": 1}, ("inconclusive",) * 3),
    ],
)
def test_verdicts_on_accuracy_follow_their_rules(costs, given, expected):
    rows = arm_claims.rows(accuracies(**given), costs.reset_index(), MATCH, "maths")
    verdict = {row["claim"]: row["verdict"] for row in rows}
    assert (verdict[KEEPS], verdict[LOSES], verdict[BEATS]) == expected


def test_what_was_not_trained_is_not_run_and_says_why(costs):
    table = accuracies(0.0, -0.2)
    table = table[table["arm"] != "random-windows"]
    rows = {r["claim"]: r for r in arm_claims.rows(table, costs.reset_index(), MATCH, "maths")}
    for claim in (LOSES, BEATS, "gain-random-windows", "speed-up-types"):
        assert rows[claim]["verdict"] == "not run" and "not trained" in rows[claim]["reason"]
    assert rows["gain-rock-freeze"]["verdict"] == "reproduced"
    assert rows["random-windows-match"]["verdict"] == "reproduced"
    assert arm_claims.rows(table, costs.reset_index(), MATCH, "another") == []
