"""A set of token types and the selector that chose it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rockstudy.store.fingerprints import fingerprint


@dataclass(frozen=True)
class TokenSet:
    """A named set of token types, with the selector that chose it."""

    name: str  # for tables and figures
    ids: tuple[int, ...]  # sorted and unique
    selector: Mapping[str, Any]  # its name and parameters as plain values

    def __post_init__(self) -> None:
        """Refuse ids that are not sorted and unique."""
        if list(self.ids) != sorted(set(self.ids)):
            raise ValueError("ids: must be sorted and unique")

    @classmethod
    def of(cls, name: str, ids: Sequence[int] | np.ndarray, **selector: Any) -> TokenSet:
        """Make a set from ids in any order."""
        return cls(name, tuple(sorted({int(i) for i in ids})), selector)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with the ids or the selector."""
        return fingerprint({"ids": list(self.ids), "selector": dict(self.selector)})

    def jaccard(self, other: TokenSet) -> float:
        """Share of the ids of either set that are in both; NaN where both are empty."""
        return jaccard(self.ids, other.ids)

    def mask(self, token_ids: np.ndarray) -> np.ndarray:
        """Where token ids of any shape are in the set, bool."""
        return np.isin(token_ids, self.ids)


def jaccard(first: Sequence[int] | np.ndarray, second: Sequence[int] | np.ndarray) -> float:
    """Size of the intersection over size of the union; NaN where both are empty."""
    a, b = set(map(int, first)), set(map(int, second))
    return len(a & b) / len(a | b) if a or b else float("nan")
