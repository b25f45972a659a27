"""What was decided about a flow: the regions, the edits that make them, and why there are no more."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from reparamkit.edits.edit import Rewrite
from reparamkit.edits.rewrite import frozen
from reparamkit.paths import joined, within

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from reparamkit.decide.candidate import Candidate
    from reparamkit.edits.edit import Edit
    from reparamkit.errors import Refusal
    from reparamkit.flow import Flow, Value


@dataclass(frozen=True)
class Choice:
    """The regions of one flow, the edits that make them, and what was refused on the way.

    Attributes:
        edits: in order of execution.
        refusals: why there are no more, by value.
        opens: whether more may merge once these edits are made.
    """

    edits: tuple[Edit, ...]
    refusals: dict[Value, Refusal]
    opens: bool = False

    @property
    def regions(self) -> list[Candidate]:
        """In order of execution."""
        return [edit.candidate for edit in self.edits]

    @cached_property
    def done(self) -> set[Value]:
        """Values that are in a region."""
        return {value for region in self.regions for value in region.values}

    @property
    def written_anew(self) -> frozenset[Value]:
        """What is no longer computed once the forwards are rewritten."""
        return frozenset(v for e in self.edits if isinstance(e, Rewrite) for v in e.candidate.values)

    @property
    def freezes(self) -> bool:
        """Whether a forward that is rewritten would still need a constant that was computed from parameters."""
        gone = self.written_anew
        return any(isinstance(e, Rewrite) and frozen(e.frame, gone) is not None for e in self.edits)


def opens_more(edits: Sequence[Edit], flow: Flow, homeless: Iterable[Candidate]) -> bool:
    """Whether more may merge in a flow once these edits are made.

    A part of a region that no edit can express leaves less of it: modules can be exchanged where steps cannot, and what
    was in the way may be gone. A forward that went several ways and is written anew may go one way only, or fail in
    fewer of them. A call whose result nobody reads goes with the forward that made it, and what it read has a reader
    less. A value that is handed to a forward that does not read it is still computed when its region is gone.

    Args:
        edits: what is made.
        flow: where.
        homeless: regions that no edit of the model as it is can express.
    """
    parts = [set(edit.candidate.values) for edit in edits]
    if flow.several and any(isinstance(edit, Rewrite) for edit in edits):
        return True
    if any(part < set(whole.values) for whole in homeless for part in parts):
        return True
    anew = [edit.candidate for edit in edits if isinstance(edit, Rewrite)]
    if any(_is_handed_on(value, flow) for region in anew for value in region.values if value is not region.target):
        return True
    return any(_is_unread(reader) for source in {region.source for region in anew} for reader in source.readers)


def _is_handed_on(value: Value, flow: Flow) -> bool:
    """Whether a child is called with the value, and nothing in it reads it; unless it returns the value itself."""
    results = flow.frames[value.path].values
    calls = [user for user in value.node.users if user.op == "call_module" and results.get(user) is not value]
    called = [joined(value.path, str(call.target)) for call in calls]
    return any(not any(within(user.module_path or user.path, [path]) for user in value.users) for path in called)


def _is_unread(value: Value) -> bool:
    return not (value.users or value.escapes or value.mutates)
