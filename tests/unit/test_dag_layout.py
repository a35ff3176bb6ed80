"""Layouts of graphs: nothing overlaps, every edge goes down, the same graph looks the same, too large ones are left."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations, pairwise

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dag.layout import (
    COLUMN_GAP,
    LAYER_GAP,
    MAX_CELLS,
    MAX_EDGES,
    MAX_NODES,
    NODE_HEIGHT,
    NODE_WIDTH,
    Layout,
    lay_out,
)


@st.composite
def graphs(draw: st.DrawFn) -> nx.DiGraph:
    """Edges lead from lower to higher numbers; nodes are in no particular order."""
    size = draw(st.integers(1, 14))
    ends = st.tuples(st.integers(0, size - 1), st.integers(0, size - 1)).filter(lambda pair: pair[0] < pair[1])
    graph = nx.DiGraph()
    graph.add_nodes_from(str(number) for number in draw(st.permutations(range(size))))
    if size > 1:
        graph.add_edges_from((str(start), str(end)) for start, end in draw(st.lists(ends, max_size=30)))
    return graph


def made(*edges: str) -> nx.DiGraph:
    return nx.DiGraph([(edge[0], edge[1]) for edge in edges])


def laid_out(graph: nx.DiGraph) -> Layout:
    layout = lay_out(graph)
    assert layout is not None
    return layout


def across(layout: Layout, name: str) -> int:
    return layout.nodes[name][0]


@given(graphs())
def test_no_two_nodes_overlap_and_all_are_in_the_picture(graph: nx.DiGraph) -> None:
    layout = laid_out(graph)
    assert set(layout.nodes) == set(graph)
    for (x, y), (other_x, other_y) in combinations(layout.nodes.values(), 2):
        assert abs(x - other_x) >= NODE_WIDTH + COLUMN_GAP or abs(y - other_y) >= NODE_HEIGHT + LAYER_GAP
    for x, y in layout.nodes.values():
        assert 0 < x < layout.width - NODE_WIDTH
        assert 0 < y < layout.height - NODE_HEIGHT


@given(graphs())
def test_every_edge_goes_down_from_node_to_node_and_through_none(graph: nx.DiGraph) -> None:
    layout = laid_out(graph)
    assert {(source, target) for source, target, _ in layout.edges} == set(graph.edges)
    for source, target, points in layout.edges:
        (x, y), (to_x, to_y) = layout.nodes[source], layout.nodes[target]
        assert points[0] == (x + NODE_WIDTH // 2, y + NODE_HEIGHT)
        assert points[-1] == (to_x + NODE_WIDTH // 2, to_y)
        assert all(above[1] < below[1] for above, below in pairwise(points))
        for entered, left in zip(points[1:-1:2], points[2:-1:2], strict=True):
            assert entered[0] == left[0]
            assert 0 < entered[0] < layout.width
            beside = [node_x for node_x, node_y in layout.nodes.values() if node_y == entered[1]]
            assert all(not node_x < entered[0] < node_x + NODE_WIDTH for node_x in beside)


@given(graphs())
def test_a_node_is_just_below_the_lowest_of_those_that_it_needs(graph: nx.DiGraph) -> None:
    layout = laid_out(graph)
    top = min(y for _, y in layout.nodes.values())
    for name, (_, y) in layout.nodes.items():
        needed = [layout.nodes[other][1] for other in graph.predecessors(name)]
        assert y == (max(needed) + NODE_HEIGHT + LAYER_GAP if needed else top)


@given(graphs())
def test_the_same_graph_looks_the_same(graph: nx.DiGraph) -> None:
    assert lay_out(graph) == lay_out(graph.copy())


def test_it_looks_the_same_in_every_process() -> None:
    """Hashes of texts differ from process to process."""
    script = (
        "import networkx as nx; from app.dag.layout import lay_out; "
        "print(lay_out(nx.DiGraph([(a, b) for a in 'abcdef' for b in 'cdefgh' if a < b])))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(said) == 1


def test_a_chain_is_straight_and_a_diamond_is_upright() -> None:
    chain = laid_out(made("ab", "bc", "cd"))
    assert len({x for x, _ in chain.nodes.values()}) == 1
    diamond = laid_out(made("ab", "ac", "bd", "cd"))
    assert across(diamond, "a") == across(diamond, "d")
    assert across(diamond, "b") + across(diamond, "c") == 2 * across(diamond, "a")


def test_steps_that_follow_each_other_are_in_line_though_an_edge_passes_them() -> None:
    layout = laid_out(made("fa", "fk", "av", "ac", "vn", "fn", "cp", "nr", "kr", "pr"))
    assert across(layout, "c") == across(layout, "p")
    assert across(layout, "v") == across(layout, "n") == across(layout, "r")


def test_what_can_be_drawn_without_crossings_is() -> None:
    """As written every edge would cross every other."""
    graph = nx.DiGraph()
    graph.add_nodes_from("abcd0123")
    graph.add_edges_from(["a3", "b2", "c1", "d0"])
    layout = laid_out(graph)
    assert all(points[0][0] == points[1][0] for _, _, points in layout.edges)


def test_a_circle_is_refused() -> None:
    with pytest.raises(nx.NetworkXUnfeasible):
        lay_out(made("ab", "ba"))


def test_what_is_too_large_to_be_looked_at_is_left() -> None:
    wide = nx.DiGraph()
    wide.add_nodes_from(map(str, range(MAX_NODES)))
    assert lay_out(wide) is not None
    wide.add_node("more")
    assert lay_out(wide) is None
    dense = nx.complete_graph(40, nx.DiGraph)
    dense.remove_edges_from([(start, end) for start, end in dense.edges if start >= end])
    assert dense.number_of_edges() > MAX_EDGES
    assert lay_out(nx.relabel_nodes(dense, str)) is None
    ladder = nx.path_graph(100, nx.DiGraph)
    ladder.add_edges_from((start, 99) for start in range(98))
    assert ladder.number_of_edges() <= MAX_EDGES
    assert sum(range(98)) > MAX_CELLS
    assert lay_out(nx.relabel_nodes(ladder, str)) is None
    assert lay_out(nx.DiGraph()) is None
