"""A channel of ones: shifts in front of padded convolutions, exact at the border, where a recipe asks for it."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reparamkit
from reparamkit.ones import OnesConv1d, OnesConv2d, OnesConv3d
from tests.helpers import Fn, assert_same, codes, convert, counts, inputs, randomize

RECIPE = "ones_channel"
GEOMETRIES: dict[str, dict[str, Any]] = {
    "plain": {"kernel_size": 3, "padding": 1},
    "strided": {"kernel_size": 3, "padding": 1, "stride": 2},
    "dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "uneven": {"kernel_size": (1, 3), "padding": (0, 1)},
    "same": {"kernel_size": 2, "padding": "same"},
    "wide": {"kernel_size": 3, "padding": 3, "bias": False},
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
@pytest.mark.parametrize("front", [lambda: nn.BatchNorm2d(4), lambda: nn.Conv2d(4, 4, 1)], ids=["norm", "pointwise"])
def test_one_layer_is_left(front: Any, geometry: Any) -> None:
    model = nn.Sequential(nn.ReLU(), front(), nn.Conv2d(4, 6, **geometry), nn.ReLU())
    plain, report = convert(model)
    assert "RK316" in codes(report)
    assert sum(counts(plain)) == 2
    converted: Any
    converted, report = convert(model, recipe=RECIPE)
    assert counts(converted) == (1, 0)
    assert type(converted[2]) is OnesConv2d
    assert converted[2].in_channels == 5
    assert [merge.kind for merge in report.merged] == ["transform"]
    assert reparamkit.apply(converted, RECIPE, return_report=True)[1].merged == ()


@pytest.mark.parametrize("nd", [1, 3])
def test_other_numbers_of_axes(nd: int) -> None:
    norm, conv = getattr(nn, f"BatchNorm{nd}d")(4), getattr(nn, f"Conv{nd}d")(4, 4, 3, padding=1)
    shapes = [(2, 4, *size) for size in ((5, 6, 7)[:nd], (3, 4, 4)[:nd])]
    converted: Any = convert(nn.Sequential(nn.ReLU(), norm, conv), *shapes, recipe=RECIPE)[0]
    assert type(converted[2]) is (OnesConv1d if nd == 1 else OnesConv3d)


class Bottleneck(nn.Module):
    """Pre-activation order in a forward of its own: norm, convolution, and the input beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)
        self.label = "kept"

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x.relu())) + x  # type: ignore[no-any-return]


def test_a_block_keeps_its_class_and_what_torch_does_with_it() -> None:
    model = nn.Sequential(Bottleneck(), Bottleneck())
    converted: Any = convert(model, recipe=RECIPE)[0]
    assert counts(converted) == (2, 0)
    assert [type(block) for block in converted] == [Bottleneck, Bottleneck]
    for again in (copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        assert_same(converted, again)
    x = inputs((2, 4, 6, 5))
    exported = torch.export.export(converted, (x,)).module()
    assert torch.equal(exported(x), converted(x))


def _read_twice(m: Any, x: Tensor) -> Tensor:
    y = m.norm(x.relu())
    return m.conv(y) + y.sigmoid()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("conv", "run", "code"),
    [
        (nn.Conv2d(4, 4, 3, padding=1, groups=2), lambda m, x: m.conv(m.norm(x.relu())), "RK315"),
        (nn.Conv2d(4, 4, 3, padding=1), _read_twice, "RK316"),
        (nn.ConvTranspose2d(4, 4, 3, padding=1), lambda m, x: m.conv(m.norm(x.relu())), "RK316"),
    ],
    ids=["groups", "read twice", "transposed"],
)
def test_other_layers_stay(conv: nn.Module, run: Any, code: str) -> None:
    converted, report = convert(Fn(run, norm=nn.BatchNorm2d(4), conv=conv), recipe=RECIPE)
    assert counts(converted) == (1, 1)
    assert code in codes(report)


def test_two_convolutions_that_would_cost_more_stay() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 2, 1), nn.Conv2d(2, 8, 3, padding=1))
    converted, report = convert(model, recipe=RECIPE)
    assert counts(converted) == (2, 0)
    assert "RK340" in codes(report)


def test_a_layer_that_something_watches_stays() -> None:
    model = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1))
    model[1].register_forward_hook(lambda m, args, output: None)
    _, report = convert(model, recipe=RECIPE)
    assert not report.merged
    assert "RK306" in codes(report)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_numbers_are_rounded_once_they_are_proven(dtype: torch.dtype) -> None:
    model = randomize(nn.Sequential(Bottleneck(), Bottleneck())).to(dtype)
    converted, report = reparamkit.apply(model, RECIPE, return_report=True)
    assert {p.dtype for p in converted.parameters()} == {dtype}
    assert report.max_error is not None
    assert report.max_error < 1e-12
    assert_same(model.double(), converted.double(), rtol=10 * torch.finfo(dtype).eps)
