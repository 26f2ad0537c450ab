"""A digest tree over the keys of a bucket: two trees that differ in one key differ in one range and the few nodes above it.

Leaves stand in the order of their keys' UTF-8 bytes, which is that of `str`. They are cut into ranges (level 1), ranges into
nodes of level 2, and so on until one node is left, the root. A node of level n ends after the key whose SHA-256 has a zero in
byte n - 1, if it has 32 children by then, or else after 1,024; 280 on average. So the cuts depend on the keys alone: a
change moves none, a key that comes or goes moves those beside it, and the same leaves always have the same root.

    leaf      00 | key length (2 bytes), size (8), digest length (1) | key | digest
    range     01 01 | the SHA-256 of each leaf
    node      01 level | for each child: key length (2), leaves (8), SHA-256 (32) | its first key

Each hash is the SHA-256 of what stands here; numbers are unsigned and big-endian. A text is UTF-8, lone surrogates as three
bytes each, so that a name of no valid encoding is a key like others. No leaves at all are one empty range.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

MIN_CHILDREN = 32
MAX_CHILDREN = 1024

_LEAF = struct.Struct(">HQB")
_CHILD = struct.Struct(">HQ32s")


class Leaf(NamedTuple):
    """One object. `digest` says what it is, such as `crc32c:1a2b3c4d` or `etag:…`; at most 255 bytes."""

    key: str
    size_bytes: int
    digest: str


class Node(NamedTuple):
    """A range (level 1) or what stands above: everything its parent says about it."""

    level: int
    key: str
    """The first key below it."""
    leaves: int
    hash: bytes


# --- encodings and hashes ---------------------------------------------------------------------------------------------


def key_bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def encode_leaf(leaf: Leaf) -> bytes:
    """Unambiguous: no two leaves have the same bytes. Raises ValueError for a leaf out of bounds."""
    key, digest = key_bytes(leaf.key), key_bytes(leaf.digest)
    try:
        return _LEAF.pack(len(key), leaf.size_bytes, len(digest)) + key + digest
    except struct.error:
        raise ValueError("a key has at most 65,535 bytes, a digest 255, and a size is below 2^64") from None


def split_leaves(block: bytes) -> list[bytes]:
    """The encoded leaves that stand in `block` one after the other. Raises ValueError if they do not fill it."""
    found, at = [], 0
    while at < len(block):
        end = at + _LEAF.size
        if end <= len(block):
            key_length, _, digest_length = _LEAF.unpack_from(block, at)
            end += key_length + digest_length
        if end > len(block):
            raise ValueError("a leaf is cut short")
        found.append(block[at:end])
        at = end
    return found


def decode_leaf(encoded: bytes) -> Leaf:
    """The leaf of one piece of `split_leaves`. Raises ValueError for bytes that are no text."""
    key_length, size_bytes, _ = _LEAF.unpack_from(encoded)
    middle = _LEAF.size + key_length
    key = encoded[_LEAF.size : middle].decode("utf-8", "surrogatepass")
    return Leaf(key, size_bytes, encoded[middle:].decode("utf-8", "surrogatepass"))


def leaf_hash(encoded: bytes) -> bytes:
    return hashlib.sha256(b"\0" + encoded).digest()


def range_hash(leaves: Iterable[bytes]) -> bytes:
    """Of a range that holds these encoded leaves."""
    return hashlib.sha256(b"\1\1" + b"".join(map(leaf_hash, leaves))).digest()


def node_hash(level: int, children: Iterable[Node]) -> bytes:
    """Of a node of level 2 or more."""
    keys = [(child, key_bytes(child.key)) for child in children]
    parts = [_CHILD.pack(len(key), child.leaves, child.hash) + key for child, key in keys]
    return hashlib.sha256(bytes([1, level]) + b"".join(parts)).digest()


# --- building ---------------------------------------------------------------------------------------------------------


class Range(NamedTuple):
    """A finished range. `block` is its encoded leaves, `mark` the SHA-256 of its last key."""

    node: Node
    block: bytes
    mark: bytes


class RangeBuilder:
    """Cuts leaves that come in the order of their keys into ranges; holds one range."""

    def __init__(self) -> None:
        self._first: str | None = None
        self._last: str | None = None
        self._leaves: list[bytes] = []
        self._mark = bytes(32)

    def add(self, leaf: Leaf) -> Range | None:
        """The range that `leaf` ends, if it ends one. Raises ValueError for a key that is not above the one before."""
        if self._last is not None and leaf.key <= self._last:
            raise ValueError("keys must ascend in the order of their UTF-8 bytes, each of them once")
        encoded = encode_leaf(leaf)
        if not self._leaves:
            self._first = leaf.key
        self._leaves.append(encoded)
        self._last = leaf.key
        self._mark = hashlib.sha256(key_bytes(leaf.key)).digest()
        return self.finish() if _ends(1, len(self._leaves), self._mark) else None

    def finish(self) -> Range | None:
        """The range of the leaves that are left. None if there are none, but for the empty range of no leaves ever."""
        if not self._leaves and self._last is not None:
            return None
        node = Node(1, self._first or "", len(self._leaves), range_hash(self._leaves))
        finished = Range(node, b"".join(self._leaves), self._mark)
        self._leaves = []
        return finished


def ranges(leaves: Iterable[Leaf]) -> Iterator[Range]:
    """The ranges of a stream of leaves in the order of their keys."""
    builder = RangeBuilder()
    yield from (finished for leaf in leaves if (finished := builder.add(leaf)))
    if last := builder.finish():
        yield last


class Placed(NamedTuple):
    """A node, and where its children stand."""

    node: Node
    offset: int
    length: int


class TreeBuilder:
    """Builds the nodes above the ranges; holds the open node of each level.

    `keep_range` and `keep_node` put the children of a finished range or node somewhere and say where.
    """

    def __init__(self, keep_range: Callable[[Range], Placed], keep_node: Callable[[Node, list[Placed]], Placed]) -> None:
        self._keep_range = keep_range
        self._keep_node = keep_node
        self._ranges = RangeBuilder()
        self._open: list[list[Placed]] = [[]]
        """The children so far of the open nodes of level 2 and above."""
        self._finished = [0]
        """How many nodes of these levels are finished."""

    def add(self, leaf: Leaf) -> None:
        """Raises ValueError for a key that is not above the one before, and for a leaf out of bounds."""
        if finished := self._ranges.add(leaf):
            self._rise(finished)

    def finish(self) -> Placed:
        """The root. Nothing may be added after."""
        if last := self._ranges.finish():
            self._rise(last)
        at = 0
        while self._finished[at] or len(self._open[at]) > 1:
            if self._open[at]:
                self._close(at)
            at += 1
        return self._open[at][0]

    def _rise(self, finished: Range) -> None:
        """Hangs a range into the node above it, and ends the nodes that end with it."""
        self._open[0].append(self._keep_range(finished))
        at = 0
        while _ends(at + 2, len(self._open[at]), finished.mark):
            self._close(at)
            at += 1

    def _close(self, at: int) -> None:
        children = self._open[at]
        nodes = [child.node for child in children]
        node = Node(at + 2, nodes[0].key, sum(child.leaves for child in nodes), node_hash(at + 2, nodes))
        if at + 1 == len(self._open):
            self._open.append([])
            self._finished.append(0)
        self._open[at + 1].append(self._keep_node(node, children))
        self._open[at] = []
        self._finished[at] += 1


def _ends(level: int, children: int, mark: bytes) -> bool:
    return children >= MAX_CHILDREN or (children >= MIN_CHILDREN and mark[level - 1] == 0)


def root_of(leaves: Iterable[Leaf]) -> Node:
    """The root of a stream of leaves in the order of their keys."""
    tree = TreeBuilder(lambda finished: Placed(finished.node, 0, 0), lambda node, _: Placed(node, 0, 0))
    for leaf in leaves:
        tree.add(leaf)
    return tree.finish().node
