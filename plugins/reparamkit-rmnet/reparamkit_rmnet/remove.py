"""``W2 relu(W1 x + b1) + b2 + x = [W2 I] relu([W1; I] x + [b1; 0]) + b2`` for ``x >= 0``.

``relu(x) = x`` where ``x`` is not negative, so channels that carry ``x`` pass the ReLU unchanged and the addition
becomes part of the last convolution. `I` is the kernel of one tap that reads the input unshifted. With a 1x1
convolution on the shortcut, its kernel stands in place of the last ``I`` and its bias is added. Chains of three and
more convolutions carry ``x`` through each of them; depthwise ones get a group for each carried channel.

Conditions: ``x`` is proven not negative (ReLU, sigmoid, pooling or concatenation of such, in traced forwards);
between the convolutions only functions with ``f(x) = x`` for ``x >= 0`` (ReLU, leaky ReLU; not ReLU6, which clips);
odd kernels, padded so that the middle tap reads the input; first and last convolution dense; one dtype and device;
nothing else reads what is in between, and no hook or other code looks at it. The block becomes wider: it costs more
multiply-accumulates, and the memory of the shortcut is gone.

Source: Meng et al., RMNet: Equivalently Removing Residual Connection from Networks, arXiv 2111.00687.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn

from reparamkit import Block, Refusal, Rewritten
from reparamkit_rmnet.chain import chain
from reparamkit_rmnet.widen import refusal_of, widened

_ADDS = (operator.add, operator.iadd, torch.add)


def remove_residual(block: Block) -> Rewritten | Refusal | None:
    """Remove every residual addition of the block that can go.

    Args:
        block: any block.

    Returns:
        The rewritten block; a refusal when there are residual additions, none of which can go; `None` without any.
    """
    modules: dict[str, nn.Module] = {}
    refusals: list[Refusal] = []
    for node in list(block.graph.nodes):
        found = _residual(block, node)
        if found is None:
            continue
        body, side, end, start = found
        made = _removed(block, body, side, start)
        if isinstance(made, Refusal):
            refusals.append(made.at(f"{block.path}.{node.name}" if block.path else node.name))
            continue
        modules |= made
        node.replace_all_uses_with(end)
    if not modules:
        return refusals[0] if refusals else None
    return Rewritten(modules, block.graph, "residual connection", ", ".join(modules))


def _residual(block: Block, node: fx.Node) -> tuple[list[str], str, fx.Node, fx.Node] | None:
    """Names of the convolutions of the two ways that a node adds, the end of the longer, and where both start."""
    is_add = node.target in _ADDS if node.op == "call_function" else node.target in ("add", "add_")
    if node.op not in ("call_function", "call_method") or not is_add or len(node.args) != 2 or node.kwargs:
        return None
    if not all(isinstance(a, fx.Node) and a.op != "get_attr" for a in node.args):
        return None
    pair: tuple[Any, Any] = (node.args[0], node.args[1])
    for end, other in (pair, pair[::-1]):
        for start in _sources(other):
            short = [] if start is other else chain(block, other, start)
            body = chain(block, end, start)
            if body is not None and len(body) > 1 and short is not None and len(short) < 2 and len(end.users) == 1:
                return body, short[0] if short else "", end, start
    return None


def _sources(node: fx.Node) -> list[fx.Node]:
    """The node, what it is made of, what that is made of, ..."""
    found = [node]
    while found[-1].args and isinstance(found[-1].args[0], fx.Node):
        found.append(found[-1].args[0])
    return found


def _removed(block: Block, body: list[str], side: str, start: fx.Node) -> dict[str, nn.Module] | Refusal:
    unstable = block.unstable(start)
    if unstable is not None:
        return unstable
    if not block.nonnegative(start):
        return Refusal("RK350", f"{start.name} is not known to be non-negative")
    for name in (*body, *([side] if side else [])):
        refusal = block.free(name)
        if refusal is not None:
            return refusal
    convs: list[Any] = [block.get(name) for name in body]
    shortcut: Any = block.get(side) if side else None
    every = [*convs, *([shortcut] if side else [])]
    if len({(conv.weight.dtype, conv.weight.device) for conv in every}) > 1:
        return Refusal("RK503", "the convolutions differ in dtype or device")
    return refusal_of(convs, shortcut) or dict(zip(body, widened(convs, shortcut), strict=True))
