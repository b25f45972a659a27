"""edit: what may be done to a model: modules exchanged, or one forward written anew."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reparamkit.operators import Conv, ConvTranspose

if TYPE_CHECKING:
    from reparamkit.decide.candidate import Candidate
    from reparamkit.flow import Frame, Value


@dataclass(frozen=True, eq=False)
class Swap:
    """A chain of modules: one takes the merged operator, the others step aside. No forward changes.

    Attributes:
        candidate: the region.
        anchor: path of the module that takes the operator.
        aside: paths of the modules that become identities.
        remainders: paths of modules of which only the non-affine rest stays, with the names of the children it
            consists of (for a `Split` its rule says what the rest is).
        keeps_forward: the anchor is a module of the user's that goes on calling the layer itself.
    """

    candidate: Candidate
    anchor: str
    aside: tuple[str, ...] = ()
    remainders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    keeps_forward: bool = False

    @property
    def path(self) -> str:
        """Where the merged operator is."""
        return self.anchor

    @property
    def held(self) -> tuple[Value, Value]:
        """What the merged operator reads and what it stands for, where axes are rearranged around it."""
        layers = [v for v in self.candidate.values if v.term and isinstance(v.term.op, (Conv, ConvTranspose))]
        holder = layers[0] if self.candidate.front is None else layers[-1]
        assert holder.source is not None
        return holder.source, holder

    @property
    def touched(self) -> tuple[str, ...]:
        """Paths of all modules that change."""
        return (self.anchor, *self.aside, *self.remainders)


@dataclass(frozen=True, eq=False)
class Rewrite:
    """A module whose own forward calls one merged submodule in place of a region.

    Attributes:
        candidate: the region.
        frame: the module's forward.
        source: what the merged submodule reads: where the region starts, or where it enters the module, when what
            is in front is a chain of modules that step aside.
        target: what it stands for: the end of the region, or where the region leaves the module, likewise.
        aside: paths of the modules that step aside.
    """

    candidate: Candidate
    frame: Frame
    source: Value
    target: Value
    aside: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The module that is rewritten."""
        return self.frame.path

    @property
    def held(self) -> tuple[Value, Value]:
        """What the merged operator reads and what it stands for; as `Swap.held`."""
        return self.source, self.target

    @property
    def touched(self) -> tuple[str, ...]:
        """Paths of all modules that change."""
        return (self.frame.path, *self.aside)


Edit = Swap | Rewrite
