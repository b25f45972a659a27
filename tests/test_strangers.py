"""Models as strangers write them: what is around a convolution and its batch norm does not keep them apart."""

from __future__ import annotations

import collections
import dataclasses
import functools
import operator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reparamkit
from reparamkit.testing import randomize
from tests.helpers import Fn, convert, convert_as_is, counts, inputs

C = 4
Both = collections.namedtuple("Both", "one two")


@dataclasses.dataclass
class Output:
    logits: Tensor
    features: list[Tensor]


def pair(size: int = 3, into: int = C) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(C, into, size, padding=size // 2), nn.BatchNorm2d(into))


def layers() -> dict[str, nn.Module]:
    return {"conv": nn.Conv2d(C, C, 3), "norm": nn.BatchNorm2d(C), "act": nn.ReLU()}


class Configured(nn.Module):
    """Nodes from a table of targets and arguments, found by name."""

    table = ((nn.Conv2d, (C, C, 3)), (nn.BatchNorm2d, (C,)), (nn.SiLU, ()))

    def __init__(self) -> None:
        super().__init__()
        for index, (target, args) in enumerate(self.table):
            setattr(self, f"node{index}", target(*args))

    def forward(self, x: Tensor) -> Tensor:
        for index in range(len(self.table)):
            x = getattr(self, f"node{index}")(x)
        return x


class FromTable(nn.Module):
    """Layers that say where their input comes from, as YOLO's."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(pair(), nn.SiLU(), pair(), nn.SiLU())
        for index, layer in enumerate(self.model):
            layer.f, layer.i = (-1 if index != 2 else [0, 1]), index  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        saved: list[Tensor] = []
        for layer in self.model:
            x = layer(x if layer.f == -1 else sum(saved[i] for i in layer.f))  # type: ignore[union-attr]
            saved.append(x)
        return x


class Own(nn.Sequential):
    """A sequence with a forward of its own that collects what is in between."""

    def forward(self, x: Tensor) -> Any:
        found = []
        for module in self:
            x = module(x)
            found.append(x)
        return {"last": x, "first": found[-1]}


class Stateful(nn.Module):
    """Counts its calls and keeps a table by the size of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.pair, self.calls = pair(), 0
        self.table: dict[Any, Tensor] = {}

    def forward(self, x: Tensor, **extra: Any) -> Tensor:
        self.calls += 1
        key = tuple(x.shape)
        if key not in self.table:
            self.table[key] = torch.ones(1, dtype=x.dtype)
        return F.relu(self.pair(x)) * self.table[key]


def functional(m: Any, x: Tensor) -> Tensor:
    n = m.norm
    x = F.batch_norm(m.conv(x), n.running_mean, n.running_var, n.weight, n.bias, m.training, 0.1, n.eps)
    return m.act(x)  # type: ignore[no-any-return]


def by_hand(m: Any, x: Tensor) -> Tensor:
    n = m.norm
    x = (m.conv(x) - n.running_mean[None, :, None, None]) / torch.sqrt(n.running_var[None, :, None, None] + n.eps)
    return m.act(x * n.weight.view(1, -1, 1, 1) + n.bias.view(1, -1, 1, 1))  # type: ignore[no-any-return]


def unpacked(m: Any, x: Tensor) -> Tensor:
    assert x.ndim == 4, "images"
    n, c, h, w = x.shape
    return F.relu(m.pair(x)).view(n, c, h, w)


MODELS: dict[str, Any] = {
    "dictionary of outputs": lambda: Fn(lambda m, x: {"low": x, "high": F.relu(m.pair(x))}, pair=pair()),
    "data class in between": lambda: Fn(lambda m, x: Output(m.pair(x).relu(), [x]).logits, pair=pair()),
    "named tuple": lambda: Fn(lambda m, x: F.relu(sum(Both(m.a(x), m.b(x)))), a=pair(), b=pair(1)),
    "module dictionary": lambda: Fn(lambda m, x: m.d["act"](m.d["norm"](m.d["conv"](x))), d=nn.ModuleDict(layers())),
    "folded over": lambda: Fn(
        lambda m, x: functools.reduce(lambda h, f: f(h), m.d.values(), x), d=nn.ModuleDict(layers())
    ),
    "slices": lambda: Fn(lambda m, x: m.s[2:](m.s[:2](x)), s=nn.Sequential(*layers().values())),
    "generator": lambda: Fn(lambda m, x: F.relu(sum(f(x) for f in m.s)), s=nn.ModuleList([pair(1), pair(3)])),
    "stack and mean": lambda: Fn(
        lambda m, x: torch.stack([f(x) for f in m.s], 1).mean(1).relu(), s=nn.ModuleList([pair(1), pair(3)])
    ),
    "weighted": lambda: Fn(
        lambda m, x: F.relu(sum(map(operator.mul, torch.softmax(m.w, 0), (f(x) for f in m.s)))),
        s=nn.ModuleList([pair(1), pair(3)]), w=nn.Parameter(torch.ones(2)),
    ),
    "functional norm": lambda: Fn(functional, **layers()),
    "norm by hand": lambda: Fn(by_hand, **layers()),
    "configured": Configured,
    "from a table": FromTable,
    "own sequence": lambda: Own(*layers().values()),
    "stateful": Stateful,
    "shape unpacked": lambda: Fn(unpacked, pair=pair()),
    "called by forward": lambda: Fn(lambda m, x: F.relu(m.pair.forward(x)), pair=pair()),
    "called inside": lambda: Fn(lambda m, x: F.relu(m.pair[1](m.pair[0](x))), pair=pair()),
    "any size": lambda: Fn(lambda m, x: F.relu(m.a(x)) if x.shape[-1] > 5 else F.relu(m.a(x)) + x, a=pair()),
    "to the device of any weight": lambda: Fn(
        lambda m, x: F.relu(m.pair(x.to(next(m.parameters()).device))), pair=pair()
    ),
    "to the dtype of a weight": lambda: Fn(lambda m, x: F.relu(m.pair(x.to(m.pair[0].weight.dtype))), pair=pair()),
    "several outputs": lambda: Fn(
        lambda m, x: m.norm(m.child(x)["low"]) * torch.sigmoid(m.child2(x)[-1]),
        child=Fn(lambda m, x: {"low": m.conv(x), "high": F.relu(x)}, conv=nn.Conv2d(C, C, 3, padding=1)),
        child2=Fn(lambda m, x: [F.relu(x), m.a(x)], a=pair()), norm=nn.BatchNorm2d(C),
    ),
    "nobody reads": lambda: Fn(lambda m, x: (F.relu(m.a(x)), F.relu(m.b(x)))[0], a=pair(), b=pair()),
}  # fmt: skip


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS.keys())
def test_batch_norms_go(build: Any) -> None:
    converted, _ = convert(build())
    assert counts(converted)[1] == 0
    assert reparamkit.plan(converted).edits == []


def both(m: Any, x: Tensor) -> Tensor:
    return F.relu(m.conv(x) + m.other(x))


@pytest.mark.parametrize(
    "asked", [lambda m: m.conv.weight.dtype, lambda m: next(m.parameters()).dtype], ids=["by name", "any"]
)
def test_forward_that_follows_the_dtype_of_its_weights_is_not_written_anew(asked: Any) -> None:
    """Written down, the dtype would be the one the model had when it was converted."""
    model = Fn(lambda m, x: both(m, x.to(asked(m))), conv=nn.Conv2d(C, C, 3, padding=1))
    model.other = nn.Conv2d(C, C, 1)
    converted, report = convert(model)
    assert counts(converted) == (2, 0)
    assert "follows the dtype or device of its weights" in str(report)
    x = inputs((1, C, 5, 5), dtype=torch.float32)
    with torch.no_grad():
        assert converted.float()(x).dtype == torch.float32


def test_shape_that_others_ask_for_stays() -> None:
    """The wide kernel would stand where the root asks for the size of the narrow one."""
    model = Fn(
        lambda m, x: F.silu(m.s(x)) * m.s[0].weight.shape[-1], s=nn.Sequential(nn.Conv2d(C, C, 1), nn.Conv2d(C, C, 3))
    )
    converted, _ = convert(model)
    assert converted.s[0].weight.shape[-1] == 1


def test_numbers_that_others_use_stay() -> None:
    model = Fn(lambda m, x: F.silu(m.pair(x)) * m.pair[0].weight.mean(), pair=pair())
    converted, _ = convert_as_is(randomize(model).double())
    assert torch.equal(converted.pair[0].weight, model.pair[0].weight)


def without_autocast(m: Any, x: Tensor) -> Tensor:
    with torch.autocast(device_type=x.device.type, enabled=False):
        x = x.float() if x.dtype == torch.bfloat16 else x
        return F.relu(m.pair(x) + m.other(x))


def test_forward_that_switches_autocast_off_goes_on_doing_so() -> None:
    """Layers inside are exchanged; the sum of the branches would be a forward that has lost the context."""
    model = Fn(without_autocast, pair=pair(), other=nn.Conv2d(C, C, 1))
    converted, report = convert(model)
    assert counts(converted) == (2, 0)
    assert "autocast(enabled=False)" in str(report)
    x = inputs((1, C, 5, 5), dtype=torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert converted.float()(x).dtype == model.float()(x).dtype == torch.float32


def test_forward_that_asks_what_kind_of_device_it_is_on() -> None:
    """Both answers are looked at, not the one of the machine that converts."""
    model = Fn(
        lambda m, x: F.relu(m.b(F.relu(m.a(x)) if x.device.type == "cpu" else m.a(x))), a=pair(), b=nn.Conv2d(C, C, 1)
    )
    converted, _ = convert(model)
    assert counts(converted) == (2, 0)
    same = Fn(lambda m, x: F.relu(m.a(x)) if x.device.type != "cuda" else F.relu(x), a=pair())
    assert counts(convert(same)[0]) == (1, 0)


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = pair(), pair()

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.first(x), self.second(x), x]


@pytest.mark.parametrize("index", [slice(2), slice(None, None, -1), slice(-2, None)])
def test_child_whose_results_are_sliced(index: slice) -> None:
    """RF-DETR does so with its encoder's."""
    model = Fn(lambda m, x: torch.cat(m.several(x)[index], 1), several=Several())
    converted, _ = convert(model)
    assert counts(converted) == (2, 0)
