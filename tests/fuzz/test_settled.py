"""Models of which a second conversion once merged more: what the first made had opened the way."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

from torch import Tensor, nn

import reparamkit
from tests.fuzz.test_findings import settled
from tests.helpers import Fn, codes, convert, counts


def test_a_norm_with_two_names_goes_into_its_layer_and_the_layer_into_the_sum() -> None:
    norm = nn.BatchNorm2d(4)
    layers = {"norm": norm, "again": norm, "conv": nn.Conv2d(4, 4, 1), "other": nn.BatchNorm2d(4)}
    converted, report = settled(Fn(lambda m, x: m.norm(m.conv(x)) + m.other(x), **layers))
    assert len(report.merged) == 2
    assert counts(converted) == (1, 0)


class Sometimes(nn.Module):
    """A BatchNorm2d refuses three axes, so one way never came to what is behind it, until that norm was merged."""

    def __init__(self) -> None:
        super().__init__()
        self.only, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.inner = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = x = x * x
        if y.dim() > 3:
            y = self.only(y)
        y = self.last(self.inner(y))
        x.mul_(0.5)
        return y


def test_a_way_that_failed_in_a_norm_that_is_gone() -> None:
    converted, _ = settled(Sometimes())
    assert counts(converted)[1] == 0


def test_layers_whose_shape_is_asked_for_in_between() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = x * x
        y += y
        between = m.wide(y)
        return m.point(between) * between.shape[1]  # type: ignore[no-any-return]

    point = nn.Conv2d(6, 6, 1)
    converted, _ = settled(Fn(run, wide=nn.Conv2d(4, 6, 3, padding=2, bias=False), point=point))
    assert counts(converted) == (1, 0)


def test_layers_in_front_of_a_forward_that_cannot_be_written_merge_by_themselves() -> None:
    namespace: dict[str, Any] = {"__name__": "never_registered", "namedtuple": namedtuple}
    exec("Two = namedtuple('Two', 'first second')", namespace)

    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1, bias=False)

        def forward(self, x: Tensor) -> Any:
            y = self.conv(x) / 2
            return namespace["Two"](y, y)

    front = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    converted, report = convert(Fn(lambda m, x: m.pairs(m.front(x)).first, front=front, pairs=Pairs()))
    assert "RK604" in codes(report)
    assert counts(converted) == (1, 0)


def test_a_value_that_is_added_twice_beside_its_layer() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = x.tanh()
        far = m.far(y.sigmoid())
        far.add_(y)
        return y + far + m.near(y)  # type: ignore[no-any-return]

    layers = {"far": nn.Conv2d(4, 4, 3, padding=1), "near": nn.Conv2d(4, 4, 3, padding=1)}
    converted, report = settled(Fn(run, **layers))
    assert [merged.before for merged in report.merged] == ["Conv2d 3x3 + 2 add"]
    assert counts(converted) == (2, 0)


class Idle(nn.Module):
    """Computes something beside, that nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.beside, self.conv = nn.BatchNorm2d(4, track_running_stats=False), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        self.beside(x)
        return self.conv(x)


def test_a_reader_that_goes_with_the_forward_it_stood_in() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = x + x
        return m.one(y) + m.other(y)  # type: ignore[no-any-return]

    converted, _ = settled(Fn(run, one=Idle(), other=Idle()))
    assert counts(converted) == (1, 0)


def test_two_norms_that_become_a_layer_behind_a_norm_that_another_layer_reads() -> None:
    norms = {name: nn.BatchNorm2d(4) for name in ("norm", "first", "second")}
    model = Fn(lambda m, x: (m.conv(y := m.norm(x.relu())), m.second(m.first(y))), conv=nn.Conv2d(4, 4, 3), **norms)
    converted, report = settled(model)
    assert len(report.merged) == 3
    assert counts(converted) == (2, 0)


class Unread(nn.Module):
    """Takes a value that it does not read."""

    def forward(self, x: Tensor, extra: Tensor) -> Tensor:
        return x.relu()


def test_a_value_inside_a_region_that_a_forward_is_given_and_does_not_read() -> None:
    def run(m: Any, x: Tensor) -> Any:
        y = x + m.norm(x)
        return m.point(y), m.child(x, y)

    converted, report = settled(Fn(run, norm=nn.BatchNorm2d(4), point=nn.Conv2d(4, 4, 1), child=Unread()))
    assert len(report.merged) == 2
    assert counts(converted) == (2, 0)


def test_a_sum_of_slices_of_one_layer_does_not_part_that_layer_from_what_is_in_front_of_it() -> None:
    def run(m: Any, x: Tensor) -> Any:
        y = x.relu()
        first, second = m.last(m.norm(m.wide(y)) + m.beside(y)).chunk(2, dim=1)
        return (first + second).relu() + first

    layers = {"wide": nn.Conv2d(4, 4, (1, 3), padding=(0, 1)), "norm": nn.BatchNorm2d(4), "beside": nn.BatchNorm2d(4)}
    model = Fn(run, last=nn.Conv2d(4, 6, 1, stride=2), **layers)
    converted, report = convert(model)
    assert counts(converted) == (1, 0)
    assert [merged.params_after for merged in report.merged] == [78]
    assert not reparamkit.plan(converted).edits


def test_a_norm_behind_a_sum_of_which_a_part_becomes_a_layer() -> None:
    def run(m: Any, x: Tensor) -> Any:
        return m.norm((m.wide(x) + m.narrow(x)) + m.mirrored(x)).relu()

    layers = {"wide": nn.Conv2d(4, 4, 3, padding=1), "narrow": nn.Conv2d(4, 4, 1), "norm": nn.BatchNorm2d(4)}
    mirrored = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
    converted, report = settled(Fn(run, mirrored=mirrored, **layers))
    assert counts(converted) == (2, 0)
    assert "RK312" in codes(report)
