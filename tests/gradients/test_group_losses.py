"""Groups, medians and the split-sample control, on data whose truth is known."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from rockstudy.errors import StudyError
from rockstudy.gradients import group_losses
from rockstudy.gradients.group_losses import PromptSums

COLUMNS = {"early": "rkl_early", "late": "rkl_post"}
ROCKS = [0, 1, 2, 3, 4]


def corpus(change: float, seed: int = 0, n_prompts: int = 80, n_types: int = 150) -> pd.DataFrame:
    """Each type has its own mean loss; late it is that times `change`; occurrences are noisy."""
    rng = np.random.default_rng(seed)
    mean = rng.gamma(2.0, 0.3, n_types)
    weights = 1 / np.arange(1, n_types + 1)
    token = rng.choice(n_types, 40 * n_prompts, p=weights / weights.sum())
    noise = rng.exponential(size=(2, len(token)))
    return pd.DataFrame(
        {
            "prompt_index": np.repeat(np.arange(n_prompts), 40),
            "token_id": token,
            "rkl_early": mean[token] * noise[0],
            "rkl_post": change * mean[token] * noise[1],
        }
    )


@pytest.fixture(scope="module")
def still():
    return PromptSums.of(corpus(change=1.0), COLUMNS)


def test_sums_and_means_are_those_of_pandas(still):
    tokens = corpus(change=1.0)
    table = still.table().set_index("token_id")
    grouped = tokens.groupby("token_id")
    assert table["count"].to_dict() == grouped.size().to_dict()
    assert np.allclose(table.early, grouped.rkl_early.mean())
    half = still.table(np.arange(40)).set_index("token_id")
    some = tokens[tokens.prompt_index < 40].groupby("token_id").rkl_post.mean()
    assert np.allclose(half.late.dropna(), some)
    assert half["count"][half.late.isna()].eq(0).all()


def split(sums: PromptSums, k: int, draws: int, seed: int) -> pd.DataFrame:
    made = group_losses.split_sample(sums, k, draws, np.random.default_rng(seed))
    return group_losses.split_summary(made).set_index(["group", "half"])


def test_where_nothing_changed_choosing_and_measuring_on_the_same_prompts_finds_changes():
    relative = []
    for seed in range(4):
        table = split(PromptSums.of(corpus(1.0, seed, n_prompts=160), COLUMNS), 20, 16, seed)
        relative.append(table.relative)
        fresh = table.xs("other", level="half")
        assert (fresh.relative_lo < 0).all() and (fresh.relative_hi > 0).all()
        assert table.change_hi["high-KL", "same"] < 0
    mean = pd.concat(relative, axis=1).mean(axis=1)
    assert mean["high-KL", "same"] < -0.2 and mean["rock", "same"] > 0.03
    assert abs(mean["high-KL", "other"]) < 0.08 and abs(mean["rock", "other"]) < 0.03


def test_where_the_loss_halves_both_comparisons_show_it():
    table = split(PromptSums.of(corpus(0.5, n_prompts=160), COLUMNS), 20, 40, 0)
    assert (table.change_hi[["rock", "high-KL"]] < 0).all()
    assert table.relative["rock", "other"] == pytest.approx(-0.5, abs=0.1)
    assert table.relative_lo["rock - high-KL", "other"] < 0  # both halve
    assert table.relative_hi["rock - high-KL", "other"] > 0


def test_the_summary_is_that_of_the_draws(still):
    draws = group_losses.split_sample(still, 5, 12, np.random.default_rng(0))
    table = group_losses.split_summary(draws).set_index(["group", "half"])
    by = draws.set_index(["group", "half", "draw"]).relative.sort_index()
    apart = by["rock", "other"] - by["high-KL", "other"]
    row = table.loc["rock - high-KL", "other"]
    assert (row.relative, row.relative_hi) == pytest.approx((apart.mean(), apart.quantile(0.975)))
    assert table.early["rock", "same"] == pytest.approx(
        draws.query("group == 'rock' and half == 'same'").early.mean()
    )


def test_rocks_of_a_half_are_its_types_with_the_largest_sum_of_late_losses(still):
    sums = corpus(1.0).groupby("token_id").rkl_post.sum()
    assert set(group_losses.highest_score(still.table(), 7)) == set(sums.nlargest(7).index)


def test_halves_share_no_prompt(still, monkeypatch):
    seen = []
    real = PromptSums.table
    monkeypatch.setattr(PromptSums, "table", lambda s, p=None: (seen.append(p), real(s, p))[1])
    group_losses.split_sample(still, 5, 3, np.random.default_rng(0))
    assert len(seen) == 6
    for first, second in zip(seen[::2], seen[1::2], strict=True):
        assert not set(first) & set(second) and len(first) + len(second) == 80


def test_groups_do_not_overlap_the_rocks_and_have_the_sizes_of_the_paper(still):
    types = still.table()
    chosen = group_losses.groups(types, "early", ROCKS, np.random.default_rng(0))
    assert tuple(chosen) == group_losses.GROUPS
    assert [len(ids) for ids in chosen.values()] == [5, 5, 10, 5]
    together = np.concatenate(list(chosen.values()))
    assert len(set(together)) == len(together)
    able = types[(types["count"] >= 2) & ~types.token_id.isin(ROCKS)]
    assert set(chosen["high-KL"]) == set(able.nlargest(5, "early").token_id)


def test_a_group_that_comes_out_empty_is_named():
    types = pd.DataFrame({"token_id": [0, 1, 2, 3], "count": [9, 9, 1, 1], "early": [1.0] * 4})
    with pytest.raises(StudyError, match="group high-KL: must have at least one of 4 types"):
        group_losses.groups(types, "early", [0, 1], np.random.default_rng(0))


def test_medians_have_intervals_over_prompts_that_hold_the_truth():
    inside = 0
    for seed in range(30):
        sums = PromptSums.of(corpus(0.7, seed), COLUMNS)
        ids = {"some": np.array([0, 1, 2])}
        row = group_losses.medians(sums, ids, np.random.default_rng(seed)).iloc[0]
        table = sums.table().set_index("token_id").loc[[0, 1, 2]]
        assert row.change == pytest.approx((table.late - table.early).median())
        assert row.wilcoxon_p == pytest.approx(
            scipy.stats.wilcoxon(table.late - table.early).pvalue
        )
        fall = (table.late - table.early) < 0
        assert row.n_fall == fall.sum()
        assert row.relative == pytest.approx(table.late.median() / table.early.median() - 1)
        assert row.relative_lo < row.relative < row.relative_hi
        truth = np.random.default_rng(seed).gamma(2.0, 0.3, 150)[:3]
        inside += row.early_lo <= np.median(truth) <= row.early_hi
    assert inside >= 24


def test_losses_along_training_pool_seeds_and_occurrences():
    types = pd.DataFrame(
        {
            "seed": [0, 1, 0, 0],
            "step": [5, 5, 10, 5],
            "token_id": [1, 1, 1, 2],
            "count": [1, 3, 2, 9],
            "rkl_sum": [1.0, 3.0, 1.0, 9.9],
        }
    )
    table = group_losses.along_training(types, {"rock": np.array([1]), "random": np.array([2])})
    assert table.group.tolist() == ["rock", "rock", "random"]
    assert table.rkl.tolist() == pytest.approx([1.0, 0.5, 1.1])


def test_too_few_prompts_cannot_be_halved():
    sums = PromptSums.of(corpus(1.0).query("prompt_index < 3"), COLUMNS)
    with pytest.raises(StudyError, match="at least 4 to be cut in two halves; got 3"):
        group_losses.split_sample(sums, 5, 2, np.random.default_rng(0))
