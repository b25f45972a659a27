"""What a module is, as far as measuring tells; the work is known, and limited, before it is done."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from torch import nn

from reparamkit.decide.cost import Cost
from reparamkit.operators import Conv
from reparamkit.probe.blackbox import BlackBox, Unmeasurable
from reparamkit.probe.geometry import Geometry, geometry_of, zeros
from reparamkit.probe.impulses import impulse_sizes, kernel_of
from reparamkit.probe.proof import check_homogeneous, proof_positions, prove
from reparamkit.probe.takes import guesses, hidden_arrays
from reparamkit.rules.probe import Measured

_BASES = (13, 40)  # sizes of an input: for kernels as they usually are, and for large ones without padding
_LOOKS = 32  # calls on a small input before the work is declared


@dataclass
class Work:
    """Multiply-accumulates that measuring may take, in float64.

    Attributes:
        each: for one module.
        left: for all that are still to come.
    """

    each: float = 1e11
    left: float = 1e12

    def take(self, calls: int, macs: float) -> None:
        """Take `calls` calls of `macs` together, or raise `Unmeasurable` RK611 with the figures."""
        limit = min(self.each, self.left)
        if macs > limit:
            reason = f"it would take {calls:,d} calls, {macs:.3g} multiply-accumulates; {limit:.3g} are allowed"
            raise Unmeasurable("RK611", reason)
        self.left -= macs


def measure(module: nn.Module, seen: tuple[int, ...] | None, work: Work) -> Measured:
    """What `module` is.

    Args:
        module: a module in eval mode; a float64 copy is run.
        seen: size of its input in a run of the model, where there was one.
        work: what may be spent.

    Raises:
        Unmeasurable: RK610 it is no operator, RK316 its borders differ, RK611 it would take too long, RK612 it cannot
            be measured, RK203 the number of axes or channels of its input is not known.
    """
    box = BlackBox(module)
    nd, channels, base = _takes(box, module, seen)
    work.take(_LOOKS, _LOOKS * box.macs)
    check_homogeneous(box, (2, channels, *[base] * nd))
    box.check_state()
    geometry = geometry_of(box, nd, channels, base)
    work.take(*_declared(geometry))
    op = kernel_of(box, geometry)
    error = prove(box, op, geometry, (2, 3, 4) if seen is None else (len(seen),))
    box.check_state()
    return Measured(module, op, _cost(module, op, geometry), error)


def _takes(box: BlackBox, module: nn.Module, seen: tuple[int, ...] | None) -> tuple[int, int, int]:
    """Spatial axes, channels, and a size that the module takes: found by trying what its layers suggest."""
    found: dict[tuple[int, int], int] = {}
    failure = Unmeasurable("RK612", "nothing in it says what its input looks like; pass example_inputs")
    for nd, channels in guesses(module, seen):
        for base in _BASES:
            try:
                box(zeros(box, 1, channels, (base,) * nd))
            except Unmeasurable as error:
                failure = error
                continue
            found[nd, channels] = base
            break
    if not found:
        raise failure
    if len(found) > 1:
        shown = ", ".join(f"{c} channels on {nd} spatial axes" for nd, c in found)
        raise Unmeasurable("RK203", f"it takes {shown}; pass example_inputs")
    (nd, channels), base = next(iter(found.items()))
    return nd, channels, base


def _declared(geometry: Geometry) -> tuple[int, float]:
    """Calls (samples, if each were one) and multiply-accumulates that are still to come."""
    impulses = geometry.channels * prod(geometry.stride)
    positions = impulses * prod(geometry.positions(impulse_sizes(geometry)))
    positions += proof_positions(geometry) // prod(geometry.stride)
    own = len(geometry.bias) * geometry.channels  # where the module's arithmetic is not torch's
    return impulses, positions * max(geometry.macs, own)


def _cost(module: nn.Module, op: Conv, geometry: Geometry) -> Cost:
    """What the module costs as it is; as much as the operator where nothing shows what."""
    numbers = sum(t.numel() for t in module.parameters())
    buffers = sum(t.numel() for t in module.buffers() if t.is_floating_point())
    hidden = sum(prod(array.shape) for array in hidden_arrays(module))
    stored = numbers + hidden if numbers + buffers + hidden else op.params
    return Cost(geometry.macs or op.macs, stored, buffers, op.out_channels, 2)
