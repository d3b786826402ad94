"""The commands `rockstudy config` and `rockstudy fields`, which show a configuration."""

import textwrap
from typing import Annotated

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
    """Print a configuration as a TOML file that explains every field and its legal values.

    `rockstudy config --preset qwen3 > mine.toml` writes a file to edit; `--config mine.toml` then
    replaces a preset.
    """
    fields = options.fields(parameter or [])
    study = from_parameters(options.chosen(preset, config) or "lab", seed, **fields)
    print(study_file.text(study), end="")


def fields_command(
    text: Annotated[
        str, typer.Argument(help="Part of a field's name or meaning (default: all fields).")
    ] = "",
    preset: options.Preset = None,
    config: options.ConfigFile = None,
) -> None:
    """List fields with their nested name, value in the preset, meaning and legal values."""
    study = from_parameters(options.chosen(preset, config) or "lab")
    about = {n: " ".join([n, *field["description"].split()]) for n, field in names.FIELDS.items()}
    matching = [name for name, words in about.items() if text.lower() in words.lower()]
    matching = matching or [name for name in names.near(text) if name in about]
    if not matching:
        raise StudyError(f"TEXT: must be part of a field's name or meaning; got {text!r}")
    for name in matching:
        values = [v for n, v in names.values(study).items() if names.general(n) == name]
        shown = [str(list(v) if isinstance(v, tuple) else v) for v in values]  # as -p takes them
        print(f"{name} = {', '.join(shown)}")
        words = names.meaning(names.FIELDS[name])
        print(textwrap.fill(words, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT))
