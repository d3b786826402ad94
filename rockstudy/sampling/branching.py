"""Completions of many ban policies that share what they write alike.

A policy gives some token ids, its bans B, a logit of minus infinity at every step. A node is a
completion that is being written for several policies at once, its members, with the ids S banned
that they have met so far, all of them in every member's B. A token x that is drawn at a node is
taken by the members that do not ban it. The others leave for a child: the same text up to x, with
S and x banned and random numbers of its own. For each member this is rejection sampling,

    P(u) = p(u) / (1 - p(S)) + p(B - S) / (1 - p(S)) * p(u) / (1 - p(B)) = p(u) / (1 - p(B))

for u outside B (by induction: the child gives the last factor), so that every policy writes exactly
its own distribution, and two of them differ only from the first token on that one bans. A child's
numbers belong to its text and S, which determine it: what a policy writes does not depend on the
other members.

Greedy decoding is the same argument without the probabilities. Truncation (top-p, top-k) breaks it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np


@dataclass
class Node:
    """A completion that is being written, and who goes along; bit c of `members` is policy c."""

    text: int  # that it continues
    kept: np.ndarray  # its tokens so far, int32, a part of which may be the text's own
    banned: tuple[int, ...]  # sorted
    members: int
    since: int  # the first column that is not accounted for

    @property
    def lead(self) -> int:
        """The first of the members, whom tokens are counted for."""
        return (self.members & -self.members).bit_length() - 1


class Leaf(NamedTuple):
    """A whole completion of a text, int32, and the policies that share it."""

    text: int
    members: list[int]
    ids: np.ndarray


@dataclass
class Tree:
    """The nodes of some policies on some texts: who leaves where, what is done, what it took.

    `policies` are the ids that each bans. ``drawn`` and ``lost``, int64 (policies, texts), count
    the tokens that were drawn for the first of a node's members, and those of them that were drawn
    after the last member had left.
    """

    policies: Sequence[Sequence[int]]
    n_texts: int
    left: Callable[[Leaf], Any] = lambda leaf: None
    leaves: list[Leaf] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.drawn = np.zeros((len(self.policies), self.n_texts), np.int64)
        self.lost = np.zeros_like(self.drawn)
        self.holding: dict[int, int] = {}  # members that ban an id
        for place, banned in enumerate(self.policies):
            for token in banned:
                self.holding[token] = self.holding.get(token, 0) | 1 << place

    def roots(self, text: int, ids: np.ndarray) -> list[Node]:
        """Where the policies leave a completion that is written already, int (T,)."""
        node, roots = Node(text, ids[:0], (), (1 << len(self.policies)) - 1, 0), []
        for column in np.flatnonzero(np.isin(ids, list(self.holding))):
            child = self._leave(node, ids[:column], int(ids[column]))
            roots += [] if child is None else [child]
        return roots

    def meet(self, node: Node, ids: np.ndarray, token: int) -> Node | None:
        """Part a node from its members that ban the token drawn after `ids`; their child, if any.

        A node without members is at its end.
        """
        lead, child = node.lead, self._leave(node, ids, token)
        if child is None:
            return None
        if node.lead != lead:  # whoever comes next needs the token
            self._count(lead, node, len(ids))
        return child

    def end(self, node: Node, ids: np.ndarray) -> None:
        """Take a completion that is whole."""
        self._count(node.lead, node, len(ids))
        members = [c for c in range(len(self.policies)) if node.members >> c & 1]
        self.leaves.append(Leaf(node.text, members, ids))
        self.left(self.leaves[-1])

    def _leave(self, node: Node, ids: np.ndarray, token: int) -> Node | None:
        leaving = node.members & self.holding.get(token, 0)
        if not leaving:
            return None
        node.members &= ~leaving
        banned = tuple(sorted((*node.banned, token)))
        return Node(node.text, np.array(ids, np.int32), banned, leaving, len(ids))

    def _count(self, lead: int, node: Node, end: int) -> None:
        self.drawn[lead, node.text] += end - node.since
        node.since = end
