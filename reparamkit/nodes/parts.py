"""parts: how many values an iteration gives, and which."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from torch import fx

from reparamkit.nodes.names import name_of
from reparamkit.nodes.shapes import is_shape

_MAX_PARTS = 8


def parts_of(node: fx.Node) -> tuple[int | None, bool]:
    """How many parts an iteration over the value has at most, and whether exactly; `None` where nothing tells."""
    name = name_of(node.target)
    wanted = node.args[1] if len(node.args) > 1 else None
    entries = entries_stacked(node)
    if entries is not None:
        return len(entries), True
    if name in ("chunk", "tensor_split", "unsafe_chunk"):
        count = node.kwargs.get("chunks", node.kwargs.get("sections", wanted))
        return (count, False) if type(count) is int and 0 < count <= _MAX_PARTS else (None, False)
    if name in ("split", "split_with_sizes"):
        sizes = node.kwargs.get("split_size_or_sections", node.kwargs.get("split_size", wanted))
        return (len(sizes), True) if isinstance(sizes, (list, tuple)) else (None, False)
    if node.target is operator.getitem and isinstance(wanted, slice) and is_shape(node.args[0]):
        return _sliced(wanted), True
    return None, False


def _sliced(part: slice) -> int | None:
    """Entries of a slice from the front or from the back of a shape that is long enough."""
    if part.step is not None:
        return None
    if type(part.start) is int and part.start < 0 and part.stop is None:
        return -part.start
    return part.stop if part.start is None and type(part.stop) is int and part.stop >= 0 else None


def entries_stacked(node: Any) -> Sequence[fx.Node] | None:
    """What stands side by side along the axis that an iteration over a stack, or over its `unbind`, goes along."""
    if not isinstance(node, fx.Node) or name_of(node.target) not in ("stack", "unbind"):
        return None
    along = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    whole = node.kwargs.get("tensors", node.kwargs.get("input", node.args[0] if node.args else None))
    if name_of(node.target) == "stack":
        return whole if along == 0 and _are_nodes(whole) else None  # type: ignore[return-value]
    if not isinstance(whole, fx.Node) or name_of(whole.target) != "stack":
        return None
    stacked = whole.kwargs.get("tensors", whole.args[0] if whole.args else None)
    same = along == whole.kwargs.get("dim", whole.args[1] if len(whole.args) > 1 else 0)
    return stacked if same and _are_nodes(stacked) else None  # type: ignore[return-value]


def _are_nodes(found: Any) -> bool:
    return isinstance(found, (list, tuple)) and all(isinstance(one, fx.Node) for one in found)


def takes_part(node: fx.Node) -> bool:
    """Whether it takes one part of a value, by number."""
    return node.target is operator.getitem and type(node.args[1]) is int
