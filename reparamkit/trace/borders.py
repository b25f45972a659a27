"""borders: padding with one value a channel, written in ways that are no padding to look at.

torch pads with one number for all channels. Who needs one a channel pads with zeros and writes the strips by item
assignment (DBB's ``BNAndPadLayer``, ECBSR), or joins strips of the value to the sides (DyRep). In a traced graph both
become one call of `bordered`, which does the same.

Conditions, all of them or nothing is replaced: every side that was padded is overwritten, over its whole length and no
further, with one and the same value; the value is constant, one a channel; nobody reads the padded tensor before
the last strip is written.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from reparamkit.trace.strips import strip_of
from reparamkit.trace.unread import erase_unread

Sides = list[tuple[int, int]]


def bordered(x: Tensor, pads: list[int], value: Tensor) -> Tensor:
    """`x` ``[N, C, *spatial]`` padded with `value`, one number a channel.

    Args:
        x: the input.
        pads: (before, after) of each axis, the last axis first, as `torch.nn.functional.pad` takes them.
        value: of C numbers, in any shape that broadcasts to the channels of `x`.
    """
    shift = value.reshape(1, -1, *[1] * (x.ndim - 2))
    inside = F.pad(torch.ones_like(x[:1, :1]), pads)
    return torch.where(inside == 1, F.pad(x, pads), shift)


def write_borders(graph: fx.Graph, constants: dict[str, Tensor], parameters: Mapping[str, Any]) -> None:
    """Replace every such border in `graph` by a call of `bordered`, in place.

    Args:
        graph: a traced forward.
        constants: tensors computed from parameters, by the name of their ``get_attr`` node; values of joined strips
            are added.
        parameters: the module's own tensors, by the name of theirs.
    """
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target is F.pad:
            _assigned(graph, node)
        elif node.target in (torch.cat, torch.concat, torch.concatenate):
            _joined(graph, node, {**parameters, **constants}, constants)


def _assigned(graph: fx.Graph, padded: fx.Node) -> None:
    """Zero padding whose border is overwritten."""
    pads = _argument(padded, 1, "pad")
    if not _amounts(pads) or _argument(padded, 2, "mode", "constant") != "constant":
        return
    users = sorted(padded.users, key=list(graph.nodes).index)
    writes = list(takewhile(lambda n: n.target is operator.setitem and n.args[0] is padded, users))
    if not writes or any(n.users for n in writes):
        return
    index = writes[0].args[1]
    pads = [*pads, *[0] * (2 * (len(index) - 2) - len(pads))] if isinstance(index, tuple) else pads
    sides: Sides = [(pads[i], pads[i + 1]) for i in range(0, len(pads), 2)][::-1]
    wanted = {(axis, end) for axis, pair in enumerate(sides) for end in (0, 1) if pair[end]}
    if {_side(node.args[1], sides) for node in writes} != wanted:
        return
    values: list[Any] = [node.args[2] for node in writes]
    if not all(isinstance(v, fx.Node) and (v.op, v.target) == ("get_attr", values[0].target) for v in values):
        return
    with graph.inserting_after(writes[-1]):
        made = graph.call_function(bordered, (padded.args[0], pads, values[-1]))
    padded.replace_all_uses_with(made, delete_user_cb=lambda user: user not in writes)
    for node in (*reversed(writes), padded):
        graph.erase_node(node)


def _amounts(pads: Any) -> bool:
    known = isinstance(pads, (list, tuple)) and len(pads) > 0 and all(isinstance(p, int) for p in pads)
    return known and min(pads) >= 0 and max(pads) > 0


def _argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _side(index: Any, sides: Sides) -> tuple[int, int] | None:
    """Which side ``(spatial axis, 0 before or 1 after)`` an index writes, exactly as wide as it was padded."""
    parts = index if isinstance(index, tuple) else (index,)
    if len(parts) != len(sides) + 2 or not all(isinstance(p, slice) and p.step in (None, 1) for p in parts):
        return None
    bounded = [axis for axis, part in enumerate(parts) if (part.start, part.stop) not in ((None, None), (0, None))]
    if len(bounded) != 1 or bounded[0] < 2:
        return None
    axis, part = bounded[0] - 2, parts[bounded[0]]
    before, after = sides[axis]
    if before and part.start in (None, 0) and part.stop == before:
        return axis, 0
    return (axis, 1) if after and (part.start, part.stop) == (-after, None) else None


def _joined(graph: fx.Graph, joined: fx.Node, tensors: Mapping[str, Any], constants: dict[str, Tensor]) -> None:
    """Strips of constants on either side of one value, along a spatial axis."""
    parts, dim = _argument(joined, 0, "tensors"), _argument(joined, 1, "dim", 0)
    if not isinstance(parts, (list, tuple)) or not isinstance(dim, int):
        return
    strips = [strip_of(part, tensors) for part in parts]
    inner = [i for i, strip in enumerate(strips) if strip is None]
    if len(inner) != 1 or len(parts) == 1 or not isinstance(parts[inner[0]], fx.Node):
        return
    outer = [(i, s) for i, s in enumerate(strips) if s is not None]
    first = outer[0][1]
    rank, axis = len(first.sizes), dim % len(first.sizes)
    if axis < 2 or any(not s.is_alike(first) or s.sizes[axis] is None for _, s in outer):
        return
    width = [sum(s.sizes[axis] or 0 for i, s in outer if (i > inner[0]) == end) for end in (False, True)]
    pads = [*[0] * (2 * (rank - 1 - axis)), *width, *[0] * (2 * (axis - 2))]
    with graph.inserting_before(joined):
        made = _padding(graph, parts[inner[0]], pads, first.value, constants)
    joined.replace_all_uses_with(made)
    graph.erase_node(joined)
    erase_unread(graph)


def _padding(
    graph: fx.Graph, node: fx.Node, pads: list[int], value: Tensor | float, constants: dict[str, Tensor]
) -> fx.Node:
    """A call that pads what `node` gives with `value`."""
    if not isinstance(value, Tensor):
        return graph.call_function(F.pad, (node, pads, "constant", value))
    name = f"_constant_{len(constants)}"
    constants[name] = value
    return graph.call_function(bordered, (node, pads, graph.create_node("get_attr", name)))
