"""A forward with some of its steps in another order, computing the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from torch import fx

from reparamkit.trace.traced import Traced


class Reordering(Protocol):
    """One change of the order."""

    @property
    def rule(self) -> str:
        """Id of the rule it follows."""

    def write(self, graph: fx.Graph, copied: dict[fx.Node, fx.Node]) -> list[fx.Node]:
        """Make the change, and say which new nodes it is made for.

        Args:
            graph: a copy of the forward's graph; changed.
            copied: its nodes, by those of the forward; kept up to date.
        """

    def widened(self, traced: Traced) -> Traced:
        """What else is to be known of the forward then."""


def reordered(traced: Traced, wanted: Sequence[Reordering]) -> tuple[Traced, list[list[fx.Node]]]:
    """The forward with these changes, and the new nodes that each is made for. `traced` stays as it is."""
    graph = fx.Graph(tracer_cls=fx.Tracer)
    copied: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(traced.graph, copied))
    made = [one.write(graph, copied) for one in wanted]
    for one in wanted:
        traced = one.widened(traced)
    return replace(traced, graph=graph, stored=frozenset(copied[n] for n in traced.stored)), made
