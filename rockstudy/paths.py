"""Where things are, whatever the working directory.

The study's folder is the one that holds the package (a clone), or the one that the environment
variable ``ROCKSTUDY_HOME`` names. ``data`` and ``notebooks`` fall back to the clone's own, so that
``ROCKSTUDY_HOME`` can point to an empty folder that only collects runs.
"""

import os
import re
from pathlib import Path

from rockstudy.errors import StudyError

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
REPO = Path(__file__).resolve().parent.parent  # the clone: installations are editable


def home() -> Path:
    """Return the study's folder; `StudyError` if ``ROCKSTUDY_HOME`` is something else."""
    given = os.environ.get("ROCKSTUDY_HOME")
    if not given:
        return REPO
    folder = Path(os.path.expanduser(given))
    if not os.path.isdir(folder):
        raise StudyError(f"ROCKSTUDY_HOME: must be an existing folder; got {given!r}")
    return folder.resolve()


def runs_dir() -> Path:
    """Folder of all runs; it need not exist yet."""
    return home() / "runs"


def run_dir(run_id: str) -> Path:
    """Folder of one run, which need not exist; `StudyError` for a name with other characters."""
    if not isinstance(run_id, str) or not _RUN_ID.fullmatch(run_id):
        legal = "1 to 64 letters, digits, '.', '_' or '-', the first a letter or a digit"
        raise StudyError(f"run_id: must be {legal}; got {run_id!r}")
    return runs_dir() / run_id


def data_dir() -> Path:
    """Folder of the shipped data: the lab's weights, the paper's numbers, reference tables."""
    return _own_or_shipped("data")


def notebooks_dir() -> Path:
    """Folder of the notebooks."""
    return _own_or_shipped("notebooks")


def _own_or_shipped(name: str) -> Path:
    own = home() / name
    return own if own.is_dir() else REPO / name


def notebook_order(name: str) -> tuple[float, str]:
    """Return what notebooks are sorted by: their leading number, those without one last."""
    number = re.match(r"\d+", name)
    return (float(number[0]) if number else float("inf"), name)
