"""The form of example inputs (shapes and dtypes, no numbers) as plain data, and inputs of that form again.

A conversion may depend on how many axes a module's input has, never on the numbers. So a checkpoint that stores the
form can be read without the example.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

_MOST = 2**27  # numbers; a file must not be able to fill the memory
_PLAIN = (bool, int, float, str)


def form_of(example_inputs: Any) -> Any:
    """Plain data that JSON can hold; `None` when something in `example_inputs` has no such form.

    Args:
        example_inputs: a tensor, a tuple or list of arguments or a dict of keyword arguments, nested as they are.
    """
    try:
        return None if example_inputs is None else _form(example_inputs)
    except TypeError:
        return None


def _form(x: Any) -> dict[str, Any]:
    if isinstance(x, Tensor):
        return {"shape": list(x.shape), "dtype": str(x.dtype).removeprefix("torch.")}
    if x is None or type(x) in _PLAIN:
        return {"value": x}
    if type(x) in (tuple, list):
        return {type(x).__name__: [_form(one) for one in x]}
    if isinstance(x, dict) and all(type(key) is str for key in x):
        return {"dict": {key: _form(one) for key, one in x.items()}}
    raise TypeError(type(x).__name__)


def inputs_of(form: Any, model: nn.Module) -> Any:
    """Inputs of a form: random numbers, zeros where there were integers, in the dtype and on the device of `model`.

    Raises:
        ValueError: the form is none, or its tensors are too large.
    """
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return _made(form, like, [0])


def _made(form: Any, like: Tensor, used: list[int]) -> Any:
    if not isinstance(form, Mapping):
        raise ValueError(f"expected a mapping, got {type(form).__name__}")
    match dict(form):
        case {"shape": list(shape), "dtype": str(dtype), **rest} if not rest:
            return _tensor(shape, dtype, like, used)
        case {"value": value, **rest} if not rest and (value is None or type(value) in _PLAIN):
            return value
        case {"tuple": list(parts), **rest} if not rest:
            return tuple(_made(part, like, used) for part in parts)
        case {"list": list(parts), **rest} if not rest:
            return [_made(part, like, used) for part in parts]
        case {"dict": dict(parts), **rest} if not rest:
            return {key: _made(part, like, used) for key, part in parts.items()}
    raise ValueError(f"expected the form of a tensor, a tuple, a list, a dict or a value, got keys {', '.join(form)}")


def _tensor(shape: list[Any], name: str, like: Tensor, used: list[int]) -> Tensor:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"expected a shape and a dtype, got {shape} and {name!r}")
    used[0] += prod(shape)
    if used[0] > _MOST:
        raise ValueError(f"the inputs have more than {_MOST} numbers")
    if not dtype.is_floating_point:
        return torch.zeros(shape, dtype=dtype, device=like.device)
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return drawn.to(device=like.device, dtype=like.dtype)
