"""Registries of the names in a configuration.

A registry maps names to functions, or to small frozen objects made of functions. Built-in functions
are registered where they are defined. The first look-up imports the registry's homes, which import
them all; `config` therefore checks names without importing rooms above it beforehand. Homes import
neither torch nor transformers, which take seconds. Your own functions register in the same way,
from a file outside the package (`rockstudy.config.plugins`).

    @SELECTORS.register("longest")
    def longest(tokens):
        '''The first line of the docstring is the help text.'''

A name that ends in a placeholder registers a family: ``ARMS.register("lambda-<number>", parse=f)``
covers ``lambda-0.5``. `parse` turns ``0.5`` into a value or raises a `StudyError`, and the function
receives the value as its argument ``number``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Generic, TypeVar

from rockstudy.errors import StudyError, one_of

T = TypeVar("T")
Parse = Callable[[str], Any]


@dataclasses.dataclass(frozen=True)
class Entry(Generic[T]):
    """A registered name, its value, and the parser of its placeholder."""

    name: str
    value: T
    parse: Parse | None = None

    @property
    def parts(self) -> tuple[str, str]:
        """The name up to its placeholder, and the word between the angle brackets."""
        prefix, _, placeholder = self.name.removesuffix(">").partition("<")
        return prefix, placeholder

    @property
    def functions(self) -> tuple[Callable, ...]:
        """The registered functions: the value, or the functions among the fields of an object.

        A field that is marked ``kept_apart`` is left out: its code is an input of what calls it.
        """
        if not dataclasses.is_dataclass(self.value):
            return (self.value,)  # type: ignore[return-value]
        fields = [f for f in dataclasses.fields(self.value) if not f.metadata.get("kept_apart")]
        parts = [getattr(self.value, field.name) for field in fields]
        return tuple(part for part in parts if callable(part))

    @property
    def place(self) -> str:
        """Module and qualified name of the first function."""
        first = self.functions[0]
        return f"{first.__module__}.{first.__qualname__}"

    @property
    def help(self) -> str:
        """First line of the first function's docstring."""
        return (self.functions[0].__doc__ or "").strip().partition("\n")[0]


class Registry(Mapping[str, T]):
    """Names and their values, in the order of registration.

    Iteration gives the plain names; look-ups also find the members of families. `what`, the kind of
    the values, begins error lines, and the import of the modules `homes` registers built-in names.
    """

    def __init__(self, what: str, *homes: str) -> None:
        self.what, self.homes = what, homes
        self._entries: dict[str, Entry[T]] = {}

    def _settle(self) -> None:
        """Register the built-in names, in the order of the homes."""
        for home in self.homes:
            importlib.import_module(home)

    def register(self, name: str, parse: Parse | None = None) -> Callable[[T], T]:
        """Register the decorated function under a name; errors as `add`."""
        return partial(self.add, name, parse=parse)

    def add(self, name: str, value: T, parse: Parse | None = None) -> T:
        """Register and return a value. A function may come again: its module was reloaded.

        `StudyError`: a name that a different function has.
        """
        entry = Entry(name, value, parse)
        if entry.functions[0].__module__ not in self.homes:
            self._settle()  # built-in names come first
        taken = self._entries.get(name, entry)
        if taken.place != entry.place:
            places = f"{taken.place} and {entry.place}"
            raise StudyError(f"{self.what} {name!r}: must have one definition; got {places}")
        self._entries[name] = entry
        return value

    def entries(self) -> tuple[Entry[T], ...]:
        """Every registered name, families included, with its functions and help text."""
        self._settle()
        return tuple(self._entries.values())

    def check(self, name: str) -> str:
        """Return the name; `StudyError` if it is unknown."""
        _ = self[name]
        return name

    def __getitem__(self, name: str) -> T:
        """Return the value of a name; `StudyError` if it is unknown or its family refuses it."""
        reason = ""
        for entry in sorted(self.entries(), key=lambda entry: entry.parse is not None):
            prefix, placeholder = entry.parts
            if entry.parse is None and name == entry.name:
                return entry.value
            if entry.parse and isinstance(name, str) and name.startswith(prefix):
                try:
                    given = {placeholder: entry.parse(name.removeprefix(prefix))}
                    return partial(entry.value, **given)  # type: ignore
                except StudyError as error:
                    reason = str(error)
        legal = [entry.name for entry in self.entries()]
        raise StudyError(f"{self.what}: {one_of(name, legal, reason)}")

    def __contains__(self, name: object) -> bool:
        """Whether a name is registered or a member of a family."""
        with contextlib.suppress(StudyError):
            return bool(self.check(name))  # type: ignore[arg-type]
        return False

    def __iter__(self) -> Iterator[str]:
        """The plain names."""
        return (entry.name for entry in self.entries() if not entry.parse)

    def __len__(self) -> int:
        """Number of plain names."""
        return sum(1 for _ in self)


TASKS: Registry[Any] = Registry("task", "rockstudy.tasks")
SCORES: Registry[Callable] = Registry("score", "rockstudy.rocks.scores")
SELECTORS: Registry[Callable] = Registry("selector", "rockstudy.rocks.selectors")
ENCODERS: Registry[Callable] = Registry("encoder", "rockstudy.rocks.encoders")
ARMS: Registry[Callable] = Registry(
    "arm", "rockstudy.selective.arms", "rockstudy.beyond.freezing.arms"
)
REGISTRIES = (TASKS, SCORES, SELECTORS, ENCODERS, ARMS)
