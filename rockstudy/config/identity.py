"""The identity of a configuration, which leaves out costs, and the differences of two."""

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel

from rockstudy.config.fields import COST_ONLY, StudyConfig
from rockstudy.config.names import FIELDS, general, values


def identity(model: BaseModel, *, exclude: Collection[str] = ()) -> dict[str, Any]:
    """Return ``model_dump(mode="json")`` without `exclude` and fields that cannot change a result.

    `exclude` names fields of the model itself, not of its sections.
    """
    return model.model_dump(mode="json", exclude=_cost_only(model) | dict.fromkeys(exclude, True))


def _cost_only(model: BaseModel) -> dict[str, Any]:
    """The fields that cannot change a result, nested as pydantic's ``exclude`` expects."""
    left_out: dict[str, Any] = {}
    for name, value in model:
        if type(model).model_fields[name].json_schema_extra == COST_ONLY:
            left_out[name] = True
        elif isinstance(value, BaseModel):
            left_out[name] = _cost_only(value)
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            left_out[name] = {place: _cost_only(item) for place, item in enumerate(value)}
    return left_out


def differences(recorded: StudyConfig, given: StudyConfig) -> dict[str, tuple[Any, Any]]:
    """Return the recorded and the given value of each nested name where two configurations differ.

    Fields of a benchmark that only one configuration has are None in the other.
    """
    old, new = values(recorded), values(given)
    pairs = {name: (old.get(name), new.get(name)) for name in old | new}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def changes_results(name: str) -> bool:
    """Whether the field of a nested name, as in `differences`, can change a result."""
    return not FIELDS.get(general(name), {}).get("cost_only", False)
