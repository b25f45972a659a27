"""`verify` tells rounding from a wrong conversion, and says when it cannot."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import reparamkit
from tests.helpers import Fn, conv_bn, inputs, randomize

X = inputs((2, 4, 6, 5), dtype=torch.float32)


def amplifying(factor: float) -> Fn:
    """A batch norm to fold, and behind it a function that makes a rounding error `factor` times larger."""
    front = nn.Sequential(*conv_bn(4, 4, 3))
    return randomize(Fn(lambda m, x: torch.sin(factor * m.front(x)), front=front))


def wrong(model: nn.Module, factor: float) -> nn.Module:
    other = copy.deepcopy(model)
    conv = next(m for m in other.modules() if isinstance(m, nn.Conv2d))
    with torch.no_grad():
        conv.weight.mul_(factor)
    return other


@pytest.mark.parametrize("rtol", [None, 1e-3])
def test_rounding_passes(rtol: float | None) -> None:
    model = amplifying(1.0)
    found = reparamkit.verify(model, reparamkit.apply(model), X, rtol=rtol)
    assert found.unjudged is None
    assert found.error <= 1e-5
    assert found.allowed == (rtol or 1e-4)


def test_noise_of_the_original_allows_more_than_its_dtype_does() -> None:
    model = amplifying(3e3)
    found = reparamkit.verify(model, reparamkit.apply(model), X)
    assert 1e-4 < found.noise * 16 <= 0.1
    assert found.allowed == 16 * found.noise


def test_more_than_the_noise_is_wrong() -> None:
    model = amplifying(3e3)
    with pytest.raises(reparamkit.VerificationError, match=r"RK901.*allowed"):
        reparamkit.verify(model, wrong(reparamkit.apply(model), 1.01), X)


def test_a_model_that_float32_cannot_compute_is_not_judged() -> None:
    """Neither the right conversion nor a wrong one passes; `apply` has proven each merge and goes on."""
    model = amplifying(1e8)
    deploy, report = reparamkit.apply(model, example_inputs=X, return_report=True)
    for one in (deploy, wrong(deploy, 1.01)):
        with pytest.raises(reparamkit.VerificationError, match=r"RK903.*is [\d.]+ .* the original [\d.]+, in float32"):
            reparamkit.verify(model, one, X)
    assert report.whole_model is not None
    assert report.whole_model.unjudged is not None
    assert report.whole_model.allowed == 0.1
    assert "whole model: RK903" in str(report)


def test_float64_judges_what_float32_does_not() -> None:
    model = amplifying(1e5).double()
    deploy = reparamkit.apply(model)
    assert reparamkit.verify(model, deploy, X.double()).error <= 1e-9
    with pytest.raises(reparamkit.VerificationError, match="RK901"):
        reparamkit.verify(model, wrong(deploy, 1 + 1e-12), X.double(), rtol=1e-13)


class Centred(nn.Module):
    """Returns the mean of numbers whose mean is zero: nothing but rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return (y - y.mean()).mean()


def test_outputs_that_are_nothing_but_rounding_are_not_judged_in_float64_either() -> None:
    model = randomize(Centred()).double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    deploy, report = reparamkit.apply(model, example_inputs=x, return_report=True)
    assert report.whole_model is not None
    assert report.whole_model.unjudged is not None
    assert "what they return cancels" in str(report)
    with pytest.raises(reparamkit.VerificationError, match="RK903"):
        reparamkit.verify(model, deploy, x)


@pytest.mark.parametrize("factor", [1e5, 1.0])
def test_a_wrong_conversion_is_found_in_float64(factor: float) -> None:
    model = amplifying(factor).double()
    with pytest.raises(reparamkit.VerificationError, match="RK901"):
        reparamkit.verify(model, wrong(reparamkit.apply(model), 1.0001), X.double())


def test_a_tolerance_that_is_given_counts() -> None:
    model = amplifying(1e8)
    with pytest.raises(reparamkit.VerificationError, match=r"RK901.*allowed 0.2"):
        reparamkit.verify(model, reparamkit.apply(model), X, rtol=0.2)
