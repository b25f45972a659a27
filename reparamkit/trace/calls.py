"""How a module is called: whether every call leaves its optional arguments alone, as far as anyone can tell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import fx, nn

from reparamkit.errors import Refusal
from reparamkit.nodes.parts import takes_part
from reparamkit.trace.parameters import extras_read, forward_of, signature_of
from reparamkit.trace.traced import Forked, Traced

Given = fx.Node | tuple[fx.Node, ...]


def bound(module: nn.Module, traced: Traced, node: fx.Node) -> dict[str, Given] | None:
    """What a call gives to each parameter; `None` when `module` was traced for another call.

    A tuple is given to a forward that only takes it apart.
    """
    holders = traced.placeholders
    needed = {str(n.target) for n in holders if n.target not in traced.fixed and not str(n.target).startswith("*")}
    only = node.args[0] if len(node.args) == 1 and not node.kwargs else None
    if isinstance(only, fx.Node) and len(needed) == 1 and holders[0].target in needed:
        return {str(holders[0].target): only}
    try:
        call = signature_of(forward_of(module)).bind(None, *node.args, **node.kwargs)
    except TypeError:
        return None
    given: dict[str, Given] = {}
    for name, argument in list(call.arguments.items())[1:]:
        if name in traced.fixed:
            if isinstance(argument, fx.Node) or argument is not traced.fixed[name]:
                return None
        elif isinstance(argument, fx.Node):
            given[name] = argument
        elif _is_taken_apart(argument, next((n for n in holders if n.target == name), None)):
            given[name] = tuple(argument)
        else:
            return None
    return given if needed <= given.keys() else None


def _is_taken_apart(argument: Any, holder: fx.Node | None) -> bool:
    """Whether `argument` is a tuple of values of which the forward does nothing but pick some."""
    if holder is None or not isinstance(argument, tuple) or not all(isinstance(a, fx.Node) for a in argument):
        return False
    return bool(argument) and all(
        takes_part(user) and -len(argument) <= int(user.args[1]) < len(argument)  # type: ignore[arg-type]
        for user in holder.users
    )


def way_of(module: nn.Module, forked: Forked, node: fx.Node) -> Traced | None:
    """The one way that a call goes, where its arguments tell and nobody else may call `module`; else `None`."""
    if forked.unknown is not None or not forked.closed:
        return None
    fitting = [way for way in forked.graphs if bound(module, way, node) is not None]
    return fitting[0] if len(fitting) == 1 else None


def with_all_ways(
    module: nn.Module, traced: Traced | Forked, calls: list[fx.Node] | None, wide: Any
) -> Traced | Forked | Refusal:
    """A trace together with the ways the forward goes for other calls than the plain one.

    Args:
        module: the module.
        traced: its trace for a plain call.
        calls: all calls there are; `None` when there may be others.
        wide: its trace for any call, as a function.
    """
    first = traced if isinstance(traced, Traced) else traced.ways[0]
    if calls is not None and all(bound(module, first, node) is not None for node in calls):
        return traced
    loose = extras_read(module)
    if not loose and not first.fixed and len(first.placeholders) == 1:
        return replace(traced, closed=calls is not None) if isinstance(traced, Forked) else traced
    every = wide()
    unknown = every if isinstance(every, Refusal) else None
    if loose:
        unknown = Refusal("RK604", f"what it does depends on {loose[0]}")
    found = () if isinstance(every, Refusal) else every.graphs
    if isinstance(traced, Forked):
        return Forked(None, found or traced.ways, unknown, calls is not None)
    others = tuple(way for way in found if str(way.graph) != str(traced.graph))
    several = others or unknown is not None
    return Forked(traced, others, unknown, calls is not None) if several else traced
