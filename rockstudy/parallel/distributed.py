"""A study in several processes: all of them compute, and the first one writes shared results.

`accelerate launch`, `torchrun` and `rockstudy measure --processes` start the same command once per
device. All processes then call the same steps in the same order. Three functions store results in
the run's folder; with one process they are those of `store.cache`:

    cached   a table that all processes compute; its inner work may be divided among them
    pieced   a table in pieces, of which each process computes some
    once     a folder that all processes fill, such as a training or a token table's shards

The first process decides whether a step must be computed (`agreed`), so that no process waits for a
step that a different one skips. A process reads others' results once it sees them (`written`);
between the nodes of a network file system this may take a minute.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd

from rockstudy.errors import StudyError
from rockstudy.store import cache, files
from rockstudy.store.cache import Artefact, Place

if TYPE_CHECKING:  # both take seconds to import, and a stored run is read without them
    import torch
    from accelerate import PartialState

T = TypeVar("T")
Piece = TypeVar("Piece")
Tool = TypeVar("Tool")
# ours: maximum delay of a process; the launcher, not a timeout, notices one that died
WAIT = timedelta(days=2)
# ours: NFS caches a folder's listing, and the absence of a file, for up to 60 s (acdirmax)
SEEN_S = 180


def together() -> PartialState:
    """Return the state of the processes that were launched together; one by default."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available(), timeout=WAIT)


def agreed(value: T) -> T:
    """Return the first process's value in all processes."""
    if together().num_processes == 1:
        return value
    from accelerate.utils import broadcast_object_list

    values = [value]
    broadcast_object_list(values)
    return values[0]


def mine(things: Sequence[T]) -> Sequence[T]:
    """Return this process's share of a sequence: every n-th of n processes."""
    processes = together()
    return things[processes.process_index :: processes.num_processes]


def summed(tensor: torch.Tensor) -> torch.Tensor:
    """Add up the tensors of all processes, in place."""
    import torch

    if together().num_processes > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


def cached(place: Place, compute: Callable[[], Any]) -> Artefact:
    """`cache.cached` in which all processes compute and the first one's result is stored."""
    processes = together()
    if processes.num_processes == 1:
        return cache.cached(place, compute)
    current = agreed(processes.is_main_process and cache.is_current(place))
    if processes.is_main_process:
        made = cache.cached(place, compute)
    elif not current:
        compute()
    processes.wait_for_everyone()
    return made if processes.is_main_process else written(place)


def pieced(
    place: Place,
    pieces: Callable[[], Sequence[Piece]],
    opened: Callable[[], AbstractContextManager[Tool]],
    compute: Callable[[Tool, Piece], pd.DataFrame],
) -> Artefact:
    """Compute a table in pieces and concatenate them in their order.

    Each piece is stored until all are complete, so that a killed run continues from the last one. A
    single piece of a single process is not written twice.

    `pieces` returns the pieces, which their `repr` identifies; it is called only if the table is
    missing. `opened` opens the tool that computes them, such as a model; once per process with
    work.
    """
    folder, processes = files.named(place.path, ".pieces"), together()

    def of(number: int, piece: Piece) -> Place:
        config = {**place.config, "piece": repr(piece)}
        return replace(place, run=folder, stage="", name=f"{number:05d}", config=config, code=None)

    def everything() -> pd.DataFrame | None:
        wanted = pieces()
        with opened() as tool:
            if processes.num_processes == len(wanted) == 1:
                return compute(tool, wanted[0])
            for number, piece in mine(list(enumerate(wanted))):
                cache.cached_piece(of(number, piece), lambda piece=piece: compute(tool, piece))
        processes.wait_for_everyone()
        if not processes.is_main_process:
            return None
        made = [written(of(*one)).data for one in enumerate(wanted)]
        return pd.concat(made, ignore_index=True)

    made = cached(place, everything)
    if processes.is_main_process:
        files.remove(folder)
    return made


def cut(n: int, most: int) -> list[slice]:
    """Cut n rows into about equal slices of at most `most`, with one or more per process."""
    count = min(n, max(-(-n // most), together().num_processes))
    ends = [n * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(ends)]


def written(place: Place) -> Artefact:
    """Load an artefact that a different process has written; `StudyError` if it stays unseen."""
    return _seen(place.path, lambda: cache.stored(place))


def once(place: Place, compute: Callable[[Path], None]) -> Artefact:
    """`cache.cached_folder` in which every process helps to fill the folder."""
    processes = together()
    if processes.num_processes == 1:
        return cache.cached_folder(place, compute)

    def everywhere(folder: Path) -> None:
        compute(agreed(folder))
        processes.wait_for_everyone()

    if processes.is_main_process:
        made = cache.cached_folder(place, everywhere)
        if not made.fresh:
            agreed(None)  # nothing to fill
    elif folder := agreed(None):
        _seen(folder, folder.is_dir)
        compute(folder)
        processes.wait_for_everyone()
    processes.wait_for_everyone()
    return made if processes.is_main_process else written(place)


def _seen(path: Path, look: Callable[[], T | None]) -> T:
    """Return the result of `look` for an existing path, once this process's node sees it.

    Until then `look` finds nothing, or raises on a half-updated file. Listing the folder makes a
    network file system ask its server again. `StudyError` after `SEEN_S` seconds.
    """
    ends, reason = time.monotonic() + SEEN_S, ""
    while True:
        try:
            with contextlib.suppress(OSError):
                os.listdir(path.parent)
            if seen := look():
                return seen
        except (StudyError, OSError) as error:
            reason = f" ({' '.join(str(error).split())[:160]})"
        if time.monotonic() > ends:
            raise StudyError(
                f"{path}: must be seen by all nodes; {socket.gethostname()} does not see within "
                f"{SEEN_S} s what a different process has written{reason}; run again"
            )
        time.sleep(SEEN_S / 360)  # ours: twice a second
