"""Convolutions as fully-connected layers, alone and beside one, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import reparamkit_repmlp
import torch
from reparamkit_repmlp import FixedSizeConv
from torch import Tensor, nn

import reparamkit
from reparamkit.testing import randomize

ANYWHERE = {
    "version": 1,
    "name": "t",
    "blocks": [{"match": {"structure": "any"}, "rules": ["core/*", "repmlp/conv_to_fc"], "optional": True}],
}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("REPARAMKIT_DISABLE_PLUGINS", "1")
    with torch.no_grad():
        yield


def randomised(model: nn.Module, seed: int = 0) -> Any:
    return randomize(model, seed).double()


def converted(model: nn.Module, x: Tensor | None, recipe: Any = ANYWHERE) -> tuple[Any, list[str], set[str]]:
    made, report = reparamkit.apply(model, recipe, plugins=[reparamkit_repmlp], example_inputs=x, return_report=True)
    return made, [m.path for m in report.merged if m.kind == "transform"], {r.code for r in report.refused}


def gap(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / a.abs().max()).item()


def count(model: nn.Module, *kinds: type[nn.Module]) -> int:
    return sum(isinstance(m, kinds) for m in model.modules())


class ConvBN(nn.Sequential):
    def __init__(self, channels: int, kernel: int) -> None:
        conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
        super().__init__(conv, nn.BatchNorm2d(channels))


class RepMLPBlock(nn.Module):
    """RepMLPNet's block without the partition: fc3 over all positions for each share, convolutions, a gate."""

    def __init__(self, channels: int, size: tuple[int, int], kernels: tuple[int, ...]) -> None:
        super().__init__()
        self.h, self.w = size
        self.channels = channels
        numbers = channels * self.h * self.w
        self.fc3 = nn.Conv2d(numbers, numbers, 1, bias=False, groups=channels)
        self.fc3_bn = nn.BatchNorm2d(numbers)
        self.convs = nn.ModuleList(ConvBN(channels, k) for k in kernels)
        self.gate = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self.channels * self.h * self.w, 1, 1)
        out = self.fc3_bn(self.fc3(flat)).reshape(-1, self.channels, self.h, self.w)
        convs: Any = 0
        for conv in self.convs:
            convs = convs + conv(x)
        out = out + convs
        y: Tensor = out * torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]
        return y


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kernels", [(3,), (1, 3), (1, 3, 5)])
def test_repmlp_block(kernels: tuple[int, ...], seed: int) -> None:
    model = randomised(nn.Sequential(nn.Conv2d(3, 4, 1), RepMLPBlock(4, (5, 6), kernels)), seed)
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    made, paths, _ = converted(model, x, "repmlp:repmlp")
    assert paths == ["1"]
    assert count(made, nn.Conv2d) == 2
    assert count(made, nn.BatchNorm2d) == 0
    assert made[1].fc3.weight.shape == (120, 30, 1, 1)
    assert type(made[1]).__name__ == "RepMLPBlock"
    assert gap(model(x), made(x)) < 1e-9
    assert gap(model(x[:1] * 3), made(x[:1] * 3)) < 1e-9
    assert not converted(made, x, "repmlp:repmlp")[1]


@pytest.mark.parametrize(
    ("conv", "size"),
    [
        (nn.Conv2d(4, 6, 3, padding=1), (4, 5, 6)),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (4, 5, 6)),
        (nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, bias=False), (4, 5, 6)),
        (nn.Conv2d(4, 3, (2, 3), padding=(0, 1), padding_mode="reflect"), (4, 5, 6)),
        (nn.Conv2d(4, 3, (3, 5), padding="same"), (4, 5, 6)),
        (nn.Conv1d(4, 3, 3), (4, 7)),
        (nn.Conv3d(4, 3, 2), (4, 3, 4, 3)),
    ],
)
def test_a_convolution_alone(conv: nn.Module, size: tuple[int, ...]) -> None:
    model = randomised(nn.Sequential(conv, nn.ReLU()))
    x = torch.randn(3, *size, dtype=torch.float64)
    made, paths, _ = converted(model, x)
    assert paths == [""]
    assert isinstance(made[0], FixedSizeConv)
    assert made[0].fc.kernel_size == (1, 1)
    assert gap(model(x), made(x)) < 1e-9
    assert torch.equal(made(x[:1]) > 0, model(x[:1]) > 0)


def test_another_size_is_an_error_that_says_so() -> None:
    model = randomised(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.ReLU()))
    made, _, _ = converted(model, torch.randn(1, 2, 5, 5, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"\(2, 5, 5\), got \(2, 6, 5\)"):
        made(torch.randn(1, 2, 6, 5, dtype=torch.float64))


def test_without_a_known_size_nothing_is_done() -> None:
    model = randomised(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.ReLU()))
    made, paths, codes = converted(model, None)
    assert not paths
    assert "RK204" in codes
    assert count(made, nn.Conv2d) == 1
    assert not count(made, FixedSizeConv)


def test_calls_of_two_sizes_are_no_known_size() -> None:
    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.conv(x).mean() + self.conv(x[..., ::2]).mean()
            return y

    _, paths, codes = converted(randomised(Pyramid()), torch.randn(1, 2, 6, 6, dtype=torch.float64))
    assert not paths
    assert "RK204" in codes


def test_a_matrix_that_is_too_large_is_refused() -> None:
    model = randomised(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.ReLU()))
    _, paths, codes = converted(model, torch.randn(1, 2, 64, 64, dtype=torch.float64))
    assert not paths
    assert "RK340" in codes


def test_a_hooked_convolution_stays() -> None:
    model = randomised(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.ReLU()))
    model[0].register_forward_hook(lambda *a: None)
    _, paths, codes = converted(model, torch.randn(1, 2, 5, 5, dtype=torch.float64))
    assert not paths
    assert "RK306" in codes


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_layer_with_fewer_groups_takes_the_convolution_too(groups: int) -> None:
    block = RepMLPBlock(4, (5, 6), (3,))
    block.fc3 = nn.Conv2d(120, 120, 1, groups=groups)
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    model = randomised(nn.Sequential(block))
    made, paths, _ = converted(model, x)
    assert paths == ["0"]
    assert count(made, nn.Conv2d) == 1
    assert made[0].fc3.weight.shape == (120, 120 // groups, 1, 1)
    assert gap(model(x), made(x)) < 1e-9


def test_a_layer_with_more_groups_cannot() -> None:
    block = RepMLPBlock(4, (5, 6), (3,))
    block.fc3 = nn.Conv2d(120, 120, 1, groups=8)
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    model = randomised(nn.Sequential(block))
    made, paths, codes = converted(model, x, "repmlp:repmlp")
    assert "0" not in paths
    assert "RK315" in codes
    assert made[0].fc3.weight.shape == (120, 15, 1, 1)
    assert gap(model(x), made(x)) < 1e-9


class Partitioned(nn.Module):
    """RepMLPNet's form: shares of channels, parts of an image, the norm behind the reshape, one number a share."""

    def __init__(self, kernels: tuple[int, ...] = (1, 3), shares: int = 2, norm: bool = True) -> None:
        super().__init__()
        self.c, self.s, self.h, self.w = 8, shares, 4, 4
        n = self.s * self.h * self.w
        self.fc3 = nn.Conv2d(n, n, 1, groups=self.s, bias=False)
        self.fc3_bn = nn.BatchNorm2d(self.s, track_running_stats=norm)
        self.kernels = nn.ModuleList(ConvBN(self.s, k) for k in kernels)

    def forward(self, x: Tensor) -> Tensor:
        n, _, height, width = x.size()
        rows, columns = height // self.h, width // self.w
        parts = x.reshape(-1, self.c, rows, self.h, columns, self.w).permute(0, 2, 4, 1, 3, 5)
        full = self.fc3(parts.reshape(-1, self.s * self.h * self.w, 1, 1))
        full = self.fc3_bn(full.reshape(-1, self.s, self.h, self.w))
        full = full.reshape(-1, rows, columns, self.s, self.h, self.w)
        local = parts.reshape(-1, self.s, self.h, self.w)
        kernels = sum(kernel(local) for kernel in self.kernels)
        full += kernels.reshape(-1, rows, columns, self.s, self.h, self.w)
        full = full.reshape(-1, rows, columns, self.c, self.h, self.w)
        y: Tensor = full.permute(0, 3, 1, 4, 2, 5).reshape(n, -1, height, width)
        return y


PARTITIONED = {**ANYWHERE, "blocks": [{"match": {"class": "Partitioned"}, "rules": ["core/*", "repmlp/conv_to_fc"]}]}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kernels", [(3,), (1, 3)])
def test_norm_behind_the_reshape_goes_into_the_rows(kernels: tuple[int, ...], seed: int) -> None:
    model = randomised(nn.Sequential(Partitioned(kernels), nn.ReLU()), seed)
    x = torch.randn(2, 8, 8, 4, dtype=torch.float64)
    made, paths, _ = converted(model, x, PARTITIONED)
    assert paths == ["0"]
    assert count(made, nn.Conv2d) == 1
    assert count(made, nn.BatchNorm2d) == 0
    assert gap(model(x), made(x)) < 1e-9
    other = torch.randn(1, 8, 4, 12, dtype=torch.float64)  # the parts have one size, the image may have any
    assert gap(model(other), made(other)) < 1e-9


def test_a_norm_without_statistics_stays() -> None:
    x = torch.randn(2, 8, 8, 4, dtype=torch.float64)
    model = randomised(nn.Sequential(Partitioned((3,), norm=False), nn.ReLU()))
    made, paths, codes = converted(model, x, PARTITIONED)
    assert "0" not in paths
    assert "RK201" in codes
    assert count(made, nn.BatchNorm2d) == 1
    assert gap(model(x), made(x)) < 1e-9


def test_a_linear_layer_takes_the_convolution() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.conv = nn.Linear(60, 60), nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.fc(x.flatten(1)).view(-1, 3, 4, 5) + self.conv(x)
            return y

    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    model = randomised(Flat())
    made, paths, _ = converted(model, x)
    assert paths == [""]
    assert count(made, nn.Conv2d) == 0
    assert count(made, nn.Linear) == 1
    assert gap(model(x), made(x)) < 1e-9


def test_a_layer_whose_output_is_read_elsewhere_keeps_its_numbers() -> None:
    class Read(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.conv = nn.Linear(60, 60), nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            full = self.fc(x.flatten(1))
            y: Tensor = (full.view(-1, 3, 4, 5) + self.conv(x)) * full.mean()
            return y

    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    model = randomised(Read())
    made, _, _ = converted(model, x)
    assert torch.equal(made.fc.weight, model.fc.weight)
    assert gap(model(x), made(x)) < 1e-9


def test_a_layer_of_other_numbers_is_not_added() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.conv = nn.Linear(60, 60), nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            turned = x.permute(0, 2, 3, 1)
            y: Tensor = self.fc(turned.flatten(1)).view(-1, 3, 4, 5) + self.conv(x)
            return y

    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    model = randomised(Other())
    made, _, _ = converted(model, x)
    assert torch.equal(made.fc.weight, model.fc.weight)
    assert gap(model(x), made(x)) < 1e-9


def test_it_is_opt_in() -> None:
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    _, paths, _ = converted(randomised(nn.Sequential(RepMLPBlock(4, (5, 6), (3,)))), x, "auto")
    assert not paths
