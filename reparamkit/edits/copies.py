"""copies: a model is copied to be converted, to be run on an example, to be run in float64; never run itself."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from reparamkit.errors import ModelError
from reparamkit.paths import joined, module_at, modules_under

WITHOUT_EXAMPLE = "leave out example_inputs, since a model is never run itself"


def copy_of(model: nn.Module, memo: dict[int, Any] | None = None, *, instead: str) -> nn.Module:
    """A deep copy of `model`.

    Args:
        model: not touched.
        memo: what stands in the copy for an object of the original, by the identity of that.
        instead: what the caller can do when there is no copy.

    Raises:
        ModelError: RK110 when something in the model cannot be copied, with its path.
    """
    try:
        made = _deep_copy(model, {} if memo is None else memo)
    except Exception as error:
        raise ModelError("RK110", f"{_uncopyable(model)}: {type(error).__name__}: {error}; {instead}") from error
    _keep_modes(model, made)
    return made


def _keep_modes(model: nn.Module, made: nn.Module) -> None:
    """The modes of `model`: what torch copies of a `GraphModule` (torchvision's extractors) is in training mode."""
    for path, module in modules_under(model):
        twin = module_at(made, path)
        if twin is not None:
            twin.training = module.training


def _deep_copy(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """`copy.deepcopy`, the innermost modules first where the nesting is too deep for it."""
    start = dict(memo)
    try:
        return copy.deepcopy(model, memo)
    except RecursionError:
        memo.clear()  # of modules that were begun and not finished
        memo.update(start)
        for _, module in reversed(list(modules_under(model))):
            copy.deepcopy(module, memo)
        return copy.deepcopy(model, memo)


def _uncopyable(model: nn.Module) -> str:
    for path, module in modules_under(model):
        for name, value in module.__dict__.items():
            if name in ("_modules", "_parameters", "_buffers"):
                continue
            try:
                copy.deepcopy(value)
            except Exception:  # any failure to copy is the answer to the question
                return joined(path, name)
    return "the model"
