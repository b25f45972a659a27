"""Hazards of groups, identities and layouts."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor, nn

from tests.hazards.models import C, bn, same, seq
from tests.hazards.row import hazard
from tests.helpers import Fn, branches, conv_bn, convert, counts, places


@hazard("D11", "groups differ", "merged exactly where that pays")
@pytest.mark.parametrize("one", [1, 2, 4])
@pytest.mark.parametrize("other", [1, 2, 4])
def test_d11_groups_that_differ(one: int, other: int) -> None:
    model = branches(same(groups=one), same(groups=other))
    assert counts(convert(model, policy="always")[0]) == (1, 0)


@hazard("D12", "depthwise with a multiplier", "merged")
def test_d12_depthwise_multiplier() -> None:
    def multiplied(kernel: int) -> nn.Module:
        return seq(*conv_bn(C, 3 * C, kernel, padding=kernel // 2, groups=C))

    converted, _ = convert(branches(multiplied(3), multiplied(1)))
    assert counts(converted) == (1, 0)
    assert converted.reparam.groups == C


@hazard("D13", "an identity beside a grouped convolution", "one tap in each group")
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_d13_identity_beside_groups(groups: int) -> None:
    converted, _ = convert(branches(same(groups=groups), bn(), nn.Identity()))
    assert counts(converted) == (1, 0)
    assert converted.reparam.groups == groups


@hazard("D14", "an identity that does not fit", "refused", "RK311", "RK313")
def test_d14_identity_that_does_not_fit() -> None:
    _, report = convert(branches(nn.Conv2d(C, 1, 3, padding=1), nn.Identity()))
    assert places(report, "RK311") == ["add_1"]
    strided = Fn(lambda m, x: m.f(x) + x, f=nn.Conv2d(C, C, 3, 2, 1))
    _, report = convert(strided, (2, C, 1, 1))
    assert places(report, "RK313") == ["add"]
    one = Fn(lambda m, x: m.f(x) + x, f=nn.Conv2d(1, C, 3, padding=1))
    _, report = convert(one, (2, 1, 5, 5))
    assert places(report, "RK311") == ["add"]


@hazard("D16", "transposed convolutions: channels are on the other axis", "merged, with groups")
@hazard("D17", "one and three axes", "merged")
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("nd", [1, 2, 3])
def test_d16_d17_transposed_convs(groups: int, nd: int) -> None:
    up: Any = getattr(nn, f"ConvTranspose{nd}d")
    norm: Any = getattr(nn, f"BatchNorm{nd}d")
    shape = (2, C, *(5, 4, 3)[:nd])
    model = seq(up(C, 2 * C, 3, stride=2, padding=1, output_padding=1, groups=groups), norm(2 * C))
    assert counts(convert(model, shape)[0]) == (1, 0)


@hazard("D18", "a linear layer beside a convolution of another layout", "merged where the permutations cancel")
def test_d18_a_linear_layer_beside_a_conv_of_another_layout() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.conv(x) + m.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    converted, _ = convert(Fn(run, conv=same(), linear=nn.Linear(C, C)))
    assert counts(converted) == (1, 0)
    model = Fn(lambda m, x: m.conv(x) + m.linear(x), conv=same(), linear=nn.Linear(C, C))
    converted, _ = convert(model, (2, C, C, C))
    assert counts(converted) == (2, 0)
