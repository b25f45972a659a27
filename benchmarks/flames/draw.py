"""Stacks as a flame graph: who is called stands below its caller, as wide as its share of the time."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

WIDTH, ROW, CHARACTER = 1160, 17, 6.3
LEAST = 0.002  # of the whole: what is narrower is not drawn
STYLE = (
    "<style>text{font:10.5px ui-monospace,monospace;fill:#1c2530;pointer-events:none}"
    "rect{stroke:#fff;stroke-width:.6}rect:hover{stroke:#1c2530}"
    "@media(prefers-color-scheme:dark){rect{stroke:#12161b}rect:hover{stroke:#fff}}</style>"
)


@dataclass
class Node:
    """A frame under one caller, with how many samples it and what it calls has."""

    count: int = 0
    calls: dict[str, Node] = field(default_factory=dict)


def tree(stacks: Mapping[tuple[str, ...], int]) -> Node:
    """The stacks put together from their beginning."""
    root = Node()
    for stack, count in stacks.items():
        node = root
        node.count += count
        for name in stack:
            node = node.calls.setdefault(name, Node())
            node.count += count
    return root


def flame(stacks: Counter[tuple[str, ...]], seconds: float, title: str) -> str:
    """The flame graph as SVG.

    Args:
        stacks: how often each was seen.
        seconds: how long all of it took.
        title: for people who cannot see it.
    """
    root = tree(stacks)
    boxes = list(_boxes(root, 0.0, 0, root.count, seconds))
    height = ROW * (1 + max((depth for _, depth in boxes), default=0))
    parts = "\n".join(text for text, _ in boxes)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
    return f"{head}<title>{escape(title)}</title>{STYLE}\n{parts}\n</svg>\n"


def _boxes(node: Node, left: float, depth: int, total: int, seconds: float) -> Iterator[tuple[str, int]]:
    for name, child in sorted(node.calls.items(), key=lambda item: -item[1].count):
        share = child.count / total
        if share >= LEAST:
            yield _box(name, left, depth, share, seconds), depth
            yield from _boxes(child, left, depth + 1, total, seconds)
        left += share * WIDTH


def _box(name: str, left: float, depth: int, share: float, seconds: float) -> str:
    width, top = share * WIDTH, depth * ROW
    room = int((width - 6) / CHARACTER)
    short = name if len(name) <= room else name.rpartition(" ")[2]
    label = short if len(short) <= room else short[: max(room - 1, 0)] + "…" if room > 3 else ""
    text = f'<text x="{left + 3:.1f}" y="{top + 12}">{escape(label)}</text>' if label else ""
    about = f"<title>{escape(name)}: {share:.1%}, {share * seconds * 1e3:.0f} ms</title>"
    box = f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{ROW}" fill="{_colour(name)}">{about}</rect>'
    return box + text


def _colour(name: str) -> str:
    """Warm for this package, one hue a file; grey for others."""
    if " " not in name:
        return "#c3cad3"
    hue = zlib.crc32(name.partition(" ")[0].encode()) % 50
    return f"hsl({hue} 85% 66%)"
