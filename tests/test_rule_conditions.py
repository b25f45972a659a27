"""Conditions of single rules, asked one by one: mutants of each of these lines once lived."""

from __future__ import annotations

import operator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reparamkit.answers import Call, Tail, Through
from reparamkit.errors import Refusal
from reparamkit.operators import Conv, Layout, Scale, Stencil, stencil
from reparamkit.operators import conv as conv_of
from reparamkit.rules import (
    arithmetic,
    border,
    conv,
    dilation,
    homogeneous,
    identity_to_conv,
    layout,
    linear,
    norm_affine,
    pad,
    pooling,
    product,
    regroup,
    shuffle,
    sizes,
    spread,
)
from reparamkit.rules.constants import per_channel, shifting
from reparamkit.rules.usable import unusable
from tests.hazards.test_codes import reasons
from tests.helpers import Fn, branches, codes, convert, counts

INPUT = SimpleNamespace(rank=4)
META = torch.ones(4, 4, 3, 3, device="meta")


def call(*args: Any, **kwargs: Any) -> Call:
    return Call((INPUT, *args), kwargs, lambda item: item is INPUT)


def context(rank: int | None) -> Any:
    return SimpleNamespace(rank=rank, ones=())


def refused(said: Any, code: str) -> None:
    assert isinstance(said, Refusal), said
    assert said.code == code


def filter_of(taps: int, step: int) -> Stencil:
    one = stencil(torch.ones(taps), padding=((0, 0),))
    return Stencil(conv_of(one.one.weight.dense(), padding=((0, 0),), dilation=(step,)))


@pytest.mark.parametrize("kind", ["border", "convolution", "linear map"])
def test_weights_that_are_not_there_are_refused_wherever_they_are_given(kind: str) -> None:
    said: Any = {
        "border": lambda: border.lift_bordered(call([1, 1], META[0, 0, 0]), context(4)),
        "convolution": lambda: conv.lift_functional(call(META), context(4)),
        "linear map": lambda: linear.lift_functional(call(META[:, :, 0, 0]), context(3)),
    }[kind]()
    refused(said, "RK505")


def test_a_weight_that_is_computed_from_the_input_is_no_weight() -> None:
    refused(linear.lift_functional(call(INPUT), context(3)), "RK331")
    refused(linear.lift_functional(call(torch.ones(4, 4), INPUT), context(3)), "RK331")
    refused(conv.lift_functional(call(INPUT), context(4)), "RK331")
    for at in range(2):
        refused(pooling._functional(2)(call(*[2] * at, INPUT), context(4)), "RK331")


@pytest.mark.parametrize("axis", [2, 3, 4])
def test_a_constant_along_an_axis_behind_the_channels(axis: int) -> None:
    shape = [1] * 5
    shape[axis] = 4
    refused(per_channel(torch.ones(shape), 5), "RK310")
    shape = [1] * 5
    shape[1] = 4
    found = per_channel(torch.ones(shape), 5)
    assert not isinstance(found, Refusal)
    assert found[1] == 3


def test_filters_that_already_have_one_grid_stay_as_they_are() -> None:
    wide, fine = filter_of(3, 2), filter_of(3, 1)
    a, b = dilation.align(wide, fine)
    assert b is fine
    assert isinstance(a, Stencil)
    assert (a.one.kernel_size, a.one.dilation) == ((5,), (1,))
    again, other = dilation.align(fine, wide)
    assert again is fine
    assert isinstance(other, Stencil)
    assert other.one.kernel_size == (5,)


def test_a_scale_of_each_channel_beside_a_filter_makes_both_convolutions() -> None:
    channels = Scale(torch.arange(1.0, 5.0, dtype=torch.float64))
    made = identity_to_conv.align(channels, filter_of(3, 1))
    assert not isinstance(made, Refusal)
    assert [type(op) for op in made] == [Conv, Conv]
    made = identity_to_conv.align(Scale(torch.tensor(2.0, dtype=torch.float64)), filter_of(3, 1))
    assert not isinstance(made, Refusal)
    assert [type(op) for op in made] == [Stencil, Stencil]


@pytest.mark.parametrize("rank", [3, 4, 5])
def test_the_affine_of_a_group_norm_stands_at_the_channels(rank: int) -> None:
    said = norm_affine.lift_group_norm(nn.GroupNorm(2, 4), context(rank))
    assert isinstance(said, Tail)
    assert said.op.nd == rank - 2
    refused(norm_affine.lift_group_norm(nn.GroupNorm(2, 4), context(None)), "RK203")


def test_a_layer_of_the_last_axis_takes_no_group_norm() -> None:
    recipe = {"version": 1, "name": "n", "blocks": [{"match": {"structure": "any"}, "rules": ["core/norm_affine"]}]}
    model = nn.Sequential(nn.GroupNorm(2, 4), nn.Linear(4, 4))
    x = torch.randn(2, 4, 5, 4, dtype=torch.float64)
    _, report = convert(model, (2, 4, 5, 4), recipe=recipe, example_inputs=x)
    assert not report.merged


@pytest.mark.parametrize(("pads", "nd"), [((1,), 2), ((1, 1, 1), 2), ((1, 1, 1, 1), 1), ((1,) * 6, 2)])
def test_padding_is_given_in_pairs_for_spatial_axes(pads: tuple[int, ...], nd: int) -> None:
    refused(pad.padding(pads, "constant", 0.0, nd), "RK310")
    assert isinstance(pad.padding((1, 1), "constant", 0.0, nd), Stencil)


SLICED = {
    "of a layer": lambda m, y: m.one(m.deep(y[:, :4])[:, 1:3]),
    "of a pool": lambda m, y: m.one(m.pool(y[:, :4])[:, 1:3]),
    "of a scale": lambda m, y: m.one((y[:, :4] * 2)[:, 1:3]),
    "of a slice": lambda m, y: m.one(y[:, 2:6][:, :2] * 3),
}


@pytest.mark.parametrize("run", SLICED.values(), ids=SLICED)
def test_a_slice_of_a_slice(run: Any) -> None:
    """One layer; that the second slice is of the first, not of the input, shows in the numbers."""
    layers: dict[str, nn.Module] = {"deep": nn.Conv2d(4, 4, 3, padding=1, groups=4), "one": nn.Conv2d(2, 3, 1)}
    layers |= {"stem": nn.Conv2d(8, 8, 1, bias=False), "pool": nn.AvgPool2d(2)}
    _, report = convert(Fn(lambda m, x: run(m, m.stem(x)), **layers), (2, 8, 6, 6), policy="always")
    (merged,) = report.merged
    assert "2 getitem" in merged.before


@pytest.mark.parametrize("act", [F.relu, torch.tanh, lambda y: y.relu(), nn.ReLU()])
def test_channels_are_shuffled_in_front_of_an_activation(act: Any) -> None:
    model = Fn(lambda m, x: m.last(act(torch.channel_shuffle(m.first(x), 2))))
    model.first, model.last = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1)
    _, report = convert(model, (2, 4, 6, 6), policy="always")
    assert any("core/shuffle" in m.rules for m in report.merged)


@pytest.mark.parametrize("rank", [None, 2])
def test_channels_of_what_has_no_positions_are_not_shuffled(rank: int | None) -> None:
    refused(shuffle.ordered(SimpleNamespace(chain=lambda: iter(())), [1, 0], 2, context(rank)), "RK331")


def test_a_pooling_moves_by_its_window_unless_it_is_told_otherwise() -> None:
    said = pooling._functional(2)(call(3), context(4))
    assert isinstance(said, Through)
    assert said.op.one.stride == (3, 3)  # type: ignore[union-attr]


def test_dividing_by_a_parameter_rounds_in_float64() -> None:
    divisor = torch.tensor([3.0, 7.0, 0.1], dtype=torch.float32)
    said = product.lift_div(call(divisor.view(3, 1, 1)), context(4))
    assert isinstance(said, Through)
    assert torch.equal(said.op.scale.flatten(), 1 / divisor.double())  # type: ignore[union-attr]


@pytest.mark.parametrize("size", [lambda y, s: (s[0], s[1], -1), lambda y, s: (y.shape[0], y.shape[1], -1)])
def test_a_size_is_asked_for_in_either_way(size: Any) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.stem(x)
        return m.norm(y.view(size(y, y.size())))  # type: ignore[no-any-return]

    converted, _ = convert(Fn(run, stem=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm1d(4)), (2, 3, 6, 6))
    assert counts(converted) == (1, 0)


def test_a_size_of_what_has_other_channels_is_none_of_the_channels() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.stem(x)
        return m.norm(y.view(x.size(0), x.size(1), -1))  # type: ignore[no-any-return]

    converted, _ = convert(Fn(run, stem=nn.Conv2d(4, 8, 3), norm=nn.BatchNorm1d(4)), (2, 4, 6, 6))
    assert counts(converted) == (1, 1)


def value(op: Any, rules: frozenset[str], split: Any = None, tail: Any = None) -> Any:
    return SimpleNamespace(
        term=SimpleNamespace(op=op, rules=rules, is_identity=False), parts=(), split=split, tail=tail
    )


def test_only_norms_are_spread() -> None:
    norm = frozenset({"core/conv_bn"})
    by = Scale(torch.ones(4, dtype=torch.float64))
    assert spread.may_spread(value(by, norm))
    assert spread.may_spread(value(by, frozenset(), tail=object()))
    assert not spread.may_spread(value(by, frozenset({"core/scale"})))
    assert not spread.may_spread(value(by, norm, split=object()))
    assert not spread.may_spread(value(conv_of(torch.ones(4, 4)), norm))


@pytest.mark.parametrize(
    ("factor", "merged"),
    [(lambda y: y * 2, True), (lambda y: y.mul(2), True), (lambda y: y / 4, True), (lambda y: y * -2, False)],
)
def test_a_positive_scale_goes_in_front_of_an_activation(factor: Any, merged: bool) -> None:
    model = Fn(lambda m, x: factor(torch.relu(m.conv(x))), conv=nn.Conv2d(4, 4, 3))
    _, report = convert(model, policy="always")
    assert any(homogeneous.RULE in m.rules for m in report.merged) is merged


def test_a_scale_with_a_shift_stays_behind_the_activation() -> None:
    model = Fn(lambda m, x: torch.relu(m.conv(x)) * 2 + 1, conv=nn.Conv2d(4, 4, 3))
    _, report = convert(model)
    assert not any("shift" in str(m) for m in report.merged)


class Quantity(Tensor):
    """A tensor of another kind."""


class MyDTensor(Tensor):
    """Named as torch's distributed tensors are."""


def test_tensors_of_other_kinds() -> None:
    plain = torch.ones(3)
    for kind, code in ((Quantity, "RK503"), (MyDTensor, "RK507")):
        said = unusable(plain, plain.as_subclass(kind))
        refused(said, code)
        assert said is not None
        assert kind.__name__ in said.reason
    said = unusable(torch.eye(3).to_sparse())
    refused(said, "RK503")
    assert said is not None
    assert "sparse" in said.reason


def test_a_concatenation_with_a_constant_is_left() -> None:
    model = Fn(lambda m, x: torch.cat([m.a(x), torch.ones(2, 4, 6, 6, dtype=x.dtype), m.b(x)], 1))
    model.a, model.b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
    _, report = convert(model, (2, 4, 6, 6))
    assert not report.merged
    assert codes(report) <= {"RK331", "RK318", "RK319", "RK604"}  # torch 2.6 does not trace the constant


def test_a_pooling_that_follows_the_size_of_its_input_is_left() -> None:
    model = Fn(lambda m, x: m.norm(F.avg_pool2d(m.conv(x), x.shape[-1] // 3)), conv=nn.Conv2d(4, 4, 1))
    model.norm = nn.BatchNorm2d(4)
    assert counts(convert(model, (2, 4, 6, 6))[0])[0] == 1


class Doubled(Tensor):
    """A tensor that computes something else than its numbers say."""


def test_a_norm_whose_scale_is_of_another_kind_is_left() -> None:
    norm: Any = SimpleNamespace(weight=torch.ones(4).as_subclass(Doubled), bias=torch.zeros(4))  # type: ignore[no-untyped-call]
    refused(norm_affine.lift_layer_norm(SimpleNamespace(normalized_shape=(4,), **vars(norm)), context(3)), "RK503")  # type: ignore[arg-type]


def test_a_reshape_that_mixes_channels_says_so() -> None:
    assert reasons(lambda m, x: m.a(x).reshape(-1, 2, 8))["reshape"] == "RK331"


@pytest.mark.parametrize("given", [((INPUT, -1), {}), ((INPUT,), {"dim": -1}), ((), {"input": INPUT, "dim": -1})])
def test_unsqueeze_is_called_by_position_or_by_name(given: tuple[Any, Any]) -> None:
    said = layout.lift_unsqueeze(Call(*given, lambda item: item is INPUT), context(4))
    assert isinstance(said, Through)
    assert isinstance(said.op, Layout)
    assert said.op.moves == ((0, 1), (1, 2), (2, 3), (3, 4))
    assert said.op.ones == (0,)


def test_axes_behind_the_channels_are_known_from_either_end_or_not_at_all() -> None:
    other = SimpleNamespace(chain=lambda: iter([other]), term=None)

    def value(layout: Layout) -> Any:
        term = SimpleNamespace(op=layout, rules=frozenset())
        made = SimpleNamespace(term=term, chain=lambda: iter([made, other]))
        return made

    assert sizes.kept_from(other, value(Layout(((0, 0),)))) is None


@pytest.mark.parametrize("rest", [(Ellipsis,), (slice(None),), (slice(None), Ellipsis), (slice(None), slice(None))])
def test_a_list_of_channels_with_all_positions_behind_it(rest: tuple[Any, ...]) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        return torch.tanh(m.conv(x)[(slice(None), [2, 0, 3], *rest)])

    converted, report = convert(Fn(run, conv=nn.Conv2d(4, 4, 3)))
    assert len(report.merged) == 1
    assert converted.reparam.out_channels == 3


@pytest.mark.parametrize("rest", [(slice(1, None),), (slice(None), slice(1, None)), (Ellipsis, slice(1, None))])
def test_a_list_of_channels_with_some_positions_behind_it_is_left(rest: tuple[Any, ...]) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        return torch.tanh(m.conv(x)[(slice(None), [2, 0, 3], *rest)])

    _, report = convert(Fn(run, conv=nn.Conv2d(4, 4, 3)))
    assert not report.merged


@pytest.mark.parametrize("groups", [1, 2])
def test_a_channel_shuffle_leaves_all_axes_where_they_are(groups: int) -> None:
    made = regroup.dealt(groups, 2)
    assert made.moves == ((0, 0), (1, 1), (2, 2), (3, 3))


def test_numbers_of_channels_are_followed_through_several_shuffles() -> None:
    values = torch.arange(12)
    twice = replace(regroup.dealt(2, 2), channels=(regroup.Dealt(2), regroup.Dealt(3)))
    behind = twice.values_after(values)
    assert behind is not None
    shuffled = nn.ChannelShuffle(3)(nn.ChannelShuffle(2)(values.view(1, 12, 1, 1).float())).flatten()
    assert behind.tolist() == shuffled.tolist()
    before = twice.values_before(behind)
    assert before is not None
    assert before.tolist() == values.tolist()
    assert twice.values_before(torch.arange(5)) is None


@pytest.mark.parametrize("left", [True, False])
def test_a_matrix_on_either_side(left: bool) -> None:
    value, matrix = SimpleNamespace(rank=3), torch.randn(4, 4)
    both = (matrix, value) if left else (value, matrix)
    said = linear.lift_matmul(Call(both, {}, lambda item: item is value), context(3))  # type: ignore[arg-type]
    assert isinstance(said, Through)
    assert isinstance(said.op, Conv)
    kernel = said.op.weight.dense()
    assert torch.equal(kernel.flatten(), (matrix if left else matrix.T).double().flatten())


def test_a_norm_whose_axes_are_flattened_and_put_back_goes_into_the_layer_behind() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        return torch.tanh(m.conv(m.norm(x).flatten(2).view_as(x)))

    converted, _ = convert(Fn(run, norm=nn.BatchNorm2d(4), conv=nn.Conv2d(4, 4, 3)))
    assert counts(converted) == (1, 0)


def test_numbers_that_one_shuffle_cannot_give_on_are_none_behind_the_next() -> None:
    """Half of the channels of a group cannot be scaled behind a pixel unshuffle that makes them one."""
    layout = Layout(((2, 2),), channels=(regroup.Grouped(2, 1), regroup.Dealt(2)))
    assert layout.values_after(torch.arange(8)) is None
    assert layout.values_after(torch.arange(4).repeat_interleave(2)) is not None
    turned = Layout(((2, 2),), channels=(regroup.Dealt(2), regroup.Grouped(1, 2)))
    assert turned.values_before(torch.arange(8)) is None
    assert turned.values_before(torch.arange(4).repeat_interleave(2)) is not None


def test_axes_of_one_position_are_those_of_the_last_step() -> None:
    first = Layout(((3, 2), (2, 1)), ones=(0,), resizes="same")
    then = Layout(((2, 3), (1, 1)), ones=(2, 0), resizes="same")
    assert first.then(then).ones == (2, 0)
    assert first.then(then).moves == ((3, 3), (2, 1))


@pytest.mark.parametrize(
    ("dims", "moves", "ones"),
    [
        (-1, ((3, 2), (2, 1), (1, 0)), (0,)),
        (2, ((3, 2), (2, 1), (0, 0)), (0,)),
        ((2, 3), ((3, 1), (2, 0)), ()),
    ],
)
def test_the_axes_that_a_squeeze_leaves(dims: Any, moves: Any, ones: Any) -> None:
    said = layout.lift_squeeze(call(dims), SimpleNamespace(rank=4, ones=(0, 1)))
    assert isinstance(said, Through)
    assert isinstance(said.op, Layout)
    assert (said.op.moves, said.op.ones, said.op.left) == (moves, ones, len(moves))


def test_a_shift_of_zeros_is_none_and_any_other_is_one() -> None:
    shifts = {number: shifting(INPUT, 2.0, number, 1.0) for number in (0.0, 3.0)}
    scales = {number: said.op for number, said in shifts.items() if isinstance(said, Through)}
    assert isinstance(scales[0.0], Scale)
    assert isinstance(scales[3.0], Scale)
    assert scales[0.0].shift is None
    assert scales[3.0].shift is not None
    assert float(scales[0.0].scale) == float(scales[3.0].scale) == 2.0
    of_channels = shifting(INPUT, 1.0, torch.zeros(4, 1, 1), 1.0)  # it says how many channels there are
    assert isinstance(of_channels, Through)
    assert isinstance(of_channels.op, Scale)
    assert of_channels.op.shift is not None


def traced(target: Any, *args: Any) -> Any:
    """A number of a forward that is computed from others, as rules see it."""
    inputs = [arg for arg in args if isinstance(arg, SimpleNamespace)]
    node = SimpleNamespace(op="call_function", target=target, args=tuple(getattr(a, "node", a) for a in args))
    return SimpleNamespace(node=node, inputs=inputs)


@pytest.mark.parametrize("rule", [operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv])
def test_a_number_with_an_unknown_part_is_unknown(rule: Any) -> None:
    known, unknown = traced(operator.add, 4, 8), traced(len, 3)
    assert arithmetic.number(traced(rule, known, 4)) == rule(12, 4)
    assert arithmetic.number(traced(rule, known, unknown)) is None
    assert arithmetic.number(traced(rule, unknown, known)) is None


@pytest.mark.parametrize("turned", [False, True])
def test_a_transposed_kernel_of_one_tap_fits_any_dilation(turned: bool) -> None:
    wide = nn.ConvTranspose2d(4, 4, 3, 2, padding=2, output_padding=1, dilation=2)
    point = nn.ConvTranspose2d(4, 4, 1, 2, output_padding=1, dilation=3)
    converted, _ = convert(branches(*([point, wide] if turned else [wide, point])))
    assert counts(converted) == (1, 0)
    assert converted.reparam.dilation == (2, 2)
    both = branches(wide, nn.ConvTranspose2d(4, 4, 3, 2, padding=3, output_padding=1, dilation=3))
    assert codes(convert(both, policy="always")[1]) == {"RK314"}
