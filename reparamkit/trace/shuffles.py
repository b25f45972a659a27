"""Channel shuffles that are written as a view, a transposition and a view: one call instead.

``x.view(b, g, c // g, h, w).transpose(1, 2).contiguous().view(b, c, h, w)`` (ShuffleNet, Zhang et al., 2018) is
``F.channel_shuffle(x, g)``.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from reparamkit.trace.unread import erase_unread, is_size

_VIEWS = ("view", "reshape", torch.reshape)
_COPIES = ("contiguous", "clone")


def write_shuffles(graph: fx.Graph) -> None:
    """Put calls of `torch.channel_shuffle` where the graph says the same in several steps; the graph is changed."""
    written = False
    for last in list(graph.nodes):
        found = _shuffle(last)
        if found is None:
            continue
        source, groups, steps = found
        with graph.inserting_before(last):
            call = graph.call_function(torch.channel_shuffle, (source, groups))
        last.replace_all_uses_with(call)
        for step in steps:
            graph.erase_node(step)
        written = True
    if written:
        erase_unread(graph)


def _shuffle(last: Any) -> tuple[fx.Node, int, list[fx.Node]] | None:
    """What is shuffled, in how many groups, and the steps that do it, the last first."""
    if not _is(last, _VIEWS):
        return None
    steps: list[Any] = [last, *_back(last.args[0], _COPIES)]
    turned = steps[-1].args[0]
    if not _is_turned(turned) or not _is(turned.args[0], _VIEWS):
        return None
    first = turned.args[0]
    steps += [turned, first]
    source = first.args[0]
    if any(len(step.users) != 1 for step in steps[1:]) or not isinstance(source, fx.Node):
        return None
    split, joined = _sizes(first), _sizes(last)
    if len(split) != len(joined) + 1 or type(split[1]) is not int or split[1] < 2:
        return None
    groups: int = split[1]
    plain = _is_axis(split[0], source, 0) and _is_axis(joined[0], source, 0)
    spatial = all(_is_axis(s, source, k) and _is_axis(joined[k], source, k) for k, s in enumerate(split[3:], start=2))
    parts = _is_part(split[2], source, groups) and _is_whole(joined[1], source, split)
    return (source, groups, steps) if plain and spatial and parts else None


def _is(node: Any, targets: tuple[Any, ...]) -> bool:
    return isinstance(node, fx.Node) and node.op in ("call_method", "call_function") and node.target in targets


def _back(node: Any, targets: tuple[Any, ...]) -> list[fx.Node]:
    found: list[fx.Node] = []
    while _is(node, targets) and len(node.args) == 1 and not node.kwargs:
        found.append(node)
        node = node.args[0]
    return found


def _is_turned(node: Any) -> bool:
    """Whether the node exchanges the axes 1 and 2."""
    if _is(node, ("transpose", "swapaxes", torch.transpose, torch.swapaxes)):
        return sorted(node.args[1:], key=str) == [1, 2] and not node.kwargs
    if not _is(node, ("permute", torch.permute)) or node.kwargs:
        return False
    order = _sizes(node)
    return order[:3] == [0, 2, 1] and order[3:] == list(range(3, len(order)))


def _sizes(node: fx.Node) -> list[Any]:
    rest = node.args[1:]
    return list(rest[0]) if len(rest) == 1 and isinstance(rest[0], (list, tuple)) else list(rest)


def _is_axis(size: Any, source: fx.Node, axis: int) -> bool:
    """Whether `size` is the size of this axis of `source`."""
    if not isinstance(size, fx.Node):
        return False
    args: Any = size.args
    if size.op == "call_method" and size.target == "size":
        return bool(args == (source, axis))
    if size.target is not operator.getitem or args[1] != axis or not isinstance(args[0], fx.Node):
        return False
    whole = args[0]
    return bool(whole.args == ((source, "shape") if whole.target is getattr else (source,))) and is_size(whole)


def _is_part(size: Any, source: fx.Node, groups: int) -> bool:
    """Whether `size` is the number of channels of a group."""
    if not isinstance(size, fx.Node):
        return type(size) is int
    by = size.target is operator.floordiv and size.args[1:] == (groups,)
    return bool(by) and _is_axis(size.args[0], source, 1)


def _is_whole(size: Any, source: fx.Node, split: list[Any]) -> bool:
    """Whether `size` is the number of all channels."""
    if type(size) is not int:
        return _is_axis(size, source, 1)
    return size == -1 or (type(split[2]) is int and split[2] > 0 and size == split[1] * split[2])
