"""Modules that a module keeps in a list, under a second name, in a callable: what is called is what was merged."""

from __future__ import annotations

import functools
from collections import OrderedDict, defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reparamkit
from reparamkit.testing import randomize
from tests.helpers import assert_same, convert, counts, gap, inputs

C = 4


class Pair(nn.Module):
    """A convolution and a batch norm; what else it has, and how it runs, is the test's."""

    def __init__(self, keep: Any, run: Any) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(C, C, 3, padding=1), nn.BatchNorm2d(C)
        self.kept: Any = None
        keep(self)
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.run(self, x))


def both(m: Any, x: Tensor) -> Tensor:
    for module in m.kept:
        x = module(x)
    return x


def _keep(make: Any) -> Any:
    return lambda m: setattr(m, "kept", make(m))


MERGED: dict[str, tuple[Any, Any]] = {
    "list": (_keep(lambda m: [m.conv, m.norm]), both),
    "tuple": (_keep(lambda m: (m.conv, m.norm)), both),
    "dictionary": (_keep(lambda m: {"a": m.conv, "b": m.norm}), lambda m, x: m.kept["b"](m.kept["a"](x))),
    "nested": (_keep(lambda m: [[m.conv], {"b": (m.norm,)}]), lambda m, x: m.kept[1]["b"][0](m.kept[0][0](x))),
    "one of them": (_keep(lambda m: [m.norm]), lambda m, x: m.kept[0](m.conv(x))),
    "past registration": (lambda m: m.__dict__.update(kept=m.norm), lambda m, x: m.kept(m.conv(x))),
}


@pytest.mark.parametrize(("keep", "run"), MERGED.values(), ids=MERGED.keys())
@pytest.mark.parametrize("inplace", [False, True])
def test_held_modules_are_the_ones_that_were_merged(keep: Any, run: Any, inplace: bool) -> None:
    model = randomize(Pair(keep, run)).double()
    x = inputs((2, C, 5, 6))
    with torch.no_grad():
        wanted = model(x)
        converted = reparamkit.apply(model, inplace=inplace)
        assert gap(wanted, converted(x)) <= 1e-9
    assert counts(converted) == (1, 0)
    assert reparamkit.plan(converted).edits == []


def direct_and(kept: Any) -> Any:
    return lambda m, x: torch.relu(m.norm(m.conv(x))) + kept(m)(x)


READ_TWICE: dict[str, tuple[Any, Any]] = {
    "list": (_keep(lambda m: [m.conv]), direct_and(lambda m: m.kept[0])),
    "past registration": (lambda m: m.__dict__.update(kept=m.conv), direct_and(lambda m: m.kept)),
    "method": (_keep(lambda m: m.conv.forward), direct_and(lambda m: m.kept)),
    "partial": (_keep(lambda m: functools.partial(torch.nn.Module.__call__, m.conv)), direct_and(lambda m: m.kept)),
    "closure": (_keep(lambda m: (lambda conv: lambda x: conv(x) * 2)(m.conv)), direct_and(lambda m: m.kept)),
    "computed from": (_keep(lambda m: m.conv.forward), direct_and(lambda m: lambda x: x * m.kept.__self__.bias.mean())),
}


@pytest.mark.parametrize(("keep", "run"), READ_TWICE.values(), ids=READ_TWICE.keys())
def test_a_second_way_to_a_module_keeps_its_weights(keep: Any, run: Any) -> None:
    """In place, where a callable goes on meaning the very same module."""
    model = randomize(Pair(keep, run)).double()
    x = inputs((2, C, 5, 6))
    with torch.no_grad():
        wanted, weight = model(x), model.conv.weight.clone()
        reparamkit.apply(model, inplace=True)
        assert gap(wanted, model(x)) <= 1e-9
    # It stays as it is, or what it computes went with everything that calls it.
    assert "conv" not in model._modules or torch.equal(model.conv.weight, weight)


class Untraceable(nn.Module):
    """Reaches into a child through a list; its own forward looks at each image."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(C, C, 3, padding=1), nn.BatchNorm2d(C), nn.ReLU())
        self.deep = [self.block[0]]

    def forward(self, x: Tensor) -> Tensor:
        for image in x:
            assert image.isfinite().all()
        return self.block(x) + self.deep[0](x)  # type: ignore[no-any-return]


def test_a_forward_that_cannot_be_traced_reaches_into_a_child() -> None:
    converted, report = convert(Untraceable())
    assert counts(converted) == (1, 1)
    assert [r.code for r in report.untraceable] == ["RK604"]


def test_undo_puts_the_old_ones_back() -> None:
    keep, run = MERGED["nested"]
    model = randomize(Pair(keep, run)).double()
    before = list(model.modules()), model.kept[1]["b"][0]
    _, report = reparamkit.apply(model, inplace=True, keep_original=True, return_report=True)
    assert model.kept[1]["b"][0] is model.norm is not before[1]
    report.undo()
    assert (list(model.modules()), model.kept[1]["b"][0]) == before


def test_a_module_of_the_parent_in_the_list_of_a_child() -> None:
    class Child(nn.Module):
        def __init__(self, other: nn.Module) -> None:
            super().__init__()
            self.other = [other]

        def forward(self, x: Tensor) -> Tensor:
            return self.other[0](x)  # type: ignore[no-any-return]

    both_ways = Pair(
        lambda m: setattr(m, "child", Child(m.conv)), lambda m, x: torch.relu(m.norm(m.conv(x))) + m.child(x)
    )
    converted, _ = convert(both_ways)
    assert counts(converted)[1] == 1
    assert_same(both_ways, converted)


class HasOptional(nn.Module):
    """Reads the weight of a part that it was built without, in a forward that cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(C, C, 3), nn.BatchNorm2d(C), nn.ReLU())
        self.learnt = False

    def forward(self, x: Tensor) -> Tensor:
        for image in x:
            assert image.isfinite().all()
        return self.block(x) * self.query.weight if self.learnt else self.block(x)  # type: ignore[no-any-return, operator, union-attr]


def test_weights_of_what_is_not_there_are_not_read() -> None:
    assert counts(convert(HasOptional())[0]) == (1, 0)


class Store:
    """Keeps what it is told beside the modules, as timm's feature hooks do."""

    def __init__(self) -> None:
        self.outputs: dict[Any, dict[str, Tensor]] = defaultdict(OrderedDict)

    def take(self, device: torch.device) -> list[Tensor]:
        found = self.outputs[device]
        self.outputs[device] = OrderedDict()
        return list(found.values())


class WithStore(nn.Module):
    """Returns what a hook has left in an object that is no module."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.norm.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.store.outputs[output.device]["norm"] = output

    def forward(self, x: Tensor) -> list[Tensor]:
        self.norm(self.conv(x))
        return self.store.take(x.device)


def test_what_an_object_in_an_attribute_holds_is_left_as_it_was() -> None:
    model = randomize(WithStore()).double().eval()
    reparamkit.plan(model)
    assert not model.store.outputs
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    converted = reparamkit.apply(model)
    assert not model.store.outputs
    assert torch.equal(converted(x)[0], model(x)[0])
