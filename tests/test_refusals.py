"""One test a hazard of rewriting models, named after its number: the result is exact, or says why it was left.

A model state, B norms, C graph and sharing, D geometry, E numbers and dtypes, F tracing and wrappers. Every test
goes through `convert`, which also proves that the caller's model was not touched.
"""

from __future__ import annotations

import copy
import itertools
import threading
import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reparamkit
from reparamkit import ModelError, RecipeError, VerificationError, conv, lifts
from tests.helpers import (
    IMAGES,
    Fn,
    Shape,
    assert_same,
    assert_untouched,
    branches,
    codes,
    conv_bn,
    convert,
    convert_as_is,
    counts,
    gap,
    inputs,
    places,
    randomize,
    snapshot,
)

C = 4


def seq(*modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(*modules)


def same(kernel: int = 3, **options: Any) -> nn.Conv2d:
    """A convolution that keeps the size."""
    return nn.Conv2d(C, C, kernel, padding=kernel // 2, **options)


def bn(**options: Any) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(C, **options)


class Block(nn.Module):
    """RepVGG's block: 3x3, 1x1 and identity, each with batch norm, then an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.point, self.identity = seq(same(bias=False), bn()), seq(same(1, bias=False), bn()), bn()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.dense(x) + self.point(x) + self.identity(x))


def raises(code: str) -> Any:
    return pytest.raises(ModelError, match=code)


# A. Model state ----------------------------------------------------------------------------------------------------


def test_A1_a_model_in_training_mode_is_an_error() -> None:
    model = randomize(seq(Block(), Block())).train()
    before = snapshot(model)
    for call in (reparamkit.apply, reparamkit.plan):
        with raises("RK101") as caught:
            call(model)
        assert "0.dense.1 (BatchNorm2d)" in str(caught.value)
        assert_untouched(model, before)


def test_A2_one_batch_norm_in_training_mode_is_an_error() -> None:
    model = randomize(seq(Block(), Block()))
    model[1].identity.train()
    with raises("RK101") as caught:
        reparamkit.apply(model)
    assert "1.identity" in str(caught.value)
    assert "0." not in str(caught.value)


def test_A3_modes_of_all_modules_are_kept() -> None:
    model = randomize(seq(Block(), Block()))
    reparamkit.plan(model, example_inputs=inputs(IMAGES[0], dtype=torch.float32))
    assert not any(m.training for m in model.modules())
    assert not any(m.training for m in reparamkit.apply(model).modules())


class TrainingBranch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = same(), same(1)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.a(x) * 2
        return self.a(x) + self.b(x)


def test_A4_a_forward_that_asks_for_the_mode_keeps_its_evaluation_half_only() -> None:
    converted, _ = convert(TrainingBranch())
    assert counts(converted) == (1, 0)
    with pytest.raises(RuntimeError, match="RK103"):
        converted.train()(inputs(IMAGES[0]))


@pytest.mark.parametrize("call", [reparamkit.plan, reparamkit.apply])
def test_A5_A6_looking_changes_neither_the_model_nor_the_random_state(call: Any) -> None:
    model = randomize(seq(Block(), nn.Dropout(), Block()))
    before = snapshot(model)
    expected = torch.rand(3, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    call(model, example_inputs=inputs(IMAGES[0], dtype=torch.float32))
    assert torch.equal(torch.rand(3), expected)
    torch.set_rng_state(before["rng"])
    assert_untouched(model, before)


def test_A7_an_optimizer_of_the_original_still_steps() -> None:
    model = randomize(seq(Block(), same()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    converted = reparamkit.apply(model, inplace=True)
    assert converted is model
    model(inputs(IMAGES[0], dtype=torch.float32)).sum().backward()
    optimizer.step()
    assert counts(model) == (2, 0)


@pytest.mark.parametrize("frozen", ["nothing", "everything", "weights", "norms"])
def test_A8_what_was_frozen_stays_frozen(frozen: str) -> None:
    model = seq(same(), bn())
    for name, parameter in model.named_parameters():
        weight, norm = name == "0.weight", name.startswith("1.")
        parameter.requires_grad = not {"nothing": False, "everything": True, "weights": weight, "norms": norm}[frozen]
    converted, _ = convert(model)
    assert counts(converted) == (1, 0)
    flags = [p.requires_grad for p in converted.parameters()]
    assert flags == [frozen != "everything"] * 2 if frozen != "weights" else any(flags)


@pytest.mark.parametrize("inside", ["when converting", "when building"])
def test_A9_A10_inference_mode_leaves_weights_that_can_be_trained(inside: str) -> None:
    with torch.inference_mode(inside == "when building"):
        model = randomize(seq(same(), bn(), Block()))
    with torch.inference_mode(inside == "when converting"):
        converted = reparamkit.apply(model)
    assert counts(converted) == (2, 0)
    assert not any(p.is_inference() for p in converted.parameters())
    converted(inputs(IMAGES[0], dtype=torch.float32)).sum().backward()
    assert all(p.grad is not None for p in converted.parameters())


def test_A11_gradients_of_the_branches_are_not_carried_over() -> None:
    model = randomize(seq(same(), bn()))
    model(inputs(IMAGES[0], dtype=torch.float32)).sum().backward()
    converted = reparamkit.apply(model)
    assert counts(converted) == (1, 0)
    assert all(p.grad is None for p in converted.parameters())
    assert all(p.grad is not None for p in model.parameters())


def test_A12_a_second_application_changes_nothing() -> None:
    once, _ = convert(seq(Block(), same(1), bn(), Block()))
    twice, report = convert_as_is(once)
    assert not report.merged
    assert list(twice.state_dict()) == list(once.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(once.state_dict().values(), twice.state_dict().values(), strict=True))
    in_place = reparamkit.apply(once, inplace=True)
    assert list(in_place.state_dict()) == list(twice.state_dict())


def test_A13_the_root_may_be_the_block() -> None:
    converted, _ = convert(Block())
    assert counts(converted) == (1, 0)
    assert isinstance(converted, Block)
    model = randomize(Block()).double()
    original = copy.deepcopy(model)
    assert reparamkit.apply(model, inplace=True) is model
    assert_same(original, model)


def liar(scale: float) -> types.SimpleNamespace:
    """A plugin whose rule is right for a model's first block only."""

    @lifts(Odd, "liar/odd")
    def lift(module: Any, context: Any) -> Any:
        return conv(module.inner.weight * (scale if module.second else 1.0), padding=((0, 0), (0, 0)))

    @reparamkit.hookimpl
    def reparamkit_rules() -> list[Any]:
        return [lift]

    return types.SimpleNamespace(__name__="liar", reparamkit_rules=reparamkit_rules)


class Odd(nn.Module):
    def __init__(self, second: bool) -> None:
        super().__init__()
        self.inner, self.second = same(1, bias=False), second

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_A14_an_exception_half_way_leaves_the_model_as_it_was() -> None:
    model = randomize(seq(Block(), Odd(False), bn(), Odd(True), bn())).double()
    before = snapshot(model)
    with pytest.raises(VerificationError, match="liar/odd") as caught:
        reparamkit.apply(model, inplace=True, plugins=[liar(2.0)])
    assert caught.value.code == "RK901"
    assert_untouched(model, before)
    recipe = {"version": 1, "name": "strict", "blocks": [{"match": {"class": "*Block"}, "expect": {"convs": 0}}]}
    with pytest.raises(RecipeError, match="RK707"):
        reparamkit.apply(model, recipe, inplace=True)
    assert_untouched(model, before)
    assert counts(reparamkit.apply(model, plugins=[liar(1.0)]))[1] == 0


def test_A14_a_rule_that_raises_is_a_refusal() -> None:
    @lifts(Odd, "broken/odd")
    def lift(module: Any, context: Any) -> Any:
        raise ZeroDivisionError("oops")

    plugin = types.SimpleNamespace(
        __name__="broken", reparamkit_rules=reparamkit.hookimpl(lambda: [lift], specname="reparamkit_rules")
    )
    _, report = convert(seq(Odd(False), bn()), plugins=[plugin])
    assert places(report, "RK804") == ["0"]


@pytest.mark.parametrize("kind", ["lock", "graph"])
def test_A15_what_cannot_be_copied_is_named(kind: str) -> None:
    model = randomize(seq(Block(), Block()))
    culprit: Any = threading.Lock() if kind == "lock" else model[0].dense[0].weight * 2
    model[1].culprit = culprit
    with raises("RK110") as caught:
        reparamkit.apply(model)
    assert "1.culprit" in str(caught.value)
    assert counts(reparamkit.apply(model, inplace=True)) == (2, 0)


# B. Norms ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["flag", "buffers"])
def test_B1_batch_statistics_are_no_constants(how: str) -> None:
    norm = bn(track_running_stats=how != "flag")
    model = randomize(seq(same(), norm))
    if how == "buffers":
        norm.running_mean = norm.running_var = None
    _, report = convert(model)
    assert places(report, "RK201") == ["1"]


def test_B2_buffers_count_not_the_flag() -> None:
    norm = bn()
    norm.track_running_stats = False
    converted, _ = convert(seq(same(), norm))
    assert counts(converted) == (1, 0)


@pytest.mark.parametrize("layers", ["conv", "linear"])
def test_B3_without_scale_and_shift(layers: str) -> None:
    linear = layers == "linear"
    model = seq(nn.Linear(C, C), nn.BatchNorm1d(C, affine=False)) if linear else seq(same(), bn(affine=False))
    shape = (3, C) if linear else IMAGES[0]
    converted, _ = convert(model, shape, example_inputs=inputs(shape))
    assert counts(converted) == (1, 0)


def test_B4_without_momentum() -> None:
    assert counts(convert(seq(same(), bn(momentum=None)))[0]) == (1, 0)


def test_B5_sync_batch_norm() -> None:
    assert counts(convert(nn.SyncBatchNorm.convert_sync_batchnorm(seq(same(), bn())))[0]) == (1, 0)


def test_B6_frozen_batch_norm() -> None:
    ops: Any = pytest.importorskip("torchvision.ops")
    model = seq(same(), ops.FrozenBatchNorm2d(C, eps=1e-3))
    converted, report = convert(model)
    assert report.merged
    assert "FrozenBatchNorm2d" not in str(converted)


class HardCodedEps(nn.Module):
    """A frozen batch norm whose eps is not 1e-5 and nowhere to be read."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.ones(C))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, mean, var = (b.reshape(1, -1, 1, 1) for b in self.buffers())
        scale = weight * (var + 1e-2).rsqrt()
        return x * scale + bias - mean * scale


def test_B7_eps_is_what_the_forward_uses() -> None:
    _, report = convert(seq(same(), HardCodedEps()))
    assert report.merged


@pytest.mark.parametrize("activation", ["relu", "identity"])
def test_B8_a_batch_norm_with_an_activation_keeps_it(activation: str) -> None:
    layers: Any = pytest.importorskip("timm.layers")
    converted, report = convert(seq(same(), layers.BatchNormAct2d(C, apply_act=activation == "relu")))
    assert report.merged
    assert counts(converted) == (1, 0)
    assert bool((converted(inputs(IMAGES[0])) >= 0).all()) == (activation == "relu")


class FunctionalNorm(nn.Module):
    def __init__(self, training: Any = False) -> None:
        super().__init__()
        self.conv, self.bn, self.mode = same(), bn(), training

    def forward(self, x: Tensor) -> Tensor:
        n = self.bn
        training = self.mode(x) if callable(self.mode) else self.mode
        mean, var = (None, None) if training is True else (n.running_mean, n.running_var)
        return F.batch_norm(self.conv(x), mean, var, n.weight, n.bias, training, 0.1, n.eps)


def test_B9_a_functional_batch_norm_is_folded() -> None:
    converted, report = convert(FunctionalNorm())
    assert len(report.merged) == 1
    assert counts(converted) == (1, 0)


@pytest.mark.parametrize("training", [True, lambda x: x.ndim == 3])
def test_B10_a_functional_batch_norm_with_batch_statistics_stays(training: Any) -> None:
    _, report = convert(FunctionalNorm(training))
    assert not report.merged
    assert callable(training) or "RK202" in codes(report)


@pytest.mark.parametrize(
    "norm", [nn.GroupNorm(2, C), nn.LayerNorm([7, 7]), nn.InstanceNorm2d(C), nn.LocalResponseNorm(2)]
)
def test_B11_B12_norms_of_the_data_stay(norm: nn.Module) -> None:
    model = Fn(lambda m, x: m.bn(m.conv(x)), conv=same(), bn=norm)
    converted, report = convert(model, (2, C, 7, 7))
    assert not report.merged
    assert type(converted.bn) is type(norm)


def test_B13_instance_norm_with_running_statistics() -> None:
    assert counts(convert(seq(same(), nn.InstanceNorm2d(C, track_running_stats=True)))[0]) == (1, 0)


def test_B14_B16_variance_zero_and_gamma_zero() -> None:
    model = randomize(seq(same(), bn())).double()
    with torch.no_grad():
        model[1].running_var.zero_()
        model[1].weight[1] = 0
    converted, _ = convert_as_is(model)
    assert counts(converted) == (1, 0)
    assert not converted[0].weight[1].any()


@pytest.mark.parametrize(
    ("name", "value"), [("running_var", -1.0), ("running_var", float("nan")), ("running_mean", float("inf"))]
)
def test_B15_unusable_statistics_are_named(name: str, value: float) -> None:
    model = randomize(seq(Block(), seq(same(), bn()))).double()
    with torch.no_grad():
        getattr(model[1][1], name)[2] = value
    before = snapshot(model)
    converted, report = reparamkit.apply(model, return_report=True)
    assert_untouched(model, before)
    refusal = next(r for r in report.refused if r.code == "RK210")
    assert refusal.where == "1.1"
    assert "channel 2" in refusal.reason
    assert name in refusal.reason
    assert counts(converted) == (2, 1)


def test_B17_B18_every_branch_has_its_own_eps_and_signs() -> None:
    model = branches(seq(same(), bn(eps=0.5)), seq(same(1), bn(eps=1e-5)), bn(eps=0.1))
    assert counts(convert(model)[0]) == (1, 0)


def unshifted() -> nn.BatchNorm2d:
    norm = randomize(bn())
    with torch.no_grad():
        norm.bias.copy_(norm.running_mean * norm.weight * (norm.running_var + norm.eps).rsqrt())  # type: ignore[union-attr,operator]
    return norm  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("padding", "mode", "shifted", "fused"),
    [
        (1, "zeros", True, False),
        (0, "zeros", True, True),
        (1, "reflect", True, True),
        (1, "circular", True, True),
        (1, "replicate", True, True),
        (1, "zeros", False, True),
    ],
)
def test_B19_batch_norm_before_a_padded_conv(padding: int, mode: str, shifted: bool, fused: bool) -> None:
    model = randomize(seq(bn(), nn.Conv2d(C, C, 3, padding=padding, padding_mode=mode))).double()
    if not shifted:
        with torch.no_grad():
            norm = model[0]
            norm.running_mean.zero_()
            norm.bias.zero_()
    converted, report = convert_as_is(model)
    assert counts(converted) == ((1, 0) if fused else (1, 1)), report
    assert fused or places(report, "RK316") == ["1"]


@pytest.mark.parametrize("first", ["bias", "bn", "plain"])
def test_B20_pointwise_before_a_padded_conv(first: str) -> None:
    point = [same(1, bias=first == "bias"), *([bn()] if first == "bn" else [])]
    converted, report = convert(seq(*point, same()))
    assert counts(converted) == ((1, 0) if first == "plain" else (2, 0))
    assert first == "plain" or "RK316" in codes(report)


class BNAndPad(nn.Module):
    """DBB's batch norm that pads with what it makes of zero (Ding et al., 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = bn()

    def forward(self, x: Tensor) -> Tensor:
        n = self.bn
        value = n.bias - n.running_mean * n.weight / torch.sqrt(n.running_var + n.eps)  # type: ignore[operator]
        y = F.pad(n(x), [1, 1, 1, 1])
        value = value.view(1, -1, 1, 1)
        y[:, :, 0:1, :] = value
        y[:, :, -1:, :] = value
        y[:, :, :, 0:1] = value
        y[:, :, :, -1:] = value
        return y


def test_B20_padding_with_the_bias_is_not_broken() -> None:
    convert(branches(seq(same(1, bias=False), BNAndPad(), nn.Conv2d(C, C, 3)), same()))


def test_B21_batch_norm_of_other_channels_is_not_folded() -> None:
    model = randomize(seq(nn.Conv2d(C, 3, 1), bn()))
    before = snapshot(model)
    plan = reparamkit.plan(model)
    assert not plan.edits
    assert [r.code for r in plan.refusals] == ["RK311"]
    assert_untouched(model, before)


def test_B22_linear_then_batch_norm_1d_needs_to_know_the_axes() -> None:
    model = seq(nn.Linear(C, C), nn.BatchNorm1d(C))
    _, report = convert(model, (3, C))
    assert places(report, "RK203") == ["1"]
    converted, _ = convert(model, (3, C), example_inputs=inputs((3, C)))
    assert counts(converted) == (1, 0)
    deep = (5, C, C)
    converted, report = convert(model, deep, example_inputs=inputs(deep))
    assert counts(converted) == (1, 1)
    assert "RK310" in codes(report)


def test_B23_batch_norms_in_a_row_and_behind_a_sum() -> None:
    assert counts(convert(seq(same(), bn(), bn()))[0]) == (1, 0)
    assert counts(convert(seq(branches(same(), same(1), bn()), bn()))[0]) == (1, 0)


# C. Graph, sharing, aliasing ---------------------------------------------------------------------------------------

SHARED: dict[str, Callable[[Any, Tensor], Any]] = {
    "C1 called twice, bn on one path": lambda m, x: m.bn(m.conv(x)) + m.conv(x.relu()),
    "C2 behind two bns": lambda m, x: m.bn(m.conv(x)) * m.other(m.conv(x.relu())),
    "C3 the pair used twice": lambda m, x: m.bn(m.conv(m.bn(m.conv(x)).relu())),
    "C3 one value into both bns": lambda m, x: (lambda y: m.bn(y) * m.other(y))(m.conv(x)),
}


@pytest.mark.parametrize("case", SHARED)
def test_C1_C2_C3_shared_modules_are_not_folded_twice(case: str) -> None:
    _, report = convert(Fn(SHARED[case], conv=same(), bn=bn(), other=bn()))
    assert codes(report) & {"RK301", "RK305"}


def test_C4_one_module_under_two_names() -> None:
    model = Fn(lambda m, x: m.bn(m.first(x)) + m.second(x.relu()), first=same(), bn=bn())
    model.second = model.first
    _, report = convert(model)
    assert "RK301" in codes(report)
    assert model.first is model.second


def test_C4_a_block_called_twice_is_merged_once() -> None:
    converted, _ = convert(Fn(lambda m, x: m.f(m.f(x)), f=Block()))
    assert counts(converted) == (1, 0)


def test_C4_a_block_with_two_names_stays_one() -> None:
    block = Block()
    converted, _ = convert(seq(block, block))
    assert converted[0] is converted[1]


def test_C5_tied_weights_stay_right() -> None:
    first, second = same(bias=False), same(bias=False)
    second.weight = first.weight
    model = seq(first, bn(), nn.ReLU(), second)
    converted, _ = convert(model)
    assert counts(converted) == (2, 0)
    in_place = copy.deepcopy(model)
    reparamkit.apply(in_place, inplace=True)
    assert_same(model, in_place)


@pytest.mark.parametrize(
    "run",
    [
        lambda m, x: (lambda y: m.bn(y) + y.relu())(m.conv(x)),
        lambda m, x: (lambda y: (m.bn(y), y))(m.conv(x)),
        lambda m, x: (lambda y: {"out": m.bn(y), "mid": y})(m.conv(x)),
        lambda m, x: (lambda y: m.bn(y) * y.shape[1])(m.conv(x).relu()),
    ],
)
def test_C6_values_read_elsewhere_stay(run: Any) -> None:
    converted, _ = convert(Fn(run, conv=same(), bn=bn()))
    assert counts(converted) == (1, 1)


def hook(kind: str, module: nn.Module) -> None:
    twice = 2.0
    if kind == "forward":
        module.register_forward_hook(lambda m, args, output: output * twice)
    elif kind == "forward with kwargs":
        module.register_forward_hook(lambda m, args, kwargs, output: output * twice, with_kwargs=True)
    elif kind == "pre":
        module.register_forward_pre_hook(lambda m, args: (args[0] * twice,))
    elif kind == "pre with kwargs":
        module.register_forward_pre_hook(lambda m, args, kwargs: ((args[0] * twice,), kwargs), with_kwargs=True)
    elif kind == "backward":
        module.register_full_backward_hook(lambda m, grad_in, grad_out: None)
    elif kind == "state dict":
        module.register_state_dict_post_hook(lambda m, state, prefix, metadata: None)
    else:
        module.register_load_state_dict_post_hook(lambda m, keys: None)


HOOKS = ("forward", "forward with kwargs", "pre", "pre with kwargs", "backward", "state dict", "load state dict")


@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize("place", ["0", "1"])
def test_C7_C8_C11_C12_observed_modules_stay(kind: str, place: str) -> None:
    model = seq(same(), bn())
    hook(kind, model.get_submodule(place))
    converted, report = convert(model)
    assert counts(converted) == (1, 1)
    assert place in places(report, "RK306")


@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize("place", ["", "0"])
def test_C9_hooks_on_what_stays_go_on_working(kind: str, place: str) -> None:
    model = seq(Block(), same())
    hook(kind, model.get_submodule(place))
    converted, _ = convert(model)
    assert counts(converted) == (2, 0)
    kept = converted.get_submodule(place)
    assert sum(len(v) for k, v in kept.__dict__.items() if k.endswith("hooks")) >= 1


def test_C10_global_hooks_do_not_fire_and_stay() -> None:
    seen: list[str] = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, args, out: seen.append(type(m).__name__))
    try:
        model = randomize(seq(Block(), same())).double()
        original = copy.deepcopy(model)
        converted = reparamkit.apply(model)
    finally:
        handle.remove()
    assert_same(original, converted)


def test_C13_parametrized_weights() -> None:
    for wrap in (nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm):
        model = seq(wrap(same()), bn())
        converted, report = convert(model)
        assert report.merged or codes(report) & {"RK308", "RK503"}
        assert report.merged == () or counts(converted) == (1, 0)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "prune"])
def test_C14_legacy_weights_computed_by_hooks(kind: str) -> None:
    from torch.nn.utils import prune

    conv = same()
    model = seq(conv, bn())
    randomize(model)
    if kind == "prune":
        prune.random_unstructured(conv, "weight", 0.3)  # type: ignore[no-untyped-call]
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            getattr(nn.utils, kind)(conv)
    model.eval().double()
    with torch.no_grad():
        model(inputs(IMAGES[0]))
    before = [(n, p.clone()) for n, p in model.named_parameters()]
    converted, report = reparamkit.apply(model, inplace=False, return_report=True)
    assert all(torch.equal(a, dict(model.named_parameters())[n]) for n, a in before)
    assert_same(model, converted)
    assert report.merged or "RK308" in codes(report) or "RK306" in codes(report)


class Alias(nn.Module):
    def __init__(self, run: Any) -> None:
        super().__init__()
        self.a, self.b, self.bn, self.run = same(), same(1), bn(), run

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def _iadd(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    z = y
    y += m.b(x)
    return y, z


def _iadd_view(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    z = y.view(-1)
    y += m.b(x)
    return y + z.sum()


def _iadd_input(m: Any, x: Tensor) -> Any:
    x += m.a(x)
    return x + m.b(x)


def _relu_between(m: Any, x: Tensor) -> Any:
    return m.a(x) + m.b(F.relu(x, inplace=True))


def _relu_after(m: Any, x: Tensor) -> Any:
    y = x * 1
    a = m.a(y)
    F.relu_(y)
    return a + m.b(y)


def _relu_first(m: Any, x: Tensor) -> Any:
    y = F.relu(x * 1.0, inplace=True)
    return m.a(y) + m.b(y)


def _setitem(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    y[:, 0] = 0
    return m.bn(y)


def _mul_shared(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    z = m.bn(y)
    y.mul_(2)
    return z + y


def _identity_alias(m: Any, x: Tensor) -> Any:
    y = F.dropout(x * 1, 0.5, False)
    z = y
    z += 1
    return m.a(y) + m.b(y)


def _zero_after(m: Any, x: Tensor) -> Any:
    y = m.a(x) + m.b(x)
    x.zero_()
    return y


def _zero_source(m: Any, x: Tensor) -> Any:
    y = x * 1
    a = m.a(y)
    y.zero_()
    return m.bn(a)


def _out(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    torch.add(y, m.b(x), out=y)
    return m.bn(y)


ALIASES = (
    _iadd,
    _iadd_view,
    _iadd_input,
    _relu_between,
    _relu_after,
    _relu_first,
    _setitem,
    _mul_shared,
    _identity_alias,
    _zero_after,
    _zero_source,
    _out,
)


@pytest.mark.parametrize("run", ALIASES)
def test_C15_C16_changes_in_place_are_seen(run: Any) -> None:
    converted, _ = convert(Alias(run))
    original = randomize(Alias(run)).double()
    ours, theirs = inputs(IMAGES[0]), inputs(IMAGES[0])
    with torch.no_grad():
        original(theirs)
        converted(ours)
    assert gap(theirs, ours) < 1e-9, "the caller's input is changed differently"


class InplaceRelu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act = same(), same(1), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(self.act(x))


def test_C16_an_in_place_activation_between_branches() -> None:
    converted, report = convert(seq(same(5), InplaceRelu()))
    assert counts(converted) == (3, 0)
    assert not report.merged


@pytest.mark.parametrize("shape", [(1, 1, 7, 7), (1, C, 1, 1)])
def test_C18_sums_that_broadcast(shape: Shape) -> None:
    other: nn.Module = nn.Conv2d(C, 1, 3, padding=1) if shape[1] == 1 else seq(nn.AdaptiveAvgPool2d(1), same(1))
    converted, _ = convert(branches(same(), other))
    assert counts(converted) == (2, 0)


def test_C19_keyword_calls() -> None:
    model = Fn(lambda m, x: m.bn(input=m.conv(input=x)), conv=same(), bn=bn())
    assert counts(convert(model)[0]) == (1, 0)


def test_C19_output_size_of_a_transposed_conv_stays() -> None:
    up = nn.ConvTranspose2d(C, C, 3, stride=2, padding=1)
    model = Fn(lambda m, x: m.bn(m.up(x, output_size=[2 * s for s in x.shape[2:]])), up=up, bn=bn())
    assert counts(convert(model)[0]) == (1, 1)


def test_C20_execution_order_counts_not_registration() -> None:
    model = Fn(lambda m, x: m.late(m.early(x).relu()), bn=bn(), late=same(), early=same())
    assert counts(convert(model)[0]) == (2, 1)
    swapped = Fn(lambda m, x: m.bn(m.conv(x)), bn=bn(), conv=same())
    assert counts(convert(swapped)[0]) == (1, 0)


def test_C21_what_is_not_affine_stays_in_its_branch() -> None:
    layers: Any = pytest.importorskip("timm.layers")
    for middle, fused in (
        (nn.ReLU(), False),
        (nn.Dropout(), True),
        (layers.DropPath(0.3), True),
        (nn.Sigmoid(), False),
    ):
        model = branches(same(), seq(same(1), middle, bn()))
        assert (counts(convert(model)[0]) == (1, 0)) is fused, middle


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = same(), seq(nn.AdaptiveAvgPool2d(1), same(1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y * self.gate(y)


def test_C21_squeeze_and_excitation_stays() -> None:
    assert counts(convert(branches(Gated(), same(1)))[0]) == (3, 0)


def test_C22_attributes_read_from_outside_are_still_there() -> None:
    model = Fn(lambda m, x: m.bn(m.conv(x)), conv=same(), bn=bn())
    converted, _ = convert(model)
    assert converted.conv.stride == (1, 1)
    assert converted.bn.num_features == C


class ReadsWeight(nn.Module):
    """A parent whose forward also reads a parameter inside its child."""

    def __init__(self, child: nn.Module, path: str) -> None:
        super().__init__()
        self.child, self.path = child, path

    def forward(self, x: Tensor) -> Tensor:
        return self.child(x) * self.child.get_parameter(self.path).mean()


@pytest.mark.parametrize(("child", "path"), [(lambda: seq(same(), bn()), "0.weight"), (Block, "dense.0.weight")])
def test_C23_parameters_another_forward_reads_are_kept(child: Any, path: str) -> None:
    convert(seq(ReadsWeight(child(), path), same()))


def test_C24_a_forward_on_the_instance() -> None:
    model = seq(Block(), seq(same(), bn()), same())
    model[0].forward = types.MethodType(lambda self, x: self.dense(x) * 2, model[0])
    model[1][1].forward = torch.neg
    model[2].forward = lambda x: x + 1
    converted, _ = convert(model)
    assert counts(converted)[1] >= 2


class Doubled(nn.Module):
    """A class whose call does more than its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = same(), same(1)

    def __call__(self, x: Tensor) -> Any:
        return 2 * super().__call__(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)


def test_C24_a_call_of_its_own() -> None:
    convert(Doubled())
    convert(Fn(lambda m, x: m.bn(m.f(x)) + x, f=Doubled(), bn=bn()))


def test_C25_branches_in_containers() -> None:
    class Containers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.listed = nn.ModuleList([same(), same(1)])
            self.named = nn.ModuleDict({"a": seq(same(), bn()), "b": bn()})
            self.scales = nn.ParameterList([nn.Parameter(torch.ones(C, 1, 1)) for _ in range(2)])

        def forward(self, x: Tensor) -> Tensor:
            y = sum(s * f(x) for s, f in zip(self.scales, self.listed, strict=True))
            return self.listed[0](x).relu() * 0 + y + sum(f(x) for f in self.named.values())

    convert(Containers())
    plain = Fn(lambda m, x: sum(f(x) for f in m.d.values()), d=nn.ModuleDict({"a": same(), "b": bn()}))
    assert counts(convert(plain)[0]) == (1, 0)


def test_C26_unused_parameters_and_buffers_stay() -> None:
    block = Block()
    block.register_buffer("mask", torch.ones(3), persistent=False)
    block.unused = nn.Parameter(torch.ones(2))
    block.spare = same()
    converted, _ = convert(seq(block))
    keys = set(converted.state_dict())
    assert keys == {"0.unused", "0.spare.weight", "0.spare.bias", "0.reparam.weight", "0.reparam.bias"}
    assert converted[0].mask.shape == (3,)


def test_C27_a_name_that_is_taken() -> None:
    block = Block()
    block.reparam = nn.Parameter(torch.ones(3))
    block.reparam_1 = "mine"
    converted, _ = convert(block)
    assert counts(converted) == (1, 0)
    assert converted.reparam.shape == (3,)
    assert converted.reparam_1 == "mine"


class Stores(nn.Module):
    """A forward that leaves an intermediate value on the module for others to read."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.seen = same(), same(1), None

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        self.seen = y
        return y + self.b(x)


def test_C7_an_intermediate_value_stored_by_the_forward() -> None:
    model = randomize(Stores()).double()
    converted = reparamkit.apply(model)
    assert model.seen is None
    with torch.no_grad():
        assert gap(model(inputs(IMAGES[0])), converted(inputs(IMAGES[0]))) < 1e-9
        assert isinstance(converted.seen, Tensor), "the stored value is lost"
        assert gap(model.seen, converted.seen) < 1e-9


# D. Geometry -------------------------------------------------------------------------------------------------------

MODES = ("zeros", "reflect", "replicate", "circular")


@pytest.mark.parametrize("one", MODES)
@pytest.mark.parametrize("other", MODES)
def test_D1_padding_modes(one: str, other: str) -> None:
    converted, report = convert(branches(same(5, padding_mode=one), same(padding_mode=other)))
    assert (counts(converted) == (1, 0)) is (one == other)
    assert one == other or "RK312" in codes(report)
    assert counts(convert(branches(same(padding_mode=one), same(1)))[0]) == (1, 0)


@pytest.mark.parametrize("mode", MODES)
def test_D2_modules_pad_by_what_their_numbers_say(mode: str) -> None:
    converted, _ = convert(seq(same(1, bias=False), same(padding_mode=mode), bn()))
    assert counts(converted) == (1, 0)
    assert converted(inputs((1, C, 9, 8))).shape == (1, C, 9, 8)


@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel")
@pytest.mark.parametrize("pair", [(2, 3), (4, 5), (2, 4), (3, 1), (4, 1)])
def test_D3_same_padding_of_even_kernels(pair: tuple[int, int]) -> None:
    model = branches(*[nn.Conv2d(C, C, k, padding="same") for k in pair])
    assert counts(convert(model, policy="always")[0]) == (1, 0)


def test_D4_valid_padding() -> None:
    model = Fn(
        lambda m, x: m.a(x) + m.b(x[:, :, 1:-1, 1:-1]),
        a=nn.Conv2d(C, C, 3, padding="valid"),
        b=nn.Conv2d(C, C, 1, padding="valid"),
    )
    assert counts(convert(model)[0]) == (1, 0)


@pytest.mark.parametrize("example", [None, inputs((1, C, 8, 8))])
def test_D6_sizes_that_agree_at_the_example_only(example: Tensor | None) -> None:
    model = branches(nn.Conv2d(C, C, 3, 2, 1), nn.Conv2d(C, C, 2, 2))
    converted, report = convert(model, (1, C, 8, 8), example_inputs=example)
    assert counts(converted) == (2, 0)
    assert "RK317" in codes(report)


def test_D7_rectangular_union() -> None:
    model = branches(nn.Conv2d(C, C, (1, 3), padding=(0, 1)), nn.Conv2d(C, C, (3, 1), padding=(1, 0)))
    converted, _ = convert(model, policy="always")
    assert converted.reparam.kernel_size == (3, 3)


def test_D8_strides_that_differ() -> None:
    model = branches(nn.Conv2d(C, C, 1, 2), seq(nn.Conv2d(C, C, 1), nn.MaxPool2d(1, 2)))
    assert counts(convert(model)[0]) == (2, 0)
    model = branches(nn.Conv2d(C, C, 3, (2, 1), 1), nn.Conv2d(C, C, 3, (1, 2), 1))
    converted, report = convert(model, (1, C, 1, 1))
    assert counts(converted) == (2, 0)
    assert "RK313" in codes(report)


def test_D9_uneven_strides() -> None:
    model = branches(nn.Conv2d(C, C, 3, (2, 1), 1), nn.Conv2d(C, C, 1, (2, 1)))
    assert counts(convert(model)[0]) == (1, 0)


@pytest.mark.parametrize("dilation", [2, 3])
def test_D10_dilations_that_differ(dilation: int) -> None:
    model = branches(same(), nn.Conv2d(C, C, 3, padding=dilation, dilation=dilation))
    assert counts(convert(model, policy="always")[0]) == (1, 0)
    converted, report = convert(model)
    assert counts(converted) == (2, 0)
    assert dilation == 3 or "RK340" in codes(report)


@pytest.mark.parametrize("one", [1, 2, 4])
@pytest.mark.parametrize("other", [1, 2, 4])
def test_D11_groups_that_differ(one: int, other: int) -> None:
    model = branches(same(groups=one), same(groups=other))
    assert counts(convert(model, policy="always")[0]) == (1, 0)


def test_D12_depthwise_multiplier() -> None:
    def multiplied(kernel: int) -> nn.Module:
        return seq(*conv_bn(C, 3 * C, kernel, padding=kernel // 2, groups=C))

    converted, _ = convert(branches(multiplied(3), multiplied(1)))
    assert counts(converted) == (1, 0)
    assert converted.reparam.groups == C


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_D13_identity_beside_groups(groups: int) -> None:
    converted, _ = convert(branches(same(groups=groups), bn(), nn.Identity()))
    assert counts(converted) == (1, 0)
    assert converted.reparam.groups == groups


def test_D14_identity_that_does_not_fit() -> None:
    _, report = convert(branches(nn.Conv2d(C, 1, 3, padding=1), nn.Identity()))
    assert "RK311" in codes(report)
    strided = Fn(lambda m, x: m.f(x) + x, f=nn.Conv2d(C, C, 3, 2, 1))
    _, report = convert(strided, (2, C, 1, 1))
    assert "RK313" in codes(report)
    one = Fn(lambda m, x: m.f(x) + x, f=nn.Conv2d(1, C, 3, padding=1))
    _, report = convert(one, (2, 1, 5, 5))
    assert "RK311" in codes(report)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("nd", [1, 2, 3])
def test_D16_D17_transposed_convs(groups: int, nd: int) -> None:
    up: Any = getattr(nn, f"ConvTranspose{nd}d")
    norm: Any = getattr(nn, f"BatchNorm{nd}d")
    shape = (2, C, *(5, 4, 3)[:nd])
    model = seq(up(C, 2 * C, 3, stride=2, padding=1, output_padding=1, groups=groups), norm(2 * C))
    assert counts(convert(model, shape)[0]) == (1, 0)


def test_D18_a_linear_layer_beside_a_conv_of_another_layout() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        return m.conv(x) + m.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    converted, _ = convert(Fn(run, conv=same(), linear=nn.Linear(C, C)))
    assert counts(converted) == (2, 0)
    model = Fn(lambda m, x: m.conv(x) + m.linear(x), conv=same(), linear=nn.Linear(C, C))
    converted, _ = convert(model, (2, C, C, C))
    assert counts(converted) == (2, 0)


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
def test_D19_D20_pools(pool: nn.Module) -> None:
    shapes = IMAGES if not isinstance(pool, nn.LPPool2d) else ((1, C, 3, 3),)
    fused = isinstance(pool, nn.AvgPool2d) and pool.count_include_pad and not pool.ceil_mode
    last: nn.Module = nn.Conv2d(C, C, 3) if isinstance(pool, nn.LPPool2d) else same()
    converted, _ = convert(branches(pool, last), *shapes)
    assert (not any(isinstance(m, type(pool)) for m in converted.modules())) is fused


@pytest.mark.parametrize("mode", ["zeros", "replicate", "circular"])
def test_D21_inputs_smaller_than_the_kernel(mode: str) -> None:
    model = branches(same(5, padding_mode=mode), same(padding_mode=mode), same(1))
    sizes = range(1 if mode != "circular" else 2, 6)
    converted, _ = convert(model, *[(1, C, h, w) for h in sizes for w in sizes])
    assert counts(converted) == (1, 0)


def test_D21_reflecting_never_needs_more_than_before() -> None:
    model = branches(same(padding_mode="reflect"), same(1))
    converted, _ = convert(model, (1, C, 2, 2), (1, C, 2, 3))
    assert counts(converted) == (1, 0)


def test_D22_empty_batches() -> None:
    converted, _ = convert(seq(Block(), same(), bn()), (0, C, 6, 6))
    assert counts(converted) == (2, 0)


def test_D22_unbatched_images() -> None:
    converted, _ = convert(branches(same(), same(1), nn.Identity()), (C, 6, 6))
    assert counts(converted) == (1, 0)


class Standardized(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, padding=1)


class OwnPadding(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), value=0.3), weight, bias)


class Sized(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        h = x.shape[-1] % 2
        return F.conv2d(F.pad(x, (h, 2 - h, 1, 1)), self.weight, self.bias)


class Renamed(nn.Conv2d):
    """A subclass that changes nothing about the forward."""


@pytest.mark.parametrize("kind", [Standardized, OwnPadding, Sized])
def test_D23_subclasses_with_a_forward_of_their_own(kind: Any) -> None:
    convert(seq(kind(C, C, 3), bn()))
    convert(branches(kind(C, C, 3), same()))


def test_D23_subclasses_that_inherit_the_forward() -> None:
    assert counts(convert(seq(Renamed(C, C, 3), bn()))[0]) == (1, 0)


def test_D23_subclasses_of_timm() -> None:
    layers: Any = pytest.importorskip("timm.layers")
    convert(seq(layers.StdConv2d(C, C, 3), bn()))
    convert(seq(layers.ScaledStdConv2d(C, C, 3), bn()))
    convert(branches(layers.Conv2dSame(C, C, 3, stride=2), seq(layers.Conv2dSame(C, C, 1, stride=2), bn())))


@pytest.mark.parametrize("one", [True, False])
@pytest.mark.parametrize("other", [True, False])
def test_D24_biases_missing_in_some_branches(one: bool, other: bool) -> None:
    converted, _ = convert(branches(same(bias=one), same(1, bias=other)))
    assert counts(converted) == (1, 0)
    assert (converted.reparam.bias is not None) is (one or other)


def test_D25_pointwise_with_padding() -> None:
    model = branches(nn.Conv2d(C, C, 1, padding=1), nn.Conv2d(C, C, 3, padding=2))
    assert counts(convert(model)[0]) == (1, 0)


def test_D26_cropping_before_padding() -> None:
    model = Fn(lambda m, x: m.bn(m.f(x[:, :, 1:-1, 1:-1])), f=nn.Conv2d(C, C, 1, padding=1, bias=False), bn=bn())
    convert(model)


def test_D27_constants_with_more_axes_than_the_value() -> None:
    for shape in ((1, 1, C, 1, 1), (1, 1, 1, 1, 1)):
        converted, _ = convert(
            Fn(lambda m, x: m.f(x) * m.g, f=same(), g=nn.Parameter(torch.ones(shape))), (1, C, 5, 5), (2, C, 4, 4)
        )
        assert converted(inputs((1, C, 5, 5))).ndim == 5


# E. Numbers and dtypes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_E1_dtypes_of_the_source(dtype: torch.dtype) -> None:
    model = randomize(seq(Block(), Block())).to(dtype)
    converted = reparamkit.apply(model)
    assert counts(converted) == (2, 0)
    assert {p.dtype for p in converted.parameters()} == {dtype}


def test_E1_the_default_dtype_does_not_matter() -> None:
    model = randomize(Block())
    torch.set_default_dtype(torch.float64)
    try:
        converted = reparamkit.apply(model)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {p.dtype for p in converted.parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_E2_numbers_are_folded_in_float64_and_rounded_once(dtype: torch.dtype) -> None:
    model = randomize(seq(same(), bn())).to(dtype)
    conv, norm = copy.deepcopy(model).double()
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    converted = reparamkit.apply(model)
    wanted = (conv.weight * scale.reshape(-1, 1, 1, 1)).to(dtype)
    assert torch.equal(converted[0].weight, wanted)
    assert torch.equal(converted[0].bias, ((conv.bias - norm.running_mean) * scale + norm.bias).to(dtype))


def test_E3_overflow_made_by_folding_is_refused() -> None:
    model = randomize(seq(same(), bn()))
    with torch.no_grad():
        model[0].weight.fill_(2.0)
        model[1].weight.fill_(300.0)
        model[1].running_var.fill_(1e-7)
    model.half()
    before = snapshot(model)
    converted, report = reparamkit.apply(model, return_report=True)
    assert_untouched(model, before)
    assert places(report, "RK501") == ["1"]
    assert counts(converted) == (1, 1)
    assert converted(inputs(IMAGES[0], dtype=torch.float16)).dtype == torch.float16


def test_E4_a_conv_in_half_precision_and_a_batch_norm_in_full() -> None:
    model = randomize(seq(same(), bn()))
    model[0].bfloat16()
    converted = reparamkit.apply(model)
    assert counts(converted) == (1, 0)
    x = inputs(IMAGES[0], dtype=torch.bfloat16)
    assert converted(x).dtype == model(x).dtype == torch.bfloat16


def test_E5_branches_of_different_dtypes() -> None:
    model = randomize(Fn(lambda m, x: m.f(x) * m.g + x, f=same(), g=nn.Parameter(torch.ones(C, 1, 1)))).float()
    model.g = nn.Parameter(model.g.double())
    before = snapshot(model)
    converted, report = reparamkit.apply(model, return_report=True)
    assert_untouched(model, before)
    x = inputs(IMAGES[0], dtype=torch.float32)
    assert converted(x).dtype == model(x).dtype == torch.float64
    assert "RK503" in codes(report)


def test_E6_complex_weights_are_left_alone() -> None:
    model = branches(same(dtype=torch.complex64), same(1, dtype=torch.complex64)).eval()
    before = snapshot(model)
    converted, report = reparamkit.apply(model, return_report=True)
    assert_untouched(model, before)
    assert counts(converted) == (2, 0)
    assert set(places(report, "RK503")) == {"all.0", "all.1"}


class Wrapped(Tensor):
    """A tensor type of somebody else's (quantisation, sharding)."""

    def __deepcopy__(self, memo: Any) -> Any:
        return self


def test_E7_weights_of_a_foreign_tensor_type() -> None:
    model = seq(same(), bn())
    randomize(model).double()
    model[0].weight = nn.Parameter(model[0].weight.detach().as_subclass(Wrapped))
    assert type(model[0].weight.data) is Wrapped
    converted, report = convert_as_is(model)
    assert report.merged == ()
    assert counts(converted) == (1, 1)
    assert places(report, "RK503") == ["0"]


def test_E8_weights_on_the_meta_device() -> None:
    model = seq(Block(), same()).eval().to("meta")
    with raises("RK505") as caught:
        reparamkit.apply(model)
    assert "0.dense.0.weight" in str(caught.value)


def test_E10_memory_format() -> None:
    model = randomize(seq(Block(), same(1))).to(memory_format=torch.channels_last)
    converted = reparamkit.apply(model)
    assert converted[0].reparam.weight.is_contiguous(memory_format=torch.channels_last)
    plain = reparamkit.apply(randomize(Block()))
    assert plain.reparam.weight.is_contiguous()


class Autocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = same(), same(1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.a(x) + self.b(x)


def test_E13_autocast_inside_a_forward_stays() -> None:
    model = randomize(Autocast())
    converted, report = reparamkit.apply(model, return_report=True)
    x = inputs(IMAGES[0], dtype=torch.float32)
    assert converted(x).dtype == model(x).dtype == torch.bfloat16
    assert places(report, "RK604") == ["(root)"]


class Partly(nn.Module):
    """One branch is frozen by the forward itself."""

    def __init__(self, context: Any) -> None:
        super().__init__()
        self.a, self.b, self.context = same(), same(1), context

    def forward(self, x: Tensor) -> Tensor:
        with self.context():
            y = self.a(x)
        return y + self.b(x)


def test_E14_gradients_stopped_inside_a_forward_stay_stopped() -> None:
    model = randomize(Partly(torch.no_grad)).double()
    converted = reparamkit.apply(model)
    grads = []
    for which in (model, converted):
        x = inputs(IMAGES[0]).requires_grad_()
        which(x).sum().backward()
        grads.append(x.grad)
    assert gap(*grads) < 1e-9, "gradients flow where the forward stopped them"


def test_E14_checkpointing_inside_a_forward() -> None:
    from torch.utils.checkpoint import checkpoint

    model = Fn(lambda m, x: checkpoint(m.a, x, use_reentrant=False) + x, a=seq(same(), bn()))
    convert(seq(model, same()))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_E15_weights_that_are_not_finite(value: float) -> None:
    model = randomize(seq(Block(), seq(same(), bn())))
    with torch.no_grad():
        model[1][0].weight[0, 0, 0, 0] = value
    before = snapshot(model)
    converted, report = reparamkit.apply(model, return_report=True)
    assert_untouched(model, before)
    assert places(report, "RK502") == ["1.1"]
    assert counts(converted) == (2, 1)


def test_E16_branches_that_cancel() -> None:
    first, second = same(), same()
    model = branches(seq(first, bn()), seq(second, bn()))
    randomize(model)
    with torch.no_grad():
        for name, parameter in model.all[0].named_parameters():
            model.all[1].get_parameter(name).copy_(-1e4 * parameter if name == "1.weight" else parameter)
            if name == "1.weight":
                parameter.mul_(1e4 * (1 + 1e-7))
        model.all[1][1].running_mean.copy_(model.all[0][1].running_mean)
        model.all[1][1].running_var.copy_(model.all[0][1].running_var)
    model.eval()
    converted, report = reparamkit.apply(
        model, return_report=True, example_inputs=inputs(IMAGES[0], dtype=torch.float32)
    )
    assert counts(converted) == (1, 0)
    assert report.whole_model is not None


# F. Tracing and wrappers -------------------------------------------------------------------------------------------


class ControlFlow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.tail = Block(), seq(same(), bn())

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        for _ in range(x.shape[0]):
            y = y + 1
        return self.tail(y) * x.shape[0]


def test_F1_children_of_a_forward_that_cannot_be_traced() -> None:
    converted, report = convert(ControlFlow())
    assert counts(converted) == (2, 0)
    assert places(report, "RK604") == ["(root)"]
    assert any("range(x.shape[0])" in r.reason for r in report.untraceable)


def test_F2_questions_about_scripting_and_tracing() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        if torch.jit.is_scripting() or torch.jit.is_tracing() or torch.compiler.is_compiling():
            return x
        return m.a(x) + m.b(x)

    assert counts(convert(Fn(run, a=same(), b=same(1)))[0]) == (1, 0)


def test_F3_data_parallel() -> None:
    converted, _ = convert(nn.DataParallel(seq(Block(), same())))
    assert isinstance(converted, nn.DataParallel)
    assert counts(converted) == (2, 0)


def test_F4_compiled_models() -> None:
    model = torch.compile(randomize(seq(Block(), same())).double(), backend="eager")
    converted = reparamkit.apply(model)  # type: ignore[call-overload]
    x = inputs(IMAGES[0])
    with torch.no_grad():
        assert gap(model(x), converted(x)) < 1e-9
    assert counts(converted) == (2, 0)


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_F5_torchscript() -> None:
    for scripted in (
        torch.jit.script(same().eval()),
        torch.jit.trace(Block().eval(), inputs(IMAGES[0], dtype=torch.float32)),
    ):
        with raises("RK601"):
            reparamkit.apply(scripted)


def test_F6_exported_programs() -> None:
    program = torch.export.export(Block().eval(), (inputs(IMAGES[1], dtype=torch.float32),))
    with raises("RK602"):
        reparamkit.apply(program)  # type: ignore[call-overload]


@pytest.mark.parametrize("what", [None, 3, "model.pt", torch.ones(3), dict, nn.Module])
def test_F6_things_that_are_no_modules(what: Any) -> None:
    with raises("RK603"):
        reparamkit.apply(what)


def test_F7_graph_modules() -> None:
    from torch import fx

    graph_module = fx.symbolic_trace(randomize(Fn(lambda m, x: m.bn(m.conv(x)) + x, conv=same(), bn=bn())).double())
    converted, _ = convert_as_is(graph_module)
    assert isinstance(converted, fx.GraphModule)
    assert counts(converted) == (1, 0)


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_F8_lazy_modules() -> None:
    model = seq(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d()).eval()
    with raises("RK102") as caught:
        reparamkit.apply(model)
    assert "0.weight" in str(caught.value)


def nested(depth: int) -> nn.Module:
    model: nn.Module = seq(same(), bn())
    for _ in range(depth):
        model = seq(model)
    return model


@pytest.mark.parametrize("depth", [30, 100])
def test_F9_deep_nesting(depth: int) -> None:
    converted, _ = convert(nested(depth))
    assert counts(converted) == (1, 0)


def test_F9_nesting_beyond_what_can_be_copied_works_in_place() -> None:
    converted = reparamkit.apply(randomize(nested(300)), inplace=True)
    assert counts(converted) == (1, 0)


def test_F10_long_models() -> None:
    model = randomize(seq(*[layer for _ in range(1000) for layer in (nn.Conv2d(2, 2, 1), nn.ReLU())]))
    converted, report = reparamkit.apply(model, return_report=True)
    assert not report.merged
    assert len(converted) == 2000
    model = randomize(seq(*[layer for _ in range(666) for layer in (nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.ReLU())]))
    assert counts(reparamkit.apply(model)) == (666, 0)


def test_F11_another_thread_goes_on_undisturbed() -> None:
    served, model = randomize(seq(Block(), Block())), randomize(seq(*[Block() for _ in range(8)]))
    x = inputs(IMAGES[0], dtype=torch.float32)
    wanted = served(x)
    stop, errors, calls = threading.Event(), [], [0]

    def serve() -> None:
        while not stop.is_set():
            try:
                assert torch.equal(served(x), wanted)
                calls[0] += 1
            except BaseException as error:
                errors.append(error)
                return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        for _ in range(5):
            assert counts(reparamkit.apply(model)) == (8, 0)
            assert counts(reparamkit.apply(served)) == (2, 0)
    finally:
        stop.set()
        thread.join()
    assert not errors
    assert calls[0] > 0


def test_F11_two_threads_convert_at_once() -> None:
    models = [randomize(seq(Block(), same(), bn()), seed).double() for seed in range(4)]
    results: dict[int, nn.Module] = {}
    threads = [
        threading.Thread(target=lambda i=i: results.__setitem__(i, reparamkit.apply(models[i]))) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, model in enumerate(models):
        assert_same(model, results[index])
        assert counts(results[index]) == (2, 0)


def test_F12_other_kinds_of_inputs_and_outputs() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()

        def forward(self, x: Tensor, *rest: Any, scale: float = 1.0, **options: Any) -> dict[str, Any]:
            return {"out": self.block(x) * scale, "rest": len(rest), "options": sorted(options)}

    model = randomize(Outer()).double()
    converted = reparamkit.apply(model)
    assert counts(converted) == (1, 0)
    x = inputs(IMAGES[0])
    with torch.no_grad():
        assert gap(model(x, 1, 2, scale=2.0, a=1), converted(x, 1, 2, scale=2.0, a=1)) < 1e-9


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0] * 3


def test_F18_functions_that_are_not_known() -> None:
    convert(Fn(lambda m, x: m.bn(Twice.apply(m.conv(x))), conv=same(), bn=bn()))
    _, report = convert(Fn(lambda m, x: m.bn(torch.vmap(lambda y: y * 2)(m.conv(x))), conv=same(), bn=bn()))
    assert not report.merged


# H. The edit itself ------------------------------------------------------------------------------------------------

AROUND: dict[str, Callable[[Any, Tensor], Any]] = {
    "factor": lambda m, x: m.f(x) * 0.5,
    "shift": lambda m, x: m.f(x) + 1,
    "scale before": lambda m, x: m.f(x * 2),
    "both": lambda m, x: m.f(x * 2) * 3 + 1,
    "sum": lambda m, x: m.f(x) + x,
    "norm": lambda m, x: m.bn(m.f(x)) * 2,
    "clone": lambda m, x: m.bn(m.f(x)).clone(),
    "activation": lambda m, x: (m.f(x) * 0.5).relu(),
    "two": lambda m, x: m.f(x) * 0.5 + m.g(x),
}


@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize("run", AROUND)
def test_H1_blocks_that_do_arithmetic_around_their_layers(run: str, inplace: bool) -> None:
    layers = [nn.ReLU, nn.Identity, lambda: same(1, bias=False), same, bn]
    for before, after in itertools.product(layers, layers):
        block = Fn(AROUND[run], f=same(), g=same(1), bn=bn())
        model = randomize(seq(before(), seq(block), after())).double()
        original = copy.deepcopy(model)
        assert_same(original, reparamkit.apply(model, inplace=inplace, policy="always"))


class Tailed(nn.Module):
    """A block whose first layers merge with arithmetic of its own, and go on with a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = seq(same(), bn()), same()

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.a(x) * 0.5)


class Dead(nn.Module):
    """A block that also calls a layer whose result nobody reads."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.dead, self.inner = same(1), inner

    def forward(self, x: Tensor) -> Tensor:
        self.dead(x)
        return self.inner(x) * 0.5


class Hands(nn.Module):
    """A block that hands its input on, after layers whose result nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.pad, self.dead = nn.ReflectionPad2d(1), seq(same(1), bn())

    def forward(self, x: Tensor) -> Tensor:
        self.dead(self.pad(x))
        return x


class LayerScaled(nn.Module):
    """A scale for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(C, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def _dead_rewrite(m: Any, x: Tensor) -> Any:
    m.bn(m.norm(x) + x)
    return m.f(x)


def _dead_reader(m: Any, x: Tensor) -> Any:
    x += x
    m.identity(x)
    return m.pool(m.f(x))


REMAINDERS: dict[str, Callable[[], nn.Module]] = {
    "the anchor is inside": lambda: seq(Tailed(), nn.ReLU()),
    "a dead layer is no rest": lambda: seq(Dead(bn())),
    "a dead layer is no rest, anchor outside": lambda: seq(same(), Dead(nn.Identity())),
    "a block inside a merged region": lambda: Fn(
        lambda m, x: m.g(m.bn(m.f(x) * 0.5)), f=same(), bn=bn(), g=Fn(lambda m, x: m.f(x * 0.5), f=same(1))
    ),
    "a rewrite in a block that goes": lambda: Fn(
        lambda m, x: m.g[0](x) * 0.5,
        g=nn.ModuleList([Fn(lambda m, x: (m.a(x + 0.5 * x), m.b(x))[1], a=LayerScaled(), b=LayerScaled())]),
    ),
    "a dead sum in a block that goes": lambda: Fn(
        lambda m, x: m.f(x) + x, f=Fn(_dead_rewrite, norm=bn(), bn=bn(), f=same(1))
    ),
    "a dead reader of what is changed in place": lambda: seq(
        same(1),
        same(1),
        Fn(_dead_reader, identity=nn.Identity(), f=seq(*conv_bn(C, C, 1)), pool=nn.AvgPool2d(3, 1, 1)),
    ),
    "dead layers in a block that goes": lambda: Fn(
        lambda m, x: (m.g(m.bn(m.f(x) * 0.5)), m.h(x))[1], f=same(), bn=bn(), g=Hands(), h=same()
    ),
}


@pytest.mark.parametrize("policy", ["cheaper", "always"])
@pytest.mark.parametrize("case", REMAINDERS)
def test_H2_what_remains_of_a_block_is_kept(case: str, policy: str) -> None:
    convert(REMAINDERS[case](), policy=policy)


SETTLED: dict[str, Callable[[], nn.Module]] = {
    "norm behind a block": lambda: seq(branches(same(), same(1)), bn()),
    "block behind a conv": lambda: seq(
        same(1), Fn(lambda m, x: m.f(x + x), f=seq(*conv_bn(C, C, 1), nn.ReLU())), nn.ReLU()
    ),
    "factor behind a sequence": lambda: Fn(lambda m, x: m.g(m.f(x)) * 0.5, f=same(1), g=seq(bn(), same())),
}


@pytest.mark.parametrize("case", SETTLED)
def test_A12_one_application_is_enough(case: str) -> None:
    once, first = convert(SETTLED[case]())
    _, second = convert_as_is(once)
    assert not second.merged, f"first {first}\nsecond {second}"


def test_a_refusal_says_where_and_why() -> None:
    _, report = convert(Fn(lambda m, x: m.body(x), body=seq(seq(bn(), same()), nn.ReLU())))
    assert places(report, "RK316") == ["body.0.1"]
    text = str(report)
    assert "body.0.1: RK316 border would change" in text
