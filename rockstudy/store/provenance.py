"""What made a number: the code's commit, the versions of packages, the device."""

import contextlib
import functools
import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from rockstudy.paths import REPO

_PACKAGES = "rockstudy numpy pandas pyarrow torch transformers trl accelerate datasets".split()


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    known = {package: text for package in _PACKAGES if (text := version(package))}
    return {"python": platform.python_version()} | known


def version(package: str) -> str | None:
    """Version of a package; None for one that is not installed."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


@functools.cache
def git_state() -> dict[str, Any] | None:
    """Commit of the clone that holds the package, and whether it has changes; None outside one.

    Read once in a process: later edits are not what it runs.
    """
    top, commit = _git("rev-parse", "--show-toplevel"), _git("rev-parse", "HEAD")
    if not top or not commit or Path(top).resolve() != REPO:
        return None
    return {"commit": commit, "dirty": _git("status", "--porcelain") != ""}


def device() -> str:
    """Name of the accelerator, or ``cpu``; torch is not imported for it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return "cpu"


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(REPO), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
