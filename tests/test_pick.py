"""Slices, chunks and splits of channels: rows of a kernel, groups of a stacked one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import reparamkit
from tests.helpers import Fn, assert_same, codes, convert, counts, merged_rules, randomize

C = 8
IMAGES = ((2, 8, 9, 7), (1, 8, 6, 8))


def depthwise(width: int, k: int, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(width, width, k, padding=k // 2, groups=width, **options)


LAYERS: dict[str, Any] = {
    "conv": lambda: nn.Conv2d(C, C, 3, padding=1),
    "grouped": lambda: nn.Conv2d(C, C, 3, padding=1, groups=2),
    "full": lambda: nn.Conv2d(C, C, 1, bias=False),
    "bn": lambda: nn.BatchNorm2d(C),
    "deep": lambda: depthwise(C, 3),
    "a": lambda: depthwise(4, 3),
    "b": lambda: depthwise(4, 3),
    "wide": lambda: depthwise(4, 5),
    "p": lambda: nn.Conv2d(4, 4, 3, padding=1),
    "q": lambda: nn.Conv2d(4, 4, 3, padding=1),
    "pool": lambda: nn.AvgPool2d(2),
    "one": lambda: nn.Conv2d(4, 4, 1),
    "reflect": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="reflect"),
}


def network(run: Any, *names: str) -> nn.Module:
    return Fn(run, **{name: LAYERS[name]() for name in names})


def stacked(m: Any, x: Tensor, first: str, second: str) -> Tensor:
    """Each half through its layer."""
    u, v = torch.split(x, [4, 4], dim=1)
    return torch.cat([getattr(m, first)(u), getattr(m, second)(v)], 1)


def halves(m: Any, x: Tensor) -> Tensor:
    u, v = x.chunk(2, 1)
    return torch.cat([m.a(u), m.b(v)], dim=1)


MERGED: dict[str, Any] = {
    "slice": (lambda m, x: m.conv(x)[:, :3], ["conv"], "cheaper"),
    "slice with steps behind a norm": (lambda m, x: m.bn(m.conv(x))[:, 1:7:2], ["conv", "bn"], "cheaper"),
    "narrow": (lambda m, x: m.conv(x).narrow(1, 2, 3).relu(), ["conv"], "cheaper"),
    "slice of a slice": (lambda m, x: m.conv(x)[:, 2:][:, :3, :, :], ["conv"], "cheaper"),
    "chunk of which one is read": (lambda m, x: m.conv(x).chunk(2, 1)[1].relu(), ["conv"], "cheaper"),
    "then a pool and a layer": (lambda m, x: m.one(m.pool(m.conv(x))[:, 4:]), ["conv", "pool", "one"], "always"),
    "slice of a grouped one": (lambda m, x: m.grouped(x)[:, :3].relu(), ["grouped"], "cheaper"),
    "slice of a grouped one behind a dense one": (
        lambda m, x: m.grouped(m.full(x)).flip(1),
        ["full", "grouped"],
        "always",
    ),
    "chunks": (halves, ["a", "b"], "cheaper"),
    "kernels of two sizes": (lambda m, x: stacked(m, x, "wide", "b"), ["wide", "b"], "always"),
    "one passes by": (lambda m, x: _passes_by(m, x), ["a"], "always"),
}
LEFT: dict[str, Any] = {
    "dense halves": (lambda m, x: stacked(m, x, "p", "q"), ["p", "q"], "RK315"),
    "both halves are read": (lambda m, x: _both(m.conv(x)), ["conv"], "RK305"),
    "dense beside nothing": (lambda m, x: _passes_by(m, x, "p"), ["p"], "RK315"),
    "halves change places": (lambda m, x: _turned(m, x), ["a", "b"], "RK319"),
    "kernels of two sizes, dearer": (lambda m, x: stacked(m, x, "wide", "b"), ["wide", "b"], "RK340"),
    "reflected": (lambda m, x: stacked(m, x, "reflect", "b"), ["reflect", "b"], "RK312"),
}


def _passes_by(m: Any, x: Tensor, name: str = "a") -> Tensor:
    u, v = torch.split(x, [4, 4], dim=1)
    return torch.cat([getattr(m, name)(u), v], 1)


def _both(y: Tensor) -> Tensor:
    u, v = y.chunk(2, 1)
    return u.relu() * v.sigmoid()


def _turned(m: Any, x: Tensor) -> Tensor:
    u, v = torch.split(x, [4, 4], dim=1)
    return torch.cat([m.a(v), m.b(u)], 1)


@pytest.mark.parametrize("what", MERGED)
def test_it_is_one_layer(what: str) -> None:
    run, names, policy = MERGED[what]
    deploy, report = convert(network(run, *names), *IMAGES, policy=policy)
    assert counts(deploy) == (1, 0), f"{deploy}\n{report}"
    assert "core/pick" in merged_rules(report)


@pytest.mark.parametrize("what", LEFT)
def test_it_is_left(what: str) -> None:
    run, names, code = LEFT[what]
    deploy, report = convert(network(run, *names), *IMAGES)
    assert not report.merged
    assert code in codes(report)
    assert counts(deploy)[0] == len(names)


def test_a_slice_of_a_grouped_one_stays_where_its_kernel_without_groups_is_larger() -> None:
    deploy, report = convert(network(lambda m, x: m.grouped(x)[:, :7].relu(), "grouped"), *IMAGES)
    assert not report.merged
    assert deploy.grouped.groups == 2


@pytest.mark.parametrize("run", [lambda y: y[:, :0], lambda y: y.split([0, 8], 1)[0], lambda y: y[:, 8:]])
def test_slice_of_no_channels_is_left(run: Any) -> None:
    deploy, _ = convert(Fn(lambda m, x: run(m.bn(m.conv(x))), conv=LAYERS["conv"](), bn=LAYERS["bn"]()), *IMAGES)
    assert counts(deploy) == (1, 0)
    assert deploy(torch.ones(IMAGES[0], dtype=torch.float64)).shape == (2, 0, 9, 7)


def test_slice_of_positions_is_no_slice_of_channels() -> None:
    """The must-refuse twin: the tokens of a linear layer are on the axis that is sliced."""
    model = Fn(lambda m, x: m.fc(x)[:, :3].relu(), fc=nn.Linear(C, C))
    deploy, report = convert(model, (2, 8, 8), (2, 4, 8))
    assert not report.merged
    assert deploy.fc.out_features == C


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.sampled_from([1, 3]), st.integers(0, 99))
def test_stacked_slices(sizes: list[int], k: int, seed: int) -> None:
    """Law: depthwise layers of the parts of a value, stacked, are one depthwise layer of the value."""

    def run(m: Any, x: Tensor) -> Tensor:
        return torch.cat([f(part) for f, part in zip(m.f, torch.split(x, sizes, 1), strict=True)], 1)

    model: Any = Fn(run, f=nn.ModuleList(depthwise(size, k) for size in sizes))
    randomize(model, seed).double()
    deploy = reparamkit.apply(model)
    assert_same(model, deploy, (2, sum(sizes), 5, 4))
    assert counts(deploy)[0] == 1
