"""What is read of receipts and of the quarantine, in the order of the keys' bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, func, select, union

from ledger.batch import Place
from ledger.bulk import decode_key, encode_key
from ledger.rows import Quarantined, Receipt
from ledger.schema import pending_deletions, quarantine, receipts

NO_TOKENS = ("", "")
"""Of an object that rests: no listing shows these, so that a pass looks at it, whatever receipt it has."""
KEY, LOSSES = (list(receipts.columns.keys()).index(name) for name in ("key", "losses"))


def find_receipts(connection: Connection, places: Sequence[Place]) -> dict[Place, Receipt]:
    """Those that there are."""
    keys: dict[str, list[bytes]] = {}
    for route, key in places:
        keys.setdefault(route, []).append(encode_key(key))
    queries = (select(receipts).where(receipts.c.route == route, receipts.c.key.in_(asked)) for route, asked in keys.items())
    found = (_receipt(row) for query in queries for row in connection.execute(query))
    return {(receipt.route, receipt.key): receipt for receipt in found}


def token_range(
    connection: Connection, route: str, after: str, before: str | None, limit: int, rested_before: float
) -> tuple[list[str], list[tuple[str, str]]]:
    columns = receipts.c.key, receipts.c.source_listed, receipts.c.destination_listed
    query = select(*columns).where(receipts.c.route == route, receipts.c.key > encode_key(after)).order_by(receipts.c.key).limit(limit)
    if before is not None:
        query = query.where(receipts.c.key < encode_key(before))
    rows = connection.execute(query).all()
    if not (resting := _resting(connection, route, after, before, limit, rested_before)):
        return [decode_key(row[0]) for row in rows], [(row[1], row[2]) for row in rows]
    both = {row[0]: (row[1], row[2]) for row in rows} | dict.fromkeys(resting, NO_TOKENS)
    keys = sorted(both)[:limit]
    return [decode_key(key) for key in keys], [both[key] for key in keys]


def _resting(connection: Connection, route: str, after: str, before: str | None, limit: int, rested_before: float) -> Sequence[bytes]:
    query = select(quarantine.c.key).where(quarantine.c.route == route, quarantine.c.key > encode_key(after))
    query = query.where(quarantine.c.last_at < rested_before).order_by(quarantine.c.key).limit(limit)
    if before is not None:
        query = query.where(quarantine.c.key < encode_key(before))
    return connection.execute(query).scalars().all()


def receipt_range(connection: Connection, route: str, after: str, before: str | None, limit: int) -> list[Receipt]:
    query = select(receipts).where(receipts.c.route == route, receipts.c.key > encode_key(after)).order_by(receipts.c.key).limit(limit)
    if before is not None:
        query = query.where(receipts.c.key < encode_key(before))
    return [_receipt(row) for row in connection.execute(query)]


def _receipt(row: Any) -> Receipt:
    """The columns of the table are in the order of the fields."""
    values: list[Any] = list(row)
    values[KEY] = decode_key(values[KEY])
    values[LOSSES] = () if values[LOSSES] == "[]" else tuple(json.loads(values[LOSSES]))
    return Receipt(*values)


def in_sync_count(connection: Connection, route: str) -> int:
    """Receipts of objects that neither rest after a failure nor are about to be deleted. Counted apart: these are few."""
    every = select(func.count()).select_from(receipts).where(receipts.c.route == route)
    held = select(pending_deletions.c.key).where(pending_deletions.c.route == route)
    resting = select(quarantine.c.key).where(quarantine.c.route == route)
    others = union(held, resting).subquery()
    known = select(func.count()).select_from(others.join(receipts, (receipts.c.route == route) & (receipts.c.key == others.c.key)))
    return connection.execute(every).scalar_one() - connection.execute(known).scalar_one()


def quarantined(connection: Connection, route: str, reason: str | None, since: float, after: str, limit: int) -> list[Quarantined]:
    query = select(quarantine).where(quarantine.c.route == route, quarantine.c.key > encode_key(after), quarantine.c.last_at >= since)
    if reason is not None:
        query = query.where(quarantine.c.reason == reason)
    rows = connection.execute(query.order_by(quarantine.c.key).limit(limit))
    return [_quarantined(row) for row in rows]


def find_quarantined(connection: Connection, route: str, key: str) -> Quarantined | None:
    query = select(quarantine).where(quarantine.c.route == route, quarantine.c.key == encode_key(key))
    row = connection.execute(query).one_or_none()
    return row if row is None else _quarantined(row)


def _quarantined(row: Any) -> Quarantined:
    return Quarantined(**{**row._mapping, "key": decode_key(row.key)})


def quarantine_counts(connection: Connection, route: str) -> dict[str, int]:
    query = select(quarantine.c.reason, func.count()).where(quarantine.c.route == route).group_by(quarantine.c.reason)
    return {reason: count for reason, count in connection.execute(query.order_by(quarantine.c.reason))}
