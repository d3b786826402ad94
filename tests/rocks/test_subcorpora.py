"""Sub-corpora against loops over draws, and coverage on fresh prompts against a known truth."""

import numpy as np
import pandas as pd
import pytest
from corpora import SETTINGS, scored

from rockstudy.errors import StudyError
from rockstudy.rocks import detection, subcorpora
from rockstudy.rocks.token_set import jaccard

SELECTORS = ("score", "score_ctx")


@pytest.fixture(scope="module")
def corpus():
    return scored()


@pytest.fixture(scope="module", params=SELECTORS)
def found(corpus, request):
    return detection.detect(*corpus, SETTINGS.model_copy(update={"selector": request.param}))


@pytest.fixture(scope="module")
def features(corpus, found):
    return detection.encode(corpus[1], found.occurrences, SETTINGS)


def first_types(corpus, found, kept, k):
    """The first k types of some prompts, from the definitions."""
    table, rollouts = corpus
    some = table[table.prompt_index.isin(kept)]
    size, loss = some.groupby("token_id").size(), some.groupby("token_id").rkl_post.sum()
    if found.settings.selector == "score":
        return loss.sort_values(ascending=False).index[:k]
    chosen = some[(some.rkl_pre >= found.tau_pre) & (some.rkl_post >= found.tau_post)]
    inside = detection.encode(rollouts, chosen, SETTINGS)
    rho = detection.contexts.consistency(inside, chosen.token_id.to_numpy(), SETTINGS.gamma)
    n_rock = chosen[rho >= SETTINGS.eta].groupby("token_id").size()
    return (loss * n_rock / size).dropna().sort_values(ascending=False).index[:k]


def stable(corpus, found, features, sizes=(5, 15, 29), draws=6, ks=(1, 3, 6)):
    rng = np.random.default_rng(1)
    return subcorpora.stability(corpus[0], found, features, sizes, ks, draws, rng)


def test_sub_corpora_are_scored_anew_with_the_thresholds_of_the_whole(corpus, found, features):
    prompts, ids = corpus[0].prompt_index.unique(), found.types.token_id.to_numpy()
    kept = np.random.default_rng(1).random((4, len(prompts))) < 0.4
    places = subcorpora.ranks(corpus[0], found, features, kept)
    for row, some in zip(places, kept, strict=True):
        for k in (1, 3, 6):
            assert set(ids[row < k]) == set(first_types(corpus, found, prompts[some], k))


def test_the_product_of_matrices_gives_the_ranks_of_the_loop(corpus, features, found):
    """A score of another name with the values of R takes the loop."""
    plain = found.by("score")
    kept = np.random.default_rng(2).random((5, corpus[0].prompt_index.nunique())) < 0.5
    fast = subcorpora.ranks(corpus[0], plain, features, kept)
    prompts = np.unique(corpus[0].prompt_index)
    for row, some in zip(fast, kept, strict=True):
        types = detection.of_prompts(corpus[0], plain, features, prompts[some])
        places = found.types.token_id.searchsorted(types.token_id)
        assert row[places].tolist() == (types["rank"] - 1).tolist()
        assert (np.delete(row, places) == len(row)).all()


def test_agreement_is_the_jaccard_index_of_the_first_types():
    rng = np.random.default_rng(3)
    first, second = (np.argsort(rng.random((4, 9)), axis=1) for _ in range(2))
    second[:, :3] = 9  # types without a score
    found = subcorpora.agreement(first, second, [1, 4, 9])
    for row, (a, b) in zip(found, zip(first, second, strict=True), strict=True):
        for index, k in zip(row, (1, 4, 9), strict=True):
            assert index == jaccard(np.flatnonzero(a < k), np.flatnonzero(b < k))
    assert np.isnan(subcorpora.agreement(np.full((1, 3), 3), np.full(3, 3), [2])).all()


def test_draws_repeat_with_the_seed_and_larger_sub_corpora_agree_more(corpus, found, features):
    first, again = stable(corpus, found, features), stable(corpus, found, features)
    pd.testing.assert_frame_equal(first, again)
    table = stable(corpus, found, features, draws=12)
    sizes = table.groupby("kind").n.unique().map(list).to_dict()
    assert sizes == {"nested": [5, 15, 29], "disjoint": [5, 15], "average": [0], "fall": [0]}
    nested = table[table.kind == "nested"].groupby("n").jaccard.mean()
    assert nested[5] < nested[15] < nested[29] <= 1
    disjoint = table[table.kind == "disjoint"].groupby("n").jaccard.mean()
    assert (disjoint < nested[disjoint.index]).all()  # nothing is shared by construction
    assert (table.lo <= table.jaccard).all() and (table.jaccard <= table.hi).all()


def test_the_average_is_over_the_nested_sizes_and_the_fall_starts_at_the_studys_k(
    corpus, found, features
):
    table = stable(corpus, found, features).set_index(["kind", "k"]).jaccard
    for k in (1, 3, 6):
        assert table["average", k].item() == pytest.approx(table["nested", k].mean())
        fall = table["average", SETTINGS.k].item() - table["average", k].item()
        assert table["fall", k].item() == pytest.approx(fall)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sizes": [30]}, "sizes: must be from 1 to 29"),
        ({"sizes": []}, "sizes: .* got none"),
        ({"ks": [13]}, "ks: must be from 1 to 12"),
    ],
)
def test_sub_corpora_must_be_smaller_than_the_corpus(corpus, found, features, given, message):
    with pytest.raises(StudyError, match=message):
        stable(corpus, found, features, **given)


def test_halves_measure_every_prompt_on_the_sets_of_both_halves(corpus, found, features):
    """Own and fresh coverage, one draw at a time."""
    tokens, prompts = corpus[0], np.unique(corpus[0].prompt_index)
    table = subcorpora.halves(tokens, found, features, [3], 4, np.random.default_rng(5))
    drawn = subcorpora._pair(len(prompts), len(prompts) // 2, 4, np.random.default_rng(5))[0]
    loss = tokens.rkl_post.astype(float)
    own, fresh, indices = [], [], []
    for mine in drawn:
        sides = [prompts[mine], prompts[~mine]]
        sets = [set(first_types(corpus, found, side, 3)) for side in sides]
        indices.append(jaccard(*sets))
        for side, chosen, other in zip(sides, sets, sets[::-1], strict=True):
            inside = tokens.prompt_index.isin(side)
            of_side = loss[inside].sum()
            own.append(loss[inside & tokens.token_id.isin(chosen)].sum() / of_side)
            fresh.append(loss[inside & tokens.token_id.isin(other)].sum() / of_side)
    rows = table.set_index("measure")
    whole = loss[tokens.token_id.isin(found.top(3).ids)].sum()
    expected = {"own": np.mean(own), "fresh": np.mean(fresh), "whole": whole / loss.sum()}
    for name, value in expected.items():
        assert rows.value[name] == pytest.approx(value)
        assert rows.lo[name] < rows.value[name] < rows.hi[name]
    assert rows.value["disjoint"] == pytest.approx(np.mean(indices))
    assert rows.value["fresh"] < rows.value["own"]


@pytest.mark.parametrize("spread", [0.0, 0.9])
def test_fresh_coverage_is_unbiased_and_its_interval_holds_the_truth(spread):
    """Prompts of a known population, whose types carry known expected losses.

    The truth is the expected coverage, in the population, of a set that half of the prompts chose.
    """
    rng, repeats, n, k = np.random.default_rng(7), 150, 60, 8
    expected = np.linspace(1, 2, 40) / np.arange(1, 41) ** spread
    frames, truths = [], []
    found = _study(len(expected))
    for _ in range(repeats):
        loss = rng.gamma(0.3, expected / 0.3, (n, len(expected)))
        tokens = _table(loss)
        frame = subcorpora.halves(tokens, found(loss), None, [k], 30, rng)
        frames.append(frame.set_index("measure"))
        chosen = np.argsort(-loss[: n // 2].sum(0))[:k]
        truths.append(expected[chosen].sum() / expected.sum())
    truth = np.mean(truths)
    fresh, own = (np.array([one.value[name] for one in frames]) for name in ("fresh", "own"))
    error = np.std(fresh) / np.sqrt(repeats) + np.std(truths) / np.sqrt(repeats)
    assert abs(fresh.mean() - truth) < 4 * error
    assert own.mean() > truth + 4 * error  # the winner's curse
    held = np.mean([one.lo["fresh"] < truth < one.hi["fresh"] for one in frames])
    assert held > 0.95 - 4 * np.sqrt(0.95 * 0.05 / repeats)


def _table(loss):
    prompt, token = np.indices(loss.shape).reshape(2, -1)
    return pd.DataFrame({"prompt_index": prompt, "token_id": token, "rkl_post": loss.ravel()})


def _study(size):
    def found(loss):
        types = pd.DataFrame({"token_id": range(size), "score": loss.sum(0), "count": len(loss)})
        types["rank"] = types.score.rank(ascending=False).astype(int)
        settings = SETTINGS.model_copy(update={"selector": "score"})
        return detection.Detection(types, pd.DataFrame(), 0.0, 0.0, settings)

    return found
