"""OREPA (arXiv 2204.00826): one convolution whose kernel is put together from parameters in every forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers import convert, counts
from tests.published.assertions import collapses


class OREPA(nn.Module):
    """3x3 with six branches on the weight: origin, 1x1 pooled, frequency prior, 1x1, 1x1 then 3x3, depthwise separable.

    Args:
        c: channels.
        sized: whether the forward asks the kernels for their sizes, as upstream's does.
    """

    def __init__(self, c: int = 8, sized: bool = True) -> None:
        super().__init__()
        k, self.sized = 3, sized
        self.weight_origin = nn.Parameter(torch.empty(c, c, k, k))
        self.weight_avg_conv, self.weight_pfir_conv, self.weight_1x1 = (
            nn.Parameter(torch.empty(c, c, 1, 1)) for _ in range(3)
        )
        self.weight_1x1_kxk_conv1, self.weight_1x1_kxk_conv2 = (
            nn.Parameter(torch.empty(c, c, 1, 1)),
            nn.Parameter(torch.empty(c, c, k, k)),
        )
        self.weight_dws_dw = nn.Parameter(torch.empty(4 * c, 1, k, k))
        self.weight_dws_pw = nn.Parameter(torch.empty(c, 4 * c, 1, 1))
        self.vector = nn.Parameter(torch.empty(6, c))
        self.register_buffer("weight_avg_avg", torch.full((c, k, k), 1.0 / (k * k)))
        grid = torch.arange(k, dtype=torch.float32)
        prior = torch.stack([torch.cos(torch.pi * (grid + 0.5) * (i % k + 1) / k) for i in range(c)])
        self.register_buffer("weight_pfir_prior", prior[:, :, None] * prior[:, None, :])
        self.bn, self.nonlinear = nn.BatchNorm2d(c), nn.ReLU()

    def weight_gen(self) -> Tensor:
        origin = torch.einsum("oihw,o->oihw", self.weight_origin, self.vector[0])
        avg = torch.einsum("oi,hw->oihw", self.weight_avg_conv.flatten(1), self.weight_avg_avg[0])
        pfir = torch.einsum("oi,ohw->oihw", self.weight_pfir_conv.flatten(1), self.weight_pfir_prior)
        point = F.pad(self.weight_1x1, (1, 1, 1, 1))
        pair = torch.einsum("ti,othw->oihw", self.weight_1x1_kxk_conv1.flatten(1), self.weight_1x1_kxk_conv2)
        dws = self._depthwise_separable()
        rest = (avg, pfir, point, pair, dws)
        return origin + sum(w * self.vector[i + 1].view(-1, 1, 1, 1) for i, w in enumerate(rest))

    def _depthwise_separable(self) -> Tensor:
        if not self.sized:
            dw, pw = self.weight_dws_dw.view(8, 4, 3, 3), self.weight_dws_pw.view(8, 8, 4)
            return torch.einsum("ijhw,oij->oihw", dw, pw)
        each = int(self.weight_dws_pw.size(1) // self.weight_origin.size(1))
        parts = []
        for n, pw in enumerate(self.weight_dws_pw.flatten(1).split(each, 1)):
            dw = self.weight_dws_dw[each * n : each * (n + 1)]
            parts.append(torch.einsum("jihw,oj->oihw", dw, pw))
        return torch.cat(parts, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight_gen()
        return self.nonlinear(self.bn(F.conv2d(x, weight, None, 1, weight.size(2) // 2)))


class RepVGGBlockOREPA(nn.Module):
    """OREPA's RepVGG: the kernel's branches on the weight, the identity's batch norm beside it."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.weight_3x3, self.weight_1x1 = nn.Parameter(torch.empty(c, c, 3, 3)), nn.Parameter(torch.empty(c, c, 1, 1))
        self.bn, self.rbr_identity = nn.BatchNorm2d(c), nn.BatchNorm2d(c)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight_3x3 + F.pad(self.weight_1x1, (1, 1, 1, 1))
        return F.relu(self.bn(F.conv2d(x, weight, padding=1)) + self.rbr_identity(x))


class OREPALargeConv(nn.Module):
    """A large kernel made of a chain of 3x3 kernels."""

    def __init__(self, c: int = 4, layers: int = 3) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.empty(c, c, 3, 3) for _ in range(layers))
        self.bn, self.pad = nn.BatchNorm2d(c), layers

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weights[0].transpose(0, 1)
        for weight in list(self.weights)[1:]:
            kernel = F.conv2d(kernel, weight.flip(2, 3), padding=2)
        return self.bn(F.conv2d(x, kernel.transpose(0, 1), padding=self.pad))


class StandardizedConv(nn.Conv2d):
    """Weight standardisation (arXiv 1903.10520), with NFNet's gain: a kernel without mean and with unit variance."""

    def __init__(self, cin: int, cout: int, k: int) -> None:
        super().__init__(cin, cout, k, padding=k // 2)
        self.gain = nn.Parameter(torch.ones(cout, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1), None, None, weight=self.gain.view(-1), training=True
        ).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Blur(nn.Module):
    """The must-refuse twin: a filter for all channels is stored once, and looked at as if it were many."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.register_buffer("filter", torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]).view(1, 1, 3, 3) / 16)
        self.c = c

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.filter.expand(self.c, 1, 3, 3), groups=self.c)


class InputDependent(nn.Module):
    """The must-refuse twin: the kernel depends on the input."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.weight, self.bn = nn.Parameter(torch.empty(c, c, 3, 3)), nn.BatchNorm2d(c)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(F.conv2d(x, self.weight * x.mean(), padding=1))


@pytest.mark.parametrize("recipe", [None, "orepa"])
@pytest.mark.parametrize("sized", [True, False])
def test_generated_kernel(sized: bool, recipe: str | None) -> None:
    collapses(OREPA(sized=sized), 1, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "orepa"])
def test_generated_kernel_beside_the_identity(recipe: str | None) -> None:
    collapses(RepVGGBlockOREPA(), 1, recipe=recipe)


def test_kernel_from_a_chain_of_kernels() -> None:
    collapses(OREPALargeConv(), 1, (1, 4, 9, 9), (2, 4, 8, 11))


def test_standardised_kernel_is_stored() -> None:
    block = nn.Sequential(StandardizedConv(8, 8, 3), nn.ReLU(), StandardizedConv(8, 6, 1))
    deploy: Any = convert(block, (1, 8, 7, 7), (2, 8, 6, 9))[0]
    assert sum(type(m) is nn.Conv2d for m in deploy.modules()) == 2  # inside modules of their own class
    assert not hasattr(deploy[0], "gain")
    assert deploy[0].weight is None
    assert "reparam" in repr(deploy[0])
    assert deploy[0].reparam.kernel_size == (3, 3)


def test_view_of_a_stored_filter_stays() -> None:
    deploy, report = convert(Blur(), (1, 8, 7, 7))
    assert report.merged == ()
    assert deploy.filter.shape == (1, 1, 3, 3)


class ResidualKernel(nn.Module):
    """``I + W`` with the identity made for each call, in the dtype of the input."""

    def __init__(self, square: bool = True) -> None:
        super().__init__()
        self.weight, self.bn, self.square = nn.Parameter(torch.ones(4, 4)), nn.BatchNorm2d(4), square

    def forward(self, x: Tensor) -> Tensor:
        identity = torch.eye(4, dtype=x.dtype, device=x.device) if self.square else torch.eye(x.size(1), dtype=x.dtype)
        return self.bn(F.conv2d(x, (identity + self.weight)[..., None, None]))  # type: ignore[no-any-return]


def test_kernel_of_the_identity_and_a_parameter() -> None:
    deploy, report = convert(ResidualKernel())
    assert counts(deploy) == (1, 0), report


def test_kernel_of_an_identity_as_large_as_the_input_stays() -> None:
    """The must-refuse twin."""
    deploy, _ = convert(ResidualKernel(square=False))
    assert counts(deploy) == (0, 1)


def test_kernel_that_depends_on_the_input_stays() -> None:
    collapses(InputDependent(), 0, norms=1, refused={"RK310", "RK321"})
