"""A run: its recorded parameters, its folder, and the one way to cache what is computed in it.

The configuration is recorded in ``run.json`` at a run's first use. Whatever opens the run later
reads the record; values that are given and differ are refused. What a run has computed lies in
``runs/<run_id>/<stage>/<name>`` beside a manifest, by one of three ways:

    table      computed from what is stored: the key holds the fields of the configuration that the
               table reads, the hashes of its inputs, every value that is handed in, and the code;
               computed again when one of them changes
    sampled    completions and their grades, in pieces: the key is part of the name, so that one
               never replaces another; code is recorded and is no part of the key
    addressed  the place of such an artefact, for a folder: the checkpoints of a training

A run that was started *from* another one takes over, by hard links where the file system has them,
every artefact whose key is the same. A reference (``data/reference/<preset>``) is a run without
models: it is never written to, and what can be computed from its tables goes to a run of one's own.
"""

from __future__ import annotations

import functools
import inspect
import json
import operator
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import pandas as pd
from pydantic import BaseModel

from rockstudy import notebooks, paths, progress
from rockstudy.config.fields import StudyConfig
from rockstudy.config.identity import changes_results, differences, identity
from rockstudy.config.overrides import changed, from_parameters
from rockstudy.config.presets import PRESETS
from rockstudy.errors import StudyError, shortened, unknown
from rockstudy.parallel import distributed
from rockstudy.progress import notice
from rockstudy.store import cache, code, files
from rockstudy.store.cache import Artefact, Place
from rockstudy.store.fingerprints import content, fingerprint
from rockstudy.store.seeds import generator

REFERENCE = "reference"
RECORD = "run.json"
Inputs = Callable[[], Mapping[str, str]]


class Key(TypedDict):
    """What determines completions or a folder, and the function whose code is recorded."""

    config: Mapping[str, Any]
    inputs: Inputs  # hashes of the artefacts that are read
    by: Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Run:
    """An opened run."""

    config: StudyConfig  # as it is recorded
    path: Path
    parents: tuple[Path, ...] = ()  # runs that it takes over from, the nearest first
    reference: Path | None = None  # the committed one whose tables stand in for models
    reading: bool = False  # nothing is computed: a table that is not there is an error
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

    def needs_models(self, what: str) -> None:
        """Refuse what a reference, which holds no models, cannot give; a line tells what can."""
        if self.reading:
            raise NotStored(f"{what}: not stored in the run {self.id!r}")
        if self.reference is not None:
            raise NotStored(
                f"{what}: needs models, which the reference of {self.config.preset} does not hold; "
                f"compute it in a run of your own, such as run_id = 'mine'"
            )

    def table(
        self,
        compute: Callable[..., pd.DataFrame],
        *given: Any,
        name: str | None = None,
        fields: Sequence[str] = (),
        inputs: Inputs = dict,
    ) -> pd.DataFrame:
        """Return ``compute(*given)``, computed once and then read.

        `compute` is a function of a module, or one that a notebook defines, and the table's `name`
        is by default that of the function after that of its room. All of `given` (frames, lists,
        numbers, texts) is part of the key, but for the run itself. `fields` are what `compute`
        reads of the configuration (``seed``, ``rocks.window``), and `inputs` gives the hashes of
        the artefacts that it reads.

        `StudyError`: a value that cannot be part of a key; whatever `compute` raises.
        """
        name, config = name or name_of(compute), {n: _field(self.config, n) for n in fields}
        values = content([one for one in given if not isinstance(one, Run)])
        config |= {"given": values} if values else {}
        stored = f"{name}-{fingerprint(values)[:8]}" if values else name
        made_by = code.identity(compute)
        if (known := self._committed("tables", stored, config)) is not None:
            self._notice_code(known, made_by)
            return cache.load(known)
        if self.reading:
            raise NotStored(f"{name}: not stored in the run {self.id!r}")
        if self.path == self.reference:  # which is never written to
            return self.in_memory(f"table {stored}", lambda: compute(*given))
        # a reference has no models: its record stands for what they were
        record = self.reference and {REFERENCE: cache.hash_file(self.reference / RECORD)}
        upstream = {**(record or inputs()), "code": made_by}
        place = self._taken(Place(self.path, "tables", stored, config, upstream, made_by))
        return distributed.cached(place, lambda: compute(*given)).data

    def sampled(
        self,
        stage: str,
        name: str,
        *,
        pieces: Callable[[], Sequence[Any]],
        opened: Callable[[], AbstractContextManager[Any]],
        compute: Callable[[Any, Any], pd.DataFrame],
        **key: Unpack[Key],
    ) -> Artefact:
        """Return a table of completions, sampled in pieces (`distributed.pieced`)."""
        if (known := self._committed(stage, name, key["config"])) is not None:
            return cache.read(known)
        return distributed.pieced(self.addressed(stage, name, **key), pieces, opened, compute)

    def folder(
        self, stage: str, name: str, *, compute: Callable[[Path], None], **key: Unpack[Key]
    ) -> Artefact:
        """Return a folder of tables that is computed from what is stored, as `table` is."""
        if (known := self._committed(stage, name, key["config"])) is not None:
            return cache.read(known)
        self.needs_models(f"{stage}/{name}")
        made_by = code.identity(key["by"])
        upstream = {**key["inputs"](), "code": made_by}
        place = Place(self.path, stage, name, key["config"], upstream, made_by)
        return distributed.once(self._taken(place), compute)

    def is_stored(
        self, stage: str, name: str, *, config: Mapping[str, Any], inputs: Inputs
    ) -> bool:
        """Whether an artefact that is never replaced (`addressed`) would only be read."""
        if self.reference is not None:
            return self._committed(stage, name, config) is not None
        return cache.is_current(self._taken(self._place(stage, name, config, inputs)))

    def addressed(self, stage: str, name: str, **key: Unpack[Key]) -> Place:
        """Where an artefact that is never replaced lies; taken over where a parent has it."""
        self.needs_models(f"{stage}/{name}")
        made_by = code.identity(key["by"])
        place = self._taken(self._place(stage, name, key["config"], key["inputs"]))
        if files.named(place.path, ".json").is_file():
            self._notice_code(place.path, made_by)
        return replace(place, code=made_by)

    def _place(self, stage: str, name: str, config: Mapping[str, Any], inputs: Inputs) -> Place:
        """The place of an artefact whose key is part of its name."""
        place = Place(self.path, stage, name, config, inputs())
        return replace(place, name=f"{name}-{place.key[:8]}")

    def _committed(self, stage: str, name: str, config: Mapping[str, Any]) -> Path | None:
        """What the reference has of this name and configuration, None where it has nothing.

        Hashes of inputs are not compared, since a reference has no models. Nor are they where
        nothing is to be computed: then the run itself is looked through as well.
        """
        wanted = fingerprint(config)
        for folder in filter(None, (self.path if self.reading else None, self.reference)):
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
        whose, then = self.id, f"is not made again; `rockstudy forget {self.id} {stage}` deletes it"
        if self.reference is not None:
            whose = f"the reference of {self.config.preset}"
            then = "stays; a run of your own computes with the code as it is"
        notice(
            f"{stage} of {whose}: {path.name} was made by different code and {then}",
            about=f"{self.reference or self.path} {stage}",
        )

    def _taken(self, place: Place) -> Place:
        """The place, once what the nearest parent has of its key is linked there."""
        if distributed.together().is_main_process and not cache.is_current(place):
            theirs = (replace(place, run=parent) for parent in self.parents)
            if (nearest := next(filter(cache.is_current, theirs), None)) is not None:
                cache.link(nearest.path, place.path)
        return place

    def took(self, begin: str) -> float | None:
        """Median seconds of what this run has made under names that begin with `begin`.

        Such as ``training/stage2-``; for announcements. None where there is none yet.
        """
        found = map(cache.seconds, self.path.glob(f"{begin}*.json"))
        known = [seconds for seconds in found if seconds is not None]
        return float(np.median(known)) if known else None

    def provenance(self) -> pd.DataFrame:
        """Return a row for each artefact: what it is, what it depends on, what it took."""
        folder = self.path if self.path.is_dir() else self.reference
        return provenance(folder) if folder is not None else pd.DataFrame()


class NotStored(StudyError):
    """A table that nobody has computed, where nothing is to be computed or no models are."""


def table(*fields: str, inputs: Callable[[Run], Mapping[str, str]] = lambda run: {}) -> Any:
    """Make a function ``(run, ...) -> DataFrame`` a cached step (`Run.table`).

    It reads ``fields`` of the configuration, and artefacts whose hashes ``inputs(run)`` gives.
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
    """Room and name of a function, which its table is named after: ``rocks.types``.

    `StudyError` for a lambda.
    """
    if "<lambda>" in compute.__qualname__:
        raise StudyError("name: must be given for a lambda, as run.table(..., name='words')")
    room = compute.__module__.removeprefix("rockstudy.").removesuffix(".steps")
    return compute.__name__ if room == "__main__" else f"{room}.{compute.__name__}"


def _field(config: StudyConfig, name: str) -> Any:
    """A part of the configuration as plain values, without what cannot change a result."""
    value = operator.attrgetter(name)(config)
    if isinstance(value, tuple):
        return [identity(one) if isinstance(one, BaseModel) else one for one in value]
    return identity(value) if isinstance(value, BaseModel) else value


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

    `preset` is the name of a preset or the path of a TOML file; None is what the run has recorded,
    and ``lab`` for a new run. `run_id` is a folder under ``runs/``, or ``reference``. `seed` and
    `overrides` are those of `rockstudy.config.overrides.from_parameters`; None and empty change
    nothing. `from_run` is a run that a new one takes over from: its values, and every artefact
    that the new values do not touch. `check` is called with the configuration before it is
    recorded; what it raises leaves nothing behind.

    `StudyError`: a value that is not legal, that differs from the record, or that a papermill call
    misspells.
    """
    notebooks.prepare()
    if run_id == REFERENCE:
        return _open_reference(preset or "lab", _given(seed, overrides), from_run)
    config = resolved(preset, run_id, seed, overrides, from_run)
    path = paths.run_dir(run_id)
    known = has_record(path)
    if not known or differences(recorded(path), config):  # later ones cannot change a result
        check(config)
        _record(path, config, origin_of(path) if known else from_run)
    return opened(path)


def resolved(
    preset: str | None,
    run_id: str,
    seed: int | None,
    overrides: Mapping[str, Any] | None,
    from_run: str | None,
) -> StudyConfig:
    """Return the configuration of a run, recorded or new; nothing is written. See `open_run`."""
    path, given = paths.run_dir(run_id), _given(seed, overrides)
    if has_record(path):
        return _agreeing(path, preset, given, from_run)
    if path.is_dir() and any(path.glob("*/*.json")):
        raise StudyError(
            f"run_id: {run_id!r} has no record of its parameters ({RECORD}), so that its artefacts "
            "cannot be trusted; take a different name"
        )
    if from_run is None:
        return from_parameters(preset or "lab", **given)
    if preset is not None:
        raise StudyError(f"from_run: brings its own preset; got preset {preset!r} as well")
    return changed(opened(existing(from_run)).config, given)


def _given(seed: int | None, overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """New values by nested name."""
    if overrides is not None and not isinstance(overrides, Mapping):
        raise StudyError(
            "overrides: must be a mapping such as {'rocks__k': 20}; "
            f"got {type(overrides).__name__} {overrides!r:.60}"
        )
    return ({} if seed is None else {"seed": seed}) | dict(overrides or {})


def _record(path: Path, config: StudyConfig, origin: str | None) -> None:
    path.mkdir(parents=True, exist_ok=True)
    record = {"preset": config.preset, "from": origin, "config": config.model_dump(mode="json")}
    files.write_json(path / RECORD, record)


def _agreeing(
    path: Path, preset: str | None, given: dict[str, Any], origin: str | None
) -> StudyConfig:
    """The recorded configuration, with given values where they cannot change a result.

    `StudyError` for those that differ, each with the recorded one, and the two ways on.
    """
    known, run_id = recorded(path), path.name
    if origin not in (None, origin_of(path)):
        raise StudyError(
            f"from_run: {run_id!r} was started from {origin_of(path)!r}; got {origin!r}"
        )
    same = preset in (None, known.preset)
    wanted = changed(known if same else from_parameters(preset), given)
    changes = {n: v for n, v in differences(known, wanted).items() if changes_results(n)}
    if "preset" in changes:
        changes = {"preset": changes["preset"]}
    if changes:
        told = [f"{n} {_short(old)} (given {_short(new)})" for n, (old, new) in changes.items()]
        raise StudyError(
            f"run_id: {run_id!r} is recorded with {', '.join(told)}; leave these out to go on with "
            f"it, or start a run from it: --run-id NEW --from {run_id}"
        )
    return wanted


def _open_reference(preset: str, given: dict[str, Any], from_run: str | None) -> Run:
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
    config = changed(known, given)
    values = ", ".join(_changes(known, config))
    if not values:
        return Run(known, folder, reference=folder)
    path = paths.run_dir(f"from-{preset}-{fingerprint(config)[:6]}")
    notice(
        f"the reference of {preset} with {values}: what its tables give goes to runs/{path.name}"
    )
    if not has_record(path):
        _record(path, config, f"{REFERENCE}/{preset}")
    return opened(path)


def reference_dir(preset: str) -> Path:
    """Folder of a committed reference; it need not exist."""
    return paths.data_dir() / REFERENCE / preset


def existing(run_id: str, field: str = "--from") -> Path:
    """Return the folder of a run that has a record; `StudyError` lists them where it is none."""
    if not has_record(folder := paths.run_dir(run_id)):
        if not (runs := all_runs()):
            raise StudyError(f"{field}: must name a run, and there is none yet; got {run_id!r}")
        raise StudyError(unknown(field, run_id, [run.name for run in runs]))
    return folder


def all_runs() -> list[Path]:
    """Folders of all runs that have a record."""
    return sorted(f.parent for f in paths.runs_dir().glob(f"*/{RECORD}") if f.is_file())


def has_record(path: Path) -> bool:
    """Whether a run's folder has a record; `StudyError` where either is something else."""
    for place in (path.parent, path):
        if os.path.lexists(place) and not place.is_dir():
            raise StudyError(f"run_id: must name a folder; {place} is none")
    if os.path.lexists(path / RECORD) and not (path / RECORD).is_file():
        raise StudyError(f"{path / RECORD}: must be readable JSON; it is no file")
    return (path / RECORD).is_file()


def opened(path: Path) -> Run:
    """Open a run's folder by its record alone."""
    if path.parent.name == REFERENCE:  # takes over nothing: whoever opens it has other runs
        return Run(recorded(path), path, reference=path)
    origin, parents, reference = origin_of(path), [], None
    while origin is not None and not origin.startswith(f"{REFERENCE}/"):
        parents.append(paths.run_dir(origin))
        if parents[-1] in (path, *parents[:-1]):
            raise StudyError(f"{path / RECORD}: must not start from itself; it does by {origin!r}")
        origin = origin_of(parents[-1])
    if origin is not None:
        reference = reference_dir(origin.removeprefix(f"{REFERENCE}/"))
    return Run(recorded(path), path, tuple(parents), reference)


def record_of(path: Path) -> dict[str, Any]:
    """Read a run's record; empty where there is none."""
    try:
        return files.read_json(path / RECORD)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
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
    """The configuration that a run has recorded; `StudyError` for one of a different version."""
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
    changes = _changes(PRESETS.get(config.preset, config), config)
    return ", ".join([f"preset {config.preset}", *changes, *([f"from {origin}"] if origin else [])])


def notebook_states(path: Path) -> list[str]:
    """Each notebook of a run: executed to its end, failed, or running or killed, and when."""
    words = {".failed": "failed", ".partial": "running or killed", "": "executed"}
    states = []
    for file in sorted((path / "notebooks").glob("*.ipynb")):
        end = next(end for end in words if file.stem.endswith(end))
        states.append(f"{file.stem.removesuffix(end)} {words[end]} {last_changed(file)}")
    return states


def last_changed(path: Path) -> str:
    """Date and time of the last change to a file, or to a run's newest artefact."""
    newest = max([path, *path.glob("*/*.json")], key=lambda file: file.stat().st_mtime)
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(newest.stat().st_mtime))


def _changes(base: StudyConfig, config: StudyConfig) -> list[str]:
    """What a configuration changes in another one: nested names and its values."""
    return [f"{name} {_short(new)}" for name, (_, new) in differences(base, config).items()]


def _short(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def provenance(folder: Path) -> pd.DataFrame:
    """Return a row for each artefact below a folder: what it depends on, what it took."""
    columns = "artefact rows hash inputs seed seconds device code".split()
    rows = []
    for name, m in cache.manifests(folder).items():
        git = m.git["commit"][:12] + " with changes" * m.git["dirty"] if m.git else "not a checkout"
        inputs = ", ".join(sorted(m.inputs))
        rows.append((name, m.rows, m.sha256[:12], inputs, m.seed, m.seconds, m.device, git))
    return pd.DataFrame(rows, columns=columns)


def artefacts(path: Path, what: Sequence[str] = ()) -> dict[str, int]:
    """Bytes of a run's artefacts by name, half-filled folders included; of some by `what`.

    It holds stages such as ``training``, names, or the beginnings of names such as
    ``training/stage2-``; all artefacts where it is empty. `StudyError`: something that is not in
    the run.
    """
    names = cache.names(path)
    chosen = set() if what else set(names)
    for one in what:
        begin = one if "/" in one else f"{one}/"
        matching = {name for name in names if name.startswith(begin)}
        if not matching:
            stages = ", ".join(sorted({name.split("/")[0] for name in names})) or "nothing"
            raise StudyError(
                f"WHAT: must be a stage of the run ({stages}) or the beginning of an artefact's "
                f"name; got {one!r}"
            )
        chosen |= {one} & matching or matching
    return {name: sum(map(_size, cache.parts(path / name))) for name in names if name in chosen}


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())


def forget(path: Path, names: Sequence[str]) -> None:
    """Delete artefacts of a run, the manifest of each first: what is cut short is incomplete."""
    for name in names:
        files.remove(*cache.parts(path / name))


def check(path: Path) -> None:
    """Refuse a run of which an artefact is damaged: what its notebooks show rests on all of them.

    The line of `StudyError` has the first one's file, the remedy, and how to list the others.
    """
    complete = [n for n in cache.names(path) if files.named(path / n, ".json").exists()]
    if wrong := list(damages(path, complete)):
        more = f"; and {len(wrong) - 1} more: `rockstudy info --verify {path.name}`"
        raise StudyError(wrong[0] + more * (len(wrong) > 1))


def damages(path: Path, names: Sequence[str]) -> Iterator[str]:
    """Verify artefacts of a run, and yield a line for each damaged one: its file and the remedy."""
    with progress.bar(len(names), f"verifying {path.name}", "artefact") as bar:
        for name in names:
            if line := cache.damage(path / name):
                yield line
            bar.update()
