"""A product with a constant, moved in front of the activation that it stands behind."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import fx

from reparamkit.trace.traced import Traced


@dataclass(frozen=True)
class Written:
    """A child whose forward is written into that of its caller.

    Attributes:
        call: the call of it.
        traced: its forward.
    """

    call: fx.Node
    traced: Traced

    def write(self, graph: fx.Graph, copied: dict[fx.Node, fx.Node]) -> None:
        """Write it in place of the call; its nodes are added to `copied`."""
        call = copied[self.call]
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                copied[node] = copied[self.call.all_input_nodes[0]]
            elif node.op == "output":
                made = copied[node.args[0]]
            else:
                with graph.inserting_before(call):
                    copied[node] = graph.node_copy(node, copied.__getitem__)
                if node.op == "get_attr":
                    copied[node].target = f"{self.call.target}.{node.target}"
        call.replace_all_uses_with(made)
        graph.erase_node(call)
        copied[self.call] = made


@dataclass(frozen=True)
class MovedScale:
    """``scale * act(x)`` as ``act(scale * x)``.

    Attributes:
        act: the call of the activation.
        product: the product.
        child: the child that computes the product, where it is not the forward itself.
    """

    act: fx.Node
    product: fx.Node
    child: Written | None = None

    def write(self, graph: fx.Graph, copied: dict[fx.Node, fx.Node]) -> list[fx.Node]:
        """As `Reordering.write`: the product."""
        if self.child is not None:
            self.child.write(graph, copied)
        act, old = copied[self.act], copied[self.product]
        given = act.all_input_nodes[0]
        with graph.inserting_before(act):
            moved = {n: graph.node_copy(n) for n in old.all_input_nodes if n is not act}
            new = graph.node_copy(old, {**moved, act: given}.__getitem__)
        act.replace_input_with(given, new)
        old.replace_all_uses_with(act)
        graph.erase_node(old)
        for constant in moved:
            if not constant.users:
                graph.erase_node(constant)
        copied[self.product] = act
        return [new]

    @property
    def rule(self) -> str:
        """As `Reordering.rule`."""
        return "core/homogeneous"

    def widened(self, traced: Traced) -> Traced:
        """As `Reordering.widened`: the forward reads what its child read."""
        if self.child is None:
            return traced
        child, prefix = self.child.traced, f"{self.child.call.target}."
        return replace(
            traced,
            reads=traced.reads | {prefix + name for name in child.reads},
            looked=traced.looked | {prefix + name for name in child.looked},
            follows=traced.follows or child.follows,
        )


def can_be_written(child: Traced) -> bool:
    """Whether the forward of a child does nothing but compute one value of its input and its parameters."""
    apart = not (child.constants or child.fixed or child.stored or child.leaves or child.past or child.ran)
    plain = apart and not (child.guarded or child.switches or child.reads_training) and len(child.placeholders) == 1
    nodes = child.graph.nodes
    return plain and all(isinstance(n.args[0], fx.Node) if n.op == "output" else n.op != "call_module" for n in nodes)
