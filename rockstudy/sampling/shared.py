"""Writing a tree of completions (`branching`) with any engine.

A transformers model forks its cache (`slots`). Other engines, and models whose layers hold anything
but plain keys and values, write in rounds: all nodes to their ends, then all their children. Both
draw the same distribution, and with a transformers model the same completions up to rounding; in
rounds what a node writes after its last member has left is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rockstudy.models import loading
from rockstudy.sampling import slots
from rockstudy.sampling.branching import Node, Tree
from rockstudy.sampling.decoding import Chooser
from rockstudy.sampling.engines import Engine, Request, TransformersEngine
from rockstudy.store.seeds import generator

Text = tuple[Sequence[int], np.ndarray]  # a prompt, and its completion int (T,)
Stream = Callable[[Node], tuple[int, str, int]]  # of a node's random numbers, as in a `Request`


def write(
    engine: Engine,
    tree: Tree,
    texts: Sequence[Text],
    stream: Stream,
    choose: Chooser,
    ends: Sequence[int],
    limit: int,
) -> None:
    """Write what the tree's policies write in place of the texts; it then holds all leaves.

    `limit` is the number of tokens of a whole completion at most. Errors are those of
    `Engine.complete`.
    """
    if isinstance(engine, TransformersEngine) and slots.forks(engine.model):

        def uniforms(node: Node, n: int) -> np.ndarray:
            return np.zeros(n) if choose.temperature == 0 else generator(*stream(node)).random(n)

        with loading.evaluating(engine.model):
            how = (choose, ends, limit, engine.batch_size)
            slots.write(engine.model, tree, texts, uniforms, *how)
        return

    def complete(nodes: Sequence[Node]) -> list[np.ndarray]:
        rows = []
        for node in nodes:
            ids = [*texts[node.text][0], *node.kept.tolist()]
            rows.append(Request(ids, limit - len(node.kept), stream(node), node.banned))
        return engine.complete(rows, choose, ends, lambda _: None)

    by_rounds(
        tree, [root for i, (_, ids) in enumerate(texts) for root in tree.roots(i, ids)], complete
    )


def by_rounds(
    tree: Tree,
    nodes: Sequence[Node],
    complete: Callable[[Sequence[Node]], Sequence[np.ndarray]],
) -> None:
    """Write the tree by an engine that only completes rows: all nodes, then all their children.

    `complete` writes nodes to their ends. What it writes after the last member has left is lost.
    """
    while nodes:
        children = []
        for node, made in zip(nodes, complete(nodes), strict=True):
            ids = np.concatenate([node.kept, made])
            met = np.isin(made, list(tree.holding)).nonzero()[0] + len(node.kept)
            for column in met:
                lead = node.lead
                child = tree.meet(node, ids[:column], int(ids[column]))
                children += [] if child is None else [child]
                if not node.members:
                    tree.drawn[lead, node.text] += len(ids) - column
                    tree.lost[lead, node.text] += len(ids) - column
                    break
            else:
                tree.end(node, ids)
        nodes = children
