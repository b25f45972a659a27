"""planned: what a plan is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reparamkit.edits.edit import Edit
    from reparamkit.flow import Flow


@dataclass(frozen=True)
class Planned:
    """One edit that will be made.

    Attributes:
        edit: swap or rewrite.
        flow: the region's flow.
        name: of the merged submodule, for a rewrite.
    """

    edit: Edit
    flow: Flow
    name: str = ""


@dataclass(frozen=True)
class Pending:
    """A transform that runs when the merges are made: only then does it know what it can do.

    Attributes:
        rule: its id.
        blocks: paths of the modules in its scope, as the model is before the merges.
    """

    rule: str
    blocks: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.rule} on {len(self.blocks)} modules"
