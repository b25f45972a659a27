"""shapes: whether what a forward is told about the shape of a value stays true when modules are exchanged around it.

Modules that step aside hand on what they are given: a value in front of the merged operator becomes the source of the
region, one behind it the end. That is no other number only where what lies between keeps all sizes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reparamkit.edits.edit import Swap
from reparamkit.errors import Refusal
from reparamkit.operators import Conv, Scale
from reparamkit.paths import within
from reparamkit.rules.sizes import keeps_positions

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from reparamkit.edits.edit import Edit
    from reparamkit.flow import Value

# What is asked of a value that is no size.
_NO_SIZE = frozenset({"dtype", "device", "is_cuda", "requires_grad", "names", "layout", "ndim", "dim", "ndimension"})


def resized(edit: Edit) -> Refusal | None:
    """Why `edit` would change a shape that a forward which stays as it is asks for, if it would."""
    written = [] if isinstance(edit, Swap) else [edit.path]
    if written == [""]:
        return None  # it is written anew, and looks at each value itself
    candidate = edit.candidate
    asking = misled(candidate.values, _place(edit), candidate.cancels, [*written, *edit.touched])
    return None if asking is None else Refusal("RK305", f"{asking.where} asks for a shape", candidate.target.where)


def misled(values: Sequence[Value], place: tuple[int, int], cancels: bool, gone: Sequence[str] = ()) -> Value | None:
    """A size of something in a region that would become another one, if there is one.

    Args:
        values: the region.
        place: where the merged operator will be: the last index in front of it, and its own.
        cancels: whether rearranged axes are put back in the region, and all of that goes.
        gone: modules whose forwards go, so that nothing in them asks any more.
    """
    for value in values[:-1]:
        asking = next((user for user in value.users if asks(user) and not within(user.path, gone)), None)
        if asking is not None and not all(keeps_sizes(v, cancels) for v in _passed_by(value, values, place)):
            return asking
    return None


def asks(value: Value) -> bool:
    """Whether it is a size of the value it reads, or something about its shape."""
    if not value.meta or value.cuts is not None or value.constant is not None:
        return False
    name = value.node.args[1] if value.node.target is getattr else value.node.target
    return name not in _NO_SIZE


def keeps_sizes(value: Value, cancels: bool) -> bool:
    """Whether a step of a region gives what is as large as what it reads.

    Args:
        value: the step.
        cancels: whether rearranged axes are put back in the region, and all of that goes.
    """
    if value.stays:
        return not cancels
    if value.parts:
        return bool(value.terms)
    op = None if value.term is None else value.term.op
    if isinstance(op, Conv):
        return op.in_channels == op.out_channels and keeps_positions(op)
    return isinstance(op, Scale)


def _passed_by(value: Value, values: Sequence[Value], place: tuple[int, int]) -> Iterable[Value]:
    """The steps between `value` and what it becomes: the source of the region, or its end."""
    start, end = place
    if value.index <= start:
        return (v for v in values if v.index <= value.index)
    return (v for v in values if v.index > value.index) if value.index >= end else values


def _place(edit: Edit) -> tuple[int, int]:
    """As `misled` wants it."""
    if not isinstance(edit, Swap):
        return edit.source.index, edit.target.index
    own = [v.index for v in edit.candidate.values if within(v.module_path or v.path, [edit.anchor])]
    return min(own) - 1, max(own)
