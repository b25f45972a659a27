"""Names for merged submodules, and the forwards that call them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from reparamkit.emit import Emitted, Merge, emit, removed_by
from reparamkit.errors import Refusal
from reparamkit.flow import Frame
from reparamkit.host import Rewrite
from reparamkit.paths import within
from reparamkit.recipe import Block
from reparamkit.splice import is_free, new_name

if TYPE_CHECKING:
    from reparamkit.plan import Plan, Planned


def name_and_write(plan: Plan, scopes: dict[str, Block]) -> None:
    """Name the merged submodules and write the new forwards; a forward that cannot be written gives its edits up."""
    groups: dict[str, list[Planned]] = {}
    for planned in plan.edits:
        if isinstance(planned.edit, Rewrite):
            groups.setdefault(planned.edit.path, []).append(planned)
    named: dict[Planned, Planned | None] = {}
    for path, group in groups.items():
        names = _emit(plan, path, group, scopes)
        if isinstance(names, Refusal):
            plan.refusals.append(names.at(path))
            named |= dict.fromkeys(group)
        else:
            named |= {planned: replace(planned, name=name) for planned, name in zip(group, names, strict=True)}
    edits = [named.get(planned, planned) for planned in plan.edits]
    plan.edits = [planned for planned in edits if planned is not None]
    gone = removed_by(plan.rewrites)
    # What goes with a block needs no edit of its own: only layers whose result nobody reads are left to go like that.
    plan.edits = [p for p in plan.edits if not within(p.edit.path, gone)]
    plan.rewrites = {path: e for path, e in plan.rewrites.items() if not within(path, gone)}


def _remembered(plan: Plan, frame: Frame, merged: Sequence[Merge]) -> Emitted | Refusal:
    """Blocks that are alike were traced once; the code that merges the same nodes is written once."""
    ends = [(frame.node_of(m.source), frame.node_of(m.target), m.name) for m in merged]
    key = (id(frame.traced), type(frame.module), tuple(ends))
    if key not in plan.written:
        plan.written[key] = emit(frame, merged)
    return plan.written[key]


def _emit(plan: Plan, path: str, group: Sequence[Planned], scopes: dict[str, Block]) -> list[str] | Refusal:
    frame = group[0].edit.frame  # type: ignore[union-attr]
    block = scopes.get(path)
    wanted = block.into if block is not None and block.into else "reparam"
    gone: tuple[str, ...] = ()
    if not is_free(frame.module, wanted):
        # The name may belong to a branch that is about to go (UniRepLKNet merges into the large kernel itself).
        trial = _remembered(plan, frame, _merges(group, [f"_merged_{i}" for i in range(len(group))]))
        if isinstance(trial, Refusal):
            return trial
        gone = trial.removed
    names: list[str] = []
    for _ in group:
        mine = wanted in gone and wanted not in names
        names.append(wanted if mine else new_name(frame.module, wanted, names))
    emitted = _remembered(plan, frame, _merges(group, names))
    if isinstance(emitted, Refusal):
        return emitted
    plan.rewrites[path] = emitted
    return names


def _merges(group: Sequence[Planned], names: Sequence[str]) -> list[Merge]:
    edits = [p.edit for p in group]
    return [
        Merge(edit.source, edit.target, name, frozenset(edit.candidate.values))
        for edit, name in zip(edits, names, strict=True)
        if isinstance(edit, Rewrite)
    ]
