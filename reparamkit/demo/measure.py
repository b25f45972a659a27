"""What deployment cares about: accuracy, size, memory. Time is measured by `reparamkit.bench`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from reparamkit.bench.memory import peak_activations
from reparamkit.demo.training import Digits


@dataclass(frozen=True)
class Measured:
    """One network.

    Attributes:
        accuracy: on the test images.
        convs: convolutions.
        norms: batch norms.
        parameters: numbers that training learned or that come from them.
        activations: peak of the layer outputs that live at the same time, in bytes, for all test images at once.
            What a kernel needs beside its result is not in it.
    """

    accuracy: float
    convs: int
    norms: int
    parameters: int
    activations: int


def measured(model: nn.Module, data: Digits) -> Measured:
    """Measure a network in eval mode."""
    with torch.no_grad():
        logits = model(data.test_x)
    return Measured(
        accuracy=(logits.argmax(1) == data.test_y).double().mean().item(),
        convs=sum(isinstance(m, nn.Conv2d) for m in model.modules()),
        norms=sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()),
        parameters=sum(p.numel() for p in model.parameters()),
        activations=peak_activations(model, (data.test_x,)),
    )
