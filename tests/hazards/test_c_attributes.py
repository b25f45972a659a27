"""Hazards of code that reads modules from outside."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.hazards.models import Block, C, bn, same, seq
from tests.hazards.row import hazard
from tests.helpers import (
    Fn,
    convert,
    counts,
    places,
)


@hazard("C22", "code outside the forward reads the module", "names, attributes and methods are still there")
def test_c22_attributes_read_from_outside_are_still_there() -> None:
    model = Fn(lambda m, x: m.bn(m.conv(x)), conv=same(), bn=bn())
    converted, _ = convert(model)
    assert converted.conv.stride == (1, 1)
    assert converted.bn.num_features == C


class ReadsWeight(nn.Module):
    """A parent whose forward also reads a parameter inside its child."""

    def __init__(self, child: nn.Module, path: str) -> None:
        super().__init__()
        self.child, self.path = child, path

    def forward(self, x: Tensor) -> Tensor:
        return self.child(x) * self.child.get_parameter(self.path).mean()


@hazard("C23", "another forward reads a parameter of the layer", "refused: it keeps its numbers", "RK301")
def test_c23_parameters_another_forward_reads_are_kept() -> None:
    model = seq(ReadsWeight(Block(), "dense.0.weight"), nn.ReLU())
    converted, report = convert(model)
    assert places(report, "RK301") == ["0.child.dense.0"]
    assert torch.equal(converted[0].child.dense[0].weight, model[0].child.dense[0].weight)


@pytest.mark.parametrize(
    ("child", "path", "convs"), [(lambda: seq(same(), bn()), "0.weight", 1), (Block, "dense.0.weight", 2)]
)
def test_c23_where_all_that_reads_the_parameter_merges_nothing_keeps_it(child: Any, path: str, convs: int) -> None:
    converted, report = convert(seq(ReadsWeight(child(), path), same(1) if convs == 2 else nn.ReLU()))
    assert counts(converted) == (convs, 0)
    assert not report.refused


@hazard("C24", "an instance has a forward of its own", "it counts, not the one of the class", "RK604")
def test_c24_a_forward_on_the_instance() -> None:
    model = seq(Block(), seq(same(), bn()), same())
    model[0].forward = types.MethodType(lambda self, x: self.dense(x) * 2, model[0])
    model[1][1].forward = torch.neg
    model[2].forward = lambda x: x + 1
    converted, report = convert(model)
    assert counts(converted)[1] >= 2
    assert set(places(report, "RK604")) == {"1.1", "2"}


class Doubled(nn.Module):
    """A class whose call does more than its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = same(), same(1)

    def __call__(self, x: Tensor) -> Any:
        return 2 * super().__call__(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)


def test_c24_a_call_of_its_own() -> None:
    convert(Doubled())
    convert(Fn(lambda m, x: m.bn(m.f(x)) + x, f=Doubled(), bn=bn()))


@hazard("C25", "branches in ModuleList, ModuleDict, ParameterList", "merged")
def test_c25_branches_in_containers() -> None:
    class Containers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.listed = nn.ModuleList([same(), same(1)])
            self.named = nn.ModuleDict({"a": seq(same(), bn()), "b": bn()})
            self.scales = nn.ParameterList([nn.Parameter(torch.ones(C, 1, 1)) for _ in range(2)])

        def forward(self, x: Tensor) -> Tensor:
            y = sum(s * f(x) for s, f in zip(self.scales, self.listed, strict=True))
            return self.listed[0](x).relu() * 0 + y + sum(f(x) for f in self.named.values())

    convert(Containers())
    plain = Fn(lambda m, x: sum(f(x) for f in m.d.values()), d=nn.ModuleDict({"a": same(), "b": bn()}))
    assert counts(convert(plain)[0]) == (1, 0)


@hazard("C26", "unused parameters, buffers that are not stored", "they stay")
def test_c26_unused_parameters_and_buffers_stay() -> None:
    block = Block()
    block.register_buffer("mask", torch.ones(3), persistent=False)
    block.unused = nn.Parameter(torch.ones(2))
    block.spare = same()
    converted, _ = convert(seq(block))
    keys = set(converted.state_dict())
    assert keys == {"0.unused", "0.spare.weight", "0.spare.bias", "0.reparam.weight", "0.reparam.bias"}
    assert converted[0].mask.shape == (3,)


@hazard("C27", "the name of the new module is taken", "another one is chosen")
def test_c27_a_name_that_is_taken() -> None:
    block = Block()
    block.reparam = nn.Parameter(torch.ones(3))
    block.reparam_1 = "mine"
    converted, _ = convert(block)
    assert counts(converted) == (1, 0)
    assert converted.reparam.shape == (3,)
    assert converted.reparam_1 == "mine"
