"""Layers whose numbers are not what they were built with: another shape, another dtype than the input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reparamkit
from reparamkit.testing import randomize
from tests.helpers import Fn, gap, inputs, places, unchanged

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv2d(4, 4, 1),
    "transposed": lambda: nn.ConvTranspose2d(4, 4, 1),
    "linear": lambda: nn.Linear(4, 4),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("shape", [(), (4,), (4, 4, 1), (4, 4, 1, 1, 1)])
def test_a_layer_with_a_weight_of_other_axes_is_left(kind: str, shape: tuple[int, ...]) -> None:
    """It may stand in a way that is never taken."""
    layer = LAYERS[kind]()
    layer.weight = nn.Parameter(torch.ones(shape))
    norm = nn.BatchNorm1d(4) if kind == "linear" else nn.BatchNorm2d(4)
    model = Fn(lambda m, x: m.norm(m.layer(m.norm(x))) if x.shape[0] > 9 else x, layer=layer, norm=norm)
    with unchanged(model.eval()):
        _, report = reparamkit.apply(model, policy="always", return_report=True)
    assert not report.merged
    assert places(report, "RK310") == ["layer"]


@pytest.mark.parametrize("kind", ["conv", "transposed"])
def test_a_layer_with_a_bias_of_another_length_is_left(kind: str) -> None:
    """It raises, and goes on raising; one that has an entry a channel merges."""
    layer = LAYERS[kind]()
    layer.bias = nn.Parameter(torch.ones(1))
    model = Fn(lambda m, x: m.norm(m.layer(x)), layer=layer, norm=nn.BatchNorm2d(4)).eval()
    converted, report = reparamkit.apply(model, return_report=True)
    assert places(report, "RK310") == ["layer"]
    with pytest.raises(RuntimeError):
        converted(torch.ones(1, 4, 3, 3))
    layer.bias = nn.Parameter(torch.ones(4))
    assert len(reparamkit.apply(model, return_report=True)[1].merged) == 1


CASTS: dict[str, Callable[[Tensor], Tensor]] = {
    "to": lambda x: x.to(torch.float64),
    "method": lambda x: x.double(),
    "a step further": lambda x: torch.relu(x.to(dtype=torch.float64)),
}


@pytest.mark.parametrize("how", CASTS)
def test_what_is_computed_of_a_cast_value_keeps_its_dtype(how: str) -> None:
    def run(m: Any, x: Tensor) -> Any:
        return (CASTS[how](x) - m.shift) / 3 + m.shift, m.norm(m.conv(x))

    layers = {"shift": nn.Parameter(torch.ones(4, 1, 1)), "norm": nn.BatchNorm2d(4), "conv": nn.Conv2d(4, 4, 1)}
    model = randomize(Fn(run, **layers)).bfloat16()
    x = inputs((2, 4, 5, 5), dtype=torch.bfloat16)
    with unchanged(model):
        converted, report = reparamkit.apply(model, policy="always", return_report=True, example_inputs=x)
    assert len(report.merged) == 1, "what is not cast merges"
    assert "RK503" in {refusal.code for refusal in report.refused}
    with torch.no_grad():
        assert gap(model(x)[0], converted(x)[0]) == 0


def test_a_value_that_is_cast_back_has_the_dtype_of_the_weights() -> None:
    def run(m: Any, x: Tensor) -> Any:
        return torch.tanh(m.norm(m.conv(x.float().exp().to(x.dtype)) * 2))

    model = randomize(Fn(run, norm=nn.BatchNorm2d(4), conv=nn.Conv2d(4, 4, 1))).bfloat16()
    _, report = reparamkit.apply(model, return_report=True)
    assert len(report.merged) == 1
    assert not report.refused
