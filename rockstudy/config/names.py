"""Nested names of the configuration: what each means, its legal values, and near misses.

A nested name joins section and field by two underscores, as in ``stage2__lr``. The items of a list
share a name (``benchmarks__n_eval``); a number picks one of them (``benchmarks__0__n_eval``).
Everything here is read from the JSON schema of `StudyConfig`.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from rockstudy.config.fields import StudyConfig

Schema = dict[str, Any]

MOST_NEAR = 6  # ours: more candidates than this do not help
_SCHEMA: Schema = StudyConfig.model_json_schema()
_WORDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "True or False",
    "string": "text",
    "array": "a list",
    "object": "a mapping",
    "null": "None",
}
_BOUNDS = {
    "exclusiveMinimum": ">",
    "minimum": ">=",
    "exclusiveMaximum": "<",
    "maximum": "<=",
    "minLength": "of length >=",
    "minItems": "of length >=",
    "maxItems": "of length <=",
    "maxProperties": "of length <=",
    "pattern": "matching",
}


def _resolved(schema: Schema) -> Schema:
    """Follow a reference to a section, also that of a section which may be None."""
    members = [one for one in schema.get("anyOf", ()) if one != {"type": "null"}]
    one = members[0] if len(members) == 1 and "$ref" in members[0] else schema
    return _SCHEMA["$defs"][one["$ref"].rpartition("/")[2]] if "$ref" in one else one


def _below(schema: Schema, prefix: str = "") -> Iterator[tuple[str, Schema]]:
    """Nested names and schemas of everything below a model, each section before its fields."""
    for name, field in schema["properties"].items():
        yield prefix + name, field
        inner = _resolved(field.get("items", field))
        if "properties" in inner:
            yield from _below(inner, f"{prefix}{name}__")


_ALL = dict(_below(_SCHEMA))
SECTIONS = {n: s for n, s in _ALL.items() if any(other.startswith(f"{n}__") for other in _ALL)}
FIELDS = {name: schema for name, schema in _ALL.items() if name not in SECTIONS}


def general(name: str) -> str:
    """Return a nested name without the numbers of items."""
    return re.sub(r"__\d+(?=__|$)", "", name)


def values(value: Any, name: str = "") -> dict[str, Any]:
    """Return the value of every field of a configuration by its nested name, items by number."""
    if isinstance(value, BaseModel):
        inner: Iterable[tuple[Any, Any]] = value
    elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        inner = enumerate(value)
    elif isinstance(value, Mapping) and any(isinstance(one, BaseModel) for one in value.values()):
        inner = value.items()
    else:
        return {name: value}
    prefix = f"{name}__" if name else ""
    return {n: v for part, v in inner for n, v in values(v, f"{prefix}{part}").items()}


def legal(schema: Schema) -> str:
    """Describe the values that a schema allows, in words."""
    schema = _resolved(schema)
    if "anyOf" in schema:
        return " or ".join(map(legal, schema["anyOf"]))
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    if "properties" in schema:
        return "a mapping of its fields"
    bounds = [f"{sign} {schema[key]}" for key, sign in _BOUNDS.items() if key in schema]
    words = " ".join([_WORDS[schema["type"]], " and ".join(bounds)]).strip()
    words = words.replace("and of length", "and")
    if "patternProperties" in schema:
        words += " from names to values"
    return f"{words}, each {legal(inner)}" if (inner := _inner(schema)) else words


def _inner(schema: Schema) -> Schema | None:
    return schema.get("items") or next(iter(schema.get("patternProperties", {}).values()), None)


def meaning(schema: Schema) -> str:
    """Return the meaning of a field and, in brackets, its legal values and whether it is a cost."""
    cost = "; cannot change a result" if "cost_only" in schema else ""
    return f"{schema['description']} [{legal(schema)}{cost}]"


def legal_at(place: Sequence[str | int]) -> str:
    """Describe the legal values at the place of a validation error; ``[key]`` stands for a key."""
    if place[-1] == "[key]":
        return f"text matching {next(iter(schema_at(place[:-2])['patternProperties']))}"
    return legal(schema_at(place))


def field_at(place: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Return the place of a validation error without pydantic's name for a member of a union."""
    depths = range(len(place))
    return place[: next((n for n in depths if "anyOf" in schema_at(place[:n])), len(place))]


def schema_at(place: Sequence[str | int]) -> Schema:
    """Return the schema at the place of a validation error."""
    schema = _SCHEMA
    for part in place:
        inner = schema.get("properties", {}).get(part) or _inner(schema)
        assert inner is not None
        schema = _resolved(inner)
    return schema


def near(name: str) -> list[str]:
    """Return the nested names that an unknown name may stand for: one, or a few of one ending."""
    joined = {known.replace("__", "_"): known for known in _ALL}
    lasts = {known.rpartition("__")[2] for known in FIELDS}
    asked = re.sub(r"[\W_]+", "_", general(name.replace(".", "__")).lower()).strip("_")
    meant = [joined[asked]] if asked in joined else _ending(asked)
    if not meant:
        close = difflib.get_close_matches(asked, joined, n=1, cutoff=0.75)
        meant = [joined[text] for text in close]
    if not meant:
        meant = [n for last in difflib.get_close_matches(asked, lasts, n=1) for n in _ending(last)]
    item = re.match(r"([a-z_]+?)__(\d+)__", name)
    return [known.replace(f"{item[1]}__", item[0], 1) if item else known for known in meant]


def _ending(text: str) -> list[str]:
    """The fields with this short name or, if there are none, those whose names end with it."""
    for mark in ("__", "_"):
        ending = [name for name in FIELDS if name.endswith(f"{mark}{text}")]
        if text and ending:
            return ending if len(ending) <= MOST_NEAR else []
    return []
