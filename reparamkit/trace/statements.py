"""Operations in place that stand as statements, ``out.add_(y)``: what is read afterwards is their result.

A method that writes into a tensor returns that tensor, so nothing else is computed; but the graph then says in which
order things happen, as it does for ``out = out.add_(y)``.
"""

from __future__ import annotations

from torch import Tensor, fx


def write_statements(graph: fx.Graph) -> None:
    """Let readers of a tensor that has been written into read the result of that; the graph is changed."""
    order = {node: index for index, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if not _writes(node):
            continue
        written = node.args[0]
        for user in [user for user in written.users if order[user] > order[node]]:
            user.replace_input_with(written, node)


def _writes(node: fx.Node) -> bool:
    """Whether it is a method of tensors that changes the tensor and returns it."""
    name = str(node.target)
    inplace = node.op == "call_method" and name.endswith("_") and not name.endswith("__") and hasattr(Tensor, name)
    return inplace and bool(node.args) and isinstance(node.args[0], fx.Node)
