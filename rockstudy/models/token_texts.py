r"""Texts of single tokens and of several, and text with visible white space.

The text of a token is what it adds to a running text, with its leading space. Bytes that are no
character are written as ``\xe2\x80``, so that each token has a text of its own. Nothing here tidies
spaces, whatever a tokenizer's settings are.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from transformers import PreTrainedTokenizerBase
_SHOWN = {" ": "␣", "\n": "⏎", "\t": "⇥"}
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # a byte of SentencePiece's vocabularies
_BLANK = "\u2581"  # how SentencePiece writes a space
BROKEN = "\ufffd"


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: ArrayLike) -> list[str]:
    r"""Text of each token (U,) in a running text, with its leading space; added tokens by name.

    A token with part of a character has its bytes instead, as in ``\xe2\x80``. So has one of
    SentencePiece's bytes whose character is a token too. An id past the end of the vocabulary, as
    in padded embeddings, gives an empty text. The tokenizer is any fast one.
    """
    rows = np.asarray(ids, dtype=np.int64).ravel().tolist()
    added, before = tokenizer.added_tokens_decoder, _anchor(tokenizer)
    texts = _decode(tokenizer, [[*before, i] for i in rows])
    cut = len(_decode(tokenizer, [before])[0])
    return [
        added[i].content if i in added else _named(tokenizer, i, text[cut:])
        for i, text in zip(rows, texts, strict=True)
    ]


def decoded(
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[Sequence[int]],
    *,
    skip_special_tokens: bool = False,
) -> list[str]:
    """Text of each row of token ids, with every space as the tokens have it."""
    added = tokenizer.added_tokens_decoder
    special = special_ids(tokenizer) if skip_special_tokens else set()
    kept = [[int(i) for i in row if int(i) not in special] for row in rows]
    # a byte-level decoder takes an added letter such as č for one of its bytes
    letters = sorted(i for i, token in added.items() if not token.content.isascii())
    alone = zip(letters, _decode(tokenizer, [[i] for i in letters]), strict=True)
    mangled = {i: added[i].content for i, text in alone if text.strip() != added[i].content.strip()}
    if mangled.keys() & set(chain(*kept)):
        return [_by_parts(tokenizer, row, mangled) for row in kept]
    return _decode(tokenizer, kept)


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of the tokens that are no text, such as the end of one."""
    return {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}


def excerpt(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], place: int, around: int
) -> dict[str, str]:
    """Text ``before``, at (``token``) and ``after`` a place, up to `around` tokens on each side.

    Where a cut falls into a character, the rest of that character is left out.
    """
    (token,), (alone,) = token_texts(tokenizer, [ids[place]]), _decode(tokenizer, [[ids[place]]])
    before, after = decoded(
        tokenizer, [ids[max(0, place - around) : place], ids[place + 1 : place + 1 + around]]
    )
    if place > around:
        before = before.lstrip(BROKEN)
    if place + 1 + around < len(ids):
        after = after.rstrip(BROKEN)
    if BROKEN in alone:  # neighbours hold the other parts of its character
        before, after = before.rstrip(BROKEN), after.lstrip(BROKEN)
    parts = {"before": before, "token": token, "after": after}
    return {name: re.sub(f"{BROKEN}+", BROKEN, text) for name, text in parts.items()}


def visible(text: str) -> str:
    r"""Show blanks as ``␣ ⏎ ⇥`` and other characters that do not print as escapes.

    A backslash in the text stays single, so that ``\n`` as two characters reads like LaTeX. Nothing
    is escaped for HTML.
    """
    return "".join(
        _SHOWN.get(char) or (char if char.isprintable() and char != BROKEN else ascii(char)[1:-1])
        for char in text
    )


def _decode(tokenizer: PreTrainedTokenizerBase, rows: list[list[int]]) -> list[str]:
    """Texts of rows: the one place that turns token ids into text."""
    decoder: Any = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if getattr(decoder, "cleanup", False):  # WordPiece's own
        decoder.cleanup = False
    # an empty batch would decode to one empty text
    return tokenizer.batch_decode(rows, clean_up_tokenization_spaces=False) if rows else []


def _by_parts(tokenizer: PreTrainedTokenizerBase, row: list[int], whole: dict[int, str]) -> str:
    """Text of a row in which some tokens have a text of their own."""
    before = _anchor(tokenizer)
    cut = len(_decode(tokenizer, [before])[0])
    text = ""
    for is_whole, part in groupby(row, key=whole.__contains__):
        if is_whole:
            text += "".join(whole[i] for i in part)
        elif text:  # SentencePiece drops the first space of what it decodes
            text += _decode(tokenizer, [[*before, *part]])[0][cut:]
        else:
            text = _decode(tokenizer, [list(part)])[0]
    return text


def _anchor(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """A token to decode before others, so that the next one is inside a text; at most one."""
    added = tokenizer.added_tokens_decoder
    letters = (i for i in map(functools.partial(_id_of, tokenizer), "aeox.0") if i is not None)
    found = next((i for i in letters if i not in added), None)
    if found is None:  # a vocabulary of whole words, whose first blank a decoder may drop
        words = {i: name.lstrip(_BLANK) for name, i in tokenizer.get_vocab().items()}
        plain = (i for i, word in words.items() if word.isascii() and word.isalnum())
        found = min((i for i in plain if i not in added), default=None)
    return [] if found is None else [found]


def _id_of(tokenizer: PreTrainedTokenizerBase, name: str) -> int | None:
    """Id of a token of the vocabulary; None for a name that is none."""
    i: Any = tokenizer.convert_tokens_to_ids(name)
    return i if i is not None and tokenizer.convert_ids_to_tokens(i) == name else None


def _named(tokenizer: PreTrainedTokenizerBase, i: int, text: str) -> str:
    """The text of a token that was not added, or its bytes where the text is not its own."""
    name: Any = tokenizer.convert_ids_to_tokens(i) if text else None
    if name is None:
        return text
    byte = _BYTE.fullmatch(name)
    if byte and text != name:
        own = text != BROKEN and _id_of(tokenizer, text) is None
        return text if own else f"\\x{byte[1].lower()}"
    if BROKEN not in text or not set(name) <= _bytes_of_characters().keys():
        return text
    content = bytes(_bytes_of_characters()[char] for char in name)
    return content.decode(errors="backslashreplace")


@functools.cache
def _bytes_of_characters() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {char: byte for byte, char in bytes_to_unicode().items()}
