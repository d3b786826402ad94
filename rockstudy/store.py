"""Artefacts on disk: a data file beside a manifest, written whole or not at all.

A table is a parquet file, tensors are a safetensors file, a checkpoint is a folder. Beside it,
``<name>.json`` says what made it and holds its SHA-256. Order of writing: the data under a temporary
name, then the old manifest away, the data to its name, the new manifest last. A manifest is therefore
the proof of a complete artefact: a process killed anywhere leaves either the old one, the new one, or
none. Data whose hash differs from its manifest's is an error, never silently used or recomputed.

No pickle: a column of Python objects is refused unless Arrow holds it as text or as lists.
"""

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rockstudy.config import StudyError, canonical_json, fingerprint
from rockstudy.paths import REPO

if TYPE_CHECKING:
    from torch import Tensor

Data = Any  # pandas.DataFrame | dict[str, torch.Tensor]; the caller knows which
_PACKAGES = ("rockstudy numpy pandas pyarrow torch transformers trl accelerate datasets").split()


@dataclass(frozen=True)
class Manifest:
    """What made an artefact, and the hash that proves it whole."""

    file: str
    fingerprint: str
    sha256: str
    config: dict[str, Any]
    inputs: dict[str, str]
    rows: int | None
    seed: int | None
    seconds: float | None
    device: str
    git: dict[str, Any] | None
    versions: dict[str, str]


@dataclass(frozen=True)
class Artefact:
    """Loaded data with its hash (for the manifests downstream); fresh when just computed."""

    data: Data
    hash: str
    manifest: Manifest
    fresh: bool


@dataclass(frozen=True)
class FolderArtefact:
    """A complete folder, such as a checkpoint."""

    path: Path
    hash: str
    manifest: Manifest
    fresh: bool


def save(
    path: Path,
    data: "pd.DataFrame | dict[str, Tensor]",
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str] | None = None,
    seed: int | None = None,
    seconds: float | None = None,
) -> Manifest:
    """Write data and manifest under ``path`` (without a suffix), atomically.

    Parameters
    ----------
    path
        ``runs/<run_id>/<stage>/<name>``; ``.parquet`` or ``.safetensors`` is added.
    data
        A frame with a default index, or tensors by name.
    config, inputs
        What determines the data: parameters, and the hashes of upstream artefacts.
    seed, seconds
        For the record.

    Raises
    ------
    StudyError
        A column that has no exact parquet form; a file that cannot be written.
    """
    path = Path(path)
    is_frame = isinstance(data, pd.DataFrame)
    file = _with(path, ".parquet" if is_frame else ".safetensors")
    write = _write_frame if is_frame else _write_tensors
    temporary = _temporary(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write(data, temporary)
        _sync(temporary)
        manifest = _manifest(
            file.name, hash_file(temporary), config, inputs or {}, len(data), seed, seconds
        )
        _publish(manifest, temporary, file, _with(path, ".json"))
    except OSError as error:
        raise _cannot_write(file, error) from None
    finally:
        temporary.unlink(missing_ok=True)
    return manifest


def load(path: Path) -> Data:
    """Return the frame or the tensors under ``path`` (without a suffix), their hash verified.

    Raises
    ------
    StudyError
        Missing, truncated or altered: the line names the file and the remedy.
    """
    path = Path(path)
    manifest = load_manifest(path)
    file = path.parent / manifest.file
    if not file.is_file():
        raise StudyError(f"{file}: missing although its manifest is there; {_remedy(path)}")
    if hash_file(file) != manifest.sha256:
        raise StudyError(f"{file}: truncated or altered since it was written; {_remedy(path)}")
    return _read_frame(file) if file.suffix == ".parquet" else _read_tensors(file)


def load_manifest(path: Path) -> Manifest:
    """Return the manifest of the artefact under ``path`` (without a suffix).

    Raises
    ------
    StudyError
        No manifest, or one that is not readable.
    """
    file = _with(Path(path), ".json")
    if not file.is_file():
        raise StudyError(f"{file}: no such artefact; run the stage that computes it")
    return _parse_manifest(file)


def cached(
    run: Path,
    stage: str,
    name: str,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str] | None = None,
    compute: Callable[[], Data],
) -> Artefact:
    """Return ``run/stage/name``, computing it only when no artefact of this fingerprint is there.

    Notes
    -----
    What is returned was always read back from disk, so a first run and a replay see the same types.
    """
    path = Path(run) / stage / name
    key = _key(config, inputs or {})
    fresh = not _is_current(path, key)
    if fresh:
        start = time.perf_counter()
        data = compute()
        seconds = time.perf_counter() - start
        save(path, data, config=config, inputs=inputs, seed=_seed(config), seconds=seconds)
    data, manifest = load(path), load_manifest(path)
    return Artefact(data, manifest.sha256, manifest, fresh)


def cached_folder(
    run: Path,
    stage: str,
    name: str,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str] | None = None,
    compute: Callable[[Path], None],
) -> FolderArtefact:
    """Return the folder ``run/stage/name``, computing it only when none of this fingerprint is there.

    ``compute`` fills ``<name>.partial``, which survives a kill: called again with the same
    fingerprint, it finds there what it had written and may resume. A partial folder of another
    fingerprint is removed first.
    """
    path = Path(run) / stage / name
    key = _key(config, inputs or {})
    try:
        _finish_interrupted(path, key)
        fresh = not _is_current(path, key)
        if fresh:
            _compute_folder(path, key, config, inputs or {}, compute)
    except OSError as error:
        raise _cannot_write(path, error) from None
    manifest = load_manifest(path)
    if hash_folder(path) != manifest.sha256:
        raise StudyError(f"{path}: altered since it was written; {_remedy(path)}")
    return FolderArtefact(path, manifest.sha256, manifest, fresh)


def hash_file(file: Path) -> str:
    """SHA-256 of a file's bytes."""
    with Path(file).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_folder(folder: Path) -> str:
    """SHA-256 over the sorted relative names and the bytes of all files below a folder."""
    digest = hashlib.sha256()
    for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder).as_posix()}\0{hash_file(file)}\n".encode())
    return digest.hexdigest()


def rng(seed: int, stage: str, unit: int = 0) -> np.random.Generator:
    """Return the generator of one unit of one stage, independent of all others."""
    return np.random.default_rng(_seed_sequence(seed, stage, unit))


def torch_seed(seed: int, stage: str, unit: int = 0) -> int:
    """Return a seed below 2**32 for torch (and for whatever passes it on to numpy)."""
    return int(_seed_sequence(seed, stage, unit).generate_state(1)[0])


def _seed_sequence(seed: int, stage: str, unit: int) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(stage.encode()), unit])


# Folders: the marker `<name>.partial.json` says whose `<name>.partial` is, and becomes the manifest.


def _compute_folder(
    path: Path,
    key: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    compute: Callable[[Path], None],
) -> None:
    partial, marker = _with(path, ".partial"), _with(path, ".partial.json")
    if not _marked(marker, key):
        marker.unlink(missing_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True, exist_ok=True)
    _write_json(marker, {"fingerprint": key})
    start = time.perf_counter()
    try:
        compute(partial)
    except BaseException:
        if not any(partial.iterdir()):
            partial.rmdir()
            marker.unlink()
        raise
    seconds = time.perf_counter() - start
    manifest = _manifest(
        path.name, hash_folder(partial), config, inputs, None, _seed(config), seconds
    )
    _write_json(marker, asdict(manifest))
    _publish_folder(path)


def _publish_folder(path: Path) -> None:
    old = _with(path, ".old")
    _with(path, ".json").unlink(missing_ok=True)
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    _with(path, ".partial").rename(path)
    _with(path, ".partial.json").replace(_with(path, ".json"))
    shutil.rmtree(old, ignore_errors=True)


def _finish_interrupted(path: Path, key: str) -> None:
    """Complete a publication that was cut after its folder was complete."""
    marker, partial = _with(path, ".partial.json"), _with(path, ".partial")
    if _marked(marker, key) and "sha256" in json.loads(marker.read_text()):
        if partial.is_dir():
            _publish_folder(path)
        elif path.is_dir():
            marker.replace(_with(path, ".json"))


def _marked(marker: Path, key: str) -> bool:
    return marker.is_file() and json.loads(marker.read_text()).get("fingerprint") == key


# Files.


def _write_frame(frame: pd.DataFrame, file: Path) -> None:
    if not frame.index.equals(pd.RangeIndex(len(frame))):
        raise StudyError(f"{file.name}: the frame must have a default index; use reset_index")
    names = list(frame.columns)
    if len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
        raise StudyError(f"{file.name}: column names must be distinct text; got {names}")
    try:
        table = pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise StudyError(f"{file.name}: {' '.join(str(error).split())}") from None
    for field in table.schema:
        if not _storable(field.type):
            raise StudyError(
                f"{file.name}: column {field.name} must hold numbers, booleans, text, dates or lists"
                f" of them; got {field.type}"
            )
    pq.write_table(table, file, compression="zstd")


def _storable(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _storable(kind.value_type)
    if pa.types.is_dictionary(kind):
        return _storable(kind.value_type)
    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind))


def _read_frame(file: Path) -> pd.DataFrame:
    return pq.read_table(file).to_pandas()


def _write_tensors(tensors: "dict[str, Tensor]", file: Path) -> None:
    from safetensors.torch import save_file  # torch takes seconds to import

    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(whole, file)


def _read_tensors(file: Path) -> "dict[str, Tensor]":
    from safetensors.torch import load_file

    return load_file(file)


def _publish(manifest: Manifest, temporary: Path, file: Path, manifest_file: Path) -> None:
    """Put the data in place, then the manifest; nothing moves before both are on disk."""
    waiting = _temporary(manifest_file)
    try:
        _write_json(waiting, asdict(manifest))
        manifest_file.unlink(missing_ok=True)
        temporary.replace(file)
        waiting.replace(manifest_file)
    finally:
        waiting.unlink(missing_ok=True)


def _write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write JSON under a temporary name and rename it."""
    temporary = _temporary(file)
    try:
        text = json.dumps(value, indent=1, sort_keys=True)
        temporary.write_text(text + "\n", encoding="utf-8")
        _sync(temporary)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _is_current(path: Path, key: str) -> bool:
    """Whether a manifest of this fingerprint is there, and something beside it."""
    file = _with(path, ".json")
    if not file.is_file():
        return False
    manifest = _parse_manifest(file)
    return manifest.fingerprint == key and (path.parent / manifest.file).exists()


def _parse_manifest(file: Path) -> Manifest:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return Manifest(**{field.name: found[field.name] for field in fields(Manifest)})
    except (ValueError, KeyError, TypeError):
        path = file.with_name(file.name.removesuffix(".json"))
        raise StudyError(f"{file}: not a readable manifest; {_remedy(path)}") from None


def _with(path: Path, suffix: str) -> Path:
    """Append a suffix (names may hold dots)."""
    return path.with_name(path.name + suffix)


def _temporary(file: Path) -> Path:
    return file.with_name(f".{file.name}.{os.getpid()}.tmp")


def _sync(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def _remedy(path: Path) -> str:
    return f"delete {_with(path, '.json').name} beside it to compute it again"


def _cannot_write(file: Path, error: OSError) -> StudyError:
    reason = error.strerror or str(error)
    return StudyError(f"{file}: cannot be written ({reason}); nothing was left half-written")


# Provenance.


def _key(config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    return fingerprint({"config": config, "inputs": inputs})


def _seed(config: Mapping[str, Any]) -> int | None:
    seed = config.get("seed")
    return seed if isinstance(seed, int) else None


def _manifest(
    file: str,
    sha256: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    rows: int | None,
    seed: int | None,
    seconds: float | None,
) -> Manifest:
    return Manifest(
        file=file,
        fingerprint=_key(config, inputs),
        sha256=sha256,
        config=json.loads(canonical_json(config)),
        inputs=dict(inputs),
        rows=rows,
        seed=seed,
        seconds=seconds,
        device=_device(),
        git=git_state(),
        versions=versions(),
    )


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def git_state() -> dict[str, Any] | None:
    """Commit of the study's clone and whether it has changes; None outside a clone."""
    top = _git("rev-parse", "--show-toplevel")
    commit = _git("rev-parse", "HEAD")
    if not top or not commit or Path(top).resolve() != REPO:
        return None
    return {"commit": commit, "dirty": bool(_git("status", "--porcelain"))}


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(REPO), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _device() -> str:
    """Name of the accelerator in use, without importing torch for it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return "cpu"
