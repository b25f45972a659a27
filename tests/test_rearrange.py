"""`einops.rearrange` and its layer between convolutions, norms and linear layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import Fn, conv_bn, convert, counts

einops: Any = pytest.importorskip("einops")
layers: Any = pytest.importorskip("einops.layers.torch")
C = 4
IMAGES = ((1, C, 6, 8), (2, C, 4, 10))


def seq(*modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(*modules)


def stem(into: int = C) -> list[nn.Module]:
    return conv_bn(C, into, 3, padding=1)


def layer(pattern: str, **sizes: int) -> Any:
    return layers.Rearrange(pattern, **sizes)


def there_and_back(m: Any, x: Tensor) -> Tensor:
    y = m.fc(einops.rearrange(m.stem(x), "b c h w -> b h w c"))
    return einops.rearrange(y, "b h w c -> b c h w").relu()  # type: ignore[no-any-return]


def tokens_and_back(m: Any, x: Tensor) -> Tensor:
    y = m.fc(einops.rearrange(m.stem(x), "b c h w -> b (h w) c"))
    return einops.rearrange(y, "b (h w) c -> b c h w", h=x.shape[2]).relu()  # type: ignore[no-any-return]


def all_sizes(m: Any, x: Tensor) -> Tensor:
    _, _, h, w = x.shape
    y = m.fc(einops.rearrange(m.stem(x), "b c h1 w1 -> b (h1 w1) c"))
    return einops.rearrange(y, "b (h1 w1) c -> b c h1 w1", h1=h, w1=w).relu()  # type: ignore[no-any-return]


def other_size(m: Any, x: Tensor) -> Tensor:
    y = m.fc(einops.rearrange(m.stem(x), "b c h w -> b (h w) c"))
    return einops.rearrange(y, "b (h w) c -> b c h w", h=x.shape[3]).relu()  # type: ignore[no-any-return]


def turned(m: Any, x: Tensor) -> Tensor:
    y = m.fc(einops.rearrange(m.stem(x), "b c h w -> b (w h) c"))
    return einops.rearrange(y, "b (h w) c -> b c h w", h=x.shape[2]).relu()  # type: ignore[no-any-return]


def function(run: Any) -> nn.Module:
    return Fn(run, stem=seq(*stem()), fc=nn.Linear(C, C))


ONE: dict[str, Any] = {
    "layers": lambda: seq(*stem(), layer("b c h w -> b h w c"), nn.Linear(C, C), layer("b h w c -> b c h w")),
    "functions": lambda: function(there_and_back),
    "tokens and back": lambda: function(tokens_and_back),
    "all sizes given": lambda: function(all_sizes),
}
NORM_GOES: dict[str, Any] = {
    "norm in front of tokens": lambda: seq(
        *stem(), nn.ReLU(), nn.BatchNorm2d(C), layer("b c h w -> b (h w) c"), nn.Linear(C, C)
    ),
    "norm behind folded positions": lambda: seq(
        nn.Conv2d(C, C, 3), nn.ReLU(), nn.Conv2d(C, C, 1), layer("b c h w -> b c (h w)"), nn.BatchNorm1d(C)
    ),
    "norm behind a pixel shuffle": lambda: seq(
        *stem(), nn.ReLU(), nn.Conv2d(C, 8, 1), layer("b (c p q) h w -> b c (h p) (w q)", p=2, q=2), nn.BatchNorm2d(2)
    ),
    "norm in front of patches": lambda: seq(
        *stem(), nn.ReLU(), nn.BatchNorm2d(C), layer("b c (h p) (w q) -> b (c p q) h w", p=2, q=2), nn.Conv2d(16, 4, 1)
    ),
}
KEPT: dict[str, Any] = {
    "positions turned": lambda: function(turned),
    "another size": lambda: function(other_size),
    "not put back": lambda: seq(*stem(), layer("b c h w -> b h w c"), nn.Linear(C, C), layer("b h w c -> b c w h")),
}
NORM_STAYS: dict[str, Any] = {
    "channels with positions": lambda: seq(
        *stem(), nn.ReLU(), nn.BatchNorm2d(C), layer("b c (h p) w -> b h w (c p)", p=2), nn.Linear(8, C)
    ),
    "batch with positions": lambda: seq(
        *stem(), nn.ReLU(), nn.BatchNorm2d(C), layer("b c h w -> (b h) (c w)"), nn.Flatten(0)
    ),
    "channels split": lambda: seq(
        *stem(), nn.ReLU(), nn.BatchNorm2d(C), layer("b (g c) h w -> (b g) c h w", g=2), nn.Conv2d(2, 2, 1)
    ),
}


@pytest.mark.parametrize("what", ONE)
def test_one_convolution_is_left(what: str) -> None:
    deploy, report = convert(ONE[what](), *IMAGES)
    assert counts(deploy) == (1, 0), report


@pytest.mark.parametrize("what", NORM_GOES)
def test_a_norm_crosses(what: str) -> None:
    deploy, report = convert(NORM_GOES[what](), *IMAGES)
    assert counts(deploy)[1] == 0, report


@pytest.mark.parametrize("what", KEPT)
def test_what_is_not_put_back_stays_rearranged(what: str) -> None:
    """The axes are rearranged as they were, whatever merges across: dropping that would show in the numbers."""
    deploy, _ = convert(KEPT[what](), *IMAGES)
    assert counts(deploy) == (2 if what == "positions turned" else 1, 0)


@pytest.mark.parametrize("what", NORM_STAYS)
def test_a_norm_does_not_cross_mixed_axes(what: str) -> None:
    deploy, _ = convert(NORM_STAYS[what](), *IMAGES)
    assert counts(deploy)[1] == 1


def test_a_size_that_is_a_number_is_that_of_one_image() -> None:
    """Twin of ``h=x.shape[2]``: a layer that says 6 rows means another image where there are others."""
    back = layer("b (h w) c -> b c h w", h=6)
    deploy, _ = convert(seq(*stem(), layer("b c h w -> b (h w) c"), nn.Linear(C, C), back), (1, C, 6, 8))
    assert counts(deploy) == (1, 0)
    assert deploy(torch.zeros(1, C, 4, 9).double()).shape == (1, C, 6, 6)
