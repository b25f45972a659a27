"""Tensors of a forward that depend on parameters alone: ``weight.to(x.dtype)``, and what is computed from it.

A trace computes what it can, but a cast to the dtype or the device of a traced value stands in its graph. It changes
no number that counts (merges are computed in float64), so what comes out of it is as good as the parameter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from reparamkit.flow import tensor_of
from reparamkit.nodes.inplace import mutates
from reparamkit.nodes.names import name_of
from reparamkit.nodes.tree import mapped

if TYPE_CHECKING:
    from reparamkit.flow import Frame

_CASTS = frozenset({"to", "type", "type_as"})
# Functions and methods of these names only compute: run here, they change nothing.
_PURE = frozenset(
    "view reshape flatten unsqueeze squeeze permute transpose contiguous getitem add sub mul div truediv neg exp sqrt "
    "rsqrt sigmoid softplus tanh softmax pow".split()
)

_MADE = frozenset({"eye", "full", "ones", "zeros"})
_KNOWN = _CASTS | _PURE


def may_be_constant(node: fx.Node) -> bool:
    """Whether the call is one that can be computed here, where all it reads is known."""
    known = bool(node.args) and isinstance(node.args[0], fx.Node) and name_of(node.target) in _KNOWN
    return known or _makes(node)


def _makes(node: fx.Node) -> bool:
    return node.op == "call_function" and name_of(node.target) in _MADE


def constant_of(node: fx.Node, frame: Frame) -> Tensor | None:
    """The tensor that a call stands for, when parameters alone decide about it.

    Args:
        node: a call of a function or a method; those before it have been looked at (`Value.constant`).
        frame: the forward it stands in.
    """
    if not may_be_constant(node):
        return None
    name = name_of(node.target)
    if _makes(node):
        return _made(node)
    first = stored(node.args[0], frame)  # type: ignore[arg-type]
    if first is None or _changed(node):
        return None
    if name in _CASTS:
        return first
    if any(stored(n, frame) is None for n in node.all_input_nodes):
        return None
    args, kwargs = mapped((node.args, node.kwargs), lambda n: stored(n, frame))
    with torch.no_grad():
        target: Any = getattr(Tensor, name) if node.op == "call_method" else node.target
        made = target(*args, **kwargs)
    return made if isinstance(made, Tensor) else None


def _made(node: fx.Node) -> Tensor | None:
    """``torch.eye(4, dtype=x.dtype)``: the same numbers whatever the dtype and the device are."""
    of_value = {"dtype", "device"}
    if _changed(node) or any(isinstance(v, fx.Node) for k, v in node.kwargs.items() if k not in of_value):
        return None
    if not isinstance(node.kwargs.get("dtype"), fx.Node) or any(isinstance(n, fx.Node) for n in _flat(node.args)):
        return None
    sizes = {k: v for k, v in node.kwargs.items() if k not in of_value}
    made: Tensor = node.target(*node.args, **sizes, dtype=torch.float64, device="cpu")  # type: ignore[operator]
    return made


def _flat(tree: Any) -> list[Any]:
    return [item for part in tree for item in _flat(part)] if isinstance(tree, (list, tuple)) else [tree]


def _changed(node: fx.Node) -> bool:
    """Whether what the node gives, or a view of it, is changed in place later on."""
    return any(mutates(user) or (name_of(user.target) in _KNOWN and _changed(user)) for user in node.users)


def stored(node: fx.Node, frame: Frame) -> Tensor | None:
    """The parameter, buffer or constant that a node stands for, if it does."""
    if node.op != "get_attr":
        value = frame.values.get(node)
        return None if value is None else value.constant
    constant = frame.traced.constants.get(str(node.target))
    if constant is None:
        constant = tensor_of(frame.module, str(node.target))
    return constant if isinstance(constant, Tensor) else None


def read_by(node: fx.Node, frame: Frame) -> Iterator[fx.Node]:
    """The `get_attr` nodes that a call reads, itself or in a constant."""
    for read in node.all_input_nodes:
        value = frame.values.get(read)
        if read.op == "get_attr":
            yield read
        elif value is not None and value.constant is not None:
            yield from read_by(read, frame)


def readers(node: fx.Node, frame: Frame) -> Iterator[fx.Node]:
    """The calls that read a `get_attr` node, itself or in a constant."""
    for user in node.users:
        value = frame.values.get(user)
        if value is not None and value.constant is not None:
            yield from readers(user, frame)
        else:
            yield user
