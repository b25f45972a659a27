"""Merged weights are the correctly rounded ones: no float between the exact result and the stored number.

Upstream's converters fold in the dtype of the model; `theirs` below is their arithmetic done in float32 and in the
model's own dtype, `truth` the same arithmetic in float64.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reparamkit
from reparamkit.testing import randomize
from tests.blocks import ACBlock, DiverseBranchBlock, RepVGGBlock
from tests.helpers import inputs
from tests.zoo import timm_model, ultralytics_model

HALVES = (torch.float16, torch.bfloat16)
ROUNDED = (
    0.5 + 2**-10
)  # units in the last place; float64 has its own rounding, and half types are reached by way of float32
BENCHMARKED = [
    "repvgg_a0",
    "mobileone_s0",
    "mobileone_s1",
    "fastvit_t8",
    "repvit_m1",
    "repghostnet_100",
    "efficientnet_b0",
    "yolov9t",
]


def build(name: str) -> nn.Module:
    if name.startswith("yolo"):
        pytest.importorskip("ultralytics")
        return ultralytics_model(name)
    pytest.importorskip("timm")
    return timm_model(name)


def upstream(model: nn.Module) -> nn.Module:
    from timm.utils.model import reparameterize_model

    converted: nn.Module = reparameterize_model(copy.deepcopy(model))
    return converted


def pairs(model: nn.Module, truth: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Parameters of a model and of its float64 twin, flat."""
    wanted = dict(truth.named_parameters())
    assert list(wanted) == [name for name, _ in model.named_parameters()]
    for name, parameter in model.named_parameters():
        yield parameter.detach().flatten(), wanted[name].detach().flatten()


def ulps(got: Tensor, exact: Tensor) -> Tensor:
    """Distance of each number to the exact one, in units of the last place at the exact one."""
    info = torch.finfo(got.dtype)
    exponent = torch.frexp(exact.abs().clamp_min(info.tiny))[1] - 1
    return (got.double() - exact).abs() / torch.ldexp(torch.full_like(exact, info.eps), exponent)


@cache
def truth_of(name: str, dtype: torch.dtype) -> nn.Module:
    return upstream(build(name).to(dtype).double())


def total_error(model: nn.Module, truth: nn.Module) -> float:
    return float(sum((got.double() - exact).square().sum() for got, exact in pairs(model, truth)))


@pytest.mark.zoo
class TestPublishedModels:
    @pytest.mark.parametrize("name", BENCHMARKED)
    def test_every_float32_weight_is_the_rounded_float64_one(self, name: str) -> None:
        model = build(name)
        merged, exact = reparamkit.apply(model), reparamkit.apply(copy.deepcopy(model).double())
        for got, wanted in pairs(merged, exact):
            assert torch.equal(got, wanted.float())

    @pytest.mark.parametrize(("name", "recipe"), [("repvgg_a0", "repvgg"), ("mobileone_s0", "mobileone")])
    def test_and_upstreams_float64_ones_agree(self, name: str, recipe: str) -> None:
        """Upstream's own float32 weights do not: a third of them or more are other floats."""
        model, truth = build(name), truth_of(name, torch.float32)
        ours, theirs = reparamkit.apply(model, recipe), upstream(model)
        assert max(float(ulps(got, exact).max()) for got, exact in pairs(ours, truth)) <= ROUNDED
        assert max(float(ulps(got, exact).max()) for got, exact in pairs(theirs, truth)) > 1

    @pytest.mark.parametrize("dtype", HALVES)
    @pytest.mark.parametrize(("name", "recipe"), [("repvgg_a0", "repvgg"), ("mobileone_s0", "mobileone")])
    def test_half_precision_is_no_worse_than_float32_and_a_cast(
        self, name: str, recipe: str, dtype: torch.dtype
    ) -> None:
        model, truth = build(name).to(dtype), truth_of(name, dtype)
        ours = reparamkit.apply(model, recipe)
        assert max(float(ulps(got, exact).max()) for got, exact in pairs(ours, truth)) <= ROUNDED
        by_float32, in_half = upstream(copy.deepcopy(model).float()).to(dtype), upstream(model)
        # One number in 100,000 is a tie in float32, and may go either way.
        assert total_error(ours, truth) <= total_error(by_float32, truth) * (1 + 1e-4)
        assert total_error(ours, truth) < 0.9 * total_error(in_half, truth)

    @pytest.mark.parametrize("dtype", HALVES)
    @pytest.mark.parametrize("name", ["repvit_m1", "fastvit_t8"])
    def test_half_precision_models_run(self, name: str, dtype: torch.dtype) -> None:
        """Upstream's RepViT crashes here: its merged layers are float32 whatever the model is."""
        merged = reparamkit.apply(build(name).to(dtype))
        assert {p.dtype for p in merged.parameters()} == {dtype}
        with torch.no_grad():
            assert merged(inputs((1, 3, 64, 64), dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("block", [RepVGGBlock, ACBlock, DiverseBranchBlock])
@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
def test_blocks_with_gammas_of_both_signs_zero_gammas_and_tiny_variances(block: Any, dtype: torch.dtype) -> None:
    model = randomize(block(8)).double()
    with torch.no_grad():
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.weight[::3] = 0
            norm.running_var[1] = 1e-3
    model = model.to(dtype)
    merged, exact = reparamkit.apply(model), reparamkit.apply(copy.deepcopy(model).double())
    assert any(bool((p < 0).any()) for p in merged.parameters())
    for got, wanted in pairs(merged, exact):
        assert float(ulps(got, wanted).max()) <= ROUNDED


def test_branches_that_cancel_keep_their_difference() -> None:
    """Float32 arithmetic on weights of 1e4 has 1e-3 to give; the difference is 1e-3 itself."""

    class Difference(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.one(x) - self.other(x))

    model = randomize(Difference()).float()
    with torch.no_grad():
        model.one.weight.add_(1e4)
        model.other.weight.copy_(model.one.weight * (1 + 2**-20))
    merged, exact = reparamkit.apply(model), reparamkit.apply(copy.deepcopy(model).double())
    for got, wanted in pairs(merged, exact):
        assert torch.equal(got, wanted.float())
    norm, wanted = model.norm, exact.get_parameter("reparam.weight").detach()
    with torch.no_grad():
        scale = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).reshape(-1, 1, 1, 1)
        in_float32 = model.one.weight * scale - model.other.weight * scale
        ours = merged.get_parameter("reparam.weight")
        assert float((in_float32 - wanted).abs().max()) > 1e3 * float((ours - wanted).abs().max())
