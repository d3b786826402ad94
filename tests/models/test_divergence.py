"""Divergences against PyTorch's own losses, closed forms and autograd."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div, linear, log_softmax
from transformers import Qwen3Config, Qwen3ForCausalLM

from rockstudy.models import divergence
from rockstudy.models.divergence import (
    Head,
    States,
    token_divergence,
    token_log_prob,
    token_statistics,
)

N, V, H = 300, 700, 12  # more than one tile in both directions


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    monkeypatch.setattr(divergence, "_CPU_TILE", (128, 256))


def _random(seed, *shape, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def _student(bias=False, **post):
    h = _random(0, N, H).requires_grad_()
    weight = _random(1, V, H, scale=0.5).requires_grad_()
    return h, Head(weight, _random(2, V) if bias else None, **post)


def _teacher(**post):
    return _random(3, N, 2 * H), Head(_random(4, V, 2 * H, scale=0.3), **post)


def _logits(h, head):
    logits = linear(h, head.weight, head.bias) * head.logit_scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    return logits


def _log_probs(h, head, temperature=1.0):
    return log_softmax(_logits(h, head).double() / temperature, -1)


def _reference(kind, log_p, log_q):
    """KL by torch: kl_div(input, target) is KL(target || input)."""
    first, second = (log_q, log_p) if kind == "reverse" else (log_p, log_q)
    return kl_div(first, second, reduction="none", log_target=True).sum(-1)


@pytest.mark.parametrize("kind", ["reverse", "forward"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_each_direction_equals_torch_kl_div_in_value_and_gradient(kind, temperature):
    (h, head), (h_teacher, head_teacher) = _student(), _teacher()
    w = _random(5, N).abs()
    value, _ = token_divergence(
        h, head, h_teacher, head_teacher, kind=kind, temperature=temperature
    )
    gradients = torch.autograd.grad((w * value).sum(), (h, head.weight))
    log_p = _log_probs(h, head, temperature)
    expected = _reference(kind, log_p, _log_probs(h_teacher, head_teacher, temperature))
    expected_gradients = torch.autograd.grad((w * expected).sum(), (h, head.weight))
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)
    for got, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(got, wanted.float(), rtol=1e-4, atol=1e-5)


def test_the_directions_differ_and_neither_is_a_cross_entropy():
    (h, head), (h_teacher, head_teacher) = _student(), _teacher()
    arguments = (h, head, h_teacher, head_teacher)
    reverse, entropy = token_divergence(*arguments, kind="reverse")
    forward, _ = token_divergence(*arguments, kind="forward")
    log_p, log_q = _log_probs(h, head), _log_probs(h_teacher, head_teacher)
    teacher_entropy = -(log_q.exp() * log_q).sum(-1)
    cross = -(log_q.exp() * log_p).sum(-1)
    torch.testing.assert_close(forward.double(), cross - teacher_entropy, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        entropy.double(), -(log_p.exp() * log_p).sum(-1), rtol=1e-5, atol=1e-5
    )
    assert (reverse - forward).abs().mean() > 0.1


def test_a_model_does_not_diverge_from_itself():
    h, head = _student()
    for kind in ("reverse", "forward"):
        value, _ = token_divergence(h, head, h.detach(), head, kind=kind)
        assert value.abs().max() < 1e-5


def test_uniform_against_a_point_mass_has_its_closed_form():
    h, weight = torch.ones(1, 1), torch.zeros(4, 1)
    peaked = torch.tensor([[math.log(97.0)], [0.0], [0.0], [0.0]])  # q = 0.97, 0.01, 0.01, 0.01
    reverse, entropy = token_divergence(h, Head(weight), h, Head(peaked), kind="reverse")
    forward, _ = token_divergence(h, Head(weight), h, Head(peaked), kind="forward")
    expected = 0.25 * (math.log(0.25 / 0.97) + 3 * math.log(0.25 / 0.01))
    assert reverse.item() == pytest.approx(expected, abs=1e-5)
    expected = 0.97 * math.log(0.97 / 0.25) + 0.03 * math.log(0.01 / 0.25)
    assert forward.item() == pytest.approx(expected, abs=1e-5)
    assert entropy.item() == pytest.approx(math.log(4), abs=1e-6)


def test_bias_scale_and_softcap_change_the_logits_as_the_models_do():
    (h, head), (h_teacher, head_teacher) = (
        _student(bias=True, logit_scale=0.7, softcap=3.0),
        _teacher(logit_scale=1.3, softcap=5.0),
    )
    value, _ = token_divergence(h, head, h_teacher, head_teacher)
    log_p = _log_probs(h, head)
    expected = _reference("reverse", log_p, _log_probs(h_teacher, head_teacher))
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-5)


def test_the_log_probability_of_a_token_equals_torch_cross_entropy():
    h, head = _student()
    targets = torch.randint(V, (N,), generator=torch.Generator().manual_seed(6))
    w = _random(5, N).abs()
    log_prob, entropy = token_log_prob(h, head, targets)
    gradients = torch.autograd.grad((w * log_prob).sum(), (h, head.weight))
    expected = -cross_entropy(linear(h, head.weight), targets, reduction="none")
    expected_gradients = torch.autograd.grad((w * expected).sum(), (h, head.weight))
    torch.testing.assert_close(log_prob, expected, rtol=1e-5, atol=1e-5)
    for got, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    log_p = _log_probs(h, head)
    torch.testing.assert_close(
        entropy.double(), -(log_p.exp() * log_p).sum(-1), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("tile", [(4096, 32768), (7, 13), (1, 1)])
def test_the_tiles_do_not_change_the_result(monkeypatch, tile):
    (h, head), (h_teacher, head_teacher) = _student(), _teacher()
    rows, vocab = slice(0, 20), 50
    arguments = (
        h[rows],
        Head(head.weight[:vocab]),
        h_teacher[rows],
        Head(head_teacher.weight[:vocab]),
    )
    expected, _ = token_divergence(*arguments)
    monkeypatch.setattr(divergence, "_CPU_TILE", tile)
    value, _ = token_divergence(*arguments)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


def test_no_positions_give_no_losses_and_zero_gradients():
    h, head = _student()
    h_teacher, head_teacher = _teacher()
    empty = torch.zeros(0, dtype=torch.int64)
    value, entropy = token_divergence(h[empty], head, h_teacher[empty], head_teacher)
    log_prob, _ = token_log_prob(h[empty], head, empty)
    assert len(value) == len(entropy) == len(log_prob) == 0
    for loss in (value.sum(), log_prob.sum()):
        assert loss == 0
        gradients = torch.autograd.grad(loss, (h, head.weight))
        assert not any(gradient.any() for gradient in gradients)


def test_the_head_of_a_model_gives_the_models_own_logits():
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
    )
    model = Qwen3ForCausalLM(config).eval()
    ids = torch.arange(20)[None]
    head = Head.of(model)
    with torch.no_grad():
        hidden = model.base_model(ids).last_hidden_state[0]
        log_prob, _ = token_log_prob(hidden, head, ids[0])
        expected = log_softmax(model(ids).logits[0], -1).gather(-1, ids[0][:, None])[:, 0]
    torch.testing.assert_close(log_prob, expected)
    model.config.logit_scale, model.config.final_logit_softcapping = 0.5, 30.0
    assert (Head.of(model).logit_scale, Head.of(model).softcap) == (0.5, 30.0)
    model.config.logit_scale, model.config.logits_scaling = None, 4.0
    assert Head.of(model).logit_scale == 0.25


# Statistics of a token table.


def _statistics(*students, targets=None, teacher=None):
    teacher = teacher or _teacher()
    if targets is None:
        targets = torch.randint(V, (N,), generator=torch.Generator().manual_seed(6))
    return token_statistics(States(*teacher), [States(*s) for s in students], targets), targets


@pytest.mark.parametrize("tile", [(128, 256), (4096, 32768), (7, 13)])
@pytest.mark.parametrize(
    "post", [{}, {"bias": True, "logit_scale": 0.7, "softcap": 3.0}], ids=["plain", "shaped"]
)
def test_statistics_of_tokens_equal_those_of_full_logits(monkeypatch, tile, post):
    monkeypatch.setattr(divergence, "_CPU_TILE", tile)
    first, second = _student(**post), (_random(7, N, 5), Head(_random(8, V, 5)))
    found, targets = _statistics(first, second)
    students, entropy_teacher, rank = found.students, found.entropy_teacher, found.rank_teacher
    log_q = _log_probs(*_teacher())
    of_target = targets[:, None]
    for (h, head), got in zip((first, second), students, strict=True):
        log_p = _log_probs(h, head).detach()
        expected = {
            "rkl": _reference("reverse", log_p, log_q),
            "fkl": _reference("forward", log_p, log_q),
            "log_ratio": (log_p - log_q).gather(1, of_target).squeeze(1),
            "entropy": -(log_p.exp() * log_p).sum(-1),
            "log_total": _logits(h, head).detach().double().logsumexp(-1),
        }
        for name, wanted in expected.items():
            value = getattr(got, name)
            assert value.dtype == torch.float32 and not value.requires_grad
            torch.testing.assert_close(value.double(), wanted, rtol=1e-5, atol=1e-5)
    expected = torch.distributions.Categorical(logits=log_q).entropy()
    torch.testing.assert_close(entropy_teacher.double(), expected, rtol=1e-5, atol=1e-5)
    order = log_q.argsort(1, descending=True)
    assert rank.tolist() == (order == of_target).int().argmax(1).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_blocks_of_a_cache_change_no_byte(monkeypatch, dtype):
    def found(cells, rows):
        monkeypatch.setattr(divergence, "_CPU_BLOCK", cells)
        monkeypatch.setattr(divergence, "_CPU_TILE", (rows, 256))
        (h, head), (g, other) = _student(bias=True, softcap=3.0), _teacher()
        pairs = ((h.detach(), head), (g, other))
        moved = [(x.to(dtype), replace(head, weight=head.weight.to(dtype))) for x, head in pairs]
        made, _ = _statistics(*moved, teacher=moved[1])
        return [*made.students[0], *made.students[1], *made[1:]]

    whole = found(1 << 30, 128)
    for cells, rows in ((1, 128), (1_000, 128), (1_000, 31)):
        for one, other in zip(whole, found(cells, rows), strict=True):
            assert torch.equal(one, other)


def test_statistics_agree_with_what_training_computes():
    (h, head), teacher = _student(), _teacher()
    found, targets = _statistics((h, head))
    students = found.students
    rkl, entropy = token_divergence(h, head, *teacher)
    log_p, _ = token_log_prob(h, head, targets)
    log_q, _ = token_log_prob(*teacher, targets)
    torch.testing.assert_close(students[0].rkl, rkl.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(students[0].entropy, entropy, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(students[0].log_ratio, (log_p - log_q).detach())


def test_equal_models_have_a_divergence_of_zero_that_is_never_negative():
    h, head = _teacher()
    found, _ = _statistics((h, head), (h + 1e-4, head))
    assert found.students[0].rkl.max() < 1e-5
    for one in found.students:
        assert (one.rkl >= 0).all() and (one.fkl >= 0).all()


def test_statistics_take_logits_of_any_size_and_states_of_half_precision():
    teacher, (h, head) = _teacher(), _student()
    far = Head(head.weight, bias=torch.linspace(-3e4, 3e4, V))
    found, _ = _statistics((h, far), teacher=teacher)
    log_p, log_q = _log_probs(h, far).detach(), _log_probs(*teacher)
    torch.testing.assert_close(
        found.students[0].rkl.double(), _reference("reverse", log_p, log_q), rtol=1e-4, atol=1e-3
    )
    half = (h.detach().bfloat16(), Head(head.weight.detach().bfloat16()))
    found, _ = _statistics(half, teacher=teacher)
    exact = _log_probs(half[0].float(), Head(half[1].weight.float()))
    expected = _reference("reverse", exact, log_q)
    torch.testing.assert_close(found.students[0].rkl.double(), expected, rtol=1e-5, atol=1e-5)


def test_the_rank_of_a_token_does_not_count_the_token_itself():
    h, head = torch.ones(5, 1), Head(torch.zeros(9, 1))
    found, _ = _statistics((h, head), teacher=(h, head), targets=torch.arange(5))
    assert found.rank_teacher.tolist() == [0] * 5


def test_what_is_not_finite_in_the_logits_stays_visible():
    (h, head), teacher = _student(), _teacher()
    broken = h.detach().clone()
    broken[3] = torch.nan
    found, _ = _statistics((broken, head), teacher=teacher)
    assert found.students[0].rkl.isnan().nonzero().flatten().tolist() == [3]


def test_states_and_heads_that_lie_elsewhere_come_to_the_device_of_the_targets():
    targets = torch.zeros(N, dtype=torch.int64, device="meta")
    h, head = _student(bias=True, logit_scale=2.0)
    moved = divergence._beside(targets, States(h, head))
    tensors = (moved.hidden, moved.head.weight, moved.head.bias)
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert moved.head.logit_scale == 2.0
    assert divergence._beside(torch.zeros(N), States(h, head)).head.weight is head.weight
