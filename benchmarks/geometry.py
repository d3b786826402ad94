"""Memory and time of the type gradients against the dense way, (types x vocabulary) matrices.

Synthetic hidden states and heads; student and teacher of one width. The dense way makes the logits
of a tile of positions over the whole vocabulary, adds the gradients into one matrix (types, V), and
takes norms and cosines from it. Each way runs in its own process, so that its peak memory is its
own; the peak is above what the process held when its inputs were there. The larger vocabulary is
Qwen3's.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUDGET = 256 * 2**20


def work(job: dict) -> None:
    """Do one way and report seconds, peak bytes and a checksum."""
    import numpy as np
    import torch

    from rockstudy.divergence import Head
    from rockstudy.geometry import Positions, type_gradients

    n, types, vocab, hidden = (job[name] for name in ("positions", "types", "vocab", "hidden"))
    rng = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    heads = [Head(torch.randn(vocab, hidden, generator=generator) / 8) for _ in range(2)]
    states = rng.standard_normal((2, n, hidden), dtype=np.float32)
    token = np.concatenate([np.arange(types), rng.integers(0, types, n - types)])
    positions = Positions(states[0], states[1], token, np.zeros(n, np.int64))
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    base = _peak()
    start = time.perf_counter()
    if job["way"] == "ours":
        norms = type_gradients(positions, *heads, budget=BUDGET).types.norm_logit.to_numpy()
    else:
        norms = dense(positions, heads[0].weight, heads[1].weight, types)
    report = {"seconds": time.perf_counter() - start, "norm": float(norms.mean())}
    print(json.dumps(report | {"peak": _peak() - base}))


def dense(positions, w_p, w_q, types: int):
    """One matrix of all types over the whole vocabulary; returns the norms."""
    import torch

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


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def main() -> None:
    """Measure both ways at both vocabularies, print a table, end with one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--types", type=int, default=2_000)
    parser.add_argument("--positions", type=int, default=4_096)
    parser.add_argument("--hidden", type=int, default=128)
    given = parser.parse_args()
    if given.worker:
        work(json.loads(given.worker))
        return
    found = {}
    print(f"{given.types} types, {given.positions} positions, budget {BUDGET / 1e6:.0f} MB")
    print(f"{'':28}{'seconds':>9}{'peak MB':>9}{'mean norm':>12}")
    for vocab in (49_152, 151_936):
        for way in ("ours", "dense"):
            job = vars(given) | {"way": way, "vocab": vocab}
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            command = [sys.executable, __file__, "--worker", json.dumps(job)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{way}, V = {vocab:,}: {done.stderr.strip().splitlines()[-1]}")
            one = found[way, vocab] = json.loads(done.stdout)
            name = f"{way}, V = {vocab:,}"
            print(f"{name:28}{one['seconds']:9.1f}{one['peak'] / 1e6:9,.0f}{one['norm']:12.5f}")
    small, large = 49_152, 151_936
    result = {
        "peak_bytes_vs_dense": found["ours", large]["peak"] / found["dense", large]["peak"],
        "peak_bytes_vs_dense_49k": found["ours", small]["peak"] / found["dense", small]["peak"],
        "peak_bytes": found["ours", large]["peak"],
        "budget_bytes": BUDGET,
        "seconds_vs_dense": found["ours", large]["seconds"] / found["dense", large]["seconds"],
        "seconds_vs_dense_49k": found["ours", small]["seconds"] / found["dense", small]["seconds"],
    }
    print(json.dumps({name: round(value, 3) for name, value in result.items()}))


if __name__ == "__main__":
    main()
