"""summary: the merges of a plan, in words and as a drawing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from reparamkit.operators import Conv, ConvTranspose
from reparamkit.paths import joined
from reparamkit.report import Report
from reparamkit.report.merged import Merged, Step
from reparamkit.rules.probe import Measured

if TYPE_CHECKING:
    from reparamkit.errors import Refusal
    from reparamkit.flow import Value
    from reparamkit.planned import Planned
    from reparamkit.prove.merge import Proven
    from reparamkit.recipe import Recipe
    from reparamkit.verify import Comparison


def report_of(
    recipe: Recipe,
    policy: str,
    edits: Mapping[Planned, Proven | None],
    refusals: Sequence[Refusal],
    comparison: Comparison | None = None,
) -> Report:
    """What was merged, or would be.

    Args:
        recipe: of the conversion.
        policy: name of the one that was used.
        edits: in order, each with what was proven of it, if that was done already.
        refusals: what was not merged.
        comparison: of the whole model.
    """
    return Report(
        recipe.name,
        policy,
        tuple(_merged(planned, None if found is None else found.error) for planned, found in edits.items()),
        tuple(r for r in refusals if r.code != "RK604"),
        tuple(r for r in refusals if r.code == "RK604"),
        comparison,
        spec=recipe.model_copy(update={"policy": policy}),
    )


def _merged(planned: Planned, error: float | None) -> Merged:
    candidate = planned.edit.candidate
    path = planned.edit.path
    if planned.name:
        path = joined(path, planned.name)
    return Merged(
        path,
        "rewrite" if planned.name else "swap",
        tuple(sorted(candidate.term.rules)),
        " + ".join(_counted([_described(v) for v in candidate.values])),
        described(candidate.term.op),
        int(candidate.before.params),
        int(candidate.after.params),
        candidate.before.macs,
        candidate.after.macs,
        error,
        _graph(candidate.source, candidate.values),
    )


def _graph(source: Value, values: Sequence[Value]) -> tuple[Step, ...]:
    """The region without what does nothing, sums of sums as one."""
    steps: list[Step] = []
    places: dict[int, tuple[int, ...]] = {id(source): (-1,)}
    for value in values:
        label = _described(value)
        inputs = tuple(place for read in value.inputs for place in places.get(id(read), ()))
        if not label or (label == "add" and len(inputs) < 2):
            places[id(value)] = inputs[:1] or (-1,)
            continue
        steps.append(Step(label, inputs or (-1,)))
        places[id(value)] = (len(steps) - 1,)
    return _flat(steps)


def _flat(steps: list[Step]) -> tuple[Step, ...]:
    """A sum that only another sum reads becomes part of it."""
    readers = Counter(place for step in steps for place in step.inputs)
    into = {
        place
        for step in steps
        if step.label == "add"
        for place in step.inputs
        if place >= 0 and steps[place].label == "add" and readers[place] == 1
    }

    def spread(place: int) -> tuple[int, ...]:
        return tuple(p for read in steps[place].inputs for p in spread(read)) if place in into else (place,)

    left = [place for place in range(len(steps)) if place not in into]
    new = {-1: -1, **{place: at for at, place in enumerate(left)}}
    return tuple(
        Step(steps[place].label, tuple(new[p] for read in steps[place].inputs for p in spread(read))) for place in left
    )


def _counted(names: list[str]) -> list[str]:
    counts = Counter(n for n in names if n)
    return [name if n == 1 else f"{n} {name}" for name, n in counts.items()]


def _described(value: Value) -> str:
    measured = next((a for a in value.node.args if isinstance(a, Measured)), None)
    if measured is not None:
        return str(measured)
    if value.module is not None:
        return _module(value.module)
    if value.parts:
        return "add" if value.terms else "cat"
    target = value.node.target
    return target if isinstance(target, str) else str(getattr(target, "__name__", target))


def _module(module: nn.Module) -> str:
    name = type(module).__name__
    kernel = getattr(module, "kernel_size", None)
    if isinstance(kernel, tuple):
        return f"{name} {'x'.join(map(str, kernel))}"
    return "" if name in ("Identity", "Dropout") else name


def described(op: Any) -> str:
    """An operator in a few words."""
    if not isinstance(op, (Conv, ConvTranspose)):
        return type(op).__name__
    if op.nd == 0:
        return f"Linear({op.in_channels}, {op.out_channels})"
    groups = f", groups {op.groups}" if op.groups > 1 else ""
    kernel = "x".join(map(str, op.weight.shape[2:]))
    return f"{type(op).__name__}{op.nd}d({op.in_channels}, {op.out_channels}, {kernel}{groups})"
