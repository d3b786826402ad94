"""One command in several processes on this machine, each with its own device, through torchrun.

This module adds one line about the first process that failed. On several nodes `torchrun` or
`accelerate launch` starts the same modules (`launch/`).
"""

import logging
import os
import sys
from collections.abc import Sequence

import torch
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from rockstudy.errors import StudyError
from rockstudy.parallel import cpu_pool

PARENT = "ROCKSTUDY_PARENT"


def follow() -> None:
    """End this process when the one that launched it ends, even if that one is killed."""
    if PARENT in os.environ:
        cpu_pool.die_with(int(os.environ[PARENT]))


def launch(arguments: Sequence[str], processes: int) -> None:
    """Run the `rockstudy` command in several processes until all have ended.

    `StudyError`: more processes than CUDA devices, if there are any; a failed process, by its
    number and its exit code or signal. The other processes are then ended.
    """
    if 0 < (count := torch.cuda.device_count()) < processes:
        raise StudyError(f"processes: must be at most the {count} CUDA devices; got {processes}")
    threads = max(1, torch.get_num_threads() // processes)
    os.environ[PARENT] = str(os.getpid())
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    logging.disable()  # torchrun reports in some twenty lines, we in one
    how = LaunchConfig(1, 1, processes, run_id="rockstudy", rdzv_backend="c10d", max_restarts=0)
    how.rdzv_endpoint, how.local_addr = "localhost:0", "localhost"
    try:
        elastic_launch(how, sys.executable)("-m", "rockstudy", *arguments)
    except SignalException:
        raise KeyboardInterrupt from None
    except ChildFailedError as error:
        rank, failed = error.get_first_failure()
        code = failed.exitcode
        how_ended = f"killed by {failed.signal_name()}" if code < 0 else f"ended with code {code}"
        line = f"process {rank} of {processes}: {how_ended}; run again, what was finished is kept"
        raise StudyError(line) from None
