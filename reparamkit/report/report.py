"""report: what was merged and why it is right, what was not and why not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from reparamkit.errors import ModelError, Refusal
from reparamkit.report.merged import Merged
from reparamkit.rules import probe

if TYPE_CHECKING:
    from reparamkit.recipe import Recipe
    from reparamkit.timing.timed import Timings
    from reparamkit.verify import Comparison


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
        notes: what is exact, and odd: broken ties, dropped gradients, very large factors, mixed dtypes.
        key_map: key of the original's state dict -> keys of the converted one's that depend on it; one that was
            not merged maps to itself, one that plays no part any more to nothing.
        spec: the recipe, complete, with the policy that was used.
        timed: what was timed to decide, where the policy wants that.
        example: shapes and dtypes of the example inputs, as plain data (`reparamkit.example_form`), if there were any.
    """

    recipe: str
    policy: str
    merged: tuple[Merged, ...]
    refused: tuple[Refusal, ...]
    untraceable: tuple[Refusal, ...] = ()
    whole_model: Comparison | None = None
    plugins: tuple[str, ...] = field(default=())
    notes: tuple[str, ...] = ()
    key_map: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False, hash=False)
    spec: Recipe | None = field(default=None, repr=False)
    timed: Timings | None = None
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
            "timed": None if self.timed is None else self.timed.to_dict(),
            "notes": list(self.notes),
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
        if self.timed is not None:
            lines.append(str(self.timed))
        if self.notes:
            lines += ["notes:", *(f"  {note}" for note in self.notes)]
        if self.whole_model is not None:
            lines.append(f"whole model: {self.whole_model}")
        return "\n".join(lines)


def _error(merged: Merged) -> str:
    how = " by measurement only" if probe.RULE in merged.rules else ""
    return "" if merged.error is None else f"  [{merged.error:.1e}{how}]"
