"""What is left of a scale and a shift whose scale went on into the convolutions behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence


class Offset(nn.Module):
    """``y = x + bias``.

    Args:
        shape: of the bias: ``[channels, 1, ...]``, one axis less than the input, or of one number.
        device: of the bias.
        dtype: of the bias.
    """

    def __init__(
        self, shape: Sequence[int], device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(tuple(shape), device=device, dtype=dtype))

    def forward(self, input: Tensor) -> Tensor:
        """The input ``[N, channels, *]``, with the bias of its channel added to each."""
        return input + self.bias

    def extra_repr(self) -> str:
        """The shape of the bias."""
        return str(list(self.bias.shape))
