"""Options that several commands share."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from rockstudy.cli.parameters import RESERVED, literal
from rockstudy.config import study_file
from rockstudy.errors import StudyError

Preset = Annotated[
    str | None, typer.Option(help="Preset, a size of the study (default: lab); `info` lists them.")
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file instead of a preset; `rockstudy config` prints one."),
]
NewRunId = Annotated[
    str | None,
    typer.Option(
        "--run-id", "--run", help="Name of the run, a folder under runs/ (default: the preset's)."
    ),
]
FromRun = Annotated[
    str | None,
    typer.Option("--from", help="Earlier run whose values and artefacts a new run takes over."),
]
Seed = Annotated[int | None, typer.Option(help="Seed of the study (default: the preset's).")]
Given = Annotated[
    list[str] | None,
    typer.Option(
        "-p",
        metavar="NAME VALUE",
        help="Field such as stage2__steps, or parameter of a notebook; may be repeated.",
    ),
]


def chosen(preset: str | None, config: Path | None) -> str | None:
    """Return the preset's name or the file's absolute path; None for neither, an error for both."""
    if config is None:
        return preset
    if preset is not None:
        raise StudyError(f"--config: must not be given together with --preset; got {preset!r}")
    if not study_file.is_file(config.name):
        raise StudyError(f"--config: must be a file whose name ends in .toml; got {str(config)!r}")
    return os.path.realpath(config)  # which takes a link to itself as it is


def run_name(preset: str | None, run_id: str | None) -> str:
    """Return the name of a run; by default the preset's, or the file's without .toml."""
    base = preset or "lab"
    default = Path(base).stem if study_file.is_file(base) else base
    return default if run_id is None else run_id


def pair(text: str) -> tuple[str, str]:
    """Return the name and the value of ``name=value``."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise StudyError(f"-p: must be followed by a name and a value; got {text!r}")
    return name, value


def fields(given: Iterable[str]) -> dict[str, Any]:
    """Return the fields of the configuration from ``name=value`` texts."""
    pairs = dict(map(pair, given))
    for name in pairs.keys() & RESERVED.keys():
        raise StudyError(f"-p {name}: must be given as {RESERVED[name]}")
    return {name: literal(value) for name, value in pairs.items()}
