"""inplace: whether a call changes what it is given."""

from __future__ import annotations

import dis
import operator
import types
from typing import Any

from torch import fx, nn

from reparamkit.remember import remembered

_INPLACE_OPERATORS = {
    getattr(operator, name)
    for name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor", "setitem")
}


def mutates(node: fx.Node) -> bool:
    """Whether the call changes its first argument (or ``out=``)."""
    if node.op == "call_method":
        name = str(node.target)
        return name.endswith("_") and not name.endswith("__")
    if node.op != "call_function":
        return False
    if node.target in _INPLACE_OPERATORS or node.kwargs.get("inplace") is True or "out" in node.kwargs:
        return True
    name = getattr(node.target, "__name__", "")
    positional = "dropout" in name or name in ("relu", "relu6", "silu", "hardswish", "leaky_relu", "elu", "mish")
    return (name.endswith("_") and not name.endswith("__")) or (positional and True in node.args[1:])


def may_mutate(module: nn.Module) -> bool:
    """Whether the code of a module that could not be traced, or of one inside it, has an in-place operation."""
    return any(bool(getattr(m, "inplace", False)) or _code_mutates(type(m)) for m in module.modules())


def _code_mutates(cls: type) -> bool:
    if cls.__module__.startswith("torch.nn."):
        return False
    homes = [base for base in cls.__mro__ if base.__module__ == cls.__module__]
    functions: list[Any] = [member for base in homes for member in vars(base).values()]
    return any(_inplace_code(f.__code__) for f in functions if hasattr(f, "__code__"))


@remembered  # not of the class: its functions can be exchanged
def _inplace_code(code: types.CodeType) -> bool:
    for step in dis.get_instructions(code):
        if step.opname == "STORE_SUBSCR" or (step.opname == "BINARY_OP" and step.argrepr.endswith("=")):
            return True
        if step.opname in ("LOAD_METHOD", "LOAD_ATTR") and isinstance(step.argval, str):
            name = step.argval
            if name.endswith("_") and not name.endswith("__"):
                return True
    return False
