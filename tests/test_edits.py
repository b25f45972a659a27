"""The edit itself: what stands around a merged region, and what remains of it, is kept."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reparamkit
from tests.hazards.models import C, bn, same, seq
from tests.helpers import (
    Fn,
    assert_same,
    branches,
    codes,
    conv_bn,
    convert,
    convert_as_is,
    places,
    randomize,
)

AROUND: dict[str, Callable[[Any, Tensor], Any]] = {
    "factor": lambda m, x: m.f(x) * 0.5,
    "shift": lambda m, x: m.f(x) + 1,
    "scale before": lambda m, x: m.f(x * 2),
    "both": lambda m, x: m.f(x * 2) * 3 + 1,
    "sum": lambda m, x: m.f(x) + x,
    "norm": lambda m, x: m.bn(m.f(x)) * 2,
    "clone": lambda m, x: m.bn(m.f(x)).clone(),
    "activation": lambda m, x: (m.f(x) * 0.5).relu(),
    "two": lambda m, x: m.f(x) * 0.5 + m.g(x),
}


@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize("run", AROUND)
def test_H1_blocks_that_do_arithmetic_around_their_layers(run: str, inplace: bool) -> None:
    layers = [nn.ReLU, nn.Identity, lambda: same(1, bias=False), same, bn]
    for before, after in itertools.product(layers, layers):
        block = Fn(AROUND[run], f=same(), g=same(1), bn=bn())
        model = randomize(seq(before(), seq(block), after())).double()
        original = copy.deepcopy(model)
        assert_same(original, reparamkit.apply(model, inplace=inplace, policy="always"))


class Tailed(nn.Module):
    """A block whose first layers merge with arithmetic of its own, and go on with a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = seq(same(), bn()), same()

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.a(x) * 0.5)


class Dead(nn.Module):
    """A block that also calls a layer whose result nobody reads."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.dead, self.inner = same(1), inner

    def forward(self, x: Tensor) -> Tensor:
        self.dead(x)
        return self.inner(x) * 0.5


class Hands(nn.Module):
    """A block that hands its input on, after layers whose result nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.pad, self.dead = nn.ReflectionPad2d(1), seq(same(1), bn())

    def forward(self, x: Tensor) -> Tensor:
        self.dead(self.pad(x))
        return x


class LayerScaled(nn.Module):
    """A scale for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(C, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def _dead_rewrite(m: Any, x: Tensor) -> Any:
    m.bn(m.norm(x) + x)
    return m.f(x)


def _dead_reader(m: Any, x: Tensor) -> Any:
    x += x
    m.identity(x)
    return m.pool(m.f(x))


REMAINDERS: dict[str, Callable[[], nn.Module]] = {
    "the anchor is inside": lambda: seq(Tailed(), nn.ReLU()),
    "a dead layer is no rest": lambda: seq(Dead(bn())),
    "a dead layer is no rest, anchor outside": lambda: seq(same(), Dead(nn.Identity())),
    "a block inside a merged region": lambda: Fn(
        lambda m, x: m.g(m.bn(m.f(x) * 0.5)), f=same(), bn=bn(), g=Fn(lambda m, x: m.f(x * 0.5), f=same(1))
    ),
    "a rewrite in a block that goes": lambda: Fn(
        lambda m, x: m.g[0](x) * 0.5,
        g=nn.ModuleList([Fn(lambda m, x: (m.a(x + 0.5 * x), m.b(x))[1], a=LayerScaled(), b=LayerScaled())]),
    ),
    "a dead sum in a block that goes": lambda: Fn(
        lambda m, x: m.f(x) + x, f=Fn(_dead_rewrite, norm=bn(), bn=bn(), f=same(1))
    ),
    "a dead reader of what is changed in place": lambda: seq(
        same(1),
        same(1),
        Fn(_dead_reader, identity=nn.Identity(), f=seq(*conv_bn(C, C, 1)), pool=nn.AvgPool2d(3, 1, 1)),
    ),
    "dead layers in a block that goes": lambda: Fn(
        lambda m, x: (m.g(m.bn(m.f(x) * 0.5)), m.h(x))[1], f=same(), bn=bn(), g=Hands(), h=same()
    ),
}


@pytest.mark.parametrize("policy", ["cheaper", "always"])
@pytest.mark.parametrize("case", REMAINDERS)
def test_H2_what_remains_of_a_block_is_kept(case: str, policy: str) -> None:
    convert(REMAINDERS[case](), policy=policy)


SETTLED: dict[str, Callable[[], nn.Module]] = {
    "norm behind a block": lambda: seq(branches(same(), same(1)), bn()),
    "block behind a conv": lambda: seq(
        same(1), Fn(lambda m, x: m.f(x + x), f=seq(*conv_bn(C, C, 1), nn.ReLU())), nn.ReLU()
    ),
    "factor behind a sequence": lambda: Fn(lambda m, x: m.g(m.f(x)) * 0.5, f=same(1), g=seq(bn(), same())),
}


@pytest.mark.parametrize("case", SETTLED)
def test_A12_one_application_is_enough(case: str) -> None:
    once, first = convert(SETTLED[case]())
    _, second = convert_as_is(once)
    assert not second.merged, f"first {first}\nsecond {second}"


def test_a_refusal_says_where_and_why() -> None:
    _, report = convert(Fn(lambda m, x: m.body(x), body=seq(seq(bn(), same()), nn.ReLU())))
    assert places(report, "RK316") == ["body.0.1"]
    text = str(report)
    assert "body.0.1: RK316 border would change" in text


class OwnKernels(nn.Module):
    """Two kernels that are parameters of the block itself, used as they are or in the dtype of the input."""

    def __init__(self, cast: bool) -> None:
        super().__init__()
        self.cast = cast
        self.wide, self.narrow = nn.Parameter(torch.randn(4, 4, 3, 3)), nn.Parameter(torch.randn(4, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        wide, narrow = (w.to(x.dtype) if self.cast else w for w in (self.wide, self.narrow))
        return F.conv2d(x, wide, padding=1) + F.conv2d(x, narrow)


@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize(
    ("reads", "left"),
    [
        (lambda m, y: y * m.block.wide.mean(), "RK301"),
        (lambda m, y: F.conv2d(y, m.block.narrow), "RK301"),
        (lambda m, y: y * 2, ""),
    ],
)
def test_kernels_that_another_forward_reads_stay(reads: Any, left: str, cast: bool) -> None:
    model = Fn(lambda m, x: reads(m, torch.sigmoid(m.block(x))), block=OwnKernels(cast))
    converted, report = convert(model, (2, 4, 6, 6))
    assert left in codes(report) if left else len(report.merged) == 1
    assert hasattr(converted.block, "wide") is bool(left)


class Acted(nn.Module):
    """Branches in a list that may hold more than they use, and what is done with their sum."""

    def __init__(self, act: nn.Module, spare: int = 0) -> None:
        super().__init__()
        kernels = (3, 1, *(1,) * spare)
        self.branches = nn.ModuleList(nn.Conv2d(4, 4, k, padding=k // 2) for k in kernels)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.act(self.branches[0](x) + self.branches[1](x)))


@pytest.mark.parametrize("swapped", [False, True])
def test_blocks_that_are_alike_but_for_what_a_child_does_are_written_each_for_itself(swapped: bool) -> None:
    acts = [nn.Sequential(nn.Identity()), nn.Sequential(nn.ReLU())]
    model = seq(*(Acted(act) for act in (acts[::-1] if swapped else acts)))
    _, report = convert(model, (2, 4, 6, 6))
    assert len(report.merged) == 2


def test_a_layer_that_only_one_of_two_blocks_that_are_alike_has_stays() -> None:
    blocks = [Acted(nn.ReLU()), Acted(nn.ReLU(), spare=1)]
    converted, report = convert(Fn(lambda m, x: m.b(m.a(x)), a=blocks[0], b=blocks[1]), (2, 4, 6, 6))
    assert len(report.merged) == 2
    assert not hasattr(converted.a, "branches")
    assert "2" in dict(converted.b.branches.named_children())
