r"""Token text that a page can show as running text, whatever a model has written.

Spaces, tabs and line ends stay, since they are the layout of the text. What does not print or
reorders text becomes an escape such as ``\u202e``, and marks that would stand on the character of
another token, or pile up, are set apart.
"""

from __future__ import annotations

import itertools
import unicodedata

from rockstudy.models.token_texts import visible

LONGEST = 200  # ours: characters of a token; the longest of Qwen3's vocabulary has 128
PILED = 2  # ours: marks on one character, as in Vietnamese
CIRCLE = "\u25cc"  # what a mark without a character stands on


def safe(text: str, longest: int | None = LONGEST) -> str:
    """Return a text without anything that hides, reorders or overlaps; cut to `longest`."""
    shown = "".join(c if c in " \n\t" else visible(c) for c in _marks_apart(text))
    return shown if longest is None or len(shown) <= longest else f"{shown[: longest - 1]}…"


def _marks_apart(text: str) -> str:
    parts = []
    for is_mark, run in itertools.groupby(text, _is_mark):
        chars = "".join(run)
        if is_mark:
            piled = "".join(ascii(c)[1:-1] for c in chars[PILED:])
            chars = CIRCLE * (not parts) + chars[:PILED] + piled
        parts.append(chars)
    return "".join(parts)


def _is_mark(char: str) -> bool:
    """Whether a character is drawn on the one before it."""
    return unicodedata.category(char) in ("Mn", "Me")
