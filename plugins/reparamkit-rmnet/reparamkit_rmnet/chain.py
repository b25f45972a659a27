"""The way from a block's input to its residual addition: convolutions with ReLUs in between, and nothing else."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from reparamkit import Block

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_RELUS = {torch.relu, torch.relu_, functional.relu, functional.relu_, functional.leaky_relu}
_SILENT = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
# Steps that are no convolution: one that hands on what is not negative, one that hands on everything.
_KEEPS, _SILENT_STEP = "keeps", "silent"


def chain(block: Block, end: fx.Node, start: fx.Node) -> list[str] | None:
    """Names of the convolutions between two nodes, in order.

    Args:
        block: the block.
        end: what the chain gives.
        start: what it reads; other nodes may read that too, but nothing else may read what is in between.

    Returns:
        Dotted names below the block; `None` when there is anything but convolutions, functions in front of them that
        hand on what is not negative (ReLU, leaky ReLU) and modules that do nothing.
    """
    steps = _steps(block, "", end, start)
    if steps is None:
        return None
    active = [step for step in steps if step != _SILENT_STEP]
    convs = [step for step in active if step != _KEEPS]
    # What is added to a ReLU's output cannot be added to its input instead.
    return None if convs and active[-1] == _KEEPS else convs


def _steps(block: Block, prefix: str, end: fx.Node, start: fx.Node) -> list[str] | None:
    found: list[str] = []
    node = end
    while node is not start:
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or (node is not end and len(node.users) != 1):
            return None
        step = _call(block, prefix, node) if node.op == "call_module" else _function(node)
        if step is None:
            return None
        found = [*step, *found]
        node = source
    return found


def _function(node: fx.Node) -> list[str] | None:
    if node.op == "call_method":
        return [_KEEPS] if node.target in ("relu", "relu_") else None
    return [_KEEPS] if node.op == "call_function" and node.target in _RELUS else None


def _call(block: Block, prefix: str, node: fx.Node) -> list[str] | None:
    name = f"{prefix}{node.target}"
    module: Any = block.get(name)
    if len(node.args) != 1 or node.kwargs:
        return None
    if _runs_as(module, _CONVS):
        return [name]
    if _runs_as(module, _SILENT):
        return [_SILENT_STEP]
    if _keeps(module):
        return [_KEEPS]
    graph = block.child(name)
    if graph is None:
        return None
    inputs = [n for n in graph.nodes if n.op == "placeholder"]
    returned = next(n for n in graph.nodes if n.op == "output").args[0]
    if len(inputs) != 1 or not isinstance(returned, fx.Node) or len(inputs[0].users) != 1:
        return None
    if returned is not inputs[0] and len(returned.users) != 1:
        return None
    return _steps(block, f"{name}.", returned, inputs[0])


def _keeps(module: nn.Module) -> bool:
    """Whether it hands on what is not negative, in any number of channels."""
    if _runs_as(module, (nn.PReLU,)):
        return bool(module.num_parameters == 1)
    return _runs_as(module, (nn.ReLU, nn.LeakyReLU))


def _runs_as(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    return any(isinstance(module, kind) and type(module).forward is kind.forward for kind in kinds)
