"""Estimates of the reverse KL against enumeration, closed forms and the token table's own KL."""

import math

import pytest
import torch
from torch.nn.functional import kl_div

from rockstudy.errors import StudyError
from rockstudy.models import partial_kl
from rockstudy.models.divergence import Head, States, token_statistics
from rockstudy.models.partial_kl import estimates, streamed, top_ids

N, V, H = 40, 60, 8
KS = (1, 4, 16, V)


def random(seed, *shape, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def log_probs(seed, scale=3.0):
    return random(seed, N, V, scale=scale).double().log_softmax(1)


def targets(seed=9):
    return torch.randint(V, (N,), generator=torch.Generator().manual_seed(seed))


def states(seed, hidden=H):
    return States(random(seed, N, hidden), Head(random(seed + 1, V, hidden)))


@pytest.fixture
def found():
    return estimates(log_probs(0), log_probs(1), targets(), KS)


@pytest.fixture
def wanted():
    """The full KL by torch: kl_div(input, target) is KL(target || input)."""
    return kl_div(log_probs(1), log_probs(0), reduction="none", log_target=True).sum(1)


def test_with_the_whole_vocabulary_all_but_the_sampled_ones_are_the_full_kl(found, wanted):
    torch.testing.assert_close(found.full, wanted, rtol=1e-12, atol=1e-12)
    for kind in ("plain", "tail", "generalised", "clamped"):
        whole = getattr(found, kind)[:, -1]
        torch.testing.assert_close(whole, wanted, rtol=1e-12, atol=1e-12)


def test_tail_and_generalised_lie_between_0_and_the_full_kl_and_grow_with_k(found, wanted):
    for kind in (found.tail, found.generalised):
        assert (kind >= -1e-12).all() and (kind <= wanted[:, None] + 1e-12).all()
        assert (kind.diff(dim=1) >= -1e-12).all()
    assert (found.plain[:, :3] < 0).any()  # so that clamping has an effect
    assert (found.clamped >= found.plain).all() and (found.clamped >= 0).all()


def test_each_estimate_is_its_formula_over_the_teachers_most_likely_tokens(found):
    p, q = log_probs(0).exp(), log_probs(1).exp()
    for n in range(N):
        order = sorted(range(V), key=lambda v: (-q[n, v].item(), v))
        own = sorted(range(V), key=lambda v: (-p[n, v].item(), v))
        for i, k in enumerate(KS[:-1]):
            top = order[:k]
            plain = sum(p[n, v] * torch.log(p[n, v] / q[n, v]) for v in top).item()
            mass_p, mass_q = (sum(one[n, v].item() for v in top) for one in (p, q))
            tail = (1 - mass_p) * math.log((1 - mass_p) / (1 - mass_q))
            assert found.plain[n, i].item() == pytest.approx(plain, abs=1e-12)
            assert found.clamped[n, i].item() == pytest.approx(max(plain, 0), abs=1e-12)
            assert found.tail[n, i].item() == pytest.approx(plain + tail, abs=1e-10)
            assert found.generalised[n, i].item() == pytest.approx(plain + mass_q - mass_p)
            shared = set(top) & set(own[:k])
            assert found.overlap[n, i].item() == pytest.approx(len(shared) / k)
            for name, one in (("mass_student", p), ("mass_teacher", q)):
                mass = sum(one[n, v].item() for v in shared)
                assert getattr(found, name)[n, i].item() == pytest.approx(mass, abs=1e-12)


def test_the_sampled_estimates_are_the_kl_on_average_over_the_students_own_tokens(wanted):
    """Exact enumeration: every token as the sampled one, weighted by its probability."""
    log_p, log_q = log_probs(0), log_probs(1)
    means = {"k1": 0.0, "k3": 0.0}
    for v in range(V):
        one = estimates(log_p, log_q, torch.full((N,), v), (1,))
        assert (one.k3 >= 0).all()
        means = {n: mean + log_p[:, v].exp() * getattr(one, n) for n, mean in means.items()}
    for mean in means.values():
        torch.testing.assert_close(mean, wanted, rtol=1e-10, atol=1e-10)


def test_a_tail_far_below_rounding_has_its_digits():
    """One minus the mass inside would be 0, or noise."""
    rest_q, rest_p = 1e-30, 1e-3
    log_q = torch.tensor([[1.0, rest_q / 2, rest_q / 2]]).double().log()
    log_p = torch.tensor([[1 - rest_p, rest_p / 2, rest_p / 2]]).double().log()
    found = estimates(log_p, log_q, torch.tensor([0]), (1,))
    full = (1 - rest_p) * math.log(1 - rest_p) + rest_p * math.log(rest_p / rest_q)
    assert found.tail.item() == pytest.approx(full, rel=1e-6)  # both tails are alike within
    assert found.full.item() == pytest.approx(full, rel=1e-6)


@pytest.mark.parametrize("k", [1, 3, 4, 7])
def test_of_equal_logits_the_smaller_id_comes_first(k):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(4, (200, 9), generator=generator).float()  # full of ties
    expected = [sorted(range(9), key=lambda v: (-row[v], v))[:k] for row in scores.tolist()]
    assert top_ids(scores, k).tolist() == expected


def test_equal_models_have_no_divergence_and_share_their_most_likely_tokens():
    found = estimates(log_probs(0), log_probs(0), targets(), KS)
    for kind in partial_kl.Estimates._fields[:7]:
        assert getattr(found, kind).abs().max() < 1e-12
    assert (found.overlap == 1).all()
    torch.testing.assert_close(found.mass_student, found.mass_teacher)
    torch.testing.assert_close(found.mass_teacher[:, -1], torch.ones(N).double())


@pytest.mark.parametrize("cells", [1, 7 * V, 1 << 20])
def test_hidden_states_give_the_token_tables_kl_in_chunks_of_any_size(monkeypatch, cells):
    monkeypatch.setattr(partial_kl, "_CELLS", cells)
    teacher, students = states(0, 2 * H), [states(2), states(4)]
    found = streamed(teacher, students, targets(), KS)
    compared = token_statistics(teacher, students, targets()).students
    for one, known in zip(found, compared, strict=True):
        for kind in (one.full, one.plain[:, -1], one.tail[:, -1], one.generalised[:, -1]):
            torch.testing.assert_close(kind.float(), known.rkl, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(one.k1.float(), known.log_ratio, rtol=1e-5, atol=1e-5)
        assert (one.tail <= known.rkl[:, None] + 1e-5).all()


@pytest.mark.parametrize("ks", [(), (0,), (1, V + 1)])
def test_a_cut_off_beyond_the_vocabulary_is_refused(ks):
    with pytest.raises(StudyError, match=f"ks: must be from 1 to {V}"):
        estimates(log_probs(0), log_probs(1), targets(), ks)
