"""offset: what is left of a product and a sum whose product went on, against the two, in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from reparamkit.errors import Refusal
from reparamkit.lower import lower
from reparamkit.prove.reference import run_steps, scaled
from reparamkit.prove.verdict import accepted

if TYPE_CHECKING:
    from torch import Tensor

    from reparamkit.decide.candidate import Candidate
    from reparamkit.flow import Flow
    from reparamkit.operators.scale import Offset
    from reparamkit.prove.samples import Samples
    from reparamkit.rule import RuleSet


def offset_module(candidate: Candidate, op: Offset, rules: RuleSet) -> nn.Module | Refusal:
    """The module that adds the offset, with its numbers."""
    module = lower(candidate.term, rules)
    if isinstance(module, Refusal):
        return module
    like, bias = candidate.term.like, module.bias
    assert like is not None
    assert op.shift is not None
    assert isinstance(bias, nn.Parameter)
    with torch.inference_mode(False):
        rounded = op.shift.to(like.dtype).reshape(bias.shape).clone()
        module.bias = nn.Parameter(rounded, requires_grad=like.bias_grad or like.weight_grad)
    return module


def offset_error(candidate: Candidate, op: Offset, flow: Flow, samples: Samples, rtol: float) -> float:
    """How far ``s (x + offset)`` is from ``s x + t``, as the forward computes `s` and both.

    Raises:
        VerificationError: RK901 when that is more than `rtol`.
    """
    steps, source = candidate.values, candidate.source
    behind = op.nd if op.nd is not None else 2
    shape = [2] * max(source.rank or 4, behind + 1)
    shape[-1 - behind] = op.channels or 3
    x = samples.inputs([shape], op.scale.device)[0]
    wanted = run_steps(steps, flow, x)
    assert op.shift is not None
    got = scaled(steps, flow, x + _along(op.shift, behind))
    largest = float(wanted.abs().max())
    return accepted(float((got - wanted).abs().max()) / (largest or 1.0), candidate, rtol)


def _along(shift: Tensor, behind: int) -> Tensor:
    return shift.reshape(-1, *[1] * behind) if shift.ndim else shift
