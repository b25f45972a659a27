"""Hazards at the limits of geometry: what torch has not, what is infinite, what does not pay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reparamkit
from tests.hazards.models import C, bn, same, seq
from tests.hazards.row import hazard
from tests.helpers import Fn, branches, convert, counts, inputs, places, randomize


@hazard("D5", "padding='same' with a stride", "torch has none; the size that it would have is refused", "RK317")
def test_d05_same_padding_with_a_stride() -> None:
    with pytest.raises(ValueError, match="strided"):
        nn.Conv2d(C, C, 3, 2, padding="same")

    def strided(m: Any, x: Tensor) -> Tensor:
        """TensorFlow's, by hand: even sizes are padded on one side only."""
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), m.a.weight, m.a.bias, 2) + m.b(x)

    converted, report = convert(Fn(strided, a=nn.Conv2d(C, C, 3, 2), b=nn.Conv2d(C, C, 3, 2, 1)), (2, C, 8, 6))
    assert not report.merged
    assert counts(converted)[0] == 2
    assert places(report, "RK317") == ["add"]


@hazard(
    "D15",
    "infinite input: an identity as a convolution makes more of it",
    "positions that see no infinity stay exact; documented in docs/outputs-differ.md",
)
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_d15_an_infinite_input_spreads_no_further_than_the_kernel(value: float) -> None:
    model = randomize(branches(nn.Identity(), same(), bn())).double()
    converted = reparamkit.apply(model)
    assert counts(converted) == (1, 0)
    x = inputs((1, C, 9, 9))
    x[0, 1, 4, 4] = value
    with torch.no_grad():
        wanted, got = model(x), converted(x)
    outside = torch.ones(9, 9, dtype=torch.bool)
    outside[3:6, 3:6] = False
    assert torch.allclose(wanted[..., outside], got[..., outside], rtol=1e-12, atol=1e-12)
    assert not torch.isfinite(got[..., ~outside]).any()


@hazard("D26", "the merged form would be slower", "refused by the policy, with the numbers", "RK340")
def test_d26_what_does_not_pay_is_refused() -> None:
    model = randomize(branches(same(groups=C), same(1, bias=False))).double()
    converted, report = convert(model)
    assert counts(converted) == (2, 0)
    assert places(report, "RK340") == ["add_1"]
    (refusal,) = report.refused
    assert refusal.reason.startswith("MACs per position 56 -> 144, parameters 56 -> 148")
    forced, report = convert(model, policy="always")
    assert counts(forced) == (1, 0)
    assert report.merged[0].params_after > report.merged[0].params_before


def test_d26_a_depthwise_pair_pays() -> None:
    assert counts(convert(seq(same(groups=C, bias=False), bn()))[0]) == (1, 0)
    assert counts(convert(branches(same(groups=C), same(1, groups=C)))[0]) == (1, 0)
