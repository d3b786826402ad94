"""The losses of a stage, and their gradients, against autograd on whole logits in float64."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear, log_softmax

from rockstudy.models.divergence import Head, States
from rockstudy.training import losses
from rockstudy.training.losses import Mix, weighted

N, V, H = 300, 700, 12
MIXES = {
    "forward and cross-entropy": Mix(0.5, 0.0, 0.5),
    "reverse": Mix(0.0, 1.0, 0.0),
    "cross-entropy": Mix(0.0, 0.0, 0.7),
    "all, warm": Mix(0.3, 0.6, 0.2, 2.0),
    "all": Mix(0.3, 0.6, 0.2),
}
SHAPES = {
    "plain": {},
    "scaled": {"logit_scale": 0.7},
    "capped": {"logit_scale": 0.7, "softcap": 3.0},
}


@pytest.fixture(autouse=True)
def _several_sweeps(monkeypatch):
    monkeypatch.setattr(losses, "_SWEPT", 128 * V)


def _random(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def _given(bias=False, dtype=torch.float32, **shape):
    own = _random(0, N, H), _random(1, V, H, scale=0.5), _random(2, V) if bias else None
    leaves = [None if one is None else one.to(dtype).requires_grad_() for one in own]
    student = States(leaves[0], Head(*leaves[1:], **shape))
    teacher = States(_random(3, N, 2 * H), Head(_random(4, V, 2 * H, scale=0.3), **shape))
    targets = torch.randint(V, (N,), generator=torch.Generator().manual_seed(6))
    return student, teacher, targets, [one for one in leaves if one is not None]


def _log_probs(states, temperature=1.0):
    head = states.head
    z = linear(states.hidden, head.weight, head.bias) * head.logit_scale
    if head.softcap is not None:
        z = head.softcap * torch.tanh(z / head.softcap)
    return log_softmax(z.double() / temperature, -1)


def _expected(student, teacher, targets, mix):
    """Losses, reverse KL, and the entropy of the last softmax that the loss has."""
    t = mix.temperature
    log_p, log_q, plain = _log_probs(student, t), _log_probs(teacher, t), _log_probs(student)
    reverse, forward = ((a.exp() * (a - b)).sum(-1) for a, b in ((log_p, log_q), (log_q, log_p)))
    each = mix.forward * forward + mix.reverse * reverse
    each = each - mix.cross_entropy * plain.gather(1, targets[:, None])[:, 0]
    last = plain if mix.cross_entropy else log_p
    return each, reverse, -(last.exp() * last).sum(-1)


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("bias", [False, True])
def test_losses_and_gradients_equal_those_of_whole_logits(mix, shape, bias):
    *given, leaves = _given(bias, **shape)
    w = _random(5, N).abs()
    total, found, _ = weighted(*given, w, mix)
    each, reverse, entropy = _expected(*given, mix)
    close = {"rtol": 1e-5, "atol": 2e-5}
    torch.testing.assert_close(found.each.double(), each.detach(), **close)
    torch.testing.assert_close(found.entropy.double(), entropy.detach(), **close)
    assert (found.rkl is None) == (not mix.reverse)
    if found.rkl is not None:
        torch.testing.assert_close(found.rkl.double(), reverse.detach(), **close)
    assert not any(one.requires_grad for one in found if one is not None)
    got = torch.autograd.grad(3 * total, leaves)
    wanted = torch.autograd.grad(3 * (w * each).sum(), leaves)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
def test_the_kernels_of_a_card_agree(monkeypatch, mix):
    *given, leaves = _given(bias=True)
    w = _random(5, N).abs()
    total, found, _ = weighted(*given, w, mix)
    mine = torch.autograd.grad(total, leaves)
    monkeypatch.setattr(losses, "fused", lambda device: True)
    total, other, _ = weighted(*given, w, mix)
    torch.testing.assert_close(found.each, other.each, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.entropy, other.entropy, rtol=1e-4, atol=1e-5)
    for one, theirs in zip(mine, torch.autograd.grad(total, leaves), strict=True):
        torch.testing.assert_close(one, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("card", [False, True])
def test_weights_that_depend_on_the_losses_have_no_gradient_of_their_own(monkeypatch, card):
    monkeypatch.setattr(losses, "fused", lambda device: card)
    *given, leaves = _given()
    mix, seen = MIXES["all"], []

    def weights(each):
        seen.append(each)
        return (each > each.median()).float() * each

    total, found, w = weighted(*given, weights, mix)
    assert len(seen) == 1 and not seen[0].requires_grad
    torch.testing.assert_close(found.each, seen[0])
    late = torch.autograd.grad(total, leaves)
    total, *_ = weighted(*given, w, mix)
    for one, other in zip(late, torch.autograd.grad(total, leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_without_gradients_there_are_the_losses_alone():
    *given, _ = _given()
    w = _random(5, N).abs()
    expected = weighted(*given, w, MIXES["all"])
    with torch.no_grad():
        total, found, _ = weighted(*given, w, MIXES["all"])
    assert not total.requires_grad
    torch.testing.assert_close(total, expected[0].detach())
    torch.testing.assert_close(found.each, expected[1].each)


def test_a_head_that_is_not_trained_gets_no_gradient():
    *given, leaves = _given()
    leaves[1].requires_grad_(False)
    total, *_ = weighted(*given, torch.ones(N), MIXES["reverse"])
    total.backward()
    assert leaves[0].grad is not None and leaves[1].grad is None


def test_no_positions_give_a_sum_of_zero_and_zero_gradients():
    student, teacher, targets, leaves = _given(bias=True)
    none = slice(0, 0)
    student = student._replace(hidden=student.hidden[none])
    teacher = teacher._replace(hidden=teacher.hidden[none])
    total, found, _ = weighted(student, teacher, targets[none], torch.ones(0), MIXES["all"])
    assert total == 0 and len(found.each) == 0
    assert not any(one.any() for one in torch.autograd.grad(total, leaves))


def test_what_is_not_finite_stays_visible():
    student, teacher, targets, _ = _given()
    broken = student.hidden.detach().clone()
    broken[3] = torch.nan
    total, found, _ = weighted(
        student._replace(hidden=broken), teacher, targets, torch.ones(N), MIXES["all"]
    )
    assert total.isnan() and found.each.isnan().nonzero().flatten().tolist() == [3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_of_half_precision_round_their_factors_alone(dtype):
    """The error is that of rounded factors: below the one that rounded logits would have."""
    student, teacher, targets, leaves = _given(dtype=dtype)
    before = torch.backends.mkldnn.matmul.fp32_precision
    with torch.autocast("cpu", torch.bfloat16):
        total, found, _ = weighted(student, teacher, targets, torch.ones(N), MIXES["reverse"])
    plain = [States(s.hidden.float(), Head(s.head.weight.float())) for s in (student, teacher)]
    each, *_ = _expected(*plain, targets, MIXES["reverse"])
    log_p, log_q = (
        log_softmax(linear(s.hidden, s.head.weight).bfloat16().double(), -1) for s in plain
    )
    rounded = (log_p.exp() * (log_p - log_q)).sum(-1)
    assert (found.each - each).abs().mean() <= (rounded - each).abs().mean()
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    got, wanted = torch.autograd.grad(total, leaves), torch.autograd.grad(each.sum(), leaves)
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == dtype
        assert (one - other).norm() < 0.02 * other.norm()
