"""One step of each optimiser, its effect on every position, and how gradients of groups cancel.

Against autograd, torch's own optimisers, closed forms and simulations with a known truth.
"""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import log_softmax

from rockstudy.beyond.persistence import coherence, readings, suppression
from rockstudy.beyond.persistence import texts as module
from rockstudy.beyond.persistence.texts import FixedTexts
from rockstudy.beyond.persistence.updates import BETAS, EPS, Moments, clipped, steps_of
from rockstudy.errors import StudyError
from rockstudy.models import loading
from rockstudy.models.divergence import Head, States, token_statistics
from rockstudy.sampling import rollout
from rockstudy.training.optimizers import TensorAdamW


@pytest.fixture(scope="module")
def texts(tiny_pair_dir):
    """Completions of the tiny student, of different lengths."""
    teacher, student = (
        loading.load_model(str(tiny_pair_dir / role), device="cpu").float()
        for role in ("teacher", "student")
    )
    tokenizer = loading.load_tokenizer(str(tiny_pair_dir / "tokenizer"))
    prompts = rollout.prompt_ids(tokenizer, ["12 + 34?", "What is 5?", "Add 7 and 8."], 99)
    how = {"max_new_tokens": 9, "batch_size": 6, "seed": 1, "desc": None}
    written = rollout.generate(student, tokenizer, prompts, samples=2, **how)
    made = FixedTexts(written, np.arange(len(written)), student, teacher)
    made.written, made.teacher_model = written, teacher
    return made


def direction(texts, seed=0):
    size = sum(p.numel() for p in texts.parameters.values())
    return 0.02 * torch.randn(size, generator=torch.Generator().manual_seed(seed)) / size**0.5


def test_losses_are_those_of_the_token_table_at_the_same_positions(texts):
    frame, rows = texts.frame, texts.written
    for row in range(len(rows)):
        states = (
            States(rollout.completion_states(m, rows, [row]).float(), Head.of(m))
            for m in (texts.teacher_model, texts.student)
        )
        teacher, student = states
        targets = torch.from_numpy(rows.completions[row].astype(np.int64))
        expected = token_statistics(teacher, [student], targets).students[0].rkl
        at = (frame.prompt_index == rows.prompt_index[row]) & (
            frame.sample_index == rows.sample_index[row]
        )
        assert frame.token_id[at].tolist() == targets.tolist()
        np.testing.assert_allclose(texts.losses()[at], expected, atol=2e-5)


def test_slopes_are_the_products_of_single_gradients_with_the_step(texts):
    step, n = direction(texts), len(texts.frame)
    single = texts.gradients(np.eye(n))
    np.testing.assert_allclose(texts.slopes(step), single @ step, rtol=2e-3, atol=1e-6)
    weights = np.random.default_rng(0).normal(size=(2, n))
    expected = torch.from_numpy(weights).float() @ single
    torch.testing.assert_close(texts.gradients(weights), expected, rtol=1e-3, atol=1e-4)


def test_products_of_sketched_gradients_are_those_of_whole_ones(texts):
    weights, width = np.random.default_rng(1).normal(size=(3, len(texts.frame))), 4_000
    whole, sketched = texts.gradients(weights), texts.gradients(weights, width)
    assert sketched.shape == (3, width) and whole.shape[1] > width
    norms = whole.norm(dim=1)
    noise = (norms[:, None] * norms) / width**0.5
    assert bool(((sketched @ sketched.T - whole @ whole.T).abs() < 5 * noise).all())
    torch.testing.assert_close(texts.gradients(weights, 10**9), whole)


def test_a_sketch_is_unbiased_and_as_noisy_as_told_for_gradients_that_are_equal_everywhere():
    """Blocks of the same numbers would meet weight by weight if whole blocks had no signs."""
    width, ones = 64, torch.ones(1_000)  # 16 blocks, the last of 40 weights
    squares = []
    for number in range(300):
        total = torch.zeros(width)
        # what comes before moves the blocks to other places
        module._sketch(total, [torch.zeros(0)] * number + [ones[:600].view(20, 30), ones[600:]])
        squares.append(float(total.square().sum()) / len(ones))
    spread = np.std(squares)
    assert abs(np.mean(squares) - 1) < 4 * spread / len(squares) ** 0.5
    assert 0.5 < spread / (2 / width) ** 0.5 < 1.5


def test_a_sketch_changes_no_norm_where_no_two_weights_meet():
    given = [torch.randn(6, 10, generator=torch.Generator().manual_seed(0))]
    total = torch.zeros(64)
    module._sketch(total, given)
    found, expected = total.abs().sort().values, given[0].flatten().abs().sort().values
    torch.testing.assert_close(found[4:], expected, rtol=0, atol=0)


def test_a_step_moves_the_losses_as_a_moved_copy_would_and_leaves_the_student_alone(texts):
    before = {name: p.clone() for name, p in texts.student.named_parameters()}
    step = 30 * direction(texts, 1)
    moved = {
        name: before[name.removeprefix("student.")] + part
        for name, part in texts.split(step).items()
    }
    found = texts.losses(step)
    np.testing.assert_array_equal(found, texts.losses(weights=moved))
    assert np.abs(found - texts.losses()).max() > 1e-3
    for name, p in texts.student.named_parameters():
        torch.testing.assert_close(p, before[name], rtol=0, atol=0)


def test_texts_without_a_token_are_refused(texts):
    with pytest.raises(StudyError, match="completions: must hold at least one token; got none"):
        FixedTexts(texts.written, np.array([], int), texts.student, texts.teacher_model)


def test_adamws_step_is_that_of_torch_after_the_same_gradients():
    rng = torch.Generator().manual_seed(0)
    gradients = [torch.randn(50, generator=rng) for _ in range(6)]
    p = torch.nn.Parameter(torch.zeros(50))
    optimizer = torch.optim.AdamW([p], lr=0.01, betas=BETAS, eps=EPS, weight_decay=0)
    for g in gradients:
        before, p.grad = p.detach().clone(), g
        optimizer.step()
    made = steps_of(Moments.rebuilt(gradients[:-1]), gradients[-1], lr=0.01)
    torch.testing.assert_close(made["adamw"], p.detach() - before, rtol=1e-5, atol=1e-8)
    norms = [float(step.norm()) for step in made.values()]
    np.testing.assert_allclose(norms, norms[0], rtol=1e-5)
    cosine = torch.cosine_similarity(made["sgd"], gradients[-1], dim=0)
    assert float(cosine) == pytest.approx(-1)


@pytest.mark.parametrize("norm", [0.1, 100.0])
def test_a_gradient_is_clipped_as_in_training(norm):
    p = torch.nn.Parameter(torch.zeros(9))
    p.grad = torch.arange(9.0)
    expected = clipped(p.grad.clone(), norm)
    torch.nn.utils.clip_grad_norm_([p], norm)
    torch.testing.assert_close(expected, p.grad)


def test_an_update_without_a_gradient_is_refused():
    with pytest.raises(StudyError, match="gradient of the update: must be finite and not 0"):
        steps_of(Moments(torch.zeros(3), torch.zeros(3), 0), torch.zeros(3), 1e-3)
    with pytest.raises(StudyError, match="at least one to rebuild"):
        Moments.rebuilt([])


def test_one_second_moment_a_tensor_scales_all_weights_of_a_tensor_alike():
    gradients = np.random.default_rng(0).normal(size=(5, 7)) * [1, 1, 1, 1, 10, 10, 0.1]
    p = torch.nn.Parameter(torch.zeros(7, dtype=torch.float64))
    optimizer, m, s, theta = TensorAdamW([p], lr=0.1), 0.0, 0.0, np.zeros(7)
    for t, g in enumerate(gradients, start=1):
        p.grad = torch.from_numpy(g)
        optimizer.step()
        m, s = 0.9 * m + 0.1 * g, 0.999 * s + 0.001 * (g**2).mean()
        theta = theta - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(s / (1 - 0.999**t)) + EPS)
    np.testing.assert_allclose(p.detach(), theta, rtol=1e-6)


def linear_softmax(n_often=100):
    """Two types with weights of their own, the same gradient, and frequencies 100 to 1.

    Returns the gradient of one occurrence to its own weights, the step's frame of falls by type,
    and the learning rate; each prompt has occurrences of both in the same proportion.
    """
    w = torch.tensor([[0.3, -0.7, 1.1, 0.2]] * 2, dtype=torch.float64, requires_grad=True)
    log_p = log_softmax(w, -1)
    losses = (log_p.exp() * (log_p - np.log(0.25))).sum(-1)  # the teacher is uniform
    share = torch.tensor([n_often, 1.0], dtype=torch.float64) / (n_often + 1)
    gradient = torch.autograd.grad(losses @ share, w)[0].flatten()
    single = [torch.autograd.grad(x, w, retain_graph=True)[0].flatten() for x in
              log_softmax(w, -1).exp().mul(log_softmax(w, -1) - np.log(0.25)).sum(-1)]  # fmt: skip
    zero = torch.zeros_like(gradient)
    steps = steps_of(Moments(zero, zero, 0), gradient, lr=0.01)
    rows = []
    for prompt in range(4):
        for group, n, g in zip(("often", "rare"), (n_often, 1), single, strict=True):
            falls = {f"phi_{name}": n * -float(g @ step) for name, step in steps.items()}
            falls |= {f"real_{name[4:]}": value for name, value in falls.items()}
            row = {"prompt_index": prompt, "group": group, "count": n, **falls}
            rows.append({"seed": 0, "checkpoint": "late"} | row)
    return single[0][:4].numpy(), pd.DataFrame(rows), share.numpy()


def test_s_of_two_types_of_a_linear_softmax_is_the_closed_form():
    g, sums, share = linear_softmax()
    found = suppression.of_groups(sums, "group", "often", np.random.default_rng(0))
    pick = (found.group == "rare") & (found.kind == "phi") & (found.measure == "S")
    for against in ("momentum", "sgd"):  # from no memory both have the direction of the gradient
        adamw = [(f * g * g / (abs(f * g) + EPS)).sum() for f in share]
        sgd = [(f * g * g).sum() for f in share]
        expected = np.log(adamw[1] / sgd[1]) - np.log(adamw[0] / sgd[0])
        one = found[pick & (found.against == against)]
        assert one.value.item() == pytest.approx(expected, abs=1e-6)
        assert expected == pytest.approx(np.log(100), abs=1e-4)  # AdamW helps the rare type


def test_s_of_sgd_against_itself_is_exactly_0_and_moves_no_share():
    _, sums, _ = linear_softmax()
    same = sums.assign(phi_adamw=sums.phi_sgd, real_adamw=sums.real_sgd)
    found = suppression.of_groups(same, "group", "often", np.random.default_rng(0))
    assert (found.value[found.against == "sgd"] == 0).all()


def test_falls_that_are_not_above_0_have_no_s_but_a_share():
    _, sums, _ = linear_softmax()
    sums.loc[sums.group == "rare", "phi_adamw"] *= -1
    found = suppression.of_groups(sums, "group", None, np.random.default_rng(0))
    rare = found[(found.group == "rare") & (found.kind == "phi")].set_index("measure").value
    assert rare.loc["S"].isna().all() and rare.loc["share"].notna().all()


def test_where_all_do_not_fall_by_a_step_there_is_no_share_of_the_fall():
    _, sums, _ = linear_softmax()
    sums["real_sgd"] *= -1
    found = suppression.of_groups(sums, "group", None, np.random.default_rng(0))
    found = found[found.measure == "share"].set_index(["kind", "against"]).value
    assert found["real", "sgd"].isna().all() and found["phi", "sgd"].notna().all()
    told = readings.of_whole(sums, "late")
    assert "sgd: -" in told and told.count("too long for its first order") == 1


def test_slopes_over_types_are_the_true_ones():
    rng = np.random.default_rng(0)
    ids, n = np.arange(30), np.exp(rng.uniform(3, 7, 30))
    rock = ids < 8
    true = 0.2 - 0.3 * np.log(n) - 0.5 * rock
    rows = []
    for seed in (0, 1):
        for prompt in range(5):
            sgd = 10 * rng.uniform(0.5, 1, 30)
            adamw = sgd * np.exp(true)
            falls = {"phi_sgd": sgd, "phi_momentum": sgd, "real_sgd": sgd, "real_momentum": sgd}
            falls |= {"phi_adamw": adamw, "real_adamw": adamw}
            some = {"token_id": ids, "count": 10, "prompt_index": prompt, **falls}
            rows.append(pd.DataFrame(some).assign(seed=seed, checkpoint="late"))
    counts = pd.Series(n, index=ids)
    types, slopes = suppression.over_types(pd.concat(rows), counts, ids[rock], rng)
    by_term = slopes.groupby("term").value
    np.testing.assert_allclose(by_term.get_group("log n"), -0.3, atol=1e-9)
    np.testing.assert_allclose(by_term.get_group("rock"), -0.5, atol=1e-9)
    assert (slopes.types == 30).all() and (slopes.left_out == 0).all()
    assert len(types) == 30 * len(suppression.KINDS) * len(suppression.AGAINST)


def test_a_mean_over_seeds_has_students_interval_where_prompts_add_nothing():
    values = np.array([0.1, 0.4, 0.3])
    made = suppression.pooled(values, np.repeat(values[:, None], 50, axis=1), 40)
    half = 4.302652729911275 * values.std(ddof=1) / np.sqrt(3)
    assert (made["value"], made["hi"]) == pytest.approx((values.mean(), values.mean() + half))
    assert (made["n"], made["seeds"], made["unit"]) == (40, 3, "prompts x 3 seeds")
    draws = np.random.default_rng(0).normal(0, 2, (1, 20_000))
    one = suppression.pooled(np.array([0.1]), draws, 8, suppression.FOLDS_OF)
    assert one["hi"] - one["value"] == pytest.approx(1.96 * 2, rel=0.03)
    assert (one["n"], one["unit"]) == (8, "folds of prompts, one training seed")
    none = suppression.pooled(np.array([np.nan]), np.full((1, 5), np.nan), 40)
    assert np.isnan(none["value"]) and none["n"] == none["seeds"] == 0


class Known:
    """Texts whose positions' gradients are given, (N, P)."""

    def __init__(self, g, prompts):
        self.g, self.frame = torch.from_numpy(g).float(), pd.DataFrame({"prompt_index": prompts})

    def gradients(self, weights, width=None):
        return torch.from_numpy(weights).float() @ self.g


@pytest.mark.parametrize(("mean", "spread"), [(0.0, 1.0), (0.5, 1.0), (2.0, 0.5)])
def test_kappa_centres_on_its_truth(mean, spread):
    rng, n, p = np.random.default_rng(3), 160, 40
    every = np.ones(n, bool)
    found = []
    for _ in range(60):
        texts = Known(mean + spread * rng.normal(size=(n, p)), np.arange(n) // 4)
        some = coherence.products(texts, {"all": every}, rng)
        found.append(coherence.kappa(some, rng)[0])
    truth = mean**2 / (mean**2 + spread**2)
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - truth) < 4 * error + 1e-9
    assert error < 0.01


def test_the_mean_square_needs_no_single_gradient():
    rng = np.random.default_rng(0)
    g = rng.normal(size=(64, 200)) * rng.uniform(0.1, 3, (64, 1))
    made = [
        coherence.products(Known(g, np.arange(64)), {"all": np.ones(64, bool)}, rng)
        .drop_duplicates("fold").squares.sum() for _ in range(40)
    ]  # fmt: skip
    assert np.mean(made) == pytest.approx((g**2).sum(), rel=0.03)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_over_all_orders_of_the_signs_the_sum_of_squares_is_exact(n):
    g = np.random.default_rng(n).normal(size=(n, 3))
    orders = set(itertools.permutations(np.resize([1.0, -1.0], n)))
    signed = np.array([((np.array(s) @ g) ** 2).sum() for s in orders])
    whole, count = np.full(len(signed), (g.sum(0) ** 2).sum()), np.full(len(signed), n)
    found = coherence.sum_of_squares(signed, whole, count)
    assert found.mean() == pytest.approx((g**2).sum())


def test_draws_of_folds_never_pair_a_fold_with_itself():
    g = np.repeat(np.eye(8), 4, axis=0)  # each prompt has its own direction: nothing is shared
    some = coherence.products(Known(g, np.repeat(np.arange(8), 4)), {"all": np.ones(32, bool)},
                              np.random.default_rng(0))  # fmt: skip
    value, draws, cosine = coherence.kappa(some, np.random.default_rng(0))
    assert value == cosine == 0
    assert (draws[np.isfinite(draws)] == 0).all()
