"""Notebooks as files, and what their kernels need: checked parameters, errors as one line.

papermill guesses types, only warns of unknown names, and writes its values into a cell after the
``parameters`` cell. Both cells are in the kernel's history when a notebook opens its run, and are
compared there. A kernel also shows our errors as one line.
"""

from __future__ import annotations

import ast
import builtins
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from rockstudy import display
from rockstudy.errors import StudyError, shortened, unknown

if TYPE_CHECKING:
    from nbformat import NotebookNode

INJECTED = "# Parameters\n"  # papermill's comment above the cell that it adds
OPTIONAL = {"preset": str, "seed": int, "from_run": str}  # whose default is None
KINDS = ("int", "float", "str", "bool", "list", "tuple", "dict")
FITTING = {float: int, list: tuple, tuple: list}  # the other type whose values fit
INFINITE = (float("inf"), float("-inf"))


@dataclass(frozen=True)
class Parameter:
    """A parameter of a notebook: its name, default and type; a type of None takes any value."""

    name: str
    default: Any
    kind: type | None

    def fitted(self, value: Any, field: str) -> Any:
        """Return a value in the parameter's type; `StudyError`, naming `field`, if it has none.

        A whole number fits a float, and a list a tuple.
        """
        kind = self.kind
        if kind is None or (value is None and self.default is None):
            return value
        if type(value) is FITTING.get(kind):
            value = kind(value)
        if type(value) is not kind or value in INFINITE:
            words = {int: "an integer", str: "text"}.get(kind, f"a {kind.__name__}")
            like = f"like the default {shortened(self.default)}; got {shortened(value)}"
            raise StudyError(f"{field}: must be {words} {like}")
        return value


def declared(source: str) -> dict[str, Parameter]:
    """Return the parameters that the source of a cell assigns, by name.

    The annotation is the type, else the type of the default. A default that is no literal counts as
    None.
    """
    parameters = {}
    for statement in _parsed(source).body:
        if isinstance(statement, ast.AnnAssign):
            target, noted = statement.target, set(_kinds(statement.annotation))
        elif isinstance(statement, ast.Assign):
            target, noted = statement.targets[0], set()
        else:
            continue
        if isinstance(target, ast.Name):
            default = _literal(statement.value)
            inferred = OPTIONAL.get(target.id) if default is None else type(default)
            kind = (noted.pop() if len(noted) == 1 else None) if noted else inferred
            parameters[target.id] = Parameter(target.id, default, kind)
    return parameters


def _parsed(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError:  # IPython's own syntax, such as %matplotlib
        from IPython.core.inputtransformer2 import TransformerManager

        try:
            return ast.parse(TransformerManager().transform_cell(source))
        except SyntaxError as error:
            raise StudyError(f"parameters: must be Python; got {error}") from None


def _literal(node: ast.expr | None) -> Any:
    try:
        return ast.literal_eval(node) if node else None
    except (ValueError, TypeError, MemoryError, RecursionError):
        return None


def _kinds(node: ast.expr) -> Iterator[type | None]:
    """The types of an annotation, without None; None for a type that is not of `KINDS`."""
    match node:
        case ast.Constant(value=str(text)):
            yield from _kinds(ast.parse(text, mode="eval").body)
        case ast.Constant(value=None):
            pass
        case ast.BinOp(left=left, right=right):
            yield from (*_kinds(left), *_kinds(right))
        case ast.Subscript(value=outer, slice=inner):
            name = outer.attr if isinstance(outer, ast.Attribute) else getattr(outer, "id", "")
            parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            if name in ("Optional", "Union"):
                yield from (kind for part in parts for kind in _kinds(part))
            else:
                yield from _kinds(parts[0] if name == "Annotated" else outer)
        case ast.Name(id=name) if name in KINDS:
            yield getattr(builtins, name)
        case _:
            yield None


def prepare() -> None:
    """Make the kernel of a notebook ready, and refuse values from papermill that do not fit.

    A `StudyError` is then shown as its one line, without a traceback. A frame that a cell ends with
    is shown by `display.table`, and MathJax keeps off the other tables of pandas too, in which a
    ``$`` is a token and no formula. `StudyError` names the first value whose name or type the
    ``parameters`` cell does not have, with what is legal.
    """
    pd.set_option("display.html.use_mathjax", False)
    pd.set_option("styler.html.mathjax", False)
    pd.set_option("styler.format.escape", "html")
    pd.set_option("styler.format.precision", display.DIGITS)
    module = sys.modules.get("IPython")
    shell = module and module.get_ipython()
    if shell is None:  # outside a notebook
        return
    shell.set_custom_exc((StudyError,), _show)
    shell.display_formatter.formatters["text/html"].for_type(pd.DataFrame, display.shown)
    cells = shell.user_ns.get("In", [])
    places = [i for i, cell in enumerate(cells) if cell.startswith(INJECTED)]
    if not places or places[-1] == 0:
        return
    known = declared(cells[places[-1] - 1])
    for name, given in declared(cells[places[-1]]).items():
        if name not in known:
            example = f"rockstudy run -p {name} VALUE; papermill -y 'overrides: {{{name}: ...}}'"
            more = f"; a field of the configuration goes into overrides ({example})"
            raise StudyError(unknown(name, name, known) + more * ("__" in name))
        if given.default is not None:
            known[name].fitted(given.default, name)


def _show(shell: Any, kind: type, error: BaseException, trace: Any, tb_offset: Any = None) -> list:
    line = [f"{kind.__name__}: {error}"]
    shell._showtraceback(kind, error, line)
    return line


def read(notebook: Path) -> NotebookNode:
    """Return a notebook of format 4; `StudyError` where the file is not one."""
    import nbformat  # builds grammars for seconds, which most commands need not wait for

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nbformat adds missing cell ids
            return nbformat.read(notebook, as_version=4)
    except Exception as error:  # nbformat raises many kinds of errors
        reason, *_ = str(error).strip().splitlines() or [type(error).__name__]
        line = f"notebook: must be a Jupyter notebook; got {notebook}: {reason}"
        raise StudyError(line) from None
