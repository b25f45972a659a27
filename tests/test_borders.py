"""Borders of one value a channel: found where they are written by assignment or joined, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reparamkit
from reparamkit.trace.borders import bordered
from tests.helpers import assert_same, codes, convert, counts, gap, inputs, randomize
from tests.published.test_dbb import DiverseBranchBlock

IMAGES = ((1, 4, 7, 7), (2, 4, 8, 5))
Write = Callable[[Tensor, Tensor], None]


def all_sides(y: Tensor, value: Tensor) -> None:
    y[:, :, 0:1, :] = value
    y[:, :, -1:, :] = value
    y[:, :, :, :1] = value
    y[:, :, :, -1:] = value


class Bordered(nn.Module):
    """1x1, zero padding, `write` on it, an unpadded 3x3."""

    def __init__(self, write: Any, nd: int = 2, pads: tuple[int, ...] = (1, 1, 1, 1)) -> None:
        super().__init__()
        conv: Any = getattr(nn, f"Conv{nd}d")
        self.first, self.last, self.write, self.pads = conv(4, 6, 1), conv(6, 4, 3), write, pads
        self.ones = [1] * nd

    def forward(self, x: Tensor) -> Tensor:
        y = F.pad(self.first(x), self.pads)
        self.write(y, self.first.bias.view(1, -1, *self.ones))
        return self.last(y)


@pytest.mark.parametrize(
    ("pads", "nd"), [((1, 1, 1, 1), 2), ((2, 0, 1, 3), 2), ((0, 1), 1), ((1, 1, 0, 0, 2, 1), 3)], ids=str
)
def test_bordered_is_padding_and_assignment(pads: tuple[int, ...], nd: int) -> None:
    x, value = inputs((2, 3, 4, 5, 6)[: nd + 2]), inputs((3,), 5)
    inside = F.pad(torch.ones_like(x), pads)
    wanted = F.pad(x, pads) + (1 - inside) * value.reshape(1, -1, *[1] * nd)
    assert torch.equal(bordered(x, list(pads), value.reshape(1, -1, *[1] * nd)), wanted)


def test_assigned_border_is_followed() -> None:
    deploy, report = convert(Bordered(all_sides), *IMAGES)
    assert counts(deploy) == (1, 0)
    assert "core/border" in {rule for merge in report.merged for rule in merge.rules}


def _one_axis(y: Tensor, value: Tensor) -> None:
    y[:, :, :, 0:1] = value
    y[:, :, :, -2:] = value


def test_padding_of_the_last_axis_only() -> None:
    block = Bordered(_one_axis, pads=(1, 2))
    deploy, _ = convert(block, *IMAGES)
    assert counts(deploy) == (1, 0)
    assert deploy.reparam.kernel_size == (3, 4)  # torch pads both sides alike, so a column of zeros


def _one_side_missing(y: Tensor, value: Tensor) -> None:
    y[:, :, 0:1, :] = value
    y[:, :, -1:, :] = value
    y[:, :, :, :1] = value


def _too_wide(y: Tensor, value: Tensor) -> None:
    all_sides(y, value)
    y[:, :, :, -2:] = value


def _one_channel(y: Tensor, value: Tensor) -> None:
    all_sides(y, value)
    y[:, 0:1, 0:1, :] = 0.5


def _another_value(y: Tensor, value: Tensor) -> None:
    all_sides(y, value)
    y[:, :, :, -1:] = value * 2


def _every_second(y: Tensor, value: Tensor) -> None:
    y[:, :, 0:1, ::2] = value
    all_sides(y, value)


@pytest.mark.parametrize(
    "write", [_one_side_missing, _too_wide, _one_channel, _another_value, _every_second], ids=lambda f: f.__name__
)
def test_anything_else_is_left_alone(write: Write) -> None:
    deploy, _ = convert(Bordered(write), *IMAGES)
    assert counts(deploy) == (2, 0)


class ReadBetween(Bordered):
    """Someone reads the padded tensor before its border is complete."""

    def forward(self, x: Tensor) -> Any:
        y = F.pad(self.first(x), (1, 1, 1, 1))
        early = y.sum((2, 3))
        all_sides(y, self.first.bias.view(1, -1, 1, 1))
        return self.last(y), early


def test_read_before_it_is_complete() -> None:
    deploy, _ = convert(ReadBetween(all_sides), *IMAGES)
    assert counts(deploy) == (2, 0)


class WrongValue(Bordered):
    """The border is not what the 1x1 gives for zero."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.pad(self.first(x), (1, 1, 1, 1))
        all_sides(y, self.first.bias.view(1, -1, 1, 1) + 0.01)
        return self.last(y)


def test_value_that_is_not_the_inner_bias_is_refused() -> None:
    deploy, report = convert(WrongValue(all_sides), *IMAGES)
    assert counts(deploy) == (2, 0)
    assert codes(report) == {"RK316"}


class Joined(nn.Module):
    """Strips of constants beside the value; they have one size, so the model has too."""

    def __init__(self, even: bool = True) -> None:
        super().__init__()
        self.first, self.last, self.even = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 4, (1, 3)), even

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        strip = self.first.bias.view(1, -1, 1, 1).expand(1, -1, 7, 1)
        strip = strip * (1 if self.even else torch.arange(7.0).view(1, 1, 7, 1).to(strip))
        return self.last(torch.cat([strip, y, strip], 3))


@pytest.mark.parametrize(("even", "convs"), [(True, 1), (False, 2)])
def test_joined_strips(even: bool, convs: int) -> None:
    deploy, _ = convert(Joined(even), (1, 4, 7, 7))
    assert counts(deploy) == (convs, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_value_computed_in_the_models_own_dtype(dtype: torch.dtype) -> None:
    """The border is rounded, the batch norm in front of it is not; that difference is no other value."""
    block = randomize(DiverseBranchBlock()).to(dtype)
    deploy, report = reparamkit.apply(block, return_report=True)
    assert counts(deploy) == (1, 0)
    assert report.max_error is not None
    assert report.max_error <= 64 * torch.finfo(dtype).eps
    x = inputs((2, 8, 9, 7))
    with torch.no_grad():
        assert gap(block.double()(x), deploy.double()(x)) <= 200 * torch.finfo(dtype).eps


def test_in_float64_nothing_is_allowed_for() -> None:
    block = randomize(DiverseBranchBlock()).double()
    deploy, report = reparamkit.apply(block, return_report=True)
    assert report.max_error is not None
    assert report.max_error <= 1e-12
    assert_same(block, deploy, (1, 8, 9, 7), rtol=1e-12)


@pytest.mark.parametrize(("pads", "gains"), [((0, 1, 0, 1), False), ((1, 1, 1, 1), True)])
def test_padding_that_torch_would_write_out_stays_where_it_is(pads: tuple[int, ...], gains: bool) -> None:
    """Uneven "same" padding is a copy in front of the convolution, whoever makes it: the layer keeps its name."""

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 2 if not gains else 3, bias=False), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.norm(self.conv(nn.functional.pad(x, pads))))

    model = randomize(Padded()).double()
    merged = reparamkit.apply(model)
    assert_same(model, merged, (2, 4, 6, 7))
    assert counts(merged) == (1, 0)
    assert set(merged.state_dict()) == ({"reparam.weight", "reparam.bias"} if gains else {"conv.weight", "conv.bias"})


@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel")
def test_uneven_padding_is_merged_where_that_saves_a_branch() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.narrow = nn.Conv2d(4, 4, 2), nn.Conv2d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.wide(nn.functional.pad(x, (0, 1, 0, 1))) + self.narrow(x))

    model = randomize(Padded()).double()
    merged = reparamkit.apply(model)
    assert_same(model, merged, (2, 4, 6, 7))
    assert counts(merged) == (1, 0)


class JoinedStrips(nn.Module):
    """1x1, strips joined to the two ends of the last axis, a 1x3 that does not pad."""

    def __init__(self, strip: Any, value: Tensor | None = None) -> None:
        super().__init__()
        self.first, self.last, self.strip = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 4, (1, 3)), strip
        self.value = None if value is None else nn.Parameter(value)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.last(torch.cat([self.strip(self, y), y, self.strip(self, y)], 3))


def _bias(m: Any) -> Tensor:
    value: Tensor = m.first.bias.view(1, -1, 1, 1)
    return value


STRIPS: dict[str, Any] = {
    "expand": lambda m, y: _bias(m).expand(y.size(0), -1, y.size(2), 1),
    "a list, by shape": lambda m, y: _bias(m).expand([y.shape[0], 6, y.shape[2], 2]),
    "function": lambda m, y: torch.broadcast_to(_bias(m), (y.shape[0], 6, y.shape[2], 1)),
    "repeat": lambda m, y: _bias(m).to(y.dtype).repeat(y.size(0), 1, y.size(2), 2),
    "unpacked": lambda m, y: _unpacked(m, *y.shape[-2:]),
}


def _unpacked(m: Any, high: Any, wide: Any) -> Any:
    return _bias(m).expand(-1, -1, high, 1)


_TAKES_NO_SYMBOL = pytest.mark.skipif(torch.__version__.startswith("2.6."), reason="broadcast_to of torch 2.6")


@pytest.mark.parametrize(
    "how", [pytest.param(how, marks=_TAKES_NO_SYMBOL if how == "function" else ()) for how in STRIPS]
)
def test_strips_of_sizes_of_the_input(how: str) -> None:
    deploy, _ = convert(JoinedStrips(STRIPS[how]), (1, 4, 7, 7), (1, 4, 8, 5))
    assert counts(deploy) == (1, 0)


FILLED: dict[str, Any] = {
    "new_zeros": lambda m, y: y.new_zeros(y.size(0), 6, y.size(2), 1),
    "zeros": lambda m, y: torch.zeros(y.size(0), 6, y.size(2), 1, dtype=y.dtype, device=y.device),
    "zeros of a parameter": lambda m, y: m.last.weight.new_zeros(y.size(0), 6, y.size(2), 1),
}


@pytest.mark.parametrize("how", FILLED)
def test_strips_of_zeros_are_padding(how: str) -> None:
    """Behind a layer without a bias they merge with it, behind one with a bias they do not."""
    block = JoinedStrips(FILLED[how])
    assert counts(convert(block, *IMAGES)[0]) == (2, 0)
    block.first.bias = None
    assert counts(convert(block, *IMAGES)[0]) == (1, 0)


def test_strip_that_is_a_parameter() -> None:
    """Exact only where it is the bias of the layer in front of it."""
    block = JoinedStrips(lambda m, y: m.value.expand(y.size(0), -1, y.size(2), 1), torch.ones(1, 6, 1, 1))
    assert counts(convert(block, *IMAGES)[0]) == (2, 0)
    block.first.bias.data = block.value.data.flatten()
    deploy = reparamkit.apply(block)
    assert_same(block, deploy, *IMAGES)
    assert counts(deploy) == (1, 0)


OTHER: dict[str, Any] = {
    "another value": lambda m, y: (2 * _bias(m)).expand(y.size(0), -1, y.size(2), 1),
    "of unknown width": lambda m, y: _bias(m).expand(y.size(0), -1, y.size(2), y.size(3)),
    "no value a channel": lambda m, y: m.last.weight[:1, :, :, :1].expand(y.size(0), -1, y.size(2), 1) * y[:, :, :, :1],
}


@pytest.mark.parametrize("how", OTHER)
def test_other_strips_are_left_alone(how: str) -> None:
    deploy, _ = convert(JoinedStrips(OTHER[how]), *IMAGES)
    assert counts(deploy) == (2, 0)
