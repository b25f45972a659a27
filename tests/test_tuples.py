"""Modules that are given a tuple and take it apart: octave convolutions (Chen et al., ICCV 2019) in four spellings."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor, nn
from torch.nn import functional as F

from reparamkit.trace.forward import trace
from reparamkit.trace.traced import Forked
from tests.helpers import codes, convert, counts

C = 4
IMAGES = ((1, C, 8, 8), (2, C, 4, 12))


class Octave(nn.Module):
    """Two resolutions in, two out."""

    def __init__(self) -> None:
        super().__init__()
        self.hh, self.hl, self.lh, self.ll = (nn.Conv2d(C, C, 3, padding=1, bias=False) for _ in range(4))

    def mixed(self, high: Tensor, low: Any) -> tuple[Tensor, Tensor]:
        down, first = F.avg_pool2d(high, 2), self.hh(high)
        if low is None:
            return first, self.hl(down)
        return first + F.interpolate(self.lh(low), scale_factor=2), self.hl(down) + self.ll(low)


class Plain(Octave):
    def forward(self, x: Any) -> Any:
        high, low = x
        return self.mixed(high, low)


class ByKind(Octave):
    def forward(self, x: Any) -> Any:
        high, low = x if isinstance(x, tuple) else (x, None)
        return self.mixed(high, low)


class ByType(Octave):
    def forward(self, x: Any) -> Any:
        high, low = x if type(x) is tuple else (x, None)
        return self.mixed(high, low)


class ByNumber(Octave):
    def forward(self, x: Any) -> Any:
        return self.mixed(x[0], x[-1])


class Keeps(Octave):
    """Looks at how many there are, too."""

    def forward(self, x: Any) -> Any:
        return self.mixed(x[0], x[1] if len(x) > 1 else None)


class Network(nn.Module):
    """An octave convolution, its norms, an activation."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv, self.high, self.low = conv, nn.BatchNorm2d(C), nn.BatchNorm2d(C)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        high, low = self.conv((x, F.max_pool2d(x, 2)))
        return self.high(high).relu(), self.low(low).relu()


@pytest.mark.parametrize("kind", [Plain, ByKind, ByType, ByNumber])
def test_norms_go_into_the_convolutions_of_a_child_that_is_given_a_tuple(kind: type[Octave]) -> None:
    deploy, report = convert(Network(kind()), *IMAGES)
    assert counts(deploy) == (4, 0), report
    assert isinstance(deploy.get_submodule("conv"), kind)


def test_a_child_that_asks_how_many_there_are_keeps_them() -> None:
    """The must-refuse twin: what is given is more than taken apart."""
    deploy, _ = convert(Network(Keeps()), *IMAGES)
    assert counts(deploy) == (4, 2)


class Twice(Network):
    """Called with a tuple, and with an image."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        high, low = self.conv(x)
        return super().forward(self.high(high) + 0 * low.mean())


def test_a_child_that_is_called_both_ways_keeps_its_numbers() -> None:
    """The must-refuse twin: what is right for one call would be wrong for the other."""
    deploy, report = convert(Twice(ByKind()), *IMAGES)
    assert counts(deploy) == (4, 2)
    assert codes(report)


class Shadowed(Octave):
    def forward(self, x: Any) -> Any:
        kind = dict
        return self.hh(x) if type(x) is kind else self.ll(x)


def test_a_comparison_with_another_class_is_still_a_doubt() -> None:
    assert "compares by identity" in str(trace(Shadowed().eval(), frozenset()))


def test_a_type_that_is_compared_is_a_question_with_two_answers() -> None:
    traced = trace(ByType().eval(), frozenset())
    assert isinstance(traced, Forked)
    assert len(traced.graphs) == 2


def test_a_class_of_the_tuple_is_no_tuple_to_type() -> None:
    """``isinstance`` and ``type(..) is`` are two questions: a named tuple answers them differently."""
    traced = trace(Both().eval(), frozenset())
    assert isinstance(traced, Forked)
    assert len(traced.graphs) == 3


class Both(Octave):
    def forward(self, x: Any) -> Any:
        if isinstance(x, tuple):
            return self.hh(x[0]) if type(x) is tuple else self.hl(x[0])
        return self.ll(x)
