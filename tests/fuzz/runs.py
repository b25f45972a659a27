"""What a model does when it is called: outputs, changed inputs, gradients; and how far two of those are apart."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tests.fuzz.writer import CHANNELS, LARGEST, SIZES


@dataclass(frozen=True)
class Ran:
    """What two calls of a model gave, on one size.

    Attributes:
        outputs: of each call; an exception where it raised one.
        given: the inputs afterwards.
        buffers: of the model afterwards.
    """

    outputs: tuple[Any, ...]
    given: tuple[Tensor, ...]
    buffers: dict[str, Tensor] = field(repr=False)


def shapes(nd: int) -> list[tuple[int, ...]]:
    """Of the inputs that every model with `nd` spatial axes is run on."""
    return [(2, CHANNELS, *size[:nd]) for size in SIZES]


def inputs(nd: int, dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, ...]]:
    """Two inputs of each size."""
    return [tuple(drawn(shape, i).to(dtype) for i in range(2)) for shape in shapes(nd)]


def drawn(shape: tuple[int, ...], seed: int) -> Tensor:
    """Random numbers in float64 that depend on nothing else."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def runs(model: nn.Module, given: list[tuple[Tensor, ...]]) -> list[Ran]:
    """A copy of the model is called twice on each size: what a call leaves behind shows in the next."""
    return [_run(copy.deepcopy(model), tuple(x.clone() for x in pair)) for pair in given]


def _run(model: nn.Module, given: tuple[Tensor, ...]) -> Ran:
    outputs = tuple(_called(model, x) for x in given)
    return Ran(outputs, given, dict(model.named_buffers()))


def _called(model: nn.Module, x: Tensor) -> Any:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        try:
            return copy.deepcopy(model(x))
        except Exception as error:
            return error


def gradient(model: nn.Module, x: Tensor) -> Tensor | Exception:
    """Of a weighted sum of all outputs, with respect to the input; what was raised instead, if so."""
    leaf = x.clone().requires_grad_()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        try:
            found = tensors(copy.deepcopy(model)(leaf.clone()))
            loss = sum((t * drawn(tuple(t.shape), i)).sum() for i, t in enumerate(found) if t.is_floating_point())
            (grad,) = torch.autograd.grad(leaf.sum() * 0 + loss, leaf)
        except Exception as error:
            return error
    return grad


def tensors(tree: Any) -> list[Tensor]:
    """All tensors of a nested output."""
    return [t for t in pytree.tree_leaves(tree) if isinstance(t, Tensor)]


def is_bounded(ran: Ran) -> bool:
    """Whether its numbers are finite, and small enough for rounding to stay small."""
    found = [t for t in (*tensors(ran.outputs), *ran.given) if t.is_floating_point() and t.numel()]
    return all(float(t.abs().max()) < LARGEST**2 for t in found)


def doubled(tree: Any) -> Any:
    """The tree with its floating point tensors in float64."""
    return pytree.tree_map(lambda t: t.double() if isinstance(t, Tensor) and t.is_floating_point() else t, tree)


def gap(a: Any, b: Any) -> float:
    """Largest difference relative to the largest value, or to one; infinite where they are built differently."""
    if isinstance(a, Exception) or isinstance(b, Exception):
        return 0.0  # whether both raise is asked elsewhere; in another dtype they need not
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return _gap(a, b)
    if isinstance(a, dict) and isinstance(b, dict) and list(a) == list(b):
        return max((gap(a[k], b[k]) for k in a), default=0.0)
    if isinstance(a, (list, tuple)) and len(a) == len(b):
        return max(map(gap, a, b), default=0.0)
    return 0.0 if a == b else math.inf


def _gap(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape or a.dtype != b.dtype:
        return math.inf
    if not a.numel():
        return 0.0
    a, b = a.double(), b.double()
    found = float((a - b).abs().max() / a.abs().max().clamp_min(1))
    return math.inf if math.isnan(found) else found
