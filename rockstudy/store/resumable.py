"""A folder that takes hours to fill: filled under another name, resumable, published by renaming.

``<name>.partial`` is the folder being filled and ``<name>.marker`` says for which fingerprint. When
the folder is complete the marker gets the whole manifest, the folder its name, and then the marker
becomes ``<name>.json``: a kill between any two of these steps loses nothing.

A part of the folder that a later attempt goes on from is sealed: the last file that is written into
it (`SEAL`) holds the hashes of its files, and of those that were complete before. Without a seal
that is true of every byte the part is not used.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rockstudy.progress import notice
from rockstudy.store import files

SEAL = "hashes.json"


def _beside(path: Path) -> tuple[Path, Path, Path]:
    """The partial folder, its marker, and where a folder that is replaced waits for its removal."""
    partial, marker, old = (files.named(path, end) for end in (".partial", ".marker", ".old"))
    return partial, marker, old


def fill(
    path: Path,
    fingerprint: str,
    compute: Callable[[Path], None],
    manifest: Callable[[Path, float], Mapping[str, Any]],
) -> None:
    """Run ``compute`` on the partial folder, and publish it with the manifest of its seconds.

    What is in the folder is kept only when it is of this fingerprint; an error leaves none empty.
    """
    partial, marker, _ = _beside(path)
    if _read(marker).get("fingerprint") != fingerprint:
        if partial.exists():
            notice(f"{partial}: not used, {marker.name} is damaged or of other parameters")
        files.remove(marker, partial)
    partial.mkdir(parents=True, exist_ok=True)
    files.write_json(marker, {"fingerprint": fingerprint})
    start = time.perf_counter()
    try:
        compute(partial)
    except BaseException:
        if partial.is_dir() and not any(partial.iterdir()):
            files.remove(partial, marker)
        raise
    files.write_json(marker, manifest(partial, time.perf_counter() - start))
    _publish(path)


def finish_interrupted(path: Path, fingerprint: str) -> None:
    """Complete a publication of this fingerprint that was cut after its folder was complete."""
    partial, marker, old = _beside(path)
    left = _read(marker)
    if left.get("fingerprint") == fingerprint and "sha256" in left:
        if partial.is_dir():
            _publish(path)
        elif path.is_dir():
            marker.replace(files.named(path, ".json"))
    shutil.rmtree(old, ignore_errors=True)


def _publish(path: Path) -> None:
    partial, marker, old = _beside(path)
    files.remove(files.named(path, ".json"))
    if path.exists():
        files.remove(old)
        path.rename(old)
    partial.rename(path)
    marker.replace(files.named(path, ".json"))
    files.remove(old)


def seal(part: Path, before: Mapping[str, str]) -> None:
    """Seal a part, a folder in the partial one; ``before`` is `hashed` of what it builds upon."""
    files.write_json(part / SEAL, {**before, **hashed(part)})


def hashed(part: Path) -> dict[str, str]:
    """SHA-256 of the files of a part, but for its seal, by ``<part>/<name>``."""
    return {f"{part.name}/{n}": h for n, h in files.hashes(part).items() if n != SEAL}


def sealed(part: Path) -> dict[str, str]:
    """Return what a part's seal holds; `OSError` or `ValueError` where it has none to read."""
    return files.read_json(part / SEAL)


def damage(part: Path) -> str | None:
    """Why a part cannot be used: its first file that is not as sealed; None where all are."""
    try:
        wanted, there = sealed(part), {}
        for name in {part.name, *(key.split("/")[0] for key in wanted)}:
            there |= hashed(part.with_name(name))
    except FileNotFoundError:
        return "it was not written to its end"
    except (OSError, ValueError):
        return f"{SEAL} is damaged"
    wrong = [n for n in sorted(wanted.keys() | there.keys()) if wanted.get(n) != there.get(n)]
    return f"{wrong[0]} is missing or damaged" if wrong else None


def _read(marker: Path) -> dict[str, Any]:
    try:
        return files.read_json(marker)
    except (OSError, ValueError):
        return {}
