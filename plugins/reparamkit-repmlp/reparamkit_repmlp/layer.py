"""A convolution at one size, as one matrix for each group."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class FixedSizeConv(nn.Module):
    """What a convolution computes for inputs of one size, as a fully-connected layer.

    Args:
        fc: from all numbers of the input to all of the output; a 1x1 convolution, so that it can have groups.
        input_size: the input's, without the batch.
        output_size: the output's, without the batch.
    """

    def __init__(self, fc: nn.Conv2d, input_size: tuple[int, ...], output_size: tuple[int, ...]) -> None:
        super().__init__()
        self.fc = fc
        self.input_size, self.output_size = tuple(input_size), tuple(output_size)

    def forward(self, x: Tensor) -> Tensor:
        """Run on `x`, of shape ``[batch, *input_size]``.

        Raises:
            ValueError: when it has another size.
        """
        size = tuple(x.shape[1:])
        if size != self.input_size:
            raise ValueError(f"made for inputs of size {self.input_size}, got {size}; convert for this size instead")
        return self.fc(x.reshape(x.shape[0], -1, 1, 1)).reshape(x.shape[0], *self.output_size)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """Both sizes."""
        return f"{self.input_size} -> {self.output_size}"


def matrix_of(conv: Any, size: tuple[int, ...], groups: int) -> tuple[Tensor, Tensor | None]:
    """The matrix of a convolution, and its bias for each output.

    Each column is what the convolution makes of an input that is one at one place and zero elsewhere (arXiv 2105.01883,
    section 3.3), so nothing is rounded.

    Args:
        conv: an `nn.Conv1d`, `Conv2d` or `Conv3d`.
        size: of the input, without the batch.
        groups: of the matrix; they divide those of the convolution.

    Returns:
        Weight of shape ``[outputs, inputs / groups, 1, 1]`` for a 1x1 convolution with these groups, and the bias of
        shape ``[outputs]``, in the dtype of `conv`.
    """
    share = (conv.in_channels // groups, *size[1:])
    basis = torch.eye(prod(share), dtype=conv.weight.dtype, device=conv.weight.device).reshape(-1, *share)
    every = basis.repeat(1, groups, *[1] * (len(size) - 1))
    columns = _without_bias(conv, every)  # [inputs of a group, *output]: each group sees the same basis
    weight = columns.flatten(1).t().contiguous()[..., None, None]
    bias = None if conv.bias is None else conv.bias.detach().repeat_interleave(columns[0, 0].numel())
    return weight, bias


def folded(weight: Tensor, bias: Tensor | None, norm: Any) -> tuple[Tensor, Tensor]:
    """Rows and bias of a layer with a batch norm behind it, which sees ``[channels, positions]`` in its outputs.

    Args:
        weight: float64, of shape ``[outputs, inputs]``.
        bias: float64, of shape ``[outputs]``.
        norm: a batch norm with running statistics.
    """
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    positions = len(weight) // len(scale)
    scale, shift = scale.repeat_interleave(positions), shift.repeat_interleave(positions)
    return weight * scale[:, None], shift if bias is None else bias * scale + shift


def _without_bias(conv: Any, x: Tensor) -> Tensor:
    run = {nn.Conv1d: functional.conv1d, nn.Conv2d: functional.conv2d, nn.Conv3d: functional.conv3d}
    kind = next(c for c in run if isinstance(conv, c))
    padding = conv.padding
    if conv.padding_mode != "zeros":
        x = functional.pad(x, conv._reversed_padding_repeated_twice, mode=conv.padding_mode)
        padding = 0
    return run[kind](x, conv.weight.detach(), None, conv.stride, padding, conv.dilation, conv.groups)


def fully_connected(weight: Tensor, bias: Tensor | None, groups: int, like: Any) -> nn.Conv2d:
    """A 1x1 convolution with these numbers, trained or frozen as `like` is."""
    made = nn.Conv2d(weight.shape[1] * groups, len(weight), 1, groups=groups, bias=bias is not None, device="meta")
    _fill(made, weight, bias, like)
    return made


def with_numbers(fc: Any, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """A layer like `fc`, an `nn.Linear` or a 1x1 convolution, with other numbers, rounded to its dtype.

    Args:
        fc: the layer.
        weight: of shape ``[outputs, inputs / groups]``.
        bias: of shape ``[outputs]``.
    """
    weight = weight.to(fc.weight.dtype).reshape(fc.weight.shape)
    bias = None if bias is None else bias.to(fc.weight.dtype)
    if not isinstance(fc, nn.Linear):
        return fully_connected(weight, bias, fc.groups, fc)
    made = nn.Linear(fc.in_features, fc.out_features, bias=bias is not None, device="meta")
    _fill(made, weight, bias, fc)
    return made


def _fill(made: Any, weight: Tensor, bias: Tensor | None, like: Any) -> None:
    made.weight = nn.Parameter(weight, like.weight.requires_grad)
    if bias is not None:
        made.bias = nn.Parameter(bias, like.weight.requires_grad if like.bias is None else like.bias.requires_grad)
    made.eval()
