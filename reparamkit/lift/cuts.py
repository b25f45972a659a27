"""Values cut into parts along their channels: how many channels each part of a `chunk` or `split` has."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

from reparamkit.nodes.names import name_of
from reparamkit.nodes.parts import takes_part
from reparamkit.rules.sizes import channel_axis, channel_number, channels_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import fx

    from reparamkit.flow import Value


def is_part(value: Value) -> bool:
    """Whether it is one part of a value that was cut."""
    return len(value.inputs) == 1 and value.inputs[0].cuts is not None and takes_part(value.node)


def read_through(part: Value) -> None:
    """A part reads what was cut: the cut itself is only bookkeeping."""
    whole = part.inputs[0].inputs[0]
    part.inputs, part.rank = [whole], whole.rank
    whole.users.append(part)


def is_cut(node: fx.Node) -> bool:
    """Whether it cuts a value into parts."""
    return name_of(node.target) in ("chunk", "split", "split_with_sizes")


def cut_sizes(node: fx.Node, inputs: list[Value], read: Callable[[fx.Node], int | None]) -> tuple[int, ...] | None:
    """Channels of each part of a `chunk` or `split` that is only taken apart; `None` where it is none, or unknown.

    Args:
        node: the call.
        inputs: the values it reads.
        read: channels of the value of a node, as its readers take them.
    """
    if not is_cut(node) or not inputs or not all(map(takes_part, node.users)):
        return None
    source, *sizes = inputs
    if source.meta or source.rank is None or source.rank < 3:
        return None
    wanted = node.args[1] if len(node.args) > 1 else _keyword(node)
    axis = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
    if type(axis) is not int or axis % source.rank != 1:
        return None
    total = channels_of(source) if channel_axis(source) == source.rank - 2 else None
    if len(sizes) == 1 and sizes[0].node is wanted:
        wanted = channel_number(sizes[0])
    elif sizes:
        return None
    if isinstance(wanted, (list, tuple)) and all(type(size) is int for size in wanted):
        return tuple(wanted) if total in (None, sum(wanted)) else None
    if type(wanted) is not int or wanted < 1:
        return None
    if total is None:
        return _as_read(node, wanted, read) if name_of(node.target) == "chunk" else None
    each = ceil(total / wanted) if name_of(node.target) == "chunk" else wanted
    return tuple(min(each, total - start) for start in range(0, total, each))


def _as_read(node: fx.Node, parts: int, read: Callable[[fx.Node], int | None]) -> tuple[int, ...] | None:
    """The parts of a `chunk` as the layers behind them take them: all are equal, only the last one may be smaller."""
    sizes = {int(user.args[1]) % parts: read(user) for user in node.users}  # type: ignore[arg-type]
    last = sizes.pop(parts - 1, None)
    each = {size for size in sizes.values() if size is not None}
    if last is None or len(each) != 1 or last > max(each):
        return None
    return (*each,) * (parts - 1) + (last,)


def _keyword(node: fx.Node) -> Any:
    names = ("chunks", "split_size_or_sections", "split_size", "split_sizes")
    return next((node.kwargs[name] for name in names if name in node.kwargs), None)
