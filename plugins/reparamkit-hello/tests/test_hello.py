"""The plugin at work. It is handed over with `plugins=`; installed, it is found without."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import reparamkit
import reparamkit_hello
from reparamkit_hello import ChannelGain


def randomised(model: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model.double().eval()


def gap(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / a.abs().max()).item()


@pytest.fixture(autouse=True)
def _only_the_given_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whether it is also installed must make no difference here.
    monkeypatch.setenv("REPARAMKIT_DISABLE_PLUGINS", "1")


@pytest.mark.parametrize("seed", range(5))
def test_gain_folds_into_the_convolution_before_it(seed: int) -> None:
    model = randomised(nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), ChannelGain(6)), seed)
    converted = reparamkit.apply(model, plugins=[reparamkit_hello])
    x = torch.randn(2, 3, 7, 8, dtype=torch.float64)
    assert not any(isinstance(m, ChannelGain) for m in converted.modules())
    assert sum(isinstance(m, nn.Conv2d) for m in converted.modules()) == 1
    assert gap(model(x), converted(x)) < 1e-9


def test_gain_folds_into_a_padded_convolution_after_it() -> None:
    model = randomised(nn.Sequential(ChannelGain(3), nn.Conv2d(3, 6, 3, padding=1)), 0)
    converted = reparamkit.apply(model, plugins=[reparamkit_hello])
    x = torch.randn(2, 3, 7, 8, dtype=torch.float64)
    assert not any(isinstance(m, ChannelGain) for m in converted.modules())
    assert gap(model(x), converted(x)) < 1e-9


def test_the_report_names_the_rule() -> None:
    model = randomised(nn.Sequential(nn.Conv2d(3, 6, 1), ChannelGain(6)), 0)
    _, report = reparamkit.apply(model, plugins=[reparamkit_hello], return_report=True)
    assert "hello/channel_gain" in report.merged[0].rules


def test_without_the_rule_the_layer_stays() -> None:
    # `build` without entry points and without the plugin: the layer is a wall, and is left alone.
    model = randomised(nn.Sequential(nn.Conv2d(3, 6, 1), ChannelGain(6)), 0)

    class Nothing:
        pass

    converted = reparamkit.apply(model, plugins=[Nothing()])
    assert any(isinstance(m, ChannelGain) for m in converted.modules())
