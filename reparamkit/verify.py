"""verify: each replacement against what it replaces, in float64, before anything is changed.

The input is as small as the proof allows: a kernel of three taps padded by one is proven on 2 x 3 positions, where
every tap meets the input, every border is seen, and one axis is odd, one even. Random numbers come from a
generator of our own.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from math import isfinite, prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from reparamkit.arguments import called
from reparamkit.edits.copies import WITHOUT_EXAMPLE, copy_of
from reparamkit.edits.ends import in_front
from reparamkit.errors import ModelError, Refusal, VerificationError
from reparamkit.lower import lower, numbers
from reparamkit.operators import Conv, ConvTranspose
from reparamkit.reference import ConvRun, LinearRun, remember, run_module, run_value, summed_up
from reparamkit.trace.ambient import undrawn

if TYPE_CHECKING:
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


def prove(edit: Edit, flow: Flow, rules: RuleSet, rtol: float | None) -> Proven | Refusal:
    """Compute the module for a region, and compare it with the region.

    Args:
        edit: the region, its operator in a form a module can have, and where that module will stand.
        flow: where the region is.
        rules: lower declarations.
        rtol: largest deviation allowed, relative to the largest number that occurs; `None` skips the proof. More is
            allowed where the original computes numbers of its own in a narrower dtype.

    Returns:
        The module, or a refusal when its numbers do not fit the dtype.

    Raises:
        VerificationError: RK901 when it computes something else; names the rules involved.
    """
    candidate = edit.candidate
    term = candidate.term
    module = lower(term, rules)
    if isinstance(module, Refusal):
        return module
    assert term.like is not None
    assert isinstance(term.op, (Conv, ConvTranspose))
    proofs = [] if rtol is None else _proofs(edit, flow, module)
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
    error = max(proof.error(term.op) for proof in proofs)
    if not error <= max(rtol, term.rounding):
        rule_list = ", ".join(sorted(term.rules))
        raise VerificationError(
            "RK901",
            f"{candidate.target.where}: relative error {error:.3g} in float64, allowed {rtol:g}; rules: {rule_list}",
        )
    return Proven(module, error)


def _proofs(edit: Edit, flow: Flow, module: nn.Module) -> list[_Proof] | Refusal:
    """The region run on its inputs; on larger ones where something inside it wants more than the operator does."""
    candidate = edit.candidate
    op = candidate.term.op
    assert isinstance(op, (Conv, ConvTranspose))
    refusal = Refusal("RK902", "it never gave an output")
    for more in (0, 4, 16, 64):
        try:
            proofs = [_Proof(edit, flow, module, x) for x in _inputs(edit, op, more)]
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


def _inputs(edit: Edit, op: Conv | ConvTranspose, more: int) -> list[Tensor]:
    """Random inputs that show every tap and border, odd and even."""
    candidate = edit.candidate
    device = op.weight.device
    generator = torch.Generator(device=device).manual_seed(20260729)
    sizes = [_size(op, axis) + more for axis in range(op.nd)]
    if candidate.behind is not None:
        rank = candidate.source.rank or candidate.behind + 2
        shapes = [[max(sizes, default=2 + more) + axis % 2 for axis in range(rank)]]
        shapes[0][rank - 1 - candidate.behind] = op.in_channels
    elif candidate.arranged and any(v.stays for v in in_front(candidate.source, edit.held[0])):
        # A flatten makes these channels of several axes; how many are on each does not matter to what crosses it.
        shapes = [[2, op.in_channels, *[1] * ((candidate.source.rank or 4) - 2)]]
    elif op.nd == 0:
        shapes = [[*[2] * ((candidate.source.rank or 3) - 1), op.in_channels]]
    else:
        shapes = [[1, op.in_channels, *(s + axis % 2 for axis, s in enumerate(sizes))]]
    uneven = len(set(zip(sizes, op.stride, strict=True))) > 1 or any(s > 1 for s in op.stride)
    if op.nd and candidate.behind is None and uneven and op.macs * prod(s + 1 for s in sizes) < _CHEAP:
        shapes.append([2, op.in_channels, *(s + 1 - axis % 2 for axis, s in enumerate(sizes))])
    return [torch.randn(s, generator=generator, device=device, dtype=torch.float64) for s in shapes]


def _size(op: Conv | ConvTranspose, axis: int) -> int:
    """Positions on which every tap meets the input, both borders are seen, and there is enough to reflect."""
    if isinstance(op, ConvTranspose):
        return 3
    low, high = op.padding[axis]
    span = op.extent[axis] - min(low, high) if op.stride[axis] == 1 else op.extent[axis] + op.stride[axis] - 1
    return max(span, low + 1, high + 1, 2)


class _Proof:
    """One input through a region and, band by band, through its replacement."""

    def __init__(self, edit: Edit, flow: Flow, module: nn.Module, x: Tensor) -> None:
        candidate = edit.candidate
        known: dict[Value, Tensor] = {candidate.source: x}
        self.scale = 0.0
        with torch.no_grad():
            for value in candidate.values:
                remember(known, value, run_value(value, flow, known))
                self.scale = max(self.scale, _largest(known[value]))
        self.want = known[candidate.target]
        self.after: _Kept | None = None
        if candidate.arranged:
            self.after = _Kept(edit, flow, dict(known))
            x = self.after.before(x)
        self.rest = candidate.target.split.remainder() if candidate.target.split is not None else None
        self.module, self.x = module, x
        self.run: ConvRun | LinearRun | None = None
        if isinstance(module, nn.Linear):
            self.run = LinearRun(module, x)
        elif isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            self.run = ConvRun(module, x)
        last = self.after is None and self.rest is None
        if last and self.run is not None and self.run.shape == self.want.shape:
            self._sum_up(self.run)

    def _sum_up(self, run: ConvRun | LinearRun) -> None:
        """Compare weighted sums over all samples and positions, which nothing wrong in the kernel leaves equal."""
        channel = -1 if isinstance(run, LinearRun) else 1
        generator = torch.Generator(device=self.x.device).manual_seed(20260730)
        count = self.want.numel() // self.want.shape[channel]
        mix = torch.rand(count, generator=generator, device=self.x.device, dtype=torch.float64) + 0.5
        run.sum_up(mix)
        self.want = summed_up(self.want, mix, channel)
        self.scale = max(self.scale, _largest(self.want))

    def band(self, lo: int, hi: int, rows: Tensor) -> None:
        if self.run is not None:
            self.run.band(lo, hi, rows)

    def error(self, op: Conv | ConvTranspose) -> float:
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
        return gap / self.scale if self.scale else gap


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


def _largest(tensor: Tensor) -> float:
    return float(tensor.abs().max()) if tensor.numel() else 0.0


@dataclass(frozen=True)
class Comparison:
    """How far a converted model is from its original.

    Attributes:
        difference: between the two in their own dtype, relative to the largest magnitude of the output.
        error: of the converted model in its own dtype against the original in float64, likewise.
        noise: of the original in its own dtype against itself in float64: what its dtype costs anyway.
        allowed: the error that would still have passed.
        unjudged: why the two cannot be compared in this dtype (RK903), if so: the original itself loses as much.
    """

    difference: float
    error: float
    noise: float
    allowed: float
    unjudged: Refusal | None = None

    def __str__(self) -> str:
        found = f"error {self.error:.1e}, allowed {self.allowed:.1e}, the original's own rounding {self.noise:.1e}"
        return found if self.unjudged is None else str(self.unjudged)


# Of a model in its own dtype; a model that amplifies rounding more than that is judged by its own noise.
_FLOOR = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 5e-2, torch.bfloat16: 5e-1}
_NOISE = 16.0
_CEILING = 0.1  # an error that large is one of the conversion, or nothing can be said


def verify(model: nn.Module, converted: nn.Module, example_inputs: Any, *, rtol: float | None = None) -> Comparison:
    """Compare a converted model with its original on an input.

    The original in float64 is the truth. The converted model, in the dtype it has, may be as far from it as `rtol`,
    or as a multiple of what the original itself loses in its dtype: rounding that a deep network amplifies is no
    error of the conversion, and only the truth can tell the two apart.

    Args:
        model: the original, in eval mode; not touched.
        converted: the converted one; not touched.
        example_inputs: a tensor, a tuple of positional arguments or a dict of keyword arguments.
        rtol: allowed error relative to the largest magnitude of the output; by default 1e-9 for float64 models,
            1e-4 float32, 5e-2 float16, 0.5 bfloat16, or 16 times the original's own rounding error up to 0.1.

    Returns:
        The errors, relative.

    Raises:
        VerificationError: RK901 when the outputs differ by more, or are built differently; RK903 when the original
            loses so much in its dtype that the comparison says nothing.
        ModelError: RK101 when one of the models is in training mode, RK104 when one does not run on the input.
    """
    found = compare(model, converted, example_inputs, rtol)
    if found.unjudged is not None:
        raise VerificationError(found.unjudged.code, found.unjudged.reason)
    return found


def compare(model: nn.Module, converted: nn.Module, example_inputs: Any, rtol: float | None = None) -> Comparison:
    """As `verify`, but a comparison that says nothing is returned, with its reason."""
    for which in (model, converted):
        if which.training:
            raise ModelError("RK101", "verify compares models in eval mode; call .eval() first")
    return Truth(model, example_inputs).judge(converted, rtol)


class Truth:
    """What a model computes for an input, in float64 and in its own dtype: taken before the model changes."""

    def __init__(self, model: nn.Module, example_inputs: Any) -> None:
        self.example_inputs = example_inputs
        self.exact = outputs(model, example_inputs, torch.float64)
        self.original = outputs(model, example_inputs, None)
        self.noise = largest_gap(self.exact, self.original)

    def judge(self, converted: nn.Module, rtol: float | None = None) -> Comparison:
        """See `compare`."""
        got = outputs(converted, self.example_inputs, None)
        error, difference = largest_gap(self.exact, got), largest_gap(self.original, got)
        dtype = next((p.dtype for p in converted.parameters()), torch.float32)
        allowed = rtol if rtol is not None else max(_FLOOR.get(dtype, 1e-4), min(_NOISE * self.noise, _CEILING))
        if error <= allowed:
            return Comparison(difference, error, self.noise, allowed)
        found = f"the converted model is {error:.3g} (relative) from the float64 truth, the original {self.noise:.3g}"
        if rtol is None and error <= _NOISE * max(self.noise, self._felt(converted, got, dtype)):
            exact = dtype == torch.float64
            advice = "what they return cancels" if exact else "compare model.double() with its conversion"
            text = f"{found}, in {str(dtype).removeprefix('torch.')}; {advice}"
            return Comparison(difference, error, self.noise, allowed, Refusal("RK903", text))
        raise VerificationError("RK901", f"{found}; allowed {allowed:.3g}")

    def _felt(self, converted: nn.Module, got: Any, dtype: torch.dtype) -> float:
        """What the last digit of the input does to outputs in float64, which may be nothing but what cancels leaves."""
        if dtype != torch.float64:
            return 0.0
        generator = torch.Generator().manual_seed(20260729)
        found = 0.0
        for _ in range(3):
            moved = pytree.tree_map(lambda x: _moved(x, generator), self.example_inputs)
            found = max(found, largest_gap(got, outputs(converted, moved, None)))
        return found if isfinite(found) else 0.0


def _moved(x: Any, generator: torch.Generator) -> Any:
    """`x` with the last digit of each number one up or down."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return x
    signs = torch.randint(0, 2, x.shape, generator=generator).to(x) * 2 - 1
    return x * (1 + signs * torch.finfo(x.dtype).eps)


def outputs(model: nn.Module, example_inputs: Any, dtype: torch.dtype | None) -> Any:
    """What a copy of `model` (in `dtype`) returns; the caller's random state is kept.

    The model itself is not run: its forward may count, or leave something on it.
    """
    model = copy_of(model, instead=WITHOUT_EXAMPLE)
    if dtype is not None:
        model = model.to(dtype)
        example_inputs = pytree.tree_map(lambda x: _cast(x, dtype), example_inputs)
    with undrawn(model), torch.no_grad():
        torch.manual_seed(0)
        return called(model, example_inputs)


def _cast(x: Any, dtype: torch.dtype) -> Any:
    return x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x


def largest_gap(wanted: Any, got: Any) -> float:
    """Largest difference between two nested outputs, each tensor relative to its largest magnitude.

    Raises:
        VerificationError: RK901 when they are built differently.
    """
    want, spec = pytree.tree_flatten(_plain(wanted))
    have, other = pytree.tree_flatten(_plain(got))
    if spec != other or len(want) != len(have):
        raise VerificationError("RK901", "the outputs are built differently")
    return max((_gap(a, b) for a, b in zip(want, have, strict=True)), default=0.0)


def _plain(tree: Any) -> Any:
    """Output objects that are mappings (transformers' ModelOutput) as plain ones."""
    if isinstance(tree, dict):
        return {str(k): _plain(v) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_plain(v) for v in tree]
    return tree


def _gap(a: Any, b: Any) -> float:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return 0.0 if type(a) is type(b) and (a is b or a == b) else float("inf")
    if a.shape != b.shape:
        return float("inf")
    if a.numel() == 0:
        return 0.0
    if not a.is_floating_point():
        return 0.0 if torch.equal(a, b) else float("inf")
    a, b = a.double(), b.double()
    finite = torch.isfinite(a)
    if not torch.equal(finite, torch.isfinite(b)) or not torch.equal(a[~finite].nan_to_num(), b[~finite].nan_to_num()):
        return float("inf")
    if not bool(finite.any()):
        return 0.0
    gap, size = float((a - b)[finite].abs().max()), float(a[finite].abs().max())
    return gap / size if size else gap
