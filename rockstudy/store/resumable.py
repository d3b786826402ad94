"""A folder that takes hours to fill: filled under another name, resumable, published by renaming.

``<name>.partial`` is the folder being filled and ``<name>.marker`` says for which fingerprint. When
the folder is complete the marker gets the whole manifest, the folder its name, and then the marker
becomes ``<name>.json``: a kill between any two of these steps loses nothing.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rockstudy.store import files


def folder(path: Path) -> Path:
    """Return where ``path`` is filled."""
    return files.named(path, ".partial")


def prepare(path: Path, fingerprint: str) -> None:
    """Make the partial folder, keeping what is in it only when it is of this fingerprint."""
    if _read(_marker(path)).get("fingerprint") != fingerprint:
        _marker(path).unlink(missing_ok=True)
        if folder(path).exists():
            shutil.rmtree(folder(path))
    folder(path).mkdir(parents=True, exist_ok=True)
    files.write_json(_marker(path), {"fingerprint": fingerprint})


def fill(path: Path, compute: Callable[[Path], None]) -> float:
    """Run ``compute`` on the partial folder, return its seconds; an error leaves none empty."""
    start = time.perf_counter()
    try:
        compute(folder(path))
    except BaseException:
        if folder(path).is_dir() and not any(folder(path).iterdir()):
            folder(path).rmdir()
            _marker(path).unlink(missing_ok=True)
        raise
    return time.perf_counter() - start


def complete(path: Path, manifest: Mapping[str, Any]) -> None:
    """Publish the filled folder with its manifest."""
    files.write_json(_marker(path), manifest)
    _publish(path)


def finish_interrupted(path: Path, fingerprint: str) -> None:
    """Complete a publication of this fingerprint that was cut after its folder was complete."""
    found = _read(_marker(path))
    if found.get("fingerprint") == fingerprint and "sha256" in found:
        if folder(path).is_dir():
            _publish(path)
        elif path.is_dir():
            _marker(path).replace(files.named(path, ".json"))
    shutil.rmtree(_old(path), ignore_errors=True)


def _publish(path: Path) -> None:
    files.named(path, ".json").unlink(missing_ok=True)
    if path.exists():
        shutil.rmtree(_old(path), ignore_errors=True)
        path.rename(_old(path))
    folder(path).rename(path)
    _marker(path).replace(files.named(path, ".json"))
    shutil.rmtree(_old(path), ignore_errors=True)


def _old(path: Path) -> Path:
    """Where the folder of another fingerprint waits for its removal; its manifest is gone."""
    return files.named(path, ".old")


def _marker(path: Path) -> Path:
    return files.named(path, ".marker")


def _read(marker: Path) -> dict[str, Any]:
    try:
        return json.loads(marker.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
