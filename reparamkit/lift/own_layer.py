"""own_layer: modules of the user's that call a layer's function with their own weight and bias.

Where the forward ends with that call, the module takes merged weights as a layer of torch does, and keeps its class,
its forward and the names of its weights. timm's `Linear` does nothing else. TensorFlow's "same" padding pads first,
how much depends on the size of the input: such a forward goes several ways and cannot be written into its caller, but
they all end with the same convolution, so a batch norm behind it can go into its weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx, nn

from reparamkit.answers import Call, Tail, Through
from reparamkit.errors import Refusal
from reparamkit.flow import Value
from reparamkit.nodes.tree import mapped
from reparamkit.operators import Conv
from reparamkit.trace.forward import trace

if TYPE_CHECKING:
    from reparamkit.flow import Frame
    from reparamkit.operators import Operator
    from reparamkit.rule import Lift
    from reparamkit.trace.traced import Forked


@dataclass(frozen=True)
class OwnLayer(Tail):
    """The layer at the end of a forward that goes several ways; it cannot be parted from the rest.

    Attributes:
        layer: the layer, as `op`.
        takes: names of the parameters that the call reads, or would read if they were there.
    """

    layer: Conv
    takes: frozenset[str]


def takes_weights(frame: Frame, value: Value, made: Operator) -> bool:
    """Whether the forward of `frame` computes `made` of its input once the weights of `made` are put into its module.

    Args:
        frame: the module's forward.
        value: what it computes, an operator.
        made: the operator it is to be.
    """
    alone = frame.output is value and frame.inputs == [value.source] and not frame.traced.guarded
    return alone and goes_on_with_weights(frame, value, made)


def goes_on_with_weights(frame: Frame, value: Value, made: Operator) -> bool:
    """Whether the forward of `frame`, whatever else it does, has `made` for `value` once the weights are put in."""
    module, call = frame.module, value.node
    layer = None if value.term is None else value.term.op
    if "forward" in module.__dict__ or frame.traced.constants or not isinstance(layer, Conv):
        return False
    return _alone(call, module) and fits(layer, made, _taken(module, (call,)))


def fits(layer: Conv, made: Operator, takes: frozenset[str]) -> bool:
    """Whether a call of `layer` that takes these parameters computes `made` once they have its numbers."""
    named = takes == {"weight", "bias"} or (takes == {"weight"} and getattr(made, "bias", None) is None)
    return named and isinstance(made, Conv) and geometry(layer) == geometry(made)


def own_layer(module: nn.Module, forked: Forked, lift_of: Callable[[Any], Lift | None]) -> tuple[OwnLayer, Lift] | None:
    """The layer that every way through the forward ends with, and the rule that reads it.

    Args:
        module: the module.
        forked: its ways.
        lift_of: the rule that reads a call of a function, if there is one.
    """
    if forked.unknown is not None or any(way.constants for way in forked.graphs) or "forward" in module.__dict__:
        return None
    calls = [_last_call(way.graph, module) for way in forked.graphs]
    known = [call for call in calls if call is not None]
    lift = lift_of(known[0].target) if known else None
    if lift is None or len(known) < len(calls) or any(call.target is not known[0].target for call in known):
        return None
    ops = [_operator(call, module, lift) for call in known]
    op = ops[0]
    if op is None or any(other is None or geometry(other) != geometry(op) for other in ops):
        return None
    return OwnLayer(op, None, lambda x: _run(known[0], module, x), op, _taken(module, known)), lift


def _last_call(graph: fx.Graph, module: nn.Module) -> fx.Node | None:
    call = next(n for n in graph.nodes if n.op == "output").args[0]
    return call if isinstance(call, fx.Node) and call.op == "call_function" and _alone(call, module) else None


def _own_call(graph: fx.Graph, module: nn.Module) -> fx.Node | None:
    """The one call that reads the weight of the module, wherever it stands."""
    readers = {user for n in graph.nodes if n.op == "get_attr" and n.target == "weight" for user in n.users}
    call = readers.pop() if len(readers) == 1 else None
    return call if call is not None and call.op == "call_function" and _alone(call, module) else None


def _alone(call: fx.Node, module: nn.Module) -> bool:
    """Whether the call reads one value and parameters of the module, which nothing else in the forward reads."""
    stored = [n for n in call.all_input_nodes if n.op == "get_attr"]
    named = {str(n.target) for n in stored} == _own_parameters(call, module) != set()
    return len(call.all_input_nodes) == len(stored) + 1 and named and all(set(n.users) == {call} for n in stored)


def _own_parameters(call: fx.Node, module: nn.Module) -> frozenset[str]:
    """Names of the parameters that the call is given; a kernel and a bias cannot be mixed up."""
    names = {str(n.target) for n in call.all_input_nodes if n.op == "get_attr"}
    return frozenset(names & {"weight", "bias"} & module._parameters.keys())


def _taken(module: nn.Module, calls: Sequence[fx.Node]) -> frozenset[str]:
    """The parameters that all `calls`, one for each way through the forward, take; a bias too that is not there yet."""
    named = frozenset.intersection(*(_own_parameters(call, module) for call in calls))
    if "weight" not in named:
        return frozenset()
    stored = {name for name, tensor in module._parameters.items() if tensor is not None}
    missing = {"bias"} & (module._parameters.keys() - stored)
    tries = (named | missing, named) if missing and named == {"weight"} else (named,)
    return next((names for names in tries if _goes_the_same_way(module, calls, names)), frozenset())


def _goes_the_same_way(module: nn.Module, calls: Sequence[fx.Node], names: frozenset[str]) -> bool:
    """Whether the forward makes these `calls`, given these parameters, whatever they hold: here no numbers."""
    weight = module._parameters["weight"]
    assert weight is not None
    like = {"weight": weight, "bias": weight.new_zeros(len(weight))}
    blank = copy.copy(module)
    blank._parameters = {**module._parameters, **{name: nn.Parameter(like[name].to("meta")) for name in names}}
    traced = trace(blank, frozenset())
    found = [] if isinstance(traced, Refusal) else [_own_call(way.graph, blank) for way in traced.graphs]
    known = [call for call in found if call is not None and _own_parameters(call, blank) == names]
    return [_rest(call) for call in known] == [_rest(call) for call in calls] and len(found) == len(known)


def _rest(call: fx.Node) -> list[tuple[str, ...]]:
    """A forward without this call and what that reads of the module, as text."""
    others = [n for n in call.graph.nodes if n is not call and not (n.op == "get_attr" and set(n.users) == {call})]
    return [(n.op, str(n.target), str(n.args), str(n.kwargs)) for n in others]


def _operator(call: fx.Node, module: nn.Module, lift: Lift) -> Conv | None:
    args, kwargs = _arguments(call, module, lambda node: Value("", node, 0))
    made = lift.run(Call(args, kwargs, lambda item: isinstance(item, Value)), None)
    return made.op if isinstance(made, Through) and isinstance(made.op, Conv) else None


def _arguments(call: fx.Node, module: nn.Module, read: Callable[[fx.Node], Any]) -> tuple[Any, dict[str, Any]]:
    def known(node: fx.Node) -> Any:
        return module._parameters[str(node.target)] if node.op == "get_attr" else read(node)

    return mapped(call.args, known), {k: mapped(v, known) for k, v in call.kwargs.items()}


def _run(call: fx.Node, module: nn.Module, x: Tensor) -> Any:
    """What the call computes of `x`, in float64; for proofs."""
    args, kwargs = _arguments(call, module, lambda _: x)
    target: Any = call.target
    return target(*map(_wide, args), **{name: _wide(value) for name, value in kwargs.items()})


def _wide(value: Any) -> Any:
    return value.detach().double() if isinstance(value, Tensor) else value


def geometry(op: Conv) -> tuple[object, ...]:
    """All of a convolution but its numbers."""
    mode = op.padding_mode if op.reads_padding else "zeros"
    padded = op.pad_value is not None
    return op.weight.shape, op.stride, op.padding, op.dilation, op.groups, mode, padded
