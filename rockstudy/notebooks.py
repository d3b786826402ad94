"""What a notebook's kernel needs: errors as one line, tables as they are, no misspelt parameters.

papermill writes its values into a cell after the ``parameters`` cell, whatever their names and
types. Both cells are in the kernel's history when a notebook opens its run, and are compared there.
"""

from __future__ import annotations

import ast
import difflib
import sys
from typing import Any

import pandas as pd

from rockstudy.errors import StudyError

INJECTED = "# Parameters\n"  # papermill's comment above the cell that it adds
OPTIONAL = {"preset": str, "seed": int, "from_run": str}  # whose default is None


def errors_as_one_line() -> None:
    """Have the kernel show a `StudyError` as its one line, without a traceback."""
    shell = _shell()
    if shell is not None:
        shell.set_custom_exc((StudyError,), _show)


def tables_as_they_are() -> None:
    """Keep MathJax off all tables of pandas, in which a ``$`` is a token and no formula."""
    pd.set_option("display.html.use_mathjax", False)
    pd.set_option("styler.html.mathjax", False)


def check_injected() -> None:
    """Refuse values from papermill whose name or type the ``parameters`` cell does not have.

    Raises
    ------
    StudyError
        The first such value, with what is legal.
    """
    cells = _shell().user_ns.get("In", []) if _shell() is not None else []
    places = [i for i, cell in enumerate(cells) if cell.startswith(INJECTED)]
    if not places or places[-1] == 0:
        return
    declared, given = _values(cells[places[-1] - 1]), _values(cells[places[-1]])
    for name, value in given.items():
        if name not in declared:
            raise StudyError(_unknown(name, list(declared)))
        default = declared[name]
        kind = OPTIONAL.get(name) if default is None else type(default)
        if kind is not None and value is not None and type(value) is not kind:
            raise StudyError(f"{name}: must be {kind.__name__} like {default!r}; got {value!r}")


def _shell() -> Any:
    """The kernel's shell; None outside a notebook."""
    module = sys.modules.get("IPython")
    return None if module is None else module.get_ipython()


def _show(shell: Any, kind: type, error: BaseException, trace: Any, tb_offset: Any = None) -> list:
    line = [f"{kind.__name__}: {error}"]
    shell._showtraceback(kind, error, line)
    return line


def _values(cell: str) -> dict[str, Any]:
    """The literal values that a cell assigns; others count as None."""
    found = {}
    for statement in ast.parse(cell).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            try:
                found[statement.targets[0].id] = ast.literal_eval(statement.value)
            except ValueError:
                found[statement.targets[0].id] = None
    return found


def _unknown(name: str, legal: list[str]) -> str:
    if "__" in name:
        return (
            f"{name}: must be one of {', '.join(legal)}; a field of the configuration goes into "
            f"overrides (rockstudy run -p {name} VALUE; papermill -y 'overrides: {{{name}: ...}}')"
        )
    near = difflib.get_close_matches(name, legal, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"{name}: must be one of {', '.join(legal)}; it is no parameter of this notebook{hint}"
