"""Faults injected at every line of a conversion in place: the model is as it was."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from torch import Tensor, nn

import reparamkit
from tests.hazards.models import Block, C, bn, same, seq
from tests.helpers import IMAGES, assert_same, assert_untouched, inputs, randomize, snapshot
from tests.test_transform import Twice, doubled, plugin

PACKAGE = Path(reparamkit.__file__).parent
# Where the model is changed. There, and in the function that commits, every line is tried.
CHANGING = {str(PACKAGE / f"{name}.py") for name in ("edits/splice", "transform", "edits/rewritten")}
COMMIT = (str(PACKAGE / "pipeline.py"), "carry_out")
ERRORS = (RuntimeError, KeyboardInterrupt, MemoryError)
PARTS = 4
OFTEN = 1
Here = Callable[[FrameType, str], bool]


class Head(nn.Module):
    """A block with a converter method of its own, which must not fold again."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.act = same(), bn(), nn.ReLU()

    def fuse(self) -> None:
        """Read statistics, as the converters of the field do."""
        self.conv.weight.data *= self.bn.running_var[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


def model() -> nn.Module:
    """All kinds of edits: weights, modules, steps aside, remainders, rewritten and quiet classes, transforms."""
    into_three, back = nn.Conv2d(C, 3, 1), nn.Conv2d(3, C, 1)
    parts = [
        Block(),
        Head(),
        seq(same(1, bias=False), same(padding_mode="reflect")),
        into_three,
        Twice(),
        nn.ReLU(),
        back,
    ]
    return randomize(seq(*parts, seq(bn(), nn.ReLU()))).double()


def convert(target: nn.Module) -> Any:
    """The call under test."""
    rules = ["core/*", "given/doubled"]
    recipe = {"version": 1, "name": "all", "blocks": [{"match": {"structure": "any"}, "rules": rules}]}
    options: dict[str, Any] = {"plugins": [plugin(doubled(2.0))], "example_inputs": inputs(IMAGES[0])}
    return reparamkit.apply(target, recipe, inplace=True, keep_original=True, return_report=True, **options)


class Fault:
    """Raises `error` at the n-th event that `here` accepts; counts them when there is no n."""

    def __init__(self, here: Here, at: int = -1, error: type[BaseException] = OSError) -> None:
        self.here, self.at, self.error, self.count = here, at, error, 0

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if self.here(frame, event):
            if self.count == self.at:
                raise self.error("injected")
            self.count += 1
        return self if frame.f_code.co_filename.startswith(str(PACKAGE)) else None

    def run(self, action: Callable[[], Any]) -> int:
        """Run `action` under the fault; how many events there were."""
        before = sys.gettrace()
        sys.settrace(self)
        try:
            action()
        finally:
            sys.settrace(before)
        return self.count


def changing() -> Here:
    """Every line from the first change of the model to the return, the first times it runs."""
    began, times = [False], Counter[tuple[str, int]]()

    def here(frame: FrameType, event: str) -> bool:
        code = frame.f_code
        began[0] = began[0] or code.co_name == "splice"
        mine = (code.co_filename, code.co_name) == COMMIT or code.co_filename in CHANGING
        if event != "line" or not began[0] or not mine or code.co_name.startswith("<"):
            return False
        times[code.co_filename, frame.f_lineno] += 1
        return times[code.co_filename, frame.f_lineno] <= OFTEN

    return here


def entering() -> Here:
    """The first call of every function of the package."""
    known: set[Any] = set()

    def here(frame: FrameType, event: str) -> bool:
        if event != "call" or frame.f_code in known or not frame.f_code.co_filename.startswith(str(PACKAGE)):
            return False
        known.add(frame.f_code)
        return True

    return here


def assert_survives(here: Callable[[], Here], points: range) -> None:
    """At each point another error: the model is untouched, or the package made a refusal of it and went on."""
    victim = model()
    before = snapshot(victim)
    for at in points:
        error = ERRORS[at % len(ERRORS)]
        try:
            Fault(here(), at, error).run(partial(convert, victim))
        except (error, reparamkit.errors.ReparamError):
            assert_untouched(victim, before)
        else:
            victim = model()
            before = snapshot(victim)


def test_a14_the_model_has_every_kind_of_edit() -> None:
    original, victim = model(), model()
    before = snapshot(victim)
    _, report = convert(victim)
    assert {m.kind for m in report.merged} == {"swap", "rewrite", "transform"}
    assert_same(original, victim, IMAGES[0], (2, C, 5, 7))
    report.undo()
    assert_untouched(victim, before)


@pytest.mark.parametrize("part", range(PARTS))
def test_a14_a_fault_at_any_line_of_the_change(part: int) -> None:
    points = Fault(changing()).run(lambda: convert(model()))
    assert points > 100
    assert_survives(changing, range(part, points, PARTS))


def test_a14_a_fault_in_any_stage() -> None:
    points = Fault(entering()).run(lambda: convert(model()))
    assert points > 400
    assert_survives(entering, range(0, points, 15))
