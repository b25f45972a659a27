"""Operators by themselves, and lift rules on what no model brings them: the numbers, and the refusal."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reparamkit
from reparamkit.answers import Call
from reparamkit.errors import Refusal
from reparamkit.operators import Layout, Scale, joined, stencil, vector
from reparamkit.operators import weight as w
from reparamkit.operators.conv import padded
from reparamkit.rules import linear, no_op
from reparamkit.rules.straight import straight
from reparamkit.testing import randomize
from tests.helpers import Fn, convert, counts


def test_padding_with_a_value_for_each_channel() -> None:
    x = torch.randn(2, 3, 3, 4, dtype=torch.float64)
    value = torch.tensor([5.0, 6.0, 7.0], dtype=torch.float64)
    wanted = torch.stack([F.pad(x[:, c], (0, 2, 1, 0), value=float(value[c])) for c in range(3)], 1)
    torch.testing.assert_close(padded(x, ((1, 0), (0, 2)), "zeros", vector(value)), wanted)


def test_a_filter_is_one_of_one_channel_that_pads_nothing() -> None:
    one = stencil(torch.ones(3, 2)).one
    assert one.weight.shape == (1, 1, 3, 2)
    assert (one.stride, one.padding, one.dilation) == ((1, 1), ((0, 0), (0, 0)), (1, 1))


def test_rows_that_are_chosen_are_scaled_one_by_one() -> None:
    kernel, base = torch.randn(5, 2, 3, dtype=torch.float64), torch.randn(2, 2, 3, dtype=torch.float64)
    scale = torch.tensor([2.0, -3.0], dtype=torch.float64)
    chosen = w.scaled(joined.selected(w.given(kernel), torch.tensor([4, 1])), scale)
    wanted = base + kernel[[4, 1]] * scale[:, None, None]
    torch.testing.assert_close(joined.summed(w.given(base), chosen).dense(), wanted)


@pytest.mark.parametrize(("nd", "wanted"), [(None, None), (0, 2)])
def test_a_scale_between_a_permutation_and_its_inverse(nd: int | None, wanted: int | None) -> None:
    front = Layout(((2, 0), (1, 2), (0, 1), (3, 3)), rank=4)  # the channels become the last axis
    back = Layout(tuple((b, a) for a, b in front.moves), rank=4)
    made = straight(Scale(torch.full((4,), 2.0), nd=nd), front, back)
    assert isinstance(made, Scale)
    assert made.nd == wanted
    assert straight(Scale(), front, front) is None


def call(*args: Any, **kwargs: Any) -> Call:
    return Call(args, kwargs, lambda value: isinstance(value, str))  # texts stand for values of a forward


@pytest.mark.parametrize(
    ("given", "merged"),
    [
        (call("x"), False),
        (call("x", 0.5), False),
        (call("x", training=True), False),
        (call("x", 0), True),
        (call("x", 0.5, False), True),
        (call(input="x", training=False), True),
    ],
)
def test_dropout_is_active_unless_it_is_told_otherwise(given: Call, merged: bool) -> None:
    said = no_op.lift_dropout(given, None)  # type: ignore[arg-type]
    assert isinstance(said, Refusal) is not merged
    assert merged or said.code == "RK202"  # type: ignore[union-attr]


def test_a_linear_function_with_a_kernel_of_another_kind() -> None:
    said = linear.lift_functional(call("x", torch.ones(3, 4, dtype=torch.complex64)), None)  # type: ignore[arg-type]
    assert isinstance(said, Refusal)
    assert said.code.startswith("RK5")


@pytest.mark.parametrize("name", ["running_mean", "running_var", "weight", "bias"])
def test_numbers_of_a_batch_norm_that_are_none_are_named(name: str) -> None:
    model = randomize(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    with torch.no_grad():
        getattr(model[1], name)[2] = float("nan")
    refusals = reparamkit.plan(model).refusals
    assert [r.code for r in refusals] == ["RK210"]
    assert re.search(rf"\b{name}\b", refusals[0].reason)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_a_norm_behind_an_interpolation_goes_into_the_layer_before_it(mode: str) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.norm(F.interpolate(m.conv(x), scale_factor=2.0, mode=mode))

    converted, _ = convert(Fn(run, conv=nn.Conv2d(4, 4, 3, padding=1), norm=nn.BatchNorm2d(4)))
    assert counts(converted) == (1, 0)


def test_a_refusal_has_a_code_and_a_reason() -> None:
    for code, reason in (("RK999", "because"), ("", ""), (None, "because"), ("RK331", None)):
        with pytest.raises(ValueError, match="expected a code"):
            Refusal(code, reason)  # type: ignore[arg-type]
