"""Residual connections that go and those that must stay, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import reparamkit_rmnet
import torch
from torch import Tensor, nn

import reparamkit
from reparamkit.testing import randomize

RECIPE = "rmnet:rmnet"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("REPARAMKIT_DISABLE_PLUGINS", "1")
    with torch.no_grad():
        yield


def randomised(model: nn.Module, seed: int = 0) -> Any:
    return randomize(model, seed).double()


def converted(model: nn.Module, **options: Any) -> tuple[Any, list[str], set[str]]:
    """The converted model, paths of the blocks that lost their residual, codes of refusals."""
    made, report = reparamkit.apply(model, RECIPE, plugins=[reparamkit_rmnet], return_report=True, **options)
    return made, [m.path for m in report.merged if m.kind == "transform"], {r.code for r in report.refused}


def gap(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / a.abs().max()).item()


def convs(model: nn.Module) -> int:
    return sum(isinstance(m, nn.Conv2d) for m in model.modules())


def conv_bn(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Sequential:
    options = {"padding": kernel // 2, "bias": False, **options}
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, **options), nn.BatchNorm2d(outputs))


class Basic(nn.Module):
    """ResNet's basic block, with its in-place operations."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, act: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.act = act or nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.down = conv_bn(inputs, outputs, 1, stride=stride) if stride > 1 or inputs != outputs else None
        self.last = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.act(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.down is None else self.down(x)
        y: Tensor = self.last(out)
        return y


class Residual(nn.Module):
    """``body(x) + short(x)``."""

    def __init__(self, body: nn.Module, short: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.short = body, short or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.short(x) + self.body(x)
        return y


def stem() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("outputs", "stride"), [(4, 1), (6, 1), (4, 2), (6, 2)])
def test_basic_blocks(outputs: int, stride: int, seed: int) -> None:
    model = randomised(nn.Sequential(stem(), Basic(4, outputs, stride), Basic(outputs, outputs)), seed)
    made, paths, _ = converted(model)
    assert paths == ["1", "2"]
    assert convs(made) == 5
    assert isinstance(made[1], Basic)
    assert made[1].conv1.weight.shape == (outputs + 4, 4, 3, 3)
    assert made[2].conv2.weight.shape == (outputs, 2 * outputs, 3, 3)
    assert "+" not in type(made[2])._reparamkit_source
    for shape in ((2, 3, 9, 8), (1, 3, 7, 7)):
        x = torch.randn(shape, dtype=torch.float64)
        assert gap(model(x), made(x)) < 1e-9
    assert not converted(made)[1]


@pytest.mark.parametrize("act", [nn.LeakyReLU(0.2), nn.PReLU(), nn.Identity()])
def test_other_functions_that_keep_what_is_not_negative(act: nn.Module) -> None:
    model = randomised(nn.Sequential(stem(), Basic(4, 6, 2, act)))
    made, paths, _ = converted(model, policy="cheaper")
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert gap(model(x), made(x)) < 1e-9
    assert paths == ["1"] or isinstance(act, nn.Identity)


@pytest.mark.parametrize("act", [nn.ReLU6(), nn.PReLU(4), nn.SiLU(), nn.Hardtanh(0.0, 3.0)])
def test_functions_that_do_not_stay(act: nn.Module) -> None:
    model = randomised(nn.Sequential(stem(), Basic(4, 4, 1, act)))
    made, paths, _ = converted(model)
    assert not paths
    assert made[1].conv1.weight.shape == (4, 4, 3, 3)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert gap(model(x), made(x)) < 1e-9


def bottleneck(middle: nn.Module) -> nn.Module:
    return nn.Sequential(conv_bn(4, 3, 1), nn.ReLU(), middle, nn.ReLU(), conv_bn(3, 4, 1))


@pytest.mark.parametrize(
    "middle", [conv_bn(3, 3), conv_bn(3, 3, groups=3), conv_bn(3, 3, dilation=2, padding=2)], ids=["dense", "dw", "d2"]
)
def test_bottlenecks(middle: nn.Module) -> None:
    model = randomised(nn.Sequential(stem(), Residual(bottleneck(middle))))
    made, paths, _ = converted(model)
    assert paths == ["1"]
    assert convs(made) == 4
    x = torch.randn(2, 3, 7, 8, dtype=torch.float64)
    assert gap(model(x), made(x)) < 1e-9


def test_a_strided_bottleneck_with_a_strided_shortcut() -> None:
    body = nn.Sequential(conv_bn(4, 3, 1), nn.ReLU(), conv_bn(3, 3, stride=2), nn.ReLU(), conv_bn(3, 5, 1))
    model = randomised(nn.Sequential(stem(), Residual(body, conv_bn(4, 5, 1, stride=2))))
    made, paths, _ = converted(model)
    assert paths == ["1"]
    assert convs(made) == 4
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    assert gap(model(x), made(x)) < 1e-9


def two(last: nn.Module | None = None, **options: Any) -> nn.Sequential:
    tail = [] if last is None else [last]
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3, **{"padding": 1, **options}), *tail
    )


@pytest.mark.parametrize(
    ("front", "sure"),
    [
        (nn.ReLU(), True),
        (nn.ReLU6(), True),
        (nn.Sigmoid(), True),
        (nn.Sequential(nn.ReLU(), nn.AvgPool2d(2)), True),
        (nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Dropout()), True),
        (nn.Tanh(), False),
        (nn.SiLU(), False),
        (nn.Sequential(nn.ReLU(), nn.Upsample(scale_factor=2, mode="bicubic")), False),
        (nn.AvgPool2d(2), False),
    ],
)
def test_only_for_inputs_that_are_never_negative(front: nn.Module, sure: bool) -> None:
    model = randomised(nn.Sequential(nn.Conv2d(3, 4, 1), front, Residual(two())))
    made, paths, codes = converted(model)
    assert paths == (["2"] if sure else [])
    assert ("RK350" in codes) == (not sure)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert gap(model(x), made(x)) < 1e-9


def test_the_model_input_may_be_negative() -> None:
    model = randomised(Residual(two()))
    assert converted(model)[1:] == ([], {"RK350"})


def test_a_hook_on_the_relu_in_front_may_change_the_sign() -> None:
    model = randomised(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), Residual(two())))
    model[1].register_forward_hook(lambda module, args, output: output - 1)
    made, paths, codes = converted(model)
    assert not paths
    assert "RK350" in codes
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert gap(model(x), made(x)) < 1e-9


@pytest.mark.parametrize(
    "block",
    [
        Residual(two(nn.ReLU())),
        Residual(two(), nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())),
        Residual(two(groups=2)),
        Residual(two(), nn.Conv2d(4, 4, 3, padding=1)),
        Residual(nn.Sequential(nn.Conv2d(4, 4, 2, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 2))),
        Residual(nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(1), nn.Conv2d(6, 4, 1))),
    ],
    ids=["relu before the sum", "relu on the shortcut", "groups", "wide shortcut", "even kernels", "pooling"],
)
def test_what_must_stay(block: nn.Module) -> None:
    model = randomised(nn.Sequential(stem(), block))
    made, paths, _ = converted(model)
    assert not paths
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert gap(model(x), made(x)) < 1e-9


def test_shared_and_observed_convolutions_stay() -> None:
    shared = Residual(two())
    model = randomised(nn.Sequential(stem(), shared, nn.ReLU(), shared, nn.ReLU()))
    assert not converted(model)[1]
    model = randomised(nn.Sequential(stem(), Residual(two())))
    model[1].body[0].register_forward_hook(lambda *a: None)
    assert not converted(model)[1]


def test_an_input_changed_in_place_stays() -> None:
    class Changed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = two()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.body(x)
            x.sub_(3)
            return y + x

    model = randomised(nn.Sequential(stem(), Changed()))
    made, paths, _ = converted(model)
    assert not paths
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert gap(model(x), made(x)) < 1e-9


def test_torchvision_resnet() -> None:
    models = pytest.importorskip("torchvision.models")
    model = randomised(models.resnet18(weights=None, num_classes=10))
    for parameter in model.parameters():
        parameter.mul_(0.05)
    made, paths, _ = converted(model)
    assert len(paths) == 8
    assert convs(made) == 17
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    assert gap(model(x), made(x)) < 1e-9
