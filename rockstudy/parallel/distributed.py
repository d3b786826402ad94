"""Several processes at one study: all compute, the first alone writes what they share.

`accelerate launch`, `torchrun` and `rockstudy measure --processes` start the same command once per
device. Every process then calls the same steps in the same order. What is kept in the run's folder
comes by one of three ways, which all are `store`'s where there is one process:

    cached   a table: all compute it, and whatever inside is divided is divided
    pieced   a table cut into pieces: each process computes some of them, complete or not there
    once     a folder that all fill, such as a training's or a token table's shards

Whether something has to be computed is the first process's word (`agreed`), so that nobody waits
for a step that another one skips. What one process has written another reads only once it sees it
(`written`): between the nodes of a network file system that may take a minute.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from rockstudy.errors import StudyError
from rockstudy.store import cache
from rockstudy.store.cache import Artefact, FolderArtefact

T = TypeVar("T")
Piece = TypeVar("Piece")
Tool = TypeVar("Tool")
Compute = Callable[[Path], None]
# ours: what a process may be behind the others; who dies is seen by the launcher, not by waiting
WAIT = timedelta(days=2)
# ours: NFS remembers for up to 60 s (acdirmax) what a folder held, and that a file was not there
SEEN_S = 180


def together() -> PartialState:
    """Return the processes that were launched together, and which one this is; one by default."""
    return PartialState(cpu=not torch.cuda.is_available(), timeout=WAIT)


def agreed(value: T) -> T:
    """Return what the first process says, to all of them."""
    if together().num_processes == 1:
        return value
    said = [value]
    broadcast_object_list(said)
    return said[0]


def mine(things: Sequence[T]) -> Sequence[T]:
    """Return this process's share of a sequence: every n-th of n processes."""
    processes = together()
    return things[processes.process_index :: processes.num_processes]


def summed(tensor: torch.Tensor) -> torch.Tensor:
    """Add up, in place, the tensors that all processes give."""
    if together().num_processes > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


def cached(
    run: Path,
    stage: str,
    name: str,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str] | None = None,
    code: str | None = None,
    compute: Callable[[], Any],
) -> Artefact:
    """`store.cached`, where all processes compute and the first one's result is kept."""
    place: dict[str, Any] = {"config": config, "inputs": inputs}
    processes = together()
    if processes.num_processes == 1:
        return cache.cached(run, stage, name, **place, code=code, compute=compute)
    current = agreed(processes.is_main_process and cache.is_current(run, stage, name, **place))
    if processes.is_main_process:
        made = cache.cached(run, stage, name, **place, code=code, compute=compute)
    elif not current:
        compute()
    processes.wait_for_everyone()
    if not processes.is_main_process:
        made = written(run, stage, name, **place)
    return made


def pieced(
    run: Path,
    stage: str,
    name: str,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str] | None = None,
    code: str | None = None,
    pieces: Callable[[], Sequence[Piece]],
    opened: Callable[[], AbstractContextManager[Tool]],
    compute: Callable[[Tool, Piece], pd.DataFrame],
) -> Artefact:
    """A table that is computed in pieces and put together in their order.

    A piece is a table of its own until all are there, so that a killed run goes on from the last
    one. A single piece of a single process is not written twice.

    Parameters
    ----------
    pieces
        Gives what `compute` is asked for, one after the other, where there is something to compute;
        what a piece is says its `repr`.
    opened
        Gives what computes them, such as a model; once in a process, where there is work.
    """
    folder = Path(run) / stage / f"{name}.pieces"
    processes = together()

    def of(piece: Piece) -> dict[str, Any]:
        return {"config": {**config, "piece": repr(piece)}, "inputs": inputs}

    def keep(number: int, piece: Piece, tool: Tool) -> None:
        name = f"{number:05d}"
        cache.cached(folder, "", name, **of(piece), compute=lambda: compute(tool, piece))

    def everything() -> pd.DataFrame | None:
        asked = pieces()
        with opened() as tool:
            if processes.num_processes == len(asked) == 1:
                return compute(tool, asked[0])
            for number, piece in mine(list(enumerate(asked))):
                keep(number, piece, tool)
        processes.wait_for_everyone()
        if not processes.is_main_process:
            return None
        made = [written(folder, "", f"{i:05d}", **of(piece)).data for i, piece in enumerate(asked)]
        return pd.concat(made, ignore_index=True)

    place: dict[str, Any] = {"config": config, "inputs": inputs, "code": code}
    made = cached(run, stage, name, **place, compute=everything)
    if processes.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)
    return made


def cut(n: int, most: int) -> list[slice]:
    """Cut n rows into about equal runs of at most `most`, and into one for each process."""
    count = min(n, max(-(-n // most), together().num_processes))
    ends = [n * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(ends)]


def written(
    run: Path,
    stage: str,
    name: str,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str] | None = None,
) -> Artefact:
    """Load what another process has written by now; never compute it, for that is done.

    Raises
    ------
    StudyError
        Not seen in time, by the file's name.
    """
    path = Path(run) / stage / name

    def load() -> Artefact | None:
        if not cache.is_current(run, stage, name, config=config, inputs=inputs):
            return None
        data, manifest = cache.load(path), cache.load_manifest(path)
        return Artefact(data, manifest.sha256, manifest, False)

    return _seen(path, load)


def once(
    run: Path,
    stage: str,
    name: str,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str] | None = None,
    code: str | None = None,
    compute: Callable[[Path], None],
) -> FolderArtefact:
    """`cache.cached_folder`, where every process helps to fill the folder."""
    place: dict[str, Any] = {"config": config, "inputs": inputs}
    processes = together()
    if processes.num_processes == 1:
        return cache.cached_folder(run, stage, name, **place, code=code, compute=compute)

    def everywhere(folder: Path) -> None:
        compute(agreed(folder))
        processes.wait_for_everyone()

    if processes.is_main_process:
        made = cache.cached_folder(run, stage, name, **place, code=code, compute=everywhere)
        if not made.fresh:
            agreed(None)  # there was nothing to fill
    elif folder := agreed(None):
        _seen(folder, folder.is_dir)
        compute(folder)
        processes.wait_for_everyone()
    processes.wait_for_everyone()
    if not processes.is_main_process:
        path = Path(run) / stage / name
        made = _seen(path, lambda: cache.stored_folder(run, stage, name, **place))
    return made


def _seen(path: Path, look: Callable[[], T | None]) -> T:
    """Return what `look` finds of a path that is there, once this process's node shows it.

    Until then it finds nothing, or the error of a file that is half new. Listing the folder makes a
    network file system ask its server again.

    Raises
    ------
    StudyError
        Nothing found within `SEEN_S`.
    """
    ends, reason = time.monotonic() + SEEN_S, ""
    while True:
        try:
            with contextlib.suppress(OSError):
                os.listdir(path.parent)
            if found := look():
                return found
        except (StudyError, OSError) as error:
            reason = f" ({' '.join(str(error).split())[:160]})"
        if time.monotonic() > ends:
            raise StudyError(
                f"{path}: must be seen by all nodes; {socket.gethostname()} does not see within "
                f"{SEEN_S} s what another process has written{reason}; run again"
            )
        time.sleep(SEEN_S / 360)  # ours: twice a second
