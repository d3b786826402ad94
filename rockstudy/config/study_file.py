"""A configuration as a TOML file that a person can read and change.

``preset = "lab"`` names the preset whose values the file changes; a file without that line must
give every field that has no default. Tables are sections: ``steps = 20`` below ``[stage2]`` is the
field ``stage2__steps``. TOML has no null; a field that may be None takes ``"none"`` for it.
"""

import json
import os
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rockstudy.config.fields import CheckpointConfig, StudyConfig
from rockstudy.config.names import FIELDS, SECTIONS, general, meaning
from rockstudy.config.presets import PRESETS
from rockstudy.errors import StudyError

NONE = "none"
WIDTH = 100


def is_file(preset: Any) -> bool:
    """Whether a preset is given as the path of a TOML file."""
    return isinstance(preset, str) and preset.endswith(".toml")


def read(path: str) -> dict[str, Any]:
    """Return the tables of a file; `StudyError` if it cannot be read or is not TOML."""
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would never end
        raise StudyError(f"{path}: must be a file that can be read; it is none")
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyError(f"{path}: must be a file that can be read; {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, nested too deeply
        raise StudyError(f"{path}: must be TOML; {' '.join(str(error).split())}") from None
    return _with_none(table, "")


def _with_none(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        prefix = f"{name}__" if name else ""
        return {part: _with_none(inner, prefix + part) for part, inner in value.items()}
    if isinstance(value, list):
        return [_with_none(inner, name) for inner in value]
    may_be_none = {"type": "null"} in FIELDS.get(general(name), {}).get("anyOf", ())
    return None if value == NONE and may_be_none else value


def nested(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the fields of a file's tables by their nested names."""
    for part, value in table.items():
        name = prefix + part
        if isinstance(value, dict) and general(name) in SECTIONS:
            yield from nested(value, f"{name}__")
        else:
            yield name, value


def text(config: StudyConfig) -> str:
    """Return a file that gives this configuration: every field, with its meaning as a comment."""
    lines = [
        *_comment(
            "A configuration of rockstudy: change values and pass the file as --config FILE. A "
            "field that you remove takes the preset's value. Each meaning ends with [the legal "
            'values]; where these include None, "none" leaves the field empty.'
        ),
        *_lines({name: value for name, value in config if name not in SECTIONS}, ""),
    ]
    derived = {"pair": config.models, "benchmarks": config.prompts}
    left_out = {section for section, source in derived.items() if source is not None}
    left_out |= {"freeze"} if config.models is not None else set()
    for section, value in config:
        if section in SECTIONS and section not in left_out and value is not None:
            lines += ["", *_comment(SECTIONS[section]["description"])]
            listed = isinstance(value, tuple)
            head = f"[[{section}]]" if listed else f"[{section}]"
            for place, item in enumerate(value if listed else [value]):
                gap = [""] if place else []  # only the first item's fields are explained
                lines += [*gap, head, *_lines(dict(item), f"{section}__", not place)]
    return "\n".join(lines) + "\n"


def _lines(fields: dict[str, Any], prefix: str, explained: bool = True) -> Iterator[str]:
    for part, value in fields.items():
        if explained:
            yield from _comment(meaning(FIELDS.get(prefix + part) or SECTIONS[prefix + part]))
        known = prefix + part != "preset" or value in PRESETS
        yield f"{'' if known else '# '}{part} = {_toml(value)}"


def _comment(words: str) -> list[str]:
    return textwrap.wrap(words, WIDTH, initial_indent="# ", subsequent_indent="# ")


def _toml(value: Any) -> str:
    """Return a value in TOML, whose numbers, texts and lists are those of JSON."""
    if value is None:
        return f'"{NONE}"'
    if isinstance(value, CheckpointConfig):
        value = value.model_dump(exclude_none=True)
        value = value["name"] if len(value) == 1 else value
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_toml(inner)}' for key, inner in value.items())} }}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
