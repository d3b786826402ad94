"""Stamps: what went into an executed notebook, so that an unchanged one is not executed again.

The stamp ``<name>.json`` beside an executed notebook holds hashes of the notebook's source, its
parameter values, the package's code and shipped data, the files that parameters name, and the run's
artefacts. Artefacts that only later notebooks made are left out, since the earlier ones cannot have
read them: each stamp therefore also lists what its own execution produced.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rockstudy import paths
from rockstudy.report.notebook_file import read
from rockstudy.store import cache

STAMP_VERSION = 1


def stamp_of(output: Path) -> Path:
    """Return where the stamp of an executed notebook is."""
    return output.with_suffix(".json")


def is_current(notebook: Path, output: Path, values: Mapping[str, Any], later: list[Path]) -> bool:
    """Whether an executed notebook exists and nothing that went into it has changed since.

    Parameters
    ----------
    notebook, output, values
        As for `execute`.
    later
        Executed notebooks that come after this one: what they produced does not count.
    """
    stamp = _read_stamp(output)
    if stamp.get("executed") != _file_hash(output):
        return False
    return stamp.get("inputs") == inputs(notebook, output.parents[1], values, later)


def inputs(
    notebook: Path, run: Path, values: Mapping[str, Any], later: list[Path]
) -> dict[str, Any]:
    """Return what an execution depends on: source, parameters, code, files named, artefacts."""
    ignored = {name for output in later for name in _read_stamp(output).get("produced", [])}
    return {
        "version": STAMP_VERSION,
        "source": _source_hash(notebook),
        "parameters": json.loads(json.dumps(dict(values))),
        "code": code_hash(),
        "files": _named_files(values),
        "artefacts": {k: v for k, v in artefacts(run).items() if k not in ignored},
    }


def write_stamp(
    notebook: Path,
    output: Path,
    values: Mapping[str, Any],
    *,
    later: list[Path],
    before: Mapping[str, str],
    seconds: float | None,
) -> None:
    """Record what went into an executed notebook, and which artefacts its execution made.

    Parameters
    ----------
    notebook, output, values, later
        As for `is_current`.
    before
        `artefacts` of the run before the execution.
    seconds
        What it took; None for an execution that failed, whose stamp is never current.
    """
    now = artefacts(output.parents[1])
    kept = [name for name in _read_stamp(output).get("produced", []) if name in now]
    stamp = {
        "inputs": inputs(notebook, output.parents[1], values, later),
        "produced": sorted({*kept, *(name for name in now if name not in before)}),
        "executed": _file_hash(output) if seconds is not None else None,
        "seconds": seconds,
    }
    temporary = stamp_of(output).with_suffix(".json.tmp")
    temporary.write_text(json.dumps(stamp, indent=1) + "\n")
    os.replace(temporary, stamp_of(output))


def _read_stamp(output: Path) -> dict[str, Any]:
    try:
        stamp = json.loads(stamp_of(output).read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def artefacts(run: Path) -> dict[str, str]:
    """Return a hash for each artefact of a run whose data are there, without reading the data."""
    found = {}
    for name, manifest in cache.manifests(run).items():
        data = (run / name).with_name(manifest.file)
        if data.exists():  # the size tells most accidents; what reads the data checks the hash
            size = data.stat().st_size if data.is_file() else 0
            found[name] = f"{manifest.sha256}:{size}"
    return found


def _source_hash(notebook: Path) -> str:
    """Hash of the cells' sources: outputs and other metadata change nothing."""
    cells = [
        (c.cell_type, c.source, sorted(c.metadata.get("tags", []))) for c in read(notebook).cells
    ]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def code_hash() -> str:
    """Hash of the package's sources and of the data that it ships, reference tables excepted."""
    package = Path(__file__).parent
    files = [p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    data = paths.data_dir()
    files += [p for p in data.rglob("*") if p.is_file() and "reference" not in p.parts]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.name}\0{_file_hash(file)}\n".encode())
    return digest.hexdigest()


def _named_files(values: Mapping[str, Any]) -> dict[str, str]:
    """Hashes of the files that parameters name, such as a file of prompts."""
    flat = [*values.values(), *values.get("overrides", {}).values()]
    named = sorted({v for v in flat if isinstance(v, str) and v and len(v) < 4096})
    return {name: _file_hash(Path(name)) or "" for name in named if Path(name).is_file()}


def _file_hash(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
