"""One text and what arms of equal shares leave out of it, the picture that opens notebook 09.

How this can mislead: it is one text, chosen because it holds the token that all notebooks follow.
What an arm leaves out of all texts is in `steps.matched`.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats

from rockstudy.beyond.freezing.frontier import is_baseline
from rockstudy.models import loading
from rockstudy.models.token_texts import token_texts
from rockstudy.rocks import followed
from rockstudy.rocks.steps import TOKENS, measured, tokens_hash
from rockstudy.runs import Run, table
from rockstudy.selective import arms as selective
from rockstudy.selective import steps as selective_steps
from rockstudy.training.position_weights import Batch, evaluate

SHOWN = ("equal-positions-score", "equal-positions-rkl", "equal-loss-score", "equal-loss-frequency")

BY = ("share", "loss_share", "moved_ratio")
FEWEST = 5  # ours: arms of a correlation


@table(*TOKENS, "rocks", "freezing", inputs=tokens_hash)
def left_out(run: Run) -> pd.DataFrame:
    """The tokens of one text, and whether the arms of `SHOWN` train on them.

    The columns are those of `selective.followed.left_out`; random parts are the first seed's.
    """
    found, wanted = measured(run), int(followed.token(run).token_id)
    rollouts, made = found.rollouts, selective_steps.material(run)
    holding = ((rollouts.completion_ids == wanted) & rollouts.mask).any(1)
    first = int(np.flatnonzero(holding)[0])
    mask, losses = rollouts.mask[first], np.zeros(rollouts.mask.shape)
    losses[rollouts.mask] = made.tokens.rkl_post
    ids = rollouts.completion_ids[first][mask]
    batch = Batch(torch.from_numpy(ids.astype(np.int64))[None], torch.ones(1, len(ids)).bool())
    loss = torch.from_numpy(losses[first][mask])[None].float()
    about = {"position": range(len(ids)), "text": token_texts(loading.tokenizer_of(run), ids)}
    about |= {"followed": ids == wanted, "rkl": losses[first][mask]}
    frames = []
    for name in SHOWN:
        weights = selective.build(name, made, run.config.seeds[0]).weights
        out = evaluate(weights, batch, loss)[0].numpy() == 0
        frames.append(pd.DataFrame(about).assign(arm=name, left_out=out))
    columns = ["arm", "position", "text", "followed", "rkl", "left_out"]
    return pd.concat(frames, ignore_index=True)[columns]


def summary(trainings: pd.DataFrame, matched: pd.DataFrame) -> pd.DataFrame:
    """What each arm left out, how far it went and how long it took, the mean over its trainings.

    `trainings` and `matched` are the tables of `steps`. Columns: ``arm, seeds, share, loss_share``
    (in training), ``share_matched, loss_share_matched`` (on the rollouts of the statistics; NaN for
    arms of notebook 07), ``moved`` (as a share of the norm of the weights at the start),
    ``moved_ratio`` (over the baseline's of the same seeds) and ``seconds``.
    """
    base = trainings[trainings["arm"] == "baseline"].set_index("seed").moved
    rows = trainings.assign(
        moved_ratio=trainings.moved / trainings.seed.map(base),
        moved=trainings.moved / trainings.start,
    )
    columns = ["share", "loss_share", "moved", "moved_ratio", "seconds"]
    grouped = rows.groupby("arm", sort=False)
    known = matched.set_index("arm")[["share", "loss_share"]].add_suffix("_matched")
    made = grouped[columns].mean().join(known)
    return made.assign(seeds=grouped.size()).reset_index()[
        ["arm", "seeds", "share", "loss_share", *known.columns, *columns[2:]]
    ]


def explained(excess: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame:
    """Rank correlations over arms of what they learn and forget with what they leave out.

    `excess` is that of `frontier.excess`. A row for each of ``gain, change, excess`` and each of
    ``share, loss_share, moved_ratio``: ``of, by, value, lo, hi, n``, with an interval by Fisher's z
    (Bonett and Wright 2000), which takes the arms as independent; NaN with fewer than five arms.
    Arms that change the learning rate alone are left out.
    """
    arms = excess[~excess["arm"].map(is_baseline)].merge(summary, on="arm")
    rows = []
    for of, by in itertools.product(("gain", "change", "excess"), BY):
        known = arms[[of, by]].dropna()
        row: dict[str, Any] = {"of": of, "by": by, "n": len(known)}
        row |= dict.fromkeys(("value", "lo", "hi"), np.nan)
        if len(known) >= FEWEST and known.nunique().min() > 1:
            rho = float(stats.spearmanr(known[of], known[by]).statistic)
            half = 1.96 * np.sqrt((1 + rho**2 / 2) / (len(known) - 3))
            z = np.arctanh(np.clip(rho, -1 + 1e-12, 1 - 1e-12))
            row |= {"value": rho, "lo": np.tanh(z - half), "hi": np.tanh(z + half)}
        rows.append(row)
    return pd.DataFrame(rows)[["of", "by", "value", "lo", "hi", "n"]]
