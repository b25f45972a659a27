"""How many axes and channels a value has, as those that read it take it.

What a `Conv2d` reads has four axes, what is permuted by four numbers as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from reparamkit.lift.cuts import is_cut
from reparamkit.nodes.parts import takes_part
from reparamkit.nodes.ranks import CONV_RANKS, RANKED, keeps_channels, keeps_rank, rank_of_module
from reparamkit.nodes.shapes import is_shape
from reparamkit.nodes.tensors import is_pooling
from reparamkit.paths import joined
from reparamkit.trace.proxies import PARTS
from reparamkit.trace.traced import Traced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from reparamkit.survey import Survey

_FAR = 48  # readers that are asked


def rank_as_read(survey: Survey, path: str, node: fx.Node) -> int | None:
    """Axes of the value of `node`, in the forward of the module at `path`; `None` where no reader tells."""
    module = survey.modules[path]
    if node.op == "placeholder" and isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
        return rank_of_module(module, None)
    found = set()
    for count, (where, read, reader) in enumerate(_readers(survey, path, node)):
        found.add(_taken(survey, where, read, reader))
        if count == _FAR:
            break
    found.discard(None)
    return found.pop() if len(found) == 1 else None


def channels_as_read(survey: Survey, path: str, node: fx.Node) -> int | None:
    """Channels of the value of `node`, where a layer that reads it tells."""
    found = set()
    for count, (where, read, reader) in enumerate(_readers(survey, path, node, keeps_channels)):
        if reader.op == "call_module" and reader.args[:1] == (read,):
            module: Any = survey.modules[joined(where, str(reader.target))]
            if isinstance(module, RANKED):
                found.add(getattr(module, "in_channels", None) or getattr(module, "num_features", None))
        if count == _FAR:
            break
    found.discard(None)
    return found.pop() if len(found) == 1 else None


def _readers(
    survey: Survey, path: str, node: fx.Node, keeps: Callable[[fx.Node, fx.Node], bool] = keeps_rank
) -> Iterator[tuple[str, fx.Node, fx.Node]]:
    """Readers of a value and of what is like it, nearest first: module, what is read, the reader."""
    waiting, seen = [(path, node)], set()
    while waiting:
        path, node = waiting.pop(0)
        if (path, node) in seen:
            continue
        seen.add((path, node))
        for user in node.users:
            yield path, node, user
            waiting += _next(survey, path, node, user, keeps)


def _next(
    survey: Survey, path: str, node: fx.Node, user: fx.Node, keeps: Callable[[fx.Node, fx.Node], bool]
) -> list[tuple[str, fx.Node]]:
    """Where the value goes on and stays like it was: into the forward of a child, or behind an activation."""
    if is_cut(user):
        return [(path, part) for part in user.users if takes_part(part)] if keeps is keeps_rank else []
    if user.op != "call_module":
        return [(path, user)] if keeps(node, user) else []
    if user.args[:1] != (node,):
        return []
    inner = joined(path, str(user.target))
    module = survey.modules[inner]
    traced = survey.traced.get(id(module))
    if isinstance(traced, Traced):
        return [(inner, next(n for n in traced.graph.nodes if n.op == "placeholder"))]
    return [(path, user)] if rank_of_module(module, 7) == 7 or is_pooling(module) else []


def _taken(survey: Survey, path: str, node: fx.Node, reader: fx.Node) -> int | None:
    """Axes that the reader insists on."""
    if reader.op == "call_function" and reader.target in CONV_RANKS:
        return CONV_RANKS[reader.target]
    if PARTS in reader.meta and is_shape(reader):
        return int(reader.meta[PARTS])
    if reader.target in ("permute", torch.permute) and reader.args[:1] == (node,):
        axes = reader.args[1] if len(reader.args) == 2 else reader.args[1:]
        return len(axes) if isinstance(axes, (list, tuple)) and axes else None
    if reader.op != "call_module" or reader.args[:1] != (node,):
        return None
    module = survey.modules[joined(path, str(reader.target))]
    return rank_of_module(module, None) if isinstance(module, RANKED) else None
