"""traced: a forward as a graph, or as several where it goes more than one way."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, fx

from reparamkit.errors import Refusal


@dataclass(frozen=True)
class Traced:
    """One module's forward as a graph.

    Attributes:
        graph: children are ``call_module`` nodes, parameters ``get_attr`` nodes.
        constants: tensors the forward computed from parameters, by the name of their ``get_attr`` node.
        fixed: parameters of the forward that were traced at their default value.
        reads_training: whether the forward looked at ``self.training``.
        reads: names of the parameters and buffers the forward itself looked at.
        ran: paths of children that were run on constants.
        stored: nodes whose values the forward leaves in an attribute.
        switches: the context that part of it runs under, `torch.no_grad` or the like.
        leaves: names of attributes that the forward sets to something else than a traced value.
        guarded: whether the forward raises for some inputs, which the graph does not show.
        looked: names of parameters of `reads` of which only the shape, the dtype or the device was asked for.
        follows: whether it asks any parameter or buffer for no more than that.
        past: storages of the model's tensors that the forward reads without asking its modules for them: it holds a
            module in a list, a closure, a global.
    """

    graph: fx.Graph
    constants: dict[str, Tensor]
    fixed: dict[str, Any]
    reads_training: bool
    reads: frozenset[str]
    ran: frozenset[str]
    stored: frozenset[fx.Node]
    switches: str
    leaves: frozenset[str] = frozenset()
    guarded: bool = False
    looked: frozenset[str] = frozenset()
    follows: bool = False
    past: frozenset[int] = frozenset()

    @property
    def graphs(self) -> tuple[Traced, ...]:
        """The one way there is; as `Forked.graphs`."""
        return (self,)

    @cached_property
    def placeholders(self) -> tuple[fx.Node, ...]:
        """The nodes of its parameters."""
        return tuple(n for n in self.graph.nodes if n.op == "placeholder")

    @cached_property
    def calls(self) -> tuple[fx.Node, ...]:
        """The nodes that call a child."""
        return tuple(n for n in self.graph.nodes if n.op == "call_module")

    @cached_property
    def called(self) -> tuple[str, ...]:
        """The children they call, by dotted name."""
        return tuple(str(n.target) for n in self.calls)


@dataclass(frozen=True)
class Forked:
    """A forward that goes more than one way, depending on what it is given.

    Attributes:
        main: its graph for a call that leaves the defaults alone, where that is one way.
        ways: the other ways (all of them, without a `main`).
        unknown: why there may be ways that were not seen.
        closed: whether every call of it was seen.
    """

    main: Traced | None
    ways: tuple[Traced, ...]
    unknown: Refusal | None = None
    closed: bool = False

    @property
    def graphs(self) -> tuple[Traced, ...]:
        """All ways that were seen."""
        return self.ways if self.main is None else (self.main, *self.ways)
