"""reference: what the original computes, in float64, node by node: the other side of each proof.

It shares nothing with the rules: no operator, no merge.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from reparamkit.lift.constant import stored
from reparamkit.nodes.shapes import is_shape
from reparamkit.nodes.tree import mapped
from reparamkit.prove.modules import run_module

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reparamkit.flow import Flow, Frame, Share, Value

_INPLACE = {getattr(operator, f"i{n}"): getattr(operator, n) for n in ("add", "sub", "mul", "truediv")}


def run_value(value: Value, flow: Flow, known: dict[Value, Tensor]) -> Tensor:
    """What the node of `value` computes from the `known` values, in float64."""
    if value.gone:
        return known[value.inputs[0]]
    if value.share is not None and value.share.steps:
        run = scaled if value.share.linear else run_steps
        return run(value.share.steps, flow, known[value.inputs[0]])
    if value.share is not None and value.share.size is not None:
        return _run_share(value.share, flow, known[value.inputs[0]])
    return _run_whole(value, flow, known)


def scaled(steps: Sequence[Value], flow: Flow, x: Tensor) -> Tensor:
    """What the product and the sum make of `x`, without what they make of zeros."""
    return run_steps(steps, flow, x) - run_steps(steps, flow, torch.zeros_like(x))


def run_steps(steps: Sequence[Value], flow: Flow, x: Tensor) -> Tensor:
    """What the last of `steps` computes when the first is given `x`."""
    source = steps[0].inputs[0]
    known = {source: x}
    while source.share is not None:  # it stands behind what the node reads
        source = source.inputs[0]
        known[source] = x
    for step in steps:
        known[step] = x = _run_whole(step, flow, known)
    return x


def remember(known: dict[Value, Tensor], value: Value, result: Tensor) -> None:
    """Note the result of `value`, also for nodes that read the one of which it is a copy."""
    known[value] = result
    read = value
    while read.share is not None and (read.share.steps or read.share.within):  # what nodes behind it read
        read = read.inputs[0]
        known[read] = result
    if value.share is not None and value.share.size is None:
        known[value.share.of] = result


def _run_share(share: Share, flow: Flow, x: Tensor) -> Tensor:
    """What the whole norm makes of these channels, with or without what it adds."""
    made = _run_with_zeros(share, flow, x)
    if not (share.linear or share.over or share.factor != 1.0):
        return made
    added = _run_with_zeros(share, flow, torch.zeros_like(x))
    if share.linear:
        return made - added
    by = run_steps(share.over, flow, torch.ones_like(x)) if share.over else torch.ones_like(x)
    return made - added + added / (by * share.factor)


def _run_with_zeros(share: Share, flow: Flow, x: Tensor) -> Tensor:
    """What the whole norm makes of these channels; the others are zeros."""
    if share.within:
        return _run_within(share, flow, x)
    shape = list(x.shape)
    shape[share.axis] = share.total
    whole = x.new_zeros(shape)
    whole.narrow(share.axis, share.start, x.shape[share.axis]).copy_(x)
    known = {share.of.inputs[0]: whole}
    nested = share.of.share
    made = _run_whole(share.of, flow, known) if nested is None else _run_share(nested, flow, whole)
    return made.narrow(share.axis, share.start, x.shape[share.axis])


def _run_within(share: Share, flow: Flow, x: Tensor) -> Tensor:
    """The norm of some channels of a concatenation."""
    assert share.size is not None
    made, given = x.clone(), x.narrow(share.axis, share.start, share.size)
    normed = _run_whole(share.of, flow, {share.of.inputs[0]: given})
    made.narrow(share.axis, share.start, share.size).copy_(normed)
    return made


def _run_whole(value: Value, flow: Flow, known: dict[Value, Tensor]) -> Tensor:
    if value.tail is not None:
        affine: Tensor = value.tail.affine(known[value.inputs[0]])
        return affine
    if value.module is not None:
        return run_module(value.module, known[value.inputs[0]])
    result = _run_node(value, flow, known)
    assert isinstance(result, Tensor)
    return result


def _run_node(value: Value, flow: Flow, known: dict[Value, Tensor]) -> Any:
    frame = flow.frames[value.path]
    args, kwargs = mapped((value.node.args, value.node.kwargs), lambda n: _read(n, frame, flow, known))
    target: Any = value.node.target
    if value.mutates and args:
        args = (args[0].clone(), *args[1:])
    if value.node.op == "call_method":
        return getattr(args[0], str(target))(*args[1:], **kwargs)
    return _INPLACE.get(target, target)(*args, **kwargs)


def _read(node: fx.Node, frame: Frame, flow: Flow, known: dict[Value, Tensor]) -> Any:
    value = frame.values.get(node)
    if value is not None and value in known:
        return known[value]
    constant = stored(node, frame)
    if constant is None:
        value = frame.values[node]
        if value.meta and value not in known:
            return _run_node(value, flow, _with_others(value, known))
        return _known(value, flow, known)
    return constant.detach().double() if constant.is_floating_point() else constant


def _with_others(asking: Value, known: dict[Value, Tensor]) -> dict[Value, Tensor]:
    """For a size of something outside of the region, which is taken to be as large as what the region reads."""
    source = next(iter(known.values()))
    others = [v for v in asking.inputs if not v.meta and v not in known and v.rank in (None, source.ndim)]
    asks = asking.node.target == "size" or is_shape(asking.node)
    return {**known, **dict.fromkeys(others, source)} if asks else known


def _known(value: Value, flow: Flow, known: dict[Value, Tensor]) -> Tensor:
    """A stack is made here: only its sum is a value of the region."""
    if value not in known and value.stacked is not None:
        known[value] = _run_node(value, flow, known)
    return known[value]
