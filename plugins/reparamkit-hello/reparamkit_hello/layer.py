"""A layer that cannot be traced."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelGain(nn.Module):
    """Multiplies each channel by ``1 + gain``.

    Args:
        channels: size of the input's second axis.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Scale `x`, of shape ``[batch, channels, ...]``."""
        scaled = x.clone()
        for channel in range(len(self.gain)):
            scaled[:, channel] = x[:, channel] * (1 + self.gain[channel])  # what a tracer cannot read
        return scaled
