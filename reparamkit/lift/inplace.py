"""In-place operations: which values they change, and which values must not be read at another time because of it.

A traced ``y += b`` may be rewritten as if it were ``y = y + b`` only when nobody else reads what is changed,
under any name. Otherwise every value that shares its memory is unstable: it may not vanish, nor be read later.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from reparamkit.errors import Refusal
from reparamkit.nodes.names import name_of

if TYPE_CHECKING:
    from reparamkit.flow import Flow, Value

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
