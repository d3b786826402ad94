"""The identity of a configuration, which leaves out costs, and the differences of two."""

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel

from rockstudy.config.fields import ADDED, COST_ONLY, StudyConfig
from rockstudy.config.names import FIELDS, general, values


def identity(model: BaseModel, *, exclude: Collection[str] = ()) -> dict[str, Any]:
    """Return ``model_dump(mode="json")`` without `exclude` and fields that cannot change a result.

    Fields that were added later are left out at their defaults, so that what was made before they
    existed stays valid. `exclude` names fields of the model itself, not of its sections.
    """
    return model.model_dump(mode="json", exclude=_left_out(model) | dict.fromkeys(exclude, True))


def _left_out(model: BaseModel) -> dict[str, Any]:
    """The fields that no key holds, nested as pydantic's ``exclude`` expects."""
    left_out: dict[str, Any] = {}
    for name, value in model:
        field = type(model).model_fields[name]
        new = field.json_schema_extra == ADDED and value == field.get_default()
        if new or field.json_schema_extra == COST_ONLY:
            left_out[name] = True
        elif isinstance(value, BaseModel):
            left_out[name] = _left_out(value)
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            left_out[name] = {place: _left_out(item) for place, item in enumerate(value)}
    return left_out


def differences(recorded: StudyConfig, given: StudyConfig) -> dict[str, tuple[Any, Any]]:
    """Return the recorded and the given value of each nested name where two configurations differ.

    Fields of a benchmark that only one configuration has are None in the other. The pair and the
    benchmarks of given models and prompts follow from these and are left out.
    """
    old, new = values(recorded), values(given)
    follow = {"pair": (recorded.models, given.models)}
    follow |= {"benchmarks": (recorded.prompts, given.prompts)}
    for section, sources in follow.items():
        if None not in sources:
            old, new = (
                {name: value for name, value in one.items() if name.split("__")[0] != section}
                for one in (old, new)
            )
    pairs = {name: (old.get(name), new.get(name)) for name in old | new}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def changes_results(name: str) -> bool:
    """Whether the field of a nested name, as in `differences`, can change a result."""
    return not FIELDS.get(general(name), {}).get("cost_only", False)
