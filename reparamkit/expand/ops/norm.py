"""`bn`: batch norm. Beside a linear layer the axis it acts on depends on the input, so it has no place there."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import nn

from reparamkit.branch import BranchOp, Options, Place

NORMS: tuple[Any, ...] = (None, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class NormOptions(Options):
    """Options of `bn`."""

    eps: float = Field(default=1e-5, gt=0)
    momentum: float = Field(default=0.1, ge=0, le=1)
    affine: bool = True
    gamma: float = Field(default=1.0, description="The weight at first.")


def build_norm(options: NormOptions, place: Place) -> nn.Module:
    """An `nn.BatchNormNd`."""
    norm: nn.Module = NORMS[place.nd](place.out_channels, options.eps, options.momentum, options.affine)
    if options.affine:
        nn.init.constant_(norm.weight, options.gamma)  # type: ignore[arg-type]
    return norm


OPS = (BranchOp("bn", build_norm, "batch norm", NormOptions, shifts=True, by_batch=True, axes=(1, 2, 3)),)
