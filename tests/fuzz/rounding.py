"""Models in float32 and bfloat16 against themselves in float64, which is the truth.

Two things are asked. The merged weights are those of the conversion in float64, rounded; bit for bit, unless the model
computes some of them (a norm of weights, say), which rounds once more. And the outputs are as near to the truth as
those of the original: `eps` of the dtype, or a multiple of what the original itself loses, or of what one more rounding
of its weights and inputs would do to it.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

import reparamkit
from reparamkit import Report
from tests.fuzz.runs import Ran, doubled, drawn, gap, inputs, is_bounded, runs
from tests.fuzz.setting import Setting

FACTOR = 16.0  # an algebra mistake is larger by far, and its weights differ
_SAYS_NOTHING = 0.1


def exact_model(model: nn.Module) -> nn.Module:
    """The same numbers in float64."""
    return copy.deepcopy(model).double()


def truth(model: nn.Module, nd: int, dtype: torch.dtype) -> list[Ran]:
    """What the model of that dtype should compute."""
    return runs(exact_model(model), doubled(inputs(nd, dtype)))


def weights_gap(converted: nn.Module, report: Report, model: nn.Module, setting: Setting, nd: int) -> float:
    """Largest gap to the weights of the conversion in float64, rounded; zero too where that merges otherwise."""
    options = {**setting.all_options(inputs(nd)[0][0]), "inplace": False}
    exact, other = reparamkit.apply(exact_model(model), return_report=True, **options)
    if [(m.path, m.kind) for m in report.merged] != [(m.path, m.kind) for m in other.merged]:
        return 0.0
    wanted, got = exact.state_dict(), converted.state_dict()
    if wanted.keys() != got.keys():
        return float("inf")
    return max((gap(wanted[k].to(got[k].dtype), got[k]) for k in got), default=0.0)


def excess(model: nn.Module, nd: int, dtype: torch.dtype, wanted: list[Ran], got: list[Ran]) -> str | None:
    """How the converted model's outputs are further from the truth than they may be; "" if that cannot be told."""
    exact = truth(model, nd, dtype)
    if not all(map(is_bounded, exact)):
        return ""
    error, noise = _apart(exact, got), _apart(exact, wanted)
    allowed = FACTOR * max(torch.finfo(dtype).eps, noise)
    if error <= allowed:
        return None
    allowed = max(allowed, FACTOR * _sensitivity(model, nd, dtype, exact))
    if error <= allowed or allowed > _SAYS_NOTHING:
        return "" if allowed > _SAYS_NOTHING else None
    return f"{error:.3g} from the truth, the original {noise:.3g}, allowed {allowed:.3g}"


def _apart(exact: list[Ran], other: list[Ran]) -> float:
    pairs = [(a, doubled(b.outputs), doubled(b.given)) for a, b in zip(exact, other, strict=True)]
    return max(max(gap(a.outputs, outputs), gap(a.given, given)) for a, outputs, given in pairs)


def _sensitivity(model: nn.Module, nd: int, dtype: torch.dtype, exact: list[Ran]) -> float:
    """How far the truth moves when each number that goes in is rounded once more."""
    eps, found = torch.finfo(dtype).eps, 0.0
    for seed in range(2):
        moved = exact_model(model)
        with torch.no_grad():
            for tensor in (*moved.parameters(), *moved.buffers()):
                if tensor.is_floating_point():
                    tensor.copy_(_rounded(tensor, eps, seed))
        given = [tuple(_rounded(x, eps, seed) for x in pair) for pair in doubled(inputs(nd, dtype))]
        found = max(found, _apart(exact, runs(moved, given)))
    return found


def _rounded(tensor: Tensor, eps: float, seed: int) -> Tensor:
    return tensor * (1 + eps * drawn(tuple(tensor.shape), seed).sign())
