"""Writes, reads, compares and verifies certificates of verification passes; `ledger/certificate_file.py` has their format.

A certificate states that at a time a route held so many objects and bytes, with this digest, except for these keys. Two of
them tell which keys changed in between, and read a few hundred leaves for each of them.
"""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self

from ledger.certificate_file import HEADER, Certificate, encode_children, encode_end
from replication.certificate import Leaf, Node, Placed, Range, TreeBuilder, decode_leaf, ranges, root_of, split_leaves
from replication.errors import CertificateBroken
from replication.models import Verification
from replication.statement import MAX_CHANGES, MAX_EXCEPTIONS, Comparison, Excepted, Statement, tally, utc_time
from replication.tree_diff import Branch, differences

_BUFFER_BYTES = 1 << 20


class CertificateWriter:
    """Writes a certificate beside `path` and puts it there on `close`; until then, whatever stood there stays.

    `at` is in seconds since 1970. As a context manager it closes, or after an exception aborts. Memory holds one range and
    the open node of each level, whatever the number of leaves. Not for concurrent use.
    """

    def __init__(self, path: str | Path, *, route: str, at: float) -> None:
        self._path = Path(path)
        self._route, self._time = route, utc_time(at)
        self._objects = self._size_bytes = self._exceptions_count = self._offset = 0
        self._exceptions: list[Excepted] = []
        self._levels: Counter[str] = Counter()
        self._tree = TreeBuilder(self._keep_range, self._keep_node)
        self._temporary = self._path.with_name(f".certificate-{secrets.token_hex(8)}.tmp")
        self._file = self._temporary.open("xb", buffering=_BUFFER_BYTES)
        self._write(HEADER)

    def add(self, key: str, size_bytes: int, digest: str, level: Verification = "") -> None:
        """An object, in the order of the keys' UTF-8 bytes. Raises ValueError, and adds nothing, for a key out of order."""
        self._tree.add(Leaf(key, size_bytes, digest))
        self._objects += 1
        self._size_bytes += size_bytes
        if level:
            self._levels[level] += 1

    def except_for(self, key: str, anomaly: str) -> None:
        """A key, in any order, that the statement does not vouch for; whether it is also a leaf is the caller's choice."""
        self._exceptions_count += 1
        if len(self._exceptions) < MAX_EXCEPTIONS:
            self._exceptions.append(Excepted(key, anomaly))

    def close(self) -> Statement:
        """Ends the file, makes it durable and renames it to its path."""
        try:
            statement = self._end()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._temporary.replace(self._path)
        except BaseException:
            self.abort()
            raise
        _sync_folder(self._path.parent)
        return statement

    def abort(self) -> None:
        """Leaves nothing behind."""
        try:
            self._file.close()
        finally:
            self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.abort()
        elif not self._file.closed:
            self.close()

    def _end(self) -> Statement:
        root = self._tree.finish()
        exceptions = tuple(self._exceptions)
        statement = Statement(
            self._route,
            self._time,
            self._objects,
            self._size_bytes,
            root.node.hash.hex(),
            exceptions,
            self._exceptions_count,
            dict(self._levels),
        )
        self._write(encode_end(statement, root))
        return statement

    def _keep_range(self, finished: Range) -> Placed:
        return Placed(finished.node, *self._write(finished.block))

    def _keep_node(self, node: Node, children: list[Placed]) -> Placed:
        return Placed(node, *self._write(encode_children(children)))

    def _write(self, block: bytes) -> tuple[int, int]:
        """The offset and length at which `block` stands."""
        offset = self._offset
        self._file.write(block)
        self._offset += len(block)
        return offset, len(block)


def _sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def compare(old: str | Path, new: str | Path, *, limit: int = MAX_CHANGES) -> Comparison:
    """What changed from one certificate to another, up to `limit` keys of each kind. Reads the ranges that differ."""
    with Certificate(old) as before, Certificate(new) as after:
        found = tally(differences([before.root], [after.root]), limit)
        return replace(found, leaves_read=before.leaves_read + after.leaves_read)


def check(path: str | Path, leaves: Iterable[Leaf], *, limit: int = MAX_CHANGES) -> Comparison:
    """What changed from a certificate to a stream of leaves in the order of their keys (ValueError for another order)."""
    with Certificate(path) as before:
        after = (Branch(fresh.node, partial(_leaves_of, fresh)) for fresh in ranges(leaves))
        found = tally(differences([before.root], after), limit)
        return replace(found, leaves_read=before.leaves_read)


def _leaves_of(fresh: Range) -> list[Leaf]:
    return [decode_leaf(one) for one in split_leaves(fresh.block)]


def verify_file(path: str | Path) -> Statement:
    """Reads and hashes every byte, and builds the tree anew. Raises `CertificateBroken` unless the file is as it was written."""
    with Certificate(path) as certificate:
        statement, sizes = certificate.statement, [0, 0]
        try:
            root = root_of(_counted(certificate.leaves(), sizes))
        except ValueError:
            raise CertificateBroken(f"{Path(path).name!r} cannot be trusted: its keys are not in order") from None
        stated = (statement.objects, statement.size_bytes, statement.root, certificate.block_bytes)
        if (*sizes, root.hash.hex(), certificate.block_bytes_read) != stated:
            raise CertificateBroken(f"{Path(path).name!r} cannot be trusted: its tree is not what it states")
        return statement


def _counted(leaves: Iterable[Leaf], sizes: list[int]) -> Iterator[Leaf]:
    """Passes leaves on, and adds up their number and bytes in `sizes`."""
    for leaf in leaves:
        sizes[0] += 1
        sizes[1] += leaf.size_bytes
        yield leaf
