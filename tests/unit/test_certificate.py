"""The digest tree: one root for the same leaves, few nodes for a change, and exactly the keys that differ."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import partial
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from replication.certificate import (
    MAX_CHILDREN,
    MIN_CHILDREN,
    Leaf,
    Node,
    Placed,
    Range,
    RangeBuilder,
    TreeBuilder,
    decode_leaf,
    encode_leaf,
    key_bytes,
    ranges,
    root_of,
    split_leaves,
)
from replication.statement import Excepted, Statement, decode_statement, tally, utc_time
from replication.tree_diff import Branch, Change, differences

TEXTS = st.text(st.characters(), max_size=12)
SIZES = st.integers(0, 2**64 - 1)
LEAVES = st.builds(Leaf, TEXTS, SIZES, TEXTS)
OBJECTS = st.dictionaries(TEXTS, st.tuples(st.integers(0, 3), st.sampled_from(["etag:a", "etag:b"])), max_size=30)
ODD_KEYS = ["", "\0", "\n", "a", "a\0", "a\n", "a\nb", "é", "\ud800", "\udcff", "\uffff", "\U00010000"]


def leaves_of(objects: dict[str, tuple[int, str]]) -> list[Leaf]:
    return [Leaf(key, *objects[key]) for key in sorted(objects)]


def numbered(count: int, step: int = 1) -> list[Leaf]:
    return [Leaf(f"data/part-{n:07d}", n, f"crc32c:{n:08x}") for n in range(0, count * step, step)]


class Kept:
    """A tree in memory."""

    def __init__(self, leaves: Iterable[Leaf]) -> None:
        self.nodes: list[Node] = []
        self.below: dict[Node, list[Placed]] = {}
        self.blocks: dict[Node, bytes] = {}
        self.opened = 0
        builder = TreeBuilder(self.keep_range, self.keep_node)
        for leaf in leaves:
            builder.add(leaf)
        self.root = builder.finish().node

    def keep_range(self, finished: Range) -> Placed:
        self.nodes.append(finished.node)
        self.blocks[finished.node] = finished.block
        return Placed(finished.node, 0, 0)

    def keep_node(self, node: Node, children: list[Placed]) -> Placed:
        self.nodes.append(node)
        self.below[node] = children
        return Placed(node, 0, 0)

    def branch(self, node: Node) -> Branch:
        return Branch(node, partial(self.children, node))

    def children(self, node: Node) -> list[Branch] | list[Leaf]:
        self.opened += 1
        if node.level == 1:
            return [decode_leaf(one) for one in split_leaves(self.blocks[node])]
        return [self.branch(child.node) for child in self.below[node]]


def changes(old: Iterable[Leaf], new: Iterable[Leaf]) -> list[Change]:
    before, after = Kept(old), Kept(new)
    return list(differences([before.branch(before.root)], [after.branch(after.root)]))


def expected(old: Iterable[Leaf], new: Iterable[Leaf]) -> list[Change]:
    was, now = {leaf.key: leaf for leaf in old}, {leaf.key: leaf for leaf in new}
    keys = sorted(was.keys() | now.keys(), key=key_bytes)
    return [Change(key, was.get(key), now.get(key)) for key in keys if was.get(key) != now.get(key)]


# --- the root ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("leaves", "root"),
    [
        ([], "9dcf97a184f32623d11a73124ceb99a5709b083721e878a16d78f596718ba7b2"),
        ([Leaf("a", 1, "crc32c:1a2b3c4d")], "562b912c0d974033d732ab43c12afd5de896ffb5678e90ff4effe072925a5800"),
        ([Leaf(key, 7, "etag:x") for key in ODD_KEYS], "b44f2eaff5f90112f53e5d6315acab92df950edeac46eb181cd8c134d61713d9"),
        (numbered(5000), "50229c1dff6531833a42a1efee6ce802d6fed91cb7d81afeed429c77f3c289b9"),
    ],
)
def test_known_leaves_have_a_known_root(leaves: list[Leaf], root: str) -> None:
    assert root_of(leaves).hash.hex() == root


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def root_by_the_text(leaves: list[Leaf]) -> bytes:
    """The root as the module's docstring says it, level by level."""
    row: list[tuple[bytes, bytes, int, bytes]] = []
    for key, size_bytes, digest in leaves:
        text, about = key_bytes(key), digest.encode()
        encoded = len(text).to_bytes(2, "big") + size_bytes.to_bytes(8, "big") + len(about).to_bytes(1, "big") + text + about
        row.append((text, text, 1, sha(b"\0", encoded)))
    level = 0
    while level == 0 or len(row) > 1:
        level += 1
        above, first = [], 0
        for at, (_, last, _, _) in enumerate(row):
            count = at + 1 - first
            if count == 1024 or (count >= 32 and sha(last)[level - 1] == 0) or at + 1 == len(row):
                above.append((row[first][0], last, row[first : at + 1]))
                first = at + 1
        row = [(start, last, sum(child[2] for child in below), hash_by_the_text(level, below)) for start, last, below in above]
    return row[0][3]


def hash_by_the_text(level: int, children: list[tuple[bytes, bytes, int, bytes]]) -> bytes:
    if level == 1:
        return sha(b"\1\1", *(digest for _, _, _, digest in children))
    told = [len(key).to_bytes(2, "big") + leaves.to_bytes(8, "big") + digest + key for key, _, leaves, digest in children]
    return sha(b"\1", bytes([level]), *told)


@pytest.mark.parametrize("count", [1, 31, 32, 33, 300, 1024, 1025, 60_000])
def test_the_root_is_what_the_text_says(count: int) -> None:
    leaves = numbered(count)
    assert root_of(leaves).hash == root_by_the_text(leaves)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_leaf_changes_the_root_with_each_of_its_fields(at: int) -> None:
    one = Leaf("a", 1, "etag:a")
    other = Leaf(*("b" if n == at and isinstance(field, str) else 2 if n == at else field for n, field in enumerate(one)))  # type: ignore[arg-type]
    assert root_of([one]).hash != root_of([other]).hash


@given(st.integers(0, 3000), st.integers(0, 2**32))
@example(0, 0)
def test_the_root_does_not_depend_on_how_the_leaves_arrive(count: int, seed: int) -> None:
    leaves = numbered(count)
    builder, at, random = TreeBuilder(lambda r: Placed(r.node, 0, 0), lambda node, _: Placed(node, 0, 0)), 0, Random(seed)
    while at < count:
        chunk = random.randint(1, 1000)
        for leaf in leaves[at : at + chunk]:
            builder.add(leaf)
        at += chunk
    assert builder.finish().node == root_of(iter(leaves))


# --- encodings --------------------------------------------------------------------------------------------------------


@given(st.lists(LEAVES, max_size=8))
@example([Leaf(key, 2**64 - 1, key) for key in ODD_KEYS])
def test_leaves_are_read_back_as_they_were(leaves: list[Leaf]) -> None:
    block = b"".join(map(encode_leaf, leaves))
    assert [decode_leaf(one) for one in split_leaves(block)] == leaves


@given(LEAVES, LEAVES)
@example(Leaf("a", 1, "bc"), Leaf("ab", 1, "c"))
def test_two_leaves_have_two_encodings(one: Leaf, other: Leaf) -> None:
    assert (encode_leaf(one) == encode_leaf(other)) == (one == other)


@given(LEAVES, st.data())
def test_a_leaf_cut_short_is_refused(leaf: Leaf, data: st.DataObject) -> None:
    encoded = encode_leaf(leaf)
    with pytest.raises(ValueError, match="cut short"):
        split_leaves(encoded[: data.draw(st.integers(1, len(encoded) - 1))])


@pytest.mark.parametrize(
    "leaf", [Leaf("k" * 65_536, 0, ""), Leaf("k", 0, "d" * 256), Leaf("k", -1, ""), Leaf("k", 2**64, ""), Leaf("é" * 32_768, 0, "")]
)
def test_a_leaf_out_of_bounds_is_refused_and_leaves_no_trace(leaf: Leaf) -> None:
    builder = RangeBuilder()
    with pytest.raises(ValueError, match="at most"):
        builder.add(leaf)
    builder.add(Leaf("a", 1, ""))
    assert builder.finish() == next(ranges([Leaf("a", 1, "")]))


# --- ranges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [("b", "a"), ("a", "a"), ("\U00010000", "\uffff"), ("a\0", "a"), ("\udc80", "\ud800")])
def test_keys_out_of_order_are_refused(first: str, second: str) -> None:
    with pytest.raises(ValueError, match="ascend"):
        root_of([Leaf(first, 0, ""), Leaf(second, 0, "")])


@given(TEXTS, TEXTS)
@example("\U00010000", "\uffff")
def test_the_order_of_keys_is_that_of_their_bytes(one: str, other: str) -> None:
    assert (one < other) == (key_bytes(one) < key_bytes(other))


def test_ranges_have_their_bounds_and_keep_every_leaf() -> None:
    leaves = numbered(50_000)
    found = list(ranges(leaves))
    sizes = [one.node.leaves for one in found]
    assert min(sizes[:-1]) >= MIN_CHILDREN
    assert max(sizes) <= MAX_CHILDREN
    assert [decode_leaf(one) for finished in found for one in split_leaves(finished.block)] == leaves


def test_no_leaves_are_one_empty_range() -> None:
    assert [one.node.leaves for one in ranges([])] == [0]


@pytest.mark.parametrize("at", [0, 1, 7_777, 15_000, 29_999])
def test_one_key_changes_few_nodes(at: int) -> None:
    leaves = numbered(30_000, step=2)
    old = set(Kept(leaves).nodes)
    for new in (
        [*leaves[:at], leaves[at]._replace(size_bytes=1 << 40), *leaves[at + 1 :]],
        leaves[:at] + leaves[at + 1 :],
        [*leaves[: at + 1], Leaf(f"data/part-{at * 2 + 1:07d}", 0, ""), *leaves[at + 1 :]],
    ):
        assert len(old ^ set(Kept(new).nodes)) <= 12


# --- differences ------------------------------------------------------------------------------------------------------


@given(OBJECTS, OBJECTS)
@example({}, {})
@example({}, {"": (0, "etag:a")})
@example({key: (0, "etag:a") for key in ODD_KEYS}, {key: (0, "etag:b") for key in ODD_KEYS})
def test_differences_are_those_of_two_dicts(old: dict[str, tuple[int, str]], new: dict[str, tuple[int, str]]) -> None:
    assert changes(leaves_of(old), leaves_of(new)) == expected(leaves_of(old), leaves_of(new))


@given(st.integers(0, 4000), st.integers(0, 4000), st.integers(0, 2**32), st.sampled_from([0.0, 0.001, 0.05, 0.9]))
def test_differences_of_many_ranges_are_those_of_two_dicts(first: int, count: int, seed: int, share: float) -> None:
    random, old = Random(seed), numbered(4000)
    new = [leaf._replace(digest="etag:new") if random.random() < share else leaf for leaf in old if random.random() >= share]
    del new[first : first + count]
    assert changes(old, new) == expected(old, new)
    assert changes(new, old) == expected(new, old)


def test_equal_trees_are_never_opened() -> None:
    one, other = Kept(numbered(5000)), Kept(numbered(5000))
    assert list(differences([one.branch(one.root)], [other.branch(other.root)])) == []
    assert one.opened == other.opened == 0


def test_trees_of_other_heights_compare() -> None:
    few, many = numbered(40), numbered(60_000)
    assert Kept(few).root.level < Kept(many).root.level
    assert changes(few, many) == expected(few, many)
    assert changes(many, few) == expected(many, few)


# --- statements -------------------------------------------------------------------------------------------------------


def test_a_tally_keeps_the_first_and_counts_all() -> None:
    found = tally(differences(numbered(5), [leaf._replace(digest="") for leaf in numbered(10, step=3)]), limit=2)
    assert (found.changed_count, found.added_count, found.removed_count) == (2, 8, 3)
    assert [change.key for change in found.removed] == ["data/part-0000001", "data/part-0000002"]
    assert (len(found.changed), len(found.added), found.same) == (2, 2, False)
    assert tally([]).same


def test_a_statement_is_one_sentence() -> None:
    statement = Statement("nightly", utc_time(1_700_000_000.25), 1, 1_234, "ab" * 32)
    assert statement.sentence() == (
        f"At 2023-11-14T22:13:20.250Z, route nightly: 1 object, 1,234 bytes, digest root {'ab' * 32}, without exception."
    )


def test_a_sentence_names_some_exceptions_and_counts_the_rest() -> None:
    exceptions = tuple(Excepted(key, "differs") for key in ("a\nb", "c", "d", "e"))
    sentence = Statement("r", utc_time(0), 0, 0, "", exceptions, 1_500).sentence()
    assert sentence.endswith('except "a\\nb" (differs), "c" (differs), "d" (differs), and 1,497 more.')
    assert Statement("r", utc_time(0), 0, 0, "", exceptions[1:2], 1).sentence().endswith('except "c" (differs).')


def test_a_statement_is_read_back_as_it_was() -> None:
    statement = Statement("r", utc_time(0), 2, 3, "ff", (Excepted("\udcff", "missing"),), 9, {"end-to-end": 2})
    assert decode_statement(statement.encode()) == statement


@pytest.mark.parametrize("field", ["route", "objects", "exceptions", "levels", "unheard-of"])
def test_a_statement_of_another_shape_is_refused(field: str) -> None:
    with pytest.raises(TypeError):
        decode_statement({**Statement("r", utc_time(0), 0, 0, "").encode(), field: None})
