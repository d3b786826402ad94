"""The token table as a folder of plain parquet files with a card that documents every column.

``datasets.load_dataset("parquet", data_dir=folder)`` reads it, and so does anything that reads
parquet: ``data/train-*.parquet``, a row per completion position in the order of the completions.
Beside the columns of the token table stand the text of each token, what the rocks have to do with
the position, and the five most likely tokens of the teacher and of the student before and after.
These five are no part of the token table. Where the run has its models they are computed in one
pass over the completions, block by block; a reference has none, and the columns are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import rockstudy
from rockstudy import progress
from rockstudy.exports import targets
from rockstudy.exports.tables import (
    corpus_of,
    detection_of,
    display_name,
    from_notebook,
    in_order,
    reading,
)
from rockstudy.models import loading
from rockstudy.models.token_texts import token_texts
from rockstudy.rocks import steps as rocks_steps
from rockstudy.rocks.detection import Detection
from rockstudy.rocks.likeliest import MODELS, TOP, likeliest, missing_models
from rockstudy.runs import Run
from rockstudy.sampling.rollout import Rollouts
from rockstudy.store import files

VERSION = 1  # of the columns' names and meanings
BLOCK = 65_536  # ours: positions in a file
POSITION = ["prompt_index", "sample_index", "position"]

_STATISTICS = {
    "rkl": "full-vocabulary KL(student || teacher), nats",
    "fkl": "full-vocabulary KL(teacher || student), nats",
    "log_ratio": "log-probability of the token, student minus teacher, nats",
    "entropy": "entropy of the next-token distribution, nats",
    "rank": "how many tokens the model finds more likely than the token; 0: it is the likeliest",
    "top_ids": f"ids of the {TOP} most likely tokens, most likely first",
    "top_texts": "their texts",
    "top_probs": "their probabilities at temperature 1",
}
_COLUMNS = {
    "prompt_index": "number of the prompt",
    "sample_index": "number of the completion of this prompt",
    "position": "place in the completion; everything in a row is about the prediction of its token",
    "token_id": "id of the token",
    "text": "what the token adds to the text, with its leading space",
    "rock_type": "whether the token's type is a rock",
    "persistent": "whether the loss is high before and after: both thresholds are below",
    "rock_occurrence": "whether it persists in a context that repeats, whatever its type",
    "cause": "why the token is hard, by the task's grammar",
}


class Written(NamedTuple):
    """What was written: rows, files, and the reason why the likeliest tokens were left out."""

    rows: int
    files: int
    without_top: str | None


def write(run: Run, to: Path) -> Written:
    """Write the token table of a run to a folder, which must be a legal target (`targets.check`).

    `StudyError`: notebook 02 has not been run, or a model that cannot be loaded.
    """
    with from_notebook(run, "02"):
        stored = reading(run)
        (rollouts, tokens), found = corpus_of(stored), detection_of(stored)
    tokens = tokens.assign(**_flags(tokens, found))
    reason = missing_models(run)
    models = {} if reason else {name: rocks_steps.Measured(run).model(name) for name in MODELS}
    tokenizer = loading.tokenizer_of(run)
    blocks = list(_blocks(rollouts))
    with targets.folder(to) as folder, progress.bar(len(tokens), "tokens", "token") as bar:
        (folder / "data").mkdir()
        start = 0
        for number, rows in enumerate(blocks):
            end = start + int(rollouts.lengths[rows].sum())
            frame = _block(tokens.iloc[start:end], rollouts, rows, models, tokenizer)
            name = f"train-{number:05d}-of-{len(blocks):05d}.parquet"
            files.write_frame(frame, folder / "data" / name, name)
            bar.update(end - start)
            start = end
        card = _card(run, found, frame, len(tokens))
        (folder / targets.CARD).write_text(card, encoding="utf-8")
    return Written(len(tokens), len(blocks), reason)


def _flags(tokens: pd.DataFrame, found: Detection) -> dict[str, np.ndarray]:
    """What the rocks have to do with each position, bool (N,) each."""
    repeats = found.occurrences.set_index(POSITION).rock
    there = repeats.reindex(pd.MultiIndex.from_frame(tokens[POSITION]))
    return {
        "rock_type": found.rocks().mask(tokens.token_id.to_numpy()),
        "persistent": there.notna().to_numpy(),
        "rock_occurrence": there.eq(True).to_numpy(),
    }


def _blocks(rollouts: Rollouts) -> Iterator[np.ndarray]:
    """Rows of the completions in the order of the token table, cut into files."""
    order = in_order(rollouts)
    order = order[rollouts.lengths[order] > 0]
    number = (np.cumsum(rollouts.lengths[order]) - 1) // BLOCK
    yield from np.split(order, np.flatnonzero(np.diff(number)) + 1)


def _texts(tokenizer: PreTrainedTokenizerBase, ids: np.ndarray) -> np.ndarray:
    """Texts of ids of any shape; each token is decoded once."""
    unique, places = np.unique(ids, return_inverse=True)
    return np.array(token_texts(tokenizer, unique), object)[places].reshape(ids.shape)


def _block(
    tokens: pd.DataFrame,
    rollouts: Rollouts,
    rows: np.ndarray,
    models: Mapping[str, PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
) -> pd.DataFrame:
    """The rows of one file: the token table's, with texts and the likeliest tokens."""
    frame = tokens.reset_index(drop=True)
    frame.insert(
        frame.columns.get_loc("token_id") + 1, "text", _texts(tokenizer, frame.token_id.to_numpy())
    )
    if "cause" in frame:
        frame["cause"] = frame["cause"].astype("str")
    for name, model in models.items():
        ids, probabilities = likeliest(model, rollouts, rows)
        columns = {"ids": ids, "texts": _texts(tokenizer, ids), "probs": probabilities}
        frame = frame.assign(**{f"top_{what}_{name}": list(of) for what, of in columns.items()})
    return frame


def about(column: str) -> str:
    """What a column of the folder means."""
    known = [name for name in _STATISTICS if column.startswith(f"{name}_")]
    if column in _COLUMNS or not known:
        return _COLUMNS.get(column, "as in the token table")
    statistic = max(known, key=len)
    model = column.removeprefix(f"{statistic}_")
    return f"{MODELS.get(model, f'the student at {model}')}: {_STATISTICS[statistic]}"


def _card(run: Run, found: Detection, frame: pd.DataFrame, rows: int) -> str:
    """The folder's card, with YAML that the `datasets` library reads."""
    settings, types = run.config.rocks, pa.Schema.from_pandas(frame, preserve_index=False)
    columns = "\n".join(f"| `{c.name}` | {c.type} | {about(c.name)} |" for c in types)
    return f"""---
pretty_name: Token table of {run.id}
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
---
{targets.MARK}

# Token table of the run {run.id} (preset {run.config.preset})

A row per completion position, {rows:,} in all: the student after on-policy distillation wrote the
completions, and the teacher and the student before and after read them. Written by rockstudy
{rockstudy.__version__}, schema version {VERSION}.

- teacher: {display_name(run.config.pair.teacher)}
- rocks: the first {found.k} of {len(found.types)} token types by `{settings.selector}`
- a loss (`{settings.loss}`) is high from {found.tau_pre:.6g} nats before and from
  {found.tau_post:.6g} nats after

The texts come from language models: escape them before showing them as HTML.

| column | type | meaning |
|---|---|---|
{columns}
"""
