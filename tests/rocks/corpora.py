"""Small corpora of rollouts that tests of contexts and encoders share."""

import numpy as np

from rockstudy.sampling.rollout import Rollouts

PAD = 3  # also a token of the corpora, so that padding in a window would be found


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
