"""The identity of code: a hash of the source that a function computes with.

From a function's own definition every name is followed into the package (and into plugins): the
functions, classes and constants that it can reach. Comments, docstrings and layout do not count.
A function marked `kept_apart` is not followed: what it returns has a key of its own, whose hash is
an input of whatever is computed from it. Nor is the plumbing, which computes no values.

The source is read as it is on disk when the process first asks for it.
"""

import ast
import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rockstudy.errors import StudyError

Function = TypeVar("Function", bound=Callable[..., Any])
Name = tuple[str, str]  # a module, and a name that it defines
PACKAGE = "rockstudy"
MARK = "kept_apart"
PLUMBING = tuple(  # ours: stores, moves and refuses values, and computes none
    f"{PACKAGE}.{name}" for name in "config errors parallel paths progress runs store".split()
)
REGISTRIES = f"{PACKAGE}.config.registry"
SEEDS = f"{PACKAGE}.store.seeds"  # random numbers are values
DEFINITION = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def kept_apart(function: Function) -> Function:
    """Mark a function whose result is stored under a key of its own (`identity` stops there)."""
    return function


def identity(function: Callable[..., Any]) -> str:
    """16 hex digits that change with the code that a function of a module or a notebook runs.

    `StudyError`: a function of a notebook that reads a variable of the notebook: its value would
    not be part of the key.
    """
    function = inspect.unwrap(function)
    module, path = sys.modules.get(function.__module__), function.__qualname__
    name = path.split(".")[0]
    if getattr(module, "__file__", None) and "<" not in path and hasattr(module, name):
        return _digest((function.__module__, name))
    return _of_notebook(function)


def _of_notebook(function: Any) -> str:
    """Identity of a function or lambda that a notebook cell defines."""
    names = inspect.getclosurevars(function)
    values = names.nonlocals | names.globals
    data = [n for n, v in values.items() if not (callable(v) or isinstance(v, types.ModuleType))]
    if data:
        raise StudyError(
            "compute: must get its data as arguments, so that they count; it reads "
            f"{', '.join(data)}"
        )
    digest = hashlib.sha256(repr(_compiled(function.__code__)).encode())
    for value in values.values():
        if callable(value) and not inspect.isbuiltin(value) and _is_ours(value.__module__):
            digest.update(identity(value).encode())
    return digest.hexdigest()[:16]


def _compiled(made: types.CodeType) -> tuple[Any, ...]:
    """What a compiled function does: two lambdas of one line have the same source."""
    values = [_compiled(v) if isinstance(v, types.CodeType) else repr(v) for v in made.co_consts]
    return made.co_code.hex(), values, made.co_names


@functools.cache
def _digest(start: Name) -> str:
    digest = hashlib.sha256()
    for module, name in sorted(_reached(start)):
        digest.update(f"{module}.{name}\n{_module(module).sources[name]}\n".encode())
    return digest.hexdigest()[:16]


def _reached(start: Name) -> set[Name]:
    """Every definition that can be reached from one, itself included."""
    seen, reached, waiting = set(), set(), [start]
    while waiting:
        one = module, name = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        known = _module(module)
        if module == REGISTRIES:
            waiting += _registered(module, name)
        elif name in known.sources:
            if name not in known.apart or one == start:
                reached.add(one)
                waiting += known.references[name]
        elif name in known.imports:  # a name that a module hands on
            waiting.append(known.imports[name])
    return reached


def _registered(module: str, name: str) -> Iterator[Name]:
    """What a registry holds: no name in the source leads there."""
    registry = getattr(importlib.import_module(module), name, None)
    for entry in registry.entries() if hasattr(registry, "entries") else ():
        for function in entry.functions:
            yield function.__module__, function.__qualname__.split(".")[0]


@dataclass
class _Module:
    """The definitions of a module: source without comments, names that each refers to."""

    sources: dict[str, str] = field(default_factory=dict)
    references: dict[str, list[Name]] = field(default_factory=dict)
    imports: dict[str, Name] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)  # that it imports, by their names in it
    apart: set[str] = field(default_factory=set)


@functools.cache
def _module(name: str) -> _Module:
    """Read a module of the package or of a plugin; an empty one for any other."""
    made = _Module()
    spec = importlib.util.find_spec(name) if _is_ours(name) else None
    if spec is None or spec.origin is None:
        return made
    tree = ast.parse(Path(spec.origin).read_text("utf-8"))
    for node in ast.walk(tree):
        outer = getattr(node, "module", None) if not getattr(node, "level", 0) else None
        for alias in node.names if _is_ours(outer) or outer == REGISTRIES else ():
            inner, known_as = f"{outer}.{alias.name}", alias.asname or alias.name
            if _is_module(inner):
                made.modules[known_as] = inner
            else:
                made.imports[known_as] = (outer, alias.name)
    for node in tree.body:
        for defined in _defined(node):
            made.sources[defined] = made.sources.get(defined, "") + _plain(node)
            made.references.setdefault(defined, []).extend(_names(name, node, made))
            if any(ast.unparse(d).endswith(MARK) for d in getattr(node, "decorator_list", [])):
                made.apart.add(defined)
    return made


@functools.cache
def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _is_ours(module: str | None) -> bool:
    """Whether a module is the package's, plumbing left out, or a plugin's."""
    if not module or module == "__main__":
        return False
    if module.split(".")[0] == PACKAGE:
        return module == SEEDS or not f"{module}.".startswith(tuple(f"{p}." for p in PLUMBING))
    return hasattr(sys.modules.get(module.split(".")[0]), "__rockstudy_plugin__")


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, DEFINITION):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [n.id for t in targets if t is not None for n in ast.walk(t) if isinstance(n, ast.Name)]


def _names(module: str, node: ast.AST, known: _Module) -> Iterator[Name]:
    """What a definition refers to: names of its module, imported names, members of modules."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and inner.id not in known.modules:
            yield known.imports.get(inner.id, (module, inner.id))
        elif isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name):
            yield known.modules.get(inner.value.id, ""), inner.attr  # "" has no definitions


def _plain(node: Any) -> str:
    """A node as text that depends on neither layout, comments, docstrings nor Python's version."""
    if isinstance(node, list):
        return f"[{','.join(map(_plain, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    values = {k: v for k, v in ast.iter_fields(node) if v not in (None, [])}
    if isinstance(node, DEFINITION) and ast.get_docstring(node) is not None:
        values["body"] = node.body[1:]
    inside = ",".join(f"{name}={_plain(value)}" for name, value in values.items())
    return f"{type(node).__name__}({inside})"
