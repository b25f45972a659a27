"""made: a value of a node, and what is known about what it reads."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from reparamkit.flow import Flow, Frame, Value
from reparamkit.operators import Layout
from reparamkit.rules.sizes import channel_axis, channels_in, is_grouped
from reparamkit.trace.tracer import UNDER


@dataclass(frozen=True)
class Context:
    """What a rule is told about the input of what it lifts.

    Attributes:
        rank: number of axes, where known.
        ones: axes of it that have one position, where axes were rearranged.
        value: the input.
    """

    rank: int | None = None
    ones: tuple[int, ...] = ()
    value: Value | None = None

    @property
    def channels(self) -> int | None:
        """Channels of it, where they are the second axis and something in front of it tells."""
        if self.value is None or self.rank is None or channel_axis(self.value) not in (self.rank - 2, None):
            return None
        return channels_in(self.value)

    @property
    def grouped(self) -> bool:
        """Whether a convolution of several groups of more than one channel makes it."""
        return self.value is not None and is_grouped(self.value)


def new_value(flow: Flow, path: str, node: fx.Node, inputs: list[Value] | None = None) -> Value:
    """The next value of `flow`: that of `node`, in the forward of the module at `path`."""
    value = Value(path, node, len(flow.values), inputs or [], under=node.meta.get(UNDER, ""))
    for read in value.inputs:
        read.users.append(value)
    flow.values.append(value)
    return value


def inputs_of(frame: Frame, node: fx.Node) -> list[Value]:
    """The values that `node` reads, each once."""
    values = [frame.values[n] for n in node.all_input_nodes if n in frame.values]
    return list(dict.fromkeys(values))


def context_of(inputs: list[Value]) -> Context:
    """What is known about the first input."""
    if not inputs:
        return Context()
    op = None if inputs[0].term is None else inputs[0].term.op
    return Context(inputs[0].rank, op.ones if isinstance(op, Layout) else (), inputs[0])
