"""Values that are stacked and taken apart again, ``for y in torch.stack(found)``: themselves.

What is taken out is a copy. The original may stand for it only where nobody could tell them apart by what is changed in
place: where the graph has no such operation, or nobody but the stack reads the original.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Container

from torch import fx

from reparamkit.nodes.inplace import mutates
from reparamkit.nodes.parts import entries_stacked
from reparamkit.trace.unread import erase_unread


def write_unstacked(graph: fx.Graph, changes: Callable[[fx.Node], bool], kept: Container[fx.Node]) -> None:
    """Let readers of an entry of a stack read what was stacked; the graph is changed.

    Args:
        graph: of a traced forward.
        changes: whether a call of a module may change its input in place.
        kept: nodes whose values the forward leaves somewhere.
    """
    items = [node for node in graph.nodes if node.target is operator.getitem and type(node.args[1]) is int]
    picks = [(node, entries_stacked(node.args[0])) for node in items if node not in kept]
    found = [(pick, entries) for pick, entries in picks if entries is not None]
    if not found:
        return
    still = not any(changes(node) if node.op == "call_module" else mutates(node) for node in graph.nodes)
    for pick, entries in found:
        index = pick.args[1]
        assert isinstance(index, int)
        if -len(entries) <= index < len(entries) and (still or len(entries[index].users) == 1):
            pick.replace_all_uses_with(entries[index])
            graph.erase_node(pick)
    erase_unread(graph)
