"""Bars as SVG: what is left of each quantity, the original being one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

_LEFT, _WIDTH, _ROW, _BAR = 170, 420, 34, 16
_BEFORE, _AFTER, _TEXT, _MUTED = "#b8c0cc", "#2f6f9f", "#1f2933", "#6b7280"


class Bar(NamedTuple):
    """One quantity after the conversion, relative to before.

    Attributes:
        name: of the quantity.
        share: what is left of it.
        spread: its quartiles, for times.
    """

    name: str
    share: float
    spread: tuple[float, float] | None = None


def bars(rows: Sequence[Bar]) -> str:
    """One row a quantity: a bar for after, a mark where before was; whiskers for the quartiles of times."""
    scale = _WIDTH / max(1.0, *(edge for _, share, spread in rows for edge in (share, *(spread or ()))))
    height = 30 + _ROW * len(rows) + 24
    total = _LEFT + _WIDTH + 80
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {height}" width="{total}" height="{height}" '
        'role="img" aria-label="after the conversion, relative to before" font-family="system-ui, sans-serif" '
        'font-size="13">',
        f'<rect width="{total}" height="{height}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="18" fill="{_MUTED}">after, relative to before (grey: before = 1)</text>',
    ]
    for number, (name, share, spread) in enumerate(rows):
        parts += _bar(30 + _ROW * number, name, share, spread, scale)
    return "\n".join([*parts, "</svg>", ""])


def _bar(y: int, name: str, share: float, spread: tuple[float, float] | None, scale: float) -> list[str]:
    middle = y + _ROW / 2
    top = middle - _BAR / 2
    parts = [
        f'<text x="{_LEFT - 10}" y="{middle + 4}" text-anchor="end" fill="{_TEXT}">{escape(name)}</text>',
        f'<rect x="{_LEFT}" y="{top - 3}" width="{scale:.1f}" height="{_BAR + 6}" fill="{_BEFORE}"/>',
        f'<rect x="{_LEFT}" y="{top}" width="{share * scale:.1f}" height="{_BAR}" fill="{_AFTER}"/>',
    ]
    end = max(share, 1.0)
    if spread is not None:
        low, high = (_LEFT + edge * scale for edge in spread)
        parts.append(
            f'<path d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 5}v10M{high:.1f} {middle - 5}v10" '
            f'stroke="{_TEXT}" fill="none"/>'
        )
        end = max(end, spread[1])
    label = f"{share:.2f}" if spread is None or not spread[0] <= 1 <= spread[1] else f"{share:.2f}, no difference"
    parts.append(f'<text x="{_LEFT + end * scale + 8:.1f}" y="{middle + 4}" fill="{_TEXT}">{label}</text>')
    return parts
