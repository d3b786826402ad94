"""Plugins: modules of the user's own that register tasks, scores, selectors, encoders and arms.

A plugin is a file or an importable module. Every process that checks or unpickles a configuration
first imports its plugins.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from rockstudy.config.registry import REGISTRIES
from rockstudy.errors import StudyError


def located(names: Iterable[str], folder: Path) -> tuple[str, ...]:
    """Replace ``mine.py``, or ``mine`` if `folder` has that file, by the file's absolute path.

    Other processes may run in other folders, where a relative path would fail.
    """
    return tuple(_located(name, folder.resolve()) for name in names)


def _located(name: str, folder: Path) -> str:
    file = folder / os.path.expanduser(name if name.endswith(".py") else f"{name}.py")
    named = name.endswith(".py") and "\0" not in name
    return os.path.realpath(file) if named or os.path.isfile(file) else name


def load(names: Iterable[str]) -> list[ModuleType]:
    """Import plugins; an imported one costs nothing.

    `StudyError`: a module that cannot be imported or registers nothing; a registered name that is
    taken.
    """
    modules = [imported(name) for name in names]
    places = [entry.place for registry in REGISTRIES for entry in registry.entries()]
    for module in modules:
        if not any(place.startswith(f"{module.__name__}.") for place in places):
            known = ", ".join(f"{registry.what}s" for registry in REGISTRIES)
            got = f"{module.__name__!r}, which registers nothing"
            raise StudyError(f"plugins: must be modules that register {known}; got {got}")
    return modules


def imported(name: str, field: str = "plugins") -> ModuleType:
    """Import a file or a module of the user's, whose code then counts in keys (`store.code`).

    `StudyError`, beginning with `field`: one that cannot be imported, or a name that is taken.
    """
    file = Path(name) if name.endswith(".py") else None
    if file and str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))  # worker processes inherit it
    importlib.invalidate_caches()  # the file may be new
    try:
        module = importlib.import_module(file.stem if file else name)
        for one in (module, sys.modules[module.__name__.partition(".")[0]]):
            one.__rockstudy_plugin__ = True  # type: ignore[attr-defined]  # `store.code` reads it
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the user's code raises, `sys.exit` included
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        line = f"files or modules that can be imported; got {name!r} ({reason:.300})"
        raise StudyError(f"{field}: must be {line}") from None
    if file and os.path.realpath(module.__file__ or "") != str(file):
        taken = f"{name!r}, and {file.stem!r} is {module.__file__ or 'built into Python'}"
        raise StudyError(f"{field}: must have a name that no other module has; got {taken}")
    return module
