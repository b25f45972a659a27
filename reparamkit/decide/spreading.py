"""spreading: what is changed in a flow so that neighbours take their shares of a value, and changed back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reparamkit.flow import Share, Value
from reparamkit.lift.link import link
from reparamkit.rules.spread import RULE

if TYPE_CHECKING:
    from collections.abc import Container

    from reparamkit.flow import Flow
    from reparamkit.term import Term


@dataclass(eq=False)
class Spread:
    """A norm that was given to its neighbours.

    Attributes:
        norm: the value it was.
        done: values that are in a region without it.
        shares: what its neighbours got.
    """

    norm: Value
    done: Container[Value] = ()
    shares: list[Value] = field(default_factory=list)
    _before: list[tuple[Value, str, Any]] = field(default_factory=list)

    def change(self, value: Value, **attributes: Any) -> None:
        """Change a value of the flow, so that it can be changed back."""
        for name, new in attributes.items():
            self._before.append((value, name, getattr(value, name)))
            setattr(value, name, new)

    def share(self, value: Value, source: Value, share: Share, term: Term, index: int) -> Value:
        """A share of `value`, reading `source`, at `index` in the order of execution."""
        made = Value(value.path, value.node, index, [source], value.module_path, value.module, rank=value.rank)
        made.tail, made.share, made.under = value.tail, share, value.under
        link(made, source, term.by(frozenset([RULE])))
        self.shares.append(made)
        return made

    def apart(self, total: Value) -> bool:
        """Whether a sum, or a concatenation, is made of values that stay apart."""
        return total.term is None or total not in self.done

    def read_instead(self, reader: Value, value: Value, other: Value) -> None:
        """Let `reader` read `other` where it reads `value`."""

        def read(one: Value) -> Value:
            return other if one is value else one

        if reader.source is value:
            self.change(reader, source=other)
        self.change(reader, inputs=[read(one) for one in reader.inputs])
        if value in reader.parts:
            terms = tuple((factor, read(one)) for factor, one in reader.terms)
            self.change(reader, terms=terms, stacks=tuple(map(read, reader.stacks)))

    def missing(self, done: Container[Value]) -> Value | None:
        """A share that is in no region."""
        return next((s for s in self.shares if not (s.gone or s.stays or s in done)), None)

    def undo(self, flow: Flow) -> None:
        """Change the flow back."""
        for value, name, old in reversed(self._before):
            setattr(value, name, old)
        flow.shares = [share for share in flow.shares if share not in set(self.shares)]
