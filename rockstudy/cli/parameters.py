"""The parameters in the ``parameters`` cells of notebooks, and checks of their values.

papermill guesses types and only warns of unknown names. Here a value must have the type of the
default in the notebook's cell, and every mistake is an error before anything runs.
"""

import ast
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rockstudy.config.fields import StudyConfig
from rockstudy.config.names import near
from rockstudy.errors import StudyError, unknown
from rockstudy.notebooks import Parameter, declared, read

RESERVED = {
    "preset": "--preset",
    "run_id": "--run-id",
    "seed": "--seed",
    "from_run": "--from",
    "overrides": "-p NAME VALUE",
}


def parameters(notebook: Path) -> dict[str, Parameter]:
    """Return the parameters in the notebook's one cell with the tag ``parameters``."""
    cells = read(notebook).cells
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        legal = "must have one cell tagged 'parameters'"
        raise StudyError(f"notebook {notebook.stem}: {legal}; got {len(tagged)}")
    return declared(tagged[0].source)


def cast(parameter: Parameter, text: str) -> Any:
    """Return the value of ``text`` in the type of the default; `StudyError` if it has none."""
    value = text if parameter.kind is str else literal(text)
    return parameter.fitted(value, f"-p {parameter.name}")


def literal(text: str) -> Any:
    """Return the value of a Python or JSON literal, else the text itself."""
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def assign(
    notebooks: Sequence[Path], run_id: str, given: Sequence[tuple[str, str]] = ()
) -> tuple[dict[Path, dict[str, Any]], dict[str, Any]]:
    """Return the parameter values of each notebook, and the fields of the run's configuration.

    Every notebook opens the run. A name in `given`, as typed, sets the parameter in every notebook
    that declares it; that of a field of the configuration (``stage2__steps``) sets it for the run.
    `StudyError`: an unknown name, or a value whose type differs from the default's.
    """
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


def _check_name(name: str, known: Mapping[Path, Mapping[str, Parameter]]) -> None:
    if name in RESERVED:
        raise StudyError(f"-p {name}: must be given as {RESERVED[name]}")
    legal = {n for names in known.values() for n in names} - set(RESERVED)
    if name not in legal and "__" not in name and name not in StudyConfig.model_fields:
        listed = [*sorted(legal), "a field of the configuration such as stage2__steps"]
        close = difflib.get_close_matches(name, legal, n=1) or near(name)
        raise StudyError(unknown(f"-p {name}", name, listed, close))
