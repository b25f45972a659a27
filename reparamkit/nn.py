"""The blocks of the papers as classes, for models written by hand.

Each is a drop-in for the plain layer it stands for: the same arguments, the same shapes, no activation. They are built
from the ``expand`` section of the recipe of their name; `reparamkit.apply` puts the plain layer back. Any other recipe
makes a block the same way: ``reparamkit.expand(nn.Conv2d(...), recipe)``.
"""

from __future__ import annotations

from typing import ClassVar

from reparamkit.errors import RecipeError
from reparamkit.expand.block import Expanded
from reparamkit.expand.build import can_be_online, is_linear, modules_of
from reparamkit.expand.carrier import with_bias
from reparamkit.expand.groups import parameter_groups
from reparamkit.expand.layer import Layer
from reparamkit.expand.place import place_all
from reparamkit.expand.placed import Placed
from reparamkit.expand.read import branches_of
from reparamkit.loading import default_registry
from reparamkit.recipe import load_recipe
from reparamkit.rules.conv import each

__all__ = [
    "ACBlock",
    "DilatedReparamBlock",
    "DiverseBranchBlock",
    "EdgeOrientedConvBlock",
    "ExpandNetConv",
    "LoRALinear",
    "MobileOneBlock",
    "OREPABlock",
    "QARepVGGBlock",
    "RepGhostConv",
    "RepMixer",
    "RepVGGBlock",
    "ReparamLargeKernelConv",
    "parameter_groups",
]


class _ConvBlock(Expanded):
    """A block in the place of an `nn.Conv2d`.

    Args:
        in_channels: as for `nn.Conv2d`, as all that follow.
        out_channels: likewise.
        kernel_size: likewise.
        stride: likewise.
        padding: by default what keeps the size at stride 1.
        dilation: likewise.
        groups: likewise.
        bias: of operations that no batch norm follows.
        padding_mode: likewise.
        online: train through the merged kernel, where no batch norm is in the way.

    Raises:
        RecipeError: RK706 when the recipe has no branches for such a layer, RK342 when they cannot be trained online.
    """

    recipe: ClassVar[str]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | None = None,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        online: bool = False,
    ) -> None:
        taps, spread = each(kernel_size, 2), each(dilation, 2)
        spans = [d * (k - 1) for d, k in zip(spread, taps, strict=True)]
        sides = [(s // 2, s - s // 2) for s in spans] if padding is None else [(p, p) for p in each(padding, 2)]
        layer = Layer(
            in_channels, out_channels, taps, each(stride, 2), tuple(sides), spread, groups, padding_mode, bias
        )
        branches = _branches(self.recipe, layer)
        if online and (refusal := can_be_online(branches)) is not None:
            raise RecipeError(refusal.code, refusal.reason)
        super().__init__(layer, modules_of(branches, online), online=online and is_linear(branches))


def _branches(recipe: str, layer: Layer) -> tuple[Placed, ...]:
    """The branches that a recipe has for such a layer."""
    sections = load_recipe(recipe).expand
    section = next((s for s in sections if s.match.fits("", layer)), None)
    if section is None:
        known = "; ".join(str(s.match) for s in sections)
        raise RecipeError("RK706", f"recipe {recipe!r} has no branches for a {layer}, only for {known}")
    legal = place_all(branches_of(section, default_registry().branch_ops), layer)
    return with_bias(legal.branches, layer)


class RepVGGBlock(_ConvBlock):
    """3x3, 1x1 and, where the shape allows it, identity, each with its batch norm (RepVGG, CVPR 2021)."""

    recipe = "repvgg"


class QARepVGGBlock(_ConvBlock):
    """RepVGG with one batch norm behind the sum, none beside the small branches (QARepVGG, AAAI 2024)."""

    recipe = "qarepvgg"


class ACBlock(_ConvBlock):
    """Square, vertical and horizontal kernels, each with its batch norm (ACNet, ICCV 2019)."""

    recipe = "acnet"


class DiverseBranchBlock(_ConvBlock):
    """kxk, 1x1, 1x1-kxk and 1x1-average-pooling branches (Diverse Branch Block, CVPR 2021)."""

    recipe = "dbb"


class MobileOneBlock(_ConvBlock):
    """Four kernels of the same size, 1x1 and identity, each with its batch norm (MobileOne, CVPR 2023)."""

    recipe = "mobileone"


class DilatedReparamBlock(_ConvBlock):
    """Dilated small depthwise kernels beside a large one, each with its batch norm (UniRepLKNet, CVPR 2024)."""

    recipe = "unireplknet"


class RepMixer(_ConvBlock):
    """Token mixer ``x + scale (mixer(x) - norm(x))``, depthwise (FastViT, ICCV 2023)."""

    recipe = "fastvit"


class ReparamLargeKernelConv(_ConvBlock):
    """A 7x7 and a 3x3 kernel, each with its batch norm (FastViT, ICCV 2023)."""

    recipe = "fastvit"


class RepGhostConv(_ConvBlock):
    """The depthwise convolution of RepGhost with the batch norm branch beside it (RepGhost, 2022)."""

    recipe = "repghost"


class EdgeOrientedConvBlock(_ConvBlock):
    """3x3, 1x1-3x3 and 1x1 with Sobel and Laplacian filters, no batch norm (ECBSR, ACM MM 2021)."""

    recipe = "ecb"


class ExpandNetConv(_ConvBlock):
    """1x1 - kxk - 1x1, four times as wide inside (ExpandNets, NeurIPS 2020)."""

    recipe = "expandnet"


class OREPABlock(_ConvBlock):
    """Linear branches with factors, one batch norm behind their sum (OREPA, CVPR 2022); meant to be trained online."""

    recipe = "orepa"


class LoRALinear(Expanded):
    """A linear layer that is not trained and a path of rank 8 that is (LoRA, ICLR 2022).

    Args:
        in_features: as for `nn.Linear`.
        out_features: likewise.
        bias: likewise.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        layer = Layer(in_features, out_features, bias=bias)
        super().__init__(layer, modules_of(_branches("lora", layer)))
