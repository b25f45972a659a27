"""core/probe: a module that no trace can follow is what it was measured to be. Opt-in.

Formula: for an affine map that commutes with shifts, ``f(0)`` is the bias and ``f(e) - f(0)``, with `e` one at one
position of one channel, is a column of the kernel (the impulse response; Oppenheim & Schafer, Discrete-Time Signal
Processing, §2.3).

Conditions: one tensor in, one out; the same answer every time and nothing changed by it; ``f(0)`` equal at all
positions; agreement with the kernel that was read, in float64, on random inputs of several sizes, batches and
magnitudes. That is evidence, not a derivation: code that does something else for an input that was not tried is not
seen, which is why a recipe has to ask for it by name. How it is measured is in `reparamkit.probe`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reparamkit.answers import Call, Context, Through
from reparamkit.errors import Refusal
from reparamkit.rule import Lift, Rule

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reparamkit.decide.cost import Cost
    from reparamkit.operators import Conv

RULE = "core/probe"


@dataclass(frozen=True, eq=False)
class Measured:
    """What a module was measured to be.

    Attributes:
        module: the module.
        op: the operator.
        cost: what the module costs as it is, per position of its result.
        error: largest relative deviation of the operator from the module on random inputs, in float64.
    """

    module: nn.Module
    op: Conv
    cost: Cost
    error: float

    def __repr__(self) -> str:
        name = getattr(self.module, "original_name", type(self.module).__name__)
        return f"measured {name}"


def probed(x: Tensor, measured: Measured, tensors: list[Tensor]) -> Tensor:
    """What stands in the graph of a measured module: it runs a float64 copy of the module.

    Args:
        x: the input, float64.
        measured: the module.
        tensors: its parameters and buffers, so that the graph shows what it depends on.
    """
    made: Tensor = copy.deepcopy(measured.module).double().forward(x)
    return made


def lift_probed(call: Call, context: Context) -> Through | Refusal:
    """`probed`."""
    bound = call.bind("x", "measured", "tensors")
    return Through(bound["x"], bound["measured"].op, cost=bound["measured"].cost)


rules: tuple[Rule, ...] = (Lift(RULE, probed, lift_probed, opt_in=True),)
