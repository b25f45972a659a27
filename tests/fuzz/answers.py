"""What a plugin may answer instead of what was asked, and what must come of it."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import reparamkit
from reparamkit.answers import Cat, Split, Sum, Tail, Through
from reparamkit.errors import Refusal, ReparamError
from reparamkit.operators import Scale
from tests.helpers import assert_same, assert_untouched, snapshot

C = 4


def raises(error: BaseException) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        raise error

    return run


def _recurse(*args: Any) -> Any:
    return _recurse(*args)


def slow(*args: Any) -> Any:
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
    "ValueError": raises(ValueError("no")),
    "KeyError": raises(KeyError()),
    "AssertionError": raises(AssertionError("é\x1b[2J")),
    "RuntimeError": raises(RuntimeError("x" * 100_000)),
    "NotImplementedError": raises(NotImplementedError()),
    "StopIteration": raises(StopIteration()),
    "MemoryError": raises(MemoryError()),
    "recursion": _recurse,
    "slow": slow,
    "warns": _warns,
    "draws": lambda *a: Scale(torch.rand(C, dtype=torch.float64)),
    "changes the default": lambda *a: torch.set_default_dtype(torch.float32),
}


def plugin(**hooks: Any) -> Any:
    return type("Given", (), {k: staticmethod(reparamkit.hookimpl(v)) for k, v in _named(hooks).items()})()


def _named(hooks: dict[str, Any]) -> dict[str, Any]:
    for name, hook in hooks.items():
        hook.__name__ = name
    return hooks


def tried(original: nn.Module, given: Any, inplace: bool = False) -> None:
    """Whatever the plugin does: an error of ours and an untouched model, or one that computes the same."""
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
        assert_untouched(target, {**before, "rng": snapshot(target)["rng"]})  # a rule may draw random numbers
    if converted is not None:
        assert_same(original, converted)
