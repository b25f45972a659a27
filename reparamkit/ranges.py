"""Which values are never negative, as far as the forwards that make them tell.

A value is non-negative when the operation that makes it cannot give anything else (ReLU, sigmoid, ...), or when the
operation keeps the sign (pooling, sums and products of non-negative values, rearranging) and all it reads is
non-negative. What is not known is taken for negative. NaN counts as neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from reparamkit.nodes.names import name_of
from reparamkit.survey import hooked

if TYPE_CHECKING:
    from reparamkit.flow import Flow, Value

_MAKERS = (
    nn.ReLU,
    nn.ReLU6,
    nn.Sigmoid,
    nn.Hardsigmoid,
    nn.Softmax,
    nn.Softmax2d,
)
_KEEPERS = (
    *(nn.Identity, nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.ChannelShuffle),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ReflectionPad1d, nn.ReflectionPad2d),
    *(nn.ReplicationPad1d, nn.ReplicationPad2d),
)
_MAKING = frozenset("relu relu_ relu6 sigmoid sigmoid_ hardsigmoid softmax abs square exp".split())
_ARITHMETIC = frozenset("add iadd mul imul add_ mul_".split())
_CLAMPING = frozenset("clamp clamp_ clip clip_ clamp_min clamp_min_".split())
_KEEPING = _ARITHMETIC | frozenset(
    (
        "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
        "adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d dropout flatten reshape view "
        "permute transpose contiguous squeeze unsqueeze clone detach mean sum amax cat concat getitem "
        "chunk split narrow pixel_shuffle channel_shuffle expand roll flip"
    ).split()
)


class Ranges:
    """What is known about the signs of one flow's values."""

    def __init__(self, flow: Flow) -> None:
        self._frames = flow.frames
        self._known: dict[Value, bool] = {}
        for value in flow.values:
            self._known[value] = self._look(value)

    def nonnegative(self, value: Value) -> bool:
        """Whether no element of `value` is ever below zero."""
        return value.unstable is None and self._known.get(value, False)

    def _look(self, value: Value) -> bool:
        if value.meta or value.node.op == "placeholder":
            return False
        if value.module is not None:
            return self._of_module(value.module, value)
        name = name_of(value.node.target)
        if not _is_torch(value.node):
            return False
        if name in _MAKING or (name in _CLAMPING and _clamps_to_positive(value.node)):
            return True
        if name in _ARITHMETIC and not _no_negative(value.node):
            return False
        return name in _KEEPING and self._all_kept(value)

    def _of_module(self, module: nn.Module, value: Value) -> bool:
        if value.split is not None or value.tail is not None or hooked(module, "") is not None:
            return False
        if _runs_as(module, _MAKERS):
            return True
        return _runs_as(module, _KEEPERS) and bool(value.inputs) and all(map(self.nonnegative, value.inputs))

    def _all_kept(self, value: Value) -> bool:
        """Whether every tensor that is read is non-negative; a parameter may become anything."""
        values = self._frames[value.path].values
        read = value.node.all_input_nodes
        if not read or any(node not in values for node in read):
            return False
        tensors = [values[node] for node in read if not values[node].meta]
        return bool(tensors) and all(map(self.nonnegative, tensors))


def _runs_as(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    return any(isinstance(module, kind) and type(module).forward is kind.forward for kind in kinds)


def _is_torch(node: fx.Node) -> bool:
    if node.op == "call_method":
        return True
    home: Any = getattr(node.target, "__module__", None)
    builtin = home is None or str(home).split(".")[0] in ("torch", "_operator", "math")
    return builtin or getattr(torch, getattr(node.target, "__name__", ""), None) is node.target


def _no_negative(node: fx.Node) -> bool:
    """Whether no number beside the tensors is negative, and none is known to nobody (a shape)."""
    numbers = [a for a in (*node.args, *node.kwargs.values()) if not isinstance(a, fx.Node)]
    return all(isinstance(a, (int, float)) and a >= 0 for a in numbers)


def _clamps_to_positive(node: fx.Node) -> bool:
    low = node.kwargs.get("min", node.args[1] if len(node.args) > 1 else None)
    high = node.kwargs.get("max", node.args[2] if len(node.args) > 2 else 0)
    return all(isinstance(bound, (int, float)) and bound >= 0 for bound in (low, 0 if high is None else high))
