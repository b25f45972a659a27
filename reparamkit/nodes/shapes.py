"""shapes: which size of what is asked for."""

from __future__ import annotations

import operator
from typing import Any

from torch import fx


def is_shape(node: Any) -> bool:
    """Whether it is ``x.shape`` or ``x.size()``."""
    if not isinstance(node, fx.Node):
        return False
    return node.args[1:] == ("shape",) if node.target is getattr else node.target == "size" and len(node.args) == 1


def asked_size(node: fx.Node) -> tuple[Any, int] | None:
    """The node whose size a node is, and the axis: ``x.size(1)``, ``x.shape[1]``, ``x.shape[1:][0]``."""
    index = node.args[1] if len(node.args) == 2 else None
    if type(index) is not int:
        return None
    if node.op == "call_method" and node.target == "size":
        return node.args[0], index
    whole: Any = node.args[0] if node.target is operator.getitem else None
    while isinstance(whole, fx.Node) and whole.target is operator.getitem and isinstance(whole.args[1], slice):
        start, step = whole.args[1].start or 0, whole.args[1].step
        if index < 0 or type(start) is not int or start < 0 or step is not None:
            return None
        whole, index = whole.args[0], index + start
    return (whole.args[0], index) if is_shape(whole) else None
