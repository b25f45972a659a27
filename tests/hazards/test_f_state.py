"""Hazards of forwards that do not do the same twice: chance, state, modes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import reparamkit
from tests.hazards.models import C, bn, same
from tests.hazards.row import hazard
from tests.helpers import IMAGES, convert_as_is, counts, gap, inputs, places, randomize, unchanged

Run = Callable[[Any, Tensor], Any]
SHARED = {"calls": 0}


class Counter:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        return self.calls


class Stateful(nn.Module):
    def __init__(self, run: Run) -> None:
        super().__init__()
        self.a, self.b, self.bn, self.run = same(), same(1), bn(), run
        self.step, self.cache = 0, None
        self.log: list[int] = []
        self.table: dict[str, int] = {}
        self.rng, self.np_rng = random.Random(1), np.random.default_rng(1)
        self.counter, self.counts = Counter(), itertools.count(1)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("average", torch.zeros(C))

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def same_for_four_calls(run: Run) -> list[str]:
    """The converted model goes through the same states as the original; places of forwards that were not traced."""
    model = randomize(Stateful(run)).double()
    converted: Any
    with unchanged(model):
        converted, report = reparamkit.apply(model, return_report=True)
    for seed in range(4):
        results = []
        for which in (model, converted):
            random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
            SHARED["calls"] = seed
            with torch.no_grad():
                results.append(which(inputs(IMAGES[0], seed)))
        assert gap(*results) < 1e-9, f"call {seed}"
    assert (model.step, model.log, model.table) == (converted.step, converted.log, converted.table)
    assert torch.equal(model.calls, converted.calls)
    return places(report, "RK604")


def _choice(m: Any, x: Tensor) -> Any:
    y = m.a(x) + m.b(x)
    return y * 2 if random.random() < 0.5 else y


CHANCE: dict[str, Run] = {
    "a branch": _choice,
    "random": lambda m, x: (m.a(x) + m.b(x)) * random.uniform(1, 2),
    "numpy": lambda m, x: (m.a(x) + m.b(x)) * float(np.random.rand()),
    "a generator of its own": lambda m, x: (m.a(x) + m.b(x)) * m.rng.random(),
    "a method of a generator": lambda m, x: (m.a(x) + m.b(x)) * m.rng.randint(1, 9),
    "a numpy generator of its own": lambda m, x: (m.a(x) + m.b(x)) * float(m.np_rng.random()),
    "torch": lambda m, x: (m.a(x) + m.b(x)) * torch.rand(()),
    "a seed": lambda m, x: (torch.manual_seed(3), m.a(x) + m.b(x))[1],
}


@hazard("F19", "the forward draws random numbers, or seeds them", "not traced", "RK604")
@pytest.mark.parametrize("run", CHANCE.values(), ids=CHANCE)
def test_f19_chance_is_not_traced(run: Run) -> None:
    assert same_for_four_calls(run) == ["(root)"]


def test_f19_what_only_looks_like_it_is_merged() -> None:
    model = randomize(Stateful(lambda m, x: (m.a(x) + m.b(x)) * float(np.sqrt(4.0)) + (m.rng is None))).double()
    assert counts(convert_as_is(model)[0]) == (1, 1)


def _step(m: Any, x: Tensor) -> Any:
    m.step += 1
    return m.a(x) + m.b(x) * m.step


def _third(m: Any, x: Tensor) -> Any:
    m.step += 1
    return m.a(x) * 2 if m.step > 2 else m.a(x) + m.b(x)


def _toggle(m: Any, x: Tensor) -> Any:
    m.step = 1 - m.step
    return m.a(x) + m.b(x)


def _log(m: Any, x: Tensor) -> Any:
    m.log.append(len(m.log))
    return m.a(x) + m.b(x)


def _table(m: Any, x: Tensor) -> Any:
    m.table["k"] = m.table.get("k", 0) + 1
    return m.a(x) + m.b(x) * m.table["k"]


def _buffer(m: Any, x: Tensor) -> Any:
    m.calls = m.calls + 1
    return m.a(x) + m.b(x) * m.calls


def _buffer_in_place(m: Any, x: Tensor) -> Any:
    m.calls += 1
    return m.a(x) + m.b(x)


def _average(m: Any, x: Tensor) -> Any:
    y = m.a(x) + m.b(x)
    m.average = m.average * 0.9 + y.mean((0, 2, 3)) * 0.1
    return y + m.average.reshape(1, -1, 1, 1)


def _previous(m: Any, x: Tensor) -> Any:
    y = m.a(x) + m.b(x)
    y = y if m.cache is None else y + m.a(m.cache)
    m.cache = x
    return y


def _child(m: Any, x: Tensor) -> Any:
    m.a.step = getattr(m.a, "step", 0) + 1
    return m.a(x) + m.b(x) * m.a.step


def _weight(m: Any, x: Tensor) -> Any:
    with torch.no_grad():
        m.b.weight.mul_(0.5)
    return m.a(x) + m.b(x)


def _global(m: Any, x: Tensor) -> Any:
    SHARED["calls"] += 1
    return m.a(x) + m.b(x) * SHARED["calls"]


STATE: dict[str, Run] = {
    **{f.__name__[1:]: f for f in (_step, _third, _toggle, _log, _table, _buffer, _buffer_in_place, _average)},
    **{f.__name__[1:]: f for f in (_previous, _child, _weight, _global)},
    "object": lambda m, x: m.a(x) + m.b(x) * m.counter(),
    "iterator": lambda m, x: m.a(x) + m.b(x) * next(m.counts),
}


@hazard(
    "F20",
    "the forward keeps state from one call to the next",
    "not traced, unless it is a cache that settles",
    "RK604",
    "RK305",
)
@pytest.mark.parametrize("run", STATE.values(), ids=STATE)
def test_f20_state_is_not_traced(run: Run) -> None:
    assert same_for_four_calls(run) == ["(root)"]


def _cache(m: Any, x: Tensor) -> Any:
    if m.cache is None:
        m.cache = m.b.weight.detach().sum()
    return m.a(x) + m.b(x) * m.cache


def test_f20_a_cache_settles_and_is_merged() -> None:
    model = randomize(Stateful(_cache)).double()
    assert counts(convert_as_is(model)[0]) == (1, 1)


def _leaves(m: Any, x: Tensor) -> Any:
    m.kind = "sum"
    return m.a(x) + m.b(x)


def test_f20_what_is_left_for_others_to_read_is_left() -> None:
    model = randomize(Stateful(_leaves)).double()
    with unchanged(model):
        converted, report = reparamkit.apply(model, return_report=True)
    converted(inputs(IMAGES[0]))
    assert converted.kind == "sum"
    assert places(report, "RK305") == ["add"]
    assert any("sets the attribute kind" in r.reason for r in report.refused)


MODES: dict[str, Run] = {
    "gradients": lambda m, x: m.a(x) + m.b(x) if torch.is_grad_enabled() else m.a(x),
    "no gradients": lambda m, x: m.a(x) if torch.is_grad_enabled() else m.a(x) + m.b(x),
    "inference mode": lambda m, x: m.a(x) if torch.is_inference_mode_enabled() else m.a(x) + m.b(x),
    "autocast": lambda m, x: m.a(x) if torch.is_autocast_enabled("cpu") else m.a(x) + m.b(x),
    "gradient of the input": lambda m, x: m.a(x) if x.requires_grad else m.a(x) + m.b(x),
}


@hazard("F21", "the forward asks for gradient or autocast mode", "every answer is tried; what differs is left")
@pytest.mark.parametrize("run", MODES.values(), ids=MODES)
def test_f21_modes_have_no_one_answer(run: Run) -> None:
    model = randomize(Stateful(run))
    converted, report = reparamkit.apply(model, return_report=True)
    assert not report.merged
    x = inputs(IMAGES[0], dtype=torch.float32)
    for context in (
        torch.no_grad(),
        torch.enable_grad(),
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16),
    ):
        for needs in (False, True):
            y = x.clone().requires_grad_(needs)
            with context:
                assert gap(model(y).detach().float(), converted(y).detach().float()) < 1e-5
