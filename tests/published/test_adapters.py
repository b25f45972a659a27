"""LoRA (arXiv 2106.09685) and RepAdapter (arXiv 2302.08106): low-rank paths beside what was trained before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.blocks import ConvBN, LoRALinear
from tests.published.assertions import collapses

TOKENS = ((2, 6, 8), (1, 9, 8))


class LoRAConv(nn.Module):
    """A low-rank path beside a convolution: kxk down, 1x1 up."""

    def __init__(self, c: int = 8, rank: int = 2, k: int = 3) -> None:
        super().__init__()
        self.base = nn.Conv2d(c, c, k, padding=k // 2)
        self.down, self.up = nn.Conv2d(c, rank, k, padding=k // 2, bias=False), nn.Conv2d(rank, c, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 2.0 * self.up(self.down(x))


class RepAdapter(nn.Module):
    """``x + s B(A x)`` with convolutions of one tap over tokens, the second one grouped."""

    def __init__(self, c: int = 8, hidden: int = 8, groups: int = 2, scale: float = 2.0) -> None:
        super().__init__()
        self.conv_A, self.conv_B = nn.Conv1d(c, hidden, 1), nn.Conv1d(hidden, c, 1, groups=groups)
        self.dropout, self.scale = nn.Dropout(0.1), scale

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        x = self.conv_B(self.dropout(self.conv_A(x))) * self.scale + x
        return x.transpose(1, 2).contiguous()


class AdaptedMlp(nn.Module):
    """Layer norm, adapter, linear, GELU, linear."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.norm, self.adapter, self.fc1 = nn.LayerNorm(c), RepAdapter(c), nn.Linear(c, 2 * c)
        self.act, self.fc2 = nn.GELU(), nn.Linear(2 * c, c)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(self.act(self.fc1(self.adapter(self.norm(x)))))


class ConvAdapter(nn.Module):
    """RepAdapter in a ConvNeXt block: in front of a padded depthwise kernel."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.conv_A, self.conv_B, self.dwconv = nn.Conv2d(c, c, 1), nn.Conv2d(c, c, 1), ConvBN(c, c, 7, groups=c)

    def forward(self, x: Tensor) -> Tensor:
        return self.dwconv(x + 0.1 * self.conv_B(self.conv_A(x)))


class Nonlinear(LoRALinear):
    """The must-refuse twin: an adapter with an activation inside."""

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.lora_b(torch.relu(self.lora_a(x)))


@pytest.mark.parametrize("recipe", [None, "lora"])
@pytest.mark.parametrize("shape", [(3, 8), (2, 5, 8)])
def test_lora(shape: tuple[int, ...], recipe: str | None) -> None:
    deploy = collapses(LoRALinear(), 1, shape, recipe=recipe)
    assert [type(m) for m in deploy.modules() if not list(m.children())] == [nn.Linear]


@pytest.mark.parametrize("recipe", [None, "lora"])
@pytest.mark.parametrize("k", [1, 3])
def test_lora_beside_a_convolution(k: int, recipe: str | None) -> None:
    collapses(LoRAConv(k=k), 1, recipe=recipe)


def test_adapter_with_an_activation_stays() -> None:
    collapses(Nonlinear(), 3, (3, 8))


@pytest.mark.parametrize("recipe", [None, "repadapter"])
def test_repadapter_alone(recipe: str | None) -> None:
    deploy: Any = collapses(RepAdapter(), 1, *TOKENS, recipe=recipe)
    assert sum(isinstance(m, nn.Conv1d) for m in deploy.modules()) == 1


@pytest.mark.parametrize("recipe", [None, "repadapter"])
def test_repadapter_goes_into_the_linear_layer_behind_it(recipe: str | None) -> None:
    collapses(AdaptedMlp(), 2, *TOKENS, recipe=recipe)


def test_adapter_before_a_padded_kernel_has_a_border() -> None:
    """Its bias would be missing on the padding; its own two convolutions and the identity are one."""
    collapses(ConvAdapter(), 2, refused={"RK316"})
