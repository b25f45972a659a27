"""Layered layout of a small graph: longest-path layers, waypoints for long edges, barycentre order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ROW, GAP, BOX, WAY = 58.0, 18.0, 30.0, 14.0
_SWEEPS = 4


@dataclass(frozen=True)
class Placed:
    """One node.

    Attributes:
        x: middle.
        y: middle.
        width: of its box; 0 for a waypoint.
    """

    x: float
    y: float
    width: float


@dataclass(frozen=True)
class Layout:
    """Where everything stands.

    Attributes:
        nodes: in the order given.
        edges: points of each edge, from its start to its end.
        width: of the drawing.
        height: of the drawing.
    """

    nodes: tuple[Placed, ...]
    edges: tuple[tuple[tuple[float, float], ...], ...]
    width: float
    height: float


def layout(widths: Sequence[float], inputs: Sequence[Sequence[int]]) -> Layout:
    """Place the nodes of a graph from top to bottom.

    Args:
        widths: of the nodes' boxes, in an order in which every node comes after what it reads.
        inputs: for each node, the indices of what it reads.

    Returns:
        Their places; an edge for each of `inputs`, in order.
    """
    depth: list[int] = []
    for sources in inputs:
        depth.append(1 + max((depth[s] for s in sources), default=-1))
    layers: list[list[int]] = [[] for _ in range(max(depth, default=-1) + 1)]
    for node, level in enumerate(depth):
        layers[level].append(node)
    sizes, links, paths = list(widths), [list(s) for s in inputs], []
    for node, sources in enumerate(inputs):
        for place, source in enumerate(sources):
            path = _way(source, node, depth, layers, sizes, links)
            links[node][place] = path[-2]
            paths.append(path)
    _order(layers, links)
    xs, width = _columns(layers, sizes, links)
    placed = [Placed(xs[n], BOX / 2 + 1 + ROW * _level(n, layers), sizes[n]) for n in range(len(sizes))]
    edges = tuple(_points(path, placed, len(widths)) for path in paths)
    return Layout(tuple(placed[: len(widths)]), edges, width, ROW * (len(layers) - 1) + BOX + 2)


def _way(
    source: int, node: int, depth: list[int], layers: list[list[int]], sizes: list[float], links: list[list[int]]
) -> list[int]:
    """The edge as a path with a waypoint in every layer between, so that no box stands in its way."""
    path = [source]
    for level in range(depth[source] + 1, depth[node]):
        sizes.append(0.0)
        links.append([path[-1]])
        layers[level].append(len(sizes) - 1)
        path.append(len(sizes) - 1)
    return [*path, node]


def _order(layers: list[list[int]], links: list[list[int]]) -> None:
    """Each layer by where its neighbours stand: down by what they read, up by who reads them."""
    readers: dict[int, list[int]] = {}
    for node, sources in enumerate(links):
        for source in sources:
            readers.setdefault(source, []).append(node)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for level in layers if down else reversed(layers):
            places = {node: place / max(1, len(layer) - 1) for layer in layers for place, node in enumerate(layer)}

            def middle(node: int, places: dict[int, float] = places, down: bool = down) -> float:
                near = links[node] if down else readers.get(node, [])
                return sum(places[n] for n in near) / len(near) if near else places[node]

            level.sort(key=middle)


def _columns(layers: list[list[int]], sizes: list[float], links: list[list[int]]) -> tuple[dict[int, float], float]:
    """Middles of the boxes: side by side first, then each layer drawn towards its neighbours."""
    near = _neighbours(links)
    half = [(size or WAY) / 2 for size in sizes]
    xs: dict[int, float] = {}
    for layer in layers:
        span = sum(2 * half[n] for n in layer) + GAP * (len(layer) - 1)
        x = -span / 2
        for node in layer:
            xs[node] = x + half[node]
            x += 2 * half[node] + GAP
    for sweep in range(2 * _SWEEPS):
        for level in layers if sweep % 2 == 0 else reversed(layers):
            wanted = [sum(xs[n] for n in near[node]) / len(near[node]) if near[node] else xs[node] for node in level]
            xs.update(zip(level, _apart(wanted, [half[n] for n in level]), strict=True))
    left = min((xs[n] - half[n] for n in xs), default=0.0)
    right = max((xs[n] + half[n] for n in xs), default=0.0)
    return {n: x - left + 1 for n, x in xs.items()}, right - left + 2


def _apart(wanted: list[float], half: list[float]) -> list[float]:
    """Places near those wanted, in this order, with gaps: the middle between pushing right and pushing left."""
    right, left = list(wanted), list(wanted)
    for i in range(1, len(wanted)):
        right[i] = max(right[i], right[i - 1] + half[i - 1] + GAP + half[i])
    for i in reversed(range(len(wanted) - 1)):
        left[i] = min(left[i], left[i + 1] - half[i + 1] - GAP - half[i])
    return [(a + b) / 2 for a, b in zip(right, left, strict=True)]


def _neighbours(links: list[list[int]]) -> list[list[int]]:
    near = [list(sources) for sources in links]
    for node, sources in enumerate(links):
        for source in sources:
            near[source].append(node)
    return near


def _level(node: int, layers: list[list[int]]) -> int:
    return next(level for level, layer in enumerate(layers) if node in layer)


def _points(path: list[int], placed: list[Placed], boxes: int) -> tuple[tuple[float, float], ...]:
    points = []
    for node in path:
        place = placed[node]
        if node == path[0]:
            points.append((place.x, place.y + BOX / 2))
        elif node < boxes:
            points.append((place.x, place.y - BOX / 2))
        else:
            points += [(place.x, place.y - BOX / 2), (place.x, place.y + BOX / 2)]
    return tuple(points)
