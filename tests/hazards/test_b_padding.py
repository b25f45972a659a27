"""Hazards of batch norms and biases where there is a border, or another axis."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reparamkit
from tests.hazards.models import C, bn, same, seq
from tests.hazards.row import hazard
from tests.helpers import (
    branches,
    convert,
    convert_as_is,
    counts,
    inputs,
    places,
    randomize,
    unchanged,
)


def unshifted() -> nn.BatchNorm2d:
    norm = randomize(bn())
    with torch.no_grad():
        norm.bias.copy_(norm.running_mean * norm.weight * (norm.running_var + norm.eps).rsqrt())  # type: ignore[union-attr,operator]
    return norm  # type: ignore[return-value]


@hazard(
    "B19",
    "a batch norm stands before a zero-padded convolution",
    "refused, unless nothing is padded or the pad is shifted too",
    "RK316",
)
@pytest.mark.parametrize(
    ("padding", "mode", "shifted", "fused"),
    [
        (1, "zeros", True, False),
        (0, "zeros", True, True),
        (1, "reflect", True, True),
        (1, "circular", True, True),
        (1, "replicate", True, True),
        (1, "zeros", False, True),
    ],
)
def test_b19_batch_norm_before_a_padded_conv(padding: int, mode: str, shifted: bool, fused: bool) -> None:
    model = randomize(seq(bn(), nn.Conv2d(C, C, 3, padding=padding, padding_mode=mode))).double()
    if not shifted:
        with torch.no_grad():
            norm = model[0]
            norm.running_mean.zero_()
            norm.bias.zero_()
    converted, report = convert_as_is(model)
    assert counts(converted) == ((1, 0) if fused else (1, 1)), report
    assert fused or places(report, "RK316") == ["1"]


@hazard(
    "B20",
    "a 1x1 convolution with a bias stands before a zero-padded one",
    "refused, unless the pad is the bias",
    "RK316",
)
@pytest.mark.parametrize("first", ["bias", "bn", "plain"])
def test_b20_pointwise_before_a_padded_conv(first: str) -> None:
    point = [same(1, bias=first == "bias"), *([bn()] if first == "bn" else [])]
    converted, report = convert(seq(*point, same()))
    assert counts(converted) == ((1, 0) if first == "plain" else (2, 0))
    assert places(report, "RK316") == {"plain": [], "bias": ["1"], "bn": ["2"]}[first]


class BNAndPad(nn.Module):
    """DBB's batch norm that pads with what it makes of zero (Ding et al., 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = bn()

    def forward(self, x: Tensor) -> Tensor:
        n = self.bn
        value = n.bias - n.running_mean * n.weight / torch.sqrt(n.running_var + n.eps)  # type: ignore[operator]
        y = F.pad(n(x), [1, 1, 1, 1])
        value = value.view(1, -1, 1, 1)
        y[:, :, 0:1, :] = value
        y[:, :, -1:, :] = value
        y[:, :, :, 0:1] = value
        y[:, :, :, -1:] = value
        return y


def test_b20_padding_with_the_bias_is_not_broken() -> None:
    convert(branches(seq(same(1, bias=False), BNAndPad(), nn.Conv2d(C, C, 3)), same()))


@hazard("B21", "a batch norm of another number of channels", "refused", "RK311")
def test_b21_batch_norm_of_other_channels_is_not_folded() -> None:
    model = randomize(seq(nn.Conv2d(C, 3, 1), bn()))
    with unchanged(model):  # it cannot run: nothing to compare
        converted, report = reparamkit.apply(model, return_report=True)
    assert places(report, "RK311") == ["1"]
    assert counts(converted) == (1, 1)


@hazard(
    "B22",
    "Linear, then BatchNorm1d: on three axes it works along another one",
    "refused without example, merged with one of two axes",
    "RK203",
    "RK310",
)
def test_b22_linear_then_batch_norm_1d_needs_to_know_the_axes() -> None:
    model = seq(nn.Linear(C, C), nn.BatchNorm1d(C))
    _, report = convert(model, (3, C))
    assert places(report, "RK203") == ["1"]
    converted, _ = convert(model, (3, C), example_inputs=inputs((3, C)))
    assert counts(converted) == (1, 0)
    deep = (5, C, C)
    converted, report = convert(model, deep, example_inputs=inputs(deep))
    assert counts(converted) == (1, 1)
    assert places(report, "RK310") == ["1"]


@hazard("B23", "batch norms in a row, and behind a sum", "merged into every branch")
def test_b23_batch_norms_in_a_row_and_behind_a_sum() -> None:
    assert counts(convert(seq(same(), bn(), bn()))[0]) == (1, 0)
    assert counts(convert(seq(branches(same(), same(1), bn()), bn()))[0]) == (1, 0)
