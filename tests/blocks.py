"""Published blocks, written anew from their papers: what the converter meets in the wild.

Each has the upstream name of its converter where upstream has one; it only works on branches that are still there.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvBN(nn.Sequential):
    """Convolution without bias, batch norm; padded to keep the size unless told otherwise."""

    def __init__(self, cin: int, cout: int, k: Any, stride: int = 1, *, nd: int = 2, **options: Any) -> None:
        taps = k if isinstance(k, tuple) else (k,) * nd
        options.setdefault("padding", tuple(t // 2 for t in taps))
        options.setdefault("bias", False)
        super().__init__()
        self.add_module("conv", getattr(nn, f"Conv{nd}d")(cin, cout, taps, stride, **options))
        self.add_module("bn", getattr(nn, f"BatchNorm{nd}d")(cout))


class SqueezeExcite(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(c, 2, 1), nn.Conv2d(2, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class RepVGGBlock(nn.Module):
    """RepVGG (arXiv 2101.03697)."""

    def __init__(
        self, cin: int = 8, cout: int = 8, stride: int = 1, groups: int = 1, se: bool = False, nd: int = 2
    ) -> None:
        super().__init__()
        self.in_channels, self.groups = cin, groups
        self.rbr_dense = ConvBN(cin, cout, 3, stride, groups=groups, nd=nd)
        self.rbr_1x1 = ConvBN(cin, cout, 1, stride, groups=groups, nd=nd)
        norm: Any = getattr(nn, f"BatchNorm{nd}d")
        self.rbr_identity: Any = norm(cin) if cin == cout and stride == 1 else None
        self.rbr_reparam: Any
        self.se = SqueezeExcite(cout) if se else nn.Identity()
        self.nonlinearity = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "rbr_reparam"):
            return self.nonlinearity(self.se(self.rbr_reparam(x)))
        identity = 0 if self.rbr_identity is None else self.rbr_identity(x)
        return self.nonlinearity(self.se(self.rbr_dense(x) + self.rbr_1x1(x) + identity))

    @property
    def width(self) -> int:
        return self.in_channels

    def describe(self) -> str:
        return f"{type(self).__name__} of {self.groups} groups"

    def switch_to_deploy(self) -> None:
        self.rbr_reparam = copy.deepcopy(self.rbr_dense.conv)
        del self.rbr_dense, self.rbr_1x1


class MobileOneBlock(nn.Module):
    """MobileOne (arXiv 2206.04040): several branches of one shape, summed up from the number 0."""

    def __init__(self, c: int = 8, k: int = 3, branches: int = 4, groups: int = 8) -> None:
        super().__init__()
        self.rbr_skip = nn.BatchNorm2d(c)
        self.rbr_conv = nn.ModuleList(ConvBN(c, c, k, groups=groups) for _ in range(branches))
        self.rbr_scale = ConvBN(c, c, 1, groups=groups) if k > 1 else None
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.rbr_skip(x) + (0 if self.rbr_scale is None else self.rbr_scale(x))
        for branch in self.rbr_conv:
            out += branch(x)
        return self.activation(out)

    def reparameterize(self) -> None:
        self.reparam_conv = copy.deepcopy(self.rbr_conv[0].conv)
        del self.rbr_conv


class QARepVGGBlock(nn.Module):
    """QARepVGG (arXiv 2212.01593): no batch norm on the small branches, one behind the sum; YOLOv6's V2 pools too."""

    def __init__(self, c: int = 8, pool: bool = False) -> None:
        super().__init__()
        self.rbr_dense, self.rbr_1x1, self.bn = ConvBN(c, c, 3), nn.Conv2d(c, c, 1, bias=False), nn.BatchNorm2d(c)
        self.rbr_avg = nn.AvgPool2d(3, 1, 1) if pool else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.rbr_dense(x) + self.rbr_1x1(x) + x
        return F.relu(self.bn(out if self.rbr_avg is None else out + self.rbr_avg(x)))


class ACBlock(nn.Module):
    """ACNet (arXiv 1908.03930); with less padding than the square kernel needs, the bars read a cropped input."""

    def __init__(self, c: int = 8, k: int = 3, padding: int = 1) -> None:
        super().__init__()
        self.crop, side = max(0, k // 2 - padding), max(0, padding - k // 2)
        self.square = ConvBN(c, c, k, padding=padding)
        self.ver = ConvBN(c, c, (k, 1), padding=(padding, side))
        self.hor = ConvBN(c, c, (1, k), padding=(side, padding))

    def forward(self, x: Tensor) -> Tensor:
        c = self.crop
        if c == 0:
            return self.square(x) + self.ver(x) + self.hor(x)
        return self.square(x) + self.ver(x[:, :, :, c:-c]) + self.hor(x[:, :, c:-c, :])


class DiverseBranchBlock(nn.Module):
    """Diverse branch block (arXiv 2103.13425).

    Args:
        c: channels.
        border: how the border before the second operator of a branch is padded: "bare" (nothing to get wrong: no
            batch norm before it), "zeros" (wrong), "bias" (what the batch norm makes of zero, as published).
    """

    def __init__(self, c: int = 8, border: str = "bare") -> None:
        super().__init__()
        self.border = border
        self.dbb_origin, self.dbb_1x1 = ConvBN(c, c, 3), ConvBN(c, c, 1)
        first = (lambda: nn.Conv2d(c, c, 1, bias=False)) if border == "bare" else (lambda: ConvBN(c, c, 1))
        self.kxk_first, self.kxk_second = first(), ConvBN(c, c, 3, padding=0)
        self.avg_first, self.avg_pool, self.avg_bn = first(), nn.AvgPool2d(3, 1, 0), nn.BatchNorm2d(c)

    def pad(self, x: Tensor, first: Any) -> Tensor:
        if self.border != "bias":
            return F.pad(x, (1, 1, 1, 1))
        bn = first.bn
        value = (bn.bias - bn.running_mean * bn.weight * torch.rsqrt(bn.running_var + bn.eps)).reshape(1, -1, 1, 1)
        side = value.expand(x.shape[0], -1, x.shape[2], 1)
        x = torch.cat([side, x, side], 3)
        side = value.expand(x.shape[0], -1, 1, x.shape[3])
        return torch.cat([side, x, side], 2)

    def forward(self, x: Tensor) -> Tensor:
        kxk = self.kxk_second(self.pad(self.kxk_first(x), self.kxk_first))
        avg = self.avg_bn(self.avg_pool(self.pad(self.avg_first(x), self.avg_first)))
        return F.relu(self.dbb_origin(x) + self.dbb_1x1(x) + kxk + avg)


class RepLKBlock(nn.Module):
    """RepLKNet (arXiv 2203.06717): a batch norm before the first 1x1, a small kernel beside the large one."""

    def __init__(self, c: int = 8, k: int = 13, small: int = 5) -> None:
        super().__init__()
        self.prelkb_bn, self.pw1, self.pw2 = nn.BatchNorm2d(c), ConvBN(c, c, 1), ConvBN(c, c, 1)
        self.large, self.small = ConvBN(c, c, k, groups=c), ConvBN(c, c, small, groups=c)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.pw1(self.prelkb_bn(x)))
        return x + self.pw2(F.relu(self.large(y) + self.small(y)))


class DilatedReparamBlock(nn.Module):
    """UniRepLKNet (arXiv 2311.15599): dilated small kernels beside the large one, a batch norm behind the sum."""

    def __init__(self, c: int = 8, k: int = 13) -> None:
        super().__init__()
        shapes = ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5))
        self.lk_origin, self.origin_bn = nn.Conv2d(c, c, k, padding=k // 2, groups=c, bias=False), nn.BatchNorm2d(c)
        self.dil = nn.ModuleList(ConvBN(c, c, s, padding=r * (s - 1) // 2, dilation=r, groups=c) for s, r in shapes)
        self.norm = nn.BatchNorm2d(c)

    def forward(self, x: Tensor) -> Tensor:
        out = self.origin_bn(self.lk_origin(x))
        for branch in self.dil:
            out = out + branch(x)
        return self.norm(out)


class RepVGGDW(nn.Module):
    """RepViT (arXiv 2307.09283)."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.conv, self.conv1, self.bn = ConvBN(c, c, 3, groups=c), nn.Conv2d(c, c, 1, groups=c), nn.BatchNorm2d(c)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x) + self.conv1(x) + x)


class BatchNormOnly(nn.Module):
    """A MobileOne block without convolutions, as FastViT uses it."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.rbr_skip, self.rbr_conv = nn.BatchNorm2d(c), nn.ModuleList()

    def forward(self, x: Tensor) -> Any:
        return self.rbr_skip(x) + sum(branch(x) for branch in self.rbr_conv)


class RepMixer(nn.Module):
    """FastViT (arXiv 2303.14189): ``x + gamma * (mixer(x) - norm(x))``."""

    def __init__(self, c: int = 8, k: int = 3) -> None:
        super().__init__()
        self.norm, self.mixer, self.skip = BatchNormOnly(c), ConvBN(c, c, k, groups=c), ConvBN(c, c, 1, groups=c)
        self.layer_scale = nn.Parameter(torch.linspace(-1, 1, c).reshape(c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer_scale * (self.mixer(x) + self.skip(x) - self.norm(x))

    def reparameterize(self) -> None:
        self.reparam_conv = copy.deepcopy(self.mixer.conv)
        del self.mixer, self.norm


class RepGhostModule(nn.Module):
    """RepGhost (arXiv 2211.06088): a cheap depthwise operation beside a batch norm."""

    def __init__(self, cin: int = 8, c: int = 8) -> None:
        super().__init__()
        self.primary_conv = nn.Sequential(*ConvBN(cin, c, 1), nn.ReLU(inplace=True))
        self.fusion_conv, self.fusion_bn = nn.Sequential(nn.Identity()), nn.Sequential(nn.BatchNorm2d(c))
        self.cheap_operation, self.relu = ConvBN(c, c, 3, groups=c), nn.ReLU(inplace=False)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.primary_conv(x)
        x2 = self.cheap_operation(x1)
        for conv, bn in zip(self.fusion_conv, self.fusion_bn, strict=True):
            x2 = x2 + bn(conv(x1))
        return self.relu(x2)


class RepConv(nn.Module):
    """YOLOv7 and later (arXiv 2207.02696): RepVGG's branches, usually without the identity."""

    def __init__(self, cin: int = 8, cout: int = 8, groups: int = 1, bn: bool = False) -> None:
        super().__init__()
        self.conv1, self.conv2 = ConvBN(cin, cout, 3, groups=groups), ConvBN(cin, cout, 1, groups=groups)
        self.bn = nn.BatchNorm2d(cin) if bn else None
        self.conv: Any
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv1(x) + self.conv2(x) + (0 if self.bn is None else self.bn(x)))

    def forward_fuse(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))

    def fuse_convs(self) -> None:
        self.conv = copy.deepcopy(self.conv1.conv)
        del self.conv1, self.conv2


class AlphaRepVGG(nn.Module):
    """PP-YOLOE+ (arXiv 2203.16250): a learned weight on the 1x1 branch."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.conv1, self.conv2, self.act = ConvBN(c, c, 3), ConvBN(c, c, 1), nn.SiLU()
        self.alpha = nn.Parameter(torch.tensor([0.7]))

    def forward(self, x: Tensor) -> Tensor:
        if self.alpha is not None:
            return self.act(self.conv1(x) + self.alpha * self.conv2(x))
        return self.act(self.conv1(x) + self.conv2(x))


class LearnableAffine(nn.Module):
    def __init__(self, scale: float, bias: float) -> None:
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.tensor([scale])), nn.Parameter(torch.tensor([bias]))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x + self.bias


class LearnableRepLayer(nn.Module):
    """PP-LCNetV3: four equal branches, a learned affine on their sum and another behind the activation."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.identity, self.conv_1x1 = nn.BatchNorm2d(c), ConvBN(c, c, 1, groups=c)
        self.conv_kxk = nn.ModuleList(ConvBN(c, c, 3, groups=c) for _ in range(4))
        self.lab, self.act, self.act_lab = LearnableAffine(0.8, 0.3), nn.Hardswish(), LearnableAffine(1.2, -0.4)

    def forward(self, x: Tensor) -> Tensor:
        out = self.identity(x) + self.conv_1x1(x)
        for conv in self.conv_kxk:
            out = out + conv(x)
        return self.act_lab(self.act(self.lab(out)))


class TextNetBlock(nn.Module):
    """FAST (arXiv 2111.02394): square, vertical, horizontal and identity branches."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.main, self.ver, self.hor = ConvBN(c, c, 3), ConvBN(c, c, (3, 1)), ConvBN(c, c, (1, 3))
        self.identity = nn.BatchNorm2d(c)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.main(x) + self.ver(x) + self.hor(x) + self.identity(x))


class LoRALinear(nn.Module):
    """LoRA (arXiv 2106.09685): a low-rank path beside a linear layer."""

    def __init__(self, cin: int = 8, cout: int = 6, rank: int = 2) -> None:
        super().__init__()
        self.base = nn.Linear(cin, cout)
        self.lora_a, self.lora_b = nn.Linear(cin, rank, bias=False), nn.Linear(rank, cout, bias=False)
        self.scaling = 0.5

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scaling * self.lora_b(self.lora_a(x))


class SESRBlock(nn.Module):
    """SESR (arXiv 2103.09404): expanded 3x3, projected back, the identity beside it."""

    def __init__(self, c: int = 8, wide: int = 32) -> None:
        super().__init__()
        self.expand, self.project, self.act = nn.Conv2d(c, wide, 3, padding=1), nn.Conv2d(wide, c, 1), nn.PReLU(c)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.project(self.expand(x)))


class RepNeXtSmall(nn.Module):
    """RepNeXt (arXiv 2406.16004): bars, an even dilated kernel and a chain of bars under one sum.

    Args:
        c: channels.
        bias: of the chain; with one the second bar would read zeros where the first gives its bias.
    """

    def __init__(self, c: int = 8, bias: bool = False) -> None:
        super().__init__()
        self.square, self.even = ConvBN(c, c, 3, groups=c), ConvBN(c, c, 2, padding=1, dilation=2, groups=c)
        self.ver, self.hor = ConvBN(c, c, (3, 1), groups=c), ConvBN(c, c, (1, 3), groups=c)
        self.bar = nn.Conv2d(c, c, (1, 3), padding=(0, 1), groups=c, bias=bias)
        self.bar_bn = ConvBN(c, c, (3, 1), groups=c)

    def forward(self, x: Tensor) -> Tensor:
        return self.square(x) + self.even(x) + self.ver(x) + self.hor(x) + self.bar_bn(self.bar(x))


def expand_net(c: int = 8, wide: int = 16) -> nn.Sequential:
    """ExpandNets (arXiv 1811.10495): 1x1, 3x3, 1x1 in a row, nothing padded, all with biases."""
    return nn.Sequential(nn.Conv2d(c, wide, 1), nn.Conv2d(wide, wide, 3), nn.Conv2d(wide, c, 1))


class Net(nn.Module):
    """Two convolutions whose batch norm goes, four blocks whose forward is rewritten, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = ConvBN(3, 8, 3, 2), ConvBN(8, 8, 3)
        self.stages = nn.Sequential(RepVGGBlock(), RepVGGBlock(groups=4, se=True), MobileOneBlock(), RepMixer())
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(F.relu(self.down(F.relu(self.stem(x))))).mean((2, 3)))

    @property
    def classes(self) -> int:
        return self.head.out_features


class WithOptions(nn.Module):
    """A forward with arguments; merged for their defaults."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = ConvBN(3, 8, 3), ConvBN(3, 8, 1)

    def forward(self, x: Tensor, scale: float = 1.0, extra: Tensor | None = None) -> Tensor:
        y = self.a(x) + self.b(x)
        if extra is not None:
            y = y + extra
        return y if scale == 1.0 else y * scale
