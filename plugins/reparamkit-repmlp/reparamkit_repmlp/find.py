"""Where a block adds a fully-connected layer and convolutions of the same numbers."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from reparamkit import Block

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_ADDS = (operator.add, operator.iadd, torch.add)


@dataclass(frozen=True)
class Way:
    """A layer on the way to a sum, with changes of shape and layers that do nothing around it.

    Attributes:
        layer: its name below the block.
        root: the node in front, changes of shape left out: what the layer reads, in the same order.
        norm: the call of a batch norm behind the layer, if there is one.
        alone: whether nothing else reads what is between the layer and the sum.
    """

    layer: str
    root: fx.Node
    norm: fx.Node | None
    alone: bool


@dataclass(frozen=True)
class Beside:
    """A sum of a fully-connected layer and convolutions of one tensor.

    Attributes:
        total: the sum's node.
        end: its operand that comes from the fully-connected layer.
        fc: the way from that layer.
        convs: names of the convolutions.
    """

    total: fx.Node
    end: fx.Node
    fc: Way
    convs: tuple[str, ...]


def sums(block: Block) -> list[Beside]:
    """Every such sum; whether sizes and groups fit is not looked at."""
    found = []
    for node in block.graph.nodes:
        if not _adds(node):
            continue
        for end, other in (node.args, node.args[::-1]):
            fc = _way(block, end)
            if fc is None or not fc.alone or not _is_dense(block, fc.layer):
                continue
            convs = _convs(block, other, fc.root)
            if convs is not None:
                found.append(Beside(node, end, fc, tuple(convs)))
                break
    return found


def _convs(block: Block, node: Any, root: fx.Node) -> list[str] | None:
    """Names of the convolutions of `root` that add up to a node; `None` when anything else is in it."""
    while _reshapes(node) or _does_nothing(block, node):
        node = node.args[0]
    if isinstance(node, fx.Node) and _adds(node):
        parts = [_convs(block, term, root) for term in node.args if not _is_zero(term)]
        return None if any(part is None for part in parts) else [name for part in parts for name in part or ()]
    way = _way(block, node)
    if way is None or way.root is not root or way.norm is not None:
        return None
    usable = is_conv(block.get(way.layer)) and not _is_dense(block, way.layer)
    return [way.layer] if usable else None


def _adds(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target in _ADDS and len(node.args) == 2 and not node.kwargs


def _is_zero(term: Any) -> bool:
    """What `sum` begins with."""
    return isinstance(term, (int, float)) and term == 0


def is_conv(module: nn.Module) -> bool:
    """Whether it runs as one of torch's convolutions."""
    return any(isinstance(module, c) and type(module).forward is c.forward for c in _CONVS)


def _is_dense(block: Block, name: str) -> bool:
    """Whether the layer reads one number a channel: a linear layer of rows, a 1x1 convolution of one position."""
    module: Any = block.get(name)
    size = block.input_size(name)
    if isinstance(module, nn.Linear):
        return type(module).forward is nn.Linear.forward and (size is None or len(size) == 2)
    if not isinstance(module, nn.Conv2d) or not is_conv(module):
        return False
    simple = module.kernel_size == (1, 1) and module.stride == (1, 1) and module.padding in ((0, 0), "valid", "same")
    return simple and size is not None and size[2:] == (1, 1)


def _way(block: Block, node: Any) -> Way | None:
    norm, alone = None, True
    while isinstance(node, fx.Node):
        alone = alone and len(node.users) == 1
        if _reshapes(node) or _does_nothing(block, node):
            node = node.args[0]
        elif norm is None and _calls(node) and isinstance(block.get(str(node.target)), nn.BatchNorm2d):
            norm, node = node, node.args[0]
        else:
            break
    name = _only_layer(block, str(node.target)) if _calls(node) else None
    return None if name is None else Way(name, _root(block, node.args[0]), norm, alone)


def _root(block: Block, node: fx.Node) -> fx.Node:
    found: Any = node
    while _reshapes(found) or _does_nothing(block, found):
        found = found.args[0]
    return found  # type: ignore[no-any-return]


def _only_layer(block: Block, name: str) -> str | None:
    """The layer that a call of this module is, layers that do nothing aside."""
    module = block.get(name)
    if is_conv(module) or isinstance(module, nn.Linear):
        return name
    graph = block.child(name)
    node: Any = None if graph is None else next(n for n in graph.nodes if n.op == "output").args[0]
    while _calls(node) and isinstance(block.get(f"{name}.{node.target}"), nn.Identity):
        node = node.args[0]
    if not _calls(node) or node.args[0].op != "placeholder":
        return None
    return _only_layer(block, f"{name}.{node.target}")


def _does_nothing(block: Block, node: Any) -> bool:
    return _calls(node) and isinstance(block.get(str(node.target)), nn.Identity)


def _calls(node: Any) -> bool:
    if not isinstance(node, fx.Node) or node.op != "call_module" or node.kwargs:
        return False
    return len(node.args) == 1 and isinstance(node.args[0], fx.Node)


def _reshapes(node: Any) -> bool:
    if not isinstance(node, fx.Node) or not node.args or not isinstance(node.args[0], fx.Node):
        return False
    if node.op == "call_method":
        return node.target in ("reshape", "view", "flatten")
    return node.op == "call_function" and node.target in (torch.reshape, torch.flatten)
