"""The one error that a user can cause, and the lines in which errors are shown."""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any
from unicodedata import category

LINE, WORD, VALUE = 420, 120, 80  # ours: most characters of a line, a word in it, a value in it
CUT = " ... "


class StudyError(ValueError):
    """An error that a user can cause: one line with the field, what is legal and what was given."""

    def __init__(self, text: str) -> None:
        super().__init__(line(text))


def line(text: str) -> str:
    r"""Return a text as a line that every terminal shows as it is, of at most `LINE` characters.

    Control characters, line ends and marks that hide or reorder text become escapes such as
    ``\x1b``. A long word, and then a long line, is cut in the middle: the beginning names the
    field, and the end what was given.
    """
    safe = escaped(text)
    if len(safe) > LINE:
        safe = re.sub(rf"\S{{{WORD},}}", lambda word: cut(word[0], WORD), safe)
    return cut(safe, LINE)


def escaped(text: str) -> str:
    r"""Return a text with escapes for what has no glyph of its own, such as ``\n``."""
    if text.isprintable():
        return text
    shown = (c if c.isprintable() or category(c) == "Zs" else ascii(c)[1:-1] for c in text)
    return "".join(shown)  # Zs: spaces of other widths


def cut(text: str, most: int) -> str:
    """Return a text without its middle if it is longer than `most` characters."""
    if len(text) <= most:
        return text
    end = (most - len(CUT)) // 2
    return f"{text[: most - len(CUT) - end]}{CUT}{text[-end:]}"


def unknown(what: str, given: Any, legal: Iterable[str], near: Sequence[str] = ()) -> str:
    """One line for an unknown name: the legal ones, what was given, and what may have been meant.

    ``near`` are the names that may have been meant; without any, the closest legal one is.
    """
    meant = list(map(repr, near))
    words = " or ".join([", ".join(meant[:-1]), meant[-1]] if len(meant) > 1 else meant)
    return f"{cut(what, VALUE)}: {one_of(given, legal, f'did you mean {words}?' if meant else '')}"


def one_of(given: Any, legal: Iterable[str], hint: str = "") -> str:
    """The line of `unknown` without its subject; `hint` replaces the nearest legal name."""
    names = list(legal)
    near = difflib.get_close_matches(str(given)[:VALUE], names, n=1)
    hint = f" ({hint or f'did you mean {near[0]!r}?'})" if hint or near else ""
    rest = f"got {shortened(given)}{hint}"
    return f"must be one of {cut(', '.join(names), max(VALUE, LINE - VALUE - len(rest)))}; {rest}"


def shortened(value: Any) -> str:
    """The value as Python shows it, cut to `VALUE` characters."""
    return cut(repr(value), VALUE)
