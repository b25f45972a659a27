"""Hazards of padding, stride and dilation."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

from tests.hazards.models import C, bn, same, seq
from tests.hazards.row import hazard
from tests.helpers import Fn, branches, convert, counts, inputs, places

MODES = ("zeros", "reflect", "replicate", "circular")


@hazard("D1", "branches pad in different ways", "refused; a 1x1 without padding fits any", "RK312")
@pytest.mark.parametrize("one", MODES)
@pytest.mark.parametrize("other", MODES)
def test_d01_padding_modes(one: str, other: str) -> None:
    converted, report = convert(branches(same(5, padding_mode=one), same(padding_mode=other)))
    assert (counts(converted) == (1, 0)) is (one == other)
    assert places(report, "RK312") == ([] if one == other else ["add_1"])
    assert counts(convert(branches(same(padding_mode=one), same(1)))[0]) == (1, 0)


@hazard("D2", "a reflecting convolution is edited in place", "the padding that the module really uses is set with it")
@pytest.mark.parametrize("mode", MODES)
def test_d02_modules_pad_by_what_their_numbers_say(mode: str) -> None:
    converted, _ = convert(seq(same(1, bias=False), same(padding_mode=mode), bn()))
    assert counts(converted) == (1, 0)
    assert converted(inputs((1, C, 9, 8))).shape == (1, C, 9, 8)


@hazard("D3", "padding='same' with an even kernel", "merged with one padding for each side")
@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel")
@pytest.mark.parametrize("pair", [(2, 3), (4, 5), (2, 4), (3, 1), (4, 1)])
def test_d03_same_padding_of_even_kernels(pair: tuple[int, int]) -> None:
    model = branches(*[nn.Conv2d(C, C, k, padding="same") for k in pair])
    assert counts(convert(model, policy="always")[0]) == (1, 0)


@hazard("D4", "padding='valid'", "read as numbers")
def test_d04_valid_padding() -> None:
    model = Fn(
        lambda m, x: m.a(x) + m.b(x[:, :, 1:-1, 1:-1]),
        a=nn.Conv2d(C, C, 3, padding="valid"),
        b=nn.Conv2d(C, C, 1, padding="valid"),
    )
    assert counts(convert(model)[0]) == (1, 0)


@hazard("D6", "sizes agree at the example only", "refused, with an example too", "RK317")
@pytest.mark.parametrize("example", [None, inputs((1, C, 8, 8))])
def test_d06_sizes_that_agree_at_the_example_only(example: Tensor | None) -> None:
    model = branches(nn.Conv2d(C, C, 3, 2, 1), nn.Conv2d(C, C, 2, 2))
    converted, report = convert(model, (1, C, 8, 8), example_inputs=example)
    assert counts(converted) == (2, 0)
    assert places(report, "RK317") == ["add_1"]


@hazard("D7", "1x3 and 3x1 branches", "merged into 3x3: kernels are embedded by where their taps stand")
def test_d07_rectangular_union() -> None:
    model = branches(nn.Conv2d(C, C, (1, 3), padding=(0, 1)), nn.Conv2d(C, C, (3, 1), padding=(1, 0)))
    converted, _ = convert(model, policy="always")
    assert converted.reparam.kernel_size == (3, 3)


@hazard("D8", "strides differ", "refused", "RK313")
def test_d08_strides_that_differ() -> None:
    model = branches(nn.Conv2d(C, C, 1, 2), seq(nn.Conv2d(C, C, 1), nn.MaxPool2d(1, 2)))
    assert counts(convert(model)[0]) == (2, 0)
    model = branches(nn.Conv2d(C, C, 3, (2, 1), 1), nn.Conv2d(C, C, 3, (1, 2), 1))
    converted, report = convert(model, (1, C, 1, 1))
    assert counts(converted) == (2, 0)
    assert places(report, "RK313") == ["add_1"]


@hazard("D9", "strides differ from axis to axis", "merged")
def test_d09_uneven_strides() -> None:
    model = branches(nn.Conv2d(C, C, 3, (2, 1), 1), nn.Conv2d(C, C, 1, (2, 1)))
    assert counts(convert(model)[0]) == (1, 0)


@hazard("D10", "dilations differ", "merged on a common grid where that pays", "RK340")
@pytest.mark.parametrize("dilation", [2, 3])
def test_d10_dilations_that_differ(dilation: int) -> None:
    model = branches(same(), nn.Conv2d(C, C, 3, padding=dilation, dilation=dilation))
    assert counts(convert(model, policy="always")[0]) == (1, 0)
    converted, report = convert(model)
    assert counts(converted) == (2, 0)
    assert places(report, "RK340") == (["add_1"] if dilation == 2 else [])
