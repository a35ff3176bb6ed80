"""Where the nodes and edges of a graph go in a picture: layers from top to bottom, few crossings, no overlaps. Pure.

Layers by longest path, order in a layer by barycentres, places by medians (Sugiyama's steps). An edge over
several layers passes each between its nodes: there it has a bend, which all edges of one source share.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import fmean, median

import networkx as nx

NODE_WIDTH, NODE_HEIGHT = 184, 56
COLUMN_GAP, LAYER_GAP = 24, 48
MARGIN = 8
"""All in pixels."""
MAX_NODES = 200
MAX_EDGES = 600
MAX_CELLS = 2000
SWEEPS = 8

Point = tuple[int, int]
Cell = Hashable
"""A node by its name, or the bend (source, layer)."""


@dataclass(frozen=True, slots=True)
class Layout:
    """`nodes`: the upper left corner of each. `edges`: (source, target, points), from the source's lower side to the
    target's upper one; between them the points come in pairs, where a layer is entered and where it is left."""

    width: int
    height: int
    nodes: Mapping[str, Point]
    edges: Sequence[tuple[str, str, Sequence[Point]]]


def lay_out(graph: nx.DiGraph) -> Layout | None:
    """The same for the same graph, built in the same order. None where it is empty or too large to be looked at.

    Raises networkx.NetworkXUnfeasible for a graph with a circle.
    """
    if not 0 < len(graph) <= MAX_NODES or graph.number_of_edges() > MAX_EDGES:
        return None
    level = {name: number for number, layer in enumerate(nx.topological_generations(graph)) for name in layer}
    if sum(_bends(graph, level, source) for source in graph) + len(graph) > MAX_CELLS:
        return None
    paths = {(source, target): _cells(source, target, level) for source, target in graph.edges}
    net = nx.DiGraph()
    net.add_nodes_from(graph)
    for path in paths.values():
        nx.add_path(net, path)
    layers = _ordered(net, _layers(net, level))
    centres = _centres(net, layers)
    left = min(centre - _width(cell) // 2 for cell, centre in centres.items()) - MARGIN
    right = max(centre + _width(cell) // 2 for cell, centre in centres.items()) + MARGIN
    return Layout(
        width=right - left,
        height=len(layers) * (NODE_HEIGHT + LAYER_GAP) - LAYER_GAP + 2 * MARGIN,
        nodes={name: (centres[name] - left - NODE_WIDTH // 2, _top(level[name])) for name in graph},
        edges=[(*ends, _points(path, level, centres, left)) for ends, path in paths.items()],
    )


def _bends(graph: nx.DiGraph, level: Mapping[str, int], source: str) -> int:
    return max((level[target] - level[source] - 1 for target in graph.successors(source)), default=0)


def _cells(source: str, target: str, level: Mapping[str, int]) -> list[Cell]:
    return [source, *((source, layer) for layer in range(level[source] + 1, level[target])), target]


def _layers(net: nx.DiGraph, level: Mapping[str, int]) -> list[list[Cell]]:
    layers: list[list[Cell]] = [[] for _ in range(max(level.values(), default=-1) + 1)]
    for cell in net:
        layers[_level(cell, level)].append(cell)
    return layers


def _level(cell: Cell, level: Mapping[str, int]) -> int:
    return cell[1] if isinstance(cell, tuple) else level[str(cell)]


def _ordered(net: nx.DiGraph, layers: list[list[Cell]]) -> list[list[Cell]]:
    """The best of some sweeps down and up, each of which sorts every layer by where its neighbours are."""
    best, fewest = layers, _crossings(net, layers)
    for sweep in range(SWEEPS):
        if fewest == 0:
            break
        upwards = sweep % 2 == 1
        layers = _swept(layers, net.succ if upwards else net.pred, upwards)
        if (crossings := _crossings(net, layers)) < fewest:
            best, fewest = layers, crossings
    return best


def _swept(
    layers: list[list[Cell]], neighbours: Mapping[Cell, Mapping[Cell, object]], upwards: bool
) -> list[list[Cell]]:
    swept: list[list[Cell]] = []
    place: dict[Cell, float] = {}
    for layer in reversed(layers) if upwards else layers:
        near = {cell: [place[other] for other in neighbours[cell]] for cell in layer}
        wanted = {cell: fmean(near[cell] or [here]) for here, cell in enumerate(layer)}
        swept.append(sorted(layer, key=wanted.__getitem__))
        place = {cell: float(here) for here, cell in enumerate(swept[-1])}
    return swept[::-1] if upwards else swept


def _crossings(net: nx.DiGraph, layers: list[list[Cell]]) -> int:
    crossings = 0
    for upper, lower in pairwise(layers):
        place = {cell: here for here, cell in enumerate(lower)}
        ends: list[int] = []
        for cell in upper:
            new = sorted(place[target] for target in net.succ[cell])
            crossings += sum(len(ends) - bisect_right(ends, end) for end in new)
            for end in new:
                insort(ends, end)
    return crossings


def _centres(net: nx.DiGraph, layers: list[list[Cell]]) -> dict[Cell, int]:
    """Where each cell's middle is from left to right: near its neighbours' middles, as far as its layer has room."""
    centres: dict[Cell, int] = {}
    for layer in layers:
        centres |= _placed(layer, [[0] for _ in layer])
    for sweep in range(SWEEPS):
        near = net.succ if sweep % 2 else net.pred
        for layer in reversed(layers) if sweep % 2 else layers:
            centres |= _placed(layer, [_wishes(cell, near[cell], centres) or [centres[cell]] for cell in layer])
    return centres


def _wishes(cell: Cell, near: Iterable[Cell], centres: Mapping[Cell, int]) -> list[int]:
    """Where the cell would be straight below or above each neighbour; twice where both are nodes, or both bends: what
    is between these is seen to be straight."""
    return [centres[other] for other in near for _ in range(1 + (_width(cell) == _width(other)))]


def _placed(layer: list[Cell], wanted: list[list[int]]) -> dict[Cell, int]:
    """The places in this order that are least far from all that are wanted (pool adjacent violators, by medians)."""
    steps = ((_width(a) + _width(b)) // 2 + COLUMN_GAP for a, b in pairwise(layer))
    offsets = list(accumulate(steps, initial=0))[: len(layer)]
    pools: list[tuple[list[Cell], list[int]]] = []
    for cell, places, offset in zip(layer, wanted, offsets, strict=True):
        pools.append(([cell], [place - offset for place in places]))
        while len(pools) > 1 and median(pools[-2][1]) >= median(pools[-1][1]):
            cells, shifts = pools.pop()
            pools[-1] = (pools[-1][0] + cells, pools[-1][1] + shifts)
    shift = {cell: round(median(shifts)) for cells, shifts in pools for cell in cells}
    return {cell: offset + shift[cell] for cell, offset in zip(layer, offsets, strict=True)}


def _width(cell: Cell) -> int:
    return 0 if isinstance(cell, tuple) else NODE_WIDTH


def _top(layer: int) -> int:
    return MARGIN + layer * (NODE_HEIGHT + LAYER_GAP)


def _points(path: list[Cell], level: Mapping[str, int], centres: Mapping[Cell, int], left: int) -> list[Point]:
    points = []
    for cell in path:
        across, top = centres[cell] - left, _top(_level(cell, level))
        points += [(across, top), (across, top + NODE_HEIGHT)]
    return points[1:-1]
