"""Random numbers: a stream for each unit of each stage, independent of all others."""

import zlib

import numpy as np


def generator(seed: int, stage: str, unit: int = 0) -> np.random.Generator:
    """Return the generator of one unit of one stage, independent of all others."""
    return np.random.default_rng(_seed_sequence(seed, stage, unit))


def torch_seed(seed: int, stage: str, unit: int = 0) -> int:
    """Return a seed below 2**32: torch takes more, but what seeds torch often seeds numpy too."""
    return int(_seed_sequence(seed, stage, unit).generate_state(1)[0])


def _seed_sequence(seed: int, stage: str, unit: int) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(stage.encode()), unit])
