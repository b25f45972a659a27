"""Hazards of dtypes, devices and kinds of tensors."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reparamkit
from tests.hazards.models import Block, C, bn, same, seq
from tests.hazards.row import hazard
from tests.hazards.told import raises
from tests.helpers import (
    IMAGES,
    Fn,
    branches,
    convert_as_is,
    counts,
    inputs,
    places,
    randomize,
    unchanged,
)


@hazard("E1", "half precision, or another default dtype", "dtype and device of the source")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_e01_dtypes_of_the_source(dtype: torch.dtype) -> None:
    model = randomize(seq(Block(), Block())).to(dtype)
    converted = reparamkit.apply(model)
    assert counts(converted) == (2, 0)
    assert {p.dtype for p in converted.parameters()} == {dtype}


def test_e01_the_default_dtype_does_not_matter() -> None:
    model = randomize(Block())
    torch.set_default_dtype(torch.float64)
    try:
        converted = reparamkit.apply(model)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {p.dtype for p in converted.parameters()} == {torch.float32}


@hazard("E2", "folding in half precision", "folded in float64, rounded once")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_e02_numbers_are_folded_in_float64_and_rounded_once(dtype: torch.dtype) -> None:
    model = randomize(seq(same(), bn())).to(dtype)
    conv, norm = copy.deepcopy(model).double()
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    converted = reparamkit.apply(model)
    wanted = (conv.weight * scale.reshape(-1, 1, 1, 1)).to(dtype)
    assert torch.equal(converted[0].weight, wanted)
    assert torch.equal(converted[0].bias, ((conv.bias - norm.running_mean) * scale + norm.bias).to(dtype))


@hazard("E3", "folding overflows", "refused", "RK501")
def test_e03_overflow_made_by_folding_is_refused() -> None:
    model = randomize(seq(same(), bn()))
    with torch.no_grad():
        model[0].weight.fill_(2.0)
        model[1].weight.fill_(300.0)
        model[1].running_var.fill_(1e-7)
    model.half()
    with unchanged(model):
        converted, report = reparamkit.apply(model, return_report=True)
    assert places(report, "RK501") == ["1"]
    assert counts(converted) == (1, 1)
    assert converted(inputs(IMAGES[0], dtype=torch.float16)).dtype == torch.float16


@hazard(
    "E4",
    "a bfloat16 convolution and a float32 batch norm",
    "merged in the dtype of the convolution; the report notes it",
)
def test_e04_a_conv_in_half_precision_and_a_batch_norm_in_full() -> None:
    model = randomize(seq(same(), bn()))
    model[0].bfloat16()
    converted, report = reparamkit.apply(model, return_report=True)
    assert counts(converted) == (1, 0)
    assert report.notes == ("0: float32 parameters went into a bfloat16 kernel, rounded to it",)
    x = inputs(IMAGES[0], dtype=torch.bfloat16)
    assert converted(x).dtype == model(x).dtype == torch.bfloat16


@hazard("E5", "branches of different dtypes", "refused", "RK503")
def test_e05_branches_of_different_dtypes() -> None:
    model = randomize(Fn(lambda m, x: m.f(x) * m.g + x, f=same(), g=nn.Parameter(torch.ones(C, 1, 1)))).float()
    model.g = nn.Parameter(model.g.double())
    with unchanged(model):
        converted, report = reparamkit.apply(model, return_report=True)
    x = inputs(IMAGES[0], dtype=torch.float32)
    assert converted(x).dtype == model(x).dtype == torch.float64
    assert places(report, "RK503") == ["mul", "add"]


@hazard("E6", "complex weights", "refused", "RK503")
def test_e06_complex_weights_are_left_alone() -> None:
    model = branches(same(dtype=torch.complex64), same(1, dtype=torch.complex64)).eval()
    with unchanged(model):
        converted, report = reparamkit.apply(model, return_report=True)
    assert counts(converted) == (2, 0)
    assert set(places(report, "RK503")) == {"all.0", "all.1"}


class Wrapped(Tensor):
    """A tensor type of somebody else's (quantisation, sharding)."""

    def __deepcopy__(self, memo: Any) -> Any:
        return self


@hazard("E7", "weights of a foreign tensor type: quantized, subclasses", "refused", "RK503")
def test_e07_weights_of_a_foreign_tensor_type() -> None:
    model = seq(same(), bn())
    randomize(model).double()
    model[0].weight = nn.Parameter(model[0].weight.detach().as_subclass(Wrapped))
    assert type(model[0].weight.data) is Wrapped
    converted, report = convert_as_is(model)
    assert report.merged == ()
    assert counts(converted) == (1, 1)
    assert places(report, "RK503") == ["0"]


@hazard("E8", "weights on the meta device", "error with the name of the weight", "RK505")
def test_e08_weights_on_the_meta_device() -> None:
    model = seq(Block(), same()).eval().to("meta")
    with raises("RK505", "0.dense.0.weight"):
        reparamkit.apply(model)
