"""tree: nested arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx


def mapped(tree: Any, read: Callable[[fx.Node], Any]) -> Any:
    """`tree` with every node replaced by what it stands for."""
    if isinstance(tree, fx.Node):
        return read(tree)
    if isinstance(tree, (tuple, list)):
        return (tuple if isinstance(tree, tuple) else list)(mapped(item, read) for item in tree)
    if isinstance(tree, slice):
        return slice(mapped(tree.start, read), mapped(tree.stop, read), mapped(tree.step, read))
    return {k: mapped(v, read) for k, v in tree.items()} if isinstance(tree, dict) else tree
