"""The one error that a user can cause, and the line that refuses an unknown name."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


class StudyError(ValueError):
    """An error that a user can cause: one line with the field, what is legal and what was given."""


def unknown(what: str, given: Any, legal: Iterable[str], near: Sequence[str] = ()) -> str:
    """One line for an unknown name: the legal ones, what was given, and what may have been meant.

    ``near`` are the names that may have been meant; without any, the closest legal one is.
    """
    meant = list(map(repr, near))
    words = " or ".join([", ".join(meant[:-1]), meant[-1]] if len(meant) > 1 else meant)
    return f"{what}: {one_of(given, legal, f'did you mean {words}?' if meant else '')}"


def one_of(given: Any, legal: Iterable[str], hint: str = "") -> str:
    """The line of `unknown` without its subject; `hint` replaces the nearest legal name."""
    names = list(legal)
    near = difflib.get_close_matches(str(given), names, n=1)
    hint = hint or (f"did you mean {near[0]!r}?" if near else "")
    shown = f" ({hint})" if hint else ""
    return f"must be one of {', '.join(names)}; got {shortened(given)}{shown}"


def shortened(value: Any) -> str:
    """The value as Python shows it, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
