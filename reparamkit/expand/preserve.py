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
from reparamkit.expand.fold import folded, not_one_layer
from reparamkit.expand.layer import Layer
from reparamkit.expand.ops.conv import CONVS
from reparamkit.expand.ops.scale import Scale
from reparamkit.expand.placed import Placed
from reparamkit.expand.plain import run_layer
from reparamkit.registry import Registry

_PADS = (
    nn.modules.padding._ConstantPadNd,
    nn.modules.padding._ReflectionPadNd,
    nn.modules.padding._ReplicationPadNd,
    nn.modules.padding._CircularPadNd,
)
TOLERANCE = 1e-11  # of the largest number; what is chosen is exact up to rounding
_BAND = 64  # rows of a kernel


def preserve(
    block: Branches, branches: Sequence[Placed], layer: Layer, target: tuple[Tensor, Tensor], registry: Registry
) -> nn.Module | Refusal:
    """Give `block` the numbers with which it is a layer of weight and bias `target`.

    Args:
        block: in eval mode and float64; changed.
        branches: it was built from.
        layer: its geometry.
        target: ``[out_channels, in_channels / groups, *kernel_size]`` and ``[out_channels]``, in float64.
        registry: the rules.

    Returns:
        The carrier, or why no convolution of the block can be it.
    """
    refusal = Refusal("RK341", f"no branch has a convolution of the layer's own kernel ({layer})")
    for way in carriers(branches, layer):
        front, carrier, back = _walked(block, branches, way)
        if type(carrier) not in CONVS:
            continue
        found = _solved(block, front, carrier, back, layer, target, registry)
        if found is None:
            return carrier
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
    rest = _rest(block, layer, target[0], registry)
    if isinstance(rest, Refusal):
        return rest
    inside = _matrix(front, layer.in_channels, layer, target[0])
    outside = _matrix(back, carrier.weight.shape[0], layer, target[0])
    _fill(carrier.weight, target[0] - rest, inside, outside, layer.groups)
    x = _example(layer, target[0])
    refusal = not_one_layer(block, layer, registry)
    if refusal is not None:
        return refusal
    linear, bias = _run(block, layer, x)
    refusal = _gap("weight", run_layer(layer, x, target[0]), linear)
    return refusal or _shift([carrier, *back], target[1] - bias, layer)


def _example(layer: Layer, like: Tensor) -> Tensor:
    """Random numbers for `layer`, more positions than its taps reach."""
    generator = torch.Generator(device=like.device).manual_seed(0)
    axes = zip(layer.span, layer.stride, layer.padding, strict=True)
    sizes = [max(span + 2 * stride, *(p + 1 for p in pads)) for span, stride, pads in axes]
    return torch.randn((2, layer.in_channels, *sizes), generator=generator, device=like.device, dtype=like.dtype)


def _run(block: nn.Module, layer: Layer, x: Tensor) -> tuple[Tensor, Tensor]:
    """What a block that is one layer makes of `x`, its bias aside, and that bias.

    A fold would say the weight tap by tap, and take far longer than everything else where the block is wide.
    """
    made = block(torch.cat([x, torch.zeros_like(x[:1])]))
    origin: Any = (-1, slice(None), *[0] * layer.nd)
    return made[:-1] - made[-1:], made[origin]


def _rest(block: Branches, layer: Layer, like: Tensor, registry: Registry) -> Tensor | Refusal:
    """The weight of the block while the carrier's is zero."""
    if len(list(block.children())) == 1 and not any(isinstance(m, Branches) for m in block.modules() if m is not block):
        return torch.zeros_like(like)  # one chain, and a link of it is zero
    found = folded(block, layer, registry)
    return found if isinstance(found, Refusal) else found[0]


def _matrix(modules: Sequence[nn.Module], channels: int, layer: Layer, like: Tensor) -> Tensor | None:
    """What modules that work on each position alone do to channels, ``[channels out, channels in]``.

    `None` when nothing happens at all.
    """
    steps = [m.front if isinstance(m, Framed) else m for m in modules if not isinstance(m, _PADS)]
    if not steps:
        return None
    basis = torch.cat([torch.eye(channels).to(like), like.new_zeros(1, channels)])
    basis = basis.reshape(channels + 1, channels, *[1] * layer.nd)
    for module in steps:
        basis = module(basis)
    # A pointwise convolution may pad; what it gives there does not depend on the input.
    columns = (basis[:-1] - basis[-1:]).flatten(2).sum(2) if layer.nd else basis[:-1] - basis[-1:]
    return columns.T


def _fill(weight: Tensor, wanted: Tensor, inside: Tensor | None, outside: Tensor | None, groups: int) -> None:
    """Put ``C+ W A+`` into the carrier's weight, by groups and bands: it may be many times as large as W."""
    made = wanted.reshape(groups, wanted.shape[0] // groups, wanted.shape[1], -1)
    if outside is not None:
        made = torch.einsum("gmo,goit->gmit", _inverse(outside, groups), made)
    front = None if inside is None else _inverse(inside, groups)
    rows = weight.reshape(groups, -1, weight.shape[1], made.shape[3])
    for group, kernels in enumerate(made):
        for at in range(0, len(kernels), _BAND):
            band = kernels[at : at + _BAND]
            rows[group, at : at + _BAND] = band if front is None else torch.einsum("oit,in->ont", band, front[group])


def _inverse(matrix: Tensor, groups: int) -> Tensor:
    """The pseudo-inverse of the diagonal blocks of a matrix, ``[groups, columns / groups, rows / groups]``.

    By QR, many times faster than `torch.linalg.pinv`; where the rank is too low the numbers are useless, which the
    comparison afterwards finds out.
    """
    blocks = _diagonal(matrix, groups)
    wide = blocks.shape[1] < blocks.shape[2]
    q, r = torch.linalg.qr(blocks.mT if wide else blocks)
    inverse: Tensor = torch.linalg.solve_triangular(r, q.mT, upper=True)
    return inverse.mT if wide else inverse


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
        change = missing if behind is None else _inverse(behind, 1)[0] @ missing
        module.bias.add_(change)
        return None if behind is None else _gap("bias", missing, behind @ change)
    return Refusal("RK341", "no operation behind the carrier has a bias that could be the layer's")
