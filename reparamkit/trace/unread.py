"""unread: what only a rewritten part of a graph had read, sizes and constants in a larger shape."""

from __future__ import annotations

import operator

from torch import fx

from reparamkit.nodes.names import name_of

_MADE = frozenset("expand broadcast_to repeat to type_as new_zeros new_ones zeros ones floordiv stack unbind".split())


def erase_unread(graph: fx.Graph) -> None:
    """Erase sizes, and tensors made of sizes and constants, that nobody reads."""
    for node in reversed(list(graph.nodes)):
        if not node.users and any(kind(node) for kind in (_is_stored, is_size, _is_kind, _is_item, _is_made)):
            graph.erase_node(node)


def is_size(node: fx.Node) -> bool:
    """Whether the node is all sizes of a value."""
    if node.op == "call_function":
        return bool(node.target is getattr and node.args[1] == "shape")
    return node.op == "call_method" and node.target == "size"


def _is_stored(node: fx.Node) -> bool:
    return node.op == "get_attr"


def _is_kind(node: fx.Node) -> bool:
    return node.target is getattr and node.args[1] in ("dtype", "device")


def _is_item(node: fx.Node) -> bool:
    whole = node.args[0] if node.target is operator.getitem else None
    return isinstance(whole, fx.Node) and (is_size(whole) or _is_item(whole))


def _is_made(node: fx.Node) -> bool:
    return node.op in ("call_function", "call_method") and name_of(node.target) in _MADE
