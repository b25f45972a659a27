"""What single rules answer, and what they say where they answer nothing: mutants of each of these lines once lived."""

from __future__ import annotations

import operator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from reparamkit.answers import Call, Cat, Through
from reparamkit.errors import Refusal
from reparamkit.operators import Conv, Layout, Scale, stencil
from reparamkit.operators import conv as conv_of
from reparamkit.rules import (
    averaging,
    blend,
    concat,
    conv_bn,
    einsum,
    identity_to_conv,
    layout,
    linear,
    rearrange,
    regroup,
    scale,
    sizes,
    stacked,
)
from reparamkit.rules.constants import per_channel
from tests.helpers import Fn, convert, counts
from tests.test_rule_conditions import INPUT, call, context, refused

FILTER = stencil(torch.ones(3, 3), padding=((1, 1), (1, 1)))


@pytest.mark.parametrize("rank", [None, 1])
def test_values_without_channels_are_not_stacked_side_by_side(rank: int | None) -> None:
    refused(concat.lift_hstack(Call(([INPUT, INPUT],), {}, lambda item: item is INPUT), context(rank)), "RK331")
    said = concat.lift_hstack(Call(([INPUT, INPUT],), {}, lambda item: item is INPUT), context(2))
    assert isinstance(said, Cat)
    assert said.dim == 1


def test_a_choice_between_constants_is_none_of_the_input() -> None:
    mask = torch.tensor([True, False, True]).view(3, 1, 1)
    constants = Call((mask, torch.ones(3, 1, 1), torch.zeros(3, 1, 1)), {}, lambda item: item is INPUT)
    refused(blend.lift_where(constants, context(4)), "RK331")
    assert isinstance(blend.lift_where(Call((mask, INPUT, 0.0), {}, constants.is_input), context(4)), Through)


def test_dots_for_different_numbers_of_axes_are_not_read() -> None:
    values = [SimpleNamespace(rank=4), SimpleNamespace(rank=3)]
    assert einsum._without_dots(["...c", "...d", "...d"], values) is None
    letters = einsum._without_dots(["...c", "...d", "...d"], [values[0], values[0]])
    assert letters is not None
    assert [len(part) for part in letters] == [4, 4, 4]


@pytest.mark.parametrize(
    ("equation", "shape", "merges"),
    [
        ("oc,nchw->nohw", (2, 4, 5, 6), True),
        ("oc,nhwc->nhwo", (2, 5, 6, 4), True),
        ("oc,cnhw->onhw", (4, 2, 5, 6), False),
        ("oc,nhcw->nhow", (2, 5, 4, 6), False),
    ],
)
def test_a_letter_for_another_is_a_layer_along_the_second_axis_and_the_last(
    equation: str, shape: tuple[int, ...], merges: bool
) -> None:
    said = einsum.lift_einsum(Call((equation, torch.ones(4, 4), INPUT), {}, lambda item: item is INPUT), context(4))
    assert isinstance(said, Through) is merges
    model = Fn(lambda m, x: torch.einsum(equation, m.two, torch.einsum(equation, m.one, x)))
    model.one, model.two = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    _, report = convert(model, shape, example_inputs=torch.randn(shape, dtype=torch.float64))
    assert bool(report.merged) is merges


def test_an_axis_that_is_moved_is_a_permutation() -> None:
    said = layout.lift_movedim(call(1, -1), context(4))
    assert isinstance(said, Through)
    assert isinstance(said.op, Layout)
    assert said.op.rank == 4
    assert sorted(said.op.moves) == [(0, 1), (1, 2), (2, 0), (3, 3)]


@pytest.mark.parametrize("rank", [4, 5])
def test_a_mean_over_the_positions_makes_fewer_of_them(rank: int) -> None:
    behind = list(range(2, rank))
    for dims, resizes in ((behind, "fewer"), (behind[:-1], ""), ([1, *behind[1:]], ""), ([0, *behind], "")):
        said = averaging.spatial_mean(INPUT, dims, False, rank)
        assert isinstance(said, Through)
        assert isinstance(said.op, Layout)
        assert said.op.resizes == resizes, dims


SIZED: dict[str, Any] = {
    "pooling": (averaging._adaptive(2), "output_size", 1),
    "pixel shuffle": (regroup._functional("upscale_factor", joined=True), "upscale_factor", 2),
    "pixel unshuffle": (regroup._functional("downscale_factor", joined=False), "downscale_factor", 2),
}


@pytest.mark.parametrize("what", SIZED)
def test_a_size_is_given_by_position_or_by_name(what: str) -> None:
    lift, name, size = SIZED[what]
    for said in (lift(call(size), context(4)), lift(call(**{name: size}), context(4))):
        assert isinstance(said, Through)
        assert isinstance(said.op, Layout)


def test_what_a_functional_pixel_shuffle_does_to_a_norm() -> None:
    model = Fn(lambda m, x: m.norm(F.pixel_shuffle(m.conv(x), 2)), conv=nn.Conv2d(4, 8, 1), norm=nn.BatchNorm2d(2))
    assert counts(convert(model)[0]) == (1, 0)
    back = Fn(lambda m, x: m.conv(F.pixel_unshuffle(m.norm(x), 2)), conv=nn.Conv2d(16, 4, 1), norm=nn.BatchNorm2d(4))
    assert counts(convert(back, (1, 4, 6, 8))[0]) == (1, 0)


def test_axes_that_a_constant_may_add() -> None:
    refused(per_channel(torch.ones(1, 1, 1), None), "RK203")
    assert not isinstance(per_channel(torch.ones(1, 1, 1), 4), Refusal)


def test_what_a_scale_beside_another_number_of_axes_is() -> None:
    rows = Scale(torch.ones(4, dtype=torch.float64), None, 1)
    images = conv_of(torch.ones(4, 4, 1, 1), padding=((0, 0), (0, 0)))
    refused(identity_to_conv._as_conv(rows, images), "RK310")
    refused(scale._after_stencil(rows, FILTER), "RK310")
    assert isinstance(identity_to_conv._as_conv(Scale(rows.scale, None, 2), images), Conv)
    assert isinstance(scale._after_stencil(Scale(rows.scale, None, 2), FILTER), Conv)


def test_a_layer_whose_weight_is_not_a_matrix_of_numbers() -> None:
    refused(linear.lift_functional(call(torch.ones(4, 4, 1)), context(3)), "RK331")
    for weight, code in ((torch.ones(4, 4, dtype=torch.complex64), "RK503"), (torch.ones(4, 4, 1), "RK310")):
        refused(linear.lift_linear(SimpleNamespace(weight=weight, bias=None), context(3)), code)


def test_a_stack_of_constants_and_one_along_an_unknown_axis() -> None:
    for given, dim in (([INPUT, torch.ones(3)], 0), ([INPUT, INPUT], INPUT), (INPUT, 0)):
        refused(stacked.lift_stack(Call((given, dim), {}, lambda item: item is INPUT), context(4)), "RK331")


def test_statistics_that_depend_on_the_input() -> None:
    said = conv_bn.lift_functional(call(INPUT, torch.ones(4)), context(4))
    refused(said, "RK331")
    assert isinstance(said, Refusal)
    assert "statistics depend on the input" in said.reason


def test_a_constant_in_front_of_a_stack_has_its_count_along_the_axis() -> None:
    assert stacked._widened(torch.ones(1, 4, 1, 1), 0, 3) == [3, 4, 1, 1]
    assert stacked._widened(torch.ones(3, 4, 1, 1), 0, 3) == [3, 4, 1, 1]


@pytest.mark.parametrize("pattern", ["b c h w", "b c -> b c -> c b", "b ... -> ... b", "b 1 c -> b c", None])
def test_patterns_that_are_not_read(pattern: Any) -> None:
    assert rearrange.sides(pattern) is None
    assert rearrange.sides("b (h w) -> h b w") == ([("b",), ("h", "w")], [("h",), ("b",), ("w",)])


def test_the_entries_of_a_shape_are_those_of_the_value_it_is_of() -> None:
    graph = fx.Graph()
    read = graph.placeholder("x")
    whole = graph.call_function(getattr, (read, "shape"))
    rest = graph.call_function(operator.getitem, (whole, slice(1, None)))
    value = SimpleNamespace(rank=3, node=read, inputs=[])
    shape = SimpleNamespace(node=whole, inputs=[value])
    assert sizes._entries(shape) == [(value, 0), (value, 1), (value, 2)]
    assert sizes._entries(SimpleNamespace(node=rest, inputs=[shape])) == [(value, 1), (value, 2)]
    assert sizes._entries(3) == [3]
