"""One wide layer for several: what must be merged, what must not, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import reparamkit_parallel
import torch
from torch import Tensor, nn

import reparamkit
from reparamkit.testing import randomize

RECIPE = "parallel:parallel"
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("REPARAMKIT_DISABLE_PLUGINS", "1")
    with torch.no_grad():
        yield


def randomised(model: nn.Module, seed: int = 0) -> Any:
    return randomize(model, seed).double()


def converted(model: nn.Module, **options: Any) -> tuple[Any, reparamkit.Report]:
    made, report = reparamkit.apply(model, RECIPE, plugins=[reparamkit_parallel], return_report=True, **options)
    return made, report


def gap(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / a.abs().max()).item()


def layers(model: nn.Module) -> int:
    return sum(isinstance(m, LAYERS) for m in model.modules())


def wides(report: reparamkit.Report) -> list[str]:
    return [m.path for m in report.merged if m.kind == "transform"]


class ConvBNReLU(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, kernel: int = 1, **options: Any) -> None:
        conv = nn.Conv2d(inputs, outputs, kernel, bias=False, **options)
        super().__init__(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Inception(nn.Module):
    """Four branches: three begin with a 1x1 convolution of the input, one with a pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.a = ConvBNReLU(6, 4)
        self.b = nn.Sequential(ConvBNReLU(6, 3), ConvBNReLU(3, 5, 3, padding=1))
        self.c = nn.Sequential(ConvBNReLU(6, 2), ConvBNReLU(2, 3, 3, padding=1))
        self.d = nn.Sequential(nn.MaxPool2d(3, 1, 1), ConvBNReLU(6, 2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.a(x), self.b(x), self.c(x), self.d(x)], 1)


class Pair(nn.Module):
    def __init__(self, first: nn.Module, second: nn.Module, between: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.first, self.second, self.between = first, second, between

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1.5
        a = self.first(x)
        if self.between is not None:
            self.between(x)
        b: Tensor = self.second(x)
        return torch.cat([torch.tanh(a), torch.sin(b)], 1)


class Attention(nn.Module):
    def __init__(self, biases: tuple[bool, bool, bool]) -> None:
        super().__init__()
        self.q = nn.Linear(8, 8, bias=biases[0])
        self.k = nn.Linear(8, 8, bias=biases[1])
        self.v = nn.Linear(8, 16, bias=biases[2])

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q = self.q(x).view(batch, tokens, 2, 4).transpose(1, 2)
        k = self.k(x).view(batch, tokens, 2, 4).transpose(1, 2)
        v = self.v(x).view(batch, tokens, 2, 8).transpose(1, 2)
        weights: Tensor = (q @ k.transpose(-1, -2)).softmax(-1)
        y: Tensor = (weights @ v).transpose(1, 2).flatten(2)
        return y


@pytest.mark.parametrize("seed", range(3))
def test_inception_block(seed: int) -> None:
    model = randomised(nn.Sequential(Inception(), nn.ReLU(), nn.Conv2d(14, 3, 1)), seed)
    made, report = converted(model)
    assert (layers(model), layers(made)) == (7, 5)
    assert type(made[0]).__name__ == "Inception"
    assert made[0].parallel.weight.shape == (9, 6, 1, 1)
    assert len(wides(report)) == 1
    x = torch.randn(2, 6, 9, 7, dtype=torch.float64)
    assert gap(model(x), made(x)) < 1e-9
    again, report = converted(made)
    assert not report.merged
    assert layers(again) == 5


@pytest.mark.parametrize("biases", [(True, True, True), (False, False, False), (True, False, True)])
def test_attention(biases: tuple[bool, bool, bool]) -> None:
    model = randomised(Attention(biases))
    made, _ = converted(model)
    assert layers(made) == 1
    assert made.parallel.weight.shape == (32, 8)
    assert (made.parallel.bias is None) == (not any(biases))
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    assert gap(model(x), made(x)) < 1e-9


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda o: nn.Conv2d(4, o, 3, stride=2, padding=1), (2, 4, 9, 8)),
        (lambda o: nn.Conv2d(4, o, (1, 3), padding=(0, 2), dilation=2, padding_mode="circular"), (2, 4, 9, 8)),
        (lambda o: nn.Conv2d(4, o, 3, padding="same"), (2, 4, 9, 8)),
        (lambda o: nn.Conv1d(4, o, 3), (2, 4, 9)),
        (lambda o: nn.Conv3d(4, o, 2), (2, 4, 5, 4, 3)),
    ],
)
def test_geometries(layer: Callable[[int], nn.Module], shape: tuple[int, ...]) -> None:
    model = randomised(Pair(layer(3), layer(5)))
    made, _ = converted(model, example_inputs=torch.ones(shape, dtype=torch.float64))
    assert layers(made) == 1
    x = torch.randn(shape, dtype=torch.float64)
    assert gap(model(x), made(x)) < 1e-9


def conv(outputs: int, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(4, outputs, **{"kernel_size": 3, "padding": 1, **options})


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda *a: None)
    return module


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (conv(3), conv(5, padding=1, kernel_size=(3, 1))),
        (conv(3), conv(3, dilation=2, padding=2)),
        (conv(4), conv(4, groups=2)),
        (conv(3), conv(3, padding_mode="reflect")),
        (conv(3), frozen(conv(3))),
        (conv(3), hooked(conv(3))),
        (conv(3), nn.utils.parametrizations.weight_norm(conv(3))),
    ],
    ids=["kernel", "dilation", "groups", "padding_mode", "frozen", "hook", "parametrized"],
)
def test_layers_that_differ_stay(first: nn.Module, second: nn.Module) -> None:
    model = Pair(first, second).double().eval()
    made, report = converted(model)
    assert not wides(report)
    assert layers(made) == 2


def test_the_twin_of_those_that_differ_is_merged() -> None:
    made, report = converted(randomised(Pair(conv(3), conv(5))))
    assert len(wides(report)) == 1
    assert layers(made) == 1


def test_an_input_that_changes_in_between() -> None:
    model = randomised(Pair(conv(3), conv(3), lambda x: x.mul_(2)))
    made, report = converted(model)
    assert not wides(report)
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    assert gap(model(x), made(x)) < 1e-9
    made, report = converted(randomised(Pair(conv(3), conv(3), lambda x: x.mul(2))))
    assert len(wides(report)) == 1


def test_a_layer_that_is_called_twice_stays() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(4), conv(4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = torch.tanh(self.a(x)) * torch.sin(self.b(x)) + self.a(torch.relu(x))
            return y

    made, report = converted(randomised(Twice()))
    assert not wides(report)
    assert "RK301" in {r.code for r in report.refused}
    assert layers(made) == 2


def test_gradients_flow_after_in_place_operations() -> None:
    model = randomised(Inception())
    made, _ = converted(model)
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    gradients = []
    for each in (model, made):
        given = x.clone().requires_grad_()
        with torch.enable_grad():
            each(given).square().sum().backward()
        assert given.grad is not None
        gradients.append(given.grad)
    assert gap(*gradients) < 1e-9
    assert made.parallel.weight.grad.abs().max() > 0


def test_half_precision_keeps_its_bits() -> None:
    model = randomised(Pair(conv(3), conv(5))).to(torch.bfloat16)
    made, _ = converted(model)
    assert made.parallel.weight.dtype == torch.bfloat16
    assert torch.equal(made.parallel.weight, torch.cat([model.first.weight, model.second.weight]))


def test_it_is_opt_in() -> None:
    made, report = reparamkit.apply(
        randomised(Pair(conv(3), conv(5))), plugins=[reparamkit_parallel], return_report=True
    )
    assert not wides(report)
    assert layers(made) == 2
