"""The parameters of a forward: what they are called, and what a trace gives for them."""

from __future__ import annotations

import inspect
import types
from enum import Enum
from typing import TYPE_CHECKING, Any

import torch

from reparamkit.remember import remembered
from reparamkit.trace.bytecode import instructions
from reparamkit.trace.watch import Untraceable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from reparamkit.trace.tracer import TwinTracer


class Takes(Enum):
    """What a trace gives a forward for its optional arguments."""

    DEFAULTS = "the default"
    GIVEN = "something, where the default is None"
    ANYTHING = "every argument that has a default, or that the code compares with None, both ways"


def placeholders(
    tracer: TwinTracer, module: nn.Module, takes: Takes
) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """Arguments for the forward: proxies for what must be given, the defaults for what need not.

    Args:
        tracer: gets the placeholders.
        module: whose forward it is.
        takes: what to give for those that need not be given.

    Returns:
        Positional and keyword arguments, and what was fixed at a value.
    """
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    fixed: dict[str, Any] = {}
    forward = module.__dict__.get("forward", None) or types.MethodType(type(module).forward, module)
    free = takes is Takes.ANYTHING
    optional = _compared_with_none(forward) if free else frozenset()
    for index, (name, p) in enumerate(parameters_of(forward).items()):
        stars = "*" if p.kind is p.VAR_POSITIONAL else "**" if p.kind is p.VAR_KEYWORD else ""
        if stars:
            tracer.create_proxy("placeholder", stars + name, (), {})
            continue
        must = p.default is p.empty or (takes is Takes.GIVEN and p.default is None)
        options: list[Any] = [_GIVEN] if must else [p.default, _GIVEN]
        if type(p.default) is bool:
            options = [p.default, not p.default]
        elif index == 0:
            options.reverse()
        if name in optional and not any(o is None for o in options):
            options.append(None)
        taken = options[tracer.ask(f"argument {name}", len(options)) if free and len(options) > 1 else 0]
        if taken is _GIVEN:
            value: Any = tracer.create_proxy("placeholder", name, (), {})
        else:
            value = fixed[name] = taken
            tracer.create_node("placeholder", name, (_plain(taken),), {})
        if p.kind is p.KEYWORD_ONLY:
            kwargs[name] = value
        else:
            args.append(value)
    return args, kwargs, fixed


def leaves_out(module: nn.Module) -> bool:
    """Whether the forward has an argument that is None where it is not given."""
    if isinstance(module, torch.jit.ScriptModule):
        return False
    try:
        takes = signature_of(forward_of(module)).parameters.values()
    except (TypeError, ValueError):  # a built-in function that stands in its place does not tell
        return False
    return any(p.default is None for p in takes)


_GIVEN = object()


@remembered
def _none_names(code: types.CodeType) -> frozenset[str]:
    """Local names that the code compares with None."""
    found = set()
    steps = list(instructions(code))
    for read, step, after in zip(steps, steps[1:], steps[2:], strict=False):
        jumps = "JUMP" in step.opname and "NONE" in step.opname
        compares = after.opname in ("IS_OP", "COMPARE_OP") and step.opname == "LOAD_CONST" and step.argval is None
        if read.opname == "LOAD_FAST" and (jumps or compares):
            found.add(str(read.argval))
    return frozenset(found)


def _compared_with_none(forward: Callable[..., Any]) -> frozenset[str]:
    function = inspect.unwrap(getattr(forward, "__func__", forward))
    code = getattr(function, "__code__", None)
    return frozenset() if code is None else _none_names(code)


def _plain(default: Any) -> Any:
    if default is None or isinstance(default, (bool, int, float, str)):
        return default
    if isinstance(default, tuple) and all(d is None or isinstance(d, (bool, int, float, str)) for d in default):
        return default
    raise Untraceable(f"has a default argument of type {type(default).__name__}")


def parameters_of(forward: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a bound forward, by name."""
    function = getattr(forward, "__func__", None)
    if function is None:
        return inspect.signature(forward).parameters
    signature = signature_of(function)
    return dict(list(signature.parameters.items())[1:])


@remembered
def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """`inspect.signature`, remembered: it is asked for at every call of every block."""
    return inspect.signature(function)


def forward_of(module: nn.Module) -> Callable[..., Any]:
    """The function that a call of `module` ends in, unbound from the instance."""
    own = module.__dict__.get("forward")
    return getattr(own, "__func__", own) if own is not None else type(module).forward


def extras_read(module: nn.Module) -> list[str]:
    """The names of the ``*args`` and ``**kwargs`` of the forward that its code looks at."""
    forward = forward_of(module)
    code = getattr(forward, "__code__", None)
    if code is None:
        return []
    stars = [p.name for p in signature_of(forward).parameters.values() if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    read = {i.argval for i in instructions(code) if i.opname.startswith("LOAD")} if stars else set()
    return [name for name in stars if name in read]
