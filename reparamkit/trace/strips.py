"""strips: tensors of one value a channel, however large: ``value.expand(n, -1, 1, w)``, ``x.new_zeros(n, c, 1, w)``.

Joined to the sides of an image they are padding (`borders.py`). Their sizes may be sizes of the input, which nobody
knows while tracing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from reparamkit.nodes.names import name_of

_SAME = frozenset({"to", "type_as", "contiguous", "clone"})
_FILLED = {"new_zeros": 0.0, "zeros": 0.0, "new_ones": 1.0, "ones": 1.0}


@dataclass(frozen=True)
class Strip:
    """A tensor of one value a channel.

    Attributes:
        value: of each channel ``[C]``, or of all of them.
        sizes: of its axes; `None` where it is not known.
    """

    value: Tensor | float
    sizes: tuple[int | None, ...]

    def is_alike(self, other: Strip) -> bool:
        """Whether the other has the same values and as many axes."""
        if len(self.sizes) != len(other.sizes) or type(self.value) is not type(other.value):
            return False
        if isinstance(self.value, Tensor) and isinstance(other.value, Tensor):
            return bool(torch.equal(self.value, other.value))
        return bool(self.value == other.value)


def strip_of(part: Any, constants: Mapping[str, Any]) -> Strip | None:
    """What a node computes, if it is such a tensor of three axes or more.

    Args:
        part: a node of a traced forward.
        constants: the tensors that its ``get_attr`` nodes stand for, by name.
    """
    if not isinstance(part, fx.Node):
        return None
    if part.op == "get_attr":
        return _stored(constants.get(str(part.target)))
    name = name_of(part.target)
    if name in _FILLED:
        sizes = _sizes(part.args[1:] if part.op == "call_method" else part.args)
        return Strip(_FILLED[name], tuple(map(_known, sizes))) if len(sizes) > 2 else None
    if name not in ("expand", "broadcast_to", "repeat", *_SAME) or not part.args:
        return None
    base = strip_of(part.args[0], constants)
    return base if base is None or name in _SAME else _larger(base, name, _sizes(part.args[1:]))


def _stored(tensor: Any) -> Strip | None:
    if not isinstance(tensor, Tensor) or tensor.ndim < 3 or not tensor.numel():
        return None
    value = tensor.detach().select(0, 0).flatten(1)[:, 0]
    uniform = bool((tensor == value.reshape(1, -1, *[1] * (tensor.ndim - 2))).all())
    return Strip(value, tuple(tensor.shape)) if uniform else None


def _larger(base: Strip, name: str, sizes: list[Any]) -> Strip | None:
    """The strip with its axes, of which the channels stay as they are, made longer."""
    if len(sizes) != len(base.sizes) or sizes[1] not in ((1,) if name == "repeat" else (-1, base.sizes[1])):
        return None
    if name == "repeat":
        pairs = zip(map(_known, sizes), base.sizes, strict=True)
        return Strip(base.value, tuple(None if n is None or old is None else n * old for n, old in pairs))
    return Strip(base.value, tuple(b if s == -1 else _known(s) for s, b in zip(sizes, base.sizes, strict=True)))


def _known(size: Any) -> int | None:
    return size if type(size) is int else None


def _sizes(args: tuple[Any, ...]) -> list[Any]:
    return list(args[0]) if len(args) == 1 and isinstance(args[0], (list, tuple)) else list(args)
