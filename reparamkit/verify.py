"""verify: a whole model against its conversion, on an input; the original in float64 is the truth.

Merges are proven one by one before they are made (`prove/merge.py`); this is the look at all of them together.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from reparamkit.arguments import called
from reparamkit.chance import settled
from reparamkit.edits.copies import WITHOUT_EXAMPLE, copy_of
from reparamkit.errors import ModelError, Refusal, VerificationError
from reparamkit.survey.nested import plain

if TYPE_CHECKING:
    from torch import nn


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

    def run() -> Any:
        twin = copy_of(model, instead=WITHOUT_EXAMPLE)
        if dtype is not None:
            twin = twin.to(dtype)
        return called(twin, example_inputs)

    if dtype is not None:
        example_inputs = pytree.tree_map(lambda x: _cast(x, dtype), example_inputs)
    with torch.no_grad():
        return settled(run, model)


def _cast(x: Any, dtype: torch.dtype) -> Any:
    return x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x


def largest_gap(wanted: Any, got: Any) -> float:
    """Largest difference between two nested outputs, each tensor relative to its largest magnitude.

    Raises:
        VerificationError: RK901 when they are built differently.
    """
    want, spec = pytree.tree_flatten(plain(wanted))
    have, other = pytree.tree_flatten(plain(got))
    if spec != other or len(want) != len(have):
        raise VerificationError("RK901", "the outputs are built differently")
    return max((_gap(a, b) for a, b in zip(want, have, strict=True)), default=0.0)


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
