"""Each built-in rule: what it must merge, and twins that differ in one thing and must be left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers import IMAGES, Fn, Shape, branches, codes, conv_bn, convert, counts, merged_rules

Make = Callable[[], nn.Module]
LINES = ((1, 4, 7), (2, 4, 8), (2, 4, 5))
VOLUMES = ((1, 4, 5, 4, 3), (2, 4, 4, 5, 6))
VECTORS = ((1, 4), (3, 4))
C = 4


def seq(*modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(*modules)


def conv(*args: Any, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(*(args or (C, C, 3)), **options)


def same(kernel: int = 3, **options: Any) -> nn.Conv2d:
    """A convolution that keeps the size."""
    return conv(C, C, kernel, padding=kernel // 2, **options)


class Frozen(nn.Module):
    """Batch norm with buffers for everything, its formula written out."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.ones(C))

    def forward(self, x: Tensor) -> Tensor:
        scale = (self.weight * (self.running_var + 1e-5).rsqrt()).reshape(1, -1, 1, 1)
        return x * scale + (self.bias.reshape(1, -1, 1, 1) - self.running_mean.reshape(1, -1, 1, 1) * scale)


def torchvision_frozen() -> nn.Module:
    ops: Any = pytest.importorskip("torchvision.ops")
    return ops.FrozenBatchNorm2d(C)


class Functional(nn.Module):
    """A convolution and a batch norm as functions on parameters of the module itself."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.ones(C, C, 3, 3))
        self.weight, self.bias = nn.Parameter(torch.ones(C)), nn.Parameter(torch.ones(C))
        self.register_buffer("running_mean", torch.ones(C))
        self.register_buffer("running_var", torch.ones(C))

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(x, self.kernel, None, padding=1)
        return F.batch_norm(y, self.running_mean, self.running_var, self.weight, self.bias, False, 0.1, 1e-3)  # type: ignore[arg-type]


class LayerScale(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def down(pool: nn.Module) -> nn.Module:
    """Average pooling beside the convolution of its geometry."""
    return branches(pool, conv(C, C, 2, stride=2))


MERGED: dict[str, tuple[Make, tuple[int, int], str, tuple[Shape, ...]]] = {
    # conv_bn
    "conv bn": (lambda: seq(*conv_bn(C, 6, 3)), (1, 0), "core/conv_bn", IMAGES),
    "conv without bias": (lambda: seq(*conv_bn(C, 6, 3, bias=False)), (1, 0), "core/conv_bn", IMAGES),
    "conv1d bn": (lambda: seq(*conv_bn(C, 6, 3, nd=1)), (1, 0), "core/conv_bn", LINES),
    "conv3d bn": (lambda: seq(*conv_bn(C, 6, 3, nd=3)), (1, 0), "core/conv_bn", VOLUMES),
    "bn not affine": (lambda: seq(conv(), nn.BatchNorm2d(C, affine=False)), (1, 0), "core/conv_bn", IMAGES),
    "bn without momentum": (lambda: seq(conv(), nn.BatchNorm2d(C, momentum=None)), (1, 0), "core/conv_bn", IMAGES),
    "two bns": (lambda: seq(conv(), nn.BatchNorm2d(C), nn.BatchNorm2d(C)), (1, 0), "core/conv_bn", IMAGES),
    "sync bn": (lambda: seq(conv(), nn.SyncBatchNorm(C)), (1, 0), "core/conv_bn", IMAGES),
    "instance norm with statistics": (
        lambda: seq(conv(), nn.InstanceNorm2d(C, affine=True, track_running_stats=True)),
        (1, 0),
        "core/conv_bn",
        IMAGES,
    ),
    "frozen bn": (lambda: seq(conv(), Frozen()), (1, 0), "core/scale", IMAGES),
    "torchvision's frozen bn": (lambda: seq(conv(), torchvision_frozen()), (1, 0), "core/scale", IMAGES),
    "functional": (Functional, (1, 0), "core/conv_bn", IMAGES),
    "transposed bn": (
        lambda: seq(nn.ConvTranspose2d(C, 6, 3, stride=2, padding=1, output_padding=1), nn.BatchNorm2d(6)),
        (1, 0),
        "core/conv_bn",
        IMAGES,
    ),
    "transposed grouped bn": (
        lambda: seq(nn.ConvTranspose2d(C, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6)),
        (1, 0),
        "core/conv_bn",
        IMAGES,
    ),
    "bn unpadded conv": (lambda: seq(nn.BatchNorm2d(C), conv()), (1, 0), "core/conv_bn", IMAGES),
    "bn reflecting conv": (
        lambda: seq(nn.BatchNorm2d(C), same(padding_mode="reflect")),
        (1, 0),
        "core/conv_bn",
        IMAGES,
    ),
    # kernel_padding
    "3x3 + 1x1": (lambda: branches(same(), same(1)), (1, 0), "core/kernel_padding", IMAGES),
    "5x5 + 3x3": (lambda: branches(same(5), same()), (1, 0), "core/kernel_padding", IMAGES),
    "1x3 + 3x1": (
        lambda: branches(conv(C, C, (1, 3), padding=(0, 1)), conv(C, C, (3, 1), padding=(1, 0)), same()),
        (1, 0),
        "core/kernel_padding",
        IMAGES,
    ),
    "even beside odd, 'same'": (
        lambda: branches(conv(C, C, 5, padding="same"), conv(C, C, 2, padding="same")),
        (1, 0),
        "core/kernel_padding",
        IMAGES,
    ),
    "strided": (
        lambda: branches(conv(C, C, 3, stride=(2, 1), padding=1), conv(C, C, 1, stride=(2, 1))),
        (1, 0),
        "core/kernel_padding",
        IMAGES,
    ),
    "circular 3x3 + plain 1x1": (
        lambda: branches(same(padding_mode="circular"), same(1)),
        (1, 0),
        "core/kernel_padding",
        IMAGES,
    ),
    "1x1 padded by 1, 3x3 padded by 2": (
        lambda: branches(conv(C, C, 1, padding=1), conv(C, C, 3, padding=2)),
        (1, 0),
        "core/kernel_padding",
        IMAGES,
    ),
    # identity_to_conv
    "3x3 + identity": (lambda: branches(same(), nn.Identity()), (1, 0), "core/identity_to_conv", IMAGES),
    "grouped + identity": (
        lambda: branches(same(groups=2), nn.Identity()),
        (1, 0),
        "core/identity_to_conv",
        IMAGES,
    ),
    "depthwise + identity": (lambda: branches(same(groups=C), nn.Identity()), (1, 0), "core/identity_to_conv", IMAGES),
    "repvgg": (
        lambda: branches(
            seq(*conv_bn(C, C, 3, padding=1, bias=False)), seq(*conv_bn(C, C, 1, bias=False)), nn.BatchNorm2d(C)
        ),
        (1, 0),
        "core/identity_to_conv",
        IMAGES,
    ),
    "repvgg 3d": (
        lambda: branches(seq(*conv_bn(C, C, 3, padding=1, nd=3)), seq(*conv_bn(C, C, 1, nd=3)), nn.BatchNorm3d(C)),
        (1, 0),
        "core/identity_to_conv",
        VOLUMES,
    ),
    # sequential
    "1x1, 3x3": (lambda: seq(conv(C, C, 1), conv(C, C, 3)), (1, 0), "core/sequential", IMAGES),
    "1x1 without bias, padded 3x3": (lambda: seq(same(1, bias=False), same()), (1, 0), "core/sequential", IMAGES),
    "3x3, 1x1": (lambda: seq(same(), same(1)), (1, 0), "core/sequential", IMAGES),
    "3x3, bn, 1x1, bn": (
        lambda: seq(*conv_bn(C, C, 3, padding=1), *conv_bn(C, C, 1)),
        (1, 0),
        "core/sequential",
        IMAGES,
    ),
    "1x1, reflecting 3x3": (lambda: seq(same(1), same(padding_mode="reflect")), (1, 0), "core/sequential", IMAGES),
    "linear, linear": (lambda: seq(nn.Linear(C, 8), nn.Linear(8, 3)), (1, 0), "core/sequential", VECTORS),
    "transposed, 1x1": (
        lambda: seq(nn.ConvTranspose2d(C, C, 2, stride=2), same(1)),
        (1, 0),
        "core/sequential",
        IMAGES,
    ),
    # scale
    "layer scale [C, 1, 1]": (lambda: seq(same(), LayerScale(C, 1, 1)), (1, 0), "core/scale", IMAGES),
    "layer scale [1, C, 1, 1]": (lambda: seq(same(), LayerScale(1, C, 1, 1)), (1, 0), "core/scale", IMAGES),
    "layer scale before": (lambda: seq(LayerScale(C, 1, 1), same()), (1, 0), "core/scale", IMAGES),
    "layer scale of a linear layer": (lambda: seq(nn.Linear(C, 6), LayerScale(6)), (1, 0), "core/scale", VECTORS),
    "halved": (lambda: Fn(lambda m, x: m.f(x) * 0.5 + m.g(x), f=same(), g=same(1)), (1, 0), "core/scale", IMAGES),
    "divided": (lambda: Fn(lambda m, x: m.f(x) / 3 + m.g(x), f=same(), g=same(1)), (1, 0), "core/scale", IMAGES),
    "negated": (lambda: Fn(lambda m, x: -m.f(x) + m.g(x), f=same(), g=same(1)), (1, 0), "core/branch_sum", IMAGES),
    # pooling
    "pooling beside a conv": (lambda: down(nn.AvgPool2d(2)), (1, 0), "core/pooling", IMAGES),
    "padded pooling": (
        lambda: branches(nn.AvgPool2d(3, 1, 1), same()),
        (1, 0),
        "core/pooling",
        IMAGES,
    ),
    "pooling with a divisor": (lambda: down(nn.AvgPool2d(2, divisor_override=3)), (1, 0), "core/pooling", IMAGES),
    "functional pooling": (
        lambda: Fn(lambda m, x: F.avg_pool2d(x, 2) + m.f(x), f=conv(C, C, 2, stride=2)),
        (1, 0),
        "core/pooling",
        IMAGES,
    ),
    "1x1, bn, pooling": (
        lambda: branches(seq(*conv_bn(C, C, 1), nn.AvgPool2d(2)), seq(*conv_bn(C, C, 2, stride=2))),
        (1, 0),
        "core/pooling",
        IMAGES,
    ),
    # pad
    "zero padding, conv": (lambda: seq(nn.ZeroPad2d((1, 0, 1, 0)), conv()), (1, 0), "core/pad", IMAGES),
    "reflection padding, conv": (lambda: seq(nn.ReflectionPad2d(1), conv()), (1, 0), "core/pad", IMAGES),
    "cropped branch": (
        lambda: Fn(lambda m, x: m.f(x) + m.g(x[:, :, 1:-1, 1:-1]), f=conv(), g=same(1)),
        (1, 0),
        "core/pad",
        IMAGES,
    ),
    "strided slice": (
        lambda: Fn(lambda m, x: m.f(x) + m.g(x[:, :, ::2, ::2]), f=same(stride=2), g=same(1)),
        (1, 0),
        "core/pad",
        IMAGES,
    ),
    # dilation
    "dilated + plain": (
        lambda: branches(same(5), conv(C, C, 3, padding=2, dilation=2)),
        (1, 0),
        "core/dilation",
        IMAGES,
    ),
    # groups
    "dense + grouped": (lambda: branches(same(), same(1, groups=2)), (1, 0), "core/groups", IMAGES),
    # no_op
    "dropout between": (lambda: seq(same(), nn.Dropout2d(0.5), nn.BatchNorm2d(C)), (1, 0), "core/conv_bn", IMAGES),
    "functional dropout, off": (
        lambda: Fn(lambda m, x: m.b(F.dropout(m.f(x), 0.3, training=False)), f=same(), b=nn.BatchNorm2d(C)),
        (1, 0),
        "core/no_op",
        IMAGES,
    ),
    "dropout that follows the mode": (
        lambda: Fn(lambda m, x: m.b(F.dropout(m.f(x), 0.3, m.training)), f=same(), b=nn.BatchNorm2d(C)),
        (1, 0),
        "core/no_op",
        IMAGES,
    ),
    "clone between": (
        lambda: Fn(lambda m, x: m.b(m.f(x).contiguous().clone()), f=same(), b=nn.BatchNorm2d(C)),
        (1, 0),
        "core/no_op",
        IMAGES,
    ),
    # concat
    "stacked branches": (
        lambda: Fn(lambda m, x: torch.cat([m.f(x), m.g(x)], 1), f=same(), g=conv(C, 2, 3, padding=1)),
        (1, 0),
        "core/concat",
        IMAGES,
    ),
    "stacked branches, then 1x1": (
        lambda: Fn(
            lambda m, x: m.h(torch.cat((m.f(x), m.g(x)), dim=1)), f=same(), g=conv(C, 2, 3, padding=1), h=conv(6, C, 1)
        ),
        (1, 0),
        "core/concat",
        IMAGES,
    ),
    "stacked, counted from the end": (
        lambda: Fn(lambda m, x: torch.cat([m.f(x), m.g(x)], -3), f=same(), g=same()),
        (1, 0),
        "core/concat",
        IMAGES,
    ),
    # linear, conv
    "linear branches": (
        lambda: branches(nn.Linear(C, C), nn.Linear(C, C, bias=False), nn.Identity()),
        (1, 0),
        "core/branch_sum",
        VECTORS,
    ),
    "linear on a sequence": (lambda: branches(nn.Linear(C, C), nn.Identity()), (1, 0), "core/branch_sum", ((2, 5, C),)),
    "functional linear": (
        lambda: Fn(lambda m, x: F.linear(x, m.p, m.q) + m.f(x), p=par(6, C), q=par(6), f=nn.Linear(C, 6)),
        (1, 0),
        "core/linear",
        VECTORS,
    ),
    "functional conv": (
        lambda: Fn(lambda m, x: F.conv2d(x, m.p, m.q, padding="same") + m.f(x), p=par(C, C, 3, 3), q=par(C), f=same(1)),
        (1, 0),
        "core/conv",
        IMAGES,
    ),
    "conv called by keyword": (
        lambda: Fn(lambda m, x: m.b(input=m.f(input=x)), f=same(), b=nn.BatchNorm2d(C)),
        (1, 0),
        "core/conv_bn",
        IMAGES,
    ),
}


def par(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(shape))


@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel")
@pytest.mark.parametrize("case", MERGED)
def test_merged(case: str) -> None:
    make, left, rule, shapes = MERGED[case]
    converted, report = convert(make(), *shapes, policy="always")
    assert counts(converted) == left, report
    assert rule in merged_rules(report), report


TWINS: dict[str, tuple[Make, str, tuple[Shape, ...]]] = {
    # conv_bn
    "bn with batch statistics": (
        lambda: seq(conv(), nn.BatchNorm2d(C, track_running_stats=False)),
        "RK201",
        IMAGES,
    ),
    "instance norm": (lambda: seq(conv(), nn.InstanceNorm2d(C, affine=True)), "RK205", IMAGES),
    "bn, padded conv": (lambda: seq(nn.BatchNorm2d(C), same()), "RK316", IMAGES),
    "bn before a transposed conv": (
        lambda: seq(nn.BatchNorm2d(C), nn.ConvTranspose2d(C, C, 3)),
        "RK316",
        IMAGES,
    ),
    "linear, bn of unknown axes": (lambda: seq(nn.Linear(C, C), nn.BatchNorm1d(C)), "RK203", VECTORS),
    # kernel_padding
    "other size for some inputs": (
        lambda: branches(conv(C, C, 3, stride=2, padding=1), conv(C, C, 2, stride=2)),
        "RK317",
        ((1, C, 8, 8),),
    ),
    "other stride": (
        lambda: Fn(
            lambda m, x: F.interpolate(m.f(x), x.shape[2:]) + F.interpolate(m.g(x), x.shape[2:]),
            f=conv(C, C, 3, padding=1, stride=2),
            g=same(1),
        ),
        "",
        IMAGES,
    ),
    "other padding mode": (lambda: branches(same(5), same(padding_mode="reflect")), "RK312", IMAGES),
    # identity_to_conv: 4 channels in, 1 out, and the sum broadcasts
    "identity beside fewer channels": (
        lambda: branches(conv(C, 1, 3, padding=1), nn.Identity()),
        "RK311",
        IMAGES,
    ),
    # sequential
    "3x3, padded 3x3": (lambda: seq(same(), same()), "RK316", IMAGES),
    "1x1 with bias, padded 3x3": (lambda: seq(same(1), same()), "RK316", IMAGES),
    "padded reflecting after stride": (
        lambda: seq(conv(C, C, 1, stride=2), same(padding_mode="reflect")),
        "RK316",
        IMAGES,
    ),
    # scale
    "scale of two axes": (lambda: seq(same(), LayerScale(C, 1, 5)), "RK310", ((1, C, 5, 5), (2, C, 6, 5))),
    "scale of the batch": (lambda: seq(same(), LayerScale(2, 1, 1, 1)), "RK310", ((2, C, 5, 5),)),
    "scale of another axis": (lambda: seq(same(), LayerScale(5, 1)), "RK310", ((1, C, 5, 5), (2, C, 5, 6))),
    "product of values": (lambda: Fn(lambda m, x: m.f(x) * m.g(x), f=same(), g=same()), "", IMAGES),
    "floor division": (
        lambda: Fn(lambda m, x: torch.div(m.f(x), 0.3, rounding_mode="floor") + x, f=same()),
        "",
        IMAGES,
    ),
    # pooling
    "pooling without the padding": (
        lambda: branches(nn.AvgPool2d(3, 1, 1, count_include_pad=False), same()),
        "RK320",
        IMAGES,
    ),
    "pooling with ceil_mode": (
        lambda: branches(nn.AvgPool2d(2, ceil_mode=True), conv(C, C, 2, stride=2)),
        "RK320",
        ((1, C, 8, 8),),
    ),
    "max pooling": (lambda: branches(nn.MaxPool2d(3, 1, 1), same()), "", IMAGES),
    "adaptive pooling": (
        lambda: Fn(lambda m, x: m.f(x) + F.adaptive_avg_pool2d(x, 1), f=same()),
        "",
        IMAGES,
    ),
    # pad
    "constant padding, conv": (lambda: seq(nn.ConstantPad2d(1, 0.5), same()), "RK316", IMAGES),
    "padding in another mode": (
        lambda: seq(nn.ReflectionPad2d(1), same(padding_mode="circular")),
        "RK316",
        IMAGES,
    ),
    "slice of channels": (
        lambda: Fn(lambda m, x: m.f(x[:, :2]) + m.g(x), f=conv(2, C, 1), g=same()),
        "",
        IMAGES,
    ),
    "slice from the start": (
        lambda: Fn(lambda m, x: m.f(x)[:, :, :2, :2] + m.g(x)[:, :, :2, :2], f=same(), g=conv(C, C, 3, stride=2)),
        "",
        IMAGES,
    ),
    # no_op
    "functional dropout, on": (
        lambda: Fn(lambda m, x: m.b(F.dropout(m.f(x), 1.0, training=True)), f=same(), b=nn.BatchNorm2d(C)),
        "RK202",
        IMAGES,
    ),
    "activation between": (lambda: seq(conv(C, C, 1), nn.ReLU(), conv(C, C, 1)), "", IMAGES),
    # concat
    "stacked along rows": (
        lambda: Fn(lambda m, x: torch.cat([m.f(x), m.g(x)], 2), f=same(), g=same()),
        "",
        IMAGES,
    ),
    "stacked with something else": (
        lambda: Fn(lambda m, x: torch.cat([m.f(x), m.g(x).relu()], 1), f=same(), g=same()),
        "",
        IMAGES,
    ),
    # linear, conv
    "kernel from the input": (
        lambda: Fn(lambda m, x: F.conv2d(x, m.p * x.mean()) + m.f(x), p=par(C, C, 1, 1), f=same()),
        "",
        IMAGES,
    ),
    "transposed branches of two geometries": (
        lambda: branches(nn.ConvTranspose2d(C, C, 3, padding=2, dilation=2), nn.ConvTranspose2d(C, C, 3, padding=1)),
        "RK314",
        IMAGES,
    ),
}


@pytest.mark.parametrize("case", TWINS)
def test_left_alone(case: str) -> None:
    make, code, shapes = TWINS[case]
    model = make()
    converted, report = convert(model, *shapes, policy="always")
    assert counts(converted) == counts(model), report
    assert not report.merged
    assert not code or code in codes(report), report


def test_policies_differ_in_what_pays() -> None:
    depthwise = branches(same(groups=C), same(1))
    converted, report = convert(depthwise, policy="cheaper")
    assert counts(converted) == (2, 0)
    assert "RK340" in codes(report)
    converted, _ = convert(depthwise, policy="always")
    assert counts(converted) == (1, 0)


def two(run: Callable[[Any, Tensor], Tensor]) -> Fn:
    return Fn(run, a=seq(*conv_bn(C, C, 3, padding=1)), b=seq(*conv_bn(C, C, 1)))


SPELLINGS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "a + b": lambda m, x: m.a(x) + m.b(x),
    "a + b + x": lambda m, x: m.a(x) + m.b(x) + x,
    "x + (a + b)": lambda m, x: x + (m.a(x) + m.b(x)),
    "a - b": lambda m, x: m.a(x) - m.b(x),
    "x - a - b": lambda m, x: x - m.a(x) - m.b(x),
    "2 - a - b": lambda m, x: 2 - m.a(x) - m.b(x),
    "add(alpha)": lambda m, x: torch.add(m.a(x), m.b(x), alpha=0.3),
    "add(other=, alpha=)": lambda m, x: torch.add(input=m.a(x), other=m.b(x), alpha=-2),
    "sub(alpha)": lambda m, x: torch.sub(m.a(x), m.b(x), alpha=3),
    "rsub": lambda m, x: torch.rsub(m.a(x), m.b(x), alpha=2),
    ".add(alpha)": lambda m, x: m.a(x).add(m.b(x), alpha=0.5),
    ".sub": lambda m, x: m.a(x).sub(m.b(x)),
    "sum([..])": lambda m, x: sum([m.a(x), m.b(x)]),
    "sum(generator)": lambda m, x: sum(f(x) for f in (m.a, m.b)),
    "0 + a": lambda m, x: 0 + m.a(x) + m.b(x),
    "stack.sum": lambda m, x: torch.stack([m.a(x), m.b(x)]).sum(0),
    "stack.sum, other axis": lambda m, x: torch.stack((m.a(x), m.b(x)), dim=-1).sum(dim=-1),
    "torch.sum(stack)": lambda m, x: torch.sum(torch.stack([m.a(x), m.b(x)], 1), 1),
    "stack.mean": lambda m, x: torch.stack([m.a(x), m.b(x), x]).mean(0),
    "stack.mean, dim in a list": lambda m, x: torch.stack([m.a(x), m.b(x)]).mean([0]),
    "weighted": lambda m, x: 0.25 * m.a(x) + m.b(x) * 0.75,
    "divided": lambda m, x: (m.a(x) + m.b(x)) / 2,
    "constant added": lambda m, x: m.a(x) + 1.5 + m.b(x),
    "neg": lambda m, x: torch.neg(m.a(x)) + m.b(x),
    "nested": lambda m, x: (m.a(x) + x) * 0.5 + (m.b(x) - x) * 2,
    "twice": lambda m, x: (lambda y: y + y)(m.a(x)) + m.b(x),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_of_a_sum(spelling: str) -> None:
    converted, report = convert(two(SPELLINGS[spelling]))
    assert counts(converted) == (1, 0), report


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = seq(*conv_bn(C, C, 3, padding=1)), seq(*conv_bn(C, C, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y += self.b(x)
        y -= x
        y *= 0.5
        return y


class InPlaceMethods(InPlace):
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).add_(self.b(x), alpha=2).mul_(0.5)
        return y.sub_(x)


@pytest.mark.parametrize("kind", [InPlace, InPlaceMethods])
def test_in_place_sums_of_values_nobody_else_reads(kind: type[nn.Module]) -> None:
    converted, report = convert(kind())
    assert counts(converted) == (1, 0), report


UNMERGED: dict[str, Callable[[Any, Tensor], Any]] = {
    "a reduction that is no stack": lambda m, x: m.a(x).sum(1, keepdim=True) + m.b(x),
    "stack.sum along another axis": lambda m, x: torch.stack([m.a(x), m.b(x)]).sum(1),
    "stack.sum, axis kept": lambda m, x: torch.stack([m.a(x), m.b(x)]).sum(0, keepdim=True),
    "stack of two, maximum": lambda m, x: torch.stack([m.a(x), m.b(x)]).amax(0),
    "stack read twice": lambda m, x: (lambda s: s.sum(0) + s.amax(0))(torch.stack([m.a(x), m.b(x)])),
    "maximum": lambda m, x: torch.maximum(m.a(x), m.b(x)),
    "activation on one side": lambda m, x: m.a(x).relu() + m.b(x),
    "other inputs": lambda m, x: m.a(x.relu()) + m.b(x),
}


@pytest.mark.parametrize("spelling", UNMERGED)
def test_what_only_looks_like_a_sum(spelling: str) -> None:
    converted, _ = convert(two(UNMERGED[spelling]))
    assert counts(converted) == (2, 0)


def test_a_batch_norm_behind_a_linear_layer_follows_the_example() -> None:
    flat, report = convert(seq(nn.Linear(C, C), nn.BatchNorm1d(C)), *VECTORS, example_inputs=torch.ones(2, C).double())
    assert counts(flat) == (1, 0), report
    deep: Shape = (2, C, C)
    kept, _ = convert(seq(nn.Linear(C, C), nn.BatchNorm1d(C)), deep, example_inputs=torch.ones(deep).double())
    assert counts(kept) == (1, 1)


def test_a_lone_batch_norm_1d_beside_a_conv_1d_follows_the_example() -> None:
    block = branches(seq(*conv_bn(C, C, 3, padding=1, nd=1)), seq(*conv_bn(C, C, 1, nd=1)), nn.BatchNorm1d(C))
    converted, report = convert(block, *LINES, example_inputs=torch.ones(2, C, 9).double())
    assert counts(converted) == (1, 0), report


def test_switching_a_rule_off_leaves_its_merges() -> None:
    block = branches(seq(*conv_bn(C, C, 3, padding=1)), seq(*conv_bn(C, C, 1)))
    recipe = {
        "version": 1,
        "name": "sumless",
        "blocks": [{"match": {"structure": "any"}}],
        "disable": ["core/branch_sum"],
    }
    converted, report = convert(block, recipe=recipe)
    assert counts(converted) == (2, 0), report
    assert "RK801" in codes(report)


@pytest.mark.parametrize("name", ["conv_bn", "kernel_padding", "identity_to_conv", "branch_sum"])
def test_each_rule_of_the_charter_is_used_by_repvgg(name: str) -> None:
    _, report = convert(MERGED["repvgg"][0]())
    assert f"core/{name}" in merged_rules(report)


def affine(padding: int, **options: Any) -> nn.Module:
    """PP-LCNetV3's learnable affine behind an activation, in front of a convolution."""
    per_channel = torch.linspace(-1, 2, C).reshape(1, C, 1, 1)
    return Fn(
        lambda m, x: m.conv(F.hardswish(m.stem(x)) * m.scale + m.shift),
        stem=seq(*conv_bn(C, C, 3, padding=1)),
        scale=nn.Parameter(per_channel + 0.1),
        shift=nn.Parameter(per_channel - 0.3),
        conv=conv(C, C, 3, padding=padding, **options),
    )


@pytest.mark.parametrize("options", [{"padding": 0}, {"padding": 1, "padding_mode": "reflect"}], ids=str)
def test_scale_and_shift_behind_an_activation_go_into_the_convolution(options: dict[str, Any]) -> None:
    deploy, report = convert(affine(**options))
    assert "core/scale" in merged_rules(report)
    assert not list(deploy._parameters)


def test_a_shift_that_may_not_go_stays_and_the_scale_goes_on() -> None:
    """The must-refuse twin: zeros are padded, so the shift would be missing at the border."""
    deploy, report = convert(affine(padding=1))
    assert [m.path for m in report.merged] == ["stem.0", "reparam", "conv"]
    assert deploy.reparam.bias.shape == (C, 1, 1)
    assert not list(deploy._parameters)
    whole = convert(affine(padding=1), recipe={"version": 1, "name": "whole", "extends": "auto", "disable": ["parted"]})
    assert sorted(whole[0]._parameters) == ["scale", "shift"]
    assert codes(whole[1]) == {"RK316"}
