"""Names for merged submodules, and the forwards that call them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import fx, nn

from reparamkit.decide.spread import without_halves
from reparamkit.edits.edit import Rewrite
from reparamkit.edits.emit import Emitted, Merge, acting, emit, removed_by
from reparamkit.edits.splice import is_free, new_name
from reparamkit.errors import Refusal
from reparamkit.flow import Flow, Frame
from reparamkit.paths import modules_under, within
from reparamkit.planned import Planned
from reparamkit.recipe import Block


@dataclass
class Written:
    """Edits with their names, and the forwards that call them.

    Attributes:
        edits: in order of execution; those whose forward cannot be written are gone.
        rewrites: the new forward of each rewritten module, by path.
        refusals: why a forward cannot be written.
    """

    edits: list[Planned]
    rewrites: dict[str, Emitted] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    _known: dict[Any, Emitted | Refusal] = field(default_factory=dict, repr=False)

    def code(self, frame: Frame, merged: Sequence[Merge], flow: Flow) -> Emitted | Refusal:
        """Blocks that are alike were traced once; the code that merges the same nodes is written once."""
        ends = tuple((frame.node_of(m.source), frame.node_of(m.target), m.name) for m in merged)
        kept = acting(frame, merged, flow.values)
        key = (id(frame.traced), type(frame.module), ends, _held(frame, merged, kept), _outline(frame.module))
        if key not in self._known:
            self._known[key] = emit(frame, merged, kept)
        return self._known[key]


def _held(frame: Frame, merged: Sequence[Merge], kept: set[fx.Node]) -> tuple[Any, ...]:
    """Of each node, where its value was made and what becomes of it: a child may hand on what its like changes."""
    inside = {value for merge in merged for value in merge.inside}
    return tuple(
        (frame.node_of(value), value in inside, value.mutates, node in kept) for node, value in frame.values.items()
    )


def _outline(module: nn.Module) -> tuple[Any, ...]:
    """What there is below a module, looked at or not."""
    return tuple((path, len(m._parameters), len(m._buffers)) for path, m in modules_under(module))


def name_and_write(edits: Sequence[Planned], scopes: dict[str, Block]) -> Written:
    """Name the merged submodules and write the new forwards.

    Args:
        edits: all of a plan.
        scopes: which block of the recipe a module belongs to, by path.
    """
    written = Written(list(edits))
    groups: dict[str, list[Planned]] = {}
    for planned in edits:
        if isinstance(planned.edit, Rewrite):
            groups.setdefault(planned.edit.path, []).append(planned)
    named: dict[Planned, Planned | None] = {}
    for path, group in groups.items():
        names = _emit(written, path, group, scopes)
        if isinstance(names, Refusal):
            written.refusals.append(names.at(path))
            named |= dict.fromkeys(group)
        else:
            named |= {planned: replace(planned, name=name) for planned, name in zip(group, names, strict=True)}
    known = [named.get(planned) or planned for planned in edits]
    kept = [p for p, planned in zip(known, edits, strict=True) if named.get(planned, planned) is not None]
    gone = removed_by(written.rewrites)
    # What goes with a block needs no edit of its own: only layers whose result nobody reads are left to go like that.
    written.edits = without_halves(known, [p for p in kept if not within(p.edit.path, gone)])
    written.rewrites = {path: e for path, e in written.rewrites.items() if not within(path, gone)}
    return written


def _emit(written: Written, path: str, group: Sequence[Planned], scopes: dict[str, Block]) -> list[str] | Refusal:
    frame, flow = group[0].edit.frame, group[0].flow  # type: ignore[union-attr]
    block = scopes.get(path)
    wanted = block.into if block is not None and block.into else "reparam"
    gone: tuple[str, ...] = ()
    if not is_free(frame.module, wanted):
        # The name may belong to a branch that is about to go (UniRepLKNet merges into the large kernel itself).
        trial = written.code(frame, _merges(group, [f"_merged_{i}" for i in range(len(group))]), flow)
        if isinstance(trial, Refusal):
            return trial
        gone = trial.removed
    names: list[str] = []
    for _ in group:
        mine = wanted in gone and wanted not in names
        names.append(wanted if mine else new_name(frame.module, wanted, names))
    emitted = written.code(frame, _merges(group, names), flow)
    if isinstance(emitted, Refusal):
        return emitted
    written.rewrites[path] = emitted
    return names


def _merges(group: Sequence[Planned], names: Sequence[str]) -> list[Merge]:
    edits = [p.edit for p in group]
    return [
        Merge(edit.source, edit.target, name, frozenset(edit.candidate.values))
        for edit, name in zip(edits, names, strict=True)
        if isinstance(edit, Rewrite)
    ]
