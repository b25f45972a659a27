"""Forwards that merge in another order: what merges is added or scaled first, and only then does the order change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reparamkit
from reparamkit.testing import randomize
from tests.helpers import IMAGES, Fn, conv_bn, convert, convert_as_is, counts, inputs, merged_rules


def _model(run: Any) -> Fn:
    """Convolutions `a`, `c`, a norm `n`, and `b`, which is no operator of the input alone."""
    (a, n), c = conv_bn(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
    return Fn(run, a=a, n=n, c=c, b=nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()))


def _in_place(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    y += m.b(x)
    y += m.c(x)
    y -= m.n(x)
    return y


def _method(m: Any, x: Tensor) -> Tensor:
    return m.a(x).add_(m.b(x)).add(m.c(x)).sub(m.n(x))  # type: ignore[no-any-return]


def _twice(m: Any, x: Tensor, b: Tensor) -> Tensor:
    return m.a(x) + b + m.c(x) + b + m.n(x)  # type: ignore[no-any-return]


MERGED: dict[str, Any] = {
    "far apart": lambda m, x: m.a(x) + m.b(x) + m.c(x) + m.n(x),
    "scaled norm last": lambda m, x: m.c(x) + m.b(x) + m.a(x) + 0.5 * m.n(x),
    "to the right": lambda m, x: m.a(x) + (m.b(x) + (m.c(x) + m.n(x))),
    "subtracted": lambda m, x: m.b(x) - m.a(x) - m.c(x) - m.n(x),
    "subtracted from": lambda m, x: m.b(x) - (m.a(x) + m.b(x).sigmoid() - (m.c(x) - m.n(x))),
    "list": lambda m, x: sum([m.a(x), m.b(x), m.c(x), m.n(x)]),
    "the input itself": lambda m, x: m.a(x) + m.b(x) + m.c(x) + m.n(x) + x,
    "one that is added twice": lambda m, x: _twice(m, x, m.b(x)),
    "in place": _in_place,
    "methods": _method,
}


@pytest.mark.parametrize("run", MERGED.values(), ids=MERGED.keys())
def test_branches_that_stand_apart_are_one(run: Any) -> None:
    converted, _ = convert(_model(run))
    assert counts(converted) == (2, 0)
    assert reparamkit.apply(converted, return_report=True)[1].merged == ()


def test_two_sources_are_two_groups() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = x.relu()
        return m.a(x) + m.c(y) + m.b(x) + m.n(x) + m.d(y)  # type: ignore[no-any-return]

    model = _model(run)
    model.d = nn.Conv2d(4, 4, 1)
    assert counts(convert(model)[0]) == (3, 0)


class Inner(nn.Module):
    """A block in a block: its own forward is written anew."""

    def __init__(self) -> None:
        super().__init__()
        self.f = nn.ModuleList(nn.Conv2d(4, 4, k, padding=k // 2) for k in (1, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.f[0](x) + x.relu() + self.f[1](x)  # type: ignore[no-any-return]


def test_blocks_that_are_alike() -> None:
    converted, report = convert(nn.Sequential(Inner(), nn.ReLU(), Inner()))
    assert counts(converted) == (2, 0)
    assert [m.kind for m in report.merged] == ["rewrite", "rewrite"]


def _read_between(m: Any, x: Tensor) -> Tensor:
    y = m.a(x) + m.b(x)
    return torch.cat([y, y + m.c(x)], 1)


def _changed_input(m: Any, x: Tensor) -> Tensor:
    x = x.relu()
    z = x
    z += m.b(x)
    z += x
    return z + m.a(x)  # type: ignore[no-any-return]


def _read_twice(m: Any, x: Tensor) -> Tensor:
    a = m.a(x)
    return (a + m.b(x) + m.c(x)) * a  # type: ignore[no-any-return]


STAYS: dict[str, Any] = {
    "the sum so far is read": _read_between,
    "a branch is read again": _read_twice,
    "the source is changed in between": _changed_input,
    "no two of one source": lambda m, x: m.a(x) + m.b(x) + m.c(x.relu()),
}


@pytest.mark.parametrize("run", STAYS.values(), ids=STAYS.keys())
def test_what_does_not_merge_stays_in_order(run: Any) -> None:
    converted, report = convert(_model(run))
    assert not [merge for merge in report.merged if merge.kind == "rewrite"]
    assert type(converted) is Fn


def test_what_would_be_dearer_stays_in_order() -> None:
    """A depthwise branch is not made dense to take a pointwise one in, nor is the sum's order changed for it."""
    wide, a = nn.Conv2d(4, 4, 7, padding=3, groups=4), nn.Conv2d(4, 4, 1)
    model = Fn(lambda m, x: m.wide(x) + x.relu() + m.a(x), wide=wide, a=a)
    converted, report = convert(model)
    assert report.merged == ()
    assert counts(converted) == (2, 0)
    assert counts(convert(model, policy="always")[0]) == (1, 0)


class Affine(nn.Module):
    """A learned scale and shift, as behind the activations of HGNetV2."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x + self.bias


class Gain(nn.Module):
    """A scale alone."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def _activated(act: Any, affine: nn.Module, positive: bool = True) -> nn.Module:
    """Convolution, batch norm, activation and affine in one forward, the result beside the input."""
    conv, norm = conv_bn(4, 4, 3, padding=1)
    model = Fn(lambda m, x: m.affine(m.act(m.norm(m.conv(x)))) + x, conv=conv, norm=norm, act=act, affine=affine)
    randomize(model).double()
    scale = next(affine.parameters())
    scale.data = scale.data.abs() if positive else -scale.data.abs()
    return model


def _muls(model: nn.Module, x: Tensor) -> int:
    """Products with a constant that a call runs."""
    with torch.no_grad(), torch.profiler.profile() as profile:
        model(x)
    return sum(event.count for event in profile.key_averages() if event.key == "aten::mul")


HOMOGENEOUS: dict[str, Any] = {
    "relu": nn.ReLU,
    "relu in place": lambda: nn.ReLU(inplace=True),
    "leaky relu": lambda: nn.LeakyReLU(0.2),
    "prelu": lambda: nn.PReLU(4),
    "function": lambda: F.relu,
    "method": lambda: lambda x: x.relu_(),
}


@pytest.mark.parametrize("affine", [lambda: Affine(1), lambda: Affine(1, 4, 1, 1), Gain], ids=["one", "each", "gain"])
@pytest.mark.parametrize("act", HOMOGENEOUS.values(), ids=HOMOGENEOUS.keys())
def test_a_positive_scale_goes_in_front_of_the_activation(act: Any, affine: Any) -> None:
    model = _activated(act(), affine())
    converted, report = convert_as_is(model)
    x = inputs(IMAGES[0])
    assert counts(converted) == (1, 0)
    assert "core/homogeneous" in merged_rules(report)
    assert (_muls(model, x), _muls(converted, x)) == (1, 0)
    assert reparamkit.apply(converted, return_report=True)[1].merged == ()


@pytest.mark.parametrize("act", [nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.Sigmoid])
def test_other_activations_keep_their_scale(act: Any) -> None:
    converted, report = convert_as_is(_activated(act(), Affine(1)))
    assert "core/homogeneous" not in merged_rules(report)
    assert _muls(converted, inputs(IMAGES[0])) == 1


@pytest.mark.parametrize("act", [nn.GELU(), nn.ReLU6(), nn.SiLU(), nn.Hardswish(), nn.Softplus(), nn.ELU()], ids=str)
def test_a_rule_that_is_wrong_about_an_activation_is_found_out(act: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The activation is part of the proof: the convolution with its scale alone would be right."""
    from reparamkit.rules import homogeneous

    model = _activated(act, Affine(1, 4, 1, 1))
    monkeypatch.setattr(homogeneous, "_MODULES", (*homogeneous._MODULES, type(act)))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(reparamkit.VerificationError, match=r"RK901.*core/homogeneous"):
        reparamkit.apply(model, inplace=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("affine", [lambda: Affine(1), Gain], ids=["one", "gain"])
def test_a_rule_that_is_wrong_about_the_sign_is_found_out(affine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from reparamkit.rules import homogeneous

    model = _activated(nn.ReLU(), affine(), positive=False)

    def any_sign(value: Any) -> bool:
        scale = value.term.op if value.term is not None and value.module is None else None
        moved = scale is not None and "mul" in str(value.node.target) and not value.parts
        return moved and value.source.term is None and homogeneous.is_homogeneous(value.source)

    monkeypatch.setattr("reparamkit.decide.scales.may_move", any_sign)
    with pytest.raises(reparamkit.VerificationError, match=r"RK901.*core/homogeneous"):
        reparamkit.apply(model)


def test_a_scale_that_is_not_positive_stays() -> None:
    _, report = convert_as_is(_activated(nn.ReLU(), Affine(1), positive=False))
    assert "core/homogeneous" not in merged_rules(report)


def test_a_scale_of_an_activation_that_is_read_twice_stays() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.conv(x).relu()
        return m.gain(y) + y.mean()  # type: ignore[no-any-return]

    _, report = convert(Fn(run, conv=nn.Conv2d(4, 4, 1), gain=Gain()))
    assert not report.merged


def test_a_scale_with_nothing_in_front_of_the_activation_stays() -> None:
    converted, report = convert(Fn(lambda m, x: m.gain(x.relu()) + x, gain=Gain()))
    assert not report.merged
    assert type(converted) is Fn


def test_a_recipe_without_the_rule_leaves_the_scale() -> None:
    recipe = {"version": 1, "name": "some", "blocks": [{"match": {"structure": "any"}, "rules": ["conv", "conv_bn"]}]}
    converted, report = convert_as_is(_activated(nn.ReLU(), Gain()), recipe=recipe)
    assert counts(converted) == (1, 0)
    assert "core/homogeneous" not in merged_rules(report)


class Activated(nn.Module):
    """A layer of its own with a scale behind its activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gain = nn.Conv2d(4, 4, 2), Gain()

    def forward(self, x: Tensor) -> Tensor:
        return self.gain(self.conv(x).relu())  # type: ignore[no-any-return]


def test_what_a_moved_scale_opens_the_way_for_is_made_as_well() -> None:
    """The padding in front reaches the convolution only once nothing but modules is between them."""
    model = Fn(lambda m, x: m.inner(F.pad(x, (1, 1, 1, 1))) + x.relu().mean(), inner=Activated())
    randomize(model).double()
    model.inner.gain.gamma.data.abs_()
    converted, report = convert_as_is(model)
    assert {"core/pad", "core/homogeneous"} <= merged_rules(report)
    assert _muls(converted, inputs(IMAGES[0])) == 0
    assert set(report.key_map) == set(model.state_dict())
    assert {key for new in report.key_map.values() for key in new} == set(converted.state_dict())
    assert reparamkit.apply(converted, return_report=True)[1].merged == ()
