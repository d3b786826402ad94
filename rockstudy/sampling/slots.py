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
from rockstudy.sampling.decoding import Chooser, _without

READ = 8  # ours: texts that are read together
GROW = 64  # ours: columns and slots by which the buffers grow
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
    slots = _Slots(model, tree, uniforms, limit)
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
    """Keys and values of all slots, (slots, heads, columns, size), each with its own length."""

    keys: Tensor
    values: Tensor

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        n = len(key_states)
        self.keys[self.rows, :, self.at] = key_states[:, :, 0]
        self.values[self.rows, :, self.at] = value_states[:, :, 0]
        return self.keys[:n, :, : self.width], self.values[:n, :, : self.width]

    def begin(self, at: Tensor, width: int) -> None:
        """Write the next column of slot i at ``at[i]``; look at `width` columns."""
        self.at, self.width = at, width
        self.rows = torch.arange(len(at), device=at.device)

    def get_seq_length(self) -> int:
        return self.width - 1

    def resize(self, slots: int, columns: int) -> None:
        """Have room for so many."""
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_zeros(slots, old.shape[1], columns, old.shape[3])
            new[: old.shape[0], :, : old.shape[2]] = old
            setattr(self, name, new)

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
        limit: int,
    ) -> None:
        self.model, self.tree, self.uniforms, self.limit = model, tree, uniforms, limit
        self.cache = DynamicCache()
        self.window = _window(DynamicCache(config=model.config).layers[0])
        self.nodes: list[Node] = []
        words = len(tree.policies) // BITS + 1
        self.holding = np.zeros((model.get_input_embeddings().weight.shape[0], words), np.int64)
        for token, members in tree.holding.items():
            self.holding[token] = _words(members, words)
        self.state = {  # by slot
            "alive": np.zeros((0, words), np.int64),
            "token": np.zeros(0, np.int64),  # the last one, which is read next
            "at": np.zeros(0, np.int64),  # its column in the cache
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
            self.cache.layers = [_of(keys, values) for keys, values in states]  # type: ignore[assignment]
        at = np.array([prompt + len(node.kept) - 1 for node in roots])
        new = slice(len(self.nodes), len(self.nodes) + len(roots))
        self._room(new.stop, int(at.max()) + 1)
        for layer, (keys, values) in zip(self.cache.layers, states, strict=True):
            layer.keys[new, :, : at.max()] = keys[:, : at.max()]  # type: ignore[index]
            layer.values[new, :, : at.max()] = values[:, : at.max()]  # type: ignore[index]
        self._begin(roots, at, ids[at])

    @torch.no_grad()
    def step(self, choose: Chooser, ends: np.ndarray) -> None:
        """Draw a token in every slot; members that ban it leave, and whole completions too."""
        n, device, of = len(self.nodes), self.model.device, self.state
        rows, column, at = np.arange(n), of["column"][:n], of["at"][:n]
        width = int(at.max()) + 1
        self._room(n, width)
        put = torch.from_numpy(at).to(device)
        for layer in self.cache.layers:
            layer.begin(put, width)  # type: ignore[operator]
        logits = self.model(
            input_ids=torch.from_numpy(of["token"][:n, None]).to(device),
            attention_mask=self._mask(put, width),
            position_ids=put[:, None],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        banned = torch.from_numpy(of["banned"][:n]).to(device)
        u = torch.from_numpy(of["u"][rows, column]).to(device)
        drawn, usable = choose(_without(logits, banned), u)
        if not bool(usable.all()):
            raise StudyError("logits: must be finite; the model gave NaN or infinity")
        token = drawn.cpu().numpy()
        before = of["token"][:n].copy()
        of["written"][rows, column] = of["token"][:n] = token
        met = of["alive"][:n] & self.holding[token]
        of["alive"][:n] &= ~met
        leaving = met.any(1)
        over = np.isin(token, ends) | (column + 1 == self.limit)
        gone = over | ~of["alive"][:n].any(1)
        children, parents = [], []
        for i in np.flatnonzero(leaving):
            child = self.tree.meet(self.nodes[i], of["written"][i, : column[i]], int(token[i]))
            assert child is not None
            children.append(child)
            parents.append(i)
        for i in np.flatnonzero(over):
            if self.nodes[i].members:
                self.tree.end(self.nodes[i], of["written"][i, : column[i] + 1].copy())
        of["column"][:n] += 1
        if children:
            self._fork(children, np.array(parents), before)
        of["at"][:n] += 1
        self._leave(np.flatnonzero(gone))

    def _mask(self, at: Tensor, width: int) -> Tensor:
        """What each slot sees, (n, 1, 1, width): added to the scores."""
        columns = torch.arange(width, device=at.device)
        seen = columns <= at[:, None]
        if self.window is not None:
            seen &= columns > at[:, None] - self.window
        hidden = torch.finfo(self.model.dtype).min
        mask = torch.zeros(seen.shape, dtype=self.model.dtype, device=at.device)
        return mask.masked_fill_(~seen, hidden)[:, None, None]

    def _fork(self, children: list[Node], parents: np.ndarray, before: np.ndarray) -> None:
        """Let children begin with what their parents have read, but for the last token."""
        new, at = slice(len(self.nodes), len(self.nodes) + len(children)), self.state["at"][parents]
        self._room(new.stop, 0)
        for layer in self.cache.layers:
            layer.copy(new, torch.from_numpy(parents), int(at.max()))  # type: ignore[operator]
        self._begin(children, at, before[parents])

    def _begin(self, nodes: list[Node], at: np.ndarray, token: np.ndarray) -> None:
        """Fill the next slots."""
        of, first, words = self.state, len(self.nodes), self.holding.shape[1]
        self.nodes += nodes
        widest = max(len(node.banned) for node in nodes)
        if (missing := widest - of["banned"].shape[1]) > 0:
            of["banned"] = np.pad(of["banned"], ((0, 0), (0, missing)), constant_values=-1)
        of["at"][first : len(self.nodes)], of["token"][first : len(self.nodes)] = at, token
        for i, node in enumerate(nodes, first):
            start = len(node.kept)
            of["alive"][i], of["column"][i] = _words(node.members, words), start
            of["written"][i, :start] = node.kept
            of["u"][i, start:] = self.uniforms(node, self.limit - start)
            of["banned"][i] = -1
            of["banned"][i, : len(node.banned)] = node.banned

    def _leave(self, gone: np.ndarray) -> None:
        """Free slots, and move the last ones into them."""
        left = len(self.nodes) - len(gone)
        staying = np.setdiff1d(np.arange(left, len(self.nodes)), gone)
        holes = gone[gone < left]
        if len(holes):
            into, out_of = torch.from_numpy(holes), torch.from_numpy(staying)
            for layer in self.cache.layers:
                columns = int(self.state["at"][staying].max())
                layer.copy(into, out_of, columns)  # type: ignore[operator]
            for values in self.state.values():
                values[holes] = values[staying]
            for hole, i in zip(holes, staying, strict=True):
                self.nodes[hole] = self.nodes[i]
        del self.nodes[left:]

    def _room(self, slots: int, columns: int) -> None:
        """Have buffers for so many slots and columns."""
        have, wide = self.cache.layers[0].keys.shape[0], self.cache.layers[0].keys.shape[2]  # type: ignore[union-attr]
        if slots > have or columns > wide:
            more = have if slots <= have else slots + GROW
            for layer in self.cache.layers:
                layer.resize(more, wide if columns <= wide else columns + GROW)  # type: ignore[operator]
        for name, values in self.state.items():
            if slots > len(values):
                new = np.zeros((slots + GROW, *values.shape[1:]), values.dtype)
                new[: len(values)] = values
                self.state[name] = new


def _of(keys: Tensor, values: Tensor) -> _Layer:
    """A layer without slots for keys and values like these, (heads, columns, size)."""
    layer = _Layer()
    layer.lazy_initialization(keys[None], values[None])
    layer.keys, layer.values = keys[None, :, :0][:0], values[None, :, :0][:0]
    layer.width = 0
    return layer


def _words(members: int, n: int) -> list[int]:
    return [members >> BITS * word & (1 << BITS) - 1 for word in range(n)]
