"""bare: a module of the user's whose forward is one call of a layer's function with its own weight and bias.

Such a module (timm's `Linear`, a convolution subclass that calls `F.conv2d` itself) takes merged weights as a layer of
torch does, and keeps its class, its forward and the names of its weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from reparamkit.operators import Conv

if TYPE_CHECKING:
    from torch import fx

    from reparamkit.flow import Frame, Value
    from reparamkit.operators import Operator


def takes_weights(frame: Frame, value: Value, made: Operator) -> bool:
    """Whether the forward of `frame` computes `made` of its input once the weights of `made` are put into its module.

    Args:
        frame: the module's forward.
        value: what it computes, an operator.
        made: the operator it is to be.
    """
    module, layer = frame.module, None if value.term is None else value.term.op
    if "forward" in module.__dict__ or frame.traced.constants or frame.traced.guarded or frame.output is not value:
        return False
    if not isinstance(layer, Conv) or not isinstance(made, Conv) or frame.inputs != [value.source]:
        return False
    read = _own_parameters(value.node, module)
    named = read == {"weight", "bias"} or (read == {"weight"} and made.bias is None)
    return named and _geometry(layer) == _geometry(made)


def _own_parameters(call: fx.Node, module: nn.Module) -> set[str]:
    """Names of the parameters of its own that the call is given; a kernel and a bias cannot be mixed up."""
    names = {str(n.target) for n in call.all_input_nodes if n.op == "get_attr"}
    return {n for n in names if isinstance(module._parameters.get(n), nn.Parameter)}


def _geometry(op: Conv) -> tuple[object, ...]:
    mode = op.padding_mode if op.reads_padding else "zeros"
    pads = None if op.pad_value is None else "valued"
    return op.weight.shape, op.stride, op.padding, op.dilation, op.groups, mode, pads
