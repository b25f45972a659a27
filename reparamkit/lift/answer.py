"""answer: what a lift rule may say, and do. Rules come from plugins too, and a plugin may say anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from torch import Tensor, nn

from reparamkit.errors import Refusal
from reparamkit.lift.onlooker import only_looks
from reparamkit.operators import Operator, Scale
from reparamkit.rule import Cat, Lift, Split, Sum, Tail, Through

_OPERATORS = get_args(Operator)
_LONGEST = 300  # characters of an exception's text


def answer_about_module(lift: Lift, module: nn.Module, context: Any) -> Any:
    """What a lift says of a module: an operator, `Split`, `Tail`, or a `Refusal` when it says anything else."""
    said = _said(lift, module, lambda: lift.run(module, context))
    if isinstance(said, Refusal):
        return said
    return _refused(lift, _unsound(said.op if isinstance(said, (Split, Tail)) else said)) or said


def answer_about_call(lift: Lift, module: nn.Module, call: Any, context: Any, is_value: Callable[[Any], bool]) -> Any:
    """What a lift says of a call in the forward of `module`: `Through`, `Sum`, `Cat`, nothing, or a `Refusal`."""
    said = _said(lift, module, lambda: lift.run(call, context))
    if said is None or isinstance(said, Refusal):
        return said
    wrong = "" if not isinstance(said, Through) else _unsound(said.op)
    inputs = _inputs(said)
    if inputs is None:
        wrong = f"expected Through, Sum, Cat or Refusal, got a {type(said).__name__}"
    elif not inputs or not all(map(is_value, inputs)):
        wrong = f"expected inputs of the call in its {type(said).__name__}"
    return _refused(lift, wrong) or said


def _said(lift: Lift, module: nn.Module, run: Callable[[], Any]) -> Any:
    """The answer; an exception in it, or a change of what it looks at, is a refusal that names the rule."""
    try:
        if lift.rule.startswith("core/"):
            return run()
        with only_looks(module):
            return run()
    except Exception as error:  # rules may come from plugins; whatever they raise, the block is left alone
        return _refused(lift, f"{type(error).__name__}: {error}"[:_LONGEST])


def _refused(lift: Lift, wrong: str) -> Refusal | None:
    return Refusal("RK804", f"{lift.rule} ({lift.origin}): {wrong}") if wrong else None


def _inputs(said: Any) -> list[Any] | None:
    if isinstance(said, Through):
        return [said.value]
    if isinstance(said, Sum):
        return [value for _, value in said.terms]
    return list(said.values) if isinstance(said, Cat) else None


def _unsound(op: Any) -> str:
    """Why something is no operator to go on with; empty when it is one."""
    if not isinstance(op, _OPERATORS):
        return f"expected an operator, Split, Tail or Refusal, got a {type(op).__name__}"
    for part in (op.scale, op.shift) if isinstance(op, Scale) else ():
        if part is None:
            continue
        if not isinstance(part, Tensor) or part.is_meta or part.ndim > 1 or not part.numel():
            return "expected a Scale of one number for each channel"
    return ""
