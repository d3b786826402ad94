r"""Which causes does capacity cure? What two students of different width keep, by known cause.

With l_i(w, t) the reverse KL in nats of the student of width w (``ordinary, wide``) at time t
(``before, after`` OPD) at position i, and I_c the positions of cause c,

    mean loss     l_c(w, t) = mean of l_i(w, t) over I_c
    cured         l_c(ordinary, after) - l_c(wide, after)                   above 0: capacity helps
    cured share   cured / l_c(ordinary, after)                     1: nothing is left of the cause
    head start    l_c(ordinary, before) - l_c(wide, before)
    part          summed difference over I_c / that over all positions      adds up to 1

All four students are read on the same tokens, so that everything is paired by position. A student's
reverse KL is low on what it writes itself, where it wanders least: on texts of one student alone
the other would look worse than it is. The texts are therefore of two kinds.

    students    completions of both students after OPD, as many of one as of the other, to the same
                prompts: each student reads its own half, so that neither is favoured. This is
                where OPD itself measures the loss.
    teacher     the teacher's completions, which neither student has written; OPD has trained
                neither on them.

A cause counts as cured where both agree.

How this can mislead: the wide student was also pretrained with its width, so that its habits may
differ before OPD; ``head start`` shows by how much. One model of each width was pretrained, and the
intervals do not hold what another pretraining would change. Both distil with the same learning
rate, which was chosen for the ordinary one. ``part`` has no meaning where the students differ in
nothing as a whole.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.random import Generator

from rockstudy.beyond.persistence.suppression import POOLED, pooled, weights_of

WIDTHS, TIMES = ("ordinary", "wide"), ("before", "after")
LOSSES = [f"{width}_{time}" for width in WIDTHS for time in TIMES]
TEXTS = {"students": ("ordinary", "wide"), "teacher": ("teacher",)}  # who wrote them
ALL = "all"
DIFFERENCES = ("cured", "cured share", "head start", "part")


def by_cause(sums: pd.DataFrame, rng: Generator) -> pd.DataFrame:
    """Mean losses of the four students and their differences, by cause and kind of texts.

    `sums` has ``seed, writer, prompt_index, cause, count`` and the summed `LOSSES`; positions
    without a cause count in ``all`` alone. A row per kind of `TEXTS`, cause (`ALL` is one) and
    measure (`LOSSES`, `DIFFERENCES`): ``texts, cause, measure`` and those of `suppression.pooled`,
    whose draws resample prompts, the same in all seeds.
    """
    causes, prompts = sorted(set(sums.cause) - {""}), np.unique(sums.prompt_index)
    weights, rows = weights_of(len(prompts), rng), []
    for texts, writers in TEXTS.items():
        some = sums[sums.writer.isin(writers)]
        seeds = [
            _measures(_cells(one, causes, prompts), weights) for _, one in some.groupby("seed")
        ]
        for measure in (*LOSSES, *DIFFERENCES):
            values = np.stack([one[measure] for one in seeds])  # (S, 1 + draws, causes + 1)
            for place, cause in enumerate((*causes, ALL)):
                at = {"texts": texts, "cause": cause, "measure": measure}
                ends = pooled(values[:, 0, place], values[:, 1:, place], len(prompts))
                rows.append(at | ends)
    return pd.DataFrame(rows, columns=["texts", "cause", "measure", *POOLED])


def _cells(some: pd.DataFrame, causes: list[str], prompts: np.ndarray) -> dict[str, np.ndarray]:
    """Sums by column (U, causes + 1) of each prompt and cause, and of all positions last."""
    table = some.groupby(["prompt_index", "cause"])[["count", *LOSSES]].sum().astype(float)
    made = {}
    for column in table:
        wide = table[column].unstack(fill_value=0.0).reindex(prompts, fill_value=0.0)
        whole = wide.sum(axis=1).to_numpy()[:, None]
        made[column] = np.hstack([wide.reindex(columns=causes, fill_value=0.0).to_numpy(), whole])
    return made


def _measures(cells: dict[str, np.ndarray], weights: np.ndarray) -> dict[str, np.ndarray]:
    """All measures (1 + draws, causes + 1) under weights of the prompts (1 + draws, U)."""
    under = {column: weights @ values for column, values in cells.items()}
    made = {name: _over(under[name], under["count"]) for name in LOSSES}
    made["cured"] = made["ordinary_after"] - made["wide_after"]
    made["cured share"] = _over(made["cured"], made["ordinary_after"])
    made["head start"] = made["ordinary_before"] - made["wide_before"]
    apart = under["ordinary_after"] - under["wide_after"]
    made["part"] = _over(apart, np.broadcast_to(apart[:, -1:], apart.shape))
    return made


def _over(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """A ratio, NaN over 0."""
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)
