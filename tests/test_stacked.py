"""Branches that stand side by side along an axis of their own, weighted, summed, taken apart: a sum of branches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import Fn, convert, counts, merged_rules

C = 4
K = 3
IMAGES = ((1, C, 8, 8), (2, C, 6, 9))
Run = Any


def pair(size: int = 3, into: int = C) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(C, into, size, padding=size // 2), nn.BatchNorm2d(into))


def network(run: Run, one: bool = False) -> nn.Module:
    layers: dict[str, nn.Module] = {"s": nn.ModuleList([pair(1), pair(3), pair(5)])}
    return Fn(
        run,
        **({"wide": pair(3, K * C)} if one else layers),
        w=nn.Parameter(torch.tensor([0.3, -1.2, 0.7])),
        each=nn.Parameter(torch.linspace(-1, 2, K * C).reshape(K, C)),
        table=nn.Parameter(torch.linspace(-1, 2, K * 64).reshape(K, 1, 1, 8, 8)),
        rows=nn.Parameter(torch.linspace(-1, 2, C * C).reshape(C, C) + torch.eye(C)),
        act=nn.ReLU(inplace=True),
    )


def stack(m: Any, x: Tensor, dim: int = 0) -> Tensor:
    return torch.stack([f(x) for f in m.s], dim)


def cat(m: Any, x: Tensor) -> Tensor:
    return torch.cat([f(x) for f in m.s], 1)


def added(parts: Any) -> Any:
    total: Any = 0
    for part in parts:
        total = total + part
    return total


def viewed(y: Tensor, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return y.view(n, K, c, h, w)


MERGED: dict[str, Run] = {
    "weights of a parameter": lambda m, x: (stack(m, x) * m.w.view(-1, 1, 1, 1, 1)).sum(0),
    "softmax": lambda m, x: (torch.softmax(m.w, 0)[:, None, None, None, None] * stack(m, x)).sum(dim=0),
    "mean": lambda m, x: (stack(m, x) * m.w.view(-1, 1, 1, 1, 1)).mean(0),
    "divided and negated": lambda m, x: (-stack(m, x) / m.w.reshape(-1, 1, 1, 1, 1)).sum(0),
    "a weight for each channel": lambda m, x: (stack(m, x) * m.each.view(K, 1, C, 1, 1)).sum(0),
    "second axis": lambda m, x: (stack(m, x, 1) * m.w.view(1, -1, 1, 1, 1)).sum(1),
    "last axis": lambda m, x: (stack(m, x, -1) * m.w).sum(-1),
    "last axis, from the front": lambda m, x: (stack(m, x, -1) * m.w).sum(4),
    "a number": lambda m, x: (0.5 * stack(m, x)).sum(0),
    "einsum": lambda m, x: torch.einsum("k,kbchw->bchw", m.w, stack(m, x)),
    "einsum, weights behind": lambda m, x: torch.einsum("kbchw, k -> bchw", stack(m, x), m.w),
    "einsum with dots": lambda m, x: torch.einsum("k,k...->...", torch.softmax(m.w, 0), stack(m, x)),
    "einsum, each channel": lambda m, x: torch.einsum("kc,kbchw->bchw", m.each, stack(m, x)),
    "tensordot": lambda m, x: torch.tensordot(m.w, stack(m, x), dims=([0], [0])),
    "unbound": lambda m, x: added(stack(m, x).unbind(0)),
    "unbound along another axis": lambda m, x: added(torch.unbind(stack(m, x, 1), dim=1)),
    "iterated": lambda m, x: added(stack(m, x)),
    "by number": lambda m, x: (lambda s: s[0] - s[1] + s[-1])(stack(m, x)),
    "channels viewed as groups": lambda m, x: viewed(cat(m, x), x).sum(1),
    "mean of groups": lambda m, x: viewed(cat(m, x), x).mean(1),
    "groups of one convolution": lambda m, x: viewed(m.wide(x), x).sum(1),
    "groups with weights": lambda m, x: (viewed(m.wide(x), x) * m.w.view(1, -1, 1, 1, 1)).sum(1),
    "unflattened": lambda m, x: cat(m, x).unflatten(1, (K, -1)).sum(1),
    "groups of a known size": lambda m, x: (lambda y: y.reshape(y.size(0), -1, C, y.size(2), y.size(3)).sum(1))(
        cat(m, x)
    ),
}
LEFT: dict[str, Run] = {
    "another axis": lambda m, x: (stack(m, x) * m.w.view(-1, 1, 1, 1, 1)).sum(1),
    "weights of positions": lambda m, x: (stack(m, x)[..., :8, :8] * m.table).sum(0),
    "weights of the input": lambda m, x: (stack(m, x) * x.mean()).sum(0),
    "axis kept": lambda m, x: (stack(m, x) * m.w.view(-1, 1, 1, 1, 1)).sum(0, keepdim=True),
    "maximum": lambda m, x: (stack(m, x) * m.w.view(-1, 1, 1, 1, 1)).amax(0),
    "einsum, rearranged": lambda m, x: torch.einsum("k,kbchw->bhwc", m.w, stack(m, x)),
    "einsum, another letter summed": lambda m, x: torch.einsum("k,kbchw->kbhw", m.w, stack(m, x)),
    "read twice": lambda m, x: (lambda s: s.sum(0) + s.amax(0))(stack(m, x) * 0.5),
    "taken apart and activated": lambda m, x: added(y.relu() for y in stack(m, x)),
    "changed in place after it was stacked": lambda m, x: (lambda y, z: torch.stack([y, z])[0] + m.act(y))(
        m.s[0](x), m.s[1](x)
    ),
    "groups summed on the other axis": lambda m, x: viewed(cat(m, x), x).sum(2),
    "positions turned": lambda m, x: (lambda y: y.view(y.size(0), K, -1, y.size(3), y.size(2)).sum(1))(cat(m, x)),
    "batch among the groups": lambda m, x: (lambda y: y.view(K, y.size(0), -1, y.size(2), y.size(3)).sum(1))(cat(m, x)),
}


@pytest.mark.parametrize("how", MERGED)
def test_one_convolution_is_left(how: str) -> None:
    deploy, report = convert(network(MERGED[how], one="groups with" in how or "one conv" in how), *IMAGES)
    assert counts(deploy) == (1, 0), report
    assert next(m for m in deploy.modules() if isinstance(m, nn.Conv2d)).out_channels == C


@pytest.mark.parametrize("how", LEFT)
def test_the_branches_stay(how: str) -> None:
    """The must-refuse twins: each differs in one thing."""
    shapes = ((1, C, 8, 8), (2, C, 8, 8)) if "positions" in how else IMAGES
    deploy, report = convert(network(LEFT[how]), *shapes)
    assert counts(deploy) == (3, 0), report


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


ONE_TAP: dict[str, Run] = {
    "each channel": lambda m, x: torch.einsum("bchw,c->bchw", m.conv(x), m.each),
    "rows first": lambda m, x: torch.einsum("oi,bihw->bohw", m.rows, m.conv(x)),
    "columns first": lambda m, x: torch.einsum("bihw,io->bohw", m.conv(x), m.rows),
    "with dots": lambda m, x: torch.einsum("oi,bi...->bo...", m.rows, m.conv(x)),
    "tensordot": lambda m, x: torch.tensordot(m.fc(tokens(m.conv(x)).relu()), m.rows, dims=([2], [0])),
}
NO_LAYER: dict[str, Run] = {
    "result rearranged": lambda m, x: torch.einsum("oi,bihw->bhwo", m.rows, m.conv(x)),
    "another axis": lambda m, x: torch.einsum("oi,bchi->bcho", m.rows, m.conv(x)[..., :C]),
    "two values": lambda m, x: torch.einsum("bchw,bc->bchw", m.conv(x), x.mean((2, 3))),
    "outer product": lambda m, x: torch.einsum("bchw,o->bchwo", m.conv(x), m.each),
}


def layers(run: Run) -> nn.Module:
    rows, each = nn.Parameter(torch.linspace(-1, 2, C * C).reshape(C, C)), nn.Parameter(torch.linspace(-1, 2, C))
    return Fn(run, conv=nn.Conv2d(C, C, 3, padding=1), fc=nn.Linear(C, C), rows=rows, each=each)


@pytest.mark.parametrize("how", ONE_TAP)
def test_a_product_with_letters_is_a_layer(how: str) -> None:
    deploy, report = convert(layers(ONE_TAP[how]), *IMAGES)
    assert "core/einsum" in merged_rules(report)
    assert ("each" if how == "each channel" else "rows") not in dict(deploy.named_parameters())


@pytest.mark.parametrize("how", NO_LAYER)
def test_a_product_with_letters_that_is_no_layer_stays(how: str) -> None:
    _, report = convert(layers(NO_LAYER[how]), *IMAGES)
    assert not report.merged
