"""The algebra alone: whatever it merges computes the same, and what can be merged is merged."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from functools import reduce
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from reparamkit.errors import CODES, Refusal
from reparamkit.lower import lower, numbers, realizable
from reparamkit.operators import Conv, Operator, Scale, conv, conv_transpose, joined, placed, vector
from reparamkit.operators import weight as w
from reparamkit.operators.composed import composed
from reparamkit.operators.conv import with_groups
from reparamkit.term import Term
from tests import cases
from tests.cases import ALGEBRA, LIKE, RULES, assert_equal, attempt, draw, geometry, run, samples, term

pytestmark = pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel")
SHARE = 16 if "MUTANT_UNDER_TEST" in os.environ else 1  # mutmut runs them for each of its changes
COMPOSED = settings(max_examples=2500 // SHARE)
SUMS = settings(max_examples=2000 // SHARE)
LAWS = settings(max_examples=400 // SHARE)


def agree(made: Term, parts: list[Operator], channels: int, nd: int, reference: Any) -> None:
    """`made` computes `reference` of the parts wherever torch can compute them."""
    for x in samples(nd, channels):
        wanted = reference(x)
        if wanted is not None:
            assert_equal(wanted, run(made.op, x), [geometry(p) for p in parts])


def after(outer: Operator, inner: Operator, x: Tensor) -> Tensor | None:
    middle = attempt(inner, x)
    return None if middle is None else attempt(outer, middle)


def added(parts: list[Operator], x: Tensor) -> Tensor | None:
    results = [attempt(p, x) for p in parts]
    present = [r for r in results if r is not None]
    if len(present) < len(parts) or len({r.shape for r in present}) > 1:
        return None
    return reduce(torch.add, present)


def result_codes(seen: Counter[str], made: Term | Refusal) -> bool:
    """Count the outcome; whether it was merged."""
    if isinstance(made, Refusal):
        assert made.code in CODES
        assert made.reason
        seen[made.code] += 1
        return False
    seen["merged"] += 1
    return True


@st.composite
def pairs(pick: Any) -> tuple[int, int, Operator, Operator]:
    nd = pick(st.integers(0, 3))
    cin, middle = pick(st.sampled_from((1, 2, 4))), pick(st.sampled_from((1, 2, 4)))
    inner = pick(cases.operators(nd, cin, middle))
    outer = pick(cases.operators(nd, cases.out_channels(inner, cin), pick(st.sampled_from((1, 2, 4)))))
    return nd, cin, outer, inner


def test_composition_is_exact_or_refused() -> None:
    seen: Counter[str] = Counter()

    @COMPOSED
    @given(pairs())
    def law(case: tuple[int, int, Operator, Operator]) -> None:
        nd, cin, outer, inner = case
        made = ALGEBRA.compose(term(outer), term(inner))
        if result_codes(seen, made):
            assert isinstance(made, Term)
            agree(made, [outer, inner], cin, nd, lambda x: after(outer, inner, x))

    law()
    assert seen["merged"] > 0.4 * seen.total(), seen
    assert {"RK316", "RK319"} <= set(seen)


@st.composite
def summands(pick: Any) -> tuple[int, int, Operator, Operator]:
    """Two operators of one input; in half of the cases the second is a variation of the geometry of the first."""
    nd, cin = pick(st.integers(0, 3)), pick(st.sampled_from((2, 4)))
    first = pick(cases.operators(nd, cin, pick(st.sampled_from((cin, cin, 1, 4)))))
    if not isinstance(first, Conv) or pick(st.booleans()):
        return nd, cin, first, pick(cases.operators(nd, cin, cases.out_channels(first, cin)))
    second = pick(cases.convs(nd, (cin, first.out_channels), modes=(first.padding_mode,)))
    shifted = pick(st.integers(0, 2))
    surplus = [sum(p) - e for p, e in zip(first.padding, first.extent, strict=True)]
    padding = tuple((shifted, e + s - shifted) for e, s in zip(second.extent, surplus, strict=True))
    return nd, cin, first, replace(second, stride=first.stride, padding=padding)


def test_addition_is_exact_or_refused() -> None:
    seen: Counter[str] = Counter()

    @SUMS
    @given(summands())
    def law(case: tuple[int, int, Operator, Operator]) -> None:
        nd, cin, a, b = case
        made = ALGEBRA.add(term(a), term(b))
        if result_codes(seen, made):
            assert isinstance(made, Term)
            agree(made, [a, b], cin, nd, lambda x: added([a, b], x))

    law()
    assert seen["merged"] > 0.3 * seen.total(), seen
    assert {"RK313", "RK317", "RK319"} <= set(seen), seen


def test_what_broadcasts_is_not_added() -> None:
    one, four = conv(cases.numbers(0, 1, 4, 1, 1)), conv(cases.numbers(1, 4, 4, 1, 1))
    refused = ALGEBRA.add(term(one), term(four))
    assert isinstance(refused, Refusal)
    assert refused.code == "RK311"
    into_one = conv(cases.numbers(0, 1, 4, 1, 1))
    assert isinstance(ALGEBRA.add(term(into_one), Term(Scale())), Refusal)


def test_concatenation_is_exact_or_refused() -> None:
    seen: Counter[str] = Counter()

    @LAWS
    @given(summands(), st.data())
    def law(case: tuple[int, int, Operator, Operator], data: st.DataObject) -> None:
        nd, cin, a, b = case
        parts = [a, b, draw(data, cases.convs(nd, (cin, 2)))] if draw(data, st.integers(0, 3)) == 0 else [a, b]
        made = ALGEBRA.concat([term(p) for p in parts])
        if result_codes(seen, made):
            assert isinstance(made, Term)
            for x in samples(nd, cin):
                results = [attempt(p, x) for p in parts]
                present = [r for r in results if r is not None]
                if len(present) == len(parts) and len({r.shape[2:] for r in present}) == 1:
                    assert_equal(torch.cat(present, 1), run(made.op, x), [geometry(p) for p in parts])

    law()
    assert seen["merged"] > 0.2 * seen.total(), seen


@st.composite
def alike(pick: Any, /, count: int, **options: Any) -> tuple[int, int, list[Conv]]:
    """`count` convolutions of one input whose outputs line up: sizes, strides and modes agree, all else is free."""
    nd, cin, cout = pick(st.integers(1, 3)), pick(st.sampled_from((2, 4))), pick(st.sampled_from((2, 4)))
    stride = cases.per_axis(pick, nd, 1, 1, 2)
    surplus = tuple(pick(st.integers(-2, 1)) for _ in range(nd))
    mode = pick(st.sampled_from(("zeros", *cases.MODES)))
    made = []
    for _ in range(count):
        op = pick(cases.convs(nd, (cin, cout), pads=(0,), modes=(mode,), pad_values=False, **options))
        left = [pick(st.integers(-1, 2)) for _ in range(nd)]
        padding = tuple((p, e - 1 + s - p) for p, e, s in zip(left, op.extent, surplus, strict=True))
        made.append(replace(op, stride=stride, padding=padding))
    return nd, cin, made


@LAWS
@given(alike(2))
def test_branches_that_line_up_merge(case: tuple[int, int, list[Conv]]) -> None:
    nd, cin, parts = case
    made = ALGEBRA.add(*map(term, parts))
    assert isinstance(made, Term), made
    agree(made, list(parts), cin, nd, lambda x: added(list(parts), x))


@LAWS
@given(alike(2))
def test_addition_is_commutative(case: tuple[int, int, list[Conv]]) -> None:
    nd, cin, (a, b) = case
    one, other = ALGEBRA.add(term(a), term(b)), ALGEBRA.add(term(b), term(a))
    assert isinstance(one, Term)
    assert isinstance(other, Term)
    agree(one, [a, b], cin, nd, lambda x: attempt(other.op, x))


@LAWS
@given(alike(3))
def test_addition_is_associative(case: tuple[int, int, list[Conv]]) -> None:
    nd, cin, parts = case
    a, b, c = map(term, parts)
    ab, bc = ALGEBRA.add(a, b), ALGEBRA.add(b, c)
    assert isinstance(ab, Term)
    assert isinstance(bc, Term)
    left, right = ALGEBRA.add(ab, c), ALGEBRA.add(a, bc)
    assert isinstance(left, Term)
    assert isinstance(right, Term)
    agree(left, list(parts), cin, nd, lambda x: added(list(parts), x))
    agree(right, list(parts), cin, nd, lambda x: added(list(parts), x))


@LAWS
@given(st.data(), st.integers(1, 3))
def test_valid_compositions_merge_and_associate(data: st.DataObject, nd: int) -> None:
    """Convolutions behind the first read no padding: everything composes, in either order."""
    channels = [draw(data, st.sampled_from((2, 4))) for _ in range(4)]
    ops = [
        draw(data, cases.convs(nd, (channels[i], channels[i + 1]), pads=(-1, 0) if i else (0, 1, 2), pad_values=False))
        for i in range(3)
    ]
    a, b, c = (term(op) for op in reversed(ops))
    ab, bc = ALGEBRA.compose(a, b), ALGEBRA.compose(b, c)
    assert isinstance(ab, Term), ab
    assert isinstance(bc, Term), bc
    left, right = ALGEBRA.compose(ab, c), ALGEBRA.compose(a, bc)
    assert isinstance(left, Term), left
    assert isinstance(right, Term), right
    for made in (left, right):
        agree(made, list(ops), channels[0], nd, lambda x: after_all(ops, x))


def after_all(ops: list[Any], x: Tensor | None) -> Tensor | None:
    for op in ops:
        x = None if x is None else attempt(op, x)
    return x


@LAWS
@given(st.data(), st.integers(1, 3))
def test_a_pointwise_conv_without_bias_goes_into_a_padded_one(data: st.DataObject, nd: int) -> None:
    inner = draw(data, cases.convs(nd, (4, 2), kernels=(1,), strides=(1,), pads=(0,), bias=False, modes=("zeros",)))
    outer = draw(data, cases.convs(nd, (2, 4), pads=(0, 1, 2), pad_values=False))
    made = ALGEBRA.compose(term(outer), term(replace(inner, pad_value=None)))
    assert isinstance(made, Term), made
    agree(made, [outer, inner], 4, nd, lambda x: after(outer, inner, x))


@LAWS
@given(st.data(), st.integers(1, 3))
def test_padding_with_the_inner_bias_goes_into_the_inner_conv(data: st.DataObject, nd: int) -> None:
    """DBB's and ECBSR's border idiom; padding with anything else is refused."""
    options: dict[str, Any] = {"strides": (1,), "pads": (0,), "modes": ("zeros",), "pad_values": False}
    inner = draw(data, cases.convs(nd, (2, 4), kernels=(1,), bias=True, **options))
    outer = replace(draw(data, cases.convs(nd, (4, 2), **options)), padding=((1, 1),) * nd)
    assert inner.bias is not None
    right = replace(outer, pad_value=inner.bias)
    made = ALGEBRA.compose(term(right), term(inner))
    assert isinstance(made, Term), made
    agree(made, [right, inner], 2, nd, lambda x: after(right, inner, x))
    wrong = replace(outer, pad_value=vector(inner.bias.value + 0.1))
    refused = ALGEBRA.compose(term(wrong), term(inner))
    assert isinstance(refused, Refusal)
    assert refused.code == "RK316"


@LAWS
@given(st.data(), st.integers(0, 3))
def test_the_identity_is_neutral(data: st.DataObject, nd: int) -> None:
    op = draw(data, cases.operators(nd, 4, 2))
    identity = Term(Scale())
    for made in (ALGEBRA.compose(identity, term(op)), ALGEBRA.compose(term(op), identity)):
        assert isinstance(made, Term)
        assert made.op is op


@LAWS
@given(alike(2), st.data())
def test_scales_distribute_over_sums(case: tuple[int, int, list[Conv]], data: st.DataObject) -> None:
    nd, cin, (a, b) = case
    scale = term(draw(data, cases.scales(nd, a.out_channels, shift=False)))
    total, sa, sb = ALGEBRA.add(term(a), term(b)), ALGEBRA.compose(scale, term(a)), ALGEBRA.compose(scale, term(b))
    assert isinstance(total, Term)
    assert isinstance(sa, Term)
    assert isinstance(sb, Term)
    outside, inside = ALGEBRA.compose(scale, total), ALGEBRA.add(sa, sb)
    assert isinstance(outside, Term)
    assert isinstance(inside, Term)
    agree(outside, [a, b], cin, nd, lambda x: attempt(inside.op, x))
    agree(outside, [a, b], cin, nd, lambda x: reference_scaled(scale.op, [a, b], x))


def reference_scaled(scale: Operator, parts: list[Operator], x: Tensor) -> Tensor | None:
    summed = added(parts, x)
    return None if summed is None else run(scale, summed)


@LAWS
@given(alike(1), st.data())
def test_a_batch_norm_always_goes_into_the_conv_before_it(
    case: tuple[int, int, list[Conv]], data: st.DataObject
) -> None:
    nd, cin, (op,) = case
    scale = draw(data, cases.scales(nd, op.out_channels, shift=True))
    made = ALGEBRA.compose(term(scale), term(op))
    assert isinstance(made, Term), made
    agree(made, [scale, op], cin, nd, lambda x: after(scale, op, x))


@LAWS
@given(st.data(), st.integers(1, 3))
def test_scales_and_pointwise_convs_go_into_transposed_convs(data: st.DataObject, nd: int) -> None:
    up = draw(data, cases.transposed(nd, (4, 2)))
    pointwise: dict[str, Any] = {"kernels": (1,), "strides": (1,), "pads": (0,), "pad_values": False}
    behind = draw(data, st.one_of(cases.scales(nd, 2), cases.convs(nd, (2, 4), **pointwise)))
    before = draw(data, st.one_of(cases.scales(nd, 4, shift=False), cases.convs(nd, (4, 4), bias=False, **pointwise)))
    for outer, inner in ((behind, up), (up, before)):
        made = ALGEBRA.compose(term(outer), term(inner))
        assert isinstance(made, Term), made
        agree(made, [outer, inner], 4, nd, lambda x, o=outer, i=inner: after(o, i, x))


def test_a_shift_before_a_transposed_conv_is_refused() -> None:
    up = conv_transpose(
        cases.numbers(0, 2, 2, 3), None, 1, stride=(2,), padding=(1,), output_padding=(0,), dilation=(1,)
    )
    shift = Scale(torch.tensor(1.0).double(), cases.numbers(1, 2), 1)
    refused = ALGEBRA.compose(term(up), term(shift))
    assert isinstance(refused, Refusal)
    assert refused.code == "RK316"


# Modules -----------------------------------------------------------------------------------------------------------


def realized(op: Operator) -> nn.Module | Refusal:
    """The module for `op`, numbers filled in."""
    form = realizable(term(op))
    if isinstance(form, Refusal):
        return form
    module = lower(form, RULES)
    assert isinstance(module, nn.Module), module
    made = numbers(form.op, LIKE)
    assert not isinstance(made, Refusal)
    weight, bias = made
    module.weight = nn.Parameter(weight)
    assert (bias is None) == (module.bias is None)
    if bias is not None:
        module.bias = nn.Parameter(bias)
    return module


def as_module(op: Operator, nd: int, channels: int, seen: Counter[str]) -> None:
    module = realized(op)
    if isinstance(module, Refusal):
        seen[module.code] += 1
        return
    seen["merged"] += 1
    for x in samples(nd, channels):
        wanted = attempt(op, x)
        if wanted is not None:
            with torch.no_grad():
                assert_equal(wanted, module(x), (geometry(op), module))


def test_modules_compute_what_their_operator_does() -> None:
    seen: Counter[str] = Counter()

    @COMPOSED
    @given(st.data(), st.integers(0, 3))
    def law(data: st.DataObject, nd: int) -> None:
        op = draw(data, cases.operators(nd, 4, draw(data, st.sampled_from((2, 4)))))
        as_module(op, nd, 4, seen)

    law()
    assert seen["merged"] > 0.4 * seen.total(), seen


def test_modules_of_merged_operators() -> None:
    seen: Counter[str] = Counter()

    @LAWS
    @given(summands())
    def law(case: tuple[int, int, Operator, Operator]) -> None:
        nd, cin, a, b = case
        made = ALGEBRA.add(term(a), term(b))
        if isinstance(made, Term):
            as_module(made.op, nd, cin, seen)

    law()
    assert seen["merged"] > 0.4 * seen.total(), seen


@LAWS
@given(st.data(), st.integers(1, 3))
def test_every_zero_padded_conv_has_a_module(data: st.DataObject, nd: int) -> None:
    op = draw(data, cases.convs(nd, (2, 2), modes=("zeros",), pad_values=False))
    assert isinstance(realized(op), nn.Module)


# Kernels -----------------------------------------------------------------------------------------------------------


@st.composite
def expressions(pick: Any, shape: tuple[int, ...], groups: int, depth: int) -> w.Weight:
    """A kernel of `shape` (rows and groups as given) made of nested expressions."""
    seed = pick(cases.seeds)
    if depth == 0:
        return w.given(cases.numbers(seed, *shape).to(pick(st.sampled_from((torch.float32, torch.float64)))))
    kind = pick(st.sampled_from("scaled column embedded regrouped summed stacked composed rows".split()))

    def inner(size: tuple[int, ...] = shape, of: int = groups) -> w.Weight:
        return pick(expressions(size, of, depth - 1))

    rows, columns, kernel = shape[0], shape[1], shape[2:]
    if kind == "scaled":
        return w.scaled(inner(), cases.numbers(seed, rows))
    if kind == "column":
        return w.column_scaled(inner(), cases.numbers(seed, groups * columns), groups)
    if kind == "embedded" and kernel and kernel[0] > 2:
        return placed.embedded(
            inner((rows, columns, kernel[0] // 2, *kernel[1:])),
            kernel,
            (1, *[0] * (len(kernel) - 1)),
            (1,) * len(kernel),
        )
    if kind == "regrouped" and columns % 2 == 0 and rows % (2 * groups) == 0:
        return placed.regrouped(inner((rows, columns // 2, *kernel), 2 * groups), 2 * groups, groups)
    if kind == "summed":
        return joined.summed(inner(), inner())
    if kind == "stacked" and rows > 1 and groups == 1:
        return joined.stacked(inner((rows // 2, *shape[1:])), inner((rows - rows // 2, *shape[1:])))
    ones = (1,) * len(kernel)
    if kind == "composed" and rows % groups == 0:
        outer = pick(expressions((rows, 2, *ones), groups, depth - 1))
        return composed(outer, inner((2 * groups, *shape[1:])), groups, ones, ones)
    if kind == "rows":
        outer = pick(expressions((rows, 1, *ones), rows, depth - 1))
        return composed(outer, inner(), groups, ones, ones)
    return inner()


KINDS = {
    "Given",
    "Scaled",
    "ColumnScaled",
    "Embedded",
    "Regrouped",
    "Summed",
    "Stacked",
    "Composed",
    "RowComposed",
}


def nodes(weight: w.Weight) -> set[str]:
    below = [v for v in vars(weight).values() if isinstance(v, w.Weight)] + list(getattr(weight, "parts", ()))
    return {type(weight).__name__}.union(*map(nodes, below))


def test_bands_of_kernels_are_rows_of_the_whole() -> None:
    seen: set[str] = set()

    @settings(max_examples=400)
    @given(st.data(), st.sampled_from(((8, 4, 3, 3), (8, 2, 4), (4, 2), (12, 4, 3, 1, 2))), st.sampled_from((1, 2)))
    def law(data: st.DataObject, shape: tuple[int, ...], groups: int) -> None:
        weight = draw(data, expressions(shape, groups, draw(data, st.integers(0, 4))))
        seen.update(nodes(weight))
        whole = weight.dense()
        assert weight.shape == shape == whole.shape
        assert whole.dtype == torch.float64
        lo = draw(data, st.integers(0, shape[0] - 1))
        hi = draw(data, st.integers(lo + 1, shape[0]))
        assert_equal(whole[lo:hi], weight.rows(lo, hi), weight)
        scale = cases.numbers(1, hi - lo)
        canvas = torch.ones(hi - lo, *shape[1:-1], 2 * shape[-1], dtype=torch.float64)
        weight.accumulate(canvas[..., ::2], lo, hi, scale)
        assert_equal(1 + whole[lo:hi] * scale.reshape(-1, *[1] * (len(shape) - 1)), canvas[..., ::2], weight)
        assert bool((canvas[..., 1::2] == 1).all())

    law()
    assert seen == KINDS


@pytest.mark.parametrize("elements", [1, 7, 100, 10_000])
def test_bands_cover_all_rows_once(elements: int) -> None:
    bands = w.given(cases.numbers(0, 11, 3, 3)).bands(elements)
    assert [row for lo, hi in bands for row in range(lo, hi)] == list(range(11))


def test_reading_a_kernel_does_not_change_it() -> None:
    tensor = cases.numbers(0, 4, 2, 3)
    weight = w.scaled(
        joined.summed(w.given(tensor), placed.regrouped(w.given(tensor[:, :1]), 2, 1)), cases.numbers(1, 4)
    )
    kept = tensor.clone()
    first = weight.dense()
    first.zero_()
    assert_equal(weight.rows(1, 3), weight.dense()[1:3])
    assert torch.equal(tensor, kept)


@pytest.mark.parametrize(("groups", "fewer"), [(4, 1), (4, 2), (2, 1), (6, 3)])
def test_fewer_groups_compute_the_same(groups: int, fewer: int) -> None:
    op = conv(cases.numbers(0, 12, 2, 3), groups=groups)
    x = cases.numbers(1, 2, 2 * groups, 8)
    assert_equal(op.apply(x), with_groups(op, fewer).apply(x))
