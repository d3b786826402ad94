"""Several processes at one training: the first alone talks to the store, all of them compute.

`accelerate launch` starts the same command once per device. The store knows nothing of that, so the
main process asks it, and tells the others either where to compute or where the result is.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from rockstudy.store import FolderArtefact

Compute = Callable[[Path], None]


def together() -> PartialState:
    """Return the processes that were launched together, and which one this is; one by default."""
    return PartialState(cpu=not torch.cuda.is_available())


def once(cached: Callable[[Compute], FolderArtefact], compute: Compute) -> Path:
    """Return a cached folder, computed by every process where it has to be computed.

    Parameters
    ----------
    cached
        Calls `store.cached_folder` with the function that it is given; only the main process does.
    compute
        Fills the folder.
    """
    processes = together()
    if processes.num_processes == 1:
        return cached(compute).path
    message: list[Any] = [None, None]  # the folder to fill; the finished one

    def everywhere(folder: Path) -> None:
        message[0] = folder
        broadcast_object_list(message)
        compute(folder)
        processes.wait_for_everyone()

    if processes.is_main_process:
        message[1] = cached(everywhere).path
        broadcast_object_list(message)
    while message[1] is None:
        broadcast_object_list(message)
        if message[1] is None:
            compute(message[0])
            processes.wait_for_everyone()
    return message[1]
