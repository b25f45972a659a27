"""Hazards of pools and of small inputs."""

from __future__ import annotations

import pytest
from torch import nn

from tests.hazards.models import Block, C, bn, same, seq
from tests.hazards.row import hazard
from tests.helpers import (
    IMAGES,
    branches,
    convert,
    counts,
    places,
)


@hazard("D19", "average pooling that counts differently at the border", "left alone", "RK320")
@hazard("D20", "max, adaptive and other pools, upsampling", "left alone")
@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(3, 1, 1, count_include_pad=False),
        nn.AvgPool2d(3, 1, 1, divisor_override=2),
        nn.AvgPool2d(3, 1, 1, ceil_mode=True),
        nn.MaxPool2d(3, 1, 1),
        nn.LPPool2d(2, 3, 1, ceil_mode=True),
    ],
)
def test_d19_d20_pools(pool: nn.Module) -> None:
    shapes = IMAGES if not isinstance(pool, nn.LPPool2d) else ((1, C, 3, 3),)
    fused = isinstance(pool, nn.AvgPool2d) and pool.count_include_pad and not pool.ceil_mode
    last: nn.Module = nn.Conv2d(C, C, 3) if isinstance(pool, nn.LPPool2d) else same()
    converted, report = convert(branches(pool, last), *shapes)
    assert (places(report, "RK320") == ["all.0"]) is (isinstance(pool, nn.AvgPool2d) and not fused)
    assert (not any(isinstance(m, type(pool)) for m in converted.modules())) is fused


@hazard("D21", "the input is smaller than the kernel", "exact on every size the original takes")
@pytest.mark.parametrize("mode", ["zeros", "replicate", "circular"])
def test_d21_inputs_smaller_than_the_kernel(mode: str) -> None:
    model = branches(same(5, padding_mode=mode), same(padding_mode=mode), same(1))
    sizes = range(1 if mode != "circular" else 2, 6)
    converted, _ = convert(model, *[(1, C, h, w) for h in sizes for w in sizes])
    assert counts(converted) == (1, 0)


def test_d21_reflecting_never_needs_more_than_before() -> None:
    model = branches(same(padding_mode="reflect"), same(1))
    converted, _ = convert(model, (1, C, 2, 2), (1, C, 2, 3))
    assert counts(converted) == (1, 0)


@hazard("D22", "empty batches, images without a batch", "exact")
def test_d22_empty_batches() -> None:
    converted, _ = convert(seq(Block(), same(), bn()), (0, C, 6, 6))
    assert counts(converted) == (2, 0)


def test_d22_unbatched_images() -> None:
    converted, _ = convert(branches(same(), same(1), nn.Identity()), (C, 6, 6))
    assert counts(converted) == (1, 0)
