"""Channels in another order: rows and columns of kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reparamkit
from tests.helpers import Fn, convert, counts, merged_rules

C = 6
IMAGES = ((2, C, 5, 7), (1, C, 6, 4))
ORDER = [3, 0, 5, 1, 4, 2]


def _torchvision(x: Tensor, groups: int = 3) -> Tensor:
    batch, channels, height, width = x.size()
    x = x.view(batch, groups, channels // groups, height, width)
    x = torch.transpose(x, 1, 2).contiguous()
    return x.view(batch, channels, height, width)


def _reshaped(x: Tensor) -> Tensor:
    b, _, h, w = x.shape
    return x.reshape(b, 2, -1, h, w).permute(0, 2, 1, 3, 4).reshape(b, -1, h, w)


def _turned(x: Tensor) -> Tensor:
    """Positions and channels change places: no shuffle."""
    b, c, h, w = x.shape
    return x.view(b, 2, c // 2, h, w).transpose(1, 3).contiguous().view(b, c, h, w)


ORDERS: dict[str, Any] = {
    "view": _torchvision,
    "reshape": _reshaped,
    "function": lambda x: F.channel_shuffle(x, 2),
    "list": lambda x: x[:, ORDER],
    "tensor": lambda x: x[:, torch.tensor(ORDER)],
    "select": lambda x: torch.index_select(x, 1, torch.tensor(ORDER)),
    "method": lambda x: x.index_select(-3, torch.tensor(ORDER)),
    "flip": lambda x: x.flip(1),
    "flip of axes": lambda x: torch.flip(x, dims=(-3,)),
    "roll": lambda x: torch.roll(x, 2, 1),
    "reversed": lambda x: x[:, [5, 4, 3, 2, 1, 0], :, :],
}
PLACES: dict[str, Any] = {
    "behind": lambda m, x: m.first(m.order(m.conv(x.relu()))),
    "in front": lambda m, x: m.conv(m.order(m.first(x).relu())),
    "behind a norm": lambda m, x: m.order(m.norm(m.conv(x.relu()))).relu() + m.first(x),
    "between": lambda m, x: m.first(m.order(m.conv(x))).relu(),
}


def _kernels(model: nn.Module, name: str) -> int:
    x = torch.zeros(IMAGES[0], dtype=torch.float64)
    with torch.no_grad(), torch.profiler.profile() as profile:
        model(x)
    return sum(e.count for e in profile.key_averages() if e.key in (f"aten::{name}", "aten::clone"))


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_an_order_of_channels_becomes_part_of_a_kernel(order: Any, place: Any) -> None:
    model = Fn(place, first=nn.Conv2d(C, C, 3), conv=nn.Conv2d(C, C, 3, padding=1), norm=nn.BatchNorm2d(C), order=order)
    if place is PLACES["behind a norm"]:
        model.first.padding = (1, 1)
    converted, report = convert(model, *IMAGES)
    assert merged_rules(report) & {"core/shuffle", "core/pick"}
    assert not sum(_kernels(converted, name) for name in ("index", "index_select", "channel_shuffle", "flip", "roll"))
    assert counts(converted)[1] == (1 if place is not PLACES["behind a norm"] else 0)
    assert reparamkit.apply(converted, return_report=True)[1].merged == ()


STAYS: dict[str, Any] = {
    "groups": (_torchvision, nn.Conv2d(C, C, 3, groups=3)),
    "other axes": (_turned, nn.Conv2d(C, C, 3)),
    "flip of positions": (lambda x: x.flip(2), nn.Conv2d(C, C, 3)),
    "roll of two axes": (lambda x: torch.roll(x, (1, 1), (1, 2)), nn.Conv2d(C, C, 3)),
    "a part": (lambda x: x[:, [0, 2, 4, 0, 2, 4]], nn.Conv2d(C, C, 3)),
}


@pytest.mark.parametrize(("order", "conv"), STAYS.values(), ids=STAYS.keys())
def test_other_orders_stay(order: Any, conv: nn.Module) -> None:
    model = Fn(lambda m, x: m.conv(order(m.first(x).relu())).relu(), first=nn.Conv2d(C, C, 1), conv=conv)
    _, report = convert(model, *((2, C, 6, 6), (1, C, 6, 6)) if order is _turned else IMAGES)
    assert not report.merged


def test_a_shuffle_of_a_grouped_convolution_stays() -> None:
    """Its groups would be torn apart."""
    model = Fn(lambda m, x: _torchvision(m.conv(x)).relu(), conv=nn.Conv2d(C, C, 1, groups=3))
    _, report = convert(model, *IMAGES)
    assert not report.merged


def test_a_shuffle_that_is_read_half_way_is_left_alone() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        y = m.conv(x).view(b, 2, c // 2, h, w)
        return y.transpose(1, 2).contiguous().view(b, c, h, w) + y.mean()

    _, report = convert(Fn(run, conv=nn.Conv2d(C, C, 1)), *IMAGES)
    assert not report.merged
