"""report: what `expand` did to each layer, and what it left alone and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from reparamkit.errors import Refusal


@dataclass(frozen=True)
class ExpandedLayer:
    """One layer that has branches now.

    Attributes:
        path: of the layer in the model.
        layer: what it was.
        branches: names of its branches.
        left_out: branches of the recipe that have no place beside this layer.
        before: numbers that it trained.
        after: numbers that its branches train.
    """

    path: str
    layer: str
    branches: tuple[str, ...]
    left_out: tuple[Refusal, ...]
    before: int
    after: int

    def __str__(self) -> str:
        return f"{self.path or '(root)'}: {self.layer} -> {' + '.join(self.branches)}"


@dataclass(frozen=True)
class Expansion:
    """What `expand` did.

    Attributes:
        recipe: its name.
        layers: that have branches now, in the model's order.
        refused: layers that the recipe means and that were left as they are.
    """

    recipe: str
    layers: tuple[ExpandedLayer, ...]
    refused: tuple[Refusal, ...]

    def __str__(self) -> str:
        grown = sum(one.after for one in self.layers) - sum(one.before for one in self.layers)
        lines = [f"{self.recipe}: {len(self.layers)} layers expanded, trained parameters {grown:+,}"]
        lines += [f"  {one}" for one in self.layers]
        left_out = Counter(f"{r.code} {r.reason}" for one in self.layers for r in one.left_out)
        if left_out:
            lines.append("branches left out:")
            lines += [f"  {count} x {reason}" for reason, count in left_out.items()]
        if self.refused:
            lines.append("layers left as they are:")
            lines += [f"  {refusal}" for refusal in self.refused]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, object]:
        """As plain data, for JSON."""
        return {
            "recipe": self.recipe,
            "layers": [
                {
                    "path": one.path,
                    "layer": one.layer,
                    "branches": list(one.branches),
                    "left_out": [str(r) for r in one.left_out],
                    "parameters": [one.before, one.after],
                }
                for one in self.layers
            ],
            "refused": [{"code": r.code, "reason": r.reason, "where": r.where} for r in self.refused],
        }
