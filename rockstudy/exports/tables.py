"""What a run has measured, as tables and sets for other programs.

Nothing is computed here that takes long: what an earlier notebook has not computed is an error
whose line names the notebook.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

import rockstudy
from rockstudy.claims import records
from rockstudy.errors import StudyError
from rockstudy.models import loading
from rockstudy.models.token_texts import decoded
from rockstudy.rocks import steps as rocks_steps
from rockstudy.rocks.detection import Detection
from rockstudy.rocks.token_file import Origin, TokenFile
from rockstudy.runs import NotStored, Run
from rockstudy.sampling.rollout import Rollouts
from rockstudy.selective import arms
from rockstudy.selective.material import Material
from rockstudy.training.position_weights import Batch, Ramp, Redetected, evaluate

KEYS = ["prompt_index", "sample_index"]


def reading(run: Run) -> Run:
    """The run, of which what is not stored is an error instead of a computation."""
    return replace(run, reading=True, _kept={})


@contextlib.contextmanager
def from_notebook(run: Run, number: str) -> Iterator[None]:
    """Have the line about what is not stored name the notebook that computes it."""
    try:
        yield
    except NotStored as error:
        own = run.path != run.reference
        which = f"--run-id {run.id}" if own else f"--preset {run.config.preset}"
        hint = f"`rockstudy run {number} {which}` computes it"
        raise StudyError(f"{error}; {hint}") from None


def rocks(run: Run) -> TokenFile:
    """The rocks of a run with their texts, bytes and scores, and the tokenizer's identity.

    `StudyError`: notebook 02 has not been run.
    """
    with from_notebook(run, "02"):
        run = reading(run)
        found = detection_of(run)
        threshold = _threshold(run, found)
    name, preset = display_name(run.config.pair.teacher), run.config.preset
    origin = Origin(id=run.id, preset=preset, rockstudy=rockstudy.__version__)
    tokenizer = loading.tokenizer_of(run)
    return TokenFile.of(found, tokenizer, threshold=threshold, model=name, run=origin)


def display_name(model: str) -> str:
    """A model's name without the folders of this machine."""
    return os.path.basename(os.path.normpath(model)) if os.path.isabs(model) else model


def detection_of(run: Run) -> Detection:
    """The stored detection of a run: its types, persistent occurrences and thresholds."""
    both = rocks_steps.thresholds(run).iloc[0]
    types, persistent = rocks_steps.types(run), rocks_steps.persistent(run)
    tau = float(both.tau_pre), float(both.tau_post)
    return Detection(types, persistent, *tau, run.config.rocks)


def _threshold(run: Run, found: Detection) -> float:
    """`Material.threshold`; only rocks by another loss than the reverse KL need the token table."""
    other = run.config.rocks.loss != "rkl"
    tokens = rocks_steps.Measured(run).tokens if other else pd.DataFrame()
    return Material(found, tokens, (), run.config).threshold


def rollouts(run: Run) -> pd.DataFrame:
    """The completions that the rocks were found in, a row each, as other programs read them.

    ``prompt`` is the text that the model read, with its special tokens, and ``completion`` what it
    wrote, without; ``prompt_ids`` and ``completion_ids`` are the tokens, an end of text among
    them. Then ``prompt_index, sample_index, stopped`` (ended by itself) and, where they were
    graded, ``correct``. The texts are for reading: tokenised again they can give other tokens.

    `StudyError`: notebook 02 has not been run.
    """
    with from_notebook(run, "02"):
        run = reading(run)
        made = rocks_steps.Measured(run).rollouts
    tokenizer = loading.tokenizer_of(run)
    prompts = np.array(decoded(tokenizer, made.prompt_ids), object)
    frame = made.to_frame().assign(
        prompt=prompts[made.prompt_index], completion=made.texts(tokenizer)
    )
    first = ["prompt", "prompt_ids", "completion", "completion_ids", *KEYS]
    return frame[[*first, *[name for name in ("correct", "stopped") if name in frame]]]


def weights(run: Run, arm: str = "rock-freeze") -> pd.DataFrame:
    """Position weights of the exported rollouts under an arm, a row each in the same order.

    Columns: ``prompt_index, sample_index, completion_ids`` and ``weights``, float32, one for each
    of the completion's tokens: the factor on the loss where that token is predicted. Windows are
    those of the reverse KL after OPD, and random ones are drawn for the first training seed.

    `StudyError`: an unknown arm; one whose weights change during training; notebook 02 has not
    been run.
    """
    arms.ARMS.check(arm)
    with from_notebook(run, "02"):
        run = reading(run)
        (made, tokens), found = corpus_of(run), detection_of(run)
    special = tuple(map(int, loading.tokenizer_of(run).all_special_ids))
    material = Material(found, tokens, special, run.config)
    function = arms.build(arm, material, run.config.seeds[0]).weights
    if isinstance(function, Redetected) or isinstance(getattr(function, "value", None), Ramp):
        raise StudyError(
            f"--arm: must be one whose weights stay the same during training; got {arm!r}"
        )
    losses = torch.from_numpy(at_positions(made, tokens, "rkl_post"))
    batch = Batch(torch.from_numpy(made.completion_ids).long(), torch.from_numpy(made.mask))
    w = evaluate(function, batch, losses).numpy()
    frame = made.to_frame()[[*KEYS, "completion_ids"]]
    return frame.assign(weights=[row[:n] for row, n in zip(w, made.lengths, strict=True)])


def corpus_of(run: Run) -> tuple[Rollouts, pd.DataFrame]:
    """The completions that the rocks were found in, and their token table.

    `StudyError`: completions that were given as a file, which has changed since.
    """
    corpus = rocks_steps.Measured(run)
    made, tokens = corpus.rollouts, corpus.tokens
    order = in_order(made)
    if not np.array_equal(made.completion_ids[order][made.mask[order]], tokens.token_id):
        raise StudyError("rollouts: must be those of the token table; the file has changed since")
    return made, tokens


def in_order(rollouts: Rollouts) -> np.ndarray:
    """Rows of the completions in the order of the token table."""
    return np.lexsort((rollouts.sample_index, rollouts.prompt_index))


def at_positions(rollouts: Rollouts, tokens: pd.DataFrame, column: str) -> np.ndarray:
    """A column of the token table where its positions are, float32 (R, T), 0 outside the mask."""
    order = in_order(rollouts)
    values, sorted_ones = np.zeros((2, *rollouts.mask.shape), np.float32)
    sorted_ones[rollouts.mask[order]] = tokens[column]
    values[order] = sorted_ones
    return values


def claims(run: Run) -> pd.DataFrame:
    """The paper's claims against what a run measured (`claims.records`).

    `StudyError`: no notebook has recorded any.
    """
    table = records.read_claims(run)
    if table.empty:
        hint = f"`rockstudy run --run-id {run.id}` records them"
        raise StudyError(f"claims: none by today's rules are stored in the run {run.id!r}; {hint}")
    return table
