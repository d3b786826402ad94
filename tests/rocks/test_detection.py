"""Rock scores against a brute-force double loop; cut-off, density and sensitivity by hand."""

import dataclasses
from collections import Counter
from math import sqrt

import numpy as np
import pandas as pd
import pytest
from corpora import N_PROMPTS, SAMPLES, SETTINGS, scored
from scipy import stats

from rockstudy.config.fields import RockConfig
from rockstudy.config.overrides import from_parameters
from rockstudy.errors import StudyError
from rockstudy.models import loading
from rockstudy.rocks import contexts, detection
from rockstudy.rocks.token_set import TokenSet
from rockstudy.sampling.rollout import Rollouts


@pytest.fixture(scope="module")
def corpus():
    return scored()


@pytest.fixture(scope="module")
def found(corpus):
    return detection.detect(*corpus, SETTINGS)


def brute_force(table, rollouts, settings):
    """Count, score and CCR of every type, one pair of occurrences at a time."""
    pre, post = table[f"{settings.loss}_pre"], table[f"{settings.loss}_post"]
    high = (pre >= np.quantile(pre.astype(float), settings.tau_pre)) & (
        post >= np.quantile(post.astype(float), settings.tau_post)
    )
    places = table[["prompt_index", "sample_index"]].apply(tuple, axis=1)
    row_of = {(p, s): p * SAMPLES + s for p in range(N_PROMPTS) for s in range(SAMPLES)}
    windows = []
    for place, t in zip(places, table.position, strict=True):
        row = row_of[place]
        ids = rollouts.completion_ids[row][rollouts.mask[row]].tolist()
        w = settings.window
        windows.append(Counter(ids[max(0, t - w) : t] + ids[t + 1 : t + 1 + w]))
    result = {}
    for token in sorted(set(table.token_id)):
        mine = [i for i in np.flatnonzero(high) if table.token_id[i] == token]
        n_rock = 0
        for i in mine:
            similar = 0
            for j in mine:
                sizes = windows[i].total() * windows[j].total()
                shared = (windows[i] & windows[j]).total()
                similar += i != j and sizes > 0 and shared / sqrt(sizes) >= settings.gamma - 1e-6
            if len(mine) > 1 and settings.repeats == "share":
                n_rock += similar / (len(mine) - 1) >= settings.eta
            elif len(mine) > 1:
                test = stats.binomtest(similar, len(mine) - 1, alternative="greater")
                n_rock += test.proportion_ci(1 - contexts.LEVEL).low > settings.eta
        count = int((table.token_id == token).sum())
        score = float(post[table.token_id == token].astype(float).sum())
        result[token] = (count, score, len(mine), n_rock / count)
    return result


@pytest.mark.parametrize("loss", ["rkl", "log_ratio"])
@pytest.mark.parametrize(
    ("window", "test"), [(1, "share"), (2, "share"), (5, "share"), (2, "bound")]
)
def test_scores_and_ccr_equal_a_double_loop_over_occurrences(corpus, loss, window, test):
    settings = SETTINGS.model_copy(update={"loss": loss, "window": window, "repeats": test})
    types = detection.detect(*corpus, settings).types
    expected = brute_force(*corpus, settings)
    assert types.token_id.tolist() == list(expected)
    for row in types.to_dict("records"):
        count, score, n_persistent, ccr = expected[row["token_id"]]
        assert (row["count"], row["n_persistent"]) == (count, n_persistent)
        assert row["score"] == pytest.approx(score, rel=1e-9)
        assert row["ccr"] == pytest.approx(ccr)
        assert row["score_ctx"] == pytest.approx(score * ccr)


def test_scores_add_up_to_the_corpus_loss_and_shares_to_one(corpus, found):
    assert found.types.score.sum() == pytest.approx(corpus[0].rkl_post.astype(float).sum())
    assert found.types.coverage.sum() == pytest.approx(1)
    curve = detection.coverage_curve(found.types)
    assert curve.k.tolist() == list(range(1, len(found.types) + 1))
    assert curve.coverage.iloc[-1] == pytest.approx(1)


def test_the_rank_follows_the_selector(corpus, found):
    by_ctx = found.types.sort_values("rank").score_ctx
    assert (by_ctx.diff().dropna() <= 0).all()
    plain = detection.detect(*corpus, SETTINGS.model_copy(update={"selector": "score"}))
    assert (plain.types.sort_values("rank").score.diff().dropna() <= 0).all()
    assert len(plain.rocks()) == 3 and plain.able == 12


def test_the_rocks_are_the_first_types_by_rank(found):
    chosen = found.rocks()
    assert len(chosen) == SETTINGS.k
    assert set(chosen.ids) == set(found.types.sort_values("rank").token_id[:3])


@pytest.mark.parametrize(("share", "k"), [(0.25, 3), (0.2, 2), (0.001, 1)])
def test_a_share_of_the_observed_types_gives_the_rocks_of_its_number(corpus, share, k):
    """Twelve types are observed, those without a score among them."""
    made = detection.detect(*corpus, SETTINGS.model_copy(update={"k": share}))
    number = detection.detect(*corpus, SETTINGS.model_copy(update={"k": k}))
    assert made.k == k and made.rocks() == number.rocks()
    grid = {"tau": [0.3, 0.4], "window": [4]}
    sweeps = [detection.sensitivity(*corpus, one.settings, grid) for one in (made, number)]
    pd.testing.assert_frame_equal(*sweeps)


def test_thresholds_are_quantiles_of_each_stage(corpus, found):
    table, _ = corpus
    assert found.tau_pre == pytest.approx(np.quantile(table.rkl_pre.astype(float), 0.4))
    kept = found.occurrences.merge(table)
    assert (kept.rkl_pre >= found.tau_pre).all() and (kept.rkl_post >= found.tau_post).all()
    assert (
        len(kept) == ((table.rkl_pre >= found.tau_pre) & (table.rkl_post >= found.tau_post)).sum()
    )


@pytest.mark.parametrize("encoder", ["embedding", "hidden"])
def test_other_encoders_rank_types_too_and_need_the_student(corpus, encoder):
    table, rollouts = corpus
    settings = SETTINGS.model_copy(update={"encoder": encoder})
    student = loading.tiny_pair().student
    other = detection.detect(table, rollouts, settings, student)
    assert other.types.score.sum() == pytest.approx(table.rkl_post.astype(float).sum())
    with pytest.raises(StudyError, match=f"rocks__encoder: '{encoder}' needs the student"):
        detection.detect(table, rollouts, settings)


# What is refused.


def test_more_rocks_than_types_with_a_positive_score_are_refused(found):
    able = int((found.types.score_ctx > 0).sum())
    with pytest.raises(StudyError, match=rf"rocks__k: must be at most {able}, .*; got 500"):
        dataclasses.replace(found, settings=SETTINGS.model_copy(update={"k": 500})).rocks()
    types = found.types.assign(score_ctx=found.types.score_ctx.where(found.types["rank"] <= 4, 0.0))
    share = dataclasses.replace(found, types=types, settings=SETTINGS.model_copy(update={"k": 0.5}))
    with pytest.raises(StudyError, match=r"rocks__k: .* most 4, .*; got 0\.5 of 12 types, 6"):
        share.rocks()


def test_thresholds_that_leave_no_occurrence_are_named(corpus):
    top = SETTINGS.model_copy(update={"tau_pre": 1.0, "tau_post": 1.0})
    with pytest.raises(StudyError, match=r"rocks__tau_pre, rocks__tau_post: must leave at least"):
        detection.detect(*corpus, top)


def test_losses_that_are_not_finite_are_named(corpus):
    table, rollouts = corpus
    broken = table.assign(rkl_post=table.rkl_post.where(table.position > 0, np.inf))
    with pytest.raises(StudyError, match="rkl_post: must be finite at every position; 60 are not"):
        detection.detect(broken, rollouts, SETTINGS)


@pytest.mark.parametrize(
    ("field", "value", "legal"),
    [
        ("tau_pre", 1.2, "a number >= 0 and <= 1"),
        ("eta", -0.1, "a number >= 0 and <= 1"),
        ("gamma", 0, "a number > 0 and <= 1"),
        ("k", 0, "a number > 0 and < 1 or a whole number >= 1 and <= 1000000"),
        ("encoder", "bags", "one of bag, embedding, hidden"),
    ],
)
def test_settings_out_of_bounds_are_refused_in_one_line(field, value, legal):
    with pytest.raises(StudyError) as error:
        from_parameters("tiny", **{f"rocks__{field}": value})
    assert str(error.value).startswith(f"rocks__{field}: must be {legal}; got {value!r}")


# The cut-off.


def test_a_cut_off_is_proposed_at_the_knee_among_the_stable_ones():
    coverage = pd.DataFrame({"k": range(1, 11), "coverage": 1 - 0.5 ** np.arange(1, 11)})
    steady = pd.DataFrame({"k": [1, 2, 3, 4, 8], "jaccard": [1.0, 0.9, 0.8, 0.6, 0.95]})
    steady["kind"] = "average"
    k, reason = detection.propose_k(steady, coverage)
    assert k == 3  # 0.875 - 0.3 lies above 0.75 - 0.2 and 0.996 - 0.8; 4 is not stable
    assert "K = 3: average Jaccard index 0.80 and coverage 88%" in reason
    k, reason = detection.propose_k(steady.assign(jaccard=steady.jaccard / 2), coverage)
    assert k is None and "the highest is 0.50 at K = 1" in reason


# Density and sensitivity.


def test_density_counts_tokens_of_a_type_and_rock_occurrences_apart():
    table = pd.DataFrame(
        {
            "prompt_index": [0, 0, 0, 0, 1, 1],
            "sample_index": [0, 0, 0, 0, 0, 0],
            "position": [0, 1, 2, 3, 0, 1],
            "token_id": [7, 7, 8, 9, 7, 9],
        }
    )
    occurrences = table.iloc[[0, 1, 2]].assign(rock=[True, False, True])
    result = detection.density(table, TokenSet.of("rocks", [7]), occurrences)
    assert result.n_tokens.tolist() == [4, 2]
    assert result.types.tolist() == [0.5, 0.5]
    assert result.occurrences.tolist() == [0.25, 0.0]


def test_the_sweep_moves_one_setting_at_a_time(corpus, found):
    grid = {"tau": [0.3], "window": [2, 4], "selector": ["score_ctx", "score"]}
    sweep = detection.sensitivity(*corpus, SETTINGS, grid)
    assert sweep.setting.tolist() == ["tau", "window", "window", "selector", "selector"]
    assert sweep.default.tolist() == [False, True, False, True, False]
    assert (sweep.jaccard[sweep.default] == 1).all()
    assert sweep.n_persistent[0] > len(found.occurrences) == sweep.n_persistent[1]
    assert sweep.n_types[4] == 12


def test_a_setting_that_leaves_no_occurrence_has_no_rocks_in_the_sweep():
    mask = np.ones((1, 4), bool)
    rollouts = Rollouts(
        [np.array([1], np.int64)], np.array([[5, 6, 7, 8]], np.int32), mask,
        np.zeros(1, np.int32), np.zeros(1, np.int16), np.ones(1, bool),
    )  # fmt: skip
    place = {"prompt_index": 0, "sample_index": 0, "position": range(4), "token_id": [5, 6, 7, 8]}
    table = pd.DataFrame(place).assign(rkl_pre=[0.0, 1, 2, 3], rkl_post=[3.0, 2, 1, 0])
    loose = RockConfig(k=3, tau_pre=0.1, tau_post=0.1, selector="score")
    sweep = detection.sensitivity(table, rollouts, loose, {"tau": [0.9, 0.1]})
    assert sweep.n_persistent.tolist() == [0, 2]  # the highest before is the lowest after
    assert sweep.n_types.tolist() == [0, 3] and sweep.jaccard.tolist() == [0, 1]


def test_an_answer_bearing_token_lies_wholly_in_a_gold_answer(tiny_tokenizer):
    table = detection.answer_types(tiny_tokenizer, ["12", "1", "131", "x"])
    shares = dict(zip(table.token_id, table.share, strict=True))
    ids = {text: tiny_tokenizer.convert_tokens_to_ids(text) for text in "123x{}"}
    expected = {ids["1"]: 3 / 4, ids["2"]: 1 / 4, ids["3"]: 1 / 4, ids["x"]: 1 / 4}
    assert shares == expected and table.token_id.is_monotonic_increasing
    assert detection.answer_types(tiny_tokenizer, []).empty
