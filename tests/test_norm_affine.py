"""Scales and shifts of layer norms in the linear layer behind them, where a recipe asks for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reparamkit
from tests.helpers import Fn, assert_same, codes, convert, randomize

RECIPE = "norm_affine"
TOKENS = ((2, 5, 8), (1, 3, 8))


class Mlp(nn.Module):
    """As in a vision transformer: norm, linear, GELU, linear, the input beside it."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.fc1, self.act, self.fc2 = norm, nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(self.act(self.fc1(self.norm(x))))


@pytest.mark.parametrize(
    "norm", [lambda: nn.LayerNorm(8), lambda: nn.LayerNorm(8, bias=False), lambda: nn.RMSNorm(8, eps=1e-6)]
)
def test_goes_into_the_linear_layer(norm: Any) -> None:
    deploy: Any = convert(Mlp(norm()), *TOKENS, recipe=RECIPE)[0]
    assert type(deploy.norm) is type(norm())
    assert not list(deploy.norm.parameters())
    assert deploy.fc1.bias is not None


def test_stays_without_being_asked_for() -> None:
    every: Any = {"version": 1, "name": "every", "blocks": [{"match": {"structure": "any"}, "rules": ["core/*"]}]}
    for recipe in (None, every):
        deploy, report = convert(Mlp(nn.LayerNorm(8)), *TOKENS, recipe=recipe)
        assert isinstance(deploy.norm.weight, nn.Parameter)
        assert report.merged == ()
        assert not codes(report)


def test_second_conversion_finds_nothing() -> None:
    deploy = convert(Mlp(nn.LayerNorm(8)), *TOKENS, recipe=RECIPE)[0]
    assert reparamkit.apply(deploy, RECIPE, return_report=True)[1].merged == ()


def test_group_norm_before_a_pointwise_convolution() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 1))
    deploy: Any = convert(model, (1, 8, 7, 7), (2, 8, 6, 9), recipe=RECIPE)[0]
    assert deploy[1].weight is None
    assert deploy[1].num_groups == 2


def test_group_norm_before_a_padded_convolution_is_refused() -> None:
    """The must-refuse twin: the shift is not on the padding."""
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 3, padding=1))
    deploy, report = convert(model, (1, 8, 7, 7), recipe=RECIPE)
    assert deploy[1].weight is not None
    assert codes(report) == {"RK316"}


def test_norm_that_something_else_reads_too_stays() -> None:
    model = Fn(lambda m, x: m.fc(m.norm(x)) + m.norm(x).mean(), norm=nn.LayerNorm(8), fc=nn.Linear(8, 8))
    shared = Fn(_read_twice, norm=nn.LayerNorm(8), fc=nn.Linear(8, 8))
    for built, code in ((model, "RK301"), (shared, "RK305")):
        deploy, report = convert(built, *TOKENS, recipe=RECIPE)
        assert deploy.norm.weight is not None
        assert code in codes(report)


def _read_twice(m: Any, x: Tensor) -> Tensor:
    y = m.norm(x)
    return m.fc(y) + y.relu()


def test_norm_over_two_axes_stays() -> None:
    model = nn.Sequential(nn.LayerNorm((5, 8)), nn.Linear(8, 8))
    deploy, report = convert(model, (2, 5, 8), recipe=RECIPE)
    assert deploy[0].weight is not None
    assert codes(report) == {"RK310"}


@pytest.mark.zoo
def test_vision_transformer() -> None:
    """Both norms go: the attention does the same with them whether it is given a mask or not."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = randomize(timm.create_model("vit_tiny_patch16_224", depth=2, img_size=64)).double()
    deploy: Any = reparamkit.apply(model, RECIPE)
    for block in deploy.blocks:
        assert block.norm1.weight is None
        assert block.norm2.weight is None
    assert_same(model, deploy, (1, 3, 64, 64))
