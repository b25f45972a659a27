"""Norms and scales behind flatten, reshape and permute fold into the layer on the other side; what touches the
channels does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import reparamkit
from tests.helpers import Fn, assert_same, conv_bn, convert, counts, randomize

C = 4
IMAGE = (2, 4, 5, 3)
TOKENS = (2, 7, 4)


class LinearNorm(nn.Module):
    """LeViT's linear layer and norm."""

    def __init__(self, last: int = 1, back: Any = None) -> None:
        super().__init__()
        self.fc, self.bn, self.last = nn.Linear(C, C), nn.BatchNorm1d(C), last
        self.back = back or (lambda y, x: y.reshape_as(x))

    def forward(self, x: Tensor) -> Any:
        x = self.fc(x)
        return self.back(self.bn(x.flatten(0, self.last)), x)


def tokens(x: Tensor) -> Tensor:
    """An image as tokens ``[N, positions, C]``."""
    return x.flatten(2).transpose(1, 2)


FOLDED: dict[str, Any] = {
    "linear norm": lambda m, x: m.norm(tokens(m.stem(x))),
    "twice": lambda m, x: m.norm2(m.norm(tokens(m.stem(x)))),
    "norm before tokens": lambda m, x: m.fc(tokens(m.bn2(m.stem(x).relu()))),
    "norm behind flatten": lambda m, x: m.bn1(m.stem(x).flatten(2)),
    "norm behind view": lambda m, x: m.bn1(m.stem(x).view(x.shape[0], C, -1)),
    "norm behind reshape": lambda m, x: m.bn1(m.stem(x).reshape(x.size(0), 4, x.size(2) * x.size(3))),
    "scale behind permute": lambda m, x: m.scale(m.stem(x).permute(0, 2, 3, 1)),
    "scale and back": lambda m, x: m.scale(m.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "permute of a tuple": lambda m, x: m.scale(m.stem(x).permute((0, 2, 3, 1))),
    "norm behind tokens and back": lambda m, x: m.bn1(tokens(m.stem(x)).transpose(1, 2)),
    "view of tokens": lambda m, x: m.bn1(tokens(m.fc(tokens(m.stem(x).relu())).transpose(1, 2)).reshape(-1, C)),
}
# A step of the forward itself would have to be cut out of it: no module steps aside.
LEFT = {"step": lambda m, x: m.stem(x).permute(0, 2, 3, 1) * m.gamma}
KEPT: dict[str, Any] = {
    "channels flattened": lambda m, x: m.wide(m.stem(x).flatten(1)),
    "channels merged with the batch": lambda m, x: m.bn1(
        m.stem(x).flatten(0, 1).unsqueeze(1).expand(-1, C, -1, -1)[..., 0]
    ),
    "positions as channels": lambda m, x: m.positions(tokens(m.stem(x))),
    "split into heads": lambda m, x: m.bn1(m.stem(x).reshape(x.shape[0] // 2, C, -1)),
    "a view that mixes": lambda m, x: m.bn1(m.stem(x).view(x.shape[0], -1, C).transpose(1, 2)),
    "read in between": lambda m, x: _twice(m.stem(x).flatten(2), m.bn1),
}


def _twice(y: Tensor, norm: Any) -> Tensor:
    return norm(y) + y.sum()  # type: ignore[no-any-return]


def network(run: Any) -> nn.Module:
    return Fn(
        run,
        stem=nn.Conv2d(C, C, 3, padding=1),
        norm=LinearNorm(),
        norm2=LinearNorm(back=lambda y, x: y.view_as(x)),
        fc=nn.Linear(C, C),
        bn1=nn.BatchNorm1d(C),
        bn2=nn.BatchNorm2d(C),
        wide=nn.BatchNorm1d(C * 15),
        positions=nn.BatchNorm1d(15),
        gamma=nn.Parameter(torch.ones(C)),
        scale=Fn(lambda m, x: x * m.gamma, gamma=nn.Parameter(torch.ones(C))),
    )


def used(model: nn.Module) -> list[Any]:
    """Norms that are called and still do something."""
    seen: list[Any] = []
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    handles = [m.register_forward_hook(lambda m, a, o: seen.append(m)) for m in norms]
    with torch.no_grad():
        model(torch.zeros(IMAGE, dtype=torch.float64))
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("what", FOLDED)
def test_what_stands_behind_a_rearrangement_is_folded(what: str) -> None:
    model = network(FOLDED[what])
    converted, report = convert(model, IMAGE, (1, 4, 2, 6))
    assert not used(converted)
    assert report.merged
    if "scale" in what:
        assert {r for m in report.merged for r in m.rules} >= {"core/scale", "core/layout"}


@pytest.mark.parametrize("what", KEPT)
def test_what_meets_the_channels_is_left(what: str) -> None:
    converted, report = convert(network(KEPT[what]), IMAGE)
    assert not report.merged
    assert len(used(converted)) == 1


def test_a_step_of_the_forward_is_left() -> None:
    _, report = convert(network(LEFT["step"]), IMAGE)
    assert not report.merged
    assert "RK304" in {r.code for r in report.refused}


@pytest.mark.parametrize("last", [1, 2])
def test_a_flatten_that_reaches_the_channels(last: int) -> None:
    """``flatten(0, 2)`` of ``[N, L, C]`` leaves no channel axis; the norm would see something else."""
    model = randomize(Fn(lambda m, x: m.f(tokens(m.stem(x))), stem=nn.Conv2d(C, C, 1), f=LinearNorm(last)))
    converted = reparamkit.apply(model)
    assert counts(converted)[1] == (0 if last == 1 else 1)


def test_the_rank_is_not_guessed() -> None:
    """On four axes ``flatten(0, 1)`` leaves three, and the norm acts on the second."""
    converted, _ = convert(LinearNorm(), (2, 3, 4))
    assert counts(converted)[1] == 1
    converted, _ = convert(LinearNorm(), (2, 3, 4), example_inputs=torch.zeros(2, 3, 4, dtype=torch.float64))
    assert counts(converted)[1] == 0
    four = (2, 3, C, C)
    converted, _ = convert(LinearNorm(), four, example_inputs=torch.zeros(four, dtype=torch.float64))
    assert counts(converted)[1] == 1


def point() -> nn.Module:
    return nn.Conv2d(C, 3, 1)


def _read_too(m: Any, x: Tensor) -> Tensor:
    return m.fc(x) + x.mean()  # type: ignore[no-any-return]


ACROSS: dict[str, Any] = {
    "tokens": (lambda m, x: m.fc(tokens(m.norm(m.conv(x)))), {"fc": nn.Linear(C, 3)}),
    "modules": (lambda m, x: m.fc(m.flat(m.norm(m.conv(x)))), {"flat": nn.Flatten(2), "fc": nn.Conv1d(C, C, 1)}),
    "counted": (lambda m, x: m.fc(m.norm(m.conv(x)).view(x.shape[0], C, -1)), {"fc": nn.Conv1d(C, C, 1)}),
    "enlarged": (
        lambda m, x: m.fc(m.up(m.norm(m.conv(x)))),
        {"up": nn.Upsample(scale_factor=2), "fc": nn.Conv2d(C, 3, 1)},
    ),
}
APART: dict[str, Any] = {
    "a kernel": (lambda m, x: m.fc(tokens(m.norm(m.conv(x))).transpose(1, 2)), {"fc": nn.Conv1d(C, C, 3)}),
    "an activation": (lambda m, x: m.fc(tokens(m.norm(m.conv(x)).relu())), {"fc": nn.Linear(C, 3)}),
    "counted, not kept": (lambda m, x: m.fc(m.norm(m.conv(x)).view(x.shape[0], C, -1)), {"fc": nn.Conv1d(C, 3, 1)}),
    "made smaller": (
        lambda m, x: m.fc(m.up(m.norm(m.conv(x)))), {"up": nn.Upsample(scale_factor=0.5), "fc": point()},
    ),
    "another axis": (lambda m, x: m.fc(tokens(m.norm(m.conv(x))).transpose(1, 2)), {"fc": nn.Linear(15, 15)}),
    "read in between": (lambda m, x: _read_too(m, tokens(m.norm(m.conv(x)))), {"fc": nn.Linear(C, C)}),
}  # fmt: skip


@pytest.mark.parametrize("what", ACROSS)
def test_a_layer_of_one_tap_crosses_a_rearrangement(what: str) -> None:
    conv, norm = conv_bn(C, C, 3, padding=1)
    run, more = ACROSS[what]
    converted, report = convert(Fn(run, conv=conv, norm=norm, **more), IMAGE, (1, C, 4, 6))
    assert counts(converted) == (1, 0), report


@pytest.mark.parametrize("what", APART)
def test_layers_with_a_rearrangement_between_them_stay_two(what: str) -> None:
    """The must-refuse twins: each differs in one thing."""
    conv, norm = conv_bn(C, C, 3, padding=1)
    run, more = APART[what]
    converted, _ = convert(Fn(run, conv=conv, norm=norm, **more), IMAGE)
    assert counts(converted) == (2, 0)


STEPS: dict[str, Any] = {
    "flatten": lambda x: x.flatten(2) if x.dim() > 3 else x,
    "swap": lambda x: x.transpose(1, -1),
    "swap last": lambda x: x.transpose(-1, -2),
    "tokens": lambda x: x.flatten(0, 1),
    "keep": lambda x: x.reshape(x.shape),
    "view": lambda x: x.reshape(x.shape[0], x.shape[1], -1),
    "rows": lambda x: x.reshape(-1, x.shape[-1]),
}


@settings(max_examples=60)
@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=4), st.booleans())
def test_any_rearrangement_is_exact_or_left_alone(steps: list[str], linear: bool) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.fc(tokens(x)) if linear else m.stem(x)
        for name in steps:
            y = STEPS[name](y) if y.dim() > 2 else y
        if y.dim() < 4 and y.shape[1] == C:
            return m.bn1(y)  # type: ignore[no-any-return]
        return y * m.gamma if y.shape[-1] == C else y  # type: ignore[no-any-return]

    square = (4, 4, 4, 4)  # every axis could pass for the channels
    model = randomize(network(run)).double()
    for example in (None, torch.zeros(square, dtype=torch.float64)):
        assert_same(model, reparamkit.apply(model, example_inputs=example), square)
