"""The most likely tokens of a model at some positions, tile by tile along the vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor

from rockstudy.models.divergence import States, logits

ROWS, WIDTH = 128, 8192  # ours: a tile of 4 MB fits into a CPU's caches


@torch.no_grad()
def top_tokens(states: States, k: int) -> tuple[Tensor, Tensor]:
    """Ids, int64, and probabilities, float32, of the k most likely tokens, most likely first.

    Both are (N, k), fewer columns where the vocabulary is smaller. The hidden states (N, H) are
    those at the positions before the tokens. The probabilities are those of the whole vocabulary
    at temperature 1. Nothing of size N x V exists.
    """
    hidden = states.hidden
    parts = [
        _of_tile(States(hidden[i : i + ROWS], states.head), k) for i in range(0, len(hidden), ROWS)
    ]
    ids, probabilities = zip(*parts, strict=True)
    return torch.cat(ids), torch.cat(probabilities)


def _of_tile(states: States, k: int) -> tuple[Tensor, Tensor]:
    states = States(states.hidden.float(), states.head)
    n, vocab, device = len(states.hidden), states.head.weight.shape[0], states.hidden.device
    best = torch.empty(n, 0, device=device)
    ids = torch.empty(n, 0, dtype=torch.int64, device=device)
    log_total = torch.full((n,), -torch.inf, dtype=torch.float64, device=device)
    for left in range(0, vocab, WIDTH):
        right = min(left + WIDTH, vocab)
        z = logits(states, left, right)
        log_total = torch.logaddexp(log_total, z.double().logsumexp(1))
        columns = torch.arange(left, right, device=device).expand(n, -1)
        z, columns = torch.cat([best, z], 1), torch.cat([ids, columns], 1)
        best, places = z.topk(min(k, z.shape[1]), dim=1)
        ids = columns.gather(1, places)
    return ids, (best.double() - log_total[:, None]).exp().float()
