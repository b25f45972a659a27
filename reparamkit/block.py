"""block: what a transform is given of one module: its graph, what its children begin with, what is known of values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx, nn

from reparamkit.edits.splice import new_name
from reparamkit.errors import Refusal
from reparamkit.paths import below, joined, module_at
from reparamkit.survey import hooked
from reparamkit.trace.traced import Traced

if TYPE_CHECKING:
    from reparamkit.flow import Frame
    from reparamkit.ranges import Ranges
    from reparamkit.survey import Survey


@dataclass(frozen=True)
class Seen:
    """What a module was called with and returned in one run of the model; tensors stand for themselves by shape.

    Attributes:
        args: positional arguments, each tensor as a `Shape`.
        kwargs: keyword arguments, likewise.
        output: what it returned, likewise.
    """

    args: Any
    kwargs: Any
    output: Any


@dataclass(frozen=True)
class Shape:
    """A tensor that was seen: its size, and the tensor itself where it holds no floating-point numbers."""

    size: tuple[int, ...]
    kept: Tensor | None = None


class Block:
    """One module whose forward was traced, after all merges.

    Attributes:
        path: of the module in the model.
        module: the module; it must not be changed.
        graph: a copy of its forward's graph, which may be edited. Children are ``call_module`` nodes.
    """

    def __init__(
        self, frame: Frame, survey: Survey, ranges: Ranges, seen: Mapping[str, Seen | None] | None = None
    ) -> None:
        self.path = frame.path
        self.module = frame.module
        self.graph = fx.Graph(tracer_cls=fx.Tracer)
        copied: dict[fx.Node, fx.Node] = {}
        self.graph.output(self.graph.graph_copy(frame.traced.graph, copied))
        self.live = {copied[node] for node in frame.traced.graph.nodes if node.users and node in copied}
        self._values = {copied[node]: value for node, value in frame.values.items()}
        self._survey, self._ranges, self._seen = survey, ranges, seen or {}
        self._names: list[str] = []

    def name(self, wanted: str) -> str:
        """`wanted`, or a name like it that means nothing to the module yet."""
        self._names.append(new_name(self.module, wanted, self._names))
        return self._names[-1]

    def get(self, name: str) -> nn.Module:
        """The module with this dotted name below the block."""
        return self.module.get_submodule(name)

    def child(self, name: str) -> fx.Graph | None:
        """The graph of a child's forward (not a copy), or `None` when it stays whole or was not traced."""
        traced = self._survey.traced.get(id(self.get(name)))
        return traced.graph if isinstance(traced, Traced) and not traced.guarded else None

    def free(self, name: str) -> Refusal | None:
        """Why the module of this name may not be exchanged: shared, called twice, observed, read by other code."""
        path, module = joined(self.path, name), self.get(name)
        refusal = self._survey.boundary(path)
        if refusal is not None:
            return refusal
        if self._survey.names[id(module)] > 1:
            return Refusal("RK301", "it would stay under its other names", path)
        if hasattr(module, "parametrizations"):
            return Refusal("RK308", f"{type(module).__name__} computes its weight before every call", path)
        for inner in module.modules():
            readers = self._survey.touched.get(id(inner), set()) - {self.path, path}
            readers = {reader for reader in readers if not below(reader, path)}
            if readers:
                return Refusal("RK301", f"the forward of {min(readers) or '(root)'} reads its tensors", path)
            inside = hooked(inner, path)
            if inside is not None or self._survey.names[id(inner)] > 1:
                return inside or Refusal("RK301", "a module inside it has several names", path)
        return None

    def nonnegative(self, node: fx.Node) -> bool:
        """Whether the forwards of the model prove that no element of this node's tensor is ever below zero."""
        value = self._values.get(node)
        return value is not None and self._ranges.nonnegative(value)

    def unstable(self, node: fx.Node) -> Refusal | None:
        """Why the numbers of this node may change while it exists (an in-place operation), if they may."""
        value = self._values.get(node)
        return Refusal("RK309", "it has no value of its own", node.name) if value is None else value.unstable

    def input_size(self, name: str) -> tuple[int, ...] | None:
        """Size of the (only) input of a module below the block, where an example was run and every call had that."""
        seen = self._seen.get(joined(self.path, name))
        if seen is None or seen.kwargs or len(seen.args) != 1 or not isinstance(seen.args[0], Shape):
            return None
        return seen.args[0].size

    def output_size(self, name: str) -> tuple[int, ...] | None:
        """Size of what a module below the block returned, likewise."""
        seen = self._seen.get(joined(self.path, name))
        return seen.output.size if seen is not None and isinstance(seen.output, Shape) else None

    def exists(self, name: str) -> bool:
        """Whether there is a module of this dotted name below the block."""
        return module_at(self.module, name) is not None
