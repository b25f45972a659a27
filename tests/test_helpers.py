"""The watch over models would see each change it is there for."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from reparamkit.testing import randomize
from tests.helpers import unchanged

Change = Callable[[Any], object]


def model() -> Any:
    """A model with a NaN, a zero, a buffer that no file holds, a hook and a gradient."""
    made: Any = randomize(nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.ReLU())))
    made[1].running_mean[0], made[1].bias.data[0] = float("nan"), 0.0
    made[2].register_buffer("kept", torch.ones(3), persistent=False)
    made[0].register_forward_hook(print)
    return made


def _negative_zero(m: Any) -> None:
    m[1].bias.data[0] = -0.0


def _another_gradient(m: Any) -> None:
    m[0].weight.grad = torch.zeros_like(m[0].weight)


def _reordered(m: Any) -> None:
    m[1]._buffers = dict(reversed(m[1]._buffers.items()))


def _other_strides(m: Any) -> None:
    m[0].weight.data = m[0].weight.data.contiguous(memory_format=torch.channels_last)


def _another_child(m: Any) -> None:
    m[2][0] = nn.ReLU().eval()


def _another_class(m: Any) -> None:
    m[2].__class__ = type("Other", (nn.Sequential,), {})


CHANGES: dict[str, Change] = {
    "a number": lambda m: m[0].weight.data.view(-1)[0].add_(1e-6),
    "a number that is put back": lambda m: m[0].bias.detach().add_(0),
    "what a NaN is": lambda m: m[1].running_mean.data[:1].zero_(),
    "the sign of a zero": _negative_zero,
    "a buffer that is not saved": lambda m: m[2].kept.data.mul_(2),
    "whether it is saved": lambda m: m[2]._non_persistent_buffers_set.clear(),
    "the order of buffers": _reordered,
    "strides": _other_strides,
    "a dtype": lambda m: m[2].half(),
    "a child": _another_child,
    "a class": _another_class,
    "an attribute": lambda m: setattr(m[0], "extra", 1),
    "a mode": lambda m: m[2].train(),
    "requires_grad": lambda m: m[0].bias.requires_grad_(False),
    "a gradient": _another_gradient,
    "a hook": lambda m: m[0]._forward_hooks.clear(),
    "torch's random state": lambda m: torch.rand(1),
    "Python's random state": lambda m: random.random(),
    "numpy's random state": lambda m: np.random.rand(),
    "gradients in general": lambda m: torch.set_grad_enabled(False),
    "the default dtype": lambda m: torch.set_default_dtype(torch.float64),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(change: str) -> None:
    made = model()
    with unchanged(made):
        pass
    try:
        with pytest.raises(AssertionError), unchanged(made):
            CHANGES[change](made)
    finally:
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float32)
