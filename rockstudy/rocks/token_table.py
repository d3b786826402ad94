"""From rollouts to the token table, and from the token table to the type table.

The token table has a row per completion position. The teacher and every named checkpoint of the
student read the *same* trajectories (paper 2: those of the post-OPD student), in one pass each:

    prompt_index i32, sample_index i16, position i32, token_id i32
    rkl_<name>, fkl_<name>, log_ratio_<name>, entropy_<name>   float32, nats, for every checkpoint
    entropy_teacher float32, nats; rank_teacher i32            0: the teacher's most likely token

It is written in shards, so a killed pass continues after the last complete one, and memory grows
with a shard, not with the corpus. The type table has a row per token type; its sums over
occurrences are float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel

from rockstudy import progress
from rockstudy.errors import StudyError
from rockstudy.models.configuration import vocabulary
from rockstudy.models.divergence import Head, States, token_statistics
from rockstudy.parallel import distributed
from rockstudy.runs import Run
from rockstudy.sampling.rollout import Rollouts, completion_states
from rockstudy.store import cache
from rockstudy.store.code import kept_apart
from rockstudy.store.fingerprints import fingerprint

BATCH_TOKENS = 8_192  # ours: prompts and padding too, in one forward (19 MB at H = 576)
SHARD_TOKENS = 65_536  # ours: completion tokens in a shard, about 3 MB on disk
KEYS = ("prompt_index", "sample_index", "position", "token_id")
STATISTICS = ("rkl", "fkl", "log_ratio", "entropy")


@dataclass(frozen=True)
class TokenTable:
    """A token table on disk: a folder of shards, verified when they are read.

    The hash covers the data alone, so a resumed run has the same hash as an uninterrupted one.
    """

    path: Path
    hash: str
    n_shards: int

    def read(self) -> pd.DataFrame:
        """Read the whole table, sorted by the keys.

        `StudyError` names a shard that is missing, truncated or altered.
        """
        shards = (cache.load(_shard(self.path, number)) for number in range(self.n_shards))
        return _sorted(shards)


@kept_apart
def token_table(
    run: Run,
    name: str,
    rollouts: Rollouts,
    load: Callable[[str], PreTrainedModel],
    checkpoints: Sequence[str],
    *,
    inputs: Callable[[], Mapping[str, str]],
) -> TokenTable:
    """Compute the token table of rollouts, or read it back when the run has it.

    The table is the folder ``<run>/tokens/<name>``; several processes divide its shards. `load`
    gives ``teacher`` and every checkpoint by name, over one vocabulary, where they are needed. The
    names of `checkpoints` become parts of column names, and `inputs` gives the hashes of the
    rollouts and of every model.

    `StudyError`: no completion tokens, checkpoints with a different vocabulary, values that are not
    finite, a shard that is missing or damaged.
    """
    if rollouts.n_tokens == 0:
        raise StudyError("rollouts: must have at least one completion token; got none")
    order = np.argsort(rollouts.lengths, kind="stable")
    order = order[rollouts.lengths[order] > 0]
    parts = list(_runs(rollouts.lengths[order], SHARD_TOKENS, np.sum))
    config = {"checkpoints": list(checkpoints), "shards": len(parts), "shard_tokens": SHARD_TOKENS}
    _name_damage(run.path / "tokens" / name)

    def compute(folder: Path) -> None:
        models = {one: load(one) for one in ("teacher", *checkpoints)}
        _check_vocabularies(models)
        some = distributed.mine([(number, order[part]) for number, part in enumerate(parts)])
        n_tokens = sum(int(rollouts.lengths[rows].sum()) for _, rows in some)
        progress.announce(f"token table: {n_tokens:,} tokens under {len(models)} models")
        with progress.bar(n_tokens, "token table", "token") as bar:
            for number, rows in some:
                shard = _shard(folder, number).name
                cache.cached_piece(
                    cache.Place(folder, "", shard, {"rows": rows.tolist()}),
                    lambda rows=rows: _shard_frame(rollouts, rows, models),
                )
                bar.update(int(rollouts.lengths[rows].sum()))

    done = run.folder(
        "tokens", name, config=config, inputs=inputs, by=_shard_frame, compute=compute
    )
    shards = [cache.load_manifest(_shard(done.path, i)).sha256 for i in range(len(parts))]
    return TokenTable(done.path, fingerprint(shards), len(parts))


def in_memory(rollouts: Rollouts, models: Mapping[str, PreTrainedModel]) -> pd.DataFrame:
    """The token table of rollouts at once: `models` are ``teacher`` and then students by name.

    `StudyError`: no completion tokens, models with different vocabularies, values not finite.
    """
    if rollouts.n_tokens == 0:
        raise StudyError("rollouts: must have at least one completion token; got none")
    _check_vocabularies(models)
    frames = []
    with progress.bar(rollouts.n_tokens, "token table", "token") as bar:
        for some in batches(rollouts, np.flatnonzero(rollouts.lengths)):
            frames.append(_batch_frame(rollouts, some, models))
            bar.update(len(frames[-1]))
    return joined(frames)


def _check_vocabularies(models: Mapping[str, PreTrainedModel]) -> None:
    size = vocabulary(models["teacher"].config)
    for one, model in models.items():
        if vocabulary(model.config) != size:
            raise StudyError(
                f"checkpoint {one}: must share the teacher's vocabulary of {size} ids; "
                f"it has {vocabulary(model.config)}"
            )


def _shard(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}"


def _name_damage(path: Path) -> None:
    """Read every shard of a complete table, so that an error names the file that is damaged."""
    if path.with_name(path.name + ".json").is_file() and path.is_dir():
        for number in range(cache.load_manifest(path).config["shards"]):
            cache.load(_shard(path, number))


def _sorted(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    frame = pd.concat(frames, ignore_index=True)
    return frame.sort_values(list(KEYS[:3]), kind="stable", ignore_index=True)


def _runs(sizes: np.ndarray, budget: int, cost: Callable[[np.ndarray], int]) -> Iterator[slice]:
    """Cut rows, in their order, into runs that cost at most `budget`, at least one row each."""
    start = 0
    for i in range(1, len(sizes) + 1):
        if i == len(sizes) or cost(sizes[start : i + 1]) > budget:
            yield slice(start, i)
            start = i


def batches(rollouts: Rollouts, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Some rows of rollouts, sorted by width and cut into the batches of a forward pass."""
    widths = np.array([len(rollouts.prompt_ids[rollouts.prompt_index[r]]) for r in rows])
    widths += rollouts.lengths[rows]
    by_width = np.argsort(widths, kind="stable")
    padded = _runs(widths[by_width], BATCH_TOKENS, lambda some: len(some) * some[-1])
    return (rows[by_width[one]] for one in padded)


def keys(rollouts: Rollouts, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The key columns of the token table for some rows of rollouts, in their order."""
    mask = rollouts.mask[rows]
    return {
        "prompt_index": np.repeat(rollouts.prompt_index[rows], mask.sum(1)),
        "sample_index": np.repeat(rollouts.sample_index[rows], mask.sum(1)),
        "position": np.nonzero(mask)[1].astype(np.int32),
        "token_id": rollouts.completion_ids[rows][mask],
    }


def joined(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Frames of batches as one, sorted by the keys; `StudyError` for values that are not finite."""
    frame = _sorted(frames)
    _check_finite(frame)
    return frame


def _shard_frame(
    rollouts: Rollouts, rows: np.ndarray, models: Mapping[str, PreTrainedModel]
) -> pd.DataFrame:
    """The rows of the token table for some rollouts, sorted by the keys."""
    return joined(_batch_frame(rollouts, some, models) for some in batches(rollouts, rows))


def _batch_frame(
    rollouts: Rollouts, rows: np.ndarray, models: Mapping[str, PreTrainedModel]
) -> pd.DataFrame:
    columns: dict[str, Any] = keys(rollouts, rows)
    teacher, *students = (
        States(completion_states(model, rollouts, rows), Head.of(model))
        for model in models.values()
    )
    targets = torch.from_numpy(columns["token_id"]).long().to(models["teacher"].device)
    statistics = token_statistics(teacher, students, targets)
    for name, one in zip(list(models)[1:], statistics.students, strict=True):
        columns |= {f"{s}_{name}": getattr(one, s).cpu().numpy() for s in STATISTICS}
    for name in ("entropy_teacher", "rank_teacher"):
        columns[name] = getattr(statistics, name).cpu().numpy()
    return pd.DataFrame(columns)


def _check_finite(frame: pd.DataFrame) -> None:
    for name in frame.columns[len(KEYS) :]:
        bad = ~np.isfinite(frame[name].to_numpy())
        if bad.any():
            row = frame.loc[bad.argmax(), list(KEYS)]
            raise StudyError(
                f"{name}: must be finite at every position; {int(bad.sum())} are not, the first at "
                f"prompt {row.prompt_index}, sample {row.sample_index}, position {row.position}"
            )


def type_table(tokens: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Means of columns over the occurrences of every token type.

    `tokens` has ``prompt_index, token_id`` and `columns`, in nats.

    Returns a row per observed type, by id: ``token_id, count, n_prompts``, and for every column
    ``<column>_mean`` and ``<column>_se``, its standard error clustered by prompt: NaN where one
    prompt has all occurrences.

    With s_c the sum and n_c the number of occurrences in prompt c, the mean is sum s / sum n and
    its variance the ratio estimator's, G / (G - 1) sum_c (s_c - mean n_c)^2 / (sum n)^2 over the G
    prompts that have the type.
    """
    if tokens.empty:
        raise StudyError("tokens: must have at least one position; got none")
    ids, types = np.unique(tokens.token_id.to_numpy(), return_inverse=True)
    cells, cell = np.unique(
        np.stack([types, tokens.prompt_index.to_numpy()]), axis=1, return_inverse=True
    )
    owner, n_cell = cells[0], np.bincount(cell.ravel()).astype(np.float64)
    count, groups = np.bincount(types), np.bincount(owner)
    table: dict[str, np.ndarray] = {"token_id": ids, "count": count, "n_prompts": groups}
    for column in columns:
        sums = np.bincount(cell.ravel(), weights=tokens[column].to_numpy(np.float64))
        mean = np.bincount(owner, weights=sums) / count
        residual = np.bincount(owner, weights=(sums - mean[owner] * n_cell) ** 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            variance = np.where(groups > 1, groups / (groups - 1) * residual, np.nan)
        table |= {f"{column}_mean": mean, f"{column}_se": np.sqrt(variance) / count}
    return pd.DataFrame(table)
