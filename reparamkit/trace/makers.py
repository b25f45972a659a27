"""makers: axes and channels of a value, as the layers in front of it tell while a forward is still being traced.

``x.chunk(3, 1)`` has three parts where a layer of 12 channels made `x`; ``*x.shape[2:]`` are two sizes behind a
`Conv2d`. What they tell is written down like everything else that a trace looks at.
"""

from __future__ import annotations

import operator
from math import ceil
from typing import TYPE_CHECKING, Any

from torch import fx, nn

from reparamkit.nodes.names import name_of
from reparamkit.nodes.ranks import entries_of, keeps_channels, rank_of_call, rank_of_module
from reparamkit.nodes.shapes import asked_size, is_shape
from reparamkit.paths import joined, module_at

if TYPE_CHECKING:
    from reparamkit.trace.reuse import Log

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_LIKE = ("torch.nn.modules.activation", "torch.nn.modules.dropout", "torch.nn.modules.pooling")
_DIVISIONS = (operator.floordiv, operator.truediv)


class Makers:
    """Answers for one forward.

    Attributes:
        module: whose forward it is.
        log: of the trace.
    """

    def __init__(self, module: nn.Module, log: Log) -> None:
        self.module = module
        self.log = log

    def parts(self, node: fx.Node) -> int | None:
        """How many parts an iteration over the value has, exactly; `None` where nothing tells."""
        if name_of(node.target) in ("chunk", "split"):
            return self._cuts(node)
        first = node.args[0] if node.args else None
        sizes = is_shape(node) or (node.target is operator.getitem and is_shape(first))
        return entries_of(node, self._entries) if sizes else None

    def _entries(self, node: fx.Node) -> int | None:
        """Axes of a value, entries of a shape."""
        return self.axes(node.args[0] if is_shape(node) else node)

    def _cuts(self, node: fx.Node) -> int | None:
        names = ("chunks", "split_size", "split_size_or_sections")
        wanted = node.args[1] if len(node.args) > 1 else next((node.kwargs[n] for n in names if n in node.kwargs), None)
        axis = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
        total, size = self.channels(node.args[0]) if axis == 1 else None, self.number(wanted)
        if total is None or size is None or size < 1:
            return None
        return ceil(total / ceil(total / size)) if name_of(node.target) == "chunk" else ceil(total / size)

    def number(self, size: Any) -> int | None:
        """A number of channels, or what is computed from one."""
        if not isinstance(size, fx.Node):
            return size if type(size) is int else None
        if size.target is int:
            return self.number(size.args[0])
        if size.target in _DIVISIONS and type(size.args[1]) is int and size.args[1] > 0:
            top = self.number(size.args[0])
            exact = top is not None and (size.target is operator.floordiv or top % size.args[1] == 0)
            return top // size.args[1] if exact and top is not None else None
        asked = asked_size(size)
        return self.channels(asked[0]) if asked is not None and asked[1] == 1 else None

    def axes(self, node: Any) -> int | None:
        """Axes of a value."""
        if not isinstance(node, fx.Node) or node.op in ("placeholder", "get_attr"):
            return None
        if node.op == "call_module":
            return self._axes_behind(str(node.target), self.axes(node.args[0]) if node.args else None)
        ranks = [self.axes(read) for read in node.all_input_nodes]
        return rank_of_call(node.target, node.args, node.kwargs, ranks)

    def _axes_behind(self, path: str, rank: int | None) -> int | None:
        module = self._looked_at(path)
        if type(module) is nn.Sequential:
            for name in self._names(path, module):
                rank = self._axes_behind(joined(path, name), rank)
            return rank
        return None if module is None else rank_of_module(module, rank)

    def channels(self, node: Any) -> int | None:
        """Channels of a value, its second axis."""
        if not isinstance(node, fx.Node) or not node.args:
            return None
        if node.op == "call_module":
            return self._channels_behind(str(node.target), node.args[0])
        if name_of(node.target) in ("cat", "concat", "concatenate"):
            return self._stacked(node)
        kept = isinstance(node.args[0], fx.Node) and keeps_channels(node.args[0], node)
        return self.channels(node.args[0]) if kept else None

    def _stacked(self, node: fx.Node) -> int | None:
        along = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        parts = [self.channels(part) for part in node.args[0]] if isinstance(node.args[0], (list, tuple)) else [None]
        return sum(part or 0 for part in parts) if along == 1 and None not in parts else None

    def _channels_behind(self, path: str, given: Any) -> int | None:
        module = self._looked_at(path)
        if isinstance(module, (*_CONVS, *_NORMS)):
            name = "out_channels" if isinstance(module, _CONVS) else "num_features"
            self.log.note(path, name, getattr(module, name))
            return int(getattr(module, name))
        if type(module) is nn.Sequential:
            names = self._names(path, module)
            for name in reversed(names):
                found = self._channels_behind(joined(path, name), None)
                if found is not None or not self._keeps_channels(joined(path, name)):
                    return found
            return self.channels(given)
        return self.channels(given) if self._keeps_channels(path) else None

    def _keeps_channels(self, path: str) -> bool:
        module = self._looked_at(path)
        return isinstance(module, nn.Identity) or type(module).__module__ in _LIKE

    def _names(self, path: str, module: nn.Module) -> tuple[str, ...]:
        self.log.note(path, "()", tuple(module._modules))
        return tuple(module._modules)

    def _looked_at(self, path: str) -> nn.Module | None:
        """The module at `path`, whose class is written down."""
        holder, _, name = path.rpartition(".")
        module = module_at(self.module, path)
        if module is not None:
            self.log.note(holder, name, module)
        return module if module is not None and not module._forward_hooks else None
