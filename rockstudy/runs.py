"""A run: its recorded parameters, its folder, and the one way to cache what is computed in it.

The configuration is recorded in ``run.json`` at a run's first use. Whatever opens the run later
reads the record; values that are given and differ are refused. What a run has computed lies in
``runs/<run_id>/<stage>/<name>`` beside a manifest, by one of three ways:

    table      computed from what is stored: the key holds the fields of the configuration that the
               table reads, the hashes of its inputs, every value that is handed in, and the code;
               computed again when one of them changes
    sampled    completions and their grades, in pieces: the key is part of the name, so that one
    trained    never replaces another; code is recorded and is no part of the key. ``trained`` is
               the same for a folder, such as the checkpoints of a training

A run that was started *from* another one takes over, by hard links where the file system has them,
every artefact whose key is the same. A reference (``data/reference/<preset>``) is a run without
models: it is never written to, and what can be computed from its tables goes to a run of one's own.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel

from rockstudy import notebooks, paths
from rockstudy.config.fields import StudyConfig
from rockstudy.config.identity import changes_results, differences, identity
from rockstudy.config.overrides import changed, from_parameters
from rockstudy.config.presets import PRESETS
from rockstudy.errors import StudyError, shortened, unknown
from rockstudy.store import cache, code, files
from rockstudy.store.fingerprints import content, fingerprint
from rockstudy.store.seeds import generator

REFERENCE = "reference"
RECORD = "run.json"
Inputs = Callable[[], Mapping[str, str]]


@dataclass(frozen=True, eq=False)
class Run:
    """An opened run.

    Attributes
    ----------
    config
        The recorded configuration.
    path
        The run's folder.
    parents
        Folders of the runs that it takes over from, the nearest first.
    reference
        Folder of the committed reference whose tables stand in for models; None where models are.
    reading
        Nothing is computed: a table that is not there is an error.
    """

    config: StudyConfig
    path: Path
    parents: tuple[Path, ...] = ()
    reference: Path | None = None
    reading: bool = False
    _kept: dict[str, Any] = field(default_factory=dict, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """What another process gets: the run, without what this one has in memory."""
        return Run, (self.config, self.path, self.parents, self.reference, self.reading)

    @property
    def id(self) -> str:
        """The run's name, ``reference`` for a committed one."""
        return REFERENCE if self.path == self.reference else self.path.name

    def rng(self, stage: str, unit: int = 0) -> np.random.Generator:
        """Random numbers of a stage, from the study's seed."""
        return generator(self.config.seed, stage, unit)

    def in_memory(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what `make` gives, made once for this object: models, token tables."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    def held(self, name: str) -> Any:
        """What `in_memory` has made, None before."""
        return self._kept.get(name)

    def with_config(self, config: StudyConfig) -> Run:
        """Return the run with other values for one of its steps, such as an arm's normaliser."""
        return Run(config, self.path, self.parents, self.reference, self.reading, self._kept)

    def only_reading(self) -> Run:
        """Return the same run, in which nothing is computed."""
        return Run(self.config, self.path, self.parents, self.reference, True, self._kept)

    def needs_models(self, what: str) -> None:
        """Refuse what a reference cannot give, since it holds no models.

        Raises
        ------
        StudyError
            One line that says how to compute it.
        """
        if self.reading:
            raise NotStored(f"{what}: not stored in the run {self.id!r}")
        if self.reference is not None:
            raise StudyError(
                f"{what}: needs models, which the reference of {self.config.preset} does not hold; "
                f"compute it in a run of your own, such as run_id = 'mine'"
            )

    # --- the one way to cache ---------------------------------------------------------------------

    def table(
        self,
        compute: Callable[..., pd.DataFrame],
        *given: Any,
        name: str | None = None,
        fields: Sequence[str] = (),
        inputs: Inputs = dict,
    ) -> pd.DataFrame:
        """Return ``compute(*given)``, computed once and then read.

        Parameters
        ----------
        compute
            A function of a module, or one that a notebook defines. It gets its data as arguments.
        *given
            Its arguments: frames, lists, numbers, texts. All of them are part of the key, but for
            the run itself.
        name
            Name of the table; that of the function by default, after that of its room.
        fields
            What `compute` reads of the configuration: ``seed``, ``rocks``, ``rocks.window``.
        inputs
            Gives the hashes of the artefacts that `compute` reads.

        Raises
        ------
        StudyError
            A value that cannot be part of a key; whatever `compute` raises.
        """
        from rockstudy.parallel import distributed  # imports torch: not needed to read a record

        name, config = name or name_of(compute), {n: _field(self.config, n) for n in fields}
        values = content([one for one in given if not isinstance(one, Run)])
        config |= {"given": values} if values else {}
        stored = f"{name}-{fingerprint(values)[:8]}" if values else name
        made_by = code.identity(compute)
        if (found := self._committed("tables", stored, config)) is not None:
            self._notice_code(found, made_by)
            return cache.load(found)
        if self.reading:
            raise NotStored(f"{name}: not stored in the run {self.id!r}")
        upstream = self._upstream(inputs) | {"code": made_by}
        place: dict[str, Any] = {
            "stage": "tables",
            "name": stored,
            "config": config,
            "inputs": upstream,
        }
        if distributed.together().is_main_process:
            self._take_over(**place)
        return distributed.cached(
            self.path, **place, code=made_by, compute=lambda: compute(*given)
        ).data

    def sampled(
        self,
        stage: str,
        name: str,
        *,
        config: Mapping[str, Any],
        inputs: Inputs,
        by: Callable[..., Any],
        pieces: Callable[[], Sequence[Any]],
        opened: Callable[[], AbstractContextManager[Any]],
        compute: Callable[[Any, Any], pd.DataFrame],
    ) -> cache.Artefact:
        """Return a table of completions, sampled in pieces (`distributed.pieced`).

        Parameters
        ----------
        config, inputs
            What determines the completions.
        by
            The function that samples, whose code is recorded.
        pieces, opened, compute
            See `distributed.pieced`.
        """
        from rockstudy.parallel import distributed

        if (found := self._committed(stage, name, config)) is not None:
            manifest = cache.load_manifest(found)
            return cache.Artefact(cache.load(found), manifest.sha256, manifest, False)
        place = self.addressed(stage, name, config, inputs, by)
        return distributed.pieced(
            self.path,
            **place,
            code=code.identity(by),
            pieces=pieces,
            opened=opened,
            compute=compute,
        )

    def trained(
        self,
        name: str,
        *,
        config: Mapping[str, Any],
        inputs: Inputs,
        by: Callable[..., Any],
        compute: Callable[[Path], None],
    ) -> cache.FolderArtefact:
        """Return a folder of checkpoints, filled once; see `sampled` for the parameters."""
        from rockstudy.parallel import distributed

        place = self.addressed("training", name, config, inputs, by)
        return distributed.once(self.path, **place, code=code.identity(by), compute=compute)

    def is_stored(
        self, stage: str, name: str, *, config: Mapping[str, Any], inputs: Inputs
    ) -> bool:
        """Whether `sampled` or `trained` would only read."""
        if self.reference is not None:
            return self._committed(stage, name, config) is not None
        from rockstudy.parallel import distributed

        place, first = self._place(stage, name, config, inputs()), distributed.together()
        if first.is_main_process:
            self._take_over(**place)
        return cache.is_current(self.path, **place)

    def folder(
        self,
        stage: str,
        name: str,
        *,
        config: Mapping[str, Any],
        inputs: Inputs,
        by: Callable[..., Any],
        compute: Callable[[Path], None],
    ) -> cache.FolderArtefact:
        """Return a folder of tables that is computed from what is stored, as `table` is."""
        from rockstudy.parallel import distributed

        made_by = code.identity(by)
        if (found := self._committed(stage, name, config)) is not None:
            manifest = cache.load_manifest(found)
            return cache.FolderArtefact(found, manifest.sha256, manifest, False)
        self.needs_models(f"{stage}/{name}")
        place: dict[str, Any] = {"stage": stage, "name": name, "config": config}
        place["inputs"] = dict(inputs()) | {"code": made_by}
        if distributed.together().is_main_process:
            self._take_over(**place)
        return distributed.once(self.path, **place, code=made_by, compute=compute)

    def addressed(
        self,
        stage: str,
        name: str,
        config: Mapping[str, Any],
        inputs: Inputs,
        by: Callable[..., Any],
    ) -> dict[str, Any]:
        """Where an artefact that is never replaced lies; taken over where a parent has it."""
        from rockstudy.parallel import distributed

        self.needs_models(f"{stage}/{name}")
        place = self._place(stage, name, config, inputs())
        if distributed.together().is_main_process:
            self._take_over(**place)
        stored = self.path / stage / place["name"]
        if files.named(stored, ".json").is_file():
            self._notice_code(stored, code.identity(by))
        return place

    def _place(
        self, stage: str, name: str, config: Mapping[str, Any], inputs: Mapping[str, str]
    ) -> dict[str, Any]:
        named = f"{name}-{cache.key(config, inputs)[:8]}"
        return {"stage": stage, "name": named, "config": config, "inputs": inputs}

    def _upstream(self, inputs: Inputs) -> dict[str, str]:
        """Hashes of a table's inputs; for a reference, of its record."""
        if self.reference is None:
            return dict(inputs())
        return {REFERENCE: cache.hash_file(self.reference / RECORD)}

    def _committed(self, stage: str, name: str, config: Mapping[str, Any]) -> Path | None:
        """What the reference has of this name and configuration, None where it has nothing.

        Hashes of inputs are not compared, since a reference has no models. Nor are they where
        nothing is to be computed: then the run itself is looked through as well.
        """
        wanted, folders = fingerprint(config), [self.path] if self.reading else []
        for folder in [*folders, *([self.reference] if self.reference else [])]:
            for file in sorted((folder / stage).glob(f"{name}*.json")):
                stored = file.parent / file.name.removesuffix(".json")
                keyed = stored.name in (name, f"{name}-{stored.name[-8:]}")
                if keyed and fingerprint(cache.load_manifest(stored).config) == wanted:
                    return stored
        return None

    def _notice_code(self, path: Path, now: str) -> None:
        """Print a line, once for each stage, where an artefact was made by different code."""
        made_by, stage = cache.load_manifest(path).code, path.parent.name
        if made_by in (None, now):
            return
        if self.reference is not None:
            notice(
                f"{stage} of the reference of {self.config.preset} was made by different code "
                f"({path.name} first); a run of your own computes with the code as it is",
                about=f"{self.reference} {stage}",
            )
        else:
            notice(
                f"{stage} of {self.id} was made by different code ({path.name} first) and is not "
                f"made again; `rockstudy forget {self.id} {stage}` deletes it",
                about=f"{self.path} {stage}",
            )

    def _take_over(self, *, stage: str, name: str, **key: Any) -> None:
        """Link an artefact of the same key from the nearest parent that has it."""
        if cache.is_current(self.path, stage, name, **key):
            return
        for parent in self.parents:
            if cache.is_current(parent, stage, name, **key):
                cache.link(parent / stage / name, self.path / stage / name)
                return

    # --- what there is ----------------------------------------------------------------------------

    def provenance(self) -> pd.DataFrame:
        """Return a row for each artefact: what it is, what it depends on, what it took."""
        folder = self.path if self.path.is_dir() else self.reference
        return provenance(folder) if folder is not None else pd.DataFrame()


class NotStored(StudyError):
    """A table that nobody has computed, where nothing is to be computed."""


def table(*fields: str, inputs: Callable[[Run], Mapping[str, str]] = lambda run: {}) -> Any:
    """Make a function ``(run, ...) -> DataFrame`` a cached step (`Run.table`).

    Parameters
    ----------
    *fields
        What the function reads of the configuration.
    inputs
        Gives, for a run, the hashes of the artefacts that it reads.
    """

    def decorate(function: Callable[..., pd.DataFrame]) -> Callable[..., pd.DataFrame]:
        @functools.wraps(function)
        def step(run: Run, *args: Any, **kwargs: Any) -> pd.DataFrame:
            bound = inspect.signature(function).bind(run, *args, **kwargs)
            bound.apply_defaults()
            return run.table(function, *bound.args, fields=fields, inputs=lambda: inputs(run))

        return step

    return decorate


def name_of(compute: Callable[..., Any]) -> str:
    """Name of a function's table: its room and its own name, such as ``rocks.types``.

    Raises
    ------
    StudyError
        A lambda.
    """
    if "<lambda>" in compute.__qualname__:
        raise StudyError("name: must be given for a lambda, as run.table(..., name='words')")
    room = compute.__module__.removeprefix("rockstudy.").removesuffix(".steps")
    return compute.__name__ if room == "__main__" else f"{room}.{compute.__name__}"


def _field(config: StudyConfig, name: str) -> Any:
    """A part of the configuration as plain values, without what cannot change a result."""
    found: Any = config
    for part in name.split("."):
        found = getattr(found, part)
    if isinstance(found, tuple):
        return [identity(one) if isinstance(one, BaseModel) else one for one in found]
    return identity(found) if isinstance(found, BaseModel) else found


_NOTICED: set[str] = set()


def notice(text: str, about: str = "") -> None:
    """Print a line to stderr, once in a process for what it is about."""
    if (about or text) not in _NOTICED:
        _NOTICED.add(about or text)
        print(text, file=sys.stderr, flush=True)


# --- opening --------------------------------------------------------------------------------------


def open_run(
    preset: str | None = None,
    run_id: str = REFERENCE,
    seed: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    from_run: str | None = None,
    *,
    check: Callable[[StudyConfig], None] = lambda config: None,
) -> Run:
    """Check a notebook's parameters and return the run that they name.

    Parameters
    ----------
    preset
        Name of a preset or path of a TOML file; None is what the run has recorded, and ``lab`` for
        a new run.
    run_id
        Name of a folder under ``runs/``, or ``reference``.
    seed, overrides
        See `rockstudy.config.overrides.from_parameters`; None and empty change nothing.
    from_run
        Name of a run that a new one takes over from: its values, and every artefact that the new
        values do not touch.
    check
        Called with the configuration before it is recorded; what it raises leaves nothing behind.

    Raises
    ------
    StudyError
        A value that is not legal, that differs from the record, or that a papermill call misspells.
    """
    notebooks.errors_as_one_line()
    notebooks.check_injected()
    if run_id == REFERENCE:
        return _open_reference(preset or "lab", seed, _mapping(overrides), from_run)
    config = resolved(preset, run_id, seed, overrides, from_run)
    path = paths.run_dir(run_id)
    if not (path / RECORD).is_file():
        check(config)
        _record(path, config, from_run)
    elif differences(recorded(path), config):  # of what cannot change a result
        _record(path, config, origin_of(path))
    return opened(path)


def resolved(
    preset: str | None,
    run_id: str,
    seed: int | None,
    overrides: Mapping[str, Any] | None,
    from_run: str | None,
) -> StudyConfig:
    """Return the configuration of a run, recorded or new; nothing is written. See `open_run`."""
    path, given = paths.run_dir(run_id), _mapping(overrides)
    if (path / RECORD).is_file():
        return _agreeing(path, preset, seed, given, from_run)
    if path.is_dir() and any(path.glob("*/*.json")):
        raise StudyError(
            f"run_id: {run_id!r} has no record of its parameters ({RECORD}), so that its artefacts "
            "cannot be trusted; take a different name"
        )
    if from_run is None:
        return from_parameters(preset or "lab", seed, **given)
    if preset is not None:
        raise StudyError(f"from_run: brings its own preset; got preset {preset!r} as well")
    return _with(opened(existing(from_run)).config, seed, given)


def _mapping(overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    if overrides is not None and not isinstance(overrides, Mapping):
        raise StudyError(
            "overrides: must be a mapping such as {'rocks__k': 20}; "
            f"got {type(overrides).__name__} {overrides!r:.60}"
        )
    return dict(overrides or {})


def _record(path: Path, config: StudyConfig, origin: str | None) -> None:
    path.mkdir(parents=True, exist_ok=True)
    record = {"preset": config.preset, "from": origin, "config": config.model_dump(mode="json")}
    files.write_json(path / RECORD, record)


def _agreeing(
    path: Path,
    preset: str | None,
    seed: int | None,
    given: Mapping[str, Any],
    from_run: str | None,
) -> StudyConfig:
    """The recorded configuration, with given values where they cannot change a result.

    Raises
    ------
    StudyError
        Values that are given and differ, each with the recorded one, and the two ways on.
    """
    known, run_id = recorded(path), path.name
    if from_run is not None and from_run != origin_of(path):
        raise StudyError(
            f"from_run: {run_id!r} was started from {origin_of(path)!r}; got {from_run!r}"
        )
    same = preset is None or preset == known.preset
    wanted = _with(known if same else from_parameters(preset), seed, given)
    found = {n: v for n, v in differences(known, wanted).items() if changes_results(n)}
    if not found:
        return wanted
    if "preset" in found:
        found = {"preset": found["preset"]}
    told = [f"{n} {_short(old)} (given {_short(new)})" for n, (old, new) in found.items()]
    raise StudyError(
        f"run_id: {run_id!r} is recorded with {', '.join(told)}; leave these out to go on with it, "
        f"or start a run from it: --run-id NEW --from {run_id}"
    )


def _with(config: StudyConfig, seed: int | None, given: Mapping[str, Any]) -> StudyConfig:
    return changed(config, ({} if seed is None else {"seed": seed}) | dict(given))


def _open_reference(
    preset: str, seed: int | None, given: Mapping[str, Any], from_run: str | None
) -> Run:
    """Open a committed reference, or a run of one's own that is computed from its tables."""
    if from_run is not None:
        raise StudyError(f"from_run: must not be given with run_id 'reference'; got {from_run!r}")
    if preset not in PRESETS:
        raise StudyError(unknown("preset", preset, PRESETS))
    folder = reference_dir(preset)
    if not (folder / RECORD).is_file():
        legal = ", ".join(sorted(p.parent.name for p in folder.parent.glob(f"*/{RECORD}")))
        raise StudyError(
            f"run_id: no reference for preset {preset!r}, only for {legal}; "
            f"`rockstudy run --preset {preset}` makes the run {preset!r}"
        )
    known = recorded(folder)
    config = _with(known, seed, given)
    found = differences(known, config)
    if not found:
        return Run(known, folder, reference=folder)
    path = paths.run_dir(f"from-{preset}-{fingerprint(config)[:6]}")
    values = ", ".join(f"{name} {_short(new)}" for name, (_, new) in found.items())
    notice(
        f"the reference of {preset} with {values}: what its tables give goes to runs/{path.name}"
    )
    if not (path / RECORD).is_file():
        _record(path, config, f"{REFERENCE}/{preset}")
    return opened(path)


def reference_dir(preset: str) -> Path:
    """Folder of a committed reference; it need not exist."""
    return paths.data_dir() / REFERENCE / preset


def existing(run_id: str, field: str = "--from") -> Path:
    """Return the folder of a run that has a record.

    Raises
    ------
    StudyError
        None there: the line lists those there are.
    """
    folder = paths.run_dir(run_id)
    if not (folder / RECORD).is_file():
        legal = ", ".join(path.name for path in all_runs()) or "none yet"
        raise StudyError(f"{field}: must be one of {legal}; got {run_id!r}")
    return folder


def all_runs() -> list[Path]:
    """Folders of all runs that have a record."""
    return sorted(file.parent for file in paths.runs_dir().glob(f"*/{RECORD}"))


def opened(path: Path) -> Run:
    """Open a run's folder by its record alone."""
    origin, parents, reference = origin_of(path), [], None
    while origin is not None:
        if origin.startswith(f"{REFERENCE}/"):
            reference = reference_dir(origin.removeprefix(f"{REFERENCE}/"))
            break
        parents.append(paths.run_dir(origin))
        if parents[-1] in (path, *parents[:-1]):
            raise StudyError(f"{path / RECORD}: must not start from itself; it does by {origin!r}")
        origin = origin_of(parents[-1])
    if path.parent.name == REFERENCE:
        reference = path
    return Run(recorded(path), path, tuple(parents), reference)


def record_of(path: Path) -> dict[str, Any]:
    """Read a run's record; empty where there is none."""
    try:
        return json.loads((path / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise StudyError(f"{path / RECORD}: must be readable JSON; it is damaged") from None


def origin_of(path: Path) -> str | None:
    """Name of the run that a run was started from."""
    origin = record_of(path).get("from")
    if not isinstance(origin, str | None):
        raise StudyError(
            f"{path / RECORD}: from must be the name of a run; got {shortened(origin)}"
        )
    return origin


def recorded(path: Path) -> StudyConfig:
    """The configuration that a run has recorded.

    Raises
    ------
    StudyError
        A record of a version with other fields.
    """
    try:
        return StudyConfig.model_validate(record_of(path)["config"])
    except (ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise StudyError(
            f"{path / RECORD}: must hold the fields of this version; {reason}"
        ) from None


def described(path: Path) -> str:
    """A run's parameters in words: its preset, what it changes in it, where it was started from."""
    config, origin = recorded(path), origin_of(path)
    changes = [f"{name} {_short(new)}" for name, (_, new) in from_preset(config).items()]
    return ", ".join([f"preset {config.preset}", *changes, *([f"from {origin}"] if origin else [])])


def notebook_states(path: Path) -> list[str]:
    """Each notebook of a run: executed to its end, failed, or running or killed, and when."""
    words = {".failed": "failed", ".partial": "running or killed"}
    states = []
    for file in sorted((path / "notebooks").glob("*.ipynb")):
        end = next((end for end in words if file.stem.endswith(end)), "")
        state = words.get(end, "executed")
        states.append(f"{file.stem.removesuffix(end)} {state} {last_changed(file)}")
    return states


def last_changed(path: Path) -> str:
    """Date and time of the last change to a file, or to a run's newest artefact."""
    newest = max([path, *path.glob("*/*.json")], key=lambda file: file.stat().st_mtime)
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(newest.stat().st_mtime))


def from_preset(config: StudyConfig) -> dict[str, tuple[Any, Any]]:
    """What a configuration changes in its preset: preset's and own value by nested name."""
    base = PRESETS.get(config.preset)
    return {} if base is None else differences(base, config)


def _short(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


# --- what is there, and forgetting it -------------------------------------------------------------


def provenance(folder: Path) -> pd.DataFrame:
    """Return a row for each artefact below a folder: what it depends on, what it took."""
    columns = ["artefact", "rows", "hash", "inputs", "seed", "seconds", "device", "code"]
    rows = [
        (
            name,
            manifest.rows,
            manifest.sha256[:12],
            ", ".join(sorted(manifest.inputs)),
            manifest.seed,
            manifest.seconds,
            manifest.device,
            _commit(manifest),
        )
        for name, manifest in cache.manifests(folder).items()
    ]
    return pd.DataFrame(rows, columns=columns)


def _commit(manifest: cache.Manifest) -> str:
    if not manifest.git:
        return "not a checkout"
    return manifest.git["commit"][:12] + (" with changes" if manifest.git["dirty"] else "")


def artefacts(path: Path, what: Sequence[str] = ()) -> dict[str, int]:
    """Bytes of a run's artefacts by name, half-filled folders included; of some by `what`.

    Parameters
    ----------
    what
        Stages such as ``training``, or the beginnings of names such as ``training/stage2-``; all
        artefacts where it is empty.

    Raises
    ------
    StudyError
        Something that is not in the run.
    """
    found = {
        f"{file.parent.name}/{file.name.removesuffix('.json')}" for file in path.glob("*/*.json")
    }
    found |= {
        f"{f.parent.name}/{f.name.removesuffix('.partial')}" for f in path.glob("*/*.partial")
    }
    sizes = {
        name: sum(_size(one) for one in _files_of(path / name))
        for name in sorted(found)
        if not name.startswith("notebooks/")
    }
    for one in what:
        if not any(_matches(name, one) for name in sizes):
            stages = ", ".join(sorted({name.split("/")[0] for name in sizes})) or "nothing"
            raise StudyError(
                f"WHAT: must be a stage of the run ({stages}) or the beginning of an artefact's "
                f"name; got {one!r}"
            )
    return {n: s for n, s in sizes.items() if not what or any(_matches(n, one) for one in what)}


def _matches(name: str, asked: str) -> bool:
    return name.split("/")[0] == asked or ("/" in asked and name.startswith(asked))


def _files_of(stored: Path) -> list[Path]:
    suffixes = (".json", ".parquet", ".safetensors", "", ".partial", ".marker", ".pieces")
    named = [files.named(stored, suffix) for suffix in suffixes]
    return [one for one in named if one.exists()]


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def forget(path: Path, names: Sequence[str]) -> None:
    """Delete artefacts of a run, the manifest of each first: what is cut short is incomplete."""
    for name in names:
        for one in _files_of(path / name):
            if one.is_dir():
                shutil.rmtree(one)
            else:
                os.unlink(one)
