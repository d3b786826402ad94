"""The study's parameters: plain names and values in, a checked `StudyConfig` out.

A notebook or a command passes names and values to `from_parameters`; two underscores join the parts
of a nested name (``stage2__steps=20``). A wrong one is a `StudyError`: one line with the field, its
legal values and the value that was given.
"""

import copy
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from rockstudy.config import plugins, study_file
from rockstudy.config.fields import OF_SOME_TASKS, TRAINING, RolloutsConfig, StudyConfig
from rockstudy.config.names import field_at, legal_at, near, schema_at
from rockstudy.config.presets import PRESETS
from rockstudy.config.registry import TASKS
from rockstudy.errors import StudyError, shortened, unknown

NO_SOURCE = dict.fromkeys(("path", "revision", "subset", "split", *OF_SOME_TASKS))  # of a task


def from_parameters(preset: str = "lab", seed: int | None = None, **overrides: Any) -> StudyConfig:
    """Return a preset, a name in `PRESETS` or the path of a TOML file, with other values.

    `overrides` are by nested name, as in ``stage2__lr=1e-4``; None keeps the preset's value, as in
    `seed`. ``benchmarks__n_eval`` changes every benchmark, ``benchmarks__0__n_eval`` only the
    first, and the number after the last one adds a benchmark with the sizes of the last one.

    `StudyError`: an unknown preset or field, a value out of its bounds, a file that cannot be read,
    a task without its file.
    """
    base = _from_file(preset) if study_file.is_file(preset) else _preset(preset)
    given = {name: value for name, value in overrides.items() if value is not None}
    return changed(base, given if seed is None else {"seed": seed} | given)


def _preset(name: Any) -> StudyConfig:
    if not isinstance(name, str) or name not in PRESETS:
        raise StudyError(unknown("preset", name, [*PRESETS, "or a TOML file"]))
    return PRESETS[name]


def _from_file(path: str) -> StudyConfig:
    table = study_file.read(path)
    names = table.get("plugins")
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        table["plugins"] = list(plugins.located(names, Path(os.path.realpath(path)).parent))
    try:
        if "preset" in table:
            base = _preset(table.pop("preset"))
            return changed(base, dict(study_file.nested(table)))
        return _without_preset(Path(path).stem, table)
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from None


def _without_preset(name: str, table: dict[str, Any]) -> StudyConfig:
    """Return the configuration of a file with every field; its name stands for the preset's."""
    for field, known in StudyConfig.model_fields.items():
        required = known.is_required() or (field in TRAINING and "models" not in table)
        if required and field != "preset" and field not in table:
            legal = f"one of {', '.join(PRESETS)}, or every field be given"
            raise StudyError(f"preset: must be {legal}; got no {field!r}")
    return _checked({"preset": name} | table)


def changed(base: StudyConfig, values: dict[str, Any]) -> StudyConfig:
    """Return a configuration with new values for these nested names."""
    tree = base.model_dump()
    if base.models is not None and any(name.startswith("rollouts__") for name in values):
        tree["rollouts"] = tree["rollouts"] or {"path": None}
        for name, field in RolloutsConfig.model_fields.items():
            tree["rollouts"].setdefault(name, field.get_default())
    derived = {"pair": base.models, "benchmarks": base.prompts}
    for name, value in sorted(values.items(), key=lambda given: not given[0].endswith("__name")):
        section = name.split("__")[0]
        if derived.get(section) is not None:
            given = {"pair": "models", "benchmarks": "prompts"}[section]
            raise StudyError(f"{name}: must be left out where {given} are given in its place")
        _add_benchmark(tree, name)
        _replace(tree, name.split("__"), name, value)
    return _checked(tree)


def _checked(tree: dict[str, Any]) -> StudyConfig:
    try:
        config = StudyConfig.model_validate(tree)
    except ValidationError as error:
        raise StudyError(_one_line(error)) from None
    _check_paths(config)
    return config


def _add_benchmark(tree: dict[str, Any], name: str) -> None:
    """Copy the last benchmark, without its source, if ``name`` belongs to the one after it."""
    known = tree["benchmarks"]
    if isinstance(known, list | tuple) and name.startswith(f"benchmarks__{len(known)}__"):
        tree["benchmarks"] = [*known, known[-1] | NO_SOURCE]


def _replace(node: Any, parts: list[str], name: str, value: Any) -> None:
    """Set the value at ``parts`` below ``node``; in a list, set it in every item.

    Another task starts without the source of the one whose place it takes.
    """
    part, rest = parts[0], parts[1:]
    if isinstance(node, list | tuple) and node and isinstance(node[0], dict):
        if part.isdecimal() and not (int(part) < len(node) and rest):
            last = f"{name.split('__')[0]}__0 to __{len(node) - 1}"
            legal = f"{last}, or __{len(node)} for one more, then __ and a field"
            raise StudyError(f"{name}: must be {legal}; got index {part}")
        for item in [node[int(part)]] if part.isdecimal() else node:
            _replace(item, rest if part.isdecimal() else parts, name, value)
    elif node is None:
        above = name.removesuffix(f"__{'__'.join(parts)}")
        raise StudyError(f"{name}: must be left out where there is no {above}; got {value!r:.60}")
    elif not isinstance(node, dict):
        raise StudyError(f"{name}: must name a field; got {part!r} below a plain value")
    elif part not in node:
        raise StudyError(unknown(f"parameter {name}", part, node, near(name)))
    elif rest:
        _replace(node[part], rest, name, value)
    else:
        if part == "name" and NO_SOURCE.keys() <= node.keys() and value != node["name"]:
            node |= NO_SOURCE
        node[part] = value.model_dump() if isinstance(value, BaseModel) else copy.deepcopy(value)


def _check_paths(config: StudyConfig) -> None:
    trained = config.train_task
    tasks = {} if trained is None else {"train_task": trained}
    tasks |= dict(zip(task_fields(config), config.benchmarks, strict=True))
    for field, task in tasks.items():
        known = TASKS[task.name]
        if known.grade is None and field != "train_task":
            raise StudyError(f"{field}__name: must be a task with answers; got {task.name!r}")
        if known.columns and task.path is None:
            legal = f"a JSONL, parquet or CSV file with {', '.join(known.columns)}, or a Hub id"
            raise StudyError(f"{field}__path: must be {legal} (preset {config.preset}); got None")
        if not known.columns and task.path is not None:
            raise StudyError(f"{field}__path: must be None for {task.name}; got {task.path!r}")
        for own in OF_SOME_TASKS:
            if (value := getattr(task, own)) is not None and own not in known.fields:
                raise StudyError(f"{field}__{own}: must be None for {task.name}; got {value!r}")
        same = trained is not None and task.path is not None and task.path == trained.path
        if same and task.n_eval > (most := trained.n_eval):
            legal = f"at most {most} (train_task__n_eval): training takes the problems after those"
            raise StudyError(f"{field}__n_eval: must be {legal}; got {task.n_eval}")


def task_fields(config: StudyConfig) -> list[str]:
    """The nested names of the benchmarks: where prompts are given in their place, theirs."""
    names = [f"benchmarks__{place}" for place in range(len(config.benchmarks))]
    return names if config.prompts is None else ["prompts"]


def _one_line(error: ValidationError) -> str:
    """Name the first wrong field, its legal values and the value that was given."""
    first = error.errors(include_url=False)[0]
    *above, last = place = field_at(first["loc"]) or ("",)
    field = "__".join(map(str, place))
    if first["type"] == "unknown_name":  # the registry explains it
        return f"{field}: {first['msg']}"
    if first["type"] == "value_error":  # a rule that a validator checks
        reason = first["msg"].removeprefix("Value error, ")
        return f"{field}: {reason}" if field else reason
    if first["type"] == "extra_forbidden":
        return unknown(f"parameter {field}", last, schema_at(above)["properties"], near(field))
    if first["type"] == "string_too_long":
        most, given = first["ctx"]["max_length"], len(first["input"])
        return f"{field}: must have at most {most} characters; got {given}"
    given = "nothing" if first["type"] == "missing" else shortened(first["input"])
    return f"{field}: must be {legal_at(place)}; got {given}"
