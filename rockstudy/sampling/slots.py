"""Writing a tree of completions (`branching`) with one forward pass a step, by forking the cache.

Every row of the batch has a slot of the key-value cache and its own length: a slot that becomes
free is filled at once, a child starts from a copy of its parent's keys and values, and what the
texts themselves hold is read once for all nodes that continue a text. So nothing is read twice and
the batch stays full, whatever the lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from rockstudy.errors import StudyError
from rockstudy.sampling.branching import Node, Tree
from rockstudy.sampling.decoding import Chooser

READ = 8  # ours: texts that are read together
BITS = 62  # members in a word


def forks(model: PreTrainedModel) -> bool:
    """Whether all layers look back alike, at plain keys and values, which can be cut anywhere."""
    kinds = {(type(layer), _window(layer)) for layer in DynamicCache(config=model.config).layers}
    plain = len(kinds) == 1 and kinds.pop()[0] in (DynamicLayer, DynamicSlidingWindowLayer)
    return plain and "position_ids" in signature(model.forward).parameters


def _window(layer: Any) -> int | None:
    return getattr(layer, "sliding_window", None)


def write(
    model: PreTrainedModel,  # in evaluation mode; call under torch.no_grad
    tree: Tree,
    texts: Sequence[tuple[Sequence[int], np.ndarray]],  # prompt and completion, ids of each text
    uniforms: Callable[[Node, int], np.ndarray],  # of a node, so many float64 in [0, 1)
    choose: Chooser,
    ends: Sequence[int],
    limit: int,  # tokens of a completion
    batch_size: int,  # slots that are filled from the texts; children come on top of them
) -> None:
    """Write every completion of the tree, whose leaves then hold them.

    `StudyError`: logits with NaN or infinity, or a row with every token banned.
    """
    longest = max((len(prompt) for prompt, _ in texts), default=0)
    slots = _Slots(model, tree, uniforms, longest, limit)
    waiting = _read(model, tree, texts)
    more = True
    while more or slots.nodes:
        while more and len(slots.nodes) < batch_size:
            if (one := next(waiting, None)) is None:
                more = False
            else:
                slots.take(*one)
        if slots.nodes:
            slots.step(choose, np.asarray(ends))


def _read(
    model: PreTrainedModel, tree: Tree, texts: Sequence[tuple[Sequence[int], np.ndarray]]
) -> Iterator[tuple[list[Node], list[tuple[Tensor, Tensor]], int, np.ndarray]]:
    """Roots of each text, its keys and values by layer, the prompt's length, and all its ids."""
    rooted = [(tree.roots(i, ids), prompt, ids) for i, (prompt, ids) in enumerate(texts)]
    rooted = sorted((one for one in rooted if one[0]), key=lambda one: len(one[1]) + len(one[2]))
    for first in range(0, len(rooted), READ):
        some = rooted[first : first + READ]
        whole = [np.concatenate([np.asarray(prompt, np.int64), ids]) for _, prompt, ids in some]
        padded = torch.zeros(len(some), max(map(len, whole)), dtype=torch.long)
        for row, ids in zip(padded, whole, strict=True):  # no token looks at the padding after it
            row[: len(ids)] = torch.from_numpy(ids)
        cache, given = DynamicCache(), padded.to(model.device)  # windows drop nothing in it
        model(input_ids=given, past_key_values=cache, use_cache=True, logits_to_keep=1)
        for row, ((roots, prompt, _), ids) in enumerate(zip(some, whole, strict=True)):
            states: Any = [(layer.keys[row], layer.values[row]) for layer in cache.layers]
            yield roots, states, len(prompt), ids


class _Layer(DynamicLayer):
    """Keys and values of all slots, (slots, heads, columns, size), each with its own length.

    Position i stands in column i modulo their number, so that a window overwrites what it no longer
    sees; positions are in the keys, and their order does not matter.
    """

    keys: Tensor
    values: Tensor

    def begin(self, at: Tensor, width: int) -> None:
        """Write position ``at[i]`` of slot i next; look at `width` columns."""
        self.at, self.width = at % self.keys.shape[2], width
        self.rows = torch.arange(len(at), device=at.device)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        n = len(key_states)
        self.keys[self.rows, :, self.at] = key_states[:, :, 0]
        self.values[self.rows, :, self.at] = value_states[:, :, 0]
        return self.keys[:n, :, : self.width], self.values[:n, :, : self.width]

    def get_seq_length(self) -> int:
        return self.width - 1

    def resize(self, slots: int) -> None:
        """Have room for so many."""
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_zeros(slots, *old.shape[1:])
            new[: len(old)] = old
            setattr(self, name, new)

    def fill(self, into: slice, states: tuple[Tensor, Tensor], where: Tensor) -> None:
        """Put positions `where`, int (slots, columns), of a text into the first columns."""
        for buffer, state in zip((self.keys, self.values), states, strict=True):
            buffer[into, :, : where.shape[1]] = state[:, where].transpose(0, 1)

    def copy(self, into: Any, out_of: Any, columns: int) -> None:
        """Copy the first columns of some slots into others."""
        self.keys[into, :, :columns] = self.keys[out_of, :, :columns]
        self.values[into, :, :columns] = self.values[out_of, :, :columns]


class _Slots:
    """The nodes that are being written, the first slots of the buffers in their order."""

    def __init__(
        self,
        model: PreTrainedModel,
        tree: Tree,
        uniforms: Callable[[Node, int], np.ndarray],
        longest: int,
        limit: int,
    ) -> None:
        self.model, self.tree, self.uniforms, self.limit = model, tree, uniforms, limit
        self.cache, self.nodes = DynamicCache(), list[Node]()
        window = _window(DynamicCache(config=model.config).layers[0])
        self.columns = longest + limit if window is None else min(window, longest + limit)
        self.words = len(tree.policies) // BITS + 1
        self.holding = np.zeros((model.get_input_embeddings().weight.shape[0], self.words), int)
        for token, members in tree.holding.items():
            self.holding[token] = _words(members, self.words)
        self.state = {  # by slot
            "alive": np.zeros((0, self.words), np.int64),  # members
            "token": np.zeros(0, np.int64),  # the last one, which is read next
            "at": np.zeros(0, np.int64),  # its position
            "column": np.zeros(0, np.int64),  # of the completion, to be written
            "u": np.zeros((0, limit)),
            "written": np.zeros((0, limit), np.int32),
            "banned": np.full((0, 1), -1, np.int64),
        }

    def take(
        self, roots: list[Node], states: list[tuple[Tensor, Tensor]], prompt: int, ids: np.ndarray
    ) -> None:
        """Let the roots of a text begin."""
        if not self.cache.layers:
            self.cache.layers = [_empty(*state, self.columns) for state in states]  # type: ignore[assignment]
        at = np.array([prompt + len(node.kept) - 1 for node in roots])
        new = self._begin(roots, at)
        self.state["token"][new] = ids[at]
        before, columns = at[:, None] - 1, np.arange(min(int(at.max()), self.columns))
        where = np.maximum(before - (before - columns) % self.columns, 0)  # (slots, columns)
        for layer, state in zip(self.cache.layers, states, strict=True):
            layer.fill(new, state, torch.from_numpy(where).to(self.model.device))  # type: ignore[operator]

    def step(self, choose: Chooser, ends: np.ndarray) -> None:
        """Draw a token in every slot; members that ban it leave, and whole completions too.

        Those that leave draw again from the same logits, until nobody leaves.
        """
        logits, gone = self._logits(), []
        first, source = 0, np.arange(len(self.nodes))  # of slots that draw, and rows of the logits
        while len(source):
            children, parents, free = self._draw(logits[source], first, choose, ends)
            gone.append(free)
            new = self._begin(children, self.state["at"][parents] - 1)
            self._copy(torch.arange(new.start, new.stop), torch.from_numpy(parents))
            first, source = new.start, source[parents - first]
        self._leave(np.concatenate(gone))

    def _logits(self) -> Tensor:
        """Read the last token of every slot: (n, V)."""
        n, device = len(self.nodes), self.model.device
        at = torch.from_numpy(self.state["at"][:n]).to(device)
        width = min(int(at.max()) + 1, self.columns)
        for layer in self.cache.layers:
            layer.begin(at, width)  # type: ignore[operator]
        mask = torch.zeros(n, width, dtype=self.model.dtype, device=device)
        unseen = torch.arange(width, device=device) > at[:, None]
        mask.masked_fill_(unseen, torch.finfo(self.model.dtype).min)
        return self.model(
            input_ids=torch.from_numpy(self.state["token"][:n, None]).to(device),
            attention_mask=mask[:, None, None],
            position_ids=at[:, None],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]

    def _draw(
        self, logits: Tensor, first: int, choose: Chooser, ends: np.ndarray
    ) -> tuple[list[Node], np.ndarray, np.ndarray]:
        """Draw in the slots from `first` on.

        Returns the nodes of those who leave, their parents' slots, and the slots that are free.
        """
        of, slots = self.state, slice(first, len(self.nodes))
        column, banned = of["column"][slots], of["banned"][slots]
        row, place = (banned >= 0).nonzero()
        logits[row, banned[row, place]] = -torch.inf
        u = torch.from_numpy(of["u"][slots][np.arange(len(column)), column]).to(logits.device)
        drawn, usable = choose(logits, u)
        if not bool(usable.all()):
            raise StudyError("logits: must be finite; the model gave NaN or infinity")
        token = drawn.cpu().numpy()
        met = of["alive"][slots] & self.holding[token]
        of["alive"][slots] &= ~met
        over = np.isin(token, ends) | (column + 1 == self.limit)
        children, parents = [], first + np.flatnonzero(met.any(1))
        for i in parents:
            so_far = of["written"][i, : of["column"][i]]
            children.append(self.tree.meet(self.nodes[i], so_far, int(token[i - first])))
        of["token"][slots] = of["written"][slots][np.arange(len(column)), column] = token
        for i in first + np.flatnonzero(over):
            if self.nodes[i].members:
                self.tree.end(self.nodes[i], of["written"][i, : of["column"][i] + 1].copy())
        of["column"][slots] += 1
        of["at"][slots] += 1
        return children, parents, first + np.flatnonzero(over | ~of["alive"][slots].any(1))

    def _copy(self, into: Tensor, out_of: Tensor) -> None:
        """Copy what some slots have read into others."""
        if len(into):
            read = int(self.state["at"][out_of.numpy()].max())
            for layer in self.cache.layers:
                layer.copy(into, out_of, min(read, self.columns))  # type: ignore[operator]

    def _begin(self, nodes: list[Node], at: np.ndarray) -> slice:
        """Let nodes whose last token has the position `at` have the next slots."""
        new = slice(len(self.nodes), len(self.nodes) + len(nodes))
        self.nodes += nodes
        self._room(new.stop, max((len(node.banned) for node in nodes), default=0))
        of = self.state
        of["at"][new] = at
        for i, node in enumerate(nodes, new.start):
            start = len(node.kept)
            of["alive"][i], of["column"][i] = _words(node.members, self.words), start
            of["written"][i, :start] = node.kept
            of["u"][i, start:] = self.uniforms(node, self.limit - start)
            of["banned"][i] = -1
            of["banned"][i, : len(node.banned)] = node.banned
        return new

    def _leave(self, gone: np.ndarray) -> None:
        """Free slots, and move the last ones into them."""
        left = len(self.nodes) - len(gone)
        holes = np.sort(gone[gone < left])
        staying = np.setdiff1d(np.arange(left, len(self.nodes)), gone)
        self._copy(torch.from_numpy(holes), torch.from_numpy(staying))
        for values in self.state.values():
            values[holes] = values[staying]
        for hole, i in zip(holes, staying, strict=True):
            self.nodes[hole] = self.nodes[i]
        del self.nodes[left:]

    def _room(self, slots: int, banned: int) -> None:
        """Have buffers for so many slots, and for as many ids that one bans."""
        if (missing := banned - self.state["banned"].shape[1]) > 0:
            wider = np.pad(self.state["banned"], ((0, 0), (0, missing)), constant_values=-1)
            self.state["banned"] = wider
        have = len(self.state["at"])
        if slots > have:
            more = slots + slots // 2
            for name, values in self.state.items():
                new = np.zeros((more, *values.shape[1:]), values.dtype)
                new[:have] = values
                self.state[name] = new
            for layer in self.cache.layers:
                layer.resize(more)  # type: ignore[operator]


def _empty(keys: Tensor, values: Tensor, columns: int) -> _Layer:
    """A layer without slots for keys and values like these, (heads, positions, size)."""
    layer = _Layer()
    layer.lazy_initialization(keys[None], values[None])
    layer.keys, layer.values = (
        state.new_zeros(0, len(state), columns, state.shape[-1]) for state in (keys, values)
    )
    return layer


def _words(members: int, n: int) -> list[int]:
    return [members >> BITS * word & (1 << BITS) - 1 for word in range(n)]
