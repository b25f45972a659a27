"""ranks: how many axes a value has, as far as the graph alone can tell; `None` where it cannot.

It decides which axis a `BatchNorm1d` or a negative index means. Convolutions are taken to see batched input
(torch also accepts unbatched; batch norm does not).
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from torch import fx, nn
from torch.nn import functional as F

from reparamkit.nodes.names import name_of
from reparamkit.nodes.shapes import is_shape

if TYPE_CHECKING:
    from collections.abc import Callable

_SAME_MODULES = (
    "torch.nn.modules.activation",
    "torch.nn.modules.dropout",
    "torch.nn.modules.normalization",
    "torch.nn.modules.batchnorm",
    "torch.nn.modules.instancenorm",
    "torch.nn.modules.linear",
    "torch.nn.modules.padding",
    "torch.nn.modules.channelshuffle",
    "torch.nn.modules.pixelshuffle",
)

SAME_RANK = {
    *(
        "relu relu6 silu gelu sigmoid tanh hardswish hardsigmoid hardtanh leaky_relu elu selu mish softplus softmax"
    ).split(),
    *(
        "log_softmax dropout dropout1d dropout2d dropout3d normalize pad contiguous clone detach abs exp sqrt neg"
    ).split(),
    *(
        "clamp roll flip permute transpose movedim moveaxis to float double half type_as batch_norm group_norm "
        "layer_norm prelu celu"
    ).split(),
    *(
        "add sub mul div iadd isub imul truediv itruediv add_ sub_ mul_ div_ relu_ rsub pow rsqrt interpolate linear"
    ).split(),
    *("avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d cat concat concatenate").split(),
    *"pixel_shuffle pixel_unshuffle channel_shuffle".split(),
    *"square log log2 log10 log1p expm1 erf sin cos tan atan sinh cosh sign round floor ceil trunc reciprocal".split(),
    *"clip clamp_min clamp_max threshold softsign softmin logsigmoid tanhshrink hardshrink softshrink".split(),
    *"sigmoid_ tanh_ silu_ clamp_ masked_fill masked_fill_ nan_to_num maximum minimum lerp addcmul".split(),
    *"gt lt ge le eq ne".split(),
    *("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d conv1d conv2d conv3d").split(),
}

CONV_RANKS: dict[Any, int] = {F.conv1d: 3, F.conv2d: 4, F.conv3d: 5}

FIXED_RANKS: dict[Any, int] = {**CONV_RANKS, F.adaptive_avg_pool2d: 4, F.avg_pool2d: 4, F.max_pool2d: 4}

# Modules that take one number of axes only (a BatchNorm1d takes two or three).
RANKED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm2d, nn.BatchNorm3d, nn.AvgPool2d, nn.MaxPool2d)


def rank_of_module(module: nn.Module, rank: int | None) -> int | None:
    """Axes of the output of a module of torch.nn for an input of `rank` axes."""
    home = type(module).__module__
    name = type(module).__name__
    if home in ("torch.nn.modules.pooling", "torch.nn.modules.conv"):
        digit = next((int(c) for c in name if c.isdigit()), None)
        return None if digit is None else digit + 2
    if isinstance(module, nn.Flatten):
        if (module.start_dim, module.end_dim) == (1, -1):
            return 2
        return None if rank is None else rank - (module.end_dim % rank - module.start_dim % rank)
    if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
        return 4 if isinstance(module, nn.BatchNorm2d) else 5
    if home in _SAME_MODULES or isinstance(module, (nn.Identity, nn.Upsample)):
        return rank
    return None


def rank_of_call(
    target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], ranks: list[int | None], entries: int | None = None
) -> int | None:
    """Axes of the result of a function or of a method (given by name).

    Args:
        target: the function, or the name.
        args: positional arguments.
        kwargs: keyword arguments.
        ranks: axes of the values among them.
        entries: of the shape that is the second argument, where it is one.
    """
    name = name_of(target)
    if not isinstance(target, str) and target in FIXED_RANKS:
        return FIXED_RANKS[target]
    if name == "flatten":
        start = kwargs.get("start_dim", args[1] if len(args) > 1 else 0)
        end = kwargs.get("end_dim", args[2] if len(args) > 2 else -1)
        if start == 1 and end == -1:
            return 2
        known = ranks[0] if ranks else None
        return known - (end % known - start % known) if known else None
    if name == "permute":
        axes = args[1] if len(args) == 2 else args[1:]
        return len(axes) if isinstance(axes, (list, tuple)) and axes else None
    if name in ("view", "reshape"):
        return _listed(args[1:], entries)
    if name in ("reshape_as", "view_as"):
        return ranks[-1] if ranks else None
    if name in ("norm", "std", "var") and kwargs.get("keepdim") is True:
        return ranks[0] if ranks else None
    if name in ("mean", "sum", "amax", "amin", "prod", "logsumexp") or (name in ("std", "var") and len(args) < 3):
        return _reduced(args, kwargs, ranks[0] if ranks else None)
    if name == "einsum" and args and isinstance(args[0], str):
        return _written_out(args[0])
    if target is operator.getitem:
        return _indexed(args[1], ranks[0] if ranks else None)
    if name in ("unsqueeze", "stack"):
        return ranks[0] + 1 if ranks and ranks[0] and len(set(ranks)) == 1 else None
    if name in SAME_RANK:
        known_ranks = [r for r in ranks if r is not None]
        return max(known_ranks) if known_ranks and len(known_ranks) == len(ranks) else None
    return None


def keeps_rank(node: fx.Node, user: fx.Node) -> bool:
    """Whether a call gives a result of as many axes as `node`, the only tensor it reads, has."""
    if user.op not in ("call_function", "call_method") or user.args[:1] != (node,):
        return False
    alone = len(user.all_input_nodes) == 1 or user.target is F.pad
    return alone and all(rank_of_call(user.target, user.args, user.kwargs, [rank]) == rank for rank in (3, 4, 5))


_POOLS = frozenset(f"{kind}_pool{nd}d" for kind in ("avg", "max", "adaptive_avg", "adaptive_max") for nd in (1, 2, 3))

_CHANNELWISE = _POOLS | frozenset(
    "relu relu_ relu6 silu gelu sigmoid tanh hardswish hardsigmoid hardtanh leaky_relu elu selu mish softplus "
    "dropout dropout2d contiguous clone to float half double interpolate batch_norm group_norm".split()
)


def keeps_channels(node: fx.Node, user: fx.Node) -> bool:
    """Whether a call gives a result of as many channels as `node`, the first that it reads, has."""
    return (
        user.op in ("call_function", "call_method")
        and user.args[:1] == (node,)
        and name_of(user.target) in _CHANNELWISE
    )


def entries_of(node: fx.Node, entries: Callable[[fx.Node], int | None]) -> int | None:
    """How many entries a shape has, or a part of one, or one that is put together from parts.

    Args:
        node: what computes it.
        entries: of another shape; of a value, how many axes it has.
    """
    first = entries(node.args[0]) if node.args and isinstance(node.args[0], fx.Node) else None
    if is_shape(node):
        return first
    if node.target is operator.getitem and first is not None and isinstance(node.args[1], slice):
        bounds = node.args[1]
        plain = all(b is None or type(b) is int for b in (bounds.start, bounds.stop, bounds.step))
        return len(range(first)[bounds]) if plain else None
    if node.target is operator.add and first is not None and isinstance(node.args[1], (tuple, list)):
        return first + len(node.args[1])
    return None


def _listed(sizes: tuple[Any, ...], entries: int | None) -> int | None:
    """How many sizes a reshape is given, one by one, in a list or as a shape."""
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        return len(sizes[0]) or None
    one_by_one = len(sizes) > 1 or all(isinstance(size, int) for size in sizes)
    return len(sizes) or None if one_by_one else entries


def _reduced(args: tuple[Any, ...], kwargs: dict[str, Any], rank: int | None) -> int | None:
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    keep = kwargs.get("keepdim", args[2] if len(args) > 2 else False)
    if rank is None or dim is None:
        return None
    return rank if keep else rank - (len(dim) if isinstance(dim, (tuple, list)) else 1)


def _written_out(equation: str) -> int | None:
    """Axes of the result of an einsum that names all of them."""
    _, arrow, made = equation.replace(" ", "").partition("->")
    return len(made) if arrow and "." not in made else None


def _indexed(index: Any, rank: int | None) -> int | None:
    parts = index if isinstance(index, tuple) else (index,)
    if rank is None or not all(p is None or p is Ellipsis or isinstance(p, (int, slice)) for p in parts):
        return None
    gone = sum(isinstance(p, int) for p in parts)
    new = sum(p is None for p in parts)
    return rank - gone + new
