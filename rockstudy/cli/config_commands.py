"""`rockstudy config` prints a configuration as a file, `rockstudy fields` what its fields mean."""

import textwrap
from typing import Annotated, Any

import typer

from rockstudy.cli import options
from rockstudy.config import names, study_file
from rockstudy.config.overrides import from_parameters
from rockstudy.errors import StudyError

WIDTH, INDENT = 100, "    "


def config_command(
    preset: options.Preset = None,
    config: options.ConfigFile = None,
    seed: options.Seed = None,
    parameter: options.Given = None,
) -> None:
    """Print a configuration as a TOML file, every field with its meaning and what is legal.

    `rockstudy config --preset qwen3 > mine.toml` makes a file to change; `--config mine.toml` uses
    it in place of a preset.
    """
    chosen = options.chosen(preset, config)
    study = from_parameters(chosen, seed, **options.fields(parameter or []))
    print(study_file.text(study), end="")


def fields_command(
    text: Annotated[
        str, typer.Argument(help="Part of a name or of a meaning; all fields by default.")
    ] = "",
    preset: options.Preset = None,
    config: options.ConfigFile = None,
) -> None:
    """List fields: nested name, value in the preset (of each benchmark), meaning, what is legal."""
    study = from_parameters(options.chosen(preset, config))
    found = _matching(text) or [name for name in names.near(text) if name in names.FIELDS]
    if not found:
        raise StudyError(f"TEXT: must be part of a field's name or meaning; got {text!r}")
    for name in found:
        values = [_shown(v) for n, v in names.values(study).items() if names.general(n) == name]
        print(f"{name} = {', '.join(values)}")
        words = names.meaning(names.FIELDS[name])
        print(textwrap.fill(words, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT))


def _matching(text: str) -> list[str]:
    return [
        name
        for name, field in names.FIELDS.items()
        if text.lower() in f"{name} {field['description']}".lower()
    ]


def _shown(value: Any) -> str:
    """Return a value as ``-p`` takes it."""
    return str(list(value) if isinstance(value, tuple) else value)
