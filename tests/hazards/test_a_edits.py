"""Faults at every edit of every round, whatever is raised, and while one is taken back: the model is as it was."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn

import reparamkit
from tests.hazards.faults import Fault, Here, edits
from tests.hazards.models import C, bn, same, seq
from tests.hazards.test_a_faults import RECIPE, convert, model
from tests.helpers import assert_untouched, randomize, snapshot
from tests.test_transform import doubled, plugin

Call = Callable[[nn.Module], Any]
ERRORS = (RuntimeError, KeyboardInterrupt, MemoryError, torch.OutOfMemoryError)


def every_edit_fails(build: Callable[[], nn.Module], call: Call, error: type[BaseException]) -> int:
    """Let each edit fail in turn; how many there are."""
    count = Fault(edits()).run(lambda: call(build()))
    victim = build()
    before = snapshot(victim)
    for at in range(count):
        with pytest.raises(error):
            Fault(edits(), at, error).run(partial(call, victim))
        assert_untouched(victim, before)
    return count


@pytest.mark.parametrize(
    ("error", "keep_original"),
    [*((error, True) for error in ERRORS), (KeyboardInterrupt, False), (MemoryError, False)],
)
def test_a14_every_edit_of_every_round(error: type[BaseException], keep_original: bool) -> None:
    assert every_edit_fails(model, partial(convert, keep_original=keep_original), error) > 30


def test_a14_every_edit_of_a_plan_for_another_model() -> None:
    plan = reparamkit.plan(model(), RECIPE, plugins=[plugin(doubled(2.0))])
    assert every_edit_fails(model, partial(plan.apply_to, inplace=True), KeyboardInterrupt) > 20


def plain() -> nn.Module:
    """What can be given branches."""
    return randomize(seq(same(), bn(), nn.ReLU(), seq(same(bias=False), bn())), 1)


@pytest.mark.parametrize("error", ERRORS)
def test_a14_every_edit_of_an_expansion(error: type[BaseException]) -> None:
    def expand(target: nn.Module) -> Any:
        with torch.random.fork_rng():
            return reparamkit.expand(target, "acnet", inplace=True, example_inputs=torch.ones(2, C, 8, 8))

    assert every_edit_fails(plain, expand, error) > 3


def taking_back() -> Here:
    """Every line that takes an edit back."""

    def here(frame: FrameType, event: str) -> bool:
        return event in ("call", "line") and frame.f_code.co_name == "undo"

    return here


@pytest.mark.parametrize("at", range(0, 120, 7))
def test_a14_a_second_interrupt_while_the_first_is_taken_back(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def expectations(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("reparamkit.pipeline.expectations", expectations)
    victim = model()
    before = snapshot(victim)
    with pytest.raises(KeyboardInterrupt):
        Fault(taking_back(), at, KeyboardInterrupt).run(partial(convert, victim))
    assert_untouched(victim, before)
