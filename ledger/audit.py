"""The audit chain: every change at a destination, in order, each entry bound to all before it.

In a route, entries are numbered from 1 without a gap. The hash of an entry is SHA-256 over the hash before it (nothing
before the first) and the entry as canonical JSON. `chains` holds the last number and hash of each route, and is the lock
under which a route's chain grows. Whoever rewrites both tables as a whole is found out by a `head` that was kept elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from sqlalchemy import Connection, Select, select

from ledger import bulk
from ledger.bulk import Values, decode_key, encode_key
from ledger.engine import is_postgres
from ledger.rows import AuditEntry, ChainReport
from ledger.schema import audit, chains

PAGE = 1_000
FIELDS = tuple(column for column in audit.columns if column.name != "hash")

_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def link(previous: bytes, entry: Values) -> bytes:
    """The hash of an entry: its columns by name, the key as text."""
    return hashlib.sha256(previous + _canonical(entry).encode()).digest()


def append(connection: Connection, entries: Sequence[tuple[AuditEntry, float]]) -> None:
    """Adds to the end of the chains, in the order given; what has no `at` happened at the time beside it."""
    routes = sorted({entry.route for entry, _ in entries})
    heads = {route: _lock(connection, route) for route in routes}
    rows = []
    for entry, now in entries:
        sequence, previous = heads[entry.route]
        values = _values(entry, sequence + 1, now)
        heads[entry.route] = sequence + 1, link(previous, values)
        rows.append({**values, "key": encode_key(entry.key), "hash": heads[entry.route][1]})
    bulk.insert(connection, audit, rows)
    bulk.upsert(connection, chains, [{"route": route, "sequence": heads[route][0], "hash": heads[route][1]} for route in routes])


def append_missing(connection: Connection, entries: Sequence[AuditEntry]) -> None:
    """Adds those that are not there already; each has its `at`."""
    append(connection, [(entry, entry.at) for entry in entries if not _is_there(connection, entry)])


def _is_there(connection: Connection, entry: AuditEntry) -> bool:
    """Whether it was committed, or its copy was found in place by another process since, which told it first."""
    for found in history(connection, entry.route, entry.key):
        if (found.at, found.action, found.workflow) == (entry.at, entry.action, entry.workflow):
            return True
        if found.at >= entry.at and found.action == "copied" and _copy(found) == _copy(entry):
            return True
    return False


def _copy(entry: AuditEntry) -> tuple[str, str, str]:
    return entry.action, entry.source_version, entry.destination_version


def _values(entry: AuditEntry, sequence: int, now: float) -> Values:
    return {
        "route": entry.route,
        "sequence": sequence,
        "key": entry.key,
        "action": entry.action,
        "source_version": entry.source_version,
        "destination_version": entry.destination_version,
        "size_bytes": entry.size_bytes,
        "crc32c": entry.crc32c,
        "reason": entry.reason,
        "workflow": entry.workflow,
        "at": float(entry.at or now),
    }


def _lock(connection: Connection, route: str) -> tuple[int, bytes]:
    """The head of a route's chain, which nobody else can move until this transaction ends."""
    query = select(chains.c.sequence, chains.c.hash).where(chains.c.route == route).with_for_update()
    head = connection.execute(query).one_or_none()
    if head is None:
        bulk.upsert(connection, chains, [{"route": route, "sequence": 0, "hash": b""}], kept=("sequence", "hash"))
        head = connection.execute(query).one()
    return head.sequence, bytes(head.hash)


def history(connection: Connection, route: str, key: str) -> list[AuditEntry]:
    query = select(*FIELDS).where(audit.c.route == route, audit.c.key == encode_key(key)).order_by(audit.c.sequence)
    return [_entry(row) for row in connection.execute(query)]


def entries(connection: Connection, route: str, after: int, limit: int) -> list[AuditEntry]:
    query = select(*FIELDS).where(audit.c.route == route, audit.c.sequence > after).order_by(audit.c.sequence).limit(limit)
    return [_entry(row) for row in connection.execute(query)]


def _entry(row: Any) -> AuditEntry:
    return AuditEntry(**{**row._mapping, "key": decode_key(row.key)})


def verify(connection: Connection, route: str, kept: bytes | None) -> ChainReport:
    """Reads a whole chain, a page at a time, as it stood at one moment. A `kept` head must be the hash of an entry."""
    if is_postgres(connection):
        connection = connection.execution_options(isolation_level="REPEATABLE READ")
        return _read_through(connection, route, kept)
    with _text_of_any_bytes(connection):
        return _read_through(connection, route, kept)


@contextmanager
def _text_of_any_bytes(connection: Connection) -> Iterator[None]:
    """SQLite takes text of no encoding, at which reading would end: what is none becomes lone surrogates, which nobody wrote."""
    driver: Any = connection.connection.dbapi_connection
    driver.text_factory = partial(bytes.decode, errors="surrogateescape")
    try:
        yield
    finally:
        driver.text_factory = str


def _read_through(connection: Connection, route: str, kept: bytes | None) -> ChainReport:
    head = connection.execute(select(chains.c.sequence, chains.c.hash).where(chains.c.route == route)).one_or_none()
    query: Select[Any] = select(audit).where(audit.c.route == route).order_by(audit.c.sequence)
    length, end = (head.sequence, head.hash) if head else (0, b"")
    if not isinstance(length, int) or not isinstance(end, bytes):  # SQLite takes values of any type in any column
        return ChainReport(route, 0, "", False, 1, "the end of the chain is not what was written")
    with connection.execution_options(yield_per=PAGE).execute(query) as rows:
        return _verified(route, rows, length, end, kept)


def _verified(route: str, rows: Iterable[Any], length: int, head: bytes, kept: bytes | None) -> ChainReport:
    count, previous, met = 0, b"", kept is None

    def broken(at: int | None, problem: str) -> ChainReport:
        return ChainReport(route, count, head.hex(), False, at, problem)

    for row in rows:
        if not isinstance(row.sequence, int):
            return broken(count + 1, f"what stands in the place of entry {count + 1} has no number")
        if row.sequence > length:
            return broken(row.sequence, f"entry {row.sequence} stands behind the end of the chain")
        if row.sequence < count + 1:
            return broken(row.sequence, f"entry {row.sequence} stands before the beginning of the chain")
        if row.sequence > count + 1:
            return broken(count + 1, f"entry {count + 1} is missing")
        if not _follows(previous, row):
            return broken(row.sequence, f"entry {row.sequence} is not what was written, or what stood before it is not")
        count, previous, met = count + 1, row.hash, met or row.hash == kept
    if count < length:
        return broken(count + 1, f"entry {count + 1} is missing")
    if previous != head:
        return broken(count, f"entry {count} is not the one that the chain ends with")
    if not met:
        return broken(None, "none of them has the head that was kept")
    return ChainReport(route, count, head.hex(), True)


def _follows(previous: bytes, row: Any) -> bool:
    """Whether an entry has the hash that it must have behind `previous`. Values that no entry can have have none."""
    try:
        found = {**row._mapping, "key": row.key.decode("utf-8", "surrogatepass")}
        return bool(link(previous, {name: value for name, value in found.items() if name != "hash"}) == row.hash)
    except (TypeError, ValueError, AttributeError):
        return False
