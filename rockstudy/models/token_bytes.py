"""The bytes of single tokens, and the vocabulary that gives their ids a meaning.

A set of token ids is worth nothing with another tokenizer. What leaves the study therefore has the
hash of the vocabulary beside the ids. Added tokens are no part of it, since people add a padding
token, or the tokens of a chat template, to a tokenizer whose other ids stay as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rockstudy.store.fingerprints import fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # a byte of SentencePiece's vocabularies
_BLANK = "\u2581"  # SentencePiece's own blank


def vocabulary_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """16 hex digits of the SHA-256 of all tokens and their ids, without the added ones."""
    added = tokenizer.added_tokens_decoder
    return fingerprint(sorted((i, t) for t, i in tokenizer.get_vocab().items() if i not in added))


def token_names(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str | None]:
    """The tokenizer's own spelling of each id; None past the end of its vocabulary."""
    names: Any = tokenizer.convert_ids_to_tokens([int(i) for i in ids])
    return names


def token_bytes(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[bytes | None]:
    """The bytes that each token adds to a running text.

    They are known for byte-level vocabularies, for SentencePiece's, and for added tokens. None
    elsewhere: WordPiece, for one, decides about blanks only when it decodes.
    """
    kinds, added = set(_decoders(tokenizer)), tokenizer.added_tokens_decoder
    if "ByteLevel" in kinds:
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        of_char = {char: byte for byte, char in bytes_to_unicode().items()}
    else:
        of_char = {}

    def one(i: int, name: str | None) -> bytes | None:
        if i in added:
            return added[i].content.encode()
        if name is None:
            return None
        if of_char:
            return bytes(of_char[c] for c in name) if set(name) <= of_char.keys() else None
        if kinds.isdisjoint(("ByteFallback", "Metaspace")):
            return None
        byte = _BYTE.fullmatch(name)
        return bytes([int(byte[1], 16)]) if byte else name.replace(_BLANK, " ").encode()

    return [one(int(i), name) for i, name in zip(ids, token_names(tokenizer, ids), strict=True)]


def _decoders(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Kinds of the decoders of a fast tokenizer, those in a sequence too."""
    decoder: Any = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    waiting = [] if decoder is None else [json.loads(decoder.__getstate__())]
    while waiting:
        one = waiting.pop()
        yield one["type"]
        waiting += one.get("decoders", [])
