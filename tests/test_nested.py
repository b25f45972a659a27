"""Models that return objects are compared by what is in them."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reparamkit
from reparamkit.verify import largest_gap
from tests.helpers import Fn, inputs


@dataclasses.dataclass
class Output:
    logits: Tensor
    names: tuple[str, ...] = ("a",)


class Boxes:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.owner = self


Pair = collections.namedtuple("Pair", "left right")
MAKERS: dict[str, Callable[[Tensor], Any]] = {
    "dataclass": Output,
    "object that holds itself": Boxes,
    "distribution": lambda x: torch.distributions.Normal(x, 1.0),
    "array": lambda x: x.numpy(),
    "in a list in a dictionary": lambda x: {"out": [Boxes(x), Output(x)]},
    "namedtuple": lambda x: Pair(Output(x), None),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_output_is_compared_by_what_is_in_it(make: Callable[[Tensor], Any]) -> None:
    x = inputs((2, 3))
    assert largest_gap(make(x), make(x.clone())) == 0
    assert largest_gap(make(x), make(x + 1)) > 0.1
    with pytest.raises(reparamkit.VerificationError, match="built differently"):
        largest_gap(make(x), [make(x), x])


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_apply_looks_at_the_whole_model(make: Callable[[Tensor], Any]) -> None:
    model = Fn(lambda m, x: make(m.norm(m.conv(x))), conv=nn.Conv2d(4, 4, 3), norm=nn.BatchNorm2d(4)).eval().double()
    _, report = reparamkit.apply(model, example_inputs=inputs((1, 4, 5, 5)), return_report=True)
    assert report.whole_model is not None
    assert report.whole_model.unjudged is None
    assert report.whole_model.error < 1e-12
