"""Memory and time of the type gradients against dense (types x vocabulary) matrices.

Hidden states and heads are synthetic; student and teacher have the same width. The dense way
computes the logits of a tile of positions over the whole vocabulary, adds the gradients to one
matrix (types, V), and computes norms and cosines from it. The larger vocabulary is Qwen3's.
"""

import argparse
import json
import sys
from typing import Any

import numpy as np
import torch
from common import SMOLLM2, Job, Turns, measure, rounded

from rockstudy.gradients.type_gradients import Positions, type_gradients
from rockstudy.models.divergence import Head

BUDGET = 256 * 2**20
QWEN3 = 151_936
WAYS = ("ours", "dense")
SIZE = {"positions": 2_048, "types": 1_000, "hidden": 64}
GROWTH = {
    "types": ("token types", (250, 500, 1_000, 2_000), SIZE | {"vocab": SMOLLM2}, WAYS),
    "vocab": ("vocabulary", (12_288, 24_576, 49_152, 98_304), SIZE, WAYS),
}


def work(job: Job, turns: Turns) -> None:
    """Do one way, and report the mean norm of the gradients as a checksum."""
    n, types, vocab, hidden = (job[name] for name in ("positions", "types", "vocab", "hidden"))
    rng = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    heads = [Head(torch.randn(vocab, hidden, generator=generator) / 8) for _ in range(2)]
    states = rng.standard_normal((2, n, hidden), dtype=np.float32)
    token = np.concatenate([np.arange(types), rng.integers(0, types, n - types)])
    positions = Positions(states[0], states[1], token, np.zeros(n, np.int64))

    def once() -> dict[str, Any]:
        if job["way"] == "ours":
            norms = type_gradients(positions, *heads, budget=BUDGET).types.norm_logit.to_numpy()
        else:
            norms = dense(positions, heads[0].weight, heads[1].weight, types)
        return {"tokens": n, "norm": float(norms.mean())}

    turns.run(once)


def dense(positions, w_p, w_q, types: int):
    """One matrix of all types over the whole vocabulary; returns the norms."""
    total = torch.zeros(types, len(w_p))
    token = torch.from_numpy(positions.token_id)
    for start in range(0, len(token), 512):
        rows = slice(start, start + 512)
        log_p, log_q = (
            (torch.from_numpy(h[rows]) @ w.T).log_softmax(-1)
            for h, w in ((positions.student, w_p), (positions.teacher, w_q))
        )
        gap = log_p - log_q
        p = log_p.exp()
        total.index_add_(0, token[rows], p * (gap - (p * gap).sum(-1, keepdim=True)))
    g = total / torch.bincount(token, minlength=types)[:, None]
    balanced, whole = g.sum(0), total.sum(0)
    norms = g.norm(dim=1)
    for other in (balanced, whole):
        g @ other / (norms * other.norm())
    g @ w_p  # hidden space
    return norms.numpy()


def main() -> None:
    """Measure both ways at both vocabularies, print a table, end with one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--types", type=int, default=2_000)
    parser.add_argument("--positions", type=int, default=4_096)
    parser.add_argument("--hidden", type=int, default=128)
    given = parser.parse_args()
    print(f"{given.types} types, {given.positions} positions, budget {BUDGET / 1e6:.0f} MB")
    print(f"{'':28}{'seconds':>9}{'peak MB':>9}{'mean norm':>12}")
    result = {"budget_bytes": BUDGET}
    for vocab, suffix in ((SMOLLM2, "_49k"), (QWEN3, "")):
        size = vars(given) | {"vocab": vocab}
        ours, dense = measure(work, {w: size | {"way": w} for w in WAYS}, 1, warm=0).values()
        for side in (ours, dense):
            name = f"{side.name}, V = {vocab:,}"
            numbers = f"{side.seconds:9.1f}{side.peak / 1e6:9,.0f}{side.last['norm']:12.5f}"
            print(f"{name:28}{numbers}")
        if not np.isclose(ours.last["norm"], dense.last["norm"], rtol=1e-4):
            sys.exit("the two ways give different gradients")
        result["peak_bytes" + suffix] = ours.peak
        result["peak_bytes_vs_dense" + suffix] = ours.peak / dense.peak
        result["seconds_vs_dense" + suffix] = ours.seconds / dense.seconds
    print(json.dumps(rounded(result)))


if __name__ == "__main__":
    main()
