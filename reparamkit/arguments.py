"""What a user may give as `example_inputs`, and a model run on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from reparamkit.errors import ModelError


def arguments(example_inputs: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Positional and keyword arguments from what a user gives as `example_inputs`.

    Their tensors are copies, for a forward may change what it is given. One that is given twice stays one.
    """
    example_inputs = _copied(example_inputs)
    if isinstance(example_inputs, dict):
        return (), example_inputs
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    return (example_inputs,), {}


def called(model: nn.Module, example_inputs: Any) -> Any:
    """What `model` returns for `example_inputs`.

    Raises:
        ModelError: RK104 when it cannot be run on them.
    """
    args, kwargs = arguments(example_inputs)
    try:
        return model(*args, **kwargs)
    except Exception as error:  # the user's code, on what the user gave
        given = _sizes((args, kwargs))
        text = f"{type(model).__name__} does not run on the example inputs{given}: {type(error).__name__}: {error}"
        raise ModelError("RK104", text) from error


def _sizes(given: Any) -> str:
    """The sizes of the tensors in what was given."""
    sizes = ["x".join(map(str, x.shape)) for x in pytree.tree_leaves(given) if isinstance(x, Tensor)]
    return f" ({', '.join(sizes[:4])})" if sizes else ""


def _copied(example_inputs: Any) -> Any:
    known: dict[int, Tensor] = {}

    def copied(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if id(x) not in known:
            known[id(x)] = x.detach().clone().requires_grad_(x.requires_grad)
        return known[id(x)]

    return pytree.tree_map(copied, example_inputs)
