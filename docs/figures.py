"""Hand-made pictures of the idea's page: kernels as grids, and what is held in memory."""

from __future__ import annotations

from collections.abc import Sequence

STYLE = (
    "<style>text{font:13px system-ui,sans-serif;fill:#1c2530;text-anchor:middle}.small{fill:#5c6875}"
    ".cell{fill:#f3f5f8;stroke:#5c6875}.full{fill:#7fb2d9;stroke:#1f6aa5}.one{fill:#f0b66b;stroke:#9a5b00}"
    ".line{fill:none;stroke:#5c6875;stroke-width:1.4}"
    "@media(prefers-color-scheme:dark){text{fill:#e6eaef}.small{fill:#9aa5b1}.cell{fill:#1d232a;stroke:#9aa5b1}"
    ".full{fill:#1f6aa5;stroke:#7fb2d9}.one{fill:#9a5b00;stroke:#f0b66b}.line{stroke:#9aa5b1}}</style>"
)
_CELL = 26


def _svg(width: float, height: float, about: str, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{about}">'
    )
    return "\n".join([head, STYLE, *parts, "</svg>", ""])


def _grid(x: float, y: float, size: int, filled: dict[tuple[int, int], str], kind: str = "cell") -> list[str]:
    parts = []
    for row in range(size):
        for column in range(size):
            text = filled.get((row, column), "")
            style = kind if text not in ("1", "w") else {"1": "one", "w": "full"}[text]
            left, top = x + _CELL * column, y + _CELL * row
            parts.append(f'<rect class="{style}" x="{left}" y="{top}" width="{_CELL}" height="{_CELL}"/>')
            parts.append(f'<text x="{left + _CELL / 2}" y="{top + 17.5}">{text or "0"}</text>')
    return parts


def embedding() -> str:
    """A 1x1 kernel, and the identity, as 3x3 kernels."""
    parts = ['<text x="100" y="18">1x1 convolution</text>', *_grid(26, 58, 1, {(0, 0): "w"})]
    parts += ['<text x="78" y="76">→</text>', *_grid(104, 32, 3, {(1, 1): "w"})]
    parts += ['<text x="390" y="18">identity: two channels, two kernels each</text>']
    for block, (out, source) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        x = 240 + 96 * (block % 2)
        y = 34 + 104 * (block // 2)
        parts += _grid(x + 40, y, 3, {(1, 1): "1"} if out == source else {})
        parts.append(f'<text class="small" x="{x + 79}" y="{y + 94}">out {out}, in {source}</text>')
    return _svg(520, 248, "a 1x1 kernel in the middle of a 3x3 kernel; the identity as a kernel of ones", parts)


def adding() -> str:
    """Three branches are one kernel: added tap by tap."""
    every = {(r, c): "w" for r in range(3) for c in range(3)}
    parts: list[str] = []
    for place, (title, filled) in enumerate(
        (("3x3", every), ("1x1", {(1, 1): "w"}), ("identity", {(1, 1): "1"}), ("one 3x3", every))
    ):
        x = 16 + 128 * place
        parts += [f'<text x="{x + 39}" y="18">{title}</text>', *_grid(x, 28, 3, filled)]
        if place < 3:
            parts.append(f'<text x="{x + 103}" y="71">{"=" if place == 2 else "+"}</text>')
    return _svg(520, 118, "the kernels of three branches, added tap by tap, are one kernel", parts)


def memory() -> str:
    """What has to be held while a block runs."""
    parts = ['<text x="120" y="18">with a skip branch</text>', '<text x="390" y="18">single path</text>']
    for x, branch in ((70, True), (340, False)):
        for row, label in enumerate(("x", "conv(x)", "conv(x) + x" if branch else "next(...)")):
            y = 30 + 54 * row
            parts.append(f'<rect class="{"full" if row < 2 else "cell"}" x="{x}" y="{y}" width="100" height="30"/>')
            parts.append(f'<text x="{x + 50}" y="{y + 20}">{label}</text>')
            if row < 2:
                parts.append(f'<path class="line" d="M{x + 50} {y + 30}v24"/>')
        if branch:
            parts.append(f'<path class="line" d="M{x + 100} 45c50 0 50 108 0 108"/>')
            parts.append('<text class="small" x="120" y="190">x stays until the sum</text>')
        else:
            parts.append('<text class="small" x="390" y="190">x goes as soon as it is read</text>')
    return _svg(520, 204, "a skip branch keeps its input alive; a single path lets it go", parts)


FIGURES = {"embedding": embedding, "adding": adding, "memory": memory}
