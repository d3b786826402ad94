r"""What kind of token a type is, decided by rule from its spelling and its position.

The paper describes its rocks by four clusters, LaTeX and maths delimiters, markdown and whitespace
structure, sentence-initial discourse markers and digits, and its controls as mid-clause content
words and single-letter variables (arXiv 2605.09253, section 2). It gives no rule; this is ours. The
first line that holds decides:

1. other: nothing at all, bytes that are no character (U+FFFD or ``\xe2\x80``), a control character,
   a special token ``<...>``
2. latex: contains one of ``$ \ { } ^ _ &``, is brackets and equals signs only (``(``, ``)``,
   ``=``: the paper's first cluster has them), or is the bare name of a command (see below)
3. structure: contains a newline or is blank, contains ``**`` or three backticks, is a heading
   mark, a rule or a backtick, or is ``-``, ``*`` or a bullet that mostly starts a line
4. digit: digits only, of any script, raised, circled or Roman (``٣``, ``²``, ``Ⅳ``; not ``½``)
5. marker: a word of `MARKERS` that mostly starts a sentence
6. letter: a single letter of a script with case
7. word: letters only, or a contraction such as ``'s``; `` a`` and `` I`` after a space; a single
   letter of a script without case
8. punctuation: punctuation, operators and symbols only
9. other: what is left, such as ``(x``

Combining marks and invisible joiners belong to the character before them: ``e`` with an accent is a
letter, a Thai syllable a word and joined emoji are symbols. Marks alone are a piece of a word.

Blanks of every kind around the spelling are ignored. Tokenizers split ``\times`` into ``\`` and
``times``, so letters are the name of a command where most of a type's occurrences follow a token
that ends in a backslash. Where that is unknown, a name of `COMMANDS` without a leading space is
one: in running text its first letter would follow a space.

How this can mislead: a type is not an occurrence. ``$`` before a price is latex, a letter may be
the last piece of a word, and a type that starts half of its sentences is a marker in the rest too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rockstudy.errors import StudyError
from rockstudy.models.token_texts import BROKEN

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

CATEGORIES = {  # in the order of tables
    "latex": "LaTeX and maths delimiters, such as $, \\boxed or }{",
    "structure": "markdown and whitespace structure, such as ** or a blank line",
    "marker": "discourse markers that start a sentence, such as So or Wait",
    "digit": "digits",
    "punctuation": "punctuation and operators",
    "letter": "single letters, mostly variables",
    "word": "words and pieces of words",
    "other": "mixed spellings, special tokens and broken bytes",
}
MARKERS = frozenset(
    "So Let We But Now Wait Then Since This "  # paper 2
    # ours: of the same kind
    "First Next Therefore Thus Hence However Also Finally Alternatively Because Given Here Hmm "
    "Okay Similarly Note".split()
)
COMMANDS = frozenset(  # ours: frequent in worked solutions, and neither a word nor a piece of one,
    # but for `boxed`, which holds the answer
    "frac dfrac tfrac sqrt boxed cdot cdots ldots bmod pmod gcd lcm leq geq neq infty qquad "
    "mathbb mathrm mathbf mathcal operatorname pmatrix bmatrix".split()
)
MOSTLY = 0.5  # ours: share of a type's occurrences

_SPECIAL = re.compile(r"<[^<>\s]*[A-Za-z][^<>\s]*>")
_LATEX = re.compile(r"[$\\{}^_&]")
_MATHS = re.compile(r"[()=]+")  # paper, appendix B: cluster 1
_CONTRACTION = re.compile(r"['\u2019][a-zA-Z]{1,2}")
_MARKDOWN = re.compile(r"\*\*|```|^(?:#+|-{3,}|`)$")
_BYTES = re.compile(r"\\x[0-9a-f]{2}")  # as `token_texts` names them
# invisible on their own: joiners, marks of direction, variation selectors, tags
_INVISIBLE = r"\u200b-\u200f\u2060-\u206f\ufeff\ufe00-\ufe0f\U000e0000-\U000e01ef"
_NEWLINE = "\n\r\x85\u2028\u2029"
_ENDS = (  # ends of sentences: ours, from Unicode's Sentence_Terminal, ellipses and colons
    ".!?:\u2026\u203c\u203d\u2047\u2048\u2049\ufe56\ufe57\ufe52\ufe55"  # and doubled, small
    "\u3002\uff0e\uff61\uff01\uff1f\uff1a\ufe12\ufe15\ufe16\ufe13"  # CJK
    "\u061f\u06d4\u061d\u061e\u0700\u0701\u0702"  # Arabic, Urdu, Syriac
    "\u0964\u0965\u104a\u104b\u17d4\u17d5\u0f0d\u0f0e"  # danda, Burmese, Khmer, Tibetan
    "\u0589\u1362\u1367\u1368\u05c3\u1803\u1809\u07f9\u2e3c"  # Armenian, Ethiopic, Hebrew, ...
)
_CLOSERS = (
    "\"'\u201d\u2019\u00bb\u203a)\\]}*$"
    "\uff09\uff3d\uff5d\u300d\u300f\u3011\u300b\u3009\u3015"  # CJK
)
_BLANK = rf"\s{_INVISIBLE}"
_OPENERS = "*#>\u2022\\-"  # markup before a word of a line
_START = re.compile(rf"\A\Z|[{_NEWLINE}][{_BLANK}{_OPENERS}]*\Z|[{_ENDS}][{_BLANK}{_CLOSERS}]*\Z")
_MARKUP = re.compile(rf"[^\S{_NEWLINE}]*[{_OPENERS}]+[^\S{_NEWLINE}]*")


def categorize(
    texts: Sequence[str], initial_share: ArrayLike, escaped_share: ArrayLike | None = None
) -> list[str]:
    """Category of each token type, a key of `CATEGORIES`, by the rules of this module.

    Parameters
    ----------
    texts
        Decoded texts (U,), as from `token_texts`.
    initial_share
        Share (U,) of a type's occurrences that start a sentence (`starts_sentence`), or NaN where
        it is unknown. From `MOSTLY` on a type is a marker or a bullet, not a word or a sign. With
        NaN the capital letter (``So``) and the space after a bullet (``- ``) decide.
    escaped_share
        Share (U,) of a type's occurrences right after a backslash, or NaN; None where all are
        unknown. From `MOSTLY` on letters are the name of a command.

    Raises
    ------
    StudyError
        Unequal numbers of shares and texts, or a share outside [0, 1].
    """
    if escaped_share is None:
        escaped_share = np.full(len(texts), np.nan)
    given = {"initial_share": initial_share, "escaped_share": escaped_share}
    shares = [_checked(name, values, len(texts)) for name, values in given.items()]
    return [_category(*one) for one in zip(texts, *shares, strict=True)]


def _checked(name: str, values: ArrayLike, n: int) -> np.ndarray:
    shares = np.asarray(values, dtype=np.float64)
    if shares.shape != (n,):
        raise StudyError(f"{name}: must have one share for each of {n} texts; got {shares.shape}")
    if (bad := shares[(shares < 0) | (shares > 1)]).size:
        raise StudyError(f"{name}: must lie between 0 and 1 or be NaN; got {bad[0]:g}")
    return shares


def meanings(types: pd.DataFrame) -> pd.DataFrame:
    """Each category with its meaning and how many of the types, with ``category``, have it."""
    counts = types.category.value_counts()
    rows = [(name, meaning, int(counts.get(name, 0))) for name, meaning in CATEGORIES.items()]
    return pd.DataFrame(rows, columns=["category", "meaning", "types"])


def starts_sentence(previous_texts: Iterable[str]) -> np.ndarray:
    r"""Whether an occurrence starts a line or a sentence, from the text of the token before it.

    It does at the start (an empty text), after a newline that only blanks and opening markup such
    as ``- **`` follow, and after one of
    ``. ! ? :``, or an end of other scripts such as ``。 ؟ ।``, that only blanks, closing quotes and
    brackets, ``*`` or ``$`` follow, as in ``:**``, ``.\n\n`` or ``.$``.

    `previous_texts` is the text before each occurrence (N,), "" for none: of the last token that is
    not markup alone (`is_markup`), or more text. Returns booleans (N,).

    Notes
    -----
    A point inside a number or an abbreviation counts as an end, so a digit after ``.`` looks
    initial. After ``**`` alone nothing is: what is before it tells.
    """
    # few distinct texts among many occurrences: the rule runs once for each of them
    codes, distinct = pd.factorize(np.array(list(previous_texts), dtype=object))
    return np.array([_START.search(text) is not None for text in distinct], dtype=bool)[codes]


def is_markup(text: str) -> bool:
    """Whether a token is markup within a line alone, such as ``**`` or a bullet."""
    return _MARKUP.fullmatch(text) is not None


def _category(text: str, share: float, escaped: float) -> str:
    word = text.strip()
    if not text or _SPECIAL.fullmatch(word) or _BYTES.search(text) or any(map(_is_broken, text)):
        return "other"
    command = text in COMMANDS or (text.isalpha() and _mostly(escaped, unknown=False))
    if _LATEX.search(word) or _MATHS.fullmatch(word) or command:
        return "latex"
    broken_line = any(char in _NEWLINE for char in text)
    if not word or broken_line or _MARKDOWN.search(word) or _is_bullet(text, share):
        return "structure"
    base = "".join(char for char in word if not _joins(char))
    if not base:
        return "word" if re.search(rf"[^{_INVISIBLE}]", word) else "other"
    if all(map(_is_digit, base)):
        return "digit"
    if base.isalpha():
        return "word" if text in (" a", " A", " I") else _alphabetic(base, share)
    if _CONTRACTION.fullmatch(word):
        return "word"
    return "punctuation" if all(unicodedata.category(char)[0] in "PS" for char in base) else "other"


def _joins(char: str) -> bool:
    """Whether a character belongs to the one before it: a combining mark or an invisible joiner."""
    return unicodedata.category(char) in {"Mn", "Mc", "Me", "Cf"}


def _is_digit(char: str) -> bool:
    kind = unicodedata.category(char)
    return kind[0] == "N" and (kind != "No" or float(unicodedata.numeric(char, 0.5)).is_integer())


def _is_broken(char: str) -> bool:
    return char == BROKEN or (unicodedata.category(char) == "Cc" and char not in "\t\n\r")


def _alphabetic(word: str, share: float) -> str:
    if word[0].upper() + word[1:] in MARKERS and _mostly(share, unknown=word[0].isupper()):
        return "marker"
    cased = unicodedata.category(word[0]) in {"Lu", "Ll", "Lt"}
    return "letter" if len(word) == 1 and cased else "word"


def _is_bullet(text: str, share: float) -> bool:
    return text.strip() in {"-", "*", "•"} and _mostly(share, unknown=text[-1].isspace())


def _mostly(share: float, *, unknown: bool) -> bool:
    return unknown if np.isnan(share) else bool(share >= MOSTLY)
