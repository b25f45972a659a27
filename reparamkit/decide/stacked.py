"""stacked: a norm in front of a concatenation has its place behind it, for its channels alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from reparamkit.decide.prices import price
from reparamkit.flow import Share, Value
from reparamkit.operators import Conv, Scale
from reparamkit.rules.sizes import channels_in
from reparamkit.term import Term

if TYPE_CHECKING:
    from torch import Tensor

    from reparamkit.decide.spreading import Spread


def behind_stack(spread: Spread) -> bool:
    """Put the norm behind the concatenation that alone reads it: a share in front of each layer there.

    Args:
        spread: of the norm; gets the shares.

    Returns:
        Whether there is such a concatenation, and the places of the norm's channels in it are known.
    """
    norm = spread.norm
    stack = norm.readers[0] if len(norm.readers) == 1 and not norm.escapes else None
    if stack is None or stack.stacks.count(norm) != 1 or stack.escapes or not spread.apart(stack):
        return False
    place = _place(norm, stack)
    if place is None or any(reader.parts or reader.source is not stack for reader in stack.readers):
        return False
    axis, start, size, total = place
    shares = []
    for reader in stack.readers:
        about = Share(norm, norm, axis, start, size, total, among=len(stack.readers), within=True)
        share = spread.share(norm, stack, about, _widened(norm, start, size, total), reader.index)
        share.users, share.cost = [reader], price(norm).at(1 / norm.density)
        spread.read_instead(reader, stack, share)
        shares.append(share)
    spread.change(stack, users=[*shares, *(user for user in stack.users if user.meta)])
    spread.change(norm, term=Term(Scale()), gone=True)
    return True


def _place(norm: Value, stack: Value) -> tuple[int, int, int, int] | None:
    """The axis of the channels, the first that is the norm's, how many those are, and how many there are in all."""
    assert norm.term is not None
    assert isinstance(norm.term.op, Scale)
    nd, size, rank = norm.term.op.nd, norm.term.op.channels, norm.rank or stack.rank
    if nd is None or size is None or rank is None or stack.stack_dim is None or stack.stack_dim % rank != rank - 1 - nd:
        return None
    sizes = [channels_in(part) for part in stack.stacks]
    ops = [reader.term.op for reader in stack.readers if reader.term is not None]
    total = next((op.in_channels for op in ops if isinstance(op, Conv) and op.nd == nd), None)
    if sizes.count(None) == 1 and total is not None:
        sizes[sizes.index(None)] = total - sum(known or 0 for known in sizes)
    known = [count for count in sizes if count is not None]
    if len(known) < len(sizes) or min(known) < 1 or total not in (None, sum(known)):
        return None
    return rank - 1 - nd, sum(known[: stack.stacks.index(norm)]), size, sum(known)


def _widened(norm: Value, start: int, size: int, total: int) -> Term:
    """The norm as a scale and shift of all channels, which leaves the others as they are."""
    assert norm.term is not None
    assert isinstance(norm.term.op, Scale)
    op = norm.term.op

    def wide(part: Tensor, rest: float) -> Tensor:
        made = torch.full((total,), rest, dtype=part.dtype, device=part.device)
        made[start : start + size] = part
        return made

    shift = None if op.shift is None else wide(op.shift, 0.0)
    return replace(norm.term, op=Scale(wide(op.scale, 1.0), shift, op.nd))
