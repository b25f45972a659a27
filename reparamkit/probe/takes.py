"""What a black box takes: the name of its input, how many channels it may have, how many axes."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any

from torch import Tensor, nn

from reparamkit.probe.blackbox import Unmeasurable

_CHANNELS = ("in_channels", "num_features", "in_features", "num_channels")
_AXES = {"1d": 1, "2d": 2, "3d": 3}
_MOST = 32  # guesses, each of which costs one small call


def single_input(module: nn.Module) -> str:
    """The name of the only argument of the forward.

    Raises:
        Unmeasurable: RK612 when there is none, or another one.
    """
    try:
        found = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError) as error:
        raise Unmeasurable("RK612", f"its arguments are not known: {error}") from error
    names = ", ".join(map(str, found))
    if len(found) != 1 or found[0].kind not in (found[0].POSITIONAL_ONLY, found[0].POSITIONAL_OR_KEYWORD):
        raise Unmeasurable("RK612", f"it takes ({names}), not one tensor")
    return found[0].name


def guesses(module: nn.Module, seen: tuple[int, ...] | None) -> list[tuple[int, int]]:
    """(Spatial axes, channels) that the input may have, the likeliest first.

    Args:
        module: the module.
        seen: size of the input in a run of the model; then it is one of two, with the channels in front or last.
    """
    if seen is not None:
        axes = [(len(seen) - 2, seen[1])] if len(seen) in (3, 4, 5) else []
        return [*axes, (0, seen[-1])]
    layers = list(dict.fromkeys(_of_layers(module)))
    axes = _unique(nd for nd, _ in layers if nd is not None)
    channels = _unique(c for _, c in layers)
    shapes = [tuple(t.shape) for t in (*module.parameters(), *module.buffers(), *hidden_arrays(module))]
    axes = axes or _unique(len(s) - 2 for s in shapes if len(s) in (3, 4, 5)) or [2, 1, 3, 0]
    channels = _unique([*channels, *(n for s in shapes for n in _of_shape(s))])
    likely = [(nd, c) for nd, c in layers if nd is not None]
    return _unique([*likely, *product(axes, channels)])[:_MOST]


def hidden_arrays(module: nn.Module) -> list[Any]:
    """Tensors and NumPy arrays that are attributes of a module and neither parameters nor buffers."""
    found = [value for inner in module.modules() for value in inner.__dict__.values()]
    return [v for v in found if isinstance(v, Tensor) or (hasattr(v, "__array__") and hasattr(v, "shape"))]


def _of_layers(module: nn.Module) -> Iterator[tuple[int | None, int]]:
    for inner in module.modules():
        name = type(inner).__name__
        nd = 0 if isinstance(inner, nn.Linear) else next((n for end, n in _AXES.items() if end in name.lower()), None)
        channels = next((getattr(inner, key) for key in _CHANNELS if type(getattr(inner, key, None)) is int), None)
        if channels is not None:
            yield nd, channels


def _of_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of a kernel its inputs, or one for each of its groups; of a vector its length."""
    return (shape[1], shape[0]) if len(shape) > 1 else shape


def _unique(items: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(items))
