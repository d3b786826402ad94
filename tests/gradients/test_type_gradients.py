"""Gradients of token types against autograd on full logits and dense matrices."""

import itertools

import numpy as np
import pytest
import torch

from rockstudy.errors import StudyError
from rockstudy.gradients.type_gradients import (
    _ROWS,
    Positions,
    between,
    half_samples,
    square_each,
    type_gradients,
)
from rockstudy.models.divergence import Head

N, V, FOLDS = 200, 60, 4


def _random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def heads():
    return Head(_random(1, V, 7), _random(2, V), logit_scale=0.7), Head(_random(3, V, 9))


@pytest.fixture(scope="module")
def positions():
    rng = np.random.default_rng(0)
    token = rng.zipf(1.5, N) % 12
    fold = rng.integers(0, FOLDS, N)
    fold[token == 5] = 2  # a type that one fold has alone
    return Positions(_random(4, N, 7).numpy(), _random(5, N, 9).numpy(), token, fold)


def autograd(positions, heads):
    """Gradient of the reverse KL at every position, to the logits (N, V) and the state (N, H)."""
    student, teacher = heads
    h = torch.from_numpy(positions.student).double().requires_grad_()
    z = student.logit_scale * (h @ student.weight.double().T + student.bias.double())
    z.retain_grad()
    z_q = torch.from_numpy(positions.teacher).double() @ teacher.weight.double().T
    log_p, log_q = z.log_softmax(-1), z_q.log_softmax(-1)
    (log_p.exp() * (log_p - log_q)).sum().backward()
    return {"logit": z.grad.numpy(), "hidden": h.grad.numpy()}


def dense(positions, gradients, kept):
    """Norms, cosines and contributions of each type over some positions, by full matrices."""
    ids = np.unique(positions.token_id)
    mine = [kept & (positions.token_id == t) for t in ids]
    n = np.array([m.sum() for m in mine])
    found = {}
    for space, g in gradients.items():
        mean = np.array([g[m].mean(0) if m.any() else np.full(g.shape[1], np.nan) for m in mine])
        norm = np.linalg.norm(mean, axis=1)
        balanced, total = np.nansum(mean, 0), g[kept].sum(0)
        cos = {
            name: mean @ one / (norm * np.linalg.norm(one))
            for name, one in {"cos_balanced": balanced, "cos_total": total}.items()
        }
        values = {"norm": norm, **cos, "contrib": n * norm * cos["cos_balanced"]}
        others = balanced - np.nan_to_num(mean)
        values["cos_others"] = (mean * others).sum(1) / (norm * np.linalg.norm(others, axis=1))
        values["square"] = [mean_of_pairs(g[m], positions.fold[m]) for m in mine]
        found |= {f"{name}_{space}": value for name, value in values.items()}
    squares = (gradients["logit"] ** 2).sum(1)
    return found | {"mean_square_logit": [squares[m].mean() if m.any() else np.nan for m in mine]}


def mean_of_pairs(g, fold):
    """Mean product of all pairs of different folds, one by one."""
    pairs = itertools.permutations(range(len(g)), 2)
    products = [g[i] @ g[j] for i, j in pairs if fold[i] != fold[j]]
    return np.mean(products) if products else np.nan


def test_norms_cosines_and_contributions_equal_autograd_in_both_spaces(positions, heads):
    found = type_gradients(positions, *heads)
    expected = dense(positions, autograd(positions, heads), np.ones(N, bool))
    assert found.types.token_id.tolist() == sorted(set(positions.token_id))
    assert found.types["count"].sum() == N
    for name, values in expected.items():
        np.testing.assert_allclose(found.types[name], values, rtol=2e-4, atol=1e-6, err_msg=name)


def test_a_replicate_is_the_corpus_of_its_folds(positions, heads):
    keep = half_samples(FOLDS, 6, np.random.default_rng(0))
    found = type_gradients(positions, *heads, keep=keep)
    gradients = autograd(positions, heads)
    for row, folds in enumerate(keep):
        expected = dense(positions, gradients, folds[positions.fold])
        for name, values in expected.items():
            np.testing.assert_allclose(
                found.replicates[name][row], values, rtol=1e-3, atol=1e-5, err_msg=name
            )
    place = found.types.token_id.searchsorted(5)
    absent = np.isnan(found.replicates["norm_logit"][:, place])
    assert (absent == ~keep[:, 2]).all()
    assert np.isnan(found.types.square_logit[place])


def test_without_the_folds_the_unbiased_square_is_the_mean_of_all_pairs(positions, heads):
    types, g = type_gradients(positions, *heads).types, autograd(positions, heads)["logit"]
    mine = [g[positions.token_id == t] for t in types.token_id]
    expected = [mean_of_pairs(some, range(len(some))) for some in mine]
    np.testing.assert_allclose(square_each(types), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("n", [2, 3])
def test_over_all_samples_of_a_population_the_unbiased_square_is_that_of_its_mean(n):
    population = np.random.default_rng(0).normal(size=(5, 3))
    samples = population[list(itertools.product(range(5), repeat=n))]  # (5^n, n, 3)
    whole, parts = (samples.sum(1) ** 2).sum(-1), (samples**2).sum((1, 2))
    mu = (population.mean(0) ** 2).sum()
    assert between(whole, parts, n, n).mean() == pytest.approx(mu)
    assert (whole / n**2).mean() == pytest.approx(mu + population.var(0).sum() / n)


@pytest.mark.parametrize("n", [2, 5, 50])
def test_the_unbiased_square_centres_on_the_truth_for_any_count_and_the_plain_one_does_not(n):
    rng, draws = np.random.default_rng(n), 20_000
    mu, sd = np.array([0.3, -0.2, 0.0, 0.1]), np.array([1.0, 0.5, 2.0, 0.3])
    mean = mu + rng.normal(size=(draws, 4)) * sd / np.sqrt(n)  # sufficient for |S|^2
    spread = (rng.chisquare(n - 1, size=(draws, 4)) * sd**2).sum(1)  # sum_i |g_i - mean|^2
    plain = (mean**2).sum(1)
    unbiased = between(n**2 * plain, spread + n * plain, n, n)
    truth, error = mu @ mu, unbiased.std() / np.sqrt(draws)
    assert abs(unbiased.mean() - truth) < 4 * error
    assert plain.mean() - truth == pytest.approx(sd @ sd / n, abs=5 * plain.std() / np.sqrt(draws))


def test_products_of_one_prompt_bias_the_square_that_ignores_prompts():
    rng, draws, prompts, each = np.random.default_rng(0), 4_000, 6, 5
    shared = rng.normal(size=(draws, prompts, 1, 3))  # what occurrences of a prompt have in common
    g = 0.4 + shared + rng.normal(size=(draws, prompts, each, 3))
    whole = (g.sum((1, 2)) ** 2).sum(-1)
    n, truth = prompts * each, 3 * 0.4**2
    clustered = between(whole, (g.sum(2) ** 2).sum((1, 2)), n, prompts * each**2)
    alone = between(whole, (g**2).sum((1, 2, 3)), n, n)
    assert abs(clustered.mean() - truth) < 4 * clustered.std() / np.sqrt(draws)
    alike = 3 * (each - 1) / (n - 1)  # their covariance, times the share of pairs of one prompt
    assert alone.mean() - truth == pytest.approx(alike, abs=4 * alone.std() / np.sqrt(draws))


def test_a_type_that_is_alone_has_no_others_and_one_occurrence_no_pairs(heads):
    one = Positions(
        _random(4, 1, 7).numpy(), _random(5, 1, 9).numpy(), np.array([3]), np.array([0])
    )
    types = type_gradients(one, *heads).types
    nothing = ["square_logit", "square_hidden", "cos_others_logit", "cos_others_hidden"]
    assert types[nothing].isna().to_numpy().all() and np.isnan(square_each(types)).all()
    assert types.mean_square_logit[0] == pytest.approx(types.norm_logit[0] ** 2, rel=1e-5)


def test_half_samples_keep_half_of_the_folds_each_as_often():
    keep = half_samples(20, 4_000, np.random.default_rng(0))
    assert (keep.sum(1) == 10).all()
    assert np.allclose(keep.mean(0), 0.5, atol=0.03)
    assert half_samples(1, 3, np.random.default_rng(0)).sum() == 0


@pytest.mark.parametrize("columns", [1, 7, V])
def test_the_budget_does_not_change_the_result(positions, heads, columns):
    expected = type_gradients(positions, *heads).types
    n_types = len(expected)
    budget = columns * 4 * ((FOLDS + 8) * n_types + 6 * _ROWS)
    found = type_gradients(positions, *heads, budget=budget).types
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_the_order_and_the_tiles_of_positions_do_not_matter(positions, heads, monkeypatch):
    expected = type_gradients(positions, *heads).types
    order = np.random.default_rng(1).permutation(N)
    mixed = Positions(*(getattr(positions, f)[order] for f in Positions.__dataclass_fields__))
    monkeypatch.setattr("rockstudy.gradients.type_gradients._ROWS", 13)
    found = type_gradients(mixed, *heads).types
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_contributions_add_up_to_the_total_gradient_along_the_balanced_one(positions, heads):
    types = type_gradients(positions, *heads).types
    gradients = autograd(positions, heads)["logit"]
    mean = [gradients[positions.token_id == t].mean(0) for t in types.token_id]
    balanced = np.sum(mean, 0)
    along = gradients.sum(0) @ balanced / np.linalg.norm(balanced)
    assert types.contrib_logit.sum() == pytest.approx(along, rel=1e-4)


def test_equal_models_have_no_gradient(heads):
    student, _ = heads
    states = _random(4, 20, 7).numpy()
    same = Positions(states, states, np.arange(20) % 3, np.zeros(20, int))
    found = type_gradients(same, student, student)
    assert found.types.norm_logit.max() < 1e-5
    assert found.replicates["norm_logit"].shape == (0, 3)  # none was asked for


def test_a_budget_too_small_says_the_least_that_works(positions, heads):
    with pytest.raises(StudyError, match=r"budget: must be at least (\d+) bytes .*; got 100") as e:
        type_gradients(positions, *heads, budget=100)
    least = int(str(e.value).split("at least ")[1].split(" ")[0])
    assert len(type_gradients(positions, *heads, budget=least).types)


def test_states_that_are_not_finite_are_named(positions, heads):
    broken = positions.teacher.copy()
    broken[17, 2] = np.inf
    bad = Positions(positions.student, broken, positions.token_id, positions.fold)
    with pytest.raises(StudyError, match=r"hidden states of the teacher: .* at position 17"):
        type_gradients(bad, *heads)


def test_no_positions_and_a_soft_capped_student_are_refused(positions, heads):
    empty = Positions(*(getattr(positions, f)[:0] for f in Positions.__dataclass_fields__))
    with pytest.raises(StudyError, match="at least one position"):
        type_gradients(empty, *heads)
    with pytest.raises(StudyError, match="soft-capped"):
        type_gradients(positions, Head(heads[0].weight, softcap=3.0), heads[1])
