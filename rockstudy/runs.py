"""A run: its resolved configuration and its folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rockstudy import paths
from rockstudy.config.fields import StudyConfig
from rockstudy.config.overrides import from_parameters
from rockstudy.errors import StudyError
from rockstudy.parallel import distributed
from rockstudy.store import cache, files


def table(
    run: Run, name: str, inputs: Mapping[str, str], compute: Callable[[], pd.DataFrame]
) -> pd.DataFrame:
    if run.replay:
        return read(run, name)
    settings = run.config.model_dump(mode="json")
    return distributed.cached(
        run.path, "tables", name, config=settings, inputs=inputs, compute=compute
    ).data


def read(run: Run, name: str) -> pd.DataFrame:
    return cache.load(run.path / "tables" / name)


REFERENCE = "reference"
PARAMETERS = "parameters.json"  # what a run was opened with, for those who replay it


@dataclass(frozen=True)
class Run:
    """An opened run: its resolved configuration and its folder; usable wherever a path is."""

    config: StudyConfig
    path: Path
    replay: bool = False

    def __fspath__(self) -> str:
        return str(self.path)


def open_run(
    preset: str = "lab",
    run_id: str = REFERENCE,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
) -> Run:
    """Check a notebook's parameters and return the run that they name.

    Parameters
    ----------
    preset, seed, overrides
        See `rockstudy.config.overrides.from_parameters`; ``overrides`` holds its nested names.
    run_id
        Name of a folder under ``runs/``, made here; or ``reference``.

    Raises
    ------
    StudyError
        A value that is not legal, or a reference that does not exist or cannot be altered.
    """
    config = from_parameters(preset, seed, **(overrides or {}))
    if run_id != REFERENCE:
        path = paths.run_dir(run_id)
        path.mkdir(parents=True, exist_ok=True)
        given = {"preset": preset, "seed": seed, "overrides": dict(overrides or {})}
        files.write_json(path / PARAMETERS, given)
        return Run(config, path, replay=False)
    path = paths.data_dir() / REFERENCE / preset
    if overrides:
        raise StudyError(
            f"run_id: overrides need a run of their own, such as {preset + '-2'!r}; got {run_id!r}"
        )
    if not path.is_dir():
        raise StudyError(
            f"run_id: no reference tables for preset {preset!r}; "
            f"`rockstudy run --preset {preset}` makes the run {preset!r}; got {run_id!r}"
        )
    return Run(_recorded(path) or config, path, replay=True)


def _recorded(path: Path) -> StudyConfig | None:
    """The configuration that a run was made with: a reference is larger than its preset."""
    if not (path / PARAMETERS).is_file():
        return None
    given = json.loads((path / PARAMETERS).read_text(encoding="utf-8"))
    return from_parameters(given["preset"], given["seed"], **given["overrides"])


def provenance(run: Path | Run) -> pd.DataFrame:
    """Return a row for each artefact of a run: what it is, what it depends on, what it took."""
    return pd.DataFrame(
        [
            {
                "artefact": name,
                "rows": manifest.rows,
                "hash": manifest.sha256[:12],
                "inputs": ", ".join(sorted(manifest.inputs)),
                "seed": manifest.seed,
                "seconds": manifest.seconds,
                "device": manifest.device,
                "code": _code(manifest),
            }
            for name, manifest in cache.manifests(Path(run)).items()
        ],
        columns=["artefact", "rows", "hash", "inputs", "seed", "seconds", "device", "code"],
    )


def _code(manifest: cache.Manifest) -> str:
    if not manifest.git:
        return "not a checkout"
    return manifest.git["commit"][:12] + (" with changes" if manifest.git["dirty"] else "")
