"""The parameters of notebooks: what a ``parameters`` cell declares, and values checked against it.

papermill casts values by trial and only warns of unknown names. Here a value takes the type of the
default in the notebook's cell, and everything that is wrong is an error before anything runs.
"""

import ast
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rockstudy.config.fields import StudyConfig
from rockstudy.config.names import near
from rockstudy.errors import StudyError, unknown
from rockstudy.report import notebook_file

RESERVED = {
    "preset": "--preset",
    "run_id": "--run-id",
    "seed": "--seed",
    "from_run": "--from",
    "overrides": "-p NAME VALUE",
}


@dataclass(frozen=True)
class Parameter:
    """A name of a notebook's ``parameters`` cell, its default, and the type that a value takes."""

    name: str
    default: Any
    kind: type | None


def parameters(notebook: Path) -> dict[str, Parameter]:
    """Return the parameters of a notebook, from its one cell with the tag ``parameters``."""
    cells = notebook_file.read(notebook).cells
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise StudyError(
            f"notebook {notebook.stem}: must have one cell tagged 'parameters'; got {len(tagged)}"
        )
    from papermill.translators import PythonTranslator  # takes a second

    source = tagged[0].source.replace(" | None", "")  # papermill reads no unions of types
    return {found.name: _parameter(found) for found in PythonTranslator.inspect({"source": source})}


def _parameter(found: Any) -> Parameter:
    """Return what papermill found in the cell, with the default as a value instead of as text."""
    named = {"int": int, "float": float, "str": str, "bool": bool}
    kind, value = named.get(found.inferred_type_name), literal(found.default)
    if value is found.default or value is None:  # no literal, or no type to be seen
        return Parameter(found.name, None, kind)
    return Parameter(found.name, value, kind or type(value))


def cast(parameter: Parameter, text: str) -> Any:
    """Return what ``text`` says, as the type of the parameter's default.

    Raises
    ------
    StudyError
        Where the text does not read as that type.
    """
    if parameter.kind is str:
        return text
    value = literal(text)
    if parameter.kind is None or (value is None and parameter.default is None):
        return value
    if parameter.kind is float and type(value) is int:
        value = float(value)
    if parameter.kind in (list, tuple) and isinstance(value, list | tuple):
        value = parameter.kind(value)
    if type(value) is not parameter.kind or value in (float("inf"), float("-inf")):
        raise StudyError(
            f"-p {parameter.name}: must be {_article(parameter.kind)} like the default "
            f"{parameter.default!r}; got {text!r}"
        )
    return value


def literal(text: str) -> Any:
    """Python's or JSON's reading of a value, else the text itself."""
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _article(kind: type) -> str:
    name = {"int": "integer", "str": "text"}.get(kind.__name__, kind.__name__)
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def assign(
    notebooks: Sequence[Path], run_id: str, given: Sequence[tuple[str, str]] = ()
) -> tuple[dict[Path, dict[str, Any]], dict[str, Any]]:
    """Return the values that each notebook gets, and those of the run's configuration.

    A name goes to each notebook that has it in its parameters cell; the name of a field of the
    configuration (``stage2__steps``) goes to the run, which all notebooks read.

    Parameters
    ----------
    notebooks
        Files, each with a parameters cell.
    run_id
        The run that every notebook opens.
    given
        Names and values as typed.

    Raises
    ------
    StudyError
        An unknown name, or a value of another type than the default's.
    """
    if run_id == "reference":
        raise StudyError("run_id: must not be 'reference', which is read and never written")
    known = {notebook: parameters(notebook) for notebook in notebooks}
    values = {n: {"run_id": run_id} if "run_id" in names else {} for n, names in known.items()}
    fields: dict[str, Any] = {}
    for name, text in given:
        _check_name(name, known)
        takers = [notebook for notebook, names in known.items() if name in names]
        for notebook in takers:
            values[notebook][name] = cast(known[notebook][name], text)
        if not takers:
            fields[name] = literal(text)
    return values, fields


def _is_field(name: str) -> bool:
    return "__" in name or name in StudyConfig.model_fields


def _check_name(name: str, known: Mapping[Path, Mapping[str, Parameter]]) -> None:
    if name in RESERVED:
        raise StudyError(f"-p {name}: must be given as {RESERVED[name]}")
    legal = {n for names in known.values() for n in names} - set(RESERVED)
    if name not in legal and not _is_field(name):
        listed = [*sorted(legal), "a field of the configuration such as stage2__steps"]
        close = difflib.get_close_matches(name, legal, n=1) or near(name)
        raise StudyError(unknown(f"-p {name}", name, listed, close))
