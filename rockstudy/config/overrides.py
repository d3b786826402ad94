"""The study's parameters: plain names and values in, a checked `StudyConfig` out.

A notebook or a command hands names and values to `from_parameters`; nested names are joined by two
underscores (``stage2__steps=20``). Whatever is wrong with them comes back as a `StudyError`: one
line that names the field, what is legal there and what was given.
"""

import copy
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from rockstudy.config.fields import StudyConfig
from rockstudy.config.presets import PRESETS
from rockstudy.config.registry import TASKS
from rockstudy.errors import StudyError, shortened, unknown


def from_parameters(preset: str = "lab", seed: int = 0, **overrides: Any) -> StudyConfig:
    """Return a preset with some of its values replaced.

    Parameters
    ----------
    preset
        A name in `PRESETS`.
    seed
        Seed of everything that is not a training seed of stage 2.
    **overrides
        New values; nested names joined by two underscores, as in ``stage2__lr=1e-4``.
        ``benchmarks__n_eval`` reaches every benchmark, ``benchmarks__0__n_eval`` the first one. The
        number after the last one adds a benchmark of the last one's sizes.
        ``None`` keeps the preset's value.

    Raises
    ------
    StudyError
        Unknown preset or field, a value out of its bounds, a task without its file: one line.
    """
    if not isinstance(preset, str) or preset not in PRESETS:
        raise StudyError(unknown("preset", preset, PRESETS))
    tree = PRESETS[preset].model_dump()
    tree["seed"] = seed
    for name, value in overrides.items():
        if value is not None:
            _add_benchmark(tree, name)
            _replace(tree, name.split("__"), name, value)
    try:
        config = StudyConfig.model_validate(tree)
    except ValidationError as error:
        raise StudyError(_one_line(error)) from None
    _check_paths(config)
    return config


def _add_benchmark(tree: dict[str, Any], name: str) -> None:
    """Where ``name`` is a field of the benchmark after the last, add a copy without a source."""
    known = tree["benchmarks"]
    if isinstance(known, list | tuple) and name.startswith(f"benchmarks__{len(known)}__"):
        own = dict.fromkeys(("path", "revision", "subset", "split"))
        tree["benchmarks"] = [*known, known[-1] | own]


def _replace(node: Any, parts: list[str], name: str, value: Any) -> None:
    """Set the value that ``parts`` lead to below ``node``; a list passes it to every item."""
    part, rest = parts[0], parts[1:]
    if isinstance(node, list | tuple) and node and isinstance(node[0], dict):
        if part.isdecimal() and not (int(part) < len(node) and rest):
            last = f"{name.split('__')[0]}__0 to __{len(node) - 1}"
            legal = f"{last}, or __{len(node)} for one more, then __ and a field"
            raise StudyError(f"{name}: must be {legal}; got index {part}")
        for item in [node[int(part)]] if part.isdecimal() else node:
            _replace(item, rest if part.isdecimal() else parts, name, value)
    elif not isinstance(node, dict):
        raise StudyError(f"{name}: must name a field; got {part!r} below a plain value")
    elif part not in node:
        raise StudyError(unknown(f"parameter {name}", part, node))
    elif rest:
        _replace(node[part], rest, name, value)
    else:
        node[part] = value.model_dump() if isinstance(value, BaseModel) else copy.deepcopy(value)


def _check_paths(config: StudyConfig) -> None:
    tasks = {"train_task": config.train_task}
    tasks |= {f"benchmarks__{i}": task for i, task in enumerate(config.benchmarks)}
    for field, task in tasks.items():
        known = TASKS[task.name]
        if known.columns and task.path is None:
            legal = f"a JSONL or parquet file with {', '.join(known.columns)}, or a Hub id"
            raise StudyError(f"{field}__path: must be {legal} (preset {config.preset}); got None")
        if not known.columns and task.path is not None:
            raise StudyError(f"{field}__path: must be None for {task.name}; got {task.path!r}")
        if known.grade is None and field != "train_task":
            raise StudyError(f"{field}__name: must be a task with answers; got {task.name!r}")
        same = task.path is not None and task.path == config.train_task.path
        most = config.train_task.n_eval
        if same and task.n_eval > most:
            raise StudyError(
                f"{field}__n_eval: must be at most {most} (train_task__n_eval), because training "
                f"takes the problems after those; got {task.n_eval}"
            )


def _one_line(error: ValidationError) -> str:
    """Name the first wrong field, what is legal there and what was given."""
    first = error.errors(include_url=False)[0]
    field = "__".join(str(part) for part in first["loc"])
    if first["type"] == "unknown_name":  # which the registry explains
        return f"{field}: {first['msg']}"
    legal = _legal_at(StudyConfig, [], list(first["loc"]))
    if legal is None and first["type"] == "value_error":  # a rule about several fields
        reason = first["msg"].removeprefix("Value error, ")
        return f"{field}: {reason}" if field else reason
    legal = legal or "a mapping of its fields"
    return f"{field}: must be {legal}; got {shortened(first['input'])}"


def _legal_at(annotation: Any, metadata: list[Any], loc: list[Any]) -> str | None:
    """Describe what may stand at ``loc`` below ``annotation``; None for a whole model."""
    if get_origin(annotation) is Annotated:
        annotation, *extra = get_args(annotation)
        words = next((e.description for e in extra if getattr(e, "description", None)), None)
        if words and not loc:
            return words
        metadata = [m for item in extra for m in getattr(item, "metadata", [item])]
    options = [a for a in get_args(annotation) if a is not type(None)]
    if get_origin(annotation) in (Union, types.UnionType):
        inner = _legal_at(options[0], metadata, loc)
        return f"{inner} or None"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not loc:
            return None
        fields = annotation.model_fields
        if loc[0] not in fields:
            return f"one of the fields {', '.join(fields)}"
        field = fields[loc[0]]
        return _legal_at(field.annotation, field.metadata, loc[1:])
    if loc and get_origin(annotation) in (tuple, dict):
        key = get_origin(annotation) is dict and loc[-1] == "[key]"
        return _legal_at(
            options[0] if key else options[-1 - (options[-1] is Ellipsis)], [], loc[1:]
        )
    return _words(annotation, options) + _bounds(metadata)


def _words(annotation: Any, options: list[Any]) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return f"one of {', '.join(str(option) for option in options)}"
    if origin in (tuple, dict):
        return "a list" if origin is tuple else "a mapping of names to numbers"
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}
    return words[annotation]


def _bounds(metadata: list[Any]) -> str:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "min_length": "of length >="}
    signs["pattern"] = "matching"
    found = [
        f"{sign} {getattr(item, name)}"
        for item in metadata
        for name, sign in signs.items()
        if getattr(item, name, None) is not None
    ]
    return f" {' and '.join(found)}" if found else ""
