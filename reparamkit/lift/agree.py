"""agree: modules whose forward goes several ways and is the same operator in each.

A frozen batch norm may multiply and add where a gradient is wanted, and call the fused function where none is
(detectron2). Each way is lifted; if all are one operator, the module is that operator, whichever way it goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from reparamkit.flow import Frame
from reparamkit.lift.chain import path_term
from reparamkit.merge import Algebra
from reparamkit.operators import Conv, Operator, Scale
from reparamkit.operators.vector import values
from reparamkit.term import Term
from reparamkit.trace.traced import Forked

_RTOL = 1e-12  # of numbers that two ways compute in float64 from the same parameters
_ROUNDED = 8  # rounding errors of the parameters' dtype, where one way computes a constant in it


def may_agree(module: nn.Module, forked: Forked) -> bool:
    """Whether it is worth looking: a module on its own, one argument, nothing done besides the result."""
    plain = forked.unknown is None and not any(module.children()) and "forward" not in module.__dict__
    return plain and all(
        len([n for n in way.graph.nodes if n.op == "placeholder"]) == 1 and not (way.guarded or way.stored)
        for way in forked.graphs
    )


def agreed(frames: Sequence[Frame], algebra: Algebra) -> Term | None:
    """The operator that every one of `frames`, the ways through one forward, is; `None` when they are not one."""
    terms: list[Term] = []
    # What was computed from parameters was computed in their dtype; a way that computes nothing is more exact.
    for frame in sorted(frames, key=lambda frame: len(frame.traced.constants)):
        whole = None if frame.output is None else path_term(frame.output, frame.inputs[0], algebra)
        if not isinstance(whole, Term) or any(value.mutates for value in frame.values.values()):
            return None
        terms.append(whole)
    first, *others = terms
    if not all(_same(first.op, other.op, _rounding(terms)) for other in others):
        return None
    rules = frozenset[str]().union(*(term.rules for term in terms))
    return replace(first, rules=rules)


def _rounding(terms: Sequence[Term]) -> float:
    """How far the numbers of two ways may differ because one of them was computed in the parameters' dtype."""
    dtypes = {term.like.dtype for term in terms if term.like is not None} - {torch.float64}
    return max((_ROUNDED * torch.finfo(dtype).eps for dtype in dtypes), default=_RTOL)


def _same(a: Operator, b: Operator, rtol: float) -> bool:
    """Whether two operators are equal up to rounding."""
    if isinstance(a, Scale) and isinstance(b, Scale):
        return a.nd == b.nd and a.channels == b.channels and _near(a.scale, b.scale, rtol) and _shifts(a, b, rtol)
    if not (isinstance(a, Conv) and isinstance(b, Conv)):
        return False
    if any(getattr(a, name) != getattr(b, name) for name in ("stride", "padding", "dilation", "groups")):
        return False
    if a.weight.shape != b.weight.shape or a.padding_mode != b.padding_mode or a.pad_value or b.pad_value:
        return False
    here, there = (values(op.bias, op.out_channels, op.weight.device) for op in (a, b))
    return _near(a.weight.dense(), b.weight.dense(), rtol) and _near(here, there, rtol)


def _shifts(a: Scale, b: Scale, rtol: float) -> bool:
    zero = torch.zeros((), dtype=torch.float64)
    return _near(zero if a.shift is None else a.shift, zero if b.shift is None else b.shift, rtol)


def _near(a: Tensor, b: Tensor, rtol: float) -> bool:
    return bool((a - b).abs().max() <= rtol * b.abs().max())
