"""fold: the operator that a block of branches is, found by the same rules that `apply` merges by."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reparamkit.errors import Refusal
from reparamkit.expand.layer import Layer
from reparamkit.flow import Flow
from reparamkit.lift.chain import path_term
from reparamkit.lift.lifter import Lifter
from reparamkit.lower import numbers, realizable
from reparamkit.merge import Algebra
from reparamkit.operators import Conv
from reparamkit.registry import Registry
from reparamkit.survey import survey
from reparamkit.term import Like


def folded(block: nn.Module, layer: Layer, registry: Registry) -> tuple[Tensor, Tensor] | Refusal:
    """Weight and bias, in float64, of the one layer that `block` is.

    Args:
        block: in eval mode and float64.
        layer: the geometry that it must have.
        registry: the rules.

    Returns:
        ``[out_channels, in_channels / groups, *kernel_size]`` and ``[out_channels]``; or why the block is no such
        layer.
    """
    op = _operator(block, registry)
    refusal = op if isinstance(op, Refusal) else _other(op, layer)
    if refusal is not None:
        return refusal
    assert isinstance(op, Conv)
    device = next((t.device for t in (*block.parameters(), *block.buffers())), torch.device("cpu"))
    made = numbers(op, Like(torch.float64, device))
    if isinstance(made, Refusal):
        return made
    weight, bias = made
    return weight, weight.new_zeros(layer.out_channels) if bias is None else bias


def not_one_layer(block: nn.Module, layer: Layer, registry: Registry) -> Refusal | None:
    """Why `block` is no layer of this geometry, if it is none; its weights are not computed."""
    op = _operator(block, registry)
    return op if isinstance(op, Refusal) else _other(op, layer)


def _operator(block: nn.Module, registry: Registry) -> Conv | Refusal:
    algebra = Algebra(registry.merge)
    flow = next(iter(Lifter(survey(block, registry), registry, algebra).flows()))
    frame = flow.frames.get("")
    if frame is None or frame.output is None:
        return _reason(flow) or Refusal("RK604", "the forward of the block cannot be followed")
    term = path_term(frame.output, frame.inputs[0], algebra)
    if isinstance(term, Refusal):
        return _reason(flow) or term
    term = realizable(term)
    if isinstance(term, Refusal):
        return term
    return term.op if isinstance(term.op, Conv) else Refusal("RK319", f"the block is a {type(term.op).__name__}")


def _reason(flow: Flow) -> Refusal | None:
    found = [*flow.refusals, *(v.refusal.at(v.where) for v in flow.values if v.refusal is not None)]
    return found[0] if found else None


def _other(op: Conv, layer: Layer) -> Refusal | None:
    """How the geometry differs from the layer's, if it does."""
    got = (op.in_channels, op.out_channels, op.kernel_size, op.stride, op.groups)
    wanted = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.groups)
    spans = [d * (k - 1) for d, k in zip(op.dilation, op.kernel_size, strict=True)]
    mode = op.padding_mode if op.reads_padding else layer.padding_mode
    if got == wanted and op.padding == layer.padding and tuple(spans) == layer.span and mode == layer.padding_mode:
        return None
    return Refusal(
        "RK317",
        f"the branches are a layer of (in, out, kernel, stride, groups) {got} and padding {op.padding}, "
        f"expected {wanted} and {layer.padding}",
    )
