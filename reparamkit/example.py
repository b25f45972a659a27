"""example: an input to run a model on, when nobody gave one."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from reparamkit.errors import ModelError

_SIZE = {0: (), 1: (224,), 2: (224, 224), 3: (16, 112, 112)}


def example_input(model: nn.Module, shape: str | None = None, *, seed: int = 0) -> Tensor:
    """A random input for `model`, from a generator of its own.

    Args:
        model: its first convolution or linear layer, or timm's configuration, says what it reads.
        shape: as in ``2x3x224x224``; by default guessed, with a batch of one.
        seed: of the generator.

    Returns:
        A tensor of that shape, in the dtype and on the device of the model.

    Raises:
        ModelError: RK104 when the shape is no shape, or none can be guessed.
    """
    sizes = _parsed(shape) if shape is not None else _guessed(model)
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    drawn = torch.randn(sizes, generator=torch.Generator().manual_seed(seed))
    return drawn.to(device=like.device, dtype=like.dtype)


def _parsed(shape: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d{0,5}(x[1-9]\d{0,5})*", shape):
        raise ModelError("RK104", f"{shape!r} is no shape; expected one like 1x3x224x224")
    return tuple(int(part) for part in shape.split("x"))


def _guessed(model: nn.Module) -> tuple[int, ...]:
    config: Any = getattr(model, "pretrained_cfg", None)
    if isinstance(config, dict) and config.get("input_size"):
        return (1, *config["input_size"])
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            return (1, module.in_channels, *_SIZE[len(module.kernel_size)])
        if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            return (1, module.in_channels, *[16] * len(module.kernel_size))
        if isinstance(module, nn.Linear):
            return (1, module.in_features)
    raise ModelError("RK104", "the shape of its input cannot be guessed; say it, as in --input 1x3x224x224")
