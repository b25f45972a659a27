"""In every test of a hazard each `apply` and `plan` is watched: the model it is given stays bit for bit what it was."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parameter import is_lazy

import reparamkit
from reparamkit.errors import Refusal
from reparamkit.paths import modules_under
from tests.helpers import assert_untouched, snapshot

_DEEP = 100  # modules inside modules, beyond which torch's own walks of a model may end in a RecursionError


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("apply", "plan"):
        monkeypatch.setattr(reparamkit, name, _watched(getattr(reparamkit, name)))


def _watched(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def run(model: Any, *args: Any, **options: Any) -> Any:
        if not isinstance(model, nn.Module):
            return function(model, *args, **options)
        check = _check(model)
        try:
            made = function(model, *args, **options)
        except Exception:
            check()
            raise
        if not options.get("inplace"):
            check()
        assert all(refusal.where for refusal in _refusals(made)), "a refusal without a place"
        return made

    return run


def _refusals(made: Any) -> tuple[Refusal, ...]:
    """Of a plan, or of the report beside a model."""
    told = made[1] if isinstance(made, tuple) else made
    return () if isinstance(told, nn.Module) else (*getattr(told, "refusals", ()), *getattr(told, "refused", ()))


def _check(model: nn.Module) -> Callable[[], None]:
    """Asserts that the model is as it is now; of tensors that cannot be compared only that they are there."""
    if _is_readable(model):
        before = snapshot(model)
        return lambda: assert_untouched(model, before)
    outline = _outline(model)

    def same() -> None:
        assert _outline(model) == outline

    return same


def _is_readable(model: nn.Module) -> bool:
    if isinstance(model, torch.jit.ScriptModule) or any(path.count(".") > _DEEP for path, _ in modules_under(model)):
        return False
    return all(map(_is_plain, (*model.parameters(), *model.buffers())))


def _is_plain(tensor: torch.Tensor) -> bool:
    if is_lazy(tensor) or tensor.is_meta or tensor.layout is not torch.strided:
        return False
    return not tensor.is_floating_point() or tensor.element_size() > 1


def _outline(model: nn.Module) -> list[Any]:
    if isinstance(model, torch.jit.ScriptModule):
        return [(name, tensor.clone().tolist()) for name, tensor in model.state_dict().items()]
    return [
        (path, id(m), m.training, [(n, id(t)) for n, t in (*m._parameters.items(), *m._buffers.items())])
        for path, m in modules_under(model)
    ]
