"""Scores: the numbers that token types are ranked by to find the rocks (paper 2).

A score is a function of the type table and returns a number for each type; rocks have the largest
ones. Its name is a value of ``rocks__selector``. The table has ``count, n_prompts``; ``loss``, the
mean after OPD of the loss that the settings name; means of every measurement over the type's
occurrences (``rkl_pre_mean, rkl_post_mean, entropy_teacher_mean``); ``coverage``, its share of the
corpus loss; ``n_persistent`` and ``n_rock`` (occurrences); and ``ccr``.
"""

from __future__ import annotations

import pandas as pd

from rockstudy.config.registry import SCORES


@SCORES.register("score_ctx")
def score_ctx(types: pd.DataFrame) -> pd.Series:
    """R_ctx(v) = R(v) x CCR(v): the loss of a type, times the rate at which its contexts repeat."""
    return score(types) * types.ccr


@SCORES.register("score")
def score(types: pd.DataFrame) -> pd.Series:
    """R(v) = mean loss after OPD x occurrences; the paper's appendices and code rank by it."""
    return types.loss * types["count"]
