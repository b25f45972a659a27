"""Forwards that cannot be traced and take the modules inside their children into their own hands: those must stay."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers import conv_bn, convert, counts


def hidden(x: Tensor) -> Tensor:
    """`x`, in a way that no tracer follows."""
    assert np.isfinite(x.detach().numpy()).all()
    return x


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.act = F.relu

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))  # type: ignore[no-any-return]

    def features(self, x: Tensor) -> Tensor:
        return self.conv(x)  # type: ignore[no-any-return]

    @property
    def first(self) -> nn.Module:
        return self.conv


class Net(nn.Module):
    """A sequence, a block and lists of blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.seq = nn.Sequential(*conv_bn(4, 4, 3, padding=1), nn.ReLU())
        self.block = Block()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.named = nn.ModuleDict({"a": Block(), "b": Block()})

    def whole(self, module: nn.Module, x: Tensor) -> Any:
        return module(x)

    def piecewise(self, module: nn.Module, x: Tensor) -> Tensor:
        for name, layer in module.named_children():
            x = torch.tanh(layer(x)) if name in ("0", "conv") else layer(x)
        return x


def outside(module: Any, x: Tensor) -> Tensor:
    return module.norm(torch.tanh(module.conv(x)))  # type: ignore[no-any-return]


class Sliced(Net):
    def forward(self, x: Tensor) -> Any:
        return self.seq[1:](torch.tanh(self.seq[:1](hidden(x))))


class Enumerated(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = hidden(x)
        for index, layer in enumerate(self.seq):
            x = layer(x) if index else torch.tanh(layer(x))
        return x


class Unpacked(Net):
    def forward(self, x: Tensor) -> Any:
        conv, norm, act = self.seq
        return act(norm(torch.tanh(conv(hidden(x)))))


class Listed(Net):
    def forward(self, x: Tensor) -> Any:
        layers = list(self.seq.children())
        return layers[1](torch.tanh(layers[0](hidden(x))))


class GivenToAMethod(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.piecewise(self.block, hidden(x))


class GivenToAFunction(Net):
    def forward(self, x: Tensor) -> Tensor:
        return outside(self.block, hidden(x))


class ByName(Net):
    def forward(self, x: Tensor) -> Any:
        x = hidden(x)
        return self.seq(x) + getattr(self.seq, "0")(x)


class BySomeName(Net):
    def forward(self, x: Tensor) -> Any:
        x = hidden(x)
        for index in range(2):
            x = torch.tanh(getattr(self.seq, f"{index}")(x))
        return x


class OtherMethod(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = hidden(x)
        for block in self.blocks:
            x = block(x) + block.features(x)  # type: ignore[operator]
        return x


class Property(Net):
    def forward(self, x: Tensor) -> Any:
        x = hidden(x)
        return self.block(x) + self.block.first(x)  # type: ignore[operator]


class Reads(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = hidden(x)
        for name in ("a", "b"):
            block: Any = self.named[name]
            x = block(x) * block.conv.weight.mean()
        return x


class Reduced(Net):
    def forward(self, x: Tensor) -> Tensor:
        return functools.reduce(lambda y, layer: torch.tanh(layer(y)), self.seq, hidden(x))


class Comprehended(Net):
    def forward(self, x: Tensor) -> Any:
        x = hidden(x)
        convs = [layer for block in self.blocks for layer in block.children() if isinstance(layer, nn.Conv2d)]
        return sum(conv(x) for conv in convs) + self.blocks[0](x)


class Closure(Net):
    def forward(self, x: Tensor) -> Any:
        def run(module: Any, y: Tensor) -> Any:
            return module.norm(torch.tanh(module.conv(y)))

        return run(self.block, hidden(x))


class Walking(Net):
    def forward(self, x: Tensor) -> Any:
        def walk(module: nn.Module, y: Tensor) -> Any:
            layers = list(module.children())
            if not layers:
                return torch.tanh(module(y))
            for layer in layers:
                y = walk(layer, y)
            return y

        return walk(self.seq, hidden(x))


class Inherited(Enumerated):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


PAST = [
    Sliced,
    Enumerated,
    Unpacked,
    Listed,
    GivenToAMethod,
    GivenToAFunction,
    ByName,
    BySomeName,
    OtherMethod,
    Property,
    Reads,
    Reduced,
    Comprehended,
    Closure,
    Walking,
    Inherited,
]


@pytest.mark.parametrize("make", PAST)
def test_modules_that_are_called_past_their_parent_stay(make: Callable[[], Net]) -> None:
    model = make()
    assert counts(convert(model)[0])[1] >= 1


class Plain(Net):
    """Only calls: every block is taken as the whole it is."""

    def forward(self, x: Tensor) -> Any:
        x = self.seq(hidden(x))
        x = self.whole(self.block, x)
        for block in reversed(self.blocks):
            x = block(x)
        for name, block in self.named.items():
            x = block(x) if name else x
        assert self.block.conv.weight.dtype == x.dtype
        return x if self.block is None else F.relu(x)


class Listing(nn.Module):
    """Walks its layers, which are blocks (as ultralytics does)."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(Block(), nn.Sequential(*conv_bn(4, 4, 1)), Block())

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for layer in self.model:
            x = layer(hidden(x))
            kept.append(x)
        return kept[-1]


@pytest.mark.parametrize("make", [Plain, Listing])
def test_what_is_only_called_is_converted(make: Callable[[], nn.Module]) -> None:
    assert counts(convert(make())[0])[1] == 0
