"""Real tensors beside sizes that are not known: ``weight.expand(x.size(0), -1, 1, x.size(3))``, ``table[:, :n]``.

A trace has real parameters and traced sizes. Methods of a tensor that take their sizes one by one, and slices, want
Python numbers and end with a `TypeError`. A forward that ends so is traced once more with parameters that record these
calls; what is computed from them does so too.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.proxy import Proxy

_METHODS = (
    "expand new_empty new_ones new_zeros permute repeat reshape tile view".split()  # what takes sizes one by one
)
CREATORS = frozenset({torch.empty, torch.eye, torch.full, torch.ones, torch.zeros})
_ONE_SHAPE = CREATORS - {torch.eye, torch.full}  # their sizes may be given one by one, and are one shape


def unknown(sizes: Any) -> Proxy | None:
    """A traced size among these numbers, slices and tuples of them."""
    if isinstance(sizes, Proxy):
        return sizes
    if isinstance(sizes, slice):
        return unknown((sizes.start, sizes.stop, sizes.step))
    parts = map(unknown, sizes) if isinstance(sizes, (tuple, list)) else ()
    return next((part for part in parts if part is not None), None)


class SizedTensor(Tensor):
    """A tensor whose methods take traced sizes, and which is a parameter to `isinstance` where that was one."""

    _is_param: bool

    def __getitem__(self, index: Any) -> Any:
        held = unknown(index)
        if held is None or not isinstance(index, (slice, tuple)):
            return super().__getitem__(index)
        return held.tracer.create_proxy("call_function", operator.getitem, (self, index), {})


def _recording(name: str) -> Callable[..., Any]:
    real = getattr(Tensor, name)

    def run(self: Any, *sizes: Any, **options: Any) -> Any:
        held = unknown(sizes)
        if held is None:
            return real(self, *sizes, **options)
        return held.tracer.create_proxy("call_method", name, (self, *sizes), options)

    return run


for _name in _METHODS:
    setattr(SizedTensor, _name, _recording(_name))


def sized(tensor: Tensor) -> Tensor:
    """The same numbers as a `SizedTensor`."""
    made = tensor.as_subclass(SizedTensor)
    made._is_param = isinstance(tensor, nn.Parameter)
    return made


def created(function: Callable[..., Any]) -> Callable[..., Any]:
    """``torch.zeros(n, c)`` as ``torch.zeros((n, c))``, recorded here: torch 2.6 takes no traced size in a tuple.

    Nor does it take the dtype of what is traced.
    """

    def run(*given: Any, **options: Any) -> Any:
        held = unknown((*given, *options.values()))
        if held is None:
            return function(*given, **options)
        whole = (given,) if function in _ONE_SHAPE and len(given) > 1 else given
        return held.tracer.create_proxy("call_function", function, whole, options)

    return run
