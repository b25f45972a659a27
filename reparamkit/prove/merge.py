"""merge: each replacement against what it replaces, in float64, before anything is changed.

The input is as small as the proof allows: a kernel of three taps padded by one is proven on 2 x 3 positions, where
every tap meets the input, every border is seen, and one axis is odd, one even. Random numbers come from a
generator of our own. Where a scale went in front of an activation, `crossing.py` proves that it may.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from reparamkit.edits.ends import in_front
from reparamkit.errors import Refusal
from reparamkit.lower import lower, numbers
from reparamkit.operators import Conv, ConvTranspose, Layout
from reparamkit.operators.scale import Offset
from reparamkit.prove.banded import ConvRun, LinearRun, summed_up
from reparamkit.prove.crossing import crossing_error
from reparamkit.prove.modules import run_module
from reparamkit.prove.offset import offset_error, offset_module
from reparamkit.prove.reference import remember, run_value
from reparamkit.prove.samples import Samples
from reparamkit.prove.verdict import accepted

if TYPE_CHECKING:
    from reparamkit.decide.candidate import Candidate
    from reparamkit.edits.edit import Edit
    from reparamkit.flow import Flow, Value
    from reparamkit.rule import RuleSet

_CHEAP = 2e7  # products a second proof, on the other parity of every axis, may cost


@dataclass(frozen=True, eq=False)
class Proven:
    """A replacement whose numbers are computed and proven.

    Attributes:
        module: the module, complete.
        error: largest relative deviation seen; `None` when nothing was run.
    """

    module: nn.Module
    error: float | None


def prove(edit: Edit, flow: Flow, rules: RuleSet, rtol: float | None, samples: Samples) -> Proven | Refusal:
    """Compute the module for a region, and compare it with the region.

    Args:
        edit: the region, its operator in a form a module can have, and where that module will stand.
        flow: where the region is.
        rules: lower declarations.
        rtol: largest deviation allowed, relative to the largest number that occurs; `None` skips the proof. More is
            allowed where the original computes numbers of its own in a narrower dtype.
        samples: random inputs, of several proofs.

    Returns:
        The module, or a refusal when its numbers do not fit the dtype.

    Raises:
        VerificationError: RK901 when it computes something else; names the rules involved.
    """
    candidate = edit.candidate
    term = candidate.term
    if isinstance(term.op, Offset):
        return _offset(candidate, term.op, flow, rules, rtol, samples)
    module = lower(term, rules)
    if isinstance(module, Refusal):
        return module
    assert term.like is not None
    assert isinstance(term.op, (Conv, ConvTranspose))
    proofs = [] if rtol is None else _proofs(edit, flow, module, samples)
    if isinstance(proofs, Refusal):
        return proofs

    def band(lo: int, hi: int, rows: Tensor) -> None:
        for proof in proofs:
            proof.band(lo, hi, rows)

    made = numbers(term.op, term.like, band if isinstance(term.op, Conv) else None)
    if isinstance(made, Refusal):
        return made
    _fill(module, *made, term.like.weight_grad, term.like.bias_grad)
    if rtol is None:
        return Proven(module, None)
    return Proven(module, accepted(max(proof.error(term.op) for proof in proofs), candidate, rtol))


def _offset(
    candidate: Candidate, op: Offset, flow: Flow, rules: RuleSet, rtol: float | None, samples: Samples
) -> Proven | Refusal:
    """The module for what is left of a product and a sum."""
    module = offset_module(candidate, op, rules)
    if isinstance(module, Refusal):
        return module
    return Proven(module, None if rtol is None else offset_error(candidate, op, flow, samples, rtol))


def _proofs(edit: Edit, flow: Flow, module: nn.Module, samples: Samples) -> list[_Proof] | Refusal:
    """The region run on its inputs; on larger ones where something inside it wants more than the operator does."""
    candidate = edit.candidate
    op = candidate.term.op
    assert isinstance(op, (Conv, ConvTranspose))
    refusal = Refusal("RK902", "it never gave an output")
    for more in (0, 4, 16, 64):
        try:
            proofs = [_Proof(edit, flow, module, x, samples) for x in _inputs(edit, op, more, samples)]
        except Exception as error:  # the region is the user's code; that it cannot run is the answer
            refusal = Refusal("RK902", f"{type(error).__name__}: {error}", candidate.target.where)
            continue
        if all(proof.want.numel() for proof in proofs):
            return proofs
    return refusal


def _fill(module: nn.Module, weight: Tensor, bias: Tensor | None, weight_grad: bool, bias_grad: bool) -> None:
    with torch.inference_mode(False):
        module.weight = nn.Parameter(weight, requires_grad=weight_grad)
        if bias is not None:
            module.bias = nn.Parameter(bias, requires_grad=bias_grad)


def _inputs(edit: Edit, op: Conv | ConvTranspose, more: int, samples: Samples) -> list[Tensor]:
    """Random inputs that show every tap and border, odd and even."""
    candidate = edit.candidate
    sizes = [_size(op, axis) + more for axis in range(op.nd)]
    behind = None if candidate.front is None else candidate.front.before(op.nd)
    if candidate.front is not None and behind is not None:
        shapes = [_rearranged(candidate.front, behind, candidate.source.rank, op, max(sizes, default=2 + more))]
    elif candidate.arranged and any(v.stays for v in in_front(candidate.source, edit.held[0])):
        # A flatten makes these channels of several axes; how many are on each does not matter to what crosses it.
        shapes = [[2, op.in_channels, *[1] * ((candidate.source.rank or 4) - 2)]]
    elif op.nd == 0:
        shapes = [[*[2] * ((candidate.source.rank or 3) - 1), op.in_channels]]
    else:
        shapes = [[1, op.in_channels, *(s + axis % 2 for axis, s in enumerate(sizes))]]
    uneven = len(set(zip(sizes, op.stride, strict=True))) > 1 or any(s > 1 for s in op.stride)
    if op.nd and behind is None and uneven and op.macs * prod(s + 1 for s in sizes) < _CHEAP:
        shapes.append([2, op.in_channels, *(s + 1 - axis % 2 for axis, s in enumerate(sizes))])
    return samples.inputs(shapes, op.weight.device)


def _rearranged(front: Layout, behind: int, rank: int | None, op: Conv | ConvTranspose, size: int) -> list[int]:
    """The shape of an input that has its channels, with `behind` axes behind them, rearranged before `op` reads it."""
    rank = rank or behind + 2
    shape = [front.positions * (size + axis % 2) for axis in range(rank)]
    shape[rank - 1 - behind] = front.count_before(op.in_channels)
    return shape


def _size(op: Conv | ConvTranspose, axis: int) -> int:
    """Positions on which every tap meets the input, both borders are seen, and there is enough to reflect."""
    if isinstance(op, ConvTranspose):
        return 3
    low, high = op.padding[axis]
    span = op.extent[axis] - min(low, high) if op.stride[axis] == 1 else op.extent[axis] + op.stride[axis] - 1
    return max(span, low + 1, high + 1, 2)


class _Proof:
    """One input through a region and, band by band, through its replacement."""

    def __init__(self, edit: Edit, flow: Flow, module: nn.Module, x: Tensor, samples: Samples) -> None:
        candidate = edit.candidate
        known: dict[Value, Tensor] = {candidate.source: x}
        self.scale = 0.0
        with torch.no_grad():
            for value in candidate.values:
                remember(known, value, run_value(value, flow, known))
                self.scale = max(self.scale, _largest(known[value]))
        self.want = known[candidate.target]
        self.crossing = crossing_error(candidate.target, flow, known)
        self.after: _Kept | None = None
        if candidate.arranged:
            self.after = _Kept(edit, flow, dict(known))
            x = self.after.before(x)
        self.rest = candidate.target.split.remainder() if candidate.target.split is not None else None
        self.module, self.x = module, x
        self.misfit = _reads(module) not in (None, x.shape[-1 if isinstance(module, nn.Linear) else 1])
        self.run = None if self.misfit else _run_of(module, x)
        last = self.after is None and self.rest is None
        if last and self.run is not None and self.run.shape == self.want.shape:
            self._sum_up(self.run, samples)

    def _sum_up(self, run: ConvRun | LinearRun, samples: Samples) -> None:
        """Compare weighted sums over all samples and positions, which nothing wrong in the kernel leaves equal."""
        channel = -1 if isinstance(run, LinearRun) else 1
        count = self.want.numel() // self.want.shape[channel]
        mix = samples.mix(count, self.x.device)
        run.sum_up(mix)
        self.want = summed_up(self.want, mix, channel)
        self.scale = max(self.scale, _largest(self.want))

    def band(self, lo: int, hi: int, rows: Tensor) -> None:
        if self.run is not None:
            self.run.band(lo, hi, rows)

    def error(self, op: Conv | ConvTranspose) -> float:
        if self.misfit:
            return float("inf")
        if self.run is None:
            got = op.apply(self.x)
        else:
            got = self.run.result(None if op.bias is None else op.bias.value)
        if self.after is not None:
            got = self.after.run(got)
        if self.rest is not None:
            got = run_module(copy.deepcopy(self.rest), got)
        if got.shape != self.want.shape:
            return float("inf")
        gap = _largest(got - self.want)
        return max(self.crossing, gap / self.scale if self.scale else gap)


class _Kept:
    """What stays of a region in which axes are rearranged, around the module that takes the merged operator."""

    def __init__(self, edit: Edit, flow: Flow, known: dict[Value, Tensor]) -> None:
        start, end = edit.held
        self.flow, self.known = flow, known  # the shapes of what the original computed are asked for on the way
        self.front = in_front(edit.candidate.source, start)
        self.back = in_front(end, edit.candidate.target)

    def before(self, x: Tensor) -> Tensor:
        """What the merged module reads."""
        return self._run(self.front, x)

    def run(self, merged: Tensor) -> Tensor:
        """The end of the region when the merged module computes `merged`."""
        return self._run(self.back, merged)

    def _run(self, values: list[Value], x: Tensor) -> Tensor:
        for value in values:
            assert value.source is not None
            remember(self.known, value.source, x)
            x = run_value(value, self.flow, self.known) if value.stays else x
        return x


def _run_of(module: nn.Module, x: Tensor) -> ConvRun | LinearRun | None:
    if isinstance(module, nn.Linear):
        return LinearRun(module, x)
    return ConvRun(module, x) if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) else None


def _reads(module: nn.Module) -> Any:
    """Channels that a layer reads, where it says so."""
    return getattr(module, "in_features" if isinstance(module, nn.Linear) else "in_channels", None)


def _largest(tensor: Tensor) -> float:
    return float(tensor.abs().max()) if tensor.numel() else 0.0
