"""A named set of token types."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TokenSet:
    """A set of token types, named for tables and figures."""

    name: str
    ids: tuple[int, ...]  # sorted and unique

    def __post_init__(self) -> None:
        """Refuse ids that are not sorted and unique."""
        if list(self.ids) != sorted(set(self.ids)):
            raise ValueError("ids: must be sorted and unique")

    @classmethod
    def of(cls, name: str, ids: Iterable[int]) -> TokenSet:
        """Make a set from ids in any order."""
        return cls(name, tuple(sorted({int(i) for i in ids})))

    def __len__(self) -> int:
        return len(self.ids)

    def jaccard(self, other: TokenSet) -> float:
        """Share of the ids of either set that are in both; NaN where both are empty."""
        return jaccard(self.ids, other.ids)

    def mask(self, token_ids: np.ndarray) -> np.ndarray:
        """Where token ids of any shape are in the set, bool."""
        return np.isin(token_ids, self.ids)


def jaccard(first: Iterable[int], second: Iterable[int]) -> float:
    """Size of the intersection over size of the union; NaN where both are empty."""
    a, b = set(map(int, first)), set(map(int, second))
    return len(a & b) / len(a | b) if a or b else float("nan")
