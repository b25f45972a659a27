"""answer: what a lift rule may say, and do. Rules come from plugins too, and a plugin may say anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

from torch import nn

from reparamkit.answers import Cat, Split, Stack, Sum, Tail, Through
from reparamkit.errors import Refusal
from reparamkit.guarded import refusal
from reparamkit.lift.onlooker import only_looks
from reparamkit.operators import Operator
from reparamkit.rule import Lift
from reparamkit.sound import Unsound, settled

_OPERATORS = get_args(Operator)


def answer_about_module(lift: Lift, module: nn.Module, context: Any) -> Any:
    """What a lift says of a module: an operator, `Split`, `Tail`, or a `Refusal` when it says anything else."""
    return _said(lift, module, lambda: lift.run(module, context), _about_module)


def answer_about_call(lift: Lift, module: nn.Module, call: Any, context: Any, is_value: Callable[[Any], bool]) -> Any:
    """What a lift says of a call in the forward of `module`: `Through`, `Sum`, `Cat`, nothing, or a `Refusal`."""
    return _said(lift, module, lambda: lift.run(call, context), lambda said: _about_call(said, is_value))


def _said(lift: Lift, module: nn.Module, run: Callable[[], Any], checked: Callable[[Any], Any]) -> Any:
    """The answer; an exception in it, or a change of what it looks at, is a refusal that names the rule."""
    try:
        if lift.origin == "core":
            return run()
        with only_looks(module):
            said = run()
            return said if isinstance(said, Refusal) else checked(said)
    except Exception as error:  # rules may come from plugins; whatever they raise, the block is left alone
        return refusal(lift, error)


def _about_module(said: Any) -> Any:
    if isinstance(said, (Split, Tail)):
        return replace(said, op=settled(said.op))
    if not isinstance(said, _OPERATORS):
        raise Unsound(f"expected an operator, Split, Tail or Refusal, got a {type(said).__name__}")
    return settled(said)


def _about_call(said: Any, is_value: Callable[[Any], bool]) -> Any:
    if said is None:
        return None
    inputs = _inputs(said)
    if inputs is None:
        raise Unsound(f"expected Through, Sum, Stack, Cat or Refusal, got a {type(said).__name__}")
    if not inputs or not all(map(is_value, inputs)):
        raise Unsound(f"expected inputs of the call in its {type(said).__name__}")
    return replace(said, op=settled(said.op)) if isinstance(said, Through) else said


def _inputs(said: Any) -> list[Any] | None:
    if isinstance(said, Through):
        return [said.value]
    if isinstance(said, (Sum, Stack)):
        return [value for _, value in said.terms]
    return list(said.values) if isinstance(said, Cat) else None
