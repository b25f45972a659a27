"""A model as a `torch.export` program whose batch and image size are free where the model lets them be."""

from __future__ import annotations

import inspect
import warnings
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from reparamkit.arguments import arguments
from reparamkit.errors import ExportError

Dynamic = bool | Literal["batch"]


def export_program(model: nn.Module, example_inputs: Any, *, dynamic: Dynamic = True) -> ExportedProgram:
    """Export `model` with `torch.export`.

    Args:
        model: in eval mode.
        example_inputs: a tensor, a tuple of arguments or a dict of keyword arguments.
        dynamic: leave the batch (first axis) and the positions (third axis and on) of every input free, as far as
            the model does not fix them itself; "batch" leaves the batch free, `False` nothing.

    Returns:
        The program; its `range_constraints` say what is free.

    Raises:
        ExportError: RK922 with what `torch.export` says.
    """
    args, kwargs = arguments(example_inputs)
    if dynamic:
        args, kwargs = pytree.tree_map(_two, (args, dict(kwargs)))
    free = partial(_free, batch_only=dynamic == "batch")
    shapes = pytree.tree_map(free, (args, dict(kwargs))) if dynamic else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch to its own developers
            return torch.export.export(model, args, dict(kwargs) or None, dynamic_shapes=_by_name(shapes, model))
    except Exception as error:  # the exporter runs the model's own code, which may fail in any way
        raise ExportError("RK922", f"torch.export: {first_line(error)}") from error


def free_axes(program: ExportedProgram) -> dict[str, tuple[int, ...]]:
    """Axes of each input that are free, by the input's name."""
    found = {}
    inputs = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in inputs and isinstance(node.meta.get("val"), Tensor):
            shape = node.meta["val"].shape
            # A size that turned out to be fixed is still a symbol, of one number.
            found[node.name] = tuple(axis for axis, size in enumerate(shape) if not str(size).isdigit())
    return found


def _two(x: Any) -> Any:
    """A batch of one would be taken for a constant."""
    return torch.cat([x, x]) if isinstance(x, Tensor) and x.dim() > 1 and len(x) == 1 else x


def _free(x: Any, batch_only: bool) -> Any:
    if not isinstance(x, Tensor) or x.dim() < 2:
        return None
    return {axis: Dim.AUTO for axis in range(1 if batch_only else x.dim()) if axis != 1}


def _by_name(shapes: Any, model: nn.Module) -> Any:
    """The form `torch.export` takes: one tuple when all are positional, else a dict by parameter name."""
    if shapes is None:
        return None
    args, kwargs = shapes
    if not kwargs:
        return tuple(args)
    names = list(inspect.signature(model.forward).parameters)
    return {**dict(zip(names, args, strict=False)), **kwargs}


def first_line(error: BaseException) -> str:
    """The kind of an exception and the first line of what it says."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip() if lines else ''}"
