"""What lift rules say of one module or call: the identity, or why not; numbers that are computed from sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reparamkit.operators import Scale
from reparamkit.rule import Lift
from reparamkit.rules import gate, no_op, regroup
from reparamkit.testing import randomize
from tests.helpers import Fn, codes, convert, convert_as_is, counts


def prelu(*slopes: float) -> nn.PReLU:
    made = nn.PReLU(len(slopes))
    with torch.no_grad():
        made.weight.copy_(torch.tensor(slopes))
    return made


OPEN: dict[str, nn.Module] = {
    "leaky": nn.LeakyReLU(1.0),
    "prelu": prelu(1, 1, 1, 1),
    "rrelu": nn.RReLU(0.5, 1.5),
    "soft": nn.Softshrink(0.0),
    "hard": nn.Hardshrink(0.0),
    "pool": nn.MaxPool2d(1),
    "shuffle": nn.PixelShuffle(1),
    "unshuffle": nn.PixelUnshuffle(1),
    "identity": nn.Identity(),
    "dropout": nn.Dropout2d(0.5),
}
SHUT: dict[str, tuple[nn.Module, str]] = {
    "leaky": (nn.LeakyReLU(0.25), "its slope is 0.25; only at 1 it is the identity"),
    "prelu": (prelu(1, 1, 0.5, 1), "a slope is 0.5; only at 1 it is the identity"),
    "rrelu": (nn.RReLU(0.5, 1.0), "its mean slope is 0.75; only at 1 it is the identity"),
    "soft": (nn.Softshrink(0.125), "its width is 0.125; only at 0 it is the identity"),
    "hard": (nn.Hardshrink(0.125), "its width is 0.125; only at 0 it is the identity"),
    "pool": (nn.MaxPool2d(3, 1, 1), "max pooling of (3,) taps"),
    "strided pool": (nn.MaxPool2d(1, 2), "max pooling of (1,) taps"),
    "one side": (nn.MaxPool2d((1, 2), 1), "max pooling of (1, 2) taps"),
}
LIFTS: dict[Any, Any] = {
    lift.target: lift.run for lift in (*gate.rules, *no_op.rules, *regroup.rules) if isinstance(lift, Lift)
}


def between(run: Any, last: int = 4, **children: nn.Module) -> nn.Module:
    """Two pointwise convolutions with `run` between them; the numbers of `children` stay what they are."""
    first, second = randomize(nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(last, 4, 1)]))
    return Fn(lambda m, x: m.second(run(m, m.first(x))), first=first, second=second, **children).double().eval()


@pytest.mark.parametrize("module", OPEN.values(), ids=OPEN.keys())
def test_an_activation_that_is_the_identity_stands_between_nothing(module: nn.Module) -> None:
    converted, _ = convert_as_is(between(lambda m, x: m.middle(x), middle=module), policy="always")
    assert counts(converted) == (1, 0)
    lifted = LIFTS[type(module)](module.eval(), None)
    assert isinstance(lifted, Scale)
    assert lifted.is_identity


@pytest.mark.parametrize(("module", "reason"), SHUT.values(), ids=SHUT.keys())
def test_one_that_is_another_function_stays(module: nn.Module, reason: str) -> None:
    with torch.no_grad():
        refusal = LIFTS[type(module)](module.eval(), None)
    assert (refusal.code, refusal.reason) == ("RK331", reason)
    if not isinstance(module, (nn.PixelShuffle, nn.PixelUnshuffle)):
        converted, _ = convert_as_is(between(lambda m, x: m.middle(x), middle=module), policy="always")
        assert counts(converted) == (2, 0)


@pytest.mark.parametrize("module", [nn.RReLU(0.5, 1.5), nn.Dropout()])
def test_one_in_training_mode_draws(module: nn.Module) -> None:
    refusal = LIFTS[type(module)](module.train(), None)
    assert (refusal.code, refusal.reason) == ("RK202", "the module is in training mode")
    assert isinstance(LIFTS[nn.Identity](nn.Identity().train(), None), Scale)


CALLS: dict[str, tuple[Callable[[Any, Tensor], Tensor], int]] = {
    "leaky": (lambda m, x: F.leaky_relu(x, 1.0), 1),
    "leaky, by name": (lambda m, x: F.leaky_relu(input=x, negative_slope=1.0), 1),
    "leaky, not": (lambda m, x: F.leaky_relu(x, 0.5), 2),
    "leaky, by default": (lambda m, x: F.leaky_relu(x), 2),
    "prelu": (lambda m, x: torch.prelu(x, m.ones), 1),
    "prelu, a method": (lambda m, x: x.prelu(m.ones), 1),
    "prelu, not": (lambda m, x: torch.prelu(x, m.ones * 0.5), 2),
    "prelu of itself": (lambda m, x: torch.prelu(x, x.mean((0, 2, 3))), 2),
    "dropout": (lambda m, x: F.dropout(x, 0.5, False), 1),
    "dropout, by name": (lambda m, x: F.dropout2d(x, training=False), 1),
    "dropout, of the module": (lambda m, x: F.dropout(x, 0.5, m.training), 1),
    "dropout of nothing": (lambda m, x: F.dropout(x, 0), 1),
    "clone": (lambda m, x: x.clone(), 1),
    "contiguous": (lambda m, x: x.contiguous(), 1),
    "zeros": (lambda m, x: torch.zeros_like(x) + x, 1),
    "zeros of a dtype": (lambda m, x: torch.zeros_like(x, dtype=torch.float64) + x, 2),
    "division": (lambda m, x: x / 4, 1),
    "division by a tensor": (lambda m, x: x / (m.ones.view(-1, 1, 1) * 4), 1),
    "division by itself": (lambda m, x: x / (x + 100), 2),
}


@pytest.mark.parametrize(("run", "convs"), CALLS.values(), ids=CALLS.keys())
def test_calls_between_two_layers(run: Any, convs: int) -> None:
    model = between(run)
    model.ones = nn.Parameter(torch.ones(4, dtype=torch.float64), requires_grad=False)
    converted, _ = convert_as_is(model, policy="always")
    assert counts(converted) == (convs, 0)


SIZES: dict[str, tuple[Callable[[int], Any], bool]] = {
    "sum": (lambda n: n + 1 - n, True),
    "difference": (lambda n: (n - 3) - (n - 4), True),
    "other way": (lambda n: 1 - (n - n), True),
    "product": (lambda n: n * 2 - 2 * n + 1, True),
    "product of sizes": (lambda n: n * n - n * n + 1, False),
    "times nothing": (lambda n: n * 0 + 1, True),
    "halves": (lambda n: math.floor(n / 2 - n / 2 + 1), True),
    "thirds": (lambda n: math.floor(n / 3 * 3 - n + 1), False),
    "floor": (lambda n: (2 * n + 3) // 2 - n, True),
    "floor of an odd one": (lambda n: (n + 2) // 2 - n // 2, False),
    "floor of a negative one": (lambda n: n - (2 * n - 1) // 2, True),
    "math.floor": (lambda n: math.floor(n + 1.5) - n, True),
    "math.ceil": (lambda n: math.ceil(n + 0.5) - n, True),
    "ceil of a half": (lambda n: math.ceil(n / 2) - math.ceil(n / 2) + 1, False),
    "as SpeechBrain does it": (lambda n: math.floor((n - ((n - 2 - 1) / 1 + 1)) / 2), True),
    "depends on it": (lambda n: n - n // 2 - n // 2 + 1, False),
}


@pytest.mark.parametrize(("amount", "known"), SIZES.values(), ids=SIZES.keys())
def test_a_padding_that_is_computed_from_sizes_is_known_where_they_cancel(amount: Any, known: bool) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        side = amount(x.shape[-1])
        return m.wide(F.pad(x, (side, side, 1, 1))) + m.narrow(x)

    model = Fn(run, wide=nn.Conv2d(4, 4, 3), narrow=nn.Conv2d(4, 4, 1))
    even = [(1, 4, 7, 8), (2, 4, 5, 6)]  # what depends on the size is 1 for these all the same
    converted, report = convert(model, *even)
    assert counts(converted) == ((1, 0) if known else (2, 0)), codes(report)
