"""Certificates of verification passes: a statement about a route and its digest tree, in one file that is written as a stream.

    header      "drayage certificate 1" and a line feed; 1 is the version of this format and of the tree's rules
    blocks      the children of each node of the tree, once the node is finished, so the root's come last
                  of a range: its leaves, as `replication/certificate.py` encodes them
                  of a node: for each child the length of its first key (2 bytes), leaves (8), SHA-256 (32), offset (8)
                  and length (4) of its block, and its first key
    statement   JSON in ASCII: the fields of `Statement`, and `tree`: level of the root, offset and length of its block
    end         length of the statement (4 bytes), its SHA-256 (32), "drayend" and a line feed

Numbers are unsigned and big-endian. Whatever is read is checked against the hash above it and the statement against its
own, so a changed byte is found when it is read, and by `verify_file` in any case. The root binds the leaves, and by them the
numbers of objects and bytes, as `verify_file` proves; nothing of the file binds the route, the time, the levels and the
exceptions, which whoever seals it anew can change. What proves a certificate to others is the SHA-256 of the whole file, or of
its leaves alone the root, kept elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, Self

from replication.certificate import Leaf, Node, Placed, decode_leaf, key_bytes, node_hash, range_hash, split_leaves
from replication.errors import CertificateBroken
from replication.statement import Statement, decode_statement
from replication.tree_diff import Branch

HEADER = b"drayage certificate 1\n"

_CHILD = struct.Struct(">HQ32sQI")
_END = struct.Struct(">I32s8s")
_END_MARK = b"drayend\n"


def encode_children(children: list[Placed]) -> bytes:
    """The block of a node of level 2 or more."""
    parts = []
    for child, offset, length in children:
        key = key_bytes(child.key)
        parts.append(_CHILD.pack(len(key), child.leaves, child.hash, offset, length) + key)
    return b"".join(parts)


def decode_children(level: int, block: bytes) -> list[Placed]:
    """The children of a node of this level. Raises ValueError or struct.error for a block that is none."""
    children, at = [], 0
    while at < len(block):
        key_length, leaves, digest, offset, length = _CHILD.unpack_from(block, at)
        at += _CHILD.size + key_length
        key = block[at - key_length : at].decode("utf-8", "surrogatepass")
        children.append(Placed(Node(level - 1, key, leaves, digest), offset, length))
    if at != len(block):
        raise ValueError("a child is cut short")
    return children


def encode_end(statement: Statement, root: Placed) -> bytes:
    """Everything after the blocks."""
    tree = {"level": root.node.level, "offset": root.offset, "length": root.length}
    text = json.dumps({**statement.encode(), "tree": tree}).encode()
    return text + _END.pack(len(text), hashlib.sha256(text).digest(), _END_MARK)


class Certificate:
    """A certificate that is open for reading, by seeking; a context manager. Every read raises `CertificateBroken`.

    `leaves_read` counts the leaves that had to be read so far.
    """

    def __init__(self, path: str | Path) -> None:
        self.leaves_read = 0
        self.block_bytes_read = 0
        self._name = Path(path).name
        self._file: BinaryIO = Path(path).open("rb")
        try:
            self._blocks_end = 0
            self.statement, self._root = self._read_statement()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def root(self) -> Branch:
        return self._branch(self._root)

    @property
    def block_bytes(self) -> int:
        """The length of all blocks."""
        return self._blocks_end - len(HEADER)

    def leaves(self) -> Iterator[Leaf]:
        """All of them, in order."""
        return _leaves_below(self.root)

    def _read_statement(self) -> tuple[Statement, Placed]:
        self._file.seek(0, os.SEEK_END)
        end_at = self._file.tell() - _END.size
        if end_at < len(HEADER) or self._read(0, len(HEADER)) != HEADER:
            raise self._broken("it is no certificate of version 1")
        length, digest, mark = _END.unpack(self._read(end_at, _END.size))
        self._blocks_end = end_at - length
        if mark != _END_MARK or self._blocks_end < len(HEADER):
            raise self._broken("its end is missing or damaged")
        text = self._read(self._blocks_end, length)
        if hashlib.sha256(text).digest() != digest:
            raise self._broken("its statement is damaged")
        try:
            document = json.loads(text)
            tree = document.pop("tree")
            statement = decode_statement(document)
            root = Node(int(tree["level"]), "", statement.objects, bytes.fromhex(statement.root))
            return statement, Placed(root, int(tree["offset"]), int(tree["length"]))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            raise self._broken("its statement is not of version 1") from None

    def _branch(self, placed: Placed) -> Branch:
        return Branch(placed.node, partial(self._children, placed))

    def _children(self, placed: Placed) -> list[Branch] | list[Leaf]:
        """What stands below a node, once its hash is found to be right."""
        node, offset, length = placed
        if offset < len(HEADER) or not 0 <= length <= self._blocks_end - offset:
            raise self._broken("a node points outside of the file")
        block = self._read(offset, length)
        self.block_bytes_read += length
        try:
            return self._leaves(node, block) if node.level == 1 else self._nodes(node, block)
        except (ValueError, struct.error):
            raise self._broken(f"what stands at byte {offset:,} is damaged") from None

    def _leaves(self, node: Node, block: bytes) -> list[Leaf]:
        encoded = split_leaves(block)
        self.leaves_read += len(encoded)
        if len(encoded) != node.leaves or range_hash(encoded) != node.hash:
            raise ValueError
        return [decode_leaf(one) for one in encoded]

    def _nodes(self, node: Node, block: bytes) -> list[Branch]:
        children = decode_children(node.level, block)
        if node_hash(node.level, [child.node for child in children]) != node.hash:
            raise ValueError
        return [self._branch(child) for child in children]

    def _read(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(length)

    def _broken(self, why: str) -> CertificateBroken:
        return CertificateBroken(f"{self._name!r} cannot be trusted: {why}")


def _leaves_below(branch: Branch) -> Iterator[Leaf]:
    for child in branch.children():
        if isinstance(child, Leaf):
            yield child
        else:
            yield from _leaves_below(child)
