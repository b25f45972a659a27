"""``[W1 x + b1, W2 x + b2, ...] = split([W1; W2; ...] x + [b1; b2; ...])``.

Exact, in any dtype: a row of the wide layer is a row of one of the layers it is made of.

Conditions: the layers read the very same tensor, which nothing changes in place; they have one geometry (kernel,
stride, padding and its mode, dilation, one group), dtype and device, and are all trained or all frozen; each is
called once, and no hook or other code looks at it. A layer may be the first thing that a child of the block does with
its input (the convolution of a conv-norm-activation module): the child then gets its part of the wide layer's output,
and an `nn.Identity` stands where the layer was. A missing bias is a bias of zeros.

Source: Inception blocks as run by TensorRT and cuDNN ("horizontal fusion"); q, k and v as one matrix (Vaswani et al.,
arXiv 1706.03762, as implemented in `torch.nn.MultiheadAttention`).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from reparamkit import Block, Refusal, Rewritten

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear


@dataclass(frozen=True)
class _Reader:
    """A call that begins with a layer.

    Attributes:
        node: the call in the block's graph.
        name: of the layer below the block.
        layer: the layer.
    """

    node: fx.Node
    name: str
    layer: Layer

    @property
    def direct(self) -> bool:
        """Whether the layer itself is called, not a child that begins with it."""
        return str(self.node.target) == self.name


def merge_parallel(block: Block) -> Rewritten | Refusal | None:
    """Widen the first layer of each group, and hand its readers their parts.

    Args:
        block: any block.

    Returns:
        The rewritten block, a refusal when groups were found but none could be merged, or `None` without groups.
    """
    groups = _groups(block)
    refusals: list[Refusal] = []
    modules: dict[str, nn.Module] = {}
    texts: list[str] = []
    for group in groups:
        usable = [reader for reader in group if not _refused(block, reader, refusals)]
        if len(usable) > 1:
            modules |= _merge(block, usable)
            texts.append(f"{len(usable)} {type(usable[0].layer).__name__}")
    if not modules:
        return refusals[0] if refusals else None
    after = ", ".join(f"{n} ({_outputs(m)} outputs)" for n, m in modules.items() if not isinstance(m, nn.Identity))
    return Rewritten(modules, block.graph, " + ".join(texts), after)


def _groups(block: Block) -> list[list[_Reader]]:
    """Readers of one node whose layers have one geometry, at least two of them."""
    found: dict[Any, list[_Reader]] = {}
    for node in block.graph.nodes:
        if node.op != "call_module" or len(node.args) != 1 or node.kwargs or not isinstance(node.args[0], fx.Node):
            continue
        name = _first_layer(block, str(node.target))
        if name is not None:
            layer: Any = block.get(name)
            found.setdefault((node.args[0], _geometry(layer)), []).append(_Reader(node, name, layer))
    return [group for group in found.values() if len(group) > 1]


def _first_layer(block: Block, name: str) -> str | None:
    """The layer that a call of this module begins with, when nothing else reads the module's input."""
    module = block.get(name)
    if _is_layer(module):
        return name
    graph = block.child(name)
    if graph is None:
        return None
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    users = list(inputs[0].users) if inputs else []
    if len(users) != 1 or users[0].op != "call_module" or users[0].args != (inputs[0],) or users[0].kwargs:
        return None
    return _first_layer(block, f"{name}.{users[0].target}")


def _is_layer(module: nn.Module) -> bool:
    if isinstance(module, nn.Linear):
        return type(module).forward is nn.Linear.forward and module.weight.is_floating_point()
    if not isinstance(module, _CONVS) or module.groups != 1 or not module.weight.is_floating_point():
        return False
    return any(isinstance(module, c) and type(module).forward is c.forward for c in _CONVS)


def _geometry(layer: Layer) -> tuple[Any, ...]:
    weight = layer.weight
    numbers = (weight.dtype, weight.device, weight.requires_grad, tuple(weight.shape[1:]))
    bias_grad = weight.requires_grad if layer.bias is None else layer.bias.requires_grad
    if isinstance(layer, nn.Linear):
        return (nn.Linear, *numbers, bias_grad)
    kind = next(c for c in _CONVS if isinstance(layer, c))
    return (kind, *numbers, bias_grad, layer.stride, layer.padding, layer.dilation, layer.padding_mode)


def _refused(block: Block, reader: _Reader, refusals: list[Refusal]) -> bool:
    """Whether the layer must stay; what is called must have one caller too, or the others would miss the layer."""
    called = str(reader.node.target)
    rest = reader.name.removeprefix(called)
    names = [called + rest[:at] for at, sign in enumerate(f"{rest}.") if sign == "."]
    source: Any = reader.node.args[0]
    found = block.unstable(source) or next((r for r in map(block.free, names) if r is not None), None)
    if found is not None:
        refusals.append(found.at(reader.name))
    return found is not None


def _merge(block: Block, group: Sequence[_Reader]) -> dict[str, nn.Module]:
    wide = _widened([reader.layer for reader in group])
    name = block.name("parallel")
    sizes = [_outputs(reader.layer) for reader in group]
    first, dim = group[0].node, -1 if isinstance(wide, nn.Linear) else 1
    with block.graph.inserting_before(first):
        call = block.graph.call_module(name, first.args)
        # Not torch.split: autograd would forbid the in-place ReLU behind a part. Nothing else reads the whole.
        split = block.graph.call_function(torch.unsafe_split_with_sizes, (call, sizes, dim))
        parts = [block.graph.call_function(operator.getitem, (split, i)) for i in range(len(sizes))]
    modules: dict[str, nn.Module] = {name: wide}
    for reader, part in zip(group, parts, strict=True):
        if reader.direct:
            reader.node.replace_all_uses_with(part)
        else:
            reader.node.args = (part,)
            modules[reader.name] = nn.Identity().eval()
    return modules


def _outputs(layer: Any) -> int:
    return int(layer.weight.shape[0])


def _widened(layers: Sequence[Layer]) -> Layer:
    """One layer with the rows of all."""
    like = layers[0]
    weight = torch.cat([layer.weight.detach() for layer in layers])
    bias = None if all(layer.bias is None for layer in layers) else torch.cat([_bias(layer) for layer in layers])
    options: dict[str, Any] = {"bias": bias is not None, "device": "meta", "dtype": weight.dtype}
    if isinstance(like, nn.Linear):
        made: Any = nn.Linear(like.in_features, len(weight), **options)
    else:
        kind: Any = next(c for c in _CONVS if isinstance(like, c))
        shape = (like.in_channels, len(weight), like.kernel_size, like.stride, like.padding, like.dilation)
        made = kind(*shape, padding_mode=like.padding_mode, **options)
    made.weight = nn.Parameter(weight, like.weight.requires_grad)
    if bias is not None:
        trained = like.weight.requires_grad if like.bias is None else like.bias.requires_grad
        made.bias = nn.Parameter(bias, trained)
    return made.eval()  # type: ignore[no-any-return]


def _bias(layer: Layer) -> Tensor:
    return layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias.detach()
