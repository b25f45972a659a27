"""reorder: steps of a forward that would merge in another order are read in that order.

``(a + b) + c`` is one value for each addition. Where `a` and `c` are operators of one source and `b` is none, neither
addition merges; ``(a + c) + b`` does. In ``s relu(conv(x))`` nothing merges; in ``relu(s conv(x))`` the scale does. The
order changes only where that makes a merge: `sums.py` and `scales.py` beside this file say where it might.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reparamkit.trace.reorder import Reordering, reordered

if TYPE_CHECKING:
    from torch import fx

    from reparamkit.decide.choice import Choice
    from reparamkit.flow import Flow, Frame, Value
    from reparamkit.trace.traced import Traced

Finder = Callable[["Frame", "Flow", "Choice"], Sequence[Reordering]]


@dataclass(frozen=True)
class Reorderer:
    """Changes the order of steps in one flow.

    Attributes:
        finders: what might be changed in a forward, given what merges as it is.
        lift: the flow again, with other traces for some of its forwards.
        choose: the regions of a flow.
    """

    finders: Sequence[Finder]
    lift: Callable[[Flow, dict[str, Traced]], Flow]
    choose: Callable[[Flow], Choice]

    def improved(self, flow: Flow, chosen: Choice) -> tuple[Flow, Choice]:
        """The flow in the order in which most of it merges, and its regions; itself where no other order helps."""
        wanted = {path: found for path, frame in flow.frames.items() if (found := self._wanted(frame, flow, chosen))}
        while wanted:
            made = {path: reordered(flow.frames[path].traced, changes) for path, changes in wanted.items()}
            other = self.lift(flow, {path: traced for path, (traced, _) in made.items()})
            new = {path: _named(wanted[path], nodes, other.frames[path]) for path, (_, nodes) in made.items()}
            better = self.choose(other)
            merged = {
                path: [
                    one for one, values in zip(wanted[path], new[path], strict=True) if better.done.issuperset(values)
                ]
                for path in wanted
            }
            if merged == wanted:
                return other, better
            other.release()
            wanted = {path: changes for path, changes in merged.items() if changes}
        return flow, chosen

    def _wanted(self, frame: Frame, flow: Flow, chosen: Choice) -> list[Reordering]:
        if frame.picked or (frame.path == flow.path and flow.several):
            return []  # other ways through the same forward would be left as they are
        return [change for find in self.finders for change in find(frame, flow, chosen)]


def _named(changes: Sequence[Reordering], new: Sequence[list[fx.Node]], frame: Frame) -> list[list[Value]]:
    """The new values that each change was made for, with its rule among theirs."""
    found = [[frame.values[node] for node in nodes] for nodes in new]
    for change, values in zip(changes, found, strict=True):
        for value in values:
            if value.term is not None:
                value.term = value.term.by(frozenset([change.rule]))
    return found
