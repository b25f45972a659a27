"""Batch norms and scales beside pixel shuffles and channel shuffles; which of them cross, and which do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reparamkit.operators.regroup import Dealt, Grouped
from tests.helpers import Fn, codes, convert, counts, inputs

IMAGES = ((1, 4, 6, 8), (2, 4, 8, 10))


class Upsampled(nn.Module):
    """A convolution, `shuffle`, a batch norm, an activation."""

    def __init__(self, shuffle: Any, channels: int, made: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, made, 3, padding=1)
        self.shuffle, self.bn = shuffle, nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.bn(self.shuffle(self.conv(x))))


class Called(nn.Module):
    """A function of a value as a module."""

    def __init__(self, run: Any) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.run(x)
        return made


IN_FRONT: dict[str, Any] = {
    "pixel shuffle": (lambda: nn.PixelShuffle(2), 3, 12),
    "pixel shuffle by 3": (lambda: nn.PixelShuffle(3), 2, 18),
    "function": (lambda: Called(lambda x: F.pixel_shuffle(x, 2)), 3, 12),
    "keyword": (lambda: Called(lambda x: torch.pixel_shuffle(x, upscale_factor=2)), 3, 12),
    "channel shuffle": (lambda: nn.ChannelShuffle(3), 12, 12),
    "twice": (lambda: nn.Sequential(nn.PixelShuffle(2), nn.PixelShuffle(2)), 2, 32),
    "channels, then pixels": (lambda: nn.Sequential(nn.ChannelShuffle(3), nn.PixelShuffle(2)), 3, 12),
    "an order, then pixels": (lambda: Called(lambda x: F.pixel_shuffle(x[:, list(range(11, -1, -1))], 2)), 3, 12),
    "an order, then tokens and back": (
        lambda: Called(lambda x: x[:, [2, 0, 3, 1]].flatten(2).transpose(1, 2).transpose(1, 2).view_as(x)),
        4,
        4,
    ),
    "shuffled, then enlarged": (lambda: nn.Sequential(nn.PixelShuffle(2), nn.Upsample(scale_factor=2)), 3, 12),
}


@pytest.mark.parametrize("what", IN_FRONT)
def test_norm_goes_into_the_layer_in_front(what: str) -> None:
    make, channels, made = IN_FRONT[what]
    deploy, _ = convert(Upsampled(make(), channels, made), *IMAGES)
    assert counts(deploy) == (1, 0)


IN_BETWEEN: dict[str, Any] = {
    "activation in between": lambda: nn.Sequential(nn.ChannelShuffle(3), nn.ReLU(), nn.PixelShuffle(2)),
    "order of the input": lambda: Called(lambda x: F.pixel_shuffle(x[:, x.mean((0, 2, 3)).argsort()], 2)),
}


@pytest.mark.parametrize("what", IN_BETWEEN)
def test_norm_behind_a_shuffle_of_something_else_stays(what: str) -> None:
    """The must-refuse twins of an order of channels in front of a pixel shuffle."""
    deploy, _ = convert(Upsampled(IN_BETWEEN[what](), 3, 12), *IMAGES)
    assert counts(deploy) == (1, 1)


BEHIND: dict[str, Any] = {
    "pixel unshuffle": (lambda: nn.PixelUnshuffle(2), 16),
    "function": (lambda: Called(lambda x: F.pixel_unshuffle(x, 2)), 16),
    "channel shuffle": (lambda: nn.ChannelShuffle(2), 4),
}


@pytest.mark.parametrize("what", BEHIND)
def test_norm_goes_into_the_layer_behind(what: str) -> None:
    make, made = BEHIND[what]
    model = Fn(
        lambda m, x: m.conv(m.shuffle(m.bn(x))), bn=nn.BatchNorm2d(4), shuffle=make(), conv=nn.Conv2d(made, 6, 3)
    )
    deploy, _ = convert(model, *IMAGES)
    assert counts(deploy) == (1, 0)


def test_norm_of_channels_that_are_put_together_stays() -> None:
    """The must-refuse twin: the channels that become one are scaled by different numbers."""
    model = Fn(
        lambda m, x: m.conv(m.shuffle(m.bn(x.relu()))),
        bn=nn.BatchNorm2d(4), shuffle=nn.PixelShuffle(2), conv=nn.Conv2d(1, 6, 3),
    )  # fmt: skip
    deploy, report = convert(model, *IMAGES)
    assert counts(deploy) == (1, 1)
    assert "RK310" in codes(report)


def test_norm_of_channels_that_are_put_together_and_scaled_alike_goes() -> None:
    model = Fn(
        lambda m, x: m.conv(m.shuffle(x.relu() * m.scale)),
        shuffle=nn.PixelShuffle(2), conv=nn.Conv2d(1, 6, 3),
    )  # fmt: skip
    model.scale = nn.Parameter(torch.full((1, 4, 1, 1), 3.0))
    deploy, report = convert(model, *IMAGES)
    assert [merge.path for merge in report.merged] or counts(deploy) == (1, 0)


def test_shuffle_module_between_two_layers_goes_into_one_of_them() -> None:
    """Where the number of channels is known, a shuffle is a permutation of a kernel."""
    first, second = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 4, 3)
    deploy, _ = convert(Fn(lambda m, x: m.b(m.s(m.a(x))), a=first, s=nn.ChannelShuffle(3), b=second), *IMAGES)
    assert counts(deploy) == (1, 0)
    assert not any(isinstance(module, nn.ChannelShuffle) for module in deploy.modules())


def test_norm_behind_a_shuffle_of_a_grouped_layer() -> None:
    """As CondenseNet's: a grouped convolution takes no permutation, but it takes the norm behind one."""
    model = Fn(
        lambda m, x: m.bn(m.shuffle(m.conv(x))).relu(),
        conv=nn.Conv2d(4, 12, 3, groups=2), shuffle=nn.ChannelShuffle(3), bn=nn.BatchNorm2d(12),
    )  # fmt: skip
    deploy, _ = convert(model, *IMAGES)
    assert counts(deploy) == (1, 0)
    assert any(isinstance(module, nn.ChannelShuffle) for module in deploy.modules())


def test_reshape_behind_a_pixel_shuffle_knows_the_channels() -> None:
    """Behind the shuffle there are 3 channels, not the 12 of the convolution."""
    conv, bn = nn.Conv2d(4, 12, 1), nn.BatchNorm1d(3)
    model = Fn(lambda m, x: m.bn(F.pixel_shuffle(m.conv(x), 2).flatten(2)) + 0 * m.bn.eps, conv=conv, bn=bn)
    deploy, _ = convert(model, *IMAGES)
    assert counts(deploy) == (1, 0)


def test_wrong_number_of_channels_is_no_reshape_of_them() -> None:
    """The must-refuse twin: 12 is the number of channels in front of the shuffle, so the axes are mixed here."""
    conv, bn = nn.Conv2d(4, 12, 1), nn.BatchNorm1d(12)
    model = Fn(lambda m, x: m.bn(F.pixel_shuffle(m.conv(x), 2).reshape(x.shape[0], 12, -1)), conv=conv, bn=bn)
    deploy, _ = convert(model, *IMAGES)
    assert counts(deploy) == (1, 1)


@pytest.mark.parametrize("step", [Grouped(4, 1), Grouped(1, 4), Dealt(3), Dealt(2)], ids=str)
def test_what_is_behind_is_what_was_in_front(step: Grouped | Dealt) -> None:
    """One number for each channel, sent through torch's own shuffles."""
    front = inputs((12,)) if step != Grouped(4, 1) else inputs((3,)).repeat_interleave(4)
    image = front.reshape(1, -1, 1, 1).expand(1, -1, 2, 2)
    runs = {Grouped(4, 1): lambda x: F.pixel_shuffle(x, 2), Grouped(1, 4): lambda x: F.pixel_unshuffle(x, 2)}
    run = runs.get(step, lambda x: F.channel_shuffle(x, step.groups))  # type: ignore[call-overload, union-attr]
    behind = run(image)[0, :, 0, 0]
    after = step.after(front)
    assert after is not None
    assert torch.equal(after, behind)
    before = step.before(behind)
    assert before is not None
    assert torch.equal(before, front)
    assert step.count(len(front)) == len(behind)


def test_groups_that_do_not_fit_have_no_numbers() -> None:
    assert Grouped(4, 1).after(torch.arange(6.0)) is None
    assert Grouped(4, 1).after(torch.arange(8.0)) is None
    assert Dealt(4).before(torch.arange(6.0)) is None
