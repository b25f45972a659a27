"""YOLOv6, v7, v9, v10, DAMO-YOLO and ultralytics (arXiv 2209.02976, 2207.02696, 2402.13616, 2405.14458, 2211.15444)."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.blocks import ConvBN, RepConv, RepVGGBlock
from tests.helpers import gap, inputs, randomize
from tests.published.assertions import collapses


class BottleRep(nn.Module):
    """YOLOv6: two RepVGG blocks and a weighted input behind the second activation."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.conv1, self.conv2 = RepVGGBlock(c, c), RepVGGBlock(c, c)
        self.alpha = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x)) + self.alpha * x


class ImplicitA(nn.Module):
    """YOLOv7: a learned constant that is added."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.implicit = nn.Parameter(torch.zeros(1, c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.implicit + x


class ImplicitM(nn.Module):
    """YOLOv7: a learned constant that is multiplied."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.implicit = nn.Parameter(torch.ones(1, c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.implicit * x


class IDetect(nn.Module):
    """YOLOv7's head before the boxes are decoded."""

    def __init__(self, c: int = 8, out: int = 6, k: int = 1, levels: int = 2) -> None:
        super().__init__()
        self.m = nn.ModuleList(nn.Conv2d(c, out, k, padding=k // 2) for _ in range(levels))
        self.ia = nn.ModuleList(ImplicitA(c) for _ in range(levels))
        self.im = nn.ModuleList(ImplicitM(out) for _ in range(levels))

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = [x, F.max_pool2d(x, 2)]
        return [im(m(ia(level))) for level, m, ia, im in zip(levels, self.m, self.ia, self.im, strict=True)]


class ADown(nn.Module):
    """YOLOv9: average pooling, then a strided 3x3 on one half of the channels, max pooling and a 1x1 on the other."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.cv1, self.cv2 = ConvBN(c // 2, c, 3, 2), ConvBN(c // 2, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(x, 2, 1, 0, False, True)
        a, b = x.chunk(2, 1)
        return torch.cat((F.silu(self.cv1(a)), F.silu(self.cv2(F.max_pool2d(b, 3, 2, 1)))), 1)


class RepNBottleneck(nn.Module):
    """YOLOv9: a re-parameterizable 3x3, a plain one, the input beside both."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.cv1, self.cv2 = RepConv(c, c), nn.Sequential(ConvBN(c, c, 3), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x))


class RepNCSP(nn.Module):
    """YOLOv9: two 1x1 beside each other, bottlenecks behind one of them, stacked, a 1x1."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.cv1, self.cv2, self.cv3 = (nn.Sequential(ConvBN(c, c, 1), nn.SiLU()) for _ in range(3))
        self.m = nn.Sequential(RepNBottleneck(c))
        self.cv3 = nn.Sequential(ConvBN(2 * c, c, 1), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class RepVGGDW(nn.Module):
    """YOLOv10: depthwise 7x7 and 3x3."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.conv, self.conv1, self.act = ConvBN(c, c, 7, groups=c), ConvBN(c, c, 3, groups=c), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x) + self.conv1(x))


class Conv2(nn.Module):
    """Ultralytics: a 3x3 and a 1x1 under one batch norm."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.cv2 = nn.Conv2d(c, c, 1, bias=False)
        self.bn, self.act = nn.BatchNorm2d(c), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x) + self.cv2(x)))


class ConvTranspose(nn.Module):
    """Ultralytics: a transposed convolution and its batch norm."""

    def __init__(self, c: int = 8, groups: int = 1) -> None:
        super().__init__()
        self.conv_transpose = nn.ConvTranspose2d(c, c, 2, 2, 0, bias=False, groups=groups)
        self.bn, self.act = nn.BatchNorm2d(c), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv_transpose(x)))


class C2f(nn.Module):
    """Ultralytics: the halves of a 1x1 as a list, to which every bottleneck adds one more."""

    def __init__(self, c: int = 8, n: int = 2) -> None:
        super().__init__()
        self.cv1 = nn.Sequential(ConvBN(c, c, 1), nn.SiLU())
        self.m = nn.ModuleList(RepConv(c // 2, c // 2) for _ in range(n))
        self.cv2 = nn.Sequential(ConvBN((2 + n) * c // 2, c, 1), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


@pytest.mark.parametrize("recipe", [None, "yolo"])
class TestBlocks:
    @pytest.mark.parametrize("options", [{}, {"groups": 4}, {"groups": 8}, {"groups": 4, "bn": True}], ids=str)
    def test_rep_conv(self, options: dict[str, Any], recipe: str | None) -> None:
        collapses(RepConv(**options), 1, recipe=recipe)

    def test_v6_bottleneck_is_two_because_of_the_activations(self, recipe: str | None) -> None:
        collapses(BottleRep(), 2, recipe=recipe)

    def test_v7_implicit_knowledge(self, recipe: str | None) -> None:
        deploy = collapses(IDetect(), 2, recipe=recipe)
        assert not any(isinstance(m, (ImplicitA, ImplicitM)) and list(m.parameters()) for m in deploy.modules())

    def test_v9_csp(self, recipe: str | None) -> None:
        collapses(RepNCSP(), 5, recipe=recipe)

    def test_v10_depthwise(self, recipe: str | None) -> None:
        collapses(RepVGGDW(), 1, recipe=recipe)

    def test_conv2(self, recipe: str | None) -> None:
        collapses(Conv2(), 1, recipe=recipe)

    @pytest.mark.parametrize("groups", [1, 4])
    def test_transposed(self, groups: int, recipe: str | None) -> None:
        collapses(ConvTranspose(groups=groups), 1, recipe=recipe)

    def test_c2f(self, recipe: str | None) -> None:
        """Its own forward iterates a chunk; the blocks in it collapse each by itself."""
        collapses(C2f(), 4, recipe=recipe)


def test_adown_pads_behind_the_pool() -> None:
    """Average pooling without padding, then a padded 3x3: the pooled halo that it would need was never computed.

    So the least form is two convolutions behind the pool that stays.
    """
    collapses(ADown(), 2, (1, 8, 14, 9), (2, 8, 9, 12), refused={"RK305", "RK316"})  # both halves read the pool


class PooledHalf(nn.Module):
    """The first branch of `ADown`, its 3x3 without padding."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.cv1 = ConvBN(c // 2, c, 3, 2, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.cv1(F.avg_pool2d(x.chunk(2, 1)[0], 2, 1, 0, False, True)))


def test_a_kernel_that_does_not_pad_takes_the_pool() -> None:
    """The must-fuse twin: it reads no position that the pool has not computed."""
    deploy = collapses(PooledHalf(), 1, policy="always")
    assert next(m for m in deploy.modules() if isinstance(m, nn.Conv2d)).kernel_size == (4, 4)


def test_implicit_constant_before_a_padded_kernel_is_refused() -> None:
    """The must-refuse twin: the constant is not added to the padding. What is behind folds."""
    deploy: Any = collapses(IDetect(k=3), 2, refused={"RK316"})
    assert sum(isinstance(m, ImplicitA) for m in deploy.modules()) == 2


def fuse_repvgg_block(block: Any) -> nn.Module:
    """YOLOv7's way with the identity: a dense dirac, whatever the groups are."""

    def folded(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
        factor = bn.weight / torch.sqrt(bn.running_var + bn.eps)
        return conv.weight * factor.reshape(-1, 1, 1, 1), bn.bias - bn.running_mean * factor

    merged = copy.deepcopy(block.conv1.conv)
    kernel, bias = folded(block.conv1.conv, block.conv1.bn)
    small, small_bias = folded(block.conv2.conv, block.conv2.bn)
    dirac = nn.Conv2d(8, 8, 1, groups=merged.groups, bias=False).double()
    dirac.weight.data.zero_()
    width = 8 // merged.groups
    for channel in range(8):
        dirac.weight.data[channel, min(channel, width - 1)] = 1.0
    identity, identity_bias = folded(dirac, block.bn)
    merged.weight = nn.Parameter(kernel + F.pad(small + identity, (1, 1, 1, 1)))
    merged.bias = nn.Parameter(bias + small_bias + identity_bias)
    return nn.Sequential(merged, nn.SiLU())


@pytest.mark.parametrize("groups", [2, 4])
def test_identity_of_a_grouped_block_sits_on_the_channel_within_its_group(groups: int) -> None:
    block = randomize(RepConv(groups=groups, bn=True)).double()
    x = inputs((1, 8, 7, 7))
    with torch.no_grad():
        assert gap(block(x), fuse_repvgg_block(block)(x)) > 0.1
    collapses(block, 1)


@pytest.mark.zoo
def test_ultralytics_own_blocks_fuse_to_the_same_numbers() -> None:
    modules = pytest.importorskip("ultralytics.nn.modules")
    for name in ("RepConv", "Conv2", "RepVGGDW"):
        block = getattr(modules, name)(8) if name == "RepVGGDW" else getattr(modules, name)(8, 8, 3)
        randomize(block).double()
        theirs = copy.deepcopy(block)
        getattr(theirs, "fuse" if name == "RepVGGDW" else "fuse_convs")()
        if name == "Conv2":
            theirs.conv = _fused(theirs.conv, theirs.bn)
        theirs.forward = theirs.forward_fuse
        ours = collapses(block, 1)
        x = inputs((1, 8, 9, 7))
        with torch.no_grad():
            assert gap(theirs(x), ours(x)) <= 1e-6  # theirs makes float32 layers on the way


def _fused(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Module:
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    return fuse_conv_bn_eval(conv, bn)
