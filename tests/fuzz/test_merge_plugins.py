"""Merge rules of plugins that do whatever they should not: a refusal or an error names them, the model is untouched."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reparamkit
from reparamkit.errors import PluginError, Refusal, ReparamError, VerificationError
from reparamkit.guarded import guarded
from reparamkit.operators import Arranged, Conv, ConvTranspose, Layout, Picked, Stencil, Vector, Weight, conv
from reparamkit.operators.composed import Composed
from reparamkit.operators.weight import Given
from reparamkit.rule import Add, Align, Compose, Concat, Lower
from tests.fuzz.answers import ANSWERS, C, plugin, raises, tried
from tests.helpers import Fn, assert_same, randomize, unchanged


def model() -> nn.Module:
    """Every kind of merge is asked for, and the algebra has no rule of its own for three of them."""

    def run(m: Any, x: Tensor) -> Tensor:
        chain = torch.relu(m.second(m.first(x)))
        stacked = torch.relu(torch.cat([m.left(x), m.right(x)], 1))
        picked = torch.relu(m.low(x[:, :2]) + m.high(x[:, 2:]))
        return torch.cat([chain, stacked, picked, m.wide(x) + m.narrow(x)], 1)

    layers: dict[str, nn.Module] = {n: nn.ConvTranspose2d(C, C, 1) for n in ("first", "second", "left", "right")}
    layers |= {"low": nn.Conv2d(2, C, 1), "high": nn.Conv2d(2, C, 1)}
    layers |= {"wide": nn.Conv2d(C, C, 3, padding=1), "narrow": nn.Conv2d(C, C, 1)}
    return randomize(Fn(run, **layers)).double()


class Later(Weight):
    """A kernel that fails when its numbers are wanted."""

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def accumulate(self, out: Tensor, lo: int, hi: int, scale: Tensor | None = None) -> None:
        raise ZeroDivisionError


def kernel(*shape: int, value: float = 1.0) -> Tensor:
    return torch.full(shape, value, dtype=torch.float64)


def first(*operands: Any) -> Any:
    """The first operator a rule is given."""
    return operands[0][0] if isinstance(operands[0], list) else operands[0]


def _zeroed(*operands: Any) -> Any:
    op = first(*operands)
    weight = op.op.weight if isinstance(op, Picked) else op.weight
    weight.tensor.zero_()
    return op


def _bias_zeroed(*operands: Any) -> Any:
    op = first(*operands)
    (op.op if isinstance(op, Picked) else op).bias.value.mul_(0)
    return op


def _field_changed(*operands: Any) -> Any:
    object.__setattr__(first(*operands), "groups", 2)
    return first(*operands)


SAID: dict[str, Callable[..., Any]] = {
    **ANSWERS,
    "the first": first,
    "a convolution": lambda *a: conv(kernel(C, C, 1, 1)),
    "other channels": lambda *a: conv(kernel(C + 1, C, 1, 1)),
    "no kernel": lambda *a: Conv(None),  # type: ignore[arg-type]
    "kernel of no axes": lambda *a: conv(kernel(C)),
    "kernel of five axes": lambda *a: conv(kernel(C, C, 1, 1, 1, 1, 1)),
    "another shape than it says": lambda *a: Conv(Given((C, C, 3, 3), kernel(C, C, 1, 1))),
    "meta kernel": lambda *a: conv(torch.empty(C, C, 1, 1, device="meta")),
    "complex kernel": lambda *a: conv(torch.ones(C, C, 1, 1, dtype=torch.complex64)),
    "NaN kernel": lambda *a: conv(kernel(C, C, 1, 1, value=float("nan"))),
    "infinite bias": lambda *a: conv(kernel(C, C, 1, 1), kernel(C, value=float("inf"))),
    "bias of other channels": lambda *a: conv(kernel(C, C, 1, 1), kernel(C + 2)),
    "bias that raises": lambda *a: replace(conv(kernel(C, C, 1, 1)), bias=Vector(raises(KeyError()))),
    "kernel that raises": lambda *a: Conv(Later((C, C, 1, 1)), None, (1, 1), ((0, 0),) * 2, (1, 1)),
    "kernels that do not fit": lambda *a: Conv(
        Composed((C, C, 1, 1), Given((C, 3, 1, 1), kernel(C, 3, 1, 1)), Given((5, C, 1, 1), kernel(5, C, 1, 1)), 1,
                 (1, 1), (1, 1)), None, (1, 1), ((0, 0),) * 2, (1, 1)),
    "stride of nothing": lambda *a: conv(kernel(C, C, 1, 1), stride=(0, 0)),
    "stride of one axis": lambda *a: conv(kernel(C, C, 1, 1), stride=(1,)),
    "padding that is text": lambda *a: conv(kernel(C, C, 1, 1), padding="same"),  # type: ignore[arg-type]
    "padding mode of its own": lambda *a: conv(kernel(C, C, 1, 1), padding_mode="mirror"),
    "groups that do not fit": lambda *a: conv(kernel(C, C, 1, 1), groups=3),
    "transposed without geometry": lambda *a: ConvTranspose(
        Given((C, C, 1, 1), kernel(C, C, 1, 1)), None, (), (), (), ()
    ),
    "filter of two channels": lambda *a: Stencil(conv(kernel(2, 2, 1, 1))),
    "filter of nothing": lambda *a: Stencil(None),  # type: ignore[arg-type]
    "pick of nothing": lambda *a: Picked(conv(kernel(C, 1, 1, 1)), (), C, 2),
    "pick of what is not there": lambda *a: Picked(conv(kernel(C, 1, 1, 1)), (9,), C, 2),
    "rearranged nothing": lambda *a: Arranged(None),  # type: ignore[arg-type]
    "rearrangement of text": lambda *a: Layout(("ab",)),  # type: ignore[arg-type]
    "operand zeroed": _zeroed,
    "bias zeroed": _bias_zeroed,
    "field changed": _field_changed,
}  # fmt: skip
KINDS: dict[str, Callable[[Any], Any]] = {
    "compose": lambda run: Compose("p/x", ConvTranspose, ConvTranspose, run),
    "concat": lambda run: Concat("p/x", ConvTranspose, run),
    "add": lambda run: Add("p/x", Picked, run),
    "align": lambda run: Align("p/x", 5, run),
}
SOUND = {"itself", "the first", "slow", "a convolution", "changes the default", "pair", "nothing", "all of it"}
SOUND |= {"wrong numbers", "float32", "integers", "gradient"}  # a scale is an operator


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("answer", SAID)
@pytest.mark.parametrize("kind", KINDS)
def test_merge_rules_that_answer_anything(kind: str, answer: str, inplace: bool) -> None:
    rule = KINDS[kind](SAID[answer])
    tried(model(), plugin(reparamkit_rules=lambda: [rule]), inplace)


@pytest.mark.parametrize("answer", sorted(SAID.keys() - SOUND))
@pytest.mark.parametrize("kind", ["compose", "concat"])
def test_the_rule_and_its_plugin_are_named(kind: str, answer: str) -> None:
    asked = model()
    given = plugin(reparamkit_rules=lambda: [KINDS[kind](SAID[answer])])
    with unchanged(asked), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            told = [str(r) for r in reparamkit.plan(asked, policy="always", plugins=[given]).refusals]
            told += [] if any("p/x" in text for text in told) else [_error(asked, given)]
        except ReparamError as error:
            told = [str(error)]
    assert any("p/x" in text for text in told), told


def _error(asked: nn.Module, given: Any) -> str:
    with pytest.raises(ReparamError) as raised:
        reparamkit.apply(asked, policy="always", plugins=[given])
    return str(raised.value)


def test_a_rule_that_is_right_is_used() -> None:
    """Two transposed convolutions of one tap, a composition that the algebra has no rule for."""

    def compose(outer: ConvTranspose, inner: ConvTranspose) -> Any:
        if {*outer.weight.shape[2:], *inner.weight.shape[2:], outer.groups, inner.groups, *outer.stride} != {1}:
            return Refusal("RK316", "only one tap")
        matrix = outer.weight.dense().flatten(1) @ inner.weight.dense().flatten(1)
        bias = outer.weight.dense().flatten(1) @ inner.bias.value + outer.bias.value  # type: ignore[union-attr]
        return replace(inner, weight=Given((C, C, 1, 1), matrix[..., None, None]), bias=Vector(lambda: bias))

    given = plugin(reparamkit_rules=lambda: [Compose("p/x", ConvTranspose, ConvTranspose, compose)])
    original = model()
    converted, report = reparamkit.apply(original, policy="always", plugins=[given], return_report=True)
    assert any("p/x" in merged.rules for merged in report.merged)
    assert_same(original, converted)


def test_a_rule_that_is_wrong_is_found_out_before_anything_is_changed() -> None:
    given = plugin(reparamkit_rules=lambda: [Compose("p/x", ConvTranspose, ConvTranspose, first)])
    asked = model()
    with unchanged(asked), pytest.raises(VerificationError, match=r"RK901.*p/x"):
        reparamkit.apply(asked, policy="always", plugins=[given], inplace=True)


@pytest.mark.parametrize("answer", ["nothing", "number", "tensor", "KeyError", "hostile", "operand zeroed", "draws"])
@pytest.mark.parametrize("kind", [Add, Lower])
def test_what_the_algebra_asks_no_plugin_today_is_guarded_as_well(kind: Any, answer: str) -> None:
    op = conv(kernel(C, C, 1, 1))
    rule: Any = guarded(kind("p/x", Conv, SAID[answer], origin="given"))
    said = rule.run(op, op)
    assert isinstance(said, Refusal)
    assert said.code == "RK804"
    assert "p/x (given)" in said.reason
    assert torch.equal(op.weight.dense(), kernel(C, C, 1, 1))


TAKEN = {
    "compose": (Compose("p/x", Conv, Conv, first), "core/sequential"),
    "add": (Add("p/x", Conv, first), "core/branch_sum"),
    "concat": (Concat("p/x", Conv, first), "core/concat"),
    "lower": (Lower("p/x", Conv, first), "core/conv"),
    "align": (Align("p/x", 20, lambda a, b: (a, b)), "core/kernel_padding"),
}


def taking(declared: Any, **changes: Any) -> Any:
    return plugin(reparamkit_rules=lambda: [replace(declared, **changes)])


@pytest.mark.parametrize("kind", TAKEN)
def test_what_a_built_in_rule_does_no_plugin_takes_over_unless_it_says_so(kind: str) -> None:
    rule, taken = TAKEN[kind]
    with pytest.raises(PluginError, match=rf"RK803.*{taken}.*p/x.*say overrides="):
        reparamkit.plan(model(), plugins=[taking(rule)])
    with pytest.raises(PluginError, match="RK803"):
        reparamkit.plan(model(), plugins=[taking(rule, overrides="core/another")])


def layers() -> nn.Module:
    """A chain, a sum of two kernels and a stack of two, of convolutions."""

    def run(m: Any, x: Tensor) -> Tensor:
        chain = torch.relu(m.point(m.wide(x)))
        stacked = torch.relu(torch.cat([m.left(x), m.right(x)], 1))
        return torch.cat([chain, stacked, m.broad(x) + m.narrow(x)], 1)

    kernels = {"wide": 3, "point": 1, "left": 1, "right": 1, "broad": 3, "narrow": 1}
    made = {name: nn.Conv2d(C, C, k, padding=k // 2) for name, k in kernels.items()}
    return randomize(Fn(run, **made)).double()


@pytest.mark.parametrize("kind", TAKEN)
def test_a_plugin_takes_the_place_of_the_rule_it_overrides(kind: str) -> None:
    """As it was, renamed: the merges are the same, under another name."""
    rule, taken = TAKEN[kind]
    target = {k: getattr(rule, k) for k in ("outer", "inner", "kind", "order") if hasattr(rule, k)}
    rules = reparamkit.plan(layers()).registry.rules
    (same,) = (r for r in rules if type(r) is type(rule) and target.items() <= vars(r).items())
    given = taking(same, rule="p/x", origin="", overrides=taken)
    converted, report = reparamkit.apply(layers(), policy="always", plugins=[given], return_report=True)
    assert len(report.merged) == 3
    assert_same(layers(), converted)
    if kind in ("compose", "add", "concat"):
        assert any("p/x" in m.rules for m in report.merged)


@pytest.mark.parametrize("kind", ["compose", "add"])
def test_a_plugin_that_overrides_and_is_wrong_is_found_out(kind: str) -> None:
    rule, taken = TAKEN[kind]
    asked = layers()
    with unchanged(asked), pytest.raises(VerificationError, match=r"RK901.*p/x"):
        reparamkit.apply(asked, policy="always", plugins=[taking(rule, overrides=taken)], inplace=True)


def test_a_plugin_that_overrides_and_makes_no_module_is_refused() -> None:
    rule, taken = TAKEN["lower"]
    converted, report = reparamkit.apply(layers(), plugins=[taking(rule, overrides=taken)], return_report=True)
    assert not report.merged
    assert any(r.code == "RK804" and "p/x" in r.reason for r in report.refused)
    assert_same(layers(), converted)
