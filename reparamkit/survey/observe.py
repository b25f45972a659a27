"""observe: what every module is called with, from one run of a copy of the model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from reparamkit.arguments import called
from reparamkit.block import Seen, Shape
from reparamkit.chance import settled
from reparamkit.edits.copies import WITHOUT_EXAMPLE, copy_of
from reparamkit.paths import modules_under

if TYPE_CHECKING:
    from reparamkit.survey import Survey


def observe(model: nn.Module, example_inputs: Any) -> dict[str, Seen | None]:
    """Run a copy of `model` once.

    Args:
        model: the model, in eval mode; not touched.
        example_inputs: a tensor, a tuple of positional arguments or a dict of keyword arguments.

    Returns:
        For each module that was called, by path, what it was called with; `None` when two calls differ.
    """
    found: dict[str, Seen | None] = {}

    def note(path: str, args: Any, kwargs: Any, output: Any) -> None:
        seen = Seen(*pytree.tree_map(_shape, (args, kwargs, output)))
        known = found.get(path, seen)
        found[path] = seen if known is not None and _sizes(known) == _sizes(seen) else None

    _run_copy(model, example_inputs, note)
    return found


def observe_ranks(found: Survey, model: nn.Module, example_inputs: Any) -> None:
    """Run a copy of `model` once and note how many axes the inputs and outputs of each module have, and their sizes.

    Args:
        found: the survey to add to.
        model: the model, in eval mode; not touched.
        example_inputs: as for `apply`.
    """

    def note(path: str, args: Any, kwargs: Any, output: Any) -> None:
        ranks = tuple(a.ndim if isinstance(a, Tensor) else None for a in args)
        out = output.ndim if isinstance(output, Tensor) else None
        if path in found.ranks_in and (found.ranks_in[path], found.ranks_out[path]) != (ranks, out):
            ranks, out = (), None
        found.ranks_in[path], found.ranks_out[path] = ranks, out
        if args and isinstance(args[0], Tensor):
            found.sizes_in[path] = tuple(args[0].shape)
        if isinstance(output, Tensor):
            found.sizes_out[path] = tuple(output.shape)

    _run_copy(model, example_inputs, note)


def _run_copy(model: nn.Module, example_inputs: Any, note: Callable[[str, Any, Any, Any], None]) -> None:
    """Run a copy of `model` once; `note` gets the path, arguments and output of every call."""

    def run() -> Any:
        twin = copy_of(model, instead=WITHOUT_EXAMPLE)
        for path, module in modules_under(twin):
            if not isinstance(module, torch.jit.ScriptModule):  # those take no hooks
                module.register_forward_hook(partial(_called, note, path), with_kwargs=True)
        return called(twin, example_inputs)

    with torch.no_grad():
        settled(run, model)


def _called(note: Callable[..., None], path: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
    note(path, args, kwargs, output)


def _shape(x: Any) -> Any:
    if not isinstance(x, Tensor):
        return x
    return Shape(tuple(x.shape), None if x.is_floating_point() else x.detach().clone())


def _sizes(seen: Seen) -> list[Any]:
    leaves, spec = pytree.tree_flatten((seen.args, seen.kwargs, seen.output))
    return [spec, *(leaf.size if isinstance(leaf, Shape) else type(leaf) for leaf in leaves)]
