r"""How much of the gradients of a group is common to them: the opposite of cancelling.

With g_i the gradient of the loss at position i to all weights, and mu its mean over the group,

    kappa = |mu|^2 / E |g_i|^2          1 where all are equal, 0 where they cancel

|mu|^2 is estimated without bias from sums S_f over disjoint folds of whole prompts, by products of
different folds alone (as in `rockstudy.gradients.type_gradients`), so that noise cancels and the
estimate may be negative. E |g_i|^2 needs no single gradient either. With signs s_i in a random
order, as many of each as can be, so that their sum c is 0 or 1,

    E |sum_i s_i g_i|^2 = (1 - r) sum_i |g_i|^2 + r |S|^2,   r = (c^2 - n) / (n (n - 1))

so that one more backward pass for each fold gives an unbiased sum of squares, in which what the
gradients have in common adds no noise.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.random import Generator
from torch import Tensor

from rockstudy.beyond.persistence.texts import FixedTexts

FOLDS = 8  # ours: four in each half; every fold costs two backward passes for each group
DRAWS = 2_000  # ours
WIDTH = 2**23  # ours: gradients of a larger student are sketched, 32 MB for each fold


def folds_of(prompts: np.ndarray) -> np.ndarray:
    """The fold (N,) of each position's prompt: prompts in turn, so that folds are of one size."""
    found, place = np.unique(prompts, return_inverse=True)
    return place % min(FOLDS, len(found))


def products(texts: FixedTexts, groups: Mapping[str, np.ndarray], rng: Generator) -> pd.DataFrame:
    """Products of the folds' summed gradients, for each group, bool (N,).

    A row for each group and pair of folds: ``group, fold, other, product`` (of the sums), and of
    the first fold ``n`` (positions) and ``squares``, the estimated sum of |g_i|^2.
    """
    fold, frames = folds_of(texts.frame.prompt_index.to_numpy()), []
    inside = np.arange(fold.max() + 1)[:, None] == fold
    for name, chosen in groups.items():
        mine = inside * chosen
        signs = np.stack([_signs(one, rng) for one in mine])
        both: Tensor = texts.gradients(np.concatenate([mine, signs]), WIDTH)
        sums, signed = both.split(len(mine))
        gram, n = (sums @ sums.T).double().cpu().numpy(), mine.sum(1)
        own = signed.square().sum(1).double().cpu().numpy()
        squares = sum_of_squares(own, np.diag(gram), n)
        a, b = np.indices(gram.shape).reshape(2, -1)
        rows = {"group": name, "fold": a, "other": b, "product": gram.ravel()}
        frames.append(pd.DataFrame(rows | {"n": n[a], "squares": squares[a]}))
    return pd.concat(frames, ignore_index=True)


def _signs(chosen: np.ndarray, rng: Generator) -> np.ndarray:
    """Signs in random order at the chosen positions (N,), as many of each as can be; else 0."""
    signs = np.zeros(len(chosen))
    signs[chosen] = rng.permutation(np.resize([1.0, -1.0], int(chosen.sum())))
    return signs


def sum_of_squares(signed: np.ndarray, whole: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Unbiased sums of |g_i|^2 (F,) from |sum s_i g_i|^2 and |S|^2 of n gradients each."""
    several = np.maximum(n, 2)
    r = np.where(n > 1, (n % 2 - several) / (several * (several - 1)), 0.0)
    return (signed - r * whole) / (1 - r)


def kappa(some: pd.DataFrame, rng: Generator) -> tuple[float, np.ndarray, float]:
    """Kappa of one group's `products`, its bootstrap draws over folds, the cosine of the halves.

    Draws resample folds; a fold's product with itself is left out however often it is drawn. NaN
    where no two folds have positions.
    """
    gram = some.pivot(index="fold", columns="other", values="product").to_numpy()
    own = some.drop_duplicates("fold").sort_values("fold")
    n, squares = own.n.to_numpy(float), own.squares.to_numpy()
    weights = np.vstack(
        [np.ones(len(n)), rng.multinomial(len(n), np.full(len(n), 1 / len(n)), DRAWS)]
    )
    apart = gram * ~np.eye(len(n), dtype=bool)
    pairs = np.outer(n, n) * ~np.eye(len(n), dtype=bool)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = _form(weights, apart) / _form(weights, pairs)
        values = mean / ((weights @ squares) / (weights @ n))
        half = np.arange(len(n)) < len(n) // 2
        a, b = half.astype(float), (~half).astype(float)
        cosine = a @ gram @ b / np.sqrt((a @ gram @ a) * (b @ gram @ b))
    return float(values[0]), values[1:], float(cosine)


def _form(weights: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return np.einsum("bi,ij,bj->b", weights, matrix, weights)
