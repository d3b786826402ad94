"""Biases, intervals and rock sets of estimators: of known losses, and of models."""

import corpora
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from rockstudy.config.overrides import from_parameters
from rockstudy.errors import StudyError
from rockstudy.intervals import cluster_mean
from rockstudy.models import loading
from rockstudy.rocks import approximations, detection, estimates, positions, why_hard
from rockstudy.rocks import steps as rocks_steps
from rockstudy.rocks.token_set import TokenSet
from rockstudy.rocks.token_table import token_table
from rockstudy.runs import Run, open_run
from rockstudy.sampling import rollout

KS = (1, 4)
NAMES = list(approximations.estimators(KS))


@pytest.fixture
def corpus():
    """Positions whose estimates are the full KL plus a known shift, and their rollouts."""
    tokens, rollouts = corpora.scored()
    made = tokens[["prompt_index", "sample_index", "position", "token_id"]].copy()
    for stage in approximations.STAGES:
        full = tokens[f"rkl_{stage}"].astype(np.float64)
        made[f"rkl_{stage}"] = full
        for i, name in enumerate(NAMES):
            made[f"{name}_{stage}"] = full + 0.1 * i  # k1 is the full one
        for name in approximations.SHARED:
            shared = {f"{name}_{k}_{stage}": (made.token_id < k) * 1.0 for k in KS}
            made = made.assign(**shared)
    return made, rollouts


def test_every_kind_has_every_cut_off_and_the_sampled_ones_none():
    found = approximations.estimators((1, 16))
    assert found["k1"] == ("k1", 0) and found["tail_16"] == ("tail", 16)
    assert len(found) == 2 + 4 * 2


def test_a_constant_shift_is_the_bias_and_the_error_of_every_scope(corpus):
    made, _ = corpus
    rocks, rng = TokenSet.of("rocks", [2, 5]), np.random.default_rng(0)
    found = approximations.biases(made, rocks, rng).set_index(
        ["stage", "scope", "measure", "estimator", "k"]
    )
    for stage in approximations.STAGES:
        for scope, rows in {
            "all positions": made, "rocks": made[made.token_id.isin(rocks.ids)]
        }.items():  # fmt: skip
            mean = rows[f"rkl_{stage}"].mean()
            at = (stage, scope)
            assert found.value[(*at, "mean", "full", 0)] == pytest.approx(mean)
            for i, which in enumerate(approximations.estimators(KS).values()):
                for measure, value in {
                    "mean": mean + 0.1 * i, "bias": 0.1 * i, "error": 0.1 * i,
                    "relative": 0.1 * i / mean,
                }.items():  # fmt: skip
                    row = found.loc[(*at, measure, *which)]
                    assert row.value == pytest.approx(value, abs=1e-9)
                    if measure in ("bias", "error"):  # paired: no prompt changes it
                        assert row.hi - row.lo == pytest.approx(0, abs=1e-9)
    whole = found.loc[("post", "all positions", "mean", "full", 0)]
    known = cluster_mean(made, "rkl_post", "prompt_index", np.random.default_rng(1), unit="prompts")
    assert whole.unit == "prompts" and whole.n == known.n
    np.testing.assert_allclose([whole.lo, whole.hi], [known.lo, known.hi], atol=0.02)


def test_types_have_the_bias_of_their_own_positions_and_students_interval(corpus):
    made, _ = corpus
    rng = np.random.default_rng(4)
    made["k3_post"] = made.rkl_post + rng.normal(0.2 * made.token_id, 1)
    found = approximations.type_biases(made)
    many = made.groupby("token_id").prompt_index.nunique()
    assert set(found.token_id) == set(many.index[many >= 3])  # a tenth of 30 prompts
    rows = found[found.estimator == "k3"].set_index("token_id")
    for token, some in made.groupby("token_id"):
        if token not in rows.index:
            continue
        error = some.k3_post - some.rkl_post
        assert rows["count"][token] == len(some)
        assert rows.bias[token] == pytest.approx(error.mean(), rel=1e-5)
        assert rows.error[token] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-5)
        assert rows.rkl[token] == pytest.approx(some.rkl_post.mean(), rel=1e-5)
    # where every prompt has one position, clusters are positions: Student's own interval
    alone = made.drop_duplicates(["token_id", "prompt_index"])
    rows = approximations.type_biases(alone)
    row = rows[rows.estimator == "k3"].iloc[0]
    error = alone[alone.token_id == row.token_id].eval("k3_post - rkl_post")
    known = stats.ttest_1samp(error, 0).confidence_interval(0.95)
    np.testing.assert_allclose([row.lo, row.hi], [known.low, known.high], rtol=1e-5)


def test_rock_sets_agree_where_scores_do_and_are_those_of_detection(corpus):
    made, rollouts = corpus
    made["tail_1_post"] = 3 - made.rkl_post.clip(upper=2.9)  # the other way round
    made["plain_1_post"] = 2 * made.rkl_post
    found = approximations.rock_sets(
        made, rollouts, corpora.SETTINGS, None, np.random.default_rng(0)
    ).set_index(["measure", "estimator", "k"])
    for which in (("k1", 0), ("plain", 1)):
        row = found.loc[("score", *which)]
        assert (row.value, row.lo, row.hi) == (1, 1, 1)
        assert found.value[("score_ctx", *which)] == 1

    def top(name, selector):
        losses = {f"rkl_{stage}": made[f"{name}_{stage}"] for stage in approximations.STAGES}
        settings = corpora.SETTINGS.model_copy(update={"selector": selector, "loss": "rkl"})
        return detection.detect(made.assign(**losses), rollouts, settings).top(settings.k)

    for selector in ("score", "score_ctx"):
        for name, which in approximations.estimators(KS).items():
            index = top("rkl", selector).jaccard(top(name, selector))
            assert found.value[(selector, *which)] == pytest.approx(index), name
    assert found.value[("score", "tail", 1)] < 1


def test_overlaps_are_means_over_positions_of_a_scope(corpus):
    made, _ = corpus
    rocks = TokenSet.of("rocks", [0, 3])
    found = approximations.overlaps(made, rocks, np.random.default_rng(0))
    rows = found.set_index(["stage", "scope", "measure", "k"]).value
    for k in KS:
        expected = (made.token_id < k).mean()
        assert rows["pre", "all positions", "overlap", k] == pytest.approx(expected)
        inside = made.token_id[made.token_id.isin(rocks.ids)]
        assert rows["post", "rocks", "mass_teacher", k] == pytest.approx((inside < k).mean())


def test_positions_of_models_have_the_token_tables_full_kl_and_its_order(tmp_path):
    pair = loading.tiny_pair()
    prompts = [[5, 9, 30], [7] * 11, [40, 41]]
    rollouts = rollout.generate(
        pair.student, pair.tokenizer, prompts, samples=2, max_new_tokens=9, batch_size=4, seed=0
    )
    other = loading.tiny_model("student", pair.tokenizer)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    models = {"teacher": pair.teacher, "pre": pair.student, "post": other}
    run = Run(from_parameters("tiny"), tmp_path)
    known = token_table(run, "base", rollouts, models.get, ["pre", "post"], inputs=dict).read()
    size = pair.teacher.config.vocab_size
    found = approximations.by_position(rollouts, np.arange(len(rollouts)), models, (2, size))
    keys = ["prompt_index", "sample_index", "position", "token_id"]
    pd.testing.assert_frame_equal(found[keys], known[keys])
    for stage in approximations.STAGES:
        whole = [f"{kind}_{size}" for kind in approximations.TOP]
        for name in ("rkl", *whole):
            np.testing.assert_allclose(found[f"{name}_{stage}"], known[f"rkl_{stage}"], atol=1e-5)
        k1 = found[f"k1_{stage}"]
        np.testing.assert_allclose(k1, known[f"log_ratio_{stage}"], atol=1e-5)
        assert (found[f"tail_2_{stage}"] <= found[f"rkl_{stage}"] + 1e-9).all()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(from_parameters("tiny"), tmp_path_factory.mktemp("runs") / "tiny")


def test_steps_measure_some_prompts_once_and_read_them_in_words(run):
    n = rocks_steps.measured(run).rollouts.n_prompts
    table = estimates.estimators(run, 10_000)
    assert set(table.n[table.unit == "prompts"]) == {n}  # all there are
    kept = run.held("estimates of 10000 prompts")
    estimates.top_overlap(run, 10_000)
    assert run.held("estimates of 10000 prompts") is kept
    full = rocks_steps.measured(run).tokens
    np.testing.assert_allclose(kept.rkl_post, full.rkl_post, atol=1e-5)
    told = estimates.reading_of_estimators(table)
    assert "after OPD is" in told and "Jaccard index of at least 0.8 for" in told
    assert "nan" not in told
    types = estimates.type_bias(run, 10_000)
    assert f"Of the {types.token_id.nunique()} token types" in estimates.reading_of_types(types)
    overlap = estimates.top_overlap(run, 10_000)
    told = estimates.reading_of_overlap(overlap)
    assert told.startswith("Over all positions both models share the most likely token at ")


def test_positions_are_measured_from_the_token_table_alone(run):
    table = why_hard.position(run)
    assert set(table.by) == set(positions.BINS)
    told = why_hard.reading_of_position(table)
    assert told.count("the mean loss of positions accounts for") == 2


def test_too_few_prompts_are_refused_before_a_model_is_loaded(tmp_path):
    fresh = Run(from_parameters("tiny"), tmp_path / "fresh")
    with pytest.raises(StudyError, match="prompts: an interval needs at least 2"):
        estimates._by_position(fresh, 1)
    assert not (tmp_path / "fresh").exists()


def test_a_reference_without_the_table_says_so_in_one_line(older_reference):
    older_reference("rocks.estimates*")
    table, told = estimates.if_measured(estimates.estimators, open_run("lab"), 3)
    assert table is None and "\n" not in told
    assert told.startswith("estimators of the loss: needs models, which the reference of lab")
