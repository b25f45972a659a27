"""preserve: the carrier's numbers are chosen so that the block computes what the layer did.

Formula: with the carrier's kernel at zero the block is a layer of weight ``W0``. Its kernel ``K`` adds ``C K A``,
where ``A`` is what stands in front of it on its way and ``C`` what stands behind, both maps of channels. So
``K = C+ (W - W0) A+`` with pseudo-inverses, group by group, in float64; the bias likewise. Random widening maps (``A``
of full column rank, ``C`` of full row rank, as in ExpandNets) make it exact; anything else is refused, with the
numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reparamkit.errors import Refusal
from reparamkit.expand.block import Branches, Framed
from reparamkit.expand.carrier import Way, carriers
from reparamkit.expand.fold import folded
from reparamkit.expand.layer import Layer
from reparamkit.expand.ops.conv import CONVS
from reparamkit.expand.ops.scale import Scale
from reparamkit.expand.placed import Placed
from reparamkit.registry import Registry

TOLERANCE = 1e-11  # of the largest number; what is chosen is exact up to rounding


def preserve(
    block: Branches, branches: Sequence[Placed], layer: Layer, target: tuple[Tensor, Tensor], registry: Registry
) -> Refusal | None:
    """Give `block` the numbers with which it is a layer of weight and bias `target`.

    Args:
        block: in eval mode and float64; changed.
        branches: it was built from.
        layer: its geometry.
        target: ``[out_channels, in_channels / groups, *kernel_size]`` and ``[out_channels]``, in float64.
        registry: the rules.

    Returns:
        `None`, or why no convolution of the block can do it.
    """
    refusal = Refusal("RK341", f"no branch has a convolution of the layer's own kernel ({layer})")
    for way in carriers(branches, layer):
        front, carrier, back = _walked(block, branches, way)
        if not isinstance(carrier, CONVS):
            continue
        found = _solved(block, front, carrier, back, layer, target, registry)
        if found is None:
            return None
        refusal = found
    return refusal


def _walked(
    block: Branches, branches: Sequence[Placed], way: Way
) -> tuple[list[nn.Module], nn.Module, list[nn.Module]]:
    """The modules in front of the carrier, the carrier, and those behind it."""
    placed = branches[way.branch]
    branch = block.get_submodule(placed.name)
    modules = list(branch.children()) if isinstance(branch, nn.Sequential) else [branch]
    at = len(modules) - len(placed.steps) + way.step  # a border never stands behind the carrier
    front, found, back = modules[:at], modules[at], modules[at + 1 :]
    if way.rest is None:
        return front, found, back
    assert isinstance(found, Branches)
    inner_front, carrier, inner_back = _walked(found, placed.steps[way.step].branches, way.rest)
    return [*front, *inner_front], carrier, [*inner_back, *back]


def _solved(
    block: Branches,
    front: list[nn.Module],
    carrier: Any,
    back: list[nn.Module],
    layer: Layer,
    target: tuple[Tensor, Tensor],
    registry: Registry,
) -> Refusal | None:
    for module in (*front, *back):
        if isinstance(module, Scale) and isinstance(module.weight, nn.Parameter):
            nn.init.ones_(module.weight)  # a small factor would have to be made up for by huge weights
    carrier.weight.zero_()
    rest = folded(block, layer, registry)
    if isinstance(rest, Refusal):
        return rest
    inside = _matrix(front, layer.in_channels, layer, target[0])
    outside = _matrix(back, carrier.weight.shape[0], layer, target[0])
    carrier.weight.copy_(_kernel(target[0] - rest[0], inside, outside, layer.groups))
    made = folded(block, layer, registry)
    if isinstance(made, Refusal):
        return made
    refusal = _gap("weight", target[0], made[0])
    return refusal or _shift([carrier, *back], target[1] - made[1], layer)


def _matrix(modules: Sequence[nn.Module], channels: int, layer: Layer, like: Tensor) -> Tensor:
    """What modules that work on each position alone do to channels, ``[channels out, channels in]``."""
    ones = [1] * layer.nd
    basis = torch.cat([torch.eye(channels).to(like), like.new_zeros(1, channels)]).reshape(
        channels + 1, channels, *ones
    )
    for module in modules:
        if isinstance(module, Framed):
            basis = module.front(basis)
        elif not type(module).__name__.partition("Pad")[1]:
            basis = module(basis)
    columns = basis.reshape(channels + 1, -1)
    return (columns[:-1] - columns[-1:]).T


def _kernel(wanted: Tensor, inside: Tensor, outside: Tensor, groups: int) -> Tensor:
    """``C+ W A+`` for each group, ``[channels behind, channels in front / groups, *kernel_size]``."""
    kernel = wanted.shape[2:]
    by_group = wanted.reshape(groups, wanted.shape[0] // groups, wanted.shape[1], -1)
    left = torch.linalg.pinv(_diagonal(outside, groups))
    right = torch.linalg.pinv(_diagonal(inside, groups))
    made = torch.einsum("gmo,goit,gin->gmnt", left, by_group, right)
    return made.reshape(-1, made.shape[2], *kernel)


def _diagonal(matrix: Tensor, groups: int) -> Tensor:
    """The diagonal blocks of a matrix, ``[groups, rows / groups, columns / groups]``."""
    rows, columns = matrix.shape
    blocks = matrix.reshape(groups, rows // groups, groups, columns // groups)
    return blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)


def _gap(what: str, wanted: Tensor, got: Tensor) -> Refusal | None:
    size = max(float(wanted.abs().max()), 1e-300)
    error = float((wanted - got).abs().max()) / size
    if error <= TOLERANCE:
        return None
    return Refusal("RK341", f"the closest {what} that the branches can have differs by {error:.2g} of its size")


def _shift(modules: Sequence[Any], missing: Tensor, layer: Layer) -> Refusal | None:
    """Add `missing` to the bias of the last module on the way that has one."""
    if not bool(missing.any()):
        return None
    for index in reversed(range(len(modules))):
        module = modules[index]
        if type(module) not in CONVS and not isinstance(module, _BatchNorm):
            continue
        if module.bias is None:
            continue
        behind = _matrix(modules[index + 1 :], module.bias.shape[0], layer, missing)
        change = torch.linalg.pinv(behind) @ missing
        module.bias.add_(change)
        return _gap("bias", missing, behind @ change)
    return Refusal("RK341", "no operation behind the carrier has a bias that could be the layer's")
