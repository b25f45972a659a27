"""What a forward of the deploy form does, counted: never more than the author's deploy form does."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import reparamkit
from reparamkit.bench.memory import peak_activations
from reparamkit.testing import randomize
from tests.helpers import Fn, assert_same, conv_bn, convert, counts, inputs
from tests.zoo import timm_model, ultralytics_model


class Counting(TorchDispatchMode):
    """ATen calls, and bytes of the results that have memory of their own."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ops = self.allocated = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.ops += 1
        inputs = {t.untyped_storage()._cdata for t in args if isinstance(t, Tensor)}
        if isinstance(result, Tensor) and result.untyped_storage()._cdata not in inputs:
            self.allocated += result.untyped_storage().nbytes()
        return result


def work(model: nn.Module, x: Tensor) -> tuple[int, int, int]:
    """ATen calls, bytes allocated and peak of live bytes of one forward, its caches filled."""
    with torch.no_grad():
        model(x)
        with Counting() as counting:
            model(x)
    return counting.ops, counting.allocated, peak_activations(model, (x,))


def author(model: Any) -> nn.Module:
    """Timm's `reparameterize_model` or ultralytics' `fuse`, of a copy."""
    twin = copy.deepcopy(model)
    if hasattr(twin, "fuse") and type(twin).__module__.startswith("ultralytics"):
        return twin.fuse(verbose=False)
    from timm.utils.model import reparameterize_model

    return reparameterize_model(twin, inplace=True)


def build(name: str) -> nn.Module:
    pytest.importorskip("ultralytics" if name.startswith("yolo") else "timm")
    model: Any = ultralytics_model(name) if name.startswith("yolo") else timm_model(name)
    if name == "yolov10n":
        model.model[-1].fuse()  # drops the head that is there for training only, as the author's `fuse` does
    return model


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("name", "share"),  # of the author's ATen calls, at most
    [
        ("repvgg_a0", 1),
        ("repvgg_b1", 1),
        ("mobileone_s0", 1),
        ("mobileone_s1", 1),
        ("fastvit_t8", 0.83),
        ("repvit_m1", 1),
        ("repghostnet_100", 0.65),
        ("yolov9t", 1),
        ("yolov10n", 1),
        ("resnet50", 0.6),
        ("efficientnet_b0", 0.7),
    ],
)
def test_deploy_form_does_no_more_than_the_authors(name: str, share: float) -> None:
    model, x = build(name), inputs((1, 3, 64, 64), dtype=torch.float32)
    theirs, ours = work(author(model), x), work(reparamkit.apply(model), x)
    assert ours[0] <= share * theirs[0]
    assert ours[1] <= theirs[1]
    assert ours[2] <= theirs[2]


ADDED_ZERO = {
    "0 + x": lambda m, x: torch.relu(0 + m.bn(m.conv(x))),
    "x + 0": lambda m, x: torch.relu(m.bn(m.conv(x)) + 0),
    "x += 0": lambda m, x: torch.relu(_iadd(0, m.bn(m.conv(x)))),
    "sum": lambda m, x: torch.relu(sum([m.bn(m.conv(x))])),
    "1 * x": lambda m, x: torch.relu(1 * m.bn(m.conv(x))),
}


def _iadd(start: Any, x: Any) -> Any:
    start += x
    start += 0
    return start


@pytest.mark.parametrize("run", ADDED_ZERO.values(), ids=list(ADDED_ZERO))
def test_arithmetic_that_changes_nothing_goes_with_the_merge_beside_it(run: Any) -> None:
    conv, bn = conv_bn(4, 4, 3, padding=1)
    model = randomize(Fn(run, conv=conv, bn=bn)).double()
    merged = reparamkit.apply(model)
    assert_same(model, merged)
    assert work(merged, inputs((1, 4, 7, 7)))[0] == 2  # a convolution and a relu


def test_arithmetic_that_changes_nothing_is_no_merge_by_itself() -> None:
    model = randomize(Fn(lambda m, x: torch.relu(0 + m.conv(x)), conv=nn.Conv2d(4, 4, 3))).double()
    _, report = reparamkit.apply(model, return_report=True)
    assert not report.merged


def test_a_zero_that_someone_else_reads_stays() -> None:
    """``y`` is read as well: in place of ``y + 0`` it would be the tensor that is changed in place behind it."""

    def run(m: Any, x: Tensor) -> Tensor:
        y = m.bn(m.conv(x))
        z = y + 0
        z.relu_()
        return y - z

    conv, bn = conv_bn(4, 4, 3, padding=1)
    model = randomize(Fn(run, conv=conv, bn=bn)).double()
    assert_same(model, reparamkit.apply(model))


CROPS: dict[str, Any] = {
    "one side": lambda x: x[:, :, :, 1:],
    "both sides of an axis": lambda x: x[:, :, 1:-1],
    "all sides": lambda x: x[:, :, 1:-1, 1:-1],
    "every other": lambda x: x[:, :, ::2, ::2],
}


@pytest.mark.parametrize("how", CROPS)
def test_a_crop_in_front_of_a_scale_and_a_norm_is_no_convolution(how: str) -> None:
    """A crop is a view; what it leaves out would be computed as taps of zero."""
    model = Fn(lambda m, x: m.bn(CROPS[how](x) * m.g), bn=nn.BatchNorm2d(4), g=nn.Parameter(torch.ones(1, 4, 1, 1)))
    deploy, report = convert(model)
    assert counts(deploy) == (0, 1)
    assert not report.merged


@pytest.mark.parametrize("how", [name for name in CROPS if name != "one side"])
def test_a_crop_behind_a_convolution_goes_into_it(how: str) -> None:
    """Not on one side: padding that is not even is written out in front of the convolution."""
    model = Fn(lambda m, x: m.bn(CROPS[how](m.conv(x))), conv=nn.Conv2d(4, 4, 3, padding=1), bn=nn.BatchNorm2d(4))
    deploy, report = convert(model)
    assert counts(deploy) == (1, 0)
    assert "getitem" in report.merged[0].before
