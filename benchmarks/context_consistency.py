"""Seconds and peak memory of context consistency over 10^4, 10^5 and 10^6 occurrences.

The corpus is a Zipf unigram process: tokens drawn independently, the k-th of 4,500 types with
probability proportional to 1/k, in completions of 1,000 tokens. Every position is an occurrence, so
the largest of 4,500 groups has a ninth of them. Windows around the occurrences are encoded as bags
of token ids. Real text is more repetitive: equal windows, which are merged, make it faster, while
more pairs that share a rare token make it slower. This benchmark does not measure that.
"""

import argparse
import json
from typing import Any

import numpy as np
from common import Job, Turns, measure, rounded

from rockstudy.rocks import contexts, encoders
from rockstudy.sampling.rollout import Rollouts

TYPES, LENGTH = 4_500, 1_000
SIZE = {"radius": 4, "gamma": 0.5}
GROWTH = {
    "occurrences": ("occurrences", (25_000, 50_000, 100_000, 200_000), SIZE, ("ours",)),
}


def corpus(n: int, seed: int = 0) -> Rollouts:
    """Rollouts of `n` tokens in all."""
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


def work(job: Job, turns: Turns) -> None:
    """Take the windows of every position, and the consistency of every type."""
    rollouts = corpus(job["occurrences"])
    rows, columns = np.nonzero(rollouts.mask)
    groups = rollouts.completion_ids[rows, columns]

    def once(n: int | None = None) -> dict[str, Any]:
        features = encoders.bag_of_ids(rollouts, rows[:n], columns[:n], job["radius"])
        rho = contexts.consistency(features, groups[:n], job["gamma"])
        largest = int(np.bincount(groups).max())
        return {"tokens": len(groups), "largest": largest, "mean_rho": float(np.nanmean(rho))}

    once(100)  # warm
    turns.run(once)


def main() -> None:
    """Measure, print a table, end with one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="1e4,1e5,1e6", help="occurrences, comma-separated")
    parser.add_argument("--radius", type=int, default=4, help="tokens on each side")
    parser.add_argument("--gamma", type=float, default=0.5, help="least similarity")
    given = parser.parse_args()
    print(f"Zipf corpus of {TYPES:,} types, radius {given.radius}, gamma {given.gamma}")
    names = ["occurrences", "largest", "seconds", "peak MB", "mean rho"]
    print("".join(f"{name:>12}" for name in names))
    summary = {}
    for name in given.sizes.split(","):
        n = round(float(name))
        job = {"occurrences": n, "radius": given.radius, "gamma": given.gamma}
        side = measure(work, {name: job}, 1, warm=0)[name]
        largest, rho = side.last["largest"], side.last["mean_rho"]
        numbers = f"{side.seconds:12.2f}{side.peak / 1e6:12,.0f}{rho:12.4f}"
        print(f"{n:12,}{largest:12,}{numbers}", flush=True)
        label = f"{n:.0e}".replace("e+0", "e")
        summary[f"seconds_{label}"] = side.seconds
        summary[f"peak_bytes_{label}"] = side.peak
    print(json.dumps(rounded(summary)))


if __name__ == "__main__":
    main()
