"""Hazards of hooks and of weights computed by hooks."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reparamkit
from tests.hazards.models import Block, C, bn, same, seq
from tests.hazards.row import hazard
from tests.hazards.told import warns
from tests.helpers import (
    IMAGES,
    assert_same,
    codes,
    convert,
    counts,
    gap,
    inputs,
    places,
    randomize,
    unchanged,
)


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


@hazard("C7", "an intermediate value is stored by the forward or read by a hook", "refused", "RK305", "RK306")
@hazard("C8", "a hook on a merged layer changes its output", "refused", "RK306")
@hazard("C11", "hooks on state dicts", "refused where modules would go, kept elsewhere", "RK306")
@hazard("C12", "backward hooks", "refused where modules would go, kept elsewhere", "RK306")
@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize("place", ["0", "1"])
def test_c07_c08_c11_c12_observed_modules_stay(kind: str, place: str) -> None:
    model = seq(same(), bn())
    hook(kind, model.get_submodule(place))
    converted, report = convert(model)
    assert counts(converted) == (1, 1)
    assert place in places(report, "RK306")


@hazard("C9", "a hook on the root or on a parent", "it goes on working: modules are exchanged below it")
@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize("place", ["", "0"])
def test_c09_hooks_on_what_stays_go_on_working(kind: str, place: str) -> None:
    model = seq(Block(), same())
    hook(kind, model.get_submodule(place))
    converted, _ = convert(model)
    assert counts(converted) == (2, 0)
    kept = converted.get_submodule(place)
    assert sum(len(v) for k, v in kept.__dict__.items() if k.endswith("hooks")) >= 1


@hazard("C10", "hooks for all modules of the process", "a warning", "RK306")
@pytest.mark.parametrize("call", [reparamkit.plan, reparamkit.apply])
def test_c10_global_hooks_do_not_fire_and_are_warned_of(call: Any) -> None:
    seen: list[str] = []
    model = randomize(seq(Block(), same())).double()
    handle = nn.modules.module.register_module_forward_hook(lambda m, args, out: seen.append(type(m).__name__))
    try:
        with warns("RK306", __file__, "global_forward_hooks"), unchanged(model):
            call(model)
    finally:
        handle.remove()
    assert not seen
    call(model)  # without them, no warning


@hazard("C13", "weights are parametrized", "merged with the weight as it is; the parametrization goes with it")
def test_c13_parametrized_weights() -> None:
    for wrap in (nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm):
        model = seq(wrap(same()), bn())
        converted, report = convert(model)
        assert [merged.path for merged in report.merged] == ["0"]
        assert counts(converted) == (1, 0)
        assert not nn.utils.parametrize.is_parametrized(converted[0])


class Stretched(nn.Module):
    """A parametrization that rounds differently in each dtype."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(x / 3) / 3 + x * x.norm()


def stretched(layer: nn.Module) -> nn.Module:
    nn.utils.parametrize.register_parametrization(layer, "weight", Stretched())
    return layer


ROUNDED = {
    "convolution": lambda: seq(stretched(same()), bn()),
    "transposed": lambda: seq(stretched(nn.ConvTranspose2d(C, C, 2, 2)), same(1)),
    "batch norm": lambda: seq(same(), stretched(bn())),
    "instance norm": lambda: seq(same(), stretched(nn.InstanceNorm2d(C, affine=True, track_running_stats=True))),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("what", ROUNDED)
def test_c13_a_weight_is_what_its_parametrization_gives_in_its_own_dtype(what: str, dtype: torch.dtype) -> None:
    model = randomize(ROUNDED[what]()).to(dtype)
    converted, report = reparamkit.apply(model, return_report=True)
    assert counts(converted) == (1, 0)
    assert report.max_error is not None
    assert report.max_error < 1e-12
    x = inputs(IMAGES[0], dtype=dtype)
    with torch.no_grad():
        assert gap(model(x).float(), converted(x).float()) < 32 * torch.finfo(dtype).eps


@pytest.mark.parametrize("norm", [nn.LayerNorm(C), nn.GroupNorm(2, C)], ids=["layer norm", "group norm"])
def test_c13_a_norm_with_a_computed_scale_keeps_it(norm: nn.Module) -> None:
    every = {"version": 1, "name": "x", "blocks": [{"match": {"structure": "any"}, "rules": ["core/*", "norm_affine"]}]}
    x = inputs((2, C), dtype=torch.float64)
    model = seq(copy.deepcopy(norm), nn.Linear(C, C))
    assert len(convert(model, (2, C), recipe=every, example_inputs=x)[1].merged) == 1
    report = convert(seq(stretched(norm), nn.Linear(C, C)), (2, C), recipe=every, example_inputs=x)[1]
    assert not report.merged
    assert places(report, "RK308") == ["0"]


@hazard("C14", "legacy weight_norm, spectral_norm, pruning", "refused", "RK308")
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "prune"])
def test_c14_legacy_weights_computed_by_hooks(kind: str) -> None:
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
    assert not report.merged
    assert places(report, "RK308") == ["0"], codes(report)


class Stores(nn.Module):
    """A forward that leaves an intermediate value on the module for others to read."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.seen = same(), same(1), None

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        self.seen = y
        return y + self.b(x)


def test_c07_an_intermediate_value_stored_by_the_forward() -> None:
    model = randomize(Stores()).double()
    converted, report = reparamkit.apply(model, return_report=True)
    assert places(report, "RK305") == ["add"]
    assert model.seen is None
    with torch.no_grad():
        assert gap(model(inputs(IMAGES[0])), converted(inputs(IMAGES[0]))) < 1e-9
        assert isinstance(converted.seen, Tensor), "the stored value is lost"
        assert gap(model.seen, converted.seen) < 1e-9
