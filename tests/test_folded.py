"""Positions that a forward makes one axis and takes apart again around layers of one tap: one convolution is left."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import Fn, conv_bn, convert, counts

C = 4
IMAGES = ((1, C, 5, 8), (2, C, 6, 3))


def sized(x: Tensor) -> tuple[int, int, int, int]:
    b, c, h, w = x.shape
    return b, c, h, w


def matmul(m: Any, x: Tensor) -> Tensor:
    b, _, h, w = x.shape
    return (m.matrix @ m.stem(x).flatten(2)).view(b, C, h, w)


def tokens_and_back(m: Any, x: Tensor) -> Tensor:
    y = m.stem(x)
    b, c, h, w = y.shape
    return m.fc(y.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(b, c, h, w)


def channels_last(m: Any, x: Tensor) -> Tensor:
    y = m.stem(x)
    b, _, h, w = y.shape
    return m.fc(y.permute(0, 2, 3, 1).reshape(b, -1, C)).view(b, h, w, -1).permute(0, 3, 1, 2)


MERGED: dict[str, Any] = {
    "matrix product": matmul,
    "viewed as it was": lambda m, x: (lambda y: (m.matrix @ y.flatten(2)).view_as(y))(m.stem(x)),
    "viewed by its shape": lambda m, x: (lambda y: (m.matrix @ y.flatten(2)).view(y.shape))(m.stem(x)),
    "parts of its shape": lambda m, x: (lambda y: m.point(y.flatten(2)).reshape(y.shape[:2] + y.shape[2:]))(m.stem(x)),
    "convolution of one tap": lambda m, x: (lambda y: m.point(y.flatten(2)).view(y.size(0), -1, y.size(2), y.size(3)))(
        m.stem(x)
    ),
    "view of batch and channels": lambda m, x: (
        lambda y: m.point(y.view(y.size(0), C, -1)).view(y.size(0), C, y.size(2), y.size(-1))
    )(m.stem(x)),
    "tokens and back": tokens_and_back,
    "channels last": channels_last,
}
TURNED: dict[str, Any] = {
    "positions turned": lambda m, x: (lambda y: m.point(y.flatten(2)).view(y.size(0), C, y.size(3), y.size(2)))(
        m.stem(x)
    ),
    "other positions": lambda m, x: (lambda y: m.point(y.reshape(y.size(0), C, -1)).view(y.size(0), -1, 1, y.size(3)))(
        m.stem(x)
    ),
    "tokens not turned back": lambda m, x: (
        lambda y: m.fc(y.flatten(2).transpose(1, 2)).reshape(y.size(0), C, y.size(2), y.size(3))
    )(m.stem(x)),
}
KEPT: dict[str, Any] = {
    "three taps": lambda m, x: (lambda y: m.taps(y.flatten(2)).view_as(y))(m.stem(x)),
    "batch folded": lambda m, x: (
        lambda y: m.fc(y.permute(0, 2, 3, 1).flatten(0, 2)).view(-1, C, y.size(2), y.size(3))
    )(m.stem(x)),
    "activation between": lambda m, x: (lambda y: m.point(y.flatten(2).relu()).view_as(y))(m.stem(x)),
}


def network(run: Any, name: str) -> nn.Module:
    layers: dict[str, Any] = {
        "matrix": nn.Parameter(torch.linspace(-1, 2, C * C).reshape(C, C) + torch.eye(C)),
        "point": nn.Conv1d(C, C, 1),
        "taps": nn.Conv1d(C, C, 3, padding=1),
        "fc": nn.Linear(C, C),
    }
    return Fn(run, stem=nn.Sequential(*conv_bn(C, C, 3, padding=1)), **{name: layers[name]})


def used(run: Any) -> str:
    return next(
        name for name in ("matrix", "point", "taps", "fc") if name in run.__code__.co_names or _nested(run, name)
    )


def _nested(run: Any, name: str) -> bool:
    return any(hasattr(c, "co_names") and name in c.co_names for c in run.__code__.co_consts)


@pytest.mark.parametrize("how", MERGED)
def test_one_convolution_of_the_image_is_left(how: str) -> None:
    deploy, report = convert(network(MERGED[how], used(MERGED[how])), *IMAGES)
    assert counts(deploy) == (1, 0), report
    assert not list(deploy._parameters)
    assert next(m for m in deploy.modules() if isinstance(m, nn.Conv2d)).kernel_size == (3, 3)


@pytest.mark.parametrize("how", TURNED)
def test_what_is_put_elsewhere_is_still_put_there(how: str) -> None:
    """One layer is left here too, but the axes are rearranged as they were: dropping that would show in the numbers."""
    deploy, _ = convert(network(TURNED[how], used(TURNED[how])), *IMAGES)
    assert counts(deploy) == (1, 0)


@pytest.mark.parametrize("how", KEPT)
def test_what_is_not_put_back_stays(how: str) -> None:
    """The must-refuse twins: the norm still folds, the layer between the rearrangements stays."""
    deploy, _ = convert(network(KEPT[how], used(KEPT[how])), *IMAGES)
    assert counts(deploy) == (2, 0)


@pytest.mark.parametrize("read", [False, True])
def test_sizes_of_the_input_beside_a_kernel_that_reads_a_border(read: bool) -> None:
    """Whole it is one layer. Where somebody reads the positions as tokens, what gives them their axes back stays."""

    def run(m: Any, x: Tensor) -> tuple[Tensor, ...]:
        tokens = x.flatten(2).transpose(1, 2)
        y = m.conv(m.fc(tokens).transpose(1, 2).reshape(x.shape))
        return (y, tokens.exp()) if read else (y,)

    same = nn.Conv2d(C, 6, 3, padding="same", padding_mode="replicate")
    model = Fn(run, fc=nn.Linear(C, C), conv=same)
    deploy, report = convert(
        model, *IMAGES, policy="always", example_inputs=torch.zeros(1, C, 5, 4, dtype=torch.float64)
    )
    assert len([m for m in deploy.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]) == (2 if read else 1)
    assert len(report.merged) == (0 if read else 1)
    assert not {"RK901", "RK902"} & {refusal.code for refusal in report.refused}
