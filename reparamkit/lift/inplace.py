"""In-place operations: which values they change, and which values must not be read at another time because of it.

A traced ``y += b`` may be rewritten as if it were ``y = y + b`` only when nobody else reads what is changed,
under any name. Otherwise every value that shares its memory is unstable: it may not vanish, nor be read later.
"""

from __future__ import annotations

import dis
import operator
import types
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

from reparamkit.errors import Refusal
from reparamkit.lift.facts import name_of

if TYPE_CHECKING:
    from torch import fx, nn

    from reparamkit.flow import Flow, Value

_INPLACE_OPERATORS = {
    getattr(operator, name)
    for name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor", "setitem")
}
# Results of these never share memory with an argument; everything else may.
_FRESH = {
    *(
        "add sub mul truediv neg conv1d conv2d conv3d linear batch_norm relu relu6 silu gelu sigmoid tanh hardswish"
    ).split(),
    *(
        "hardsigmoid hardtanh leaky_relu elu mish softplus softmax log_softmax cat concat concatenate stack avg_pool1d"
    ).split(),
    *(
        "avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d adaptive_avg_pool2d interpolate matmul bmm clone mean"
    ).split(),
    *("sum exp sqrt rsqrt abs pow layer_norm group_norm zeros_like").split(),
    "scaled_dot_product_attention",
    "probed",  # checked when it was measured
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


def _fresh(value: Value) -> bool:
    if value.mutates:
        return False
    if value.module is not None:
        kind = type(value.module).__name__
        return (
            type(value.module).__module__.startswith("torch.nn.")
            and kind
            not in (
                "Identity",
                "Flatten",
                "Unflatten",
                "ChannelShuffle",
                "PixelShuffle",
            )
            and "Drop" not in kind
        )
    return name_of(value.node.target) in _FRESH


def mark_shared_mutation(flow: Flow) -> None:
    """Mark every value whose memory is changed while something else reads it (RK309)."""
    if not any(v.mutates for v in flow.values):
        return
    memory = _memory(flow)
    groups: dict[int, list[Value]] = {}
    for value in flow.values:
        if not value.meta:
            groups.setdefault(memory[value.index], []).append(value)
    for value in flow.values:
        for changed in value.inputs if value.module is not None else value.inputs[:1]:
            if not value.mutates:
                continue
            group = groups.get(memory[changed.index], [])
            other = _other_reader(value, group)
            if other is None:
                continue
            for member in group:
                reason = f"{value.where} changes it in place while {other} reads it"
                member.unstable = Refusal("RK309", reason, member.where)


def _memory(flow: Flow) -> list[int]:
    """For each value the index of the value whose memory it (possibly) is."""
    root = list(range(len(flow.values)))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for value in flow.values:
        if value.meta or not value.inputs or _fresh(value):
            continue
        # A function we do not know may return a view of any of its arguments.
        # A size has no memory: two views made with one share none through it.
        sources = [s for s in (value.inputs[:1] if value.mutates else value.inputs) if not s.meta]
        for source in sources:
            root[find(value.index)] = find(source.index)
    return [find(i) for i in range(len(root))]


def _other_reader(mutator: Value, group: list[Value]) -> str | None:
    """Who else reads memory that `mutator` changes: a caller, or a value outside the line that leads to it."""
    for member in group:
        if member.index >= mutator.index:
            return None
        if member.node.op == "placeholder" or member.escapes:
            return "the caller"
        for reader in member.readers:
            if reader is mutator:
                continue
            # A view on the way to the mutator is no reader of its own; anything else is, and so is a later view.
            if reader.index > mutator.index or not _shares(reader, group):
                return reader.where
    return None


def _shares(value: Value, group: list[Value]) -> bool:
    at = bisect_left(group, value.index, key=lambda v: v.index)
    return at < len(group) and group[at] is value


def may_mutate(module: nn.Module) -> bool:
    """Whether the code of a module that could not be traced, or of one inside it, has an in-place operation."""
    return any(bool(getattr(m, "inplace", False)) or _code_mutates(type(m)) for m in module.modules())


def _code_mutates(cls: type) -> bool:
    if cls.__module__.startswith("torch.nn."):
        return False
    homes = [base for base in cls.__mro__ if base.__module__ == cls.__module__]
    functions: list[Any] = [member for base in homes for member in vars(base).values()]
    return any(_inplace_code(f.__code__) for f in functions if hasattr(f, "__code__"))


def _inplace_code(code: types.CodeType) -> bool:
    for step in dis.get_instructions(code):
        if step.opname == "STORE_SUBSCR" or (step.opname == "BINARY_OP" and step.argrepr.endswith("=")):
            return True
        if step.opname in ("LOAD_METHOD", "LOAD_ATTR") and isinstance(step.argval, str):
            name = step.argval
            if name.endswith("_") and not name.endswith("__"):
                return True
    return False
