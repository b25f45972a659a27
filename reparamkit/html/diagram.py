"""A block before and after its merge, as SVG. Names of foreign classes are text: escaped, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from reparamkit.html.layout import BOX, layout

if TYPE_CHECKING:
    from reparamkit.report.merged import Merged

MOST = 40  # a larger graph is no picture any more
_CHARACTER, _MARGIN = 7.6, 20.0


def before_and_after(merged: Merged) -> tuple[str, str]:
    """What was there and what is there now, a drawing each; empty when nothing is known of what was there.

    Args:
        merged: its `graph` is drawn.
    """
    if not merged.graph or len(merged.graph) > MOST:
        return "", ""
    labels = ["input", *(step.label for step in merged.graph)]
    inputs = [[], *([place + 1 for place in step.inputs] for step in merged.graph)]
    return _drawn(labels, inputs, merged.before), _drawn(["input", merged.after], [[], [0]], merged.after)


def _drawn(labels: Sequence[str], inputs: Sequence[Sequence[int]], about: str) -> str:
    placed = layout([len(label) * _CHARACTER + _MARGIN for label in labels], inputs)
    size = f"{placed.width:.0f}", f"{placed.height:.0f}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[0]}" height="{size[1]}" '
        f'viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label={quoteattr(about)}>'
    ]
    parts += [f'<path class="edge" d="{_curve(points)}"/>' for points in placed.edges]
    for label, node in zip(labels, placed.nodes, strict=True):
        left, top = node.x - node.width / 2, node.y - BOX / 2
        kind = "source" if label == "input" else "box"
        parts.append(
            f'<rect class="{kind}" x="{left:.1f}" y="{top:.1f}" width="{node.width:.1f}" height="{BOX:.0f}" rx="5"/>'
            f'<text x="{node.x:.1f}" y="{node.y + 4.5:.1f}">{escape(label)}</text>'
        )
    return "\n".join([*parts, "</svg>"])


def _curve(points: Sequence[tuple[float, float]]) -> str:
    (x, y), *rest = points
    path = f"M{x:.1f} {y:.1f}"
    for next_x, next_y in rest:
        middle = (y + next_y) / 2
        path += f"C{x:.1f} {middle:.1f} {next_x:.1f} {middle:.1f} {next_x:.1f} {next_y:.1f}"
        x, y = next_x, next_y
    return path


def histogram(exponents: Sequence[int]) -> str:
    """How many errors there are of each power of ten, as SVG bars; empty without errors."""
    if not exponents:
        return ""
    low, high = min(exponents), max(exponents)
    counts = [exponents.count(power) for power in range(low, high + 1)]
    step, tall = 56, 110
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{step * len(counts) + 16}" height="{tall + 52}" role="img" '
        'aria-label="number of merges by the size of their error">'
    ]
    for place, count in enumerate(counts):
        bar = tall * count / max(counts)
        x, top = 8 + step * place, 22 + tall - bar
        parts.append(
            f'<rect class="bar" x="{x + 8}" y="{top:.1f}" width="{step - 16}" height="{bar:.1f}"/>'
            f'<text x="{x + step / 2}" y="{top - 6:.1f}">{count}</text>'
            f'<text x="{x + step / 2}" y="{tall + 42}">1e{low + place}</text>'
        )
    return "\n".join([*parts, "</svg>"])
