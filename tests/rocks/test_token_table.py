"""The token table against full logits row by row, its shards, and the type table."""

import numpy as np
import pandas as pd
import pytest
import torch

from rockstudy.config.overrides import from_parameters
from rockstudy.errors import StudyError
from rockstudy.models import loading
from rockstudy.rocks import token_table as module
from rockstudy.rocks.token_set import TokenSet
from rockstudy.rocks.token_table import TokenTable, token_table, type_table
from rockstudy.runs import Run
from rockstudy.sampling import rollout
from rockstudy.sampling.rollout import Rollouts


@pytest.fixture(scope="module")
def pair():
    return loading.tiny_pair()


@pytest.fixture(scope="module")
def rollouts(pair):
    prompts = [[5, 9, 30], [7] * 11, [40, 41]]
    made = rollout.generate(
        pair.student, pair.tokenizer, prompts, samples=3, max_new_tokens=13, batch_size=4, seed=0
    )
    mask = made.mask.copy()
    mask[4, 5:] = False  # completions of different lengths
    mask[7, 1:] = False
    return Rollouts(
        made.prompt_ids, made.completion_ids, mask, made.prompt_index, made.sample_index,
        made.stopped,
    )  # fmt: skip


@pytest.fixture(scope="module")
def checkpoints(pair):
    other = loading.tiny_model("student", pair.tokenizer)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    return {"pre": pair.student, "post": other}


def table(folder, rollouts, pair, checkpoints, **sizes) -> TokenTable:
    run, models = Run(from_parameters("tiny"), folder), {"teacher": pair.teacher, **checkpoints}
    with pytest.MonkeyPatch.context() as patch:
        for name, size in sizes.items():
            patch.setattr(module, name.upper(), size)
        return token_table(run, "base", rollouts, models.get, [*checkpoints], inputs=dict)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, rollouts, pair, checkpoints):
    return table(tmp_path_factory.mktemp("run"), rollouts, pair, checkpoints).read()


def full_log_probs(model, prompt, completion):
    """Log-probabilities (T, V) of the predictions of each completion token, one row, no padding."""
    ids = torch.tensor([[*prompt, *completion]])
    with torch.no_grad():
        logits = model(ids).logits[0].double().log_softmax(-1)
    return logits[len(prompt) - 1 : -1]


def test_every_value_equals_that_of_full_logits_one_rollout_at_a_time(
    whole, rollouts, pair, checkpoints
):
    keys = ["prompt_index", "sample_index"]
    for row in range(len(rollouts)):
        prompt = rollouts.prompt_ids[rollouts.prompt_index[row]].tolist()
        ids = rollouts.completion_ids[row][rollouts.mask[row]].tolist()
        mine = (whole[keys] == [rollouts.prompt_index[row], rollouts.sample_index[row]]).all(axis=1)
        got = whole[mine]
        assert got.token_id.tolist() == ids
        assert got.position.tolist() == list(range(len(ids)))
        q = full_log_probs(pair.teacher, prompt, ids)
        target = torch.tensor(ids)[:, None]
        assert np.allclose(got.entropy_teacher, -(q.exp() * q).sum(-1), atol=1e-5)
        assert got.rank_teacher.tolist() == (q > q.gather(1, target)).sum(1).tolist()
        for name, model in checkpoints.items():
            p = full_log_probs(model, prompt, ids)
            expected = {
                "rkl": (p.exp() * (p - q)).sum(-1),
                "fkl": (q.exp() * (q - p)).sum(-1),
                "entropy": -(p.exp() * p).sum(-1),
                "log_ratio": (p - q).gather(1, target).squeeze(1),
            }
            for statistic, value in expected.items():
                assert np.allclose(got[f"{statistic}_{name}"], value, atol=1e-5), statistic


def test_the_table_has_a_row_for_every_completion_token_and_its_types_are_fixed(whole, rollouts):
    assert len(whole) == rollouts.n_tokens
    assert whole.token_id.tolist() == rollouts.completion_ids[rollouts.mask].tolist()
    kinds = {str(whole[name].dtype) for name in whole.columns[4:-1]}
    assert kinds == {"float32"}
    assert (whole[["rkl_pre", "rkl_post"]] >= 0).all(axis=None)


@pytest.mark.parametrize(
    "sizes", [{"batch_tokens": 1}, {"shard_tokens": 1}, {"batch_tokens": 40, "shard_tokens": 30}]
)
def test_batches_and_shards_do_not_change_the_table(
    tmp_path, whole, rollouts, pair, checkpoints, sizes
):
    other = table(tmp_path, rollouts, pair, checkpoints, **sizes).read()
    pd.testing.assert_frame_equal(other, whole, rtol=1e-4, atol=1e-5)


def test_a_killed_pass_goes_on_from_its_last_shard(
    tmp_path, rollouts, pair, checkpoints, monkeypatch
):
    real, done = module._check_finite, []  # the last thing that is done to each shard

    def killed_after_two(frame):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(real(frame))

    monkeypatch.setattr(module, "_check_finite", killed_after_two)
    with pytest.raises(KeyboardInterrupt):
        table(tmp_path, rollouts, pair, checkpoints, shard_tokens=30)
    counted = []
    monkeypatch.setattr(module, "_check_finite", counted.append)
    resumed = table(tmp_path, rollouts, pair, checkpoints, shard_tokens=30)
    assert len(counted) == resumed.n_shards - 2 > 0
    monkeypatch.setattr(module, "_check_finite", real)
    straight = table(tmp_path / "other", rollouts, pair, checkpoints, shard_tokens=30)
    assert resumed.hash == straight.hash and resumed.read().equals(straight.read())


@pytest.mark.parametrize("damage", ["removed", "truncated"])
def test_a_shard_that_is_gone_or_cut_is_named(tmp_path, rollouts, pair, checkpoints, damage):
    made = table(tmp_path, rollouts, pair, checkpoints, shard_tokens=30)
    file = made.path / "shard-00001.parquet"
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-20])
    for again in (made.read, lambda: table(tmp_path, rollouts, pair, checkpoints, shard_tokens=30)):
        with pytest.raises(StudyError, match="shard-00001") as error:
            again()
        assert "\n" not in str(error.value)


def test_checkpoints_of_another_vocabulary_are_refused(tmp_path, rollouts, pair):
    other = loading.tiny_model("student", pair.tokenizer)
    other.resize_token_embeddings(len(pair.tokenizer) + 8)
    with pytest.raises(StudyError, match=r"checkpoint post: must share the teacher's vocabulary"):
        table(tmp_path, rollouts, pair, {"pre": pair.student, "post": other})


def test_values_that_are_not_finite_are_refused_with_their_place(tmp_path, rollouts, pair):
    broken = loading.tiny_model("student", pair.tokenizer)
    with torch.no_grad():
        broken.get_input_embeddings().weight[7] = torch.nan
    with pytest.raises(StudyError, match=r"rkl_post: must be finite .* at prompt \d+, sample"):
        table(tmp_path, rollouts, pair, {"post": broken})
    assert not list(tmp_path.rglob("*.parquet"))


def test_no_completion_tokens_are_refused(tmp_path, rollouts, pair, checkpoints):
    empty = Rollouts(
        rollouts.prompt_ids, rollouts.completion_ids, np.zeros_like(rollouts.mask),
        rollouts.prompt_index, rollouts.sample_index, rollouts.stopped,
    )  # fmt: skip
    with pytest.raises(StudyError, match="at least one completion token"):
        table(tmp_path, empty, pair, checkpoints)


# The type table.


@pytest.fixture(scope="module")
def occurrences():
    rng = np.random.default_rng(0)
    n = 3_000
    prompt = rng.integers(0, 60, n)
    effect = rng.normal(size=60)[prompt]  # occurrences of one prompt are alike
    token = rng.choice([3, 8, 9, 40], n, p=[0.6, 0.3, 0.098, 0.002])
    return pd.DataFrame(
        {"prompt_index": prompt, "token_id": token, "rkl_post": np.exp(effect + rng.normal(size=n))}
    )


def test_counts_and_means_are_those_of_pandas(occurrences):
    types = type_table(occurrences, ["rkl_post"]).set_index("token_id")
    grouped = occurrences.groupby("token_id")
    assert types["count"].to_dict() == grouped.size().to_dict()
    assert types.n_prompts.to_dict() == grouped.prompt_index.nunique().to_dict()
    assert np.allclose(types.rkl_post_mean, grouped.rkl_post.mean())


def test_the_standard_error_is_that_of_a_bootstrap_over_prompts(occurrences):
    types = type_table(occurrences, ["rkl_post"]).set_index("token_id")
    rng = np.random.default_rng(1)
    for token in (3, 8, 9):
        one = occurrences[occurrences.token_id == token].groupby("prompt_index").rkl_post
        sums, counts = one.sum().to_numpy(), one.size().to_numpy()
        w = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=20_000)
        spread = ((w @ sums) / (w @ counts)).std()
        assert types.rkl_post_se[token] == pytest.approx(spread, rel=0.06)
        naive = occurrences[occurrences.token_id == token].rkl_post.sem()
        assert types.rkl_post_se[token] > 1.2 * naive or token == 9


def test_a_type_of_one_prompt_has_no_standard_error():
    one = pd.DataFrame({"prompt_index": [1, 1], "token_id": [5, 5], "rkl_post": [1.0, 2.0]})
    assert type_table(one, ["rkl_post"]).rkl_post_se.isna().all()


def test_no_positions_have_no_type_table():
    with pytest.raises(StudyError, match="at least one position"):
        type_table(pd.DataFrame({"prompt_index": [], "token_id": []}), [])


# Sets.


def test_a_set_is_sorted_compared_and_applied():
    a, b = TokenSet.of("a", [7, 3, 3]), TokenSet.of("b", np.array([3, 9, 7]))
    assert a.ids == (3, 7) and len(a) == 2
    assert a.jaccard(b) == pytest.approx(2 / 3)
    assert a.mask(np.array([[3, 4], [7, 0]])).tolist() == [[True, False], [True, False]]
    assert np.isnan(TokenSet.of("c", []).jaccard(TokenSet.of("d", [])))


def test_ids_in_any_order_need_the_constructor_of():
    with pytest.raises(ValueError, match="sorted and unique"):
        TokenSet("a", (2, 1))


def test_the_store_keeps_the_shards_as_parquet(tmp_path, rollouts, pair, checkpoints):
    made = table(tmp_path, rollouts, pair, checkpoints, shard_tokens=30)
    assert len(list(made.path.glob("*.parquet"))) == made.n_shards > 1
    swapped = dict(zip(checkpoints, [*checkpoints.values()][::-1], strict=True))
    other = table(tmp_path / "other", rollouts, pair, swapped, shard_tokens=30)
    assert other.hash != made.hash
    assert not [p for p in tmp_path.rglob("*") if "partial" in p.name]
