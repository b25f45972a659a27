"""observe: the sizes of what every module is called with, from one run of a copy of the model."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from reparamkit.arguments import arguments
from reparamkit.block import Seen, Shape
from reparamkit.trace import modules_under


def observe(model: nn.Module, example_inputs: Any) -> dict[str, Seen | None]:
    """Run a copy of `model` once.

    Args:
        model: the model, in eval mode; not touched.
        example_inputs: a tensor, a tuple of positional arguments or a dict of keyword arguments.

    Returns:
        For each module that was called, by path, what it was called with; `None` when two calls differ.
    """
    twin = copy.deepcopy(model)
    found: dict[str, Seen | None] = {}
    for path, module in modules_under(twin):
        module.register_forward_hook(_noting(found, path), with_kwargs=True)
    args, kwargs = arguments(example_inputs)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        twin(*args, **kwargs)
    return found


def _noting(found: dict[str, Seen | None], path: str) -> Any:
    def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        seen = Seen(*pytree.tree_map(_shape, (args, kwargs, output)))
        known = found.get(path, seen)
        found[path] = seen if known is not None and _sizes(known) == _sizes(seen) else None

    return note


def _shape(x: Any) -> Any:
    if not isinstance(x, Tensor):
        return x
    return Shape(tuple(x.shape), None if x.is_floating_point() else x.detach().clone())


def _sizes(seen: Seen) -> list[Any]:
    leaves, spec = pytree.tree_flatten((seen.args, seen.kwargs, seen.output))
    return [spec, *(leaf.size if isinstance(leaf, Shape) else type(leaf) for leaf in leaves)]
