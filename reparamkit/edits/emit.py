"""emit: the code of a forward in which regions are calls of merged modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import fx

from reparamkit.edits.imports import imports_of, named_tuples
from reparamkit.errors import CODES, Refusal
from reparamkit.paths import joined
from reparamkit.trace.parameters import extras_read

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from reparamkit.flow import Frame, Value


@dataclass(frozen=True)
class Emitted:
    """The rewritten forward of one module.

    Attributes:
        source: code that defines ``forward``.
        imports: what its global names are, as (module, attribute).
        removed: names below the module (children, parameters, buffers) that nothing reads any more.
    """

    source: str
    imports: dict[str, tuple[str, str]]
    removed: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Merge:
    """A region of a forward and the submodule that computes it.

    Attributes:
        source: where it starts.
        target: where it ends.
        name: of the submodule.
        inside: the values of the region.
    """

    source: Value
    target: Value
    name: str
    inside: frozenset[Value]


def emit(frame: Frame, merged: Sequence[Merge], kept: set[fx.Node]) -> Emitted | Refusal:
    """Write the forward of `frame` anew.

    Args:
        frame: the module's traced forward.
        merged: the regions, in order of execution.
        kept: nodes that stay, whoever reads them: `acting`.

    Returns:
        The code, or a `Refusal` when what is left of the forward cannot be written down.
    """
    graph = fx.Graph(tracer_cls=fx.Tracer)
    copied: dict[fx.Node, fx.Node] = {}
    output = graph.graph_copy(frame.traced.graph, copied)
    graph.output(output)
    used_before = _used(frame.traced.graph)
    copies = dict(copied)
    for merge in merged:
        _replace(graph, frame, merge, copied)
    _erase_dead(graph, {copies[n] for n in _erasable(frame, merged) - kept})
    changed = _still_changed(frame, merged, set(graph.nodes), copies)
    if changed is not None:
        return Refusal("RK309", f"{changed} is changed in place, and the rest of the forward keeps it", frame.path)
    return _written(frame, graph, used_before)


def emit_graph(frame: Frame, graph: fx.Graph, live: set[fx.Node]) -> Emitted | Refusal:
    """Write down an edited graph as the forward of `frame`.

    Args:
        frame: the module's traced forward.
        graph: an edited copy of its graph; what nobody reads any more is erased here.
        live: nodes of `graph` that were read before the edit, and so may go.

    Returns:
        The code, or a `Refusal` when it cannot be written down.
    """
    _erase_dead(graph, live)
    return _written(frame, graph, _used(frame.traced.graph))


def _written(frame: Frame, graph: fx.Graph, used_before: set[str]) -> Emitted | Refusal:
    used_after = _used(graph)
    frozen = used_after & frame.traced.constants.keys()
    if frozen:
        reason = f"{min(frozen)} is a constant computed from parameters; rewriting would freeze it"
        return Refusal("RK604", reason, frame.path)
    gone = _read_names(frame) | used_before
    removed = _whole_holders(frame, {n for n in gone if not _still(n, used_after)})
    code = graph.python_code("self")
    imports = imports_of({**named_tuples(graph.nodes), **code.globals})
    if isinstance(imports, Refusal):
        return imports
    return Emitted(_guarded(code.src, frame), imports, removed)


def removed_by(rewrites: Mapping[str, Emitted]) -> set[str]:
    """Paths of everything that goes with these rewrites."""
    return {joined(path, name) for path, emitted in rewrites.items() for name in emitted.removed}


def _erasable(frame: Frame, merged: Sequence[Merge]) -> set[fx.Node]:
    """Nodes that may go once nobody reads them.

    Not those that nobody ever read, unless they only hand on a value that is merged or ask for a shape.
    """
    found = {n for n in frame.traced.graph.nodes if n.users}
    found |= {n for merge in merged for n in frame.nodes_of(merge.target)}
    found |= {n for merge in merged for value in merge.inside for n in frame.nodes_of(value)[1:]}
    return found | {node for node, value in frame.values.items() if value.meta}


def acting(frame: Frame, merged: Sequence[Merge], values: Sequence[Value]) -> set[fx.Node]:
    """Nodes that do something besides giving a value: what they change in place stays changed, whoever reads them.

    A child that hands a value on and computes something beside it is one of them: that may raise.

    Args:
        frame: a traced forward.
        merged: its regions; what is in them is gone.
        values: all of the flow.
    """
    inside = {value for merge in merged for value in merge.inside}
    found = set()
    for node, value in frame.values.items():
        span = frame.calls.get(node)
        made = [value] if span is None else values[slice(*span)]
        left = [v for v in made if v not in inside and not v.meta and v.node.op != "placeholder"]
        handed_on = span is not None and value.index < span[0]
        if any(map(_shows, left)) or (handed_on and left):
            found.add(node)
    return found


def _shows(value: Value) -> bool:
    """Whether it changes something in place that somebody else reads."""
    return value.mutates and any(changed.unstable is not None for changed in value.inputs)


def _still_changed(
    frame: Frame, merged: Sequence[Merge], left: set[fx.Node], copies: dict[fx.Node, fx.Node]
) -> str | None:
    """An in-place operation of a region that is still there and would run beside what replaced it."""
    for merge in merged:
        for node, value in frame.values.items():
            if value in merge.inside and value.mutates and copies[node] in left:
                return value.where
    return None


def _replace(graph: fx.Graph, frame: Frame, merge: Merge, copied: dict[fx.Node, fx.Node]) -> None:
    source, target = frame.node_of(merge.source), frame.node_of(merge.target)
    assert source is not None
    assert target is not None
    with graph.inserting_before(copied[target]):
        call = graph.call_module(merge.name, (copied[source],))
    call.name = graph._graph_namespace.create_name(merge.name, call)
    # The same value may stand in the forward several times: modules that do nothing hand it on.
    for node in frame.nodes_of(merge.target):
        copied[node].replace_all_uses_with(call, delete_user_cb=lambda user: user is not call)
        copied[node] = call


def _erase_dead(graph: fx.Graph, live_before: set[fx.Node]) -> None:
    """Erase what only erased nodes read, and assertions about it; what was unused before stays."""
    for node in reversed(list(graph.nodes)):
        if node.users or node.op in ("placeholder", "output"):
            continue
        if node in live_before or node.op == "get_attr" or _is_assertion(node):
            graph.erase_node(node)


def _is_assertion(node: fx.Node) -> bool:
    return node.op == "call_function" and getattr(node.target, "__name__", "") in ("_assert", "__assert__")


def _used(graph: fx.Graph) -> set[str]:
    return {str(n.target) for n in graph.nodes if n.op in ("call_module", "get_attr")}


def _read_names(frame: Frame) -> set[str]:
    """Parameters the forward looked at, and the modules that hold them when they are not the module's own."""
    return {name if "." not in name else name.rpartition(".")[0] for name in frame.traced.reads}


def _whole_holders(frame: Frame, names: set[str]) -> tuple[str, ...]:
    """Children that all go take the list that holds them along."""
    for holder in sorted({n.rpartition(".")[0] for n in names} - {""}, key=len, reverse=True):
        module = frame.module.get_submodule(holder)
        inside = {f"{holder}.{child}" for child in module._modules}
        if inside <= names and not module._parameters and not module._buffers:
            names = (names - inside) | {holder}
    return tuple(sorted(names))


def _still(name: str, used: set[str]) -> bool:
    return any(u == name or u.startswith(f"{name}.") or name.startswith(f"{u}.") for u in used)


def _guarded(source: str, frame: Frame) -> str:
    """The code, refusing to run for arguments or a mode that the forward was not traced for."""
    lines = source.strip("\n").split("\n")
    at = next(i for i, line in enumerate(lines) if line.startswith("def forward("))
    guards = []
    for name, default in frame.traced.fixed.items():
        compare = (
            f"{name} is not {default!r}" if default is None or isinstance(default, bool) else f"{name} != {default!r}"
        )
        guards.append((compare, f"{name} was {default!r} when it was merged"))
    guards += [(name, f"it was merged without *{name}") for name in extras_read(frame.module)]
    if frame.traced.reads_training:
        guards.append(("self.training", "its training form is gone; keep the model you converted"))
    body = []
    for condition, why in guards:
        text = f"RK103 {CODES['RK103']}: {type(frame.module).__name__}: {why}"
        body += [f"    if {condition}:", f"        raise RuntimeError({text!r})"]
    return "\n".join([*lines[: at + 1], *body, *lines[at + 1 :]]) + "\n"
