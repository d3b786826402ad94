"""Speed and peak memory at the shapes of Qwen3-0.6B (student) and 4B (teacher), random weights.

    opd       a training step: ours, TRL's trainer untouched, a plain loop with full logits
    rollouts  the student's sampled completions: ours, transformers' `generate`
    table     the token table, and two bare forward passes on the same tokens

The sides and their work are those of `opd_step`, `rollouts` and `token_table`. They run one after
another, each alone on the device, since three training processes do not fit on a card. ``--body
small`` has two narrow layers and shows on a CPU that the script runs. Ends with one JSON object;
``_peak_bytes`` is the increase over the models, ``_whole_bytes`` includes them.
"""

import argparse
import importlib
import json
from typing import Any

import torch
from common import DEVICE, SHAPES, Side, faster, measure, rounded

WAYS = {
    "opd": ("opd_step", ("ours", "trl", "full-logits")),
    "rollouts": ("rollouts", ("ours", "generate")),
    "table": ("token_table", ("table", "bare")),
}
PAIRS = {"qwen3": ("qwen3-0.6b", "qwen3-4b"), "small": ("small", "small")}
# Ours: rows and lengths that an 80 GB card holds in every way and does within seconds.
SIZES = {
    "opd": {"rows": 8, "micro": 4, "length": 512},
    "rollouts": {"rows": 64, "batch": 64, "limit": 128},
    "table": {"rows": 32, "length": 512},
}
SMALL = {"rows": 2, "micro": 2, "length": 16, "batch": 2, "limit": 8}


def job(kind: str, body: str, vocab: int) -> dict[str, Any]:
    """What all sides of a kind are given."""
    student, teacher = (SHAPES[name] for name in PAIRS[body])
    size = SIZES[kind] if body == "qwen3" else {name: SMALL[name] for name in SIZES[kind]}
    models: dict[str, Any] = {
        "opd": {"body": body},
        "rollouts": {"model": "random", "body": student},
        "table": {"teacher": teacher, "student": student},
    }[kind]
    return size | models | {"vocab": vocab}


def summary(kind: str, sides: dict[str, Side]) -> dict[str, float]:
    """Tokens per second and bytes of every side, and the first one's speed over the others."""
    found: dict[str, float] = {}
    first = next(iter(sides.values()))
    for way, side in sides.items():
        name = f"{kind}_{way.replace('-', '_')}"
        found[f"{name}_tokens_per_s"] = float(side.rate)
        found[f"{name}_peak_bytes"], found[f"{name}_whole_bytes"] = side.peak, side.whole
        if side is not first:
            found[f"{kind}_tokens_per_s_vs_{way.replace('-', '_')}"] = faster(first, side)
    return found


def main() -> None:
    """Measure one kind, print a table, end with one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=list(WAYS))
    parser.add_argument("--vocab", type=int, default=151_936, help="of both models; Qwen3's")
    parser.add_argument("--body", choices=list(PAIRS), default="qwen3")
    parser.add_argument("--repeats", type=int, default=5, help="timed repetitions of each side")
    given = parser.parse_args()
    script, ways = WAYS[given.kind]
    work, size = importlib.import_module(script).work, job(given.kind, given.body, given.vocab)
    sides: dict[str, Side] = {}
    for way in ways:
        sides |= measure(work, {way: size | {"way": way}}, given.repeats)
    print(f"{given.kind}, {given.body}, V = {given.vocab:,}, {DEVICE}")
    print(f"{'':14}{'tokens/s':>12}{'seconds':>10}{ways[0] + ' over it':>18}{'peak MB':>10}")
    for way, side in sides.items():
        ratio = faster(sides[ways[0]], side)
        row = f"{way:14}{side.rate:12,.0f}{side.seconds:10.3f}{ratio:18.2f}"
        print(f"{row}{side.peak / 1e6:10,.0f}")
    about = {"vocab": given.vocab, "threads": torch.get_num_threads()}
    print(json.dumps(rounded(summary(given.kind, sides) | about)))


if __name__ == "__main__":
    main()
