"""Modules that are registered more than once, and called from one place all the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reparamkit
from tests.helpers import Fn, assert_same, convert, counts, gap, inputs

C = 4


def conv(size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(C, C, size, padding=size // 2)


class Rep(nn.Module):
    """Two branches: its forward has to change."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow, self.norm = conv(), conv(1), nn.BatchNorm2d(C)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.wide(x) + self.narrow(x)))


class Skip(nn.Module):
    """Holds layers that the network holds as well, as MONAI's DynUNet does."""

    def __init__(self, down: nn.Module, up: nn.Module) -> None:
        super().__init__()
        self.down, self.up = down, up

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x))  # type: ignore[no-any-return]


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Rep(), Rep()
        self.layers = nn.ModuleList([self.first, self.second])
        self.skip = Skip(self.first, self.second)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x)  # type: ignore[no-any-return]


class Temporal(nn.Module):
    """Layers as attributes, and a sequence of them that is called: the block of a temporal network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = conv(), nn.BatchNorm2d(C), conv(), nn.BatchNorm2d(C)
        self.net = nn.Sequential(self.conv1, self.bn1, nn.ReLU(), self.conv2, self.bn2, nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.net(x) + x)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.rep, self.head = conv(), nn.BatchNorm2d(C), Rep(), nn.Linear(C, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rep(self.bn(self.conv(x)).relu()).mean((2, 3)))  # type: ignore[no-any-return]


class Taken(nn.Module):
    """Keeps an encoder, and calls what it has taken out of it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.stem = nn.Sequential(self.encoder.conv, self.encoder.bn)
        self.stage = self.encoder.rep

    def forward(self, x: Tensor) -> list[Tensor]:
        y = self.stem(x).relu()
        return [y, self.stage(y)]


class OtherList(nn.Module):
    """The same list under two names, called under the second."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Rep(), Rep()])
        self.blocks = self.layers

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize(("kind", "convs"), [(Nested, 2), (Temporal, 2), (Taken, 3), (OtherList, 2)])
def test_module_with_several_names_is_merged_where_it_is_called(kind: Any, convs: int) -> None:
    model = kind()
    converted, _ = convert(model)
    assert counts(converted) == (convs, 0)
    again, report = reparamkit.apply(converted, return_report=True)
    assert not report.merged
    assert_same(converted, again)


def test_names_still_mean_one_module() -> None:
    nested, temporal, taken = (convert(kind())[0] for kind in (Nested, Temporal, Taken))
    assert nested.first is nested.layers[0] is nested.skip.down
    assert temporal.conv1 is temporal.net[0]
    assert temporal.bn1 is temporal.net[1]
    assert taken.encoder.bn is taken.stem[1]


def test_what_is_kept_for_another_way_computes_the_same() -> None:
    model = Taken()
    converted, _ = convert(model)
    x = inputs((1, C, 6, 6))
    with torch.no_grad():
        assert gap(model.encoder(x), converted.encoder(x)) < 1e-12


def test_in_place_and_back() -> None:
    model = Temporal().eval().double()
    before = [id(m) for m in model.modules()]
    _, report = reparamkit.apply(model, inplace=True, keep_original=True, return_report=True)
    assert report.merged
    report.undo()
    assert [id(m) for m in model.modules()] == before
    assert model.bn1 is model.net[1]
    assert isinstance(model.bn1, nn.BatchNorm2d)


def used_twice(m: Any, x: Tensor) -> Tensor:
    return m.net(x) + m.bn(m.conv(x).relu())


def asked_elsewhere(m: Any, x: Tensor) -> Tensor:
    """Nobody can say what the loop calls."""
    for layer in list(m.children())[: int(x.mean().item()) + 2]:
        x = layer(x)
    return x


@pytest.mark.parametrize("run", [used_twice, asked_elsewhere])
def test_module_that_may_be_called_under_both_names_stays(run: Any) -> None:
    model = Fn(run, conv=conv(), bn=nn.BatchNorm2d(C))
    model.net = nn.Sequential(model.conv, model.bn)
    converted, report = convert(model)
    assert counts(converted) == (1, 1)
    assert "RK301" in {refusal.code for refusal in report.refused}


def test_rewritten_forward_would_leave_a_module_under_its_other_name() -> None:
    model = Fn(lambda m, x: torch.relu(m.wide(x) + m.narrow(x)), wide=conv(), narrow=conv(1))
    model.kept = nn.ModuleDict({"narrow": model.narrow})  # type: ignore[dict-item]
    converted, report = convert(model)
    assert counts(converted) == (2, 0)
    assert "stay under another" in str(report)


@pytest.mark.parametrize("name", ["first", "skip.down", "layers.0"])
def test_recipe_finds_a_module_under_any_of_its_names(name: str) -> None:
    model = Nested()
    recipe = {"version": 1, "name": "mine", "blocks": [{"match": {"name": name}, "expect": {"convs": 1}}]}
    converted, _ = convert(model, recipe=recipe)
    assert counts(converted) == (3, 1)


def test_expand_gives_a_layer_branches_once() -> None:
    block = nn.Sequential(conv())
    model = nn.ModuleDict({"kept": block, "used": nn.Sequential(block, nn.ReLU())})
    expanded = reparamkit.expand(model.eval().double(), "acnet")
    assert expanded["kept"][0] is expanded["used"][0][0]
    x = inputs((1, C, 6, 6))
    with torch.no_grad():
        assert gap(model["used"](x), expanded["used"](x)) < 1e-12


def test_expand_and_back_under_two_names() -> None:
    model = Temporal().eval().double()
    expanded = reparamkit.expand(model, "acnet")
    assert expanded.conv1 is expanded.net[0]
    assert not isinstance(expanded.conv1, nn.Conv2d)
    back = reparamkit.apply(expanded)
    assert back.conv1 is back.net[0]
    assert counts(back) == (2, 0)
    assert_same(model, expanded)
    assert_same(model, back)
