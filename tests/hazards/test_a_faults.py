"""Faults injected at every line of a conversion in place: the model is as it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import pytest
from torch import Tensor, nn

import reparamkit
from tests.hazards.faults import PACKAGE, Fault, Here, entering
from tests.hazards.models import Block, C, bn, same, seq
from tests.helpers import IMAGES, assert_same, assert_untouched, inputs, randomize, snapshot
from tests.test_transform import Twice, doubled, plugin

# Where the model is changed. There, and in the function that commits, every line is tried.
CHANGING = {str(PACKAGE / f"{name}.py") for name in ("edits/splice", "transform", "edits/rewritten")}
COMMIT = (str(PACKAGE / "pipeline.py"), "carry_out")
ERRORS = (RuntimeError, KeyboardInterrupt, MemoryError)
PARTS = 4
OFTEN = 1


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


class Renamed(nn.Module):
    """A norm with two names goes into its layer first, and only then the layer into the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv, self.other = bn(), same(1), bn()
        self.again = self.norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) + self.other(x)


def model() -> nn.Module:
    """All kinds of edits: weights, modules, steps aside, remainders, new and quiet classes, rounds, transforms."""
    into_three, back = nn.Conv2d(C, 3, 1), nn.Conv2d(3, C, 1)
    parts = [
        Block(),
        Head(),
        seq(same(1, bias=False), same(padding_mode="reflect")),
        into_three,
        Twice(),
        nn.ReLU(),
        back,
        Renamed(),
    ]
    return randomize(seq(*parts, seq(bn(), nn.ReLU()))).double()


RECIPE = {
    "version": 1,
    "name": "all",
    "blocks": [{"match": {"structure": "any"}, "rules": ["core/*", "given/doubled"]}],
}


def convert(target: nn.Module, keep_original: bool = True, example_inputs: Any = None) -> Any:
    """The call under test."""
    options: dict[str, Any] = {"plugins": [plugin(doubled(2.0))], "example_inputs": example_inputs}
    return reparamkit.apply(target, RECIPE, inplace=True, keep_original=keep_original, return_report=True, **options)


def compared(target: nn.Module) -> Any:
    """The same, with the comparison of the whole model."""
    return convert(target, example_inputs=inputs(IMAGES[0]))


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


def assert_survives(here: Callable[[], Here], points: range) -> None:
    """At each point another error: the model is untouched, or the package made a refusal of it and went on."""
    victim = model()
    before = snapshot(victim)
    for at in points:
        error = ERRORS[at % len(ERRORS)]
        try:
            Fault(here(), at, error).run(partial(compared, victim))
        except (error, reparamkit.errors.ReparamError):
            assert_untouched(victim, before)
        else:
            victim = model()
            before = snapshot(victim)


def test_a14_the_model_has_every_kind_of_edit() -> None:
    original, victim = model(), model()
    before = snapshot(victim)
    _, report = compared(victim)
    assert {m.kind for m in report.merged} == {"swap", "rewrite", "transform"}
    assert_same(original, victim, IMAGES[0], (2, C, 5, 7))
    assert len([m for m in report.merged if m.path.startswith("7")]) == 2, "one in each round"
    report.undo()
    assert_untouched(victim, before)


@pytest.mark.parametrize("part", range(PARTS))
def test_a14_a_fault_at_any_line_of_the_change(part: int) -> None:
    points = Fault(changing()).run(lambda: compared(model()))
    assert points > 100
    assert_survives(changing, range(part, points, PARTS))


def test_a14_a_fault_in_any_stage() -> None:
    points = Fault(entering()).run(lambda: compared(model()))
    assert points > 400
    assert_survives(entering, range(0, points, 15))
