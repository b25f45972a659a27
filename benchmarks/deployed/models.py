"""The models, with batch norms that do something, and their authors' deploy forms."""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

MODELS = (
    "repvgg_a0",
    "repvgg_b1",
    "mobileone_s0",
    "mobileone_s1",
    "fastvit_t8",
    "repvit_m1",
    "repghostnet_100",
    "yolov9t",
    "yolov10n",
    "resnet50",
    "efficientnet_b0",
)
SIZES = {"fastvit_t8": 256, "fastvit_ma36": 256, "yolov9t": 320, "yolov10n": 320, "yolov8x": 320}


def build(name: str, seed: int = 0) -> nn.Module:
    """A model in eval mode."""
    torch.manual_seed(seed)
    model = _ultralytics(name) if name.startswith("yolo") else _timm(name)
    for norm in (m for m in model.modules() if isinstance(m, _BatchNorm)):
        nn.init.uniform_(norm.running_mean, -0.5, 0.5)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.3, 0.3)
    return model.eval()


def images(name: str, batch: int = 1) -> torch.Tensor:
    """An input of the size the model is used with."""
    size = SIZES.get(name, 224)
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def author(model: nn.Module) -> nn.Module:
    """What the model's own library makes of a copy."""
    return by_author(copy.deepcopy(model))


def by_author(model: nn.Module) -> nn.Module:
    """What the model's own library makes of it, in place: timm's `reparameterize_model`, ultralytics' `fuse`."""
    fuse: Any = getattr(model, "fuse", None)
    if fuse is not None and type(model).__module__.startswith("ultralytics"):
        with contextlib.redirect_stdout(io.StringIO()):
            fused: nn.Module = fuse(verbose=False)
        return fused
    from timm.utils.model import reparameterize_model

    return reparameterize_model(model, inplace=True)


def fx_fuse(model: nn.Module) -> nn.Module:
    """`torch.fx.experimental.optimization.fuse`: batch norms into the convolution before them."""
    from torch.fx.experimental.optimization import fuse

    return fuse(model)


def _timm(name: str) -> nn.Module:
    import timm

    return timm.create_model(name)


def _ultralytics(name: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ultralytics.nn.tasks import DetectionModel
    made: Any = DetectionModel
    model: nn.Module = made(f"{name}.yaml", verbose=False)
    return model
