"""Expanded layers beside the published blocks: same branches, same numbers in training, same deploy form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reparamkit
from reparamkit import nn as rnn
from tests import blocks
from tests.helpers import gap, inputs, randomize

SHAPE = (3, 8, 9, 10)


class DBB(nn.Module):
    """The diverse branch block as published: batch norms whose border is what they make of zero."""

    def __init__(self, cin: int, cout: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        wide = cin if groups < cout else 2 * cin
        self.groups, self.stride = groups, stride
        self.origin, self.origin_bn = conv(cin, cout, 3, stride, 1, groups), nn.BatchNorm2d(cout)
        if groups < cout:
            self.point, self.point_bn = conv(cin, cout, 1, stride, 0, groups), nn.BatchNorm2d(cout)
            self.avg_conv, self.avg_pad_bn = conv(cin, cout, 1, 1, 0, groups), nn.BatchNorm2d(cout)
        self.avg_bn = nn.BatchNorm2d(cout)
        self.first, self.first_bn = conv(cin, wide, 1, 1, 0, groups), nn.BatchNorm2d(wide)
        self.second, self.second_bn = conv(wide, cout, 3, stride, 0, groups), nn.BatchNorm2d(cout)
        if wide == cin:
            nn.init.zeros_(self.first.weight)

    def forward(self, x: Tensor) -> Tensor:
        total = self.origin_bn(self.origin(x))
        pool: Any = nn.AvgPool2d(3, self.stride, 0 if self.groups < total.shape[1] else 1)
        if self.groups < total.shape[1]:
            total = total + self.point_bn(self.point(x))
            total = total + self.avg_bn(pool(bordered(self.avg_pad_bn, self.avg_conv(x))))
        else:
            total = total + self.avg_bn(pool(x))
        inner = self.first(x)
        if self.first.out_channels == self.first.in_channels:
            inner = inner + x
        return total + self.second_bn(self.second(bordered(self.first_bn, inner)))


def conv(*args: Any) -> nn.Conv2d:
    return nn.Conv2d(*args[:-1], groups=args[-1], bias=False)


def bordered(bn: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """The batch norm of `x` in a ring of what it makes of zero, written by assignment as upstream does."""
    inside = bn(x)
    value = (bn.bias - bn.running_mean * bn.weight / torch.sqrt(bn.running_var + bn.eps)).detach()
    out = value.reshape(1, -1, 1, 1).repeat(inside.shape[0], 1, inside.shape[2] + 2, inside.shape[3] + 2)
    out[:, :, 1:-1, 1:-1] = inside
    return out


class Edge(nn.Module):
    """A fixed filter with a factor and a shift a channel."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.randn(c, 1, 1, 1)), nn.Parameter(torch.randn(c))


class ECB(nn.Module):
    """The edge-oriented block as published: a ring of the inner bias, fixed filters."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, 3, padding=1)
        self.first, self.second = nn.Conv2d(cin, 2 * cout, 1), nn.Conv2d(2 * cout, cout, 3)
        self.edges = nn.ModuleList(nn.Sequential(nn.Conv2d(cin, cout, 1), Edge(cout)) for _ in range(3))
        sobel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
        self.masks = sobel, sobel.T, torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])

    def forward(self, x: Tensor) -> Tensor:
        total = self.conv(x) + self.second(ring(self.first(x), self.first.bias))
        for branch, mask in zip(self.edges, self.masks, strict=True):
            point, edge = branch
            kernel = edge.scale * mask.to(x.dtype)
            total = total + F.conv2d(ring(point(x), point.bias), kernel, edge.shift, groups=len(kernel))
        return total


def ring(x: Tensor, value: Tensor) -> Tensor:
    out = value.reshape(1, -1, 1, 1).repeat(x.shape[0], 1, x.shape[2] + 2, x.shape[3] + 2)
    out[:, :, 1:-1, 1:-1] = x
    return out


class Plain(nn.Module):
    """A block without its activation."""

    def __init__(self, block: Any, run: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.block, self.run = block, run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.block, x)


def acb(b: Any, x: Tensor) -> Tensor:
    return b.square(x) + b.ver(x) + b.hor(x)


def qarep(b: Any, x: Tensor) -> Tensor:
    return b.bn(b.rbr_dense(x) + b.rbr_1x1(x) + x)


def dilated(b: Any, x: Tensor) -> Tensor:
    return b.origin_bn(b.lk_origin(x)) + sum(branch(x) for branch in b.dil)


def mobileone(b: Any, x: Tensor) -> Tensor:
    scale = 0 if b.rbr_scale is None else b.rbr_scale(x)
    return sum(branch(x) for branch in b.rbr_conv) + scale + b.rbr_skip(x)


def repvgg(b: Any, x: Tensor) -> Tensor:
    return b.rbr_dense(x) + b.rbr_1x1(x) + (0 if b.rbr_identity is None else b.rbr_identity(x))


class UniRep(nn.Module):
    """Without the batch norm that the model has behind the block."""

    def __init__(self) -> None:
        super().__init__()
        whole: Any = blocks.DilatedReparamBlock(8, 13)
        self.lk_origin, self.origin_bn, self.dil = whole.lk_origin, whole.origin_bn, whole.dil


class MobileOneOrder(nn.Module):
    """Its parts in the order of the recipe."""

    def __init__(self, k: int, groups: int) -> None:
        super().__init__()
        whole: Any = blocks.MobileOneBlock(8, k, 4, groups)
        self.rbr_conv, self.rbr_scale, self.rbr_skip = whole.rbr_conv, whole.rbr_scale, whole.rbr_skip


class Mixer(nn.Module):
    """FastViT's token mixer: ``x + scale (mixer(x) - norm(x))``, the mixer a MobileOne block of one branch."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.mixer, self.scale = blocks.ConvBN(c, c, 3, groups=c), blocks.ConvBN(c, c, 1, groups=c)
        self.skip, self.norm = nn.BatchNorm2d(c), nn.BatchNorm2d(c)
        self.layer_scale = nn.ParameterList([torch.ones(c, 1, 1) * 1e-5])


def mixed(b: Any, x: Tensor) -> Tensor:
    return x + b.layer_scale[0] * (b.mixer(x) + b.scale(x) + b.skip(x) - b.norm(x))


class Large(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.large, self.small = blocks.ConvBN(8, 16, 7, 2, groups=8), blocks.ConvBN(8, 16, 3, 2, groups=8)


class Ghost(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cheap, self.fusion = blocks.ConvBN(8, 8, 3, groups=8), nn.BatchNorm2d(8)


def repghost(b: Any, x: Tensor) -> Tensor:
    return b.cheap(x) + b.fusion(x)


class OREPA(nn.Module):
    """One convolution, its kernel put together in every forward from six, each with a factor a channel."""

    def __init__(self, cin: int, cout: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        inside, wide = cin // groups, cin if groups <= 4 else 2 * cin
        first = (wide, inside)
        shapes = [
            [(cout, inside, 3, 3)],
            [(cout, inside)],
            [(cout, inside)],
            [first, (cout, wide // groups, 3, 3)],
            [(cout, inside)],
            [(8 * cin, 1, 3, 3), (cout, 8 * inside)],
        ]
        self.kernels = nn.ParameterList(nn.Parameter(torch.empty(s)) for made in shapes for s in (*made, (cout,)))
        self.bn, self.stride, self.groups = nn.BatchNorm2d(cout), stride, groups
        self.register_buffer("eye", torch.eye(inside).repeat(groups, 1) if wide == cin else torch.zeros(first))
        half = cout / 2
        waves = [(i + 1, 1, 0) if i < half else (i + 1 - half, 0, 1) for i in range(cout)]
        taps = torch.arange(3, dtype=torch.float64) + 0.5
        kernels = [torch.cos(torch.pi / 3 * f * (a * taps[:, None] + b * taps[None])) for f, a, b in waves]
        self.register_buffer("prior", torch.stack(kernels).float())

    def weight(self) -> Tensor:
        """Upstream's `weight_gen`, written with one einsum a branch."""
        origin, v0, avg, v1, pfir, v2, first, second, v3, point, v4, dw, pw, v5 = self.kernels
        ninth = torch.full((3, 3), 1 / 9, dtype=origin.dtype)
        g = self.groups
        front = (first + self.eye).unflatten(0, (g, -1))
        pair = torch.einsum("gti,gothw->goihw", front, second.unflatten(0, (g, -1))).flatten(0, 1)
        dw, pw = dw.reshape(g, -1, 8, 3, 3), pw.reshape(g, pw.shape[0] // g, -1, 8)
        separable = torch.einsum("githw,goit->goihw", dw, pw).flatten(0, 1)
        parts = (
            (origin, v0),
            (torch.einsum("oi,hw->oihw", avg, ninth), v1),
            (torch.einsum("oi,ohw->oihw", pfir, self.prior), v2),
            (pair, v3),
            (F.pad(point[..., None, None], (1, 1, 1, 1)), v4),
            (separable, v5),
        )
        return sum(torch.einsum("oihw,o->oihw", kernel, factor) for kernel, factor in parts)  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(F.conv2d(x, self.weight(), None, self.stride, 1, 1, self.groups))


def expand_net(cin: int, cout: int, **options: Any) -> nn.Module:
    """ExpandNet-CL: 1x1, kxk, 1x1, four times as wide inside."""
    wide = nn.Conv2d(4 * cin, 4 * cout, 3, **options)
    return nn.Sequential(nn.Conv2d(cin, 4 * cin, 1), wide, nn.Conv2d(4 * cout, cout, 1))


Pair = tuple[nn.Module, nn.Module]
PUBLISHED: dict[str, Callable[[], Pair]] = {
    "RepVGG": lambda: (Plain(blocks.RepVGGBlock(), repvgg), rnn.RepVGGBlock(8, 8)),
    "RepVGG, stride 2, wider": lambda: (
        Plain(blocks.RepVGGBlock(8, 12, stride=2), repvgg),
        rnn.RepVGGBlock(8, 12, stride=2),
    ),
    "RepVGG, grouped": lambda: (Plain(blocks.RepVGGBlock(groups=4), repvgg), rnn.RepVGGBlock(8, 8, groups=4)),
    "QARepVGG": lambda: (Plain(blocks.QARepVGGBlock(), qarep), rnn.QARepVGGBlock(8, 8)),
    "ACNet": lambda: (Plain(blocks.ACBlock(8, 3, 1), acb), rnn.ACBlock(8, 8)),
    "ACNet, cropped": lambda: (blocks.ACBlock(8, 3, 0), rnn.ACBlock(8, 8, padding=0)),
    "DBB": lambda: (DBB(8, 12), rnn.DiverseBranchBlock(8, 12)),
    "DBB, stride 2, grouped": lambda: (DBB(8, 8, 2, 4), rnn.DiverseBranchBlock(8, 8, stride=2, groups=4)),
    "DBB, depthwise": lambda: (DBB(8, 8, 1, 8), rnn.DiverseBranchBlock(8, 8, groups=8)),
    "MobileOne": lambda: (Plain(MobileOneOrder(3, 8), mobileone), rnn.MobileOneBlock(8, 8, groups=8)),
    "MobileOne, pointwise": lambda: (Plain(MobileOneOrder(1, 1), mobileone), rnn.MobileOneBlock(8, 8, 1)),
    "UniRepLKNet": lambda: (Plain(UniRep(), dilated), rnn.DilatedReparamBlock(8, 8, 13, groups=8)),
    "FastViT, token mixer": lambda: (Plain(Mixer(8), mixed), rnn.RepMixer(8, 8, groups=8)),
    "FastViT, large kernel": lambda: (
        Plain(Large(), lambda b, x: b.large(x) + b.small(x)),
        rnn.ReparamLargeKernelConv(8, 16, 7, stride=2, groups=8),
    ),
    "RepGhost": lambda: (Plain(Ghost(), repghost), rnn.RepGhostConv(8, 8, groups=8)),
    "OREPA": lambda: (OREPA(8, 12), rnn.OREPABlock(8, 12)),
    "OREPA, online": lambda: (OREPA(8, 12), rnn.OREPABlock(8, 12, online=True)),
    "OREPA, stride 2, grouped": lambda: (OREPA(8, 8, 2, 4), rnn.OREPABlock(8, 8, stride=2, groups=4)),
    "OREPA, depthwise": lambda: (OREPA(8, 8, 1, 8), rnn.OREPABlock(8, 8, groups=8)),
    "ExpandNet": lambda: (expand_net(8, 6), rnn.ExpandNetConv(8, 6, padding=0)),
    "ExpandNet, stride 2": lambda: (expand_net(8, 6, stride=2), rnn.ExpandNetConv(8, 6, padding=0, stride=2)),
    "ECB": lambda: (ECB(8, 6), rnn.EdgeOrientedConvBlock(8, 6)),
}


def parameters(model: nn.Module) -> Counter[tuple[int, ...]]:
    """Shapes of everything trained, axes of one number left out of account."""
    return Counter(tuple(s for s in p.shape if s > 1) for p in model.parameters())


def copied(official: nn.Module, ours: nn.Module) -> None:
    """The official numbers, parameter by parameter and statistic by statistic in the order of the branches."""
    for kind in ("named_parameters", "named_buffers"):
        names = ("running_mean", "running_var") if kind == "named_buffers" else ""
        theirs, mine = ([t for n, t in getattr(m, kind)() if n.endswith(names)] for m in (official, ours))
        left = list(theirs)
        for tensor in mine:
            index = next(i for i, t in enumerate(left) if squeezed(t) == squeezed(tensor))
            tensor.data.copy_(left.pop(index).data.reshape(tensor.shape))
        assert not left


def squeezed(tensor: Tensor) -> list[int]:
    return [s for s in tensor.shape if s > 1]


@pytest.mark.parametrize("pair", PUBLISHED.values(), ids=PUBLISHED.keys())
def test_same_branches_same_numbers_same_deploy_form(pair: Callable[[], Pair]) -> None:
    official, ours = (randomize(m).double() for m in pair())
    assert parameters(ours) == parameters(official)
    copied(official, ours)
    x = inputs(SHAPE)
    with torch.no_grad():
        assert gap(official(x), ours(x)) <= 1e-12
        assert gap(official.train()(x), ours.train()(x)) <= 1e-12
        assert gap(official.eval()(x), ours.eval()(x)) <= 1e-12  # the running statistics moved alike
    deploy = reparamkit.apply(nn.Sequential(ours).eval())
    assert [type(m) for m in deploy] == [nn.Conv2d]
    with torch.no_grad():
        assert gap(official(x), deploy(x)) <= 1e-12


TIMM: dict[str, tuple[str, tuple[Any, ...], dict[str, Any], Callable[[], nn.Module], dict[str, str]]] = {
    "RepVGG": (
        "byobnet.RepVggBlock",
        (8, 8),
        {"group_size": 2},
        lambda: rnn.RepVGGBlock(8, 8, groups=4),
        {"conv3x3": "conv_kxk", "conv1x1": "conv_1x1", "bn": "identity"},
    ),
    "MobileOne": (
        "byobnet.MobileOneBlock",
        (8, 8),
        {"num_conv_branches": 4, "group_size": 1},
        lambda: rnn.MobileOneBlock(8, 8, groups=8),
        {
            **{f"conv3x3{f'_{i}' if i else ''}": f"conv_kxk.{i}" for i in range(4)},
            "conv1x1": "conv_scale",
            "bn": "identity",
        },
    ),
    "FastViT, large kernel": (
        "fastvit.ReparamLargeKernelConv",
        (8, 16, 7, 2, 1, 3),
        {},
        lambda: rnn.ReparamLargeKernelConv(8, 16, 7, stride=2, groups=8),
        {"conv7x7": "large_conv", "conv3x3": "small_conv"},
    ),
    "FastViT, token mixer": (
        "fastvit.RepMixer",
        (8,),
        {},
        lambda: rnn.RepMixer(8, 8, groups=8),
        {
            "mixer.sum.conv3x3": "mixer.conv_kxk.0",
            "mixer.sum.conv1x1": "mixer.conv_scale",
            "mixer.sum.skip": "mixer.identity",
            "mixer.sum.norm.bn": "norm.identity",
            "mixer.scale": "layer_scale",
        },
    ),
}


@pytest.mark.zoo
@pytest.mark.parametrize("case", TIMM.values(), ids=TIMM.keys())
def test_timm_block_and_its_own_deploy_form(case: Any) -> None:
    models = pytest.importorskip("timm.models")
    name, args, options, make, names = case
    module, _, kind = name.partition(".")
    official: Any = randomize(getattr(getattr(models, module), kind)(*args, **options)).double()
    official.act = nn.Identity()
    ours = randomize(make()).double()
    assert parameters(ours) == parameters(official)
    for mine, theirs in names.items():
        copied(official.get_submodule(theirs), ours.get_submodule(mine))
    x = inputs(SHAPE)
    with torch.no_grad():
        assert gap(official.train()(x), ours.train()(x)) <= 1e-12
        assert gap(official.eval()(x), ours.eval()(x)) <= 1e-12
    [deploy] = reparamkit.apply(nn.Sequential(ours).eval())
    official.reparameterize()
    assert gap(official.reparam_conv.weight.data, deploy.weight.data) <= 1e-12
    assert gap(official.reparam_conv.bias.data, deploy.bias.data) <= 1e-12


class LoRA(nn.Module):
    """``W x + b + alpha / r B A x`` with rank 8 and alpha 16; ``W`` and ``b`` are not trained, ``B`` starts as zero."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.base = nn.Linear(cin, cout).requires_grad_(False)
        self.a, self.b = nn.Linear(cin, 8, bias=False), nn.Linear(8, cout, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.b(self.a(x)) * (16 / 8)


def test_lora() -> None:
    official, ours = LoRA(10, 12).double(), rnn.LoRALinear(10, 12).double()
    for module in (official, ours):
        assert [tuple(p.shape) for p in module.parameters() if p.requires_grad] == [(8, 10), (12, 8)]
    assert not any(p.any() for n, p in ours.named_parameters() if p.shape == (12, 8))
    randomize(official), randomize(ours)
    copied(official, ours)
    x = inputs((3, 5, 10))
    [deploy] = reparamkit.apply(nn.Sequential(ours).eval(), "lora")
    with torch.no_grad():
        assert gap(official(x), ours(x)) <= 1e-12
        assert gap(official(x), deploy(x)) <= 1e-12
    assert type(deploy) is nn.Linear


@pytest.mark.parametrize("name", [n for n in rnn.__all__ if n not in ("parameter_groups", "LoRALinear")])
def test_class_of_each_block(name: str) -> None:
    """Every class builds, keeps the size, trains and collapses; online where there is no batch norm in the way."""
    kind: Any = getattr(rnn, name)
    kernel = 7 if name in ("DilatedReparamBlock", "ReparamLargeKernelConv") else 3
    groups = 8 if name in ("DilatedReparamBlock", "RepMixer", "RepGhostConv") else 1
    block = randomize(kind(8, 8, kernel, groups=groups)).double()
    x = inputs((2, 8, 12, 11))
    assert block(x).shape == x.shape
    block.train()(x).sum().backward()
    assert all(p.grad is not None for p in block.parameters())
    model = nn.Sequential(block, nn.ReLU()).eval()
    deploy = reparamkit.apply(model)
    assert [type(m) for m in deploy] == [nn.Conv2d, nn.ReLU]
    with torch.no_grad():
        assert gap(model(x), deploy(x)) <= 1e-12


def test_class_refuses_a_layer_its_recipe_is_not_for() -> None:
    with pytest.raises(reparamkit.RecipeError, match=r"RK706.*no branches for a conv2d 8 -> 8, 5x5"):
        rnn.RepVGGBlock(8, 8, 5)
    with pytest.raises(reparamkit.RecipeError, match=r"RK342.*bn"):
        rnn.RepVGGBlock(8, 8, online=True)
