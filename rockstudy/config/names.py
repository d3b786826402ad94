"""The nested names of the configuration: what each means, what is legal there, near misses.

A nested name joins the steps to a field by two underscores, as in ``stage2__lr``. The items of a
list share a name (``benchmarks__n_eval``); with a number it is that of one item
(``benchmarks__0__n_eval``). Everything here is read from the JSON schema of `StudyConfig`.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pydantic import BaseModel

from rockstudy.config.fields import StudyConfig

Schema = dict[str, Any]

MOST_NEAR = 6  # ours: more candidates than this for a short name tell nothing
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
    "pattern": "matching",
}


def _resolved(schema: Schema) -> Schema:
    return _SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


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
    else:
        return {name: value}
    prefix = f"{name}__" if name else ""
    return {n: v for part, v in inner for n, v in values(v, f"{prefix}{part}").items()}


# --- what is legal --------------------------------------------------------------------------------


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
    if "items" in schema:
        return f"{words}, each {legal_item(schema['items'])}"
    if "patternProperties" in schema:
        return f"{words} from names to values, each {legal(_value(schema))}"
    return words


def meaning(schema: Schema) -> str:
    """Return what a field means and, in brackets, what is legal there and if it is cost alone."""
    cost = "; cannot change a result" if "cost_only" in schema else ""
    return f"{schema['description']} [{legal(schema)}{cost}]"


def legal_item(schema: Schema) -> str:
    """Describe an item of a list: a description there states what is legal, not what it means."""
    described = "properties" not in schema and schema.get("description")
    return described or legal(schema)


def _value(schema: Schema) -> Schema:
    (value,) = schema["patternProperties"].values()
    return value


def legal_at(place: Sequence[str | int]) -> str:
    """Describe what is legal where a validation error is; ``[key]`` after a key means the key."""
    *above, last = place
    if last == "[key]":
        return f"text matching {next(iter(_at(above[:-1])['patternProperties']))}"
    return (legal_item if isinstance(last, int) else legal)(_at(place))


def fields_at(place: Sequence[str | int]) -> list[str]:
    """Return the names of the fields of the section at a place."""
    return list(_at(place)["properties"])


def _at(place: Sequence[str | int]) -> Schema:
    schema = _SCHEMA
    for part in place:
        if "properties" in schema:
            schema = schema["properties"][part]
        else:
            schema = schema["items"] if "items" in schema else _value(schema)
        schema = _resolved(schema)
    return schema


def may_be_none(name: str) -> bool:
    """Whether the field of a nested name may be None."""
    return {"type": "null"} in FIELDS.get(general(name), {}).get("anyOf", ())


# --- near misses ----------------------------------------------------------------------------------


def near(name: str) -> list[str]:
    """Return the nested names that an unknown one may stand for: one, or a few that end alike."""
    joined = {known.replace("__", "_"): known for known in _ALL}
    asked = re.sub(r"[\W_]+", "_", general(name.replace(".", "__")).lower()).strip("_")
    if asked in joined:
        return [_numbered(joined[asked], name)]
    found = _ending(asked)
    if not found:
        close = difflib.get_close_matches(asked, joined, n=1, cutoff=0.75)
        found = [joined[text] for text in close]
    if not found:
        lasts = {known.rpartition("__")[2] for known in FIELDS}
        found = [n for last in difflib.get_close_matches(asked, lasts, n=1) for n in _ending(last)]
    return [_numbered(known, name) for known in found]


def _ending(text: str) -> list[str]:
    """The fields of this short name or, if there are none, those whose names end with it."""
    for mark in ("__", "_"):
        found = [name for name in FIELDS if name.endswith(f"{mark}{text}")]
        if text and found:
            return found if len(found) <= MOST_NEAR else []
    return []


def _numbered(known: str, given: str) -> str:
    """Put the number of a list's item, if ``given`` has one, into a known name."""
    item = re.match(r"([a-z_]+?)__(\d+)__", given)
    return known.replace(f"{item[1]}__", f"{item[1]}__{item[2]}__", 1) if item else known
