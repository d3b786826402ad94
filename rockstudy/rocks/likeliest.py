"""The five most likely tokens of the teacher and of the student before and after.

They are no part of the token table: with them a corpus would have 30 more numbers at each position.
An export computes them block by block for all completions. The token viewer stores them for the few
that it shows (`shown`), so that a reference, which holds no models, shows them too.

    top_ids_<model> int32 (5,), top_probs_<model> float32 (5,)    most likely first, temperature 1
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from rockstudy import progress
from rockstudy.errors import StudyError
from rockstudy.models.divergence import Head, States
from rockstudy.models.top_tokens import top_tokens
from rockstudy.parallel.out_of_memory import advised
from rockstudy.rocks.steps import TOKENS, measured, tokens_hash
from rockstudy.rocks.token_table import BATCH_TOKENS, KEYS
from rockstudy.runs import Run, table
from rockstudy.sampling.rollout import Rollouts, completion_states
from rockstudy.training import stages

TOP = 5  # of each model at each position
MODELS = {"teacher": "the teacher", "pre": "the student before", "post": "the student after"}
SHOWN = 24  # ours: rollouts that a viewer shows


@table(*TOKENS, inputs=tokens_hash)
def shown(run: Run, n: int) -> pd.DataFrame:
    """The likeliest tokens of `n` rollouts that `chosen` picks: a row per position (`of_rows`)."""
    run.needs_models("likeliest tokens")
    corpus = measured(run)
    return of_rows(corpus.rollouts, chosen(corpus.rollouts, corpus.tokens, n), corpus.model)


def missing_models(run: Run) -> str | None:
    """Why no model can be read without training one; None where all can be."""
    if run.reference is not None:
        return f"the reference of {run.config.preset} holds no models"
    given = run.config.models is not None
    if not given and not stages.is_trained(run, "stage2", seed=run.config.seeds[0]):
        return f"the checkpoints of the run {run.id!r} are not stored"
    return None


def chosen(rollouts: Rollouts, tokens: pd.DataFrame, n: int) -> np.ndarray:
    """Rows of `n` rollouts that differ in loss, half of them right where they are graded.

    Right ones and wrong ones are each sorted by their mean reverse KL after distillation (nats per
    token, from the token table `tokens`), and taken at even steps from the least to the largest.
    Fewer than `n` where there are not as many with a token. The rows, int64, are in the order of
    prompts and samples.

    `StudyError`: a number below 1.
    """
    if n < 1:
        raise StudyError(f"rollouts: must be a whole number >= 1; got {n}")
    keys = ["prompt_index", "sample_index"]
    loss = tokens.groupby(keys).rkl_post.mean()
    place = pd.MultiIndex.from_arrays([rollouts.prompt_index, rollouts.sample_index], names=keys)
    by_loss = np.argsort(loss.reindex(place).to_numpy(), kind="stable")
    by_loss = by_loss[rollouts.lengths[by_loss] > 0]
    graded = np.zeros(len(rollouts), bool) if rollouts.correct is None else rollouts.correct
    right, wrong = by_loss[graded[by_loss]], by_loss[~graded[by_loss]]
    n_right = min(len(right), max(n // 2, n - len(wrong)))
    some = np.concatenate([_spread(right, n_right), _spread(wrong, n - n_right)])
    return some[np.lexsort((rollouts.sample_index[some], rollouts.prompt_index[some]))]


def _spread(rows: np.ndarray, n: int) -> np.ndarray:
    """At most `n` of the rows at even steps, the first and the last among them."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(n, len(rows))).round().astype(int))]


def of_rows(
    rollouts: Rollouts, rows: np.ndarray, load: Callable[[str], PreTrainedModel]
) -> pd.DataFrame:
    """The likeliest tokens at each position of some rollouts, row after row.

    `load` gives each of `MODELS` by name; one is in memory at a time. Columns: ``prompt_index,
    sample_index, position, token_id``, and for every model ``top_ids_<model>`` and
    ``top_probs_<model>``, of `TOP` values each.
    """
    mask = rollouts.mask[rows]
    columns = {
        "prompt_index": np.repeat(rollouts.prompt_index[rows], mask.sum(1)),
        "sample_index": np.repeat(rollouts.sample_index[rows], mask.sum(1)),
        "position": np.nonzero(mask)[1].astype(np.int32),
        "token_id": rollouts.completion_ids[rows][mask],
    }
    frame = pd.DataFrame(columns, columns=list(KEYS))
    with progress.bar(len(MODELS), "likeliest tokens", "model") as bar:
        for name in MODELS:
            ids, probabilities = likeliest(load(name), rollouts, rows)
            found = {f"top_ids_{name}": list(ids), f"top_probs_{name}": list(probabilities)}
            frame = frame.assign(**found)
            bar.update()
    return frame


def likeliest(
    model: PreTrainedModel, rollouts: Rollouts, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Ids int32 and probabilities float32, (N, TOP), at the positions of some rollouts.

    Row by row in the order of `rows`, which are rollouts with at least one token.
    """
    lengths = rollouts.lengths[rows]
    widths = lengths + [len(rollouts.prompt_ids[rollouts.prompt_index[r]]) for r in rows]
    made: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    order, head = np.argsort(widths, kind="stable"), Head.of(model)
    while len(order):  # the widest first, as many as fit
        n = max(1, BATCH_TOKENS // int(widths[order[-1]]))
        order, some = order[:-n], order[-n:]
        with advised("likeliest tokens", {}):
            top = top_tokens(States(completion_states(model, rollouts, rows[some]), head), TOP)
        ids, probabilities = (one.cpu().numpy() for one in top)
        cuts = np.cumsum(lengths[some])[:-1]
        both = (np.split(ids.astype(np.int32), cuts), np.split(probabilities, cuts))
        made |= dict(zip(some.tolist(), zip(*both, strict=True), strict=True))
    ids, probabilities = zip(*(made[place] for place in range(len(rows))), strict=True)
    return np.concatenate(ids), np.concatenate(probabilities)
