"""Artefacts on disk: data beside a manifest, resumable, never half-written.

A table is a parquet file, tensors are a safetensors file, a checkpoint is a folder. Beside it,
``<name>.json`` says what made it and holds its SHA-256. The order of writing is: the data under a
temporary name, the old manifest away, the data to its name, the new manifest last. A manifest is
therefore the proof of a complete artefact: a process killed anywhere leaves the old artefact, the
new one, or none. Data whose hash is not its manifest's is an error, never used and never recomputed
in silence.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from rockstudy.errors import StudyError
from rockstudy.store import files, provenance, resumable
from rockstudy.store.files import hash_file, hash_folder
from rockstudy.store.fingerprints import canonical_json, fingerprint

if TYPE_CHECKING:
    from torch import Tensor

Data = Any  # pandas.DataFrame or dict[str, torch.Tensor]: whoever names an artefact knows which


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
    code: str | None = None


@dataclass(frozen=True)
class Artefact:
    """Loaded data; its hash goes into the inputs of what is computed from it."""

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
    code: str | None = None,
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
    seed, seconds, code
        For the record; ``code`` is `code.identity` of what computed the data.

    Raises
    ------
    StudyError
        A column that would not come back as it was; a file that cannot be written.
    """
    path = Path(path)
    file = files.named(path, ".parquet" if isinstance(data, pd.DataFrame) else ".safetensors")
    manifest_file = files.named(path, ".json")
    with files.writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with files.temporary(file) as waiting, files.temporary(manifest_file) as waiting_json:
            if isinstance(data, pd.DataFrame):
                files.write_frame(data, waiting, path.name)
            else:
                files.write_tensors(data, waiting)
            files.sync(waiting)
            about = {"rows": len(data), "seed": seed, "seconds": seconds, "code": code}
            manifest = _manifest(file.name, hash_file(waiting), config, inputs or {}, **about)
            files.dump_json(waiting_json, asdict(manifest))
            # Both are on the disk; until here nothing that was there has changed.
            manifest_file.unlink(missing_ok=True)
            waiting.replace(file)
            waiting_json.replace(manifest_file)
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
        raise StudyError(f"{file}: missing, though its manifest is there; {_remedy(path)}")
    if hash_file(file) != manifest.sha256:
        raise StudyError(f"{file}: truncated or altered since it was written; {_remedy(path)}")
    return files.read_frame(file) if file.suffix == ".parquet" else files.read_tensors(file)


def load_manifest(path: Path) -> Manifest:
    """Return the manifest of the artefact under ``path`` (without a suffix).

    Raises
    ------
    StudyError
        No manifest, or one that cannot be read.
    """
    path = Path(path)
    file = files.named(path, ".json")
    if not file.is_file():
        raise StudyError(f"{file}: no such artefact; run the stage that computes it")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return Manifest(**{"code": None} | found)
    except (ValueError, KeyError, TypeError):
        raise StudyError(f"{file}: not a readable manifest; {_remedy(path)}") from None


def cached(
    run: Path,
    stage: str,
    name: str,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str] | None = None,
    code: str | None = None,
    compute: Callable[[], Data],
) -> Artefact:
    """Return ``run/stage/name``, computing it only when no artefact of this fingerprint is there.

    Notes
    -----
    The data is always what was read back from disk: a first run and a replay see the same types.
    """
    path = Path(run) / stage / name
    fresh = not _is_current(path, key(config, inputs))
    if fresh:
        start = time.perf_counter()
        data = compute()
        seconds = time.perf_counter() - start
        about = {"seed": _seed(config), "seconds": seconds, "code": code}
        save(path, data, config=config, inputs=inputs, **about)
    data, manifest = load(path), load_manifest(path)
    return Artefact(data, manifest.sha256, manifest, fresh)


def cached_folder(
    run: Path,
    stage: str,
    name: str,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str] | None = None,
    code: str | None = None,
    compute: Callable[[Path], None],
) -> FolderArtefact:
    """Return the folder ``run/stage/name``, computing it only when none of this fingerprint is.

    ``compute`` fills ``<name>.partial``, which survives a kill: called again with the same
    fingerprint it finds there what it had written, and may resume. A partial folder of another
    fingerprint is removed first.
    """
    path = Path(run) / stage / name
    wanted = key(config, inputs)
    fresh = not folder_is_current(run, stage, name, config=config, inputs=inputs)
    if fresh:
        with files.writing(path):
            resumable.prepare(path, wanted)
            seconds = resumable.fill(path, compute)
            about = {"rows": None, "seed": _seed(config), "seconds": seconds, "code": code}
            digest = hash_folder(resumable.folder(path))
            manifest = _manifest(path.name, digest, config, inputs or {}, **about)
            resumable.complete(path, asdict(manifest))
    return replace(_loaded_folder(path), fresh=fresh)


def folder_is_current(
    run: Path,
    stage: str,
    name: str,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str] | None = None,
) -> bool:
    """Whether `cached_folder` would only read; a publication that was cut short is completed."""
    path, wanted = Path(run) / stage / name, key(config, inputs)
    with files.writing(path):
        resumable.finish_interrupted(path, wanted)
    return _is_current(path, wanted)


def stored_folder(
    run: Path,
    stage: str,
    name: str,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str] | None = None,
) -> FolderArtefact | None:
    """Return the folder of this key, None where it is not there."""
    path = Path(run) / stage / name
    return _loaded_folder(path) if _is_current(path, key(config, inputs)) else None


def _loaded_folder(path: Path) -> FolderArtefact:
    manifest = load_manifest(path)
    if hash_folder(path) != manifest.sha256:
        raise StudyError(f"{path}: altered since it was written; {_remedy(path)}")
    return FolderArtefact(path, manifest.sha256, manifest, False)


def is_current(
    run: Path,
    stage: str,
    name: str,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str] | None = None,
) -> bool:
    """Whether `cached` or `cached_folder` would find ``run/stage/name`` and compute nothing."""
    return _is_current(Path(run) / stage / name, key(config, inputs))


def _is_current(path: Path, key: str) -> bool:
    """Whether a manifest of this fingerprint is there, and its data (whole or not) beside it."""
    if not files.named(path, ".json").is_file():
        return False
    manifest = load_manifest(path)
    return manifest.fingerprint == key and (path.parent / manifest.file).exists()


def _remedy(path: Path) -> str:
    return f"delete {path.name}.json beside it to compute it again"


def key(config: Mapping[str, Any], inputs: Mapping[str, str] | None) -> str:
    """Return the fingerprint of what determines an artefact."""
    return fingerprint({"config": config, "inputs": inputs or {}})


def _seed(config: Mapping[str, Any]) -> int | None:
    seed = config.get("seed")
    return seed if isinstance(seed, int) else None


def _manifest(
    file: str, sha256: str, config: Mapping[str, Any], inputs: Mapping[str, str], **about: Any
) -> Manifest:
    return Manifest(
        file=file,
        fingerprint=key(config, inputs),
        sha256=sha256,
        config=json.loads(canonical_json(config)),
        inputs=json.loads(canonical_json(inputs)),
        device=provenance.device(),
        git=provenance.git_state(),
        versions=provenance.versions(),
        **about,
    )


def manifests(run: Path) -> dict[str, Manifest]:
    """Return the manifests of a run's artefacts by ``stage/name``, in the order of their names."""
    files = [p for p in sorted(run.glob("*/*.json")) if p.parent.name != "notebooks"]
    found = [p.with_suffix("") for p in files if not p.name.endswith(".partial.json")]
    return {f"{path.parent.name}/{path.name}": load_manifest(path) for path in found}


def link(source: Path, target: Path) -> None:
    """Take over an artefact: its files are linked, or copied where they cannot be, manifest last.

    No file of an artefact is ever changed in place, so that two runs can share one.
    """
    manifest = load_manifest(source)
    data = source.parent / manifest.file
    with files.writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        to = target.parent / manifest.file
        files.named(target, ".json").unlink(missing_ok=True)
        if data.is_dir():
            waiting = files.named(target, ".partial")
            shutil.rmtree(waiting, ignore_errors=True)
            shutil.copytree(data, waiting, copy_function=files.link)
            shutil.rmtree(to, ignore_errors=True)
            waiting.rename(to)
        else:
            files.link(data, to)
        files.link(files.named(source, ".json"), files.named(target, ".json"))
