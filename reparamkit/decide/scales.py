"""scales: products with a constant that may go in front of the activation they stand behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import fx

from reparamkit.paths import joined
from reparamkit.rules.homogeneous import may_move
from reparamkit.trace.scales import MovedScale, Written, can_be_written

if TYPE_CHECKING:
    from reparamkit.decide.choice import Choice
    from reparamkit.flow import Flow, Frame, Value


def scales_to_move(frame: Frame, flow: Flow, chosen: Choice) -> list[MovedScale]:
    """Those whose activation stands in the forward of `frame`, the product there too or in a child's forward."""
    found = []
    for node in frame.traced.graph.nodes:
        act = frame.values.get(node)
        here = act is not None and act.path == frame.path and act.node is node
        product = _product_of(act, chosen) if act is not None and here else None
        if product is None:
            continue
        if product.path == frame.path:
            found.append(MovedScale(node, product.node))
        elif (child := _child(frame, node, flow.frames[product.path])) is not None:
            found.append(MovedScale(node, product.node, child))
    return found


def _product_of(act: Value, chosen: Choice) -> Value | None:
    """The product that alone reads an activation, which alone reads an operator."""
    if len(act.readers) != 1 or len(act.users) != 1 or act.unstable is not None or act.escapes:
        return None
    product = act.readers[0]
    if product in chosen.done or product.source is not act or not may_move(product) or not _is_stored(product):
        return None
    given = act.inputs[0]
    alone = given.term is not None and len(given.readers) == 1 and not given.escapes
    return product if alone and given.unstable is None and product.unstable is None else None


def _is_stored(product: Value) -> bool:
    """Whether its constant is a number or stands in the module as it is, so that it can be read earlier."""
    others = [n for n in product.node.all_input_nodes if n.op != "get_attr"]
    return len(others) == 1


def _child(frame: Frame, act: fx.Node, inner: Frame) -> Written | None:
    """The child of `frame`, its forward `inner`, that is called with the activation."""
    for user in act.users:
        called = user.op == "call_module" and joined(frame.path, str(user.target)) == inner.path
        if called and inner.takes_one:
            return Written(user, inner.traced) if can_be_written(inner.traced) else None
    return None
