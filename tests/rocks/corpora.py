"""Small corpora of rollouts, and of token tables, that the tests of this room share."""

import numpy as np
import pandas as pd

from rockstudy.config.fields import RockConfig
from rockstudy.sampling.rollout import Rollouts

PAD = 3  # also a token of the corpora, so that padding in a window would be found
ROCKS = {
    "k": 3,
    "tau_pre": 0.4,
    "tau_post": 0.5,
    "window": 2,
    "gamma": 0.5,
    "eta": 0.2,
    "repeats": "share",
}
SETTINGS = RockConfig(selector="score_ctx", **ROCKS)  # the score that needs all of it
N_PROMPTS, SAMPLES = 30, 2


def rollouts(lengths, types=12, seed=0):
    """Completions of tokens drawn with probability 1 / (k + 1), padded with a real token's id."""
    rng = np.random.default_rng(seed)
    chance = 1 / np.arange(1, types + 1)
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    ids = rng.choice(types, size=mask.shape, p=chance / chance.sum()).astype(np.int32)
    prompts = [rng.integers(0, types, n) for n in (1, 4, 2)]
    index = (np.arange(len(lengths)) % 3).astype(np.int32)
    ids[~mask] = PAD
    return Rollouts(prompts, ids, mask, index, index.astype(np.int16), np.zeros(len(mask), bool))


def every_token(corpus):
    """Rows, columns and types of all positions, in shuffled order."""
    rows, columns = np.random.default_rng(9).permutation(np.argwhere(corpus.mask)).T
    return rows, columns, corpus.completion_ids[rows, columns]


def window(corpus, row, column, radius):
    ids = corpus.completion_ids[row, : corpus.mask[row].sum()].tolist()
    return ids[max(0, column - radius) : column] + ids[column + 1 : column + 1 + radius]


def scored():
    """Rollouts over 12 token types, some of them twice as hard, and their token table."""
    rng = np.random.default_rng(0)
    n = N_PROMPTS * SAMPLES
    lengths = rng.integers(1, 40, n)
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.where(mask, rng.zipf(1.6, mask.shape) % 12, 0).astype(np.int32)
    prompt = np.repeat(np.arange(N_PROMPTS), SAMPLES).astype(np.int32)
    sample = np.tile(np.arange(SAMPLES), N_PROMPTS).astype(np.int16)
    prompts = [np.array([1, 2], np.int64)] * N_PROMPTS
    rollouts = Rollouts(prompts, ids, mask, prompt, sample, np.ones(n, bool))
    hard = 1 + (ids[mask] % 3)
    table = pd.DataFrame(
        {
            "prompt_index": np.repeat(prompt, lengths),
            "sample_index": np.repeat(sample, lengths),
            "position": np.nonzero(mask)[1].astype(np.int32),
            "token_id": ids[mask],
        }
    )
    for stage in ("pre", "post"):
        table[f"rkl_{stage}"] = rng.exponential(hard).astype(np.float32)
        table[f"log_ratio_{stage}"] = rng.normal(hard).astype(np.float32)
    return table, rollouts
