"""Layers of one tap between axes that are rearranged and put back: a linear layer is a 1x1 convolution, and back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import reparamkit
from tests.helpers import Fn, assert_same, codes, convert, counts, inputs, randomize

C = 4
IMAGE, TOKENS = (2, 4, 7, 6), (2, 7, 4)


def as_last(x: Tensor, run: Any) -> Tensor:
    """``run`` on an image with its channels last."""
    return run(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


def turned(x: Tensor, run: Any) -> Tensor:
    return run(x.transpose(1, 2)).transpose(1, 2)  # type: ignore[no-any-return]


ONE: dict[str, Any] = {
    "linear beside a convolution": (lambda m, x: as_last(x, m.fc) + m.conv(x), IMAGE),
    "linear behind a convolution": (lambda m, x: as_last(m.conv(x), m.fc), IMAGE),
    "linear before a convolution": (lambda m, x: m.point(as_last(x, m.fc)), IMAGE),
    "linear and identity": (lambda m, x: as_last(m.conv(x), lambda y: m.fc(y) + y), IMAGE),
    "two branches in between": (lambda m, x: m.conv(x) + as_last(x, lambda y: m.fc(y) + m.fc2(y) * 0.5), IMAGE),
    "norm behind": (lambda m, x: m.bn(as_last(x.relu(), m.fc)), IMAGE),
    "norm before": (lambda m, x: as_last(m.bn(x.relu()), m.fc), IMAGE),
    "norm of tokens": (lambda m, x: m.fc(turned(x, m.bn1)), TOKENS),
    "convolution of tokens": (lambda m, x: m.fc(turned(x, m.conv1)), TOKENS),
    "convolution between linear layers": (lambda m, x: m.fc2(turned(m.fc(x), m.conv1)), TOKENS),
    "grouped": (lambda m, x: turned(x, m.grouped) + m.fc(x), TOKENS),
}
PARTLY: dict[str, Any] = {
    "not put back": (lambda m, x: m.fc2(m.fc(x.permute(0, 2, 3, 1)).transpose(1, 2)), IMAGE),
    "a kernel in between": (lambda m, x: m.fc(turned(x, m.conv3)), TOKENS),
}
MORE: dict[str, Any] = {
    "put elsewhere": (lambda m, x: m.conv(m.fc(x.permute(0, 2, 3, 1)).permute(0, 3, 2, 1)), IMAGE, 2, {"RK316"}),
    "another axis": (lambda m, x: m.conv(m.wide(x)), IMAGE, 2, {"RK310"}),
    "an activation between": (lambda m, x: m.conv(as_last(x, lambda y: m.fc(y).relu())), IMAGE, 2, set()),
}


def network(run: Any, **more: Any) -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = run(m, x)
        return y.relu()  # type: ignore[no-any-return]

    layers: dict[str, Any] = {
        "conv": nn.Conv2d(C, C, 3, padding=1, bias=False),
        "point": nn.Conv2d(C, 5, 1),
        "fc": nn.Linear(C, C),
        "fc2": nn.Linear(C, C, bias=False),
        "wide": nn.Linear(6, 6),
        "bn": nn.BatchNorm2d(C),
        "bn1": nn.BatchNorm1d(C),
        "conv1": nn.Conv1d(C, C, 1),
        "conv3": nn.Conv1d(C, C, 3),
        "grouped": nn.Conv1d(C, C, 1, groups=2),
    }
    used = run.__code__.co_names + sum((c.co_names for c in run.__code__.co_consts if hasattr(c, "co_names")), ())
    return Fn(forward, **{name: layer for name, layer in layers.items() if name in used})


@pytest.mark.parametrize("what", ONE)
def test_all_of_it_is_one_layer(what: str) -> None:
    run, shape = ONE[what]
    deploy, report = convert(network(run), shape, (1, *shape[1:]), policy="always", example_inputs=inputs(shape))
    assert counts(deploy) == (1, 0), f"{deploy}\n{report}"


@pytest.mark.parametrize("what", PARTLY)
def test_one_layer_is_left_and_the_axes_stay_as_they_were_arranged(what: str) -> None:
    run, shape = PARTLY[what]
    deploy, report = convert(network(run), shape)
    assert counts(deploy) == (1, 0), report


@pytest.mark.parametrize("what", MORE)
def test_what_does_not_cancel_is_left(what: str) -> None:
    run, shape, convs, refused = MORE[what]
    deploy, report = convert(network(run), shape)
    assert counts(deploy) == (convs, 0)
    assert not report.merged
    assert codes(report) == refused


@settings(max_examples=30, deadline=None)
@given(st.permutations([0, 1, 2, 3]), st.integers(0, 99))
def test_any_permutation(order: list[int], seed: int) -> None:
    """Law: a linear layer between a permutation and its inverse is a 1x1 convolution where it acts on channels."""
    back = [order.index(axis) for axis in range(4)]
    model: Any = Fn(
        lambda m, x: m.point(m.fc(x.permute(*order)).permute(*back)), fc=nn.Linear(C, C), point=nn.Conv2d(C, C, 1)
    )
    randomize(model, seed).double()
    deploy = reparamkit.apply(model)
    assert_same(model, deploy, (C, C, C, C))
    assert counts(deploy)[0] == (1 if order[-1] == 1 else 2)


def test_layer_on_the_outer_axes_takes_the_weights() -> None:
    run, shape = ONE["linear before a convolution"]
    deploy: Any = convert(network(run), shape)[0]
    assert [type(m) for m in (deploy.fc, deploy.point)] == [nn.Identity, nn.Conv2d]
