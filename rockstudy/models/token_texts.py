"""Texts of single tokens, and text with visible white space."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from transformers import PreTrainedTokenizerBase
_SHOWN = {" ": "␣", "\n": "⏎", "\t": "⇥"}


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: ArrayLike) -> list[str]:
    """Text of each token on its own, with its leading space; special tokens by name.

    Parameters
    ----------
    tokenizer
        A byte-level BPE, such as the lab's, SmolLM2's or Qwen3's. Other tokenizers may lose the
        leading space of a token that is decoded alone.
    ids
        Token ids (U,).

    Notes
    -----
    A token with part of a character decodes to U+FFFD, so several ids share that text. An id past
    the end of the vocabulary, as in padded embeddings, gives an empty text.
    """
    rows = np.asarray(ids, dtype=np.int64).reshape(-1, 1).tolist()
    if not rows:  # an empty batch would decode to one empty text
        return []
    return list(
        tokenizer.batch_decode(rows, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    )


def visible(text: str) -> str:
    r"""Show blanks as ``␣ ⏎ ⇥`` and other characters that do not print as escapes.

    A backslash in the text stays single, so that ``\n`` as two characters reads like LaTeX. Nothing
    is escaped for HTML.
    """
    return "".join(
        _SHOWN.get(char) or (char if _prints(char) else char.encode("unicode_escape").decode())
        for char in text
    )


def _prints(char: str) -> bool:
    return char.isprintable() and char != "\ufffd"


def _is_broken(char: str) -> bool:
    return char == "\ufffd" or (unicodedata.category(char) == "Cc" and char not in "\t\n\r")


def _is_sign(char: str) -> bool:
    return unicodedata.category(char)[0] in "PS"
