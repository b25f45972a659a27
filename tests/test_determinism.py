"""One model, one plan: nothing depends on where in memory its values happen to lie."""

from __future__ import annotations

import random
from typing import Any

import pytest
from torch import Tensor, nn

import reparamkit
from reparamkit.testing import randomize
from tests.fuzz.writer import program
from tests.helpers import Fn

TIMES = 10


def plans(model: nn.Module) -> set[str]:
    """What several plans say; memory of another size is taken in between, so that addresses come in another order."""
    draw, kept, said = random.Random(0), list[Any](), set()
    for _ in range(TIMES):
        kept.append([object() for _ in range(draw.randrange(2000))])
        kept.append(reparamkit.plan(model))
        said.add(str(kept[-1]))
    return said


def test_of_several_reasons_the_same_one_is_told() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.conv(x)
        z = m.norm(y)
        y.mul_(2)
        return z + y  # type: ignore[no-any-return]

    assert len(plans(randomize(Fn(run, conv=nn.Conv2d(4, 4, 3, padding=1), norm=nn.BatchNorm2d(4))))) == 1


@pytest.mark.parametrize("seed", [5000, *range(5002, 5010)])  # 5001 does not run
def test_a_plan_of_a_generated_model_says_the_same_each_time(seed: int) -> None:
    assert len(plans(program(seed).build())) == 1
