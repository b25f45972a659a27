"""tensors: what surely returns one tensor."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

from torch import fx, nn

from reparamkit.nodes.ranks import CONV_RANKS, FIXED_RANKS, SAME_RANK


@dataclass(frozen=True)
class Returned:
    """What a call of a module surely returns.

    Attributes:
        tensor: one tensor.
        parts: a list or tuple of so many values.
    """

    tensor: bool = False
    parts: int | None = None


_TENSOR_MODULES = frozenset(
    f"torch.nn.modules.{name}"
    for name in (
        "activation batchnorm channelshuffle conv dropout flatten instancenorm linear normalization padding "
        "pixelshuffle pooling upsampling"
    ).split()
)


def is_tensor_module(module: nn.Module | None) -> bool:
    """Whether it is a layer of torch that returns one tensor."""
    home = type(module).__module__
    known = home in _TENSOR_MODULES and not isinstance(module, nn.MultiheadAttention)
    return known and not getattr(module, "return_indices", False)


def is_pooling(module: nn.Module) -> bool:
    """Whether it is one of torch's poolings, which return one tensor."""
    return type(module).__module__ == "torch.nn.modules.pooling" and is_tensor_module(module)


def makes_tensor(node: fx.Node, called: nn.Module | None) -> bool:
    """Whether a node surely computes one tensor; `called` is the module it calls."""
    if node.op == "call_module":
        return is_tensor_module(called)
    if node.op != "call_function":
        return False
    if node.target in CONV_RANKS or node.target in FIXED_RANKS:
        return True
    home, name = str(getattr(node.target, "__module__", "")), getattr(node.target, "__name__", "")
    if home.partition(".")[0] in ("torch", "") and name in SAME_RANK:
        return not node.kwargs.get("return_indices", False)
    return False


_NAMES = ("add", "sub", "mul", "truediv", "iadd", "isub", "imul", "itruediv")

_ARITHMETIC = frozenset(getattr(operator, name) for name in _NAMES)


def surely_tensor(node: fx.Node, returns: Callable[[fx.Node], bool]) -> bool:
    """Whether a node surely computes one tensor, in a sum or a product because one of its operands is one.

    Args:
        node: of a traced forward.
        returns: whether a call of a module surely returns one.
    """
    waiting, asked = [node], set[fx.Node]()
    while waiting:
        one = waiting.pop()
        if returns(one) if one.op == "call_module" else makes_tensor(one, None):
            return True
        asked.add(one)
        if one.target in _ARITHMETIC:
            waiting += [operand for operand in one.all_input_nodes if operand not in asked]
    return False
