"""Convolutions that read a channel of ones beside their input: what stands for a shift that stops at the border."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class _Ones:
    """Appends a channel of ones to the input ``[N, C, *spatial]``; what pads it is zeros, as for every channel."""

    kernel_size: tuple[int, ...]

    def forward(self, input: Tensor) -> Tensor:
        """``conv([input; 1])``."""
        made: Tensor = super().forward(F.pad(input, [0, 0] * len(self.kernel_size) + [0, 1], value=1.0))  # type: ignore[misc]
        return made


class OnesConv1d(_Ones, nn.Conv1d):
    """An `nn.Conv1d` whose last input channel is one everywhere; `in_channels` counts it."""


class OnesConv2d(_Ones, nn.Conv2d):
    """An `nn.Conv2d` whose last input channel is one everywhere; `in_channels` counts it."""


class OnesConv3d(_Ones, nn.Conv3d):
    """An `nn.Conv3d` whose last input channel is one everywhere; `in_channels` counts it."""
