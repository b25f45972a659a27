"""What was decided about a flow: the regions, the edits that make them, and why there are no more."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from reparamkit.edits.edit import Rewrite
from reparamkit.edits.rewrite import frozen

if TYPE_CHECKING:
    from reparamkit.decide import Candidate
    from reparamkit.edits.edit import Edit
    from reparamkit.errors import Refusal
    from reparamkit.flow import Value


@dataclass(frozen=True)
class Choice:
    """The regions of one flow, the edits that make them, and what was refused on the way.

    Attributes:
        edits: in order of execution.
        refusals: why there are no more, by value.
        opens: whether a norm that stays is read by what is written anew, so that it may go into that afterwards.
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
