"""Plugins that do whatever a plugin should not: the answer is an error or a refusal, or the model stays right."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reparamkit
from reparamkit.errors import Refusal, ReparamError
from reparamkit.operators import Scale
from reparamkit.rule import Cat, Lift, Split, Sum, Tail, Through, Transform
from tests.helpers import assert_same, assert_untouched, randomize, snapshot, unchanged

C = 4


class Gain(nn.Module):
    """A layer that only a plugin knows."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(C))

    def forward(self, x: Tensor) -> Tensor:
        return gained(x, self.gain)


def gained(x: Tensor, gain: Tensor) -> Tensor:
    if float(gain.sum()) == 1e9:  # so that no tracer can follow it
        raise AssertionError
    return x * gain.view(-1, 1, 1)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(C, C, 3, padding=1), nn.BatchNorm2d(C)
        self.gain, self.last, self.other = Gain(), Gain(), nn.Conv2d(C, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)) + self.other(x)
        return torch.cat([self.gain(x), torch.relu(self.last(x * 2))], 1)


def _raise(error: BaseException) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        raise error

    return run


def _recurse(*args: Any) -> Any:
    return _recurse(*args)


def _slow(*args: Any) -> Any:
    time.sleep(0.2)
    return None


def _warns(*args: Any) -> Any:
    warnings.warn("look", stacklevel=1)
    return None


class Hostile:
    """Answers every question wrongly."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    def __hash__(self) -> int:
        raise RuntimeError

    def __bool__(self) -> bool:
        raise RuntimeError

    def __repr__(self) -> str:
        raise RuntimeError


NAN = torch.full((C,), float("nan"), dtype=torch.float64)
ANSWERS: dict[str, Callable[..., Any]] = {
    "nothing": lambda *a: None,
    "number": lambda *a: 1,
    "text": lambda *a: "conv",
    "list": lambda *a: [None, 1],
    "class": lambda *a: Scale,
    "tensor": lambda *a: torch.ones(3, 3),
    "module": lambda *a: nn.Conv2d(1, 1, 1),
    "itself": lambda *a: a[0],
    "all of it": lambda *a: a,
    "hostile": lambda *a: Hostile(),
    "other channels": lambda *a: Scale(torch.ones(C + 3, dtype=torch.float64)),
    "no channels": lambda *a: Scale(torch.ones(0, dtype=torch.float64)),
    "wrong numbers": lambda *a: Scale(torch.full((C,), 7.0, dtype=torch.float64)),
    "float32": lambda *a: Scale(torch.full((C,), 7.0)),
    "integers": lambda *a: Scale(torch.ones(C, dtype=torch.int64)),
    "two axes": lambda *a: Scale(torch.ones(C, C, dtype=torch.float64)),
    "NaN": lambda *a: Scale(NAN),
    "infinite": lambda *a: Scale(torch.full((C,), float("inf"), dtype=torch.float64)),
    "meta": lambda *a: Scale(torch.ones(C, device="meta", dtype=torch.float64)),
    "gradient": lambda *a: Scale(torch.ones(C, dtype=torch.float64, requires_grad=True)),
    "refusal of no code": lambda *a: Refusal("", ""),
    "refusal of an unknown code": lambda *a: Refusal("RK999", "because"),
    "through nothing": lambda *a: Through(None, None),  # type: ignore[arg-type]
    "sum of nothing": lambda *a: Sum(()),
    "sum of numbers": lambda *a: Sum(((1.0, 2),)),
    "stack of nothing": lambda *a: Cat((), 9),
    "split of nothing": lambda *a: Split(None, None),  # type: ignore[arg-type]
    "tail of nothing": lambda *a: Tail(None, None, None),  # type: ignore[arg-type]
    "pair": lambda *a: (a[0], a[0]),
    "ValueError": _raise(ValueError("no")),
    "KeyError": _raise(KeyError()),
    "AssertionError": _raise(AssertionError("é\x1b[2J")),
    "RuntimeError": _raise(RuntimeError("x" * 100_000)),
    "NotImplementedError": _raise(NotImplementedError()),
    "StopIteration": _raise(StopIteration()),
    "MemoryError": _raise(MemoryError()),
    "recursion": _recurse,
    "slow": _slow,
    "warns": _warns,
    "draws": lambda *a: Scale(torch.rand(C, dtype=torch.float64)),
    "changes the default": lambda *a: torch.set_default_dtype(torch.float32),
}
KINDS: dict[str, Callable[[Any], Any]] = {
    "lift of a module": lambda run: Lift("p/x", Gain, run),
    "lift of a known module": lambda run: Lift("p/x", nn.Conv2d, run, overrides="core/conv"),
    "lift of a call": lambda run: Lift("p/x", torch.relu, run, overrides="core/no_op"),
    "transform": lambda run: Transform("p/x", run, opt_in=False),
}


def plugin(**hooks: Any) -> Any:
    return type("Given", (), {k: staticmethod(reparamkit.hookimpl(v)) for k, v in _named(hooks).items()})()


def _named(hooks: dict[str, Any]) -> dict[str, Any]:
    for name, hook in hooks.items():
        hook.__name__ = name
    return hooks


def model() -> nn.Module:
    return randomize(Model()).double()


def tried(given: Any, inplace: bool = False) -> None:
    """Whatever the plugin does: an error of ours and an untouched model, or one that computes the same."""
    original = model()
    target = copy.deepcopy(original)
    before, told = snapshot(target), ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            converted: nn.Module | None = reparamkit.apply(target, policy="always", plugins=[given], inplace=inplace)
    except (ReparamError, MemoryError) as error:
        converted, told = None, str(error)
    assert len(told) < 10_000
    if converted is None or not inplace:
        assert_untouched(target, {**before, "rng": torch.get_rng_state()})  # a rule may draw random numbers
    if converted is not None:
        assert_same(original, converted)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("kind", KINDS)
def test_rules_that_answer_anything(kind: str, answer: str, inplace: bool) -> None:
    rule = KINDS[kind](ANSWERS[answer])
    tried(plugin(reparamkit_rules=lambda: [rule]), inplace)


HOOKS = ["reparamkit_rules", "reparamkit_policies", "reparamkit_recipes", "reparamkit_branches"]
RETURNED: dict[str, Callable[[], Any]] = {
    "nothing": lambda: None,
    "a number": lambda: 3,
    "text": lambda: "rules",
    "wrong things": lambda: [1, "a", None],
    "a class": lambda: [Lift],
    "raises": _raise(ValueError("no")),
    "twice": lambda: [KINDS["lift of a module"](_slow)] * 2,
    "id without a plugin": lambda: [Lift("x", Gain, _slow)],
    "id that is no text": lambda: [Lift(3, Gain, _slow)],  # type: ignore[arg-type]
    "target that is nothing": lambda: [Lift("p/x", None, _slow)],
    "run that cannot be called": lambda: [Lift("p/x", Gain, 3)],
}


@pytest.mark.parametrize(
    "hook", ["reparamkit_rules", "reparamkit_policies", "reparamkit_recipes", "reparamkit_branches"]
)
@pytest.mark.parametrize("returned", RETURNED.values(), ids=RETURNED.keys())
def test_hooks_that_return_anything(hook: str, returned: Callable[[], Any]) -> None:
    tried(plugin(**{hook: lambda: returned()}))


def _zero(module: Any, context: Any) -> Any:
    with torch.no_grad():
        module.gain.zero_()
    return Scale(torch.zeros(C, dtype=torch.float64))


def _train(module: Any, context: Any) -> Any:
    module.train()


def _drop(module: Any, context: Any) -> Any:
    del module.gain


@pytest.mark.parametrize("run", [_zero, _train, _drop])
def test_rules_that_change_what_they_look_at_are_named(run: Any) -> None:
    given = plugin(reparamkit_rules=lambda: [Lift("p/x", Gain, run)])
    tried_on = model()
    with unchanged(tried_on):
        report = reparamkit.plan(tried_on, plugins=[given])
    assert any(r.code == "RK804" and "p/x" in r.reason for r in report.refusals)
