"""steps: what finished edits amount to, in terms of modules and paths. `splice` carries them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from reparamkit.edits.edit import Edit, Swap
from reparamkit.edits.emit import removed_by
from reparamkit.edits.rewritten import would_fold_again
from reparamkit.edits.splice import Steps
from reparamkit.errors import VerificationError
from reparamkit.lower import neutral
from reparamkit.paths import below, holders
from reparamkit.plan import Plan
from reparamkit.planned import Planned
from reparamkit.prove.merge import Proven
from reparamkit.rules.conv import geometry_of
from reparamkit.standin import settled


def steps_of(made: Plan, proven: Mapping[Planned, Proven]) -> Steps:
    """The steps for these replacements.

    Raises:
        VerificationError: RK901 when two of them would change the same module: each was proven without the other.
    """
    _each_on_its_own([planned.edit for planned in proven])
    steps = Steps()
    for planned, found in proven.items():
        edit = planned.edit
        if isinstance(edit, Swap):
            holder = made.survey.modules[edit.anchor]
            kept = edit.keeps_forward or (_same_geometry(holder, found.module) and not made.survey.is_shared(holder))
            (steps.weights if kept else steps.modules)[edit.anchor] = settled(holder, found.module)
            makers = _remainder_makers(edit)
            steps.remainders.update({path: makers.get(path, names) for path, names in edit.remainders.items()})
        else:
            emitted = made.rewrites[edit.path]
            steps.rewrites.setdefault(edit.path, (emitted, {}))[1][planned.name] = found.module
        steps.aside.update({path: neutral(made.survey.modules[path]) for path in edit.aside})
    removed = removed_by({path: emitted for path, (emitted, _) in steps.rewrites.items()})
    inside = [p for p in steps.aside if p in removed or any(below(p, gone) for gone in (*removed, *steps.aside))]
    aside = {p: m for p, m in steps.aside.items() if p not in inside}
    steps = replace(steps, aside=aside)
    return replace(steps, quiet=_quiet(made, steps), also=_other_paths(made, steps))


def _other_paths(made: Plan, steps: Steps) -> dict[str, tuple[str, ...]]:
    """Under which other names the exchanged modules are held; one that is shared is exchanged under one of them."""
    survey = made.survey
    exchanged = (*steps.modules, *steps.aside, *steps.remainders)
    return {path: survey.other_names(path) for path in exchanged if not survey.is_shared(survey.modules[path])}


def _each_on_its_own(edits: Sequence[Edit]) -> None:
    swaps = [edit for edit in edits if isinstance(edit, Swap)]
    aside = {path for swap in swaps for path in swap.aside}
    taken: set[str] = set()
    for anchor in (swap.anchor for swap in swaps):
        if anchor in taken or anchor in aside:
            raise VerificationError("RK901", f"{anchor}: two merges would change it")
        taken.add(anchor)


def _remainder_makers(edit: Swap) -> dict[str | None, Callable[[], nn.Module]]:
    """What makes the rest of the modules of which only a part has moved, by path."""
    values = edit.candidate.values
    tails = {v.module_path: v.tail.head for v in values if v.tail is not None and v.tail.head is not None}
    return tails | {v.module_path: v.split.remainder for v in values if v.split is not None}


def _quiet(made: Plan, steps: Steps) -> tuple[str, ...]:
    """Modules around exchanged ones whose own converter would fold once more; the root keeps its class."""
    exchanged = (*steps.weights, *steps.modules, *steps.aside, *steps.remainders)
    around = {holder for path in exchanged for holder in holders(path)}
    gone = {*steps.modules, *steps.aside, *steps.remainders, *steps.rewrites}
    return tuple(sorted(p for p in around - gone if would_fold_again(made.survey.modules[p].__class__)))


def _same_geometry(old: nn.Module, new: nn.Module) -> bool:
    """Whether the old module can simply take the new weights."""
    if not isinstance(old, type(new)) or hasattr(old, "parametrizations"):
        return False
    return _geometry(old) == _geometry(new)


def _geometry(module: Any) -> tuple[Any, ...]:
    """All that a forward of torch's takes besides the numbers."""
    shape = module.weight.shape
    if isinstance(module, _CONVS):
        stride, pads, dilation = geometry_of(module)
        mode = module.padding_mode if any(map(any, pads)) else "zeros"
        return shape, stride, pads, dilation, module.groups, mode
    names = ("stride", "padding", "output_padding", "dilation", "groups")
    return shape, *(getattr(module, name, None) for name in names)


_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
