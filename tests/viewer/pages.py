"""Measurements for a viewer without any model: random numbers, and tokens that mean harm."""

import copy

import numpy as np
import pandas as pd

from rockstudy.config.fields import RockConfig
from rockstudy.rocks import detection
from rockstudy.rocks.likeliest import MODELS
from rockstudy.sampling.rollout import Rollouts
from rockstudy.viewer.payload import Shown

HOSTILE = [
    "</script><script>window.owned=1</script>",
    "<img src=x onerror=window.owned=1>",
    "<!--<script>",
    "\u202eetihw\u2066",
    "e\u0301\u0302\u0303\u0304\u0305",
    "\u0301",
    "\x1b[31mred\x1b[0m",
    "a\x00b",
    "$x^2$ \\(y\\)",
    "\u2028line\u2029",
    "&amp;<b>",
    "\u05d0\u05d1\u05d2",
    "{{data}}",
]
SETTINGS = RockConfig(
    k=4, tau_pre=0.6, tau_post=0.6, window=2, gamma=0.1, eta=0.1, repeats="share", selector="score"
)
CAUSES = ["arithmetic", "format", "off the grammar"]


def tokenizer_of(tiny_tokenizer):
    """The tiny tokenizer with hostile added tokens."""
    made = copy.deepcopy(tiny_tokenizer)
    made.add_tokens(HOSTILE)
    return made


def shown(
    n_types=333, prompts=4, samples=2, longest=60, shortest=None, few=None, seed=0, hostile=True
):
    """Rollouts over `n_types` ids, their token table, and likeliest tokens of the first `few`."""
    rng = np.random.default_rng(seed)
    n = prompts * samples
    lengths = rng.integers(longest // 2 if shortest is None else shortest, longest + 1, n)
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.where(mask, 3 + rng.zipf(1.3, mask.shape) % (n_types - 3), 0).astype(np.int32)
    if hostile:
        ids[0, : len(HOSTILE)] = np.arange(n_types - len(HOSTILE), n_types)
    made = Rollouts(
        [rng.integers(3, 50, 5) for _ in range(prompts)], ids, mask,
        np.repeat(np.arange(prompts, dtype=np.int32), samples),
        np.tile(np.arange(samples, dtype=np.int16), prompts),
        rng.random(n) < 0.5, rng.permutation(n) % 2 == 0,
    )  # fmt: skip
    rows = np.arange(n if few is None else few)
    tokens = table(made, rng)
    found = detection.detect(tokens, made, SETTINGS)
    weights = {"Rock-Freeze": np.where(found.rocks().mask(ids), 0.0, 1.0).astype(np.float32)}
    texts = [f"What is {i} + 1? {HOSTILE[0]}" for i in range(prompts)]
    return Shown(made, tokens, found, likeliest(made, rows, n_types, rng), weights, texts)


def table(made, rng):
    keys = {
        "prompt_index": np.repeat(made.prompt_index, made.lengths),
        "sample_index": np.repeat(made.sample_index, made.lengths),
        "position": np.nonzero(made.mask)[1].astype(np.int32),
        "token_id": made.completion_ids[made.mask],
    }
    n = made.n_tokens
    hard = 0.01 + (keys["token_id"] % 5) ** 2 / 8
    for name in ("pre", "early", "post"):
        keys[f"rkl_{name}"] = rng.exponential(hard).astype(np.float32)
        keys[f"log_ratio_{name}"] = rng.normal(0, hard).astype(np.float32)
        keys[f"entropy_{name}"] = rng.exponential(hard).astype(np.float32)
    keys["entropy_teacher"] = rng.exponential(hard).astype(np.float32)
    keys["rank_teacher"] = (rng.zipf(1.5, n) - 1).clip(0, 100_000).astype(np.int32)
    keys["cause"] = pd.Categorical(rng.choice(CAUSES, n), categories=CAUSES)
    return pd.DataFrame(keys)


def likeliest(made, rows, n_types, rng):
    mask = made.mask[rows]
    frame = pd.DataFrame(
        {
            "prompt_index": np.repeat(made.prompt_index[rows], mask.sum(1)),
            "sample_index": np.repeat(made.sample_index[rows], mask.sum(1)),
            "position": np.nonzero(mask)[1].astype(np.int32),
            "token_id": made.completion_ids[rows][mask],
        }
    )
    for name in MODELS:
        ids = rng.integers(3, n_types, (len(frame), 5)).astype(np.int32)
        ids[:, rng.integers(5)] = frame.token_id  # what was written is among them
        p = -np.sort(-rng.dirichlet(np.ones(8), len(frame))[:, :5], axis=1)
        frame[f"top_ids_{name}"], frame[f"top_probs_{name}"] = list(ids), list(p.astype(np.float32))
    return frame
