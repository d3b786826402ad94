"""Rooms that can be called: ``rs.rocks(...)`` and ``rs.knockout(...)`` next to ``rs.sample(...)``.

A package of the same name is an attribute of `rockstudy` as soon as one of its modules is imported,
and would hide the function.
"""

import importlib
from types import ModuleType
from typing import Any


class CallableRoom(ModuleType):
    """A package that is called as the function of `rockstudy.api` with its name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """See `rockstudy.api`, which is imported here because it uses the rooms."""
        api = importlib.import_module("rockstudy.api")
        return getattr(api, self.__name__.rpartition(".")[2])(*args, **kwargs)
