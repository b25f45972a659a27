"""escapes: values that something outside their flow reads, so that they have to be there."""

from __future__ import annotations

from torch import fx

from reparamkit.flow import Frame, Value
from reparamkit.paths import within


def escape(value: Value | None) -> None:
    """Somebody outside reads `value`, if there is one."""
    if value is not None:
        value.escapes = True


def escape_outputs(frame: Frame) -> None:
    """Whoever calls the module reads what its forward returns."""
    for node in frame.traced.graph.nodes:
        if node.op == "output":
            fx.node.map_arg(node.args, lambda n: escape(frame.values.get(n)))


def escape_dropped(inner: Frame) -> None:
    """What a forward returns and its caller drops is still what the module returns to whoever calls it."""
    for node in inner.traced.graph.output_node().all_input_nodes:
        value = inner.values.get(node)
        if value is not None and all(within(user.path, [inner.path]) for user in value.users):
            value.escapes = True
