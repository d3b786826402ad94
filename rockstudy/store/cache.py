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
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pydantic

from rockstudy import paths
from rockstudy.errors import StudyError
from rockstudy.progress import notice
from rockstudy.store import files, provenance, resumable
from rockstudy.store.files import hash_file, hash_folder
from rockstudy.store.fingerprints import canonical_json, fingerprint

if TYPE_CHECKING:
    from torch import Tensor

Data = Any  # pandas.DataFrame or dict[str, torch.Tensor]: whoever names an artefact knows which
DATA = (".parquet", ".safetensors", "")  # suffixes: a table, tensors, a folder
SUFFIXES = (*DATA, ".partial", ".marker", ".pieces", ".old")


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
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
    checksum: str | None = None  # of all other fields

    def summed(self) -> str:
        """Fingerprint of all other fields."""
        return fingerprint(asdict(self) | {"checksum": None})


@dataclass(frozen=True)
class Place:
    """Where an artefact lies, ``run/stage/name``, what determines it, and the code of its maker.

    ``config`` and ``inputs`` are the parameters and the hashes of upstream artefacts; their
    fingerprint is the key. ``code`` is `code.identity` of what computes the data, for the record.
    """

    run: Path
    stage: str
    name: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)
    code: str | None = None

    @property
    def path(self) -> Path:
        """The artefact's path, without a suffix (names may hold dots)."""
        return Path(self.run) / self.stage / self.name

    @cached_property
    def key(self) -> str:
        """Fingerprint of what determines the artefact."""
        return key(self.config, self.inputs)

    def manifest(self, file: Path, sha256: str, **about: Any) -> Manifest:
        """Return the manifest of data that has just been written."""
        seed = self.config.get("seed")
        made = Manifest(
            file=file.name,
            fingerprint=self.key,
            sha256=sha256,
            config=json.loads(canonical_json(self.config)),
            inputs=json.loads(canonical_json(self.inputs)),
            device=provenance.device(),
            git=provenance.git_state(),
            versions=provenance.versions(),
            code=self.code,
            **{"rows": None, "seed": seed if isinstance(seed, int) else None} | about,
        )
        return replace(made, checksum=made.summed())


@dataclass(frozen=True)
class Artefact:
    """An artefact as it was read back; its hash goes into the inputs of what it is used for.

    ``data`` is None for a folder, such as a checkpoint, of which ``path`` is all there is to know.
    """

    path: Path
    data: Data
    manifest: Manifest
    fresh: bool = False

    @property
    def hash(self) -> str:
        """SHA-256 of the data."""
        return self.manifest.sha256


def save(
    path: Path,
    data: "pd.DataFrame | dict[str, Tensor]",
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str] | None = None,
    code: str | None = None,
    **about: Any,
) -> Manifest:
    """Write a frame with a default index, or tensors by name, and the manifest, atomically.

    `path` is ``runs/<run_id>/<stage>/<name>``; ``.parquet`` or ``.safetensors`` is added. `config`,
    `inputs` and `code` are those of `Place`; `about` has ``seed`` (that of `config` by default) and
    ``seconds``, for the record.

    `StudyError`: a column that would not come back as it was; a file that cannot be written.
    """
    path, is_frame = Path(path), isinstance(data, pd.DataFrame)
    place = Place(path.parent, "", path.name, config, inputs or {}, code)
    file = files.named(path, ".parquet" if is_frame else ".safetensors")
    manifest_file = files.named(path, ".json")
    with files.writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with files.temporary(file) as waiting, files.temporary(manifest_file) as waiting_json:
            if is_frame:
                files.write_frame(data, waiting, path.name)
            else:
                files.write_tensors(data, waiting)
            files.sync(waiting)
            about = {"rows": len(data), "seconds": None} | about
            manifest = place.manifest(file, hash_file(waiting), **about)
            files.dump_json(waiting_json, asdict(manifest))
            # Both are on the disk; until here nothing that was there has changed.
            files.remove(manifest_file)
            files.put(waiting, file)
            waiting_json.replace(manifest_file)
    return manifest


def load(path: Path) -> Data:
    """Return the frame or the tensors under ``path`` (without a suffix), as `read` does."""
    return read(path).data


def read(path: Path) -> Artefact:
    """Return the artefact under ``path`` (without a suffix), its hash verified, as `verified`."""
    path, manifest = Path(path), verified(path)
    file = path.parent / manifest.file
    reader = {".parquet": files.read_frame, ".safetensors": files.read_tensors}
    data = None if manifest.file == path.name else reader[file.suffix](file)
    return Artefact(path, data, manifest)


def verified(path: Path) -> Manifest:
    """Return the manifest of the artefact under ``path`` once its data has proved whole.

    `StudyError`: missing, truncated or altered, or of a different kind (a folder in place of a
    file): the line names the file and the remedy.
    """
    path, manifest = Path(path), load_manifest(path)
    file, is_folder = path.parent / manifest.file, manifest.file == path.name
    wrong = None
    try:
        if not file.exists():
            wrong = "missing, though its manifest is there"
        elif file.is_dir() != is_folder:
            wrong = f"must be a {'folder' if is_folder else 'file'}"
        elif (hash_folder if is_folder else hash_file)(file) != manifest.sha256:
            wrong = "truncated or altered since it was written"
    except OSError as error:
        wrong = f"cannot be read, {error.strerror}"
    if wrong:
        raise StudyError(f"{file}: {wrong}; {_remedy(path)}")
    return manifest


def load_manifest(path: Path) -> Manifest:
    """Return the manifest of the artefact under ``path`` (without a suffix).

    `StudyError`: no manifest, or one that cannot be read or contradicts itself.
    """
    path = Path(path)
    file = files.named(path, ".json")
    try:
        manifest = Manifest(**files.read_json(file))
        whole = manifest.file in [path.name + suffix for suffix in DATA]
        whole &= manifest.fingerprint == key(manifest.config, manifest.inputs)
        whole &= manifest.checksum in (None, manifest.summed())  # older ones have none
    except FileNotFoundError:
        raise StudyError(f"{file}: no such artefact; run the stage that computes it") from None
    except (OSError, ValueError, TypeError):
        whole = False
    if not whole:
        raise StudyError(f"{file}: not a readable manifest; {_remedy(path)}")
    return manifest


def cached(place: Place, compute: Callable[[], Data]) -> Artefact:
    """Return the artefact of a place, computing it only when none of this key is there.

    The data is always what was read back from disk: a first run and a replay see the same types.
    """
    if fresh := not is_current(place):
        start = time.perf_counter()
        data = compute()
        how: Any = {"seconds": time.perf_counter() - start, "code": place.code}
        save(place.path, data, config=place.config, inputs=place.inputs, **how)
    return replace(read(place.path), fresh=fresh)


def cached_piece(place: Place, compute: Callable[[], Data]) -> Artefact:
    """`cached` for a part of something unfinished: a damaged one is computed again, with a line."""
    try:
        if files.named(place.path, ".json").exists():
            known = read(place.path)
            if known.manifest.fingerprint == place.key:
                return known
    except StudyError as error:
        notice(f"{str(error).rpartition(';')[0]}; it is computed again")
        files.remove(files.named(place.path, ".json"))
    return cached(place, compute)


def cached_folder(place: Place, compute: Callable[[Path], None]) -> Artefact:
    """Return the folder of a place, computing it only when none of this key is there.

    ``compute`` fills ``<name>.partial``, which survives a kill: called again with the same key it
    finds there what it had written, and may resume. A partial folder of another key is removed
    first; a publication that was cut short is completed.
    """
    path = place.path

    def manifest(folder: Path, seconds: float) -> dict[str, Any]:
        return asdict(place.manifest(path, hash_folder(folder), seconds=seconds))

    with files.writing(path):
        resumable.finish_interrupted(path, place.key)
        if fresh := not is_current(place):
            resumable.fill(path, place.key, compute, manifest)
    return replace(read(path), fresh=fresh)


def stored(place: Place) -> Artefact | None:
    """Return the artefact of a place, None where there is none of this key."""
    return read(place.path) if is_current(place) else None


def is_current(place: Place) -> bool:
    """Whether `cached` would compute nothing: the manifest has this key, and there is its data."""
    if not files.named(place.path, ".json").exists():
        return False
    manifest = load_manifest(place.path)
    return manifest.fingerprint == place.key and (place.path.parent / manifest.file).exists()


def _remedy(path: Path) -> str:
    """What to type so that a damaged artefact is computed again."""
    try:
        run, stage, name, *_ = Path(path).resolve().relative_to(paths.runs_dir().resolve()).parts
    except ValueError:  # not in a run of this study
        return f"delete {path.name}.json beside it to compute it again"
    part = f"{stage}/{name.removesuffix('.partial').removesuffix('.pieces')}"
    return f"`rockstudy forget {run} {part}` deletes it, and what needs it computes it again"


def key(config: Mapping[str, Any], inputs: Mapping[str, str] | None) -> str:
    """Return the fingerprint of what determines an artefact."""
    return fingerprint({"config": config, "inputs": inputs or {}})


def seconds(manifest: Path) -> float | None:
    """Return what a manifest has recorded of the time of computing; None where it cannot be read.

    It is for estimates, which damaged artefacts do not stop.
    """
    try:
        value = files.read_json(manifest).get("seconds")
    except (OSError, ValueError):
        return None
    return value if isinstance(value, float) and value >= 0 else None


def names(run: Path) -> list[str]:
    """Artefacts of a run as ``stage/name``, sorted: the complete, half-filled and damaged ones."""
    stored = {
        f"{part.parent.name}/{part.name.removesuffix(end)}"
        for end in (".json", *filter(None, SUFFIXES))
        for part in run.glob(f"*/*{end}")
        if part.name[0] != "."
    }
    return sorted(name for name in stored if not name.startswith("notebooks/"))


def parts(path: Path) -> list[Path]:
    """Files and folders of the artefact under ``path`` (without a suffix), the manifest first."""
    return [part for end in (".json", *SUFFIXES) if (part := files.named(path, end)).exists()]


def manifests(run: Path) -> dict[str, Manifest]:
    """Return the manifests of a run's artefacts by ``stage/name``, in the order of their names."""
    complete = (name for name in names(run) if files.named(run / name, ".json").exists())
    return {name: load_manifest(run / name) for name in complete}


def damage(path: Path) -> str | None:
    """A line about damage to the artefact under ``path``; None where it is whole or half-filled."""
    try:
        if files.named(path, ".json").exists():
            verified(path)
        elif data := [part for part in parts(path) if part.name[len(path.name) :] in DATA]:
            return f"{data[0]}: its manifest is missing; {_remedy(path)}"
    except StudyError as error:
        return str(error)
    return None


def link(source: Path, target: Path) -> None:
    """Take over an artefact: its files are linked, or copied where they cannot be, manifest last.

    No file of an artefact is ever changed in place, so that two runs can share one.
    """
    manifest = verified(source)
    data, to = source.parent / manifest.file, target.parent / manifest.file
    with files.writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        files.remove(files.named(target, ".json"))
        if data.is_dir():
            waiting = files.named(target, ".partial")
            files.remove(waiting)
            shutil.copytree(data, waiting, copy_function=files.link)
            files.remove(to)
            waiting.rename(to)
        else:
            files.link(data, to)
        files.link(files.named(source, ".json"), files.named(target, ".json"))
