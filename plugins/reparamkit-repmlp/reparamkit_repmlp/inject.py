"""``conv(x) = reshape(M flatten(x) + b)`` for inputs of one size; ``fc(x) + conv(x) = (F + M) x + (f + b)``.

A convolution is a matrix ``M`` once the size of its input is fixed; its columns are what it makes of the unit vectors.
Where the block adds a fully-connected layer of the same input (flattened, a linear layer or a 1x1 convolution with
groups, reshaped back), the matrix is added to that layer and the convolution is gone. A batch norm between the two,
one number a channel of the convolution, is folded into the rows first: ``s (F x + f) + t``, each of ``s`` and ``t``
repeated for every position. Elsewhere a `FixedSizeConv` takes the convolution's place.

Conditions: the size of the input is known from example inputs, and every call has it (RK204 otherwise); the matrix has
at most 2**24 numbers (RK340); the two ways of a sum read the same numbers in the same order; the groups of the layer
divide those of the convolution (RK315); the norm has running statistics; no hook or other code looks at any of them.
Matrices are exact; sums and folded rows are computed in float64 and rounded once, to the dtype of the layer.

Source: Ding et al., RepMLP, arXiv 2105.01883, section 3.3, and RepMLPNet, arXiv 2112.11081.
"""

from __future__ import annotations

from math import prod
from typing import Any

from torch import Tensor, nn

from reparamkit import Block, Refusal, Rewritten
from reparamkit_repmlp.find import Beside, Way, is_conv, sums
from reparamkit_repmlp.layer import FixedSizeConv, folded, fully_connected, matrix_of, with_numbers

_MOST = 2**24


def inject_locality(block: Block) -> Rewritten | Refusal | None:
    """Turn the convolutions of the block into fully-connected layers.

    Args:
        block: any block.

    Returns:
        The rewritten block; a refusal when it has convolutions, none of which can be turned; `None` without any.
    """
    beside = sums(block)
    return _beside(block, beside) if beside else _alone(block)


def _beside(block: Block, found: list[Beside]) -> Rewritten | Refusal:
    """Each fully-connected layer with the matrices of the convolutions beside it."""
    modules: dict[str, nn.Module] = {}
    refusals: list[Refusal] = []
    gone: list[str] = []
    for each in found:
        made = _added(block, each)
        if isinstance(made, Refusal):
            refusals.append(made.at(each.convs[0]))
            continue
        modules[each.fc.layer] = made
        gone += each.convs
        each.total.replace_all_uses_with(_without_norm(each))
    if not modules:
        return refusals[0]
    return Rewritten(modules, block.graph, f"{', '.join(gone)} beside {', '.join(modules)}", ", ".join(modules))


def _without_norm(each: Beside) -> Any:
    """The operand of the sum that comes from the layer; its norm is left out of the graph."""
    norm = each.fc.norm
    if norm is None:
        return each.end
    front: Any = norm.args[0]
    norm.replace_all_uses_with(front)
    return front if each.end is norm else each.end


def _alone(block: Block) -> Rewritten | Refusal | None:
    """Convolutions of more than one tap that the block itself calls, each as a layer of its own."""
    called = dict.fromkeys(str(node.target) for node in block.graph.nodes if node.op == "call_module")
    turned: dict[str, nn.Module] = {}
    refusals: list[Refusal] = []
    for name in called:
        conv: Any = block.get(name)
        if not is_conv(conv) or prod(conv.kernel_size) == 1:
            continue
        sizes = _sizes(block, name, conv.groups)
        if isinstance(sizes, Refusal):
            refusals.append(sizes.at(name))
            continue
        weight, bias = matrix_of(conv, sizes[0], conv.groups)
        turned[name] = FixedSizeConv(fully_connected(weight, bias, conv.groups, conv), *sizes).eval()
    if not turned:
        return refusals[0] if refusals else None
    return Rewritten(turned, None, f"{len(turned)} convolutions", "fully-connected layers")


def _sizes(block: Block, name: str, groups: int) -> tuple[tuple[int, ...], tuple[int, ...]] | Refusal:
    """Sizes of the input and the output of a convolution, without the batch."""
    conv: Any = block.get(name)
    given, returned = block.input_size(name), block.output_size(name)
    if given is None or returned is None:
        return Refusal("RK204", "pass example_inputs of the size the model will run at; every call must have it")
    if len(given) != len(conv.kernel_size) + 2:
        return Refusal("RK203", f"an input of size {given} without a batch")
    numbers = prod(given[1:]) // groups * prod(returned[1:])
    if numbers > _MOST:
        return Refusal("RK340", f"a matrix of {numbers:,} numbers in place of {conv.weight.numel():,}")
    return block.free(name) or (given[1:], returned[1:])


def _added(block: Block, each: Beside) -> nn.Module | Refusal:
    """The fully-connected layer that also does what the norm behind it and the convolutions beside it do."""
    fc: Any = block.get(each.fc.layer)
    weight, bias = fc.weight.detach().double().flatten(1), _double(fc.bias)
    refusal = block.free(each.fc.layer) or _norm_refused(block, each.fc)
    if refusal is not None:
        return refusal
    if each.fc.norm is not None:
        weight, bias = folded(weight, bias, block.get(str(each.fc.norm.target)))
    groups = int(getattr(fc, "groups", 1))
    for name in each.convs:
        made = _matrix(block, name, each.fc, groups)
        if isinstance(made, Refusal):
            return made
        weight = weight + made[0].double().flatten(1)
        if made[1] is not None:
            bias = made[1].double() if bias is None else bias + made[1].double()
    return with_numbers(fc, weight, bias)


def _matrix(block: Block, name: str, way: Way, groups: int) -> tuple[Tensor, Tensor | None] | Refusal:
    """The matrix of one convolution, when it speaks of the same numbers as the layer."""
    conv: Any = block.get(name)
    if conv.groups % groups:
        return Refusal("RK315", f"groups {conv.groups} beside {groups}", name)
    sizes = _sizes(block, name, groups)
    if isinstance(sizes, Refusal):
        return sizes
    fc: Any = block.get(way.layer)
    flat, given = block.input_size(way.layer), block.input_size(name)
    wanted = (len(fc.weight), prod(flat[1:]) if flat else 0)
    if flat is None or given is None or flat[0] != given[0] or wanted != (prod(sizes[1]), prod(sizes[0])):
        return Refusal("RK310", f"{way.layer} reads {flat}, the convolution {given}", name)
    return matrix_of(conv, sizes[0], groups)


def _norm_refused(block: Block, way: Way) -> Refusal | None:
    """Why the norm behind a layer cannot be folded into its rows."""
    if way.norm is None:
        return None
    name = str(way.norm.target)
    norm: Any = block.get(name)
    if type(norm).forward is not nn.BatchNorm2d.forward or norm.running_mean is None or norm.running_var is None:
        return Refusal("RK201", f"{name} has no running statistics, or a forward of its own", name)
    fc: Any = block.get(way.layer)
    flat, size = block.input_size(way.layer), block.input_size(name)
    if size is None or flat is None or size[0] != flat[0] or prod(size[1:]) != len(fc.weight):
        return Refusal("RK310", f"{name} reads {size}, {way.layer} gives {len(fc.weight)} numbers", name)
    return block.free(name)


def _double(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().double()
