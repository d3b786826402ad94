"""Seconds and peak memory of context consistency over 10^4, 10^5 and 10^6 occurrences.

The corpus is a Zipf unigram process: tokens drawn independently, the k-th of 4,500 types with
probability proportional to 1/k, in completions of 1,000 tokens. Every position is an occurrence, so
the largest of 4,500 groups has a ninth of them, and windows are what stands around it. Windows are
encoded as bags of token ids. Real text repeats itself more: equal windows, which are merged, make
it faster, and more pairs that share a rare token slower. That is not measured here.

Each size runs in a process of its own, so that its peak is its own. Peak memory is above what the
process held before the call, corpus included.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
TYPES, LENGTH = 4_500, 1_000


def corpus(n: int, seed: int = 0):
    """Rollouts of `n` tokens in all."""
    from rockstudy.rollout import Rollouts

    rng = np.random.default_rng(seed)
    cumulative = np.cumsum(1 / np.arange(1, TYPES + 1))
    rows = -(-n // LENGTH)
    ids = np.empty((rows, LENGTH), np.int32)
    for row in ids:  # row by row: the corpus' own peak must not hide the call's
        row[:] = np.searchsorted(cumulative, rng.random(LENGTH) * cumulative[-1])
    mask = np.arange(rows * LENGTH).reshape(ids.shape) < n
    prompts = [np.zeros(1, np.int64)]
    index = np.zeros(rows, np.int32)
    return Rollouts(prompts, ids, mask, index, index.astype(np.int16), np.zeros(rows, bool))


def work(n: int, radius: int, gamma: float) -> None:
    """Measure one size and print it as JSON."""
    from rockstudy import contexts

    rollouts = corpus(n)
    rows, columns = np.nonzero(rollouts.mask)
    groups = rollouts.completion_ids[rows, columns]
    warm = contexts.bag_of_ids(rollouts, rows[:100], columns[:100], radius)
    contexts.consistency(warm, groups[:100], gamma)
    base = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    start = time.perf_counter()
    features = contexts.bag_of_ids(rollouts, rows, columns, radius)
    encoded = time.perf_counter()
    rho = contexts.consistency(features, groups, gamma)
    done = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - base
    found = {"windows": encoded - start, "consistency": done - encoded, "peak": peak}
    found |= {"largest": int(np.bincount(groups).max()), "mean_rho": float(np.nanmean(rho))}
    print(json.dumps(found))


def main() -> None:
    """Measure, print a table, end with one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--sizes", default="1e4,1e5,1e6", help="occurrences, comma-separated")
    parser.add_argument("--radius", type=int, default=4, help="tokens on each side")
    parser.add_argument("--gamma", type=float, default=0.5, help="least similarity")
    given = parser.parse_args()
    if given.worker:
        work(given.worker, given.radius, given.gamma)
        return
    options = ["--radius", str(given.radius), "--gamma", str(given.gamma)]
    print(f"Zipf corpus of {TYPES:,} types, radius {given.radius}, gamma {given.gamma}")
    names = ["occurrences", "largest", "windows s", "rho s", "peak MB", "mean rho"]
    print("".join(f"{name:>12}" for name in names))
    summary = {}
    for name in given.sizes.split(","):
        n = round(float(name))
        command = [sys.executable, __file__, "--worker", str(n), *options]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        run = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        found = json.loads(run.stdout)
        print(
            f"{n:12,}{found['largest']:12,}{found['windows']:12.2f}{found['consistency']:12.2f}"
            f"{found['peak'] / 1e6:12,.0f}{found['mean_rho']:12.4f}",
            flush=True,
        )
        label = f"{n:.0e}".replace("e+0", "e")
        summary[f"seconds_{label}"] = found["windows"] + found["consistency"]
        summary[f"peak_bytes_{label}"] = found["peak"]
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
