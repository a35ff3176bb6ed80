from __future__ import annotations

from typing import Any

from app.artifacts import output_location
from app.web.output_tree import MAX_NODES, MAX_TEXT, OutputNode, output_tree


def file(path: str, **more: Any) -> dict[str, Any]:
    return {"class": "File", "location": output_location(path), "basename": path.rpartition("/")[2], **more}


def only(node: OutputNode) -> OutputNode:
    (child,) = node.children
    return child


def test_a_kept_file_has_its_path_and_the_size_on_disk() -> None:
    tree = output_tree({"table": file("a/t.tsv", size=1)}, {"a/t.tsv": 42})
    assert only(tree) == OutputNode("table", "t.tsv", path="a/t.tsv", size=42)


def test_a_file_elsewhere_shows_where_and_links_only_to_the_web() -> None:
    tree = output_tree(
        {"s3": {"class": "File", "location": "s3://bucket/x.bam", "size": 7}, "web": "https://example.org/x"}, {}
    )
    s3, web = tree.children
    assert (s3.text, s3.path, s3.url, s3.size) == ("s3://bucket/x.bam", None, None, 7)
    assert (web.text, web.url) == ("https://example.org/x", "https://example.org/x")


def test_a_location_with_a_script_is_no_link() -> None:
    tree = output_tree({"x": {"class": "File", "location": "javascript:alert(1)"}}, {})
    assert only(tree).url is None


def test_a_kept_file_that_is_gone_is_no_download() -> None:
    assert only(output_tree({"x": file("gone.txt")}, {})).path is None


def test_a_bare_location_is_a_file() -> None:
    assert only(output_tree({"x": output_location("a b.txt")}, {"a b.txt": 1})).path == "a b.txt"


def test_lists_records_and_secondary_files_nest() -> None:
    sizes = {"a.bam": 1, "a.bai": 2}
    tree = output_tree({"bams": [file("a.bam", secondaryFiles=[file("a.bai")])], "stats": {"n": 3, "ok": True}}, sizes)
    bams, stats = tree.children
    assert only(only(bams)).path == "a.bai"
    assert [(child.label, child.text) for child in stats.children] == [("n", "3"), ("ok", "true")]


def test_a_directory_without_listing_shows_the_kept_files_below_it() -> None:
    tree = output_tree({"d": {"class": "Directory", "location": output_location("d")}}, {"d/x": 1, "d/y/z": 2, "dd": 3})
    directory = only(tree)
    assert directory.text == "d/"
    assert [child.path for child in directory.children] == ["d/x", "d/y/z"]


def test_without_an_output_object_the_kept_files_are_listed() -> None:
    assert [child.path for child in output_tree(None, {"a": 1, "b/c": 2}).children] == ["a", "b/c"]
    assert output_tree({}, {}).children == ()


def test_empty_and_odd_values_are_shown_as_json() -> None:
    odd = {
        "none": None,
        "list": [],
        "record": {},
        "text": "",
        "file": {"class": "File"},
        "place": {"class": "Directory"},
    }
    texts = [child.text for child in output_tree(odd, {}).children]
    assert texts == ["null", "[]", "{}", "", "", "/"]


def test_long_texts_are_cut() -> None:
    assert len(only(output_tree({"x": "y" * 10_000}, {})).text) == MAX_TEXT + 1


def test_at_most_so_many_nodes_and_the_rest_is_counted() -> None:
    tree = output_tree({"many": list(range(MAX_NODES + 500)), "late": 1}, {})
    many = tree.children[0]
    assert len(many.children) + many.left_out == MAX_NODES + 500
    assert len(many.children) < MAX_NODES
    assert tree.left_out == 1


def test_depth_is_bounded() -> None:
    value: Any = "deep"
    for _ in range(300):
        value = [value]
    node = output_tree({"x": value}, {})
    depth = 0
    while node.children:
        node, depth = node.children[0], depth + 1
    assert depth <= 20
    assert node.text.startswith("[[")
