"""Forwards that unpack a shape, of which nobody knows how many sizes it has before the call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import Fn, codes, convert, convert_as_is, counts, inputs
from tests.test_parted import steps

C = 4
VIDEO = (2, 3, C, 7, 6)
IMAGE = (2, C, 7, 6)


def folded(m: Any, x: Tensor) -> Tensor:
    b, t, *rest = x.shape
    y = m.bn(m.conv(x.reshape(b * t, *rest)))
    return y.view(b, t, *y.shape[1:])


def sliced(m: Any, x: Tensor) -> Tensor:
    y = m.bn(m.conv(x.reshape(-1, *x.shape[2:])))
    return y.view(*x.shape[:2], *y.shape[1:])


def listed(m: Any, x: Tensor) -> Tensor:
    sizes = list(x.shape)
    y = m.bn(m.conv(x.flatten(0, 1))).relu()
    return y.view(*sizes[:2], *y.shape[1:])


def method(m: Any, x: Tensor) -> Tensor:
    b, *rest = x.size()
    return m.bn(m.conv(x.reshape(b * rest[0], *rest[1:])))


def starred_last(m: Any, x: Tensor) -> Tensor:
    *batch, c, h, w = x.shape
    return m.bn(m.conv(x.reshape(-1, c, h, w))).unflatten(0, batch)


@pytest.mark.parametrize("forward", [folded, sliced, listed, method, starred_last], ids=lambda f: f.__name__)
def test_the_norm_goes_into_the_convolution(forward: Any) -> None:
    deploy, report = convert(Fn(forward, conv=nn.Conv2d(C, 5, 3, padding=1), bn=nn.BatchNorm2d(5)), VIDEO)
    assert counts(deploy) == (1, 0), report


def test_what_is_right_for_some_of_them_only_stays() -> None:
    """The must-refuse twin: for another number of axes the norm is not called."""

    def forward(m: Any, x: Tensor) -> Tensor:
        _, *rest = x.shape
        y = m.conv(x)
        return m.bn(y) if len(rest) == 3 else y.relu()

    model = Fn(forward, conv=nn.Conv2d(C, C, 3, padding=1), bn=nn.BatchNorm2d(C))
    deploy, report = convert(model, IMAGE, IMAGE[1:])
    assert counts(deploy) == (1, 1)
    assert "RK604" in codes(report)


def test_too_few_sizes_are_still_an_error() -> None:
    deploy, _ = convert(Fn(folded, conv=nn.Conv2d(C, 5, 3), bn=nn.BatchNorm2d(5)), VIDEO)
    with pytest.raises(ValueError, match="not enough values to unpack"):
        deploy(torch.zeros(3, dtype=torch.float64))


def test_branches_in_such_a_forward_stay_and_their_norms_go() -> None:
    """A forward that goes several ways is not written anew."""

    def forward(m: Any, x: Tensor) -> Tensor:
        b, *rest = x.shape
        x = x.reshape(b, *rest)
        return m.bn(m.conv(x)) + m.point(x)

    parts = {"conv": nn.Conv2d(C, C, 3, padding=1), "bn": nn.BatchNorm2d(C), "point": nn.Conv2d(C, C, 1)}
    deploy, _ = convert(Fn(forward, **parts), IMAGE)
    assert counts(deploy) == (2, 0)
    assert steps(deploy, inputs(IMAGE)) == 1


def test_two_values_of_unknown_axes_are_more_ways_than_are_looked_at() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(C, C, 1), nn.BatchNorm2d(C)

        def forward(self, x: Tensor) -> Tensor:
            y = self.bn(self.conv(x))
            for value in (x.sin(), x.cos(), x.tan()):
                y = y + value.reshape(*value.shape)
            return y

    deploy, report = convert_as_is(Two().double().eval(), IMAGE)
    assert counts(deploy) == (1, 1)
    assert "RK604" in codes(report)
