"""report: what was merged and why it is right, what was not and why not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from reparamkit.errors import ModelError, Refusal
from reparamkit.operators import Conv
from reparamkit.paths import joined

if TYPE_CHECKING:
    from reparamkit.flow import Value
    from reparamkit.plan import Plan, Planned
    from reparamkit.recipe import Recipe
    from reparamkit.verify import Comparison, Proven


@dataclass(frozen=True)
class Step:
    """One operation of a region, for drawings.

    Attributes:
        label: what it is.
        inputs: places of the steps it reads; -1 is the input of the region.
    """

    label: str
    inputs: tuple[int, ...]


@dataclass(frozen=True)
class Merged:
    """One merge.

    Attributes:
        path: the module that holds the result.
        kind: "swap" (modules exchanged), "rewrite" (the module's forward calls `path`) or "transform" (the module at
            `path` was written anew by a rule that is not linear algebra).
        rules: ids of the rules used.
        before: what was there.
        after: what is there now.
        params_before: numbers stored in what was there.
        params_after: numbers stored now.
        macs_before: multiply-accumulates per position of the region's input; 0 for a transform, which does not say.
        macs_after: likewise, now.
        error: largest relative deviation in float64; `None` in a plan, or when verification is off.
        graph: what was there, operation by operation.
    """

    path: str
    kind: str
    rules: tuple[str, ...]
    before: str
    after: str
    params_before: int
    params_after: int
    macs_before: float
    macs_after: float
    error: float | None = None
    graph: tuple[Step, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, object]:
        """Plain data, without the drawing."""
        return {key: value for key, value in asdict(self).items() if key != "graph"}


@dataclass(frozen=True)
class Report:
    """What a conversion did.

    Attributes:
        recipe: name of the recipe.
        policy: name of the policy.
        merged: every merge, in order of execution.
        refused: every value that could not be merged.
        untraceable: modules whose forward could not be traced (their children were converted one by one).
        whole_model: comparison of the whole model, when example inputs were given.
        key_map: key of the original's state dict -> keys of the converted one's that depend on it; one that was
            not merged maps to itself, one that plays no part any more to nothing.
        spec: the recipe, complete, with the policy that was used.
        example: shapes and dtypes of the example inputs, as plain data (`reparamkit.example_form`), if there were any.
    """

    recipe: str
    policy: str
    merged: tuple[Merged, ...]
    refused: tuple[Refusal, ...]
    untraceable: tuple[Refusal, ...] = ()
    whole_model: Comparison | None = None
    plugins: tuple[str, ...] = field(default=())
    key_map: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False, hash=False)
    spec: Recipe | None = field(default=None, repr=False)
    example: Any = field(default=None, repr=False, hash=False)
    _undo: list[Callable[[], None]] = field(default_factory=list, repr=False, compare=False)

    def undo(self) -> None:
        """Take the conversion back: the converted model is, module for module, what it was before.

        For ``apply(..., inplace=True, keep_original=True)``; with a copy, the copy becomes a copy of the original.

        Raises:
            ModelError: RK111 when the original was not kept, or it was taken back already.
        """
        if not self._undo:
            raise ModelError("RK111", "call apply(..., keep_original=True), and undo once")
        while self._undo:
            self._undo.pop()()

    @property
    def max_error(self) -> float | None:
        """Largest relative error of any merge in float64."""
        errors = [m.error for m in self.merged if m.error is not None]
        return max(errors) if errors else None

    def to_dict(self) -> dict[str, object]:
        """The report as plain data."""
        return {
            "recipe": self.recipe,
            "policy": self.policy,
            "merged": [m.to_dict() for m in self.merged],
            "refused": [asdict(r) for r in self.refused],
            "untraceable": [asdict(r) for r in self.untraceable],
            "whole_model": None if self.whole_model is None else asdict(self.whole_model),
            "max_error": self.max_error,
            "key_map": {old: list(new) for old, new in self.key_map.items()},
        }

    def to_json(self, indent: int | None = 2) -> str:
        """The report as JSON."""
        return json.dumps(self.to_dict(), indent=indent)

    def to_html(self, model: nn.Module, converted: nn.Module, **options: Any) -> str:
        """The report as one HTML page; see `reparamkit.html.render` for the options and errors."""
        from reparamkit.html import render

        return render(self, model, converted, **options)

    def __str__(self) -> str:
        params = sum(m.params_after - m.params_before for m in self.merged)
        lines = [f"{self.recipe} (policy {self.policy}): {len(self.merged)} merges, parameters {params:+,d}"]
        if self.max_error is not None:
            lines[0] += f", largest error {self.max_error:.1e} (float64, relative)"
        lines += [f"  {m.path}: {m.before} -> {m.after}{_error(m)}" for m in self.merged]
        if self.refused:
            counts = Counter(r.code for r in self.refused)
            lines.append("not merged: " + ", ".join(f"{n} x {code}" for code, n in sorted(counts.items())))
            lines += [f"  {refusal}" for refusal in self.refused]
        if self.untraceable:
            lines.append("not traced (what is inside was converted piece by piece):")
            lines += [f"  {refusal}" for refusal in self.untraceable]
        if self.whole_model is not None:
            lines.append(f"whole model: {self.whole_model}")
        return "\n".join(lines)


def _error(merged: Merged) -> str:
    return "" if merged.error is None else f"  [{merged.error:.1e}]"


def report_of(
    plan: Plan, proven: Mapping[Planned, Proven], comparison: Comparison | None = None, extra: tuple[Refusal, ...] = ()
) -> Report:
    """The report of a plan, with the errors of what has been proven."""
    merged = []
    for planned in plan.edits:
        found = proven.get(planned)
        if found is None and proven:
            continue
        merged.append(_merged(planned, None if found is None else found.error))
    refusals = [*plan.refusals, *extra]
    return Report(
        plan.recipe.name,
        plan.policy.name,
        tuple(merged),
        tuple(r for r in refusals if r.code != "RK604"),
        tuple(r for r in refusals if r.code == "RK604"),
        comparison,
        spec=plan.recipe.model_copy(update={"policy": plan.policy.name}),
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
    if not isinstance(op, Conv):
        return type(op).__name__
    if op.nd == 0:
        return f"Linear({op.in_channels}, {op.out_channels})"
    groups = f", groups {op.groups}" if op.groups > 1 else ""
    kernel = "x".join(map(str, op.kernel_size))
    return f"Conv{op.nd}d({op.in_channels}, {op.out_channels}, {kernel}{groups})"
