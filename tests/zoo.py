"""Whole models for the end-to-end tests, with batch norms that do something."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def randomize_norms(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random statistics, gammas of both signs and betas; the other weights keep the scale a deep model needs."""
    generator = torch.Generator().manual_seed(seed)

    def draw(like: Any, low: float, high: float) -> torch.Tensor:
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    with torch.no_grad():
        for norm in (m for m in model.modules() if isinstance(m, _BatchNorm)):
            norm.running_mean.copy_(draw(norm.running_mean, -0.5, 0.5))
            norm.running_var.copy_(draw(norm.running_var, 0.5, 1.5))
            norm.weight.copy_(draw(norm.weight, 0.5, 1.5) * draw(norm.weight, -1, 2).sign())
            norm.bias.copy_(draw(norm.bias, -0.3, 0.3))
    return model.eval()


def counts(model: nn.Module) -> tuple[int, int]:
    """Convolutions and batch norms."""
    modules = list(model.modules())
    return sum(isinstance(m, CONVS) for m in modules), sum(isinstance(m, _BatchNorm) for m in modules)


def timm_model(name: str, **options: Any) -> nn.Module:
    import timm

    torch.manual_seed(0)
    return randomize_norms(timm.create_model(name, **options))


def ultralytics_model(name: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what its import warns of changes with every release
        from ultralytics.nn.tasks import DetectionModel, RTDETRDetectionModel
    torch.manual_seed(0)
    build: Any = RTDETRDetectionModel if "rtdetr" in name else DetectionModel
    return randomize_norms(build(f"{name}.yaml", verbose=False))
