"""A norm beside several layers goes into all of them or into none: behind a concatenation, before several readers,
across averages."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import reparamkit
from tests.helpers import Fn, assert_same, codes, convert, counts, merged_rules, randomize

C = 4
IMAGE, TOKENS = (2, 4, 8, 6), (2, 5, 4)
AFFINE = {
    "version": 1,
    "name": "affine",
    "blocks": [{"match": {"structure": "any"}, "rules": ["core/*", "norm_affine"]}],
}


def behind(parts: Any, width: int, **children: Any) -> nn.Module:
    """A batch norm behind a concatenation, an activation on each side."""
    return Fn(lambda m, x: m.bn(torch.cat(parts(m, x.relu()), 1)).relu(), bn=nn.BatchNorm2d(width), **children)


def layers(**more: Any) -> dict[str, Any]:
    return {
        "a": nn.Conv2d(C, 6, 3, padding=1, bias=False),
        "b": nn.Conv2d(C, 2, 1),
        "c": nn.Conv2d(C, 3, 5, padding=2),
        **more,
    }


MERGED: dict[str, Any] = {
    "two inputs": (lambda m, x: [m.a(x), m.b(x.sigmoid())], 8, 2),
    "of one input, too dear as one": (lambda m, x: [m.a(x), m.c(x)], 9, 2),
    "nested": (lambda m, x: [torch.cat([m.a(x), m.b(x.sigmoid())], 1), m.c(x.tanh())], 11, 3),
    "split before": (lambda m, x: [m.d(x[:, :2]), m.e(x[:, 2:])], 5, 2),
}
LEFT: dict[str, Any] = {
    "an input": (lambda m, x: [m.a(x), x], 10, "RK340"),
    "an activation": (lambda m, x: [m.a(x), m.b(x.sigmoid()).relu()], 8, "RK321"),
    "a part that is read twice": (lambda m, x: _twice(m.a(x), m.b(x.sigmoid())), 14, "RK321"),
    "one part twice": (lambda m, x: [m.a(x)] * 2, 12, "RK321"),
}


def _twice(a: Tensor, b: Tensor) -> list[Tensor]:
    return [a, b, a.relu()]


@pytest.mark.parametrize("what", MERGED)
def test_norm_behind_a_concatenation(what: str) -> None:
    parts, width, convs = MERGED[what]
    used = {"split before": {"d": nn.Conv2d(2, 3, 3), "e": nn.Conv2d(2, 2, 3)}}.get(what, layers())
    deploy, report = convert(behind(parts, width, **used), IMAGE, (1, 4, 5, 7))
    assert counts(deploy)[1] == 0
    assert len(report.merged) == convs
    assert "core/spread" in merged_rules(report)


@pytest.mark.parametrize("what", LEFT)
def test_norm_behind_a_concatenation_stays(what: str) -> None:
    """The must-refuse twins: one part cannot take its share."""
    parts, width, code = LEFT[what]
    deploy, report = convert(behind(parts, width, **layers()), IMAGE)
    assert counts(deploy)[1] == 1
    assert code in codes(report)
    assert "core/spread" not in merged_rules(report)


class Octave(nn.Module):
    """Two resolutions that are added, and the norm behind them (OctConv)."""

    def __init__(self, join: Any) -> None:
        super().__init__()
        self.high, self.low = nn.Conv2d(C, C, 3, padding=1, bias=False), nn.Conv2d(C, C, 3, padding=1)
        self.third, self.one = nn.Conv2d(C, C, 1), nn.Conv2d(C, 1, 1)
        self.bn, self.join = nn.BatchNorm2d(C), join

    def forward(self, x: Tensor) -> Any:
        return self.join(self, x, nn.functional.max_pool2d(x, 2))


def up(y: Tensor, x: Tensor) -> Tensor:
    return nn.functional.interpolate(y, size=x.shape[2:], mode="nearest")


ADDED: dict[str, Any] = {
    "two resolutions": lambda m, x, low: m.bn(m.high(x) + up(m.low(low), x)).relu(),
    "a fixed factor": lambda m, x, low: m.bn(up(m.low(low), x) + m.high(x)).relu(),
    "subtracted": lambda m, x, low: m.bn(m.high(x) - m.low(x.relu())).relu(),
    "of three": lambda m, x, low: m.bn(m.high(x) + m.low(x.relu()) + m.third(x.sigmoid())).relu(),
    "in place": lambda m, x, low: m.bn(_plus(m.high(x), m.low(x.relu()))).relu(),
}
NOT_ADDED: dict[str, Any] = {
    "an input": lambda m, x, low: m.bn(m.high(x.relu()) + x).relu(),
    "an activation": lambda m, x, low: m.bn(m.high(x) + m.low(x.relu()).relu()).relu(),
    "an addend read twice": lambda m, x, low: (lambda y: m.bn(y + m.low(x.relu())) * y)(m.high(x)),
    "the sum read twice": lambda m, x, low: (lambda y: m.bn(y).relu() + y)(m.high(x) + m.low(x.relu())),
    "one channel for all": lambda m, x, low: m.bn(m.high(x) + m.one(x.relu())).relu(),
    "one value twice": lambda m, x, low: (lambda y: m.bn(y.relu() + y.relu()))(m.high(x)),
    "a product": lambda m, x, low: m.bn(m.high(x) * m.low(x.relu())).relu(),
}


def _plus(a: Tensor, b: Tensor) -> Tensor:
    a += b
    return a


@pytest.mark.parametrize("what", ADDED)
def test_norm_behind_a_sum_of_two_sources(what: str) -> None:
    deploy, report = convert(Octave(ADDED[what]), IMAGE, (1, 4, 4, 10))
    assert counts(deploy)[1] == 0, report
    assert "core/spread" in merged_rules(report)


@pytest.mark.parametrize("what", NOT_ADDED)
def test_norm_behind_a_sum_stays(what: str) -> None:
    """The must-refuse twins: one addend cannot take its share."""
    deploy, report = convert(Octave(NOT_ADDED[what]), IMAGE)
    assert counts(deploy)[1] == 1
    assert "core/spread" not in merged_rules(report)


LAST: dict[str, Any] = {
    "concatenation": lambda m, x: m.bn(torch.cat([m.one(x), m.three(x.relu())], 1)),
    "sum": lambda m, x: m.bn(m.a(x) + m.b(x.relu())),
    "average": lambda m, x: m.bn(nn.functional.avg_pool2d(m.a(x), 2)),
}


@pytest.mark.parametrize("what", LAST)
def test_norm_that_nothing_is_behind(what: str) -> None:
    """What a model returns is read, by its caller."""
    one, three, a, b = (nn.Conv2d(C, into, 3, padding=1) for into in (1, 3, C, C))
    children = {"concatenation": {"one": one, "three": three}, "sum": {"a": a, "b": b}, "average": {"a": a}}[what]
    deploy, report = convert(Fn(LAST[what], bn=nn.BatchNorm2d(C), **children), IMAGE)
    assert counts(deploy) == (len(children), 0), report


def test_norm_whose_concatenation_is_read_elsewhere_stays() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = torch.cat([m.a(x), m.b(x.sigmoid())], 1)
        return m.bn(y).relu() + y

    deploy, report = convert(Fn(run, bn=nn.BatchNorm2d(8), **layers()), IMAGE)
    assert counts(deploy)[1] == 1
    assert codes(report) == {"RK321"}


def test_share_that_overflows_takes_the_others_back() -> None:
    """All or none holds for the numbers too: one of the merged kernels does not fit float16."""
    model = behind(lambda m, x: [m.a(x), m.b(x.sigmoid())], 8, **layers())
    randomize(model).half()
    with torch.no_grad():
        model.a.weight.fill_(6e4)
        model.bn.running_var[0] = 1e-4
    deploy, report = reparamkit.apply(model, return_report=True)
    assert counts(deploy)[1] == 1
    assert not report.merged
    assert codes(report) == {"RK501"}
    assert torch.equal(deploy.b.weight, model.b.weight)


def test_recipe_without_the_rule() -> None:
    parts, width, _ = MERGED["two inputs"]
    recipe = {"version": 1, "name": "without", "disable": ["spread"], "blocks": [{"match": {"structure": "any"}}]}
    deploy, report = convert(behind(parts, width, **layers()), IMAGE, recipe=recipe)
    assert counts(deploy)[1] == 1
    assert not report.merged


@pytest.mark.parametrize("bias", [False, True])
def test_norm_before_several_layers(bias: bool) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.bn(x.relu())
        return m.a(y).relu() + m.b(y).sigmoid() + m.c(y).tanh()

    convs = {name: nn.Conv2d(C, 5, 1, bias=bias) for name in "abc"}
    deploy, report = convert(Fn(run, bn=nn.BatchNorm2d(C), **convs), IMAGE)
    assert counts(deploy) == (3, 0)
    assert len(report.merged) == 3


def test_norm_before_several_layers_of_which_one_pads_stays() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.bn(x.relu())
        return m.a(y).relu() + m.b(y).sigmoid()

    model = Fn(run, bn=nn.BatchNorm2d(C), a=nn.Conv2d(C, 5, 1), b=nn.Conv2d(C, 5, 3, padding=1))
    deploy, report = convert(model, IMAGE)
    assert counts(deploy) == (2, 1)
    assert codes(report) == {"RK305", "RK316"}
    assert not report.merged


def test_norm_before_several_norms_is_no_place_for_any_of_them() -> None:
    """Where the policy has what is no less work, each norm takes its share, and none of them stands where it was."""

    def run(m: Any, x: Tensor) -> Tensor:
        y = m.bn(x.relu())
        return m.a(y).relu() + m.b(y).sigmoid()

    model = Fn(run, bn=nn.BatchNorm2d(C), a=nn.BatchNorm2d(C), b=nn.BatchNorm2d(C))
    _, report = convert(model, IMAGE, policy="always")
    assert not report.merged


def test_norm_before_a_sum_goes_into_it_once_it_is_a_layer() -> None:
    """And a second conversion finds nothing."""

    def run(m: Any, x: Tensor) -> Tensor:
        y = m.norm(x)
        return m.a(y).sigmoid() + y + m.b(y)  # type: ignore[no-any-return]

    model = Fn(run, norm=nn.BatchNorm2d(4), a=nn.Conv2d(4, 4, 1), b=nn.Conv2d(4, 4, 1, groups=2))
    converted, report = convert(model)
    assert counts(converted) == (2, 0)
    assert "core/spread" in merged_rules(report)
    assert set(report.key_map["norm.weight"]) == set(converted.state_dict())
    assert reparamkit.apply(converted, return_report=True)[1].merged == ()


def test_norm_that_is_also_returned_stays() -> None:
    def run(m: Any, x: Tensor) -> tuple[Tensor, ...]:
        y = m.bn(x.relu())
        return m.a(y), m.b(y), y

    model = Fn(run, bn=nn.BatchNorm2d(C), a=nn.Conv2d(C, 5, 1), b=nn.Conv2d(C, 5, 1))
    deploy, report = convert(model, IMAGE)
    assert counts(deploy) == (2, 1)
    assert "RK305" in codes(report)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_affine_of_a_layer_norm_goes_into_queries_keys_and_values(norm: Any) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.norm(x)
        return m.q(y).softmax(-1) * m.k(y).sigmoid() + m.v(y).relu()

    projections = {name: nn.Linear(C, 6, bias=name != "k") for name in "qkv"}
    model = Fn(run, norm=norm(C), **projections)
    assert not convert(model, TOKENS)[1].merged
    deploy, report = convert(model, TOKENS, recipe=AFFINE)
    assert deploy.norm.weight is None
    assert len(report.merged) == 3


ACROSS: dict[str, Any] = {
    "behind a pool": [nn.Conv2d(C, 6, 3, padding=1), nn.AvgPool2d(2), nn.BatchNorm2d(6), nn.ReLU()],
    "behind a pool that adds up": [nn.Conv2d(C, 6, 3), nn.AvgPool2d(3, 2), nn.BatchNorm2d(6), nn.ReLU()],
    "before a pool": [nn.ReLU(), nn.BatchNorm2d(C), nn.AvgPool2d(2), nn.Conv2d(C, 6, 3)],
    "before the global pool": [nn.ReLU(), nn.BatchNorm2d(C), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(C, 6)],
    "behind an upsampling": [nn.Conv2d(C, 6, 3), nn.Upsample(scale_factor=2), nn.BatchNorm2d(6), nn.ReLU()],
}
NOT_ACROSS: dict[str, Any] = {
    "a pool that counts its padding": [nn.Conv2d(C, 6, 3), nn.AvgPool2d(3, 1, 1), nn.BatchNorm2d(6), nn.ReLU()],
    "a pool that takes the largest": [nn.Conv2d(C, 6, 3), nn.MaxPool2d(2), nn.BatchNorm2d(6), nn.ReLU()],
    "padding behind the pool": [nn.ReLU(), nn.BatchNorm2d(C), nn.AvgPool2d(2), nn.Conv2d(C, 6, 3, padding=1)],
}


@pytest.mark.parametrize("what", ACROSS)
def test_norm_crosses_averages(what: str) -> None:
    deploy, _ = convert(nn.Sequential(*ACROSS[what]), IMAGE, (1, 4, 7, 9))
    assert counts(deploy) == (1, 0)


@pytest.mark.parametrize("what", NOT_ACROSS)
def test_norm_does_not_cross(what: str) -> None:
    deploy, _ = convert(nn.Sequential(*NOT_ACROSS[what]), IMAGE)
    assert counts(deploy) == (1, 1)


def test_norm_behind_the_pool_of_a_concatenation() -> None:
    model = Fn(
        lambda m, x: m.bn(m.pool(torch.cat([m.a(x), m.b(x.sigmoid())], 1))).relu(),
        pool=nn.AvgPool2d(2),
        bn=nn.BatchNorm2d(8),
        **layers(),
    )
    assert counts(convert(model, IMAGE)[0])[1] == 0


ACTIVATIONS = (torch.relu, torch.sigmoid, torch.tanh, torch.abs)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from([1, 3])), min_size=2, max_size=4), st.integers(0, 99))
def test_any_number_of_parts(parts: list[tuple[int, int]], seed: int) -> None:
    """Law: scaling what is stacked is stacking what is scaled."""
    convs = [nn.Conv2d(C, width, k, padding=k // 2) for width, k in parts]
    model: Any = Fn(
        lambda m, x: m.bn(torch.cat([f(act(x)) for f, act in zip(m.f, ACTIVATIONS, strict=False)], 1)).relu(),
        f=nn.ModuleList(convs),
        bn=nn.BatchNorm2d(sum(width for width, _ in parts)),
    )
    randomize(model, seed).double()
    deploy = reparamkit.apply(model)
    assert_same(model, deploy, IMAGE)
    assert counts(deploy)[1] == 0


class Two(nn.Module):
    """Two layers of two inputs, their sum in a spelling, and the norm behind it."""

    def __init__(self, run: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(C, C, 3, padding=1), nn.Conv2d(C, C, 1, bias=False)
        self.alpha, self.wide = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.ones(1, C, 1, 1))
        self.bn, self.run = nn.BatchNorm2d(C), run

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.run(self, self.a(x), self.b(x.sigmoid())))
        return y.relu()


WEIGHTED: dict[str, Any] = {
    "one factor": lambda m, a, b: 0.5 * a + b,
    "two factors": lambda m, a, b: a * 2 + b / 3,
    "learned": lambda m, a, b: m.alpha * a + (1 - m.alpha) * b,
    "for each channel": lambda m, a, b: m.wide * a - b * m.alpha,
    "several products": lambda m, a, b: (a * m.alpha) * m.wide + 2 * b,
    "torch.add": lambda m, a, b: torch.add(a * 3, b, alpha=0.5),
    # Each layer takes its 0 first, then the norm, which is a shift by now.
    "no factor but 0": lambda m, a, b: (m.wide - m.wide) * a + (m.alpha - m.alpha) * b,
}
NOT_WEIGHTED: dict[str, Any] = {
    "a product that is read twice": lambda m, a, b: _read_twice(0.5 * a, b),
    "a factor of the input": lambda m, a, b: a * b.mean() + b,
    "an activation between": lambda m, a, b: 0.5 * a.relu() + b,
}


def _read_twice(a: Tensor, b: Tensor) -> Tensor:
    return a + b + a.relu()


@pytest.mark.parametrize("what", WEIGHTED)
def test_norm_behind_a_weighted_sum(what: str) -> None:
    deploy, report = convert(Two(WEIGHTED[what]), IMAGE, (1, C, 5, 7))
    assert counts(deploy) == (2, 0), report
    assert "core/spread" in merged_rules(report)


@pytest.mark.parametrize("what", NOT_WEIGHTED)
def test_norm_behind_another_weighted_sum_stays(what: str) -> None:
    """The must-refuse twins: an addend cannot take its share, or what is added would arrive nowhere."""
    deploy, report = convert(Two(NOT_WEIGHTED[what]), IMAGE)
    assert counts(deploy) == (2, 1)
    assert "core/spread" not in merged_rules(report)


def bars() -> dict[str, nn.Module]:
    across = {"h": ((1, 7), (0, 3)), "v": ((7, 1), (3, 0)), "w": ((1, 5), (0, 2))}
    return {name: nn.Conv2d(C, C, k, padding=p, groups=C) for name, (k, p) in across.items()}


APART: dict[str, Any] = {
    "two": (lambda m, x: m.h(x) + m.v(x), 2),
    "two and the identity": (lambda m, x: x + m.h(x) + m.v(x), 2),
    "three, two of which merge": (lambda m, x: m.h(x) + m.v(x) + m.w(x), 2),
    "a difference": (lambda m, x: m.h(x) - 2 * m.v(x), 2),
}


@pytest.mark.parametrize("what", APART)
def test_norm_behind_branches_that_would_cost_more_as_one(what: str) -> None:
    """Two bars across each other: the norm goes into both, and what merges with one of them does."""
    run, left = APART[what]
    used = {name: layer for name, layer in bars().items() if name in run.__code__.co_names}
    model = Fn(lambda m, x: m.bn(run(m, x)).relu(), bn=nn.BatchNorm2d(C), **used)
    deploy, report = convert(model, IMAGE, (1, C, 9, 8))
    assert counts(deploy) == (left, 0), report


def test_norm_behind_a_bar_and_the_input_itself_has_no_other_place() -> None:
    """The must-refuse twin: what is read twice takes no share, so the norm merges with nothing."""
    model = Fn(lambda m, x: m.bn(m.h(x) + m.v(x) + x.relu()), bn=nn.BatchNorm2d(C), h=bars()["h"], v=bars()["v"])
    deploy, _ = convert(model, IMAGE)
    assert counts(deploy) == (2, 1)


def test_padding_and_a_norm_are_no_convolution() -> None:
    """A share that meets only a border that is written out stays what it is."""
    model = Fn(lambda m, x: m.bn(nn.functional.pad(x.relu(), (1, 1, 1, 1))), bn=nn.BatchNorm2d(C))
    assert counts(convert(model, IMAGE)[0]) == (0, 1)


class Joined(nn.Module):
    """Two branches, convolution, ReLU, norm, side by side in front of one or two layers."""

    def __init__(self, run: Any, k: int = 1, **options: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(C, 3, 3, padding=1), nn.Conv2d(C, 2, 1)
        self.na, self.nb = nn.BatchNorm2d(3), nn.BatchNorm2d(2)
        self.out, self.side = nn.Conv2d(5 + C, 4, k, **options), nn.Conv2d(5 + C, 2, 1, bias=False)
        self.run = run

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x, self.na(self.a(x).relu()), self.nb(self.b(x).relu()))


JOINED: dict[str, Any] = {
    "two norms and an input": lambda m, x, a, b: m.out(torch.cat([a, x.tanh(), b], 1)),
    "negative axis": lambda m, x, a, b: m.out(torch.cat((x, b, a), -3)),
    "two layers behind": lambda m, x, a, b: (lambda y: m.out(y) * m.side(y).sum(1, keepdim=True))(
        torch.cat([a, b, x], 1)
    ),
    "an activation of one of them": lambda m, x, a, b: m.out(torch.cat([a, b.sigmoid(), x], 1)),
}
NOT_JOINED: dict[str, Any] = {
    "an activation behind": lambda m, x, a, b: m.out(torch.cat([a, b, x], 1).relu()),
    "read elsewhere, too": lambda m, x, a, b: m.out(torch.cat([a, b, x], 1)) * a.sum() * b.sum(),
    "twice in it": lambda m, x, a, b: m.out(torch.cat([a, a, a], 1)) + b.sum(),
    "along rows": lambda m, x, a, b: m.side(torch.cat([torch.cat([a, b, x], 1)] * 2, 2)).sum() + m.out(_rows(a, b)),
    "returned": lambda m, x, a, b: (lambda y: [m.out(y), y])(torch.cat([a, b, x], 1)),
}


def _rows(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([a, a], 2).repeat(1, 3, 1, 1) + b.sum()


@pytest.mark.parametrize("what", JOINED)
def test_norms_in_front_of_a_concatenation(what: str) -> None:
    deploy, report = convert(Joined(JOINED[what]), IMAGE, (1, C, 5, 7))
    assert counts(deploy)[1] == int("activation" in what), report
    assert "core/spread" in merged_rules(report)


@pytest.mark.parametrize("what", NOT_JOINED)
def test_norms_in_front_of_another_concatenation_stay(what: str) -> None:
    deploy, report = convert(Joined(NOT_JOINED[what]), IMAGE)
    assert counts(deploy)[1] == 2, report
    assert "RK321" in codes(report)


def test_norms_in_front_of_a_concatenation_and_zero_padding_stay() -> None:
    """The must-refuse twin: what they add is not in the padding; reflected it is."""
    run = JOINED["negative axis"]
    deploy, report = convert(Joined(run, 3, padding=1), IMAGE)
    assert counts(deploy)[1] == 2
    assert "RK316" in codes(report)
    assert counts(convert(Joined(run, 3, padding=1, padding_mode="reflect"), IMAGE)[0])[1] == 0
