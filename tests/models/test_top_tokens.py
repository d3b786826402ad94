"""The most likely tokens, against a softmax over the whole vocabulary."""

import pytest
import torch

from rockstudy.models import top_tokens as module
from rockstudy.models.divergence import Head, States
from rockstudy.models.top_tokens import top_tokens


@pytest.mark.parametrize(("vocab", "k"), [(50, 5), (50, 50), (3, 5)])
def test_tiles_give_what_a_softmax_over_the_whole_vocabulary_gives(monkeypatch, vocab, k):
    monkeypatch.setattr(module, "ROWS", 4)
    monkeypatch.setattr(module, "WIDTH", 7)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 8, generator=generator) for n in (11, vocab))
    bias = torch.randn(vocab, generator=generator)
    head = Head(weight, bias, logit_scale=1.5, softcap=4.0)
    ids, probabilities = top_tokens(States(hidden, head), k)
    logits = 4.0 * torch.tanh(1.5 * (hidden @ weight.T + bias) / 4.0)
    wanted = logits.double().softmax(1).topk(min(k, vocab))
    assert torch.equal(ids, wanted.indices)
    torch.testing.assert_close(probabilities.double(), wanted.values, rtol=1e-5, atol=1e-7)
