"""What one or several `record` calls bring, written in one transaction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from ledger import audit, bulk, schema
from ledger.bulk import Values, encode_key
from ledger.rows import AuditEntry, Quarantined, Receipt

Place = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Batch:
    """What one call brings at the time `now`. Places are (route, key)."""

    now: float
    receipts: tuple[Receipt, ...] = ()
    audit: tuple[AuditEntry, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()
    released: tuple[Place, ...] = ()
    forgotten: tuple[Place, ...] = ()

    def __len__(self) -> int:
        return sum(map(len, (self.receipts, self.audit, self.quarantined, self.released, self.forgotten)))


def write(connection: Connection, batches: Sequence[Batch]) -> None:
    """Applies the batches one after the other. Rows are locked in one order everywhere, a route's chain last and so the shortest."""
    _write_receipts(connection, batches)
    _write_quarantine(connection, batches)
    audit.append(connection, [(entry, batch.now) for batch in batches for entry in batch.audit])


def _write_receipts(connection: Connection, batches: Sequence[Batch]) -> None:
    last: dict[Place, Values | None] = {}
    for batch in batches:
        last.update(((receipt.route, receipt.key), _receipt_values(receipt, batch.now)) for receipt in batch.receipts)
        last.update((place, None) for place in batch.forgotten)
    bulk.upsert(connection, schema.receipts, _ordered([values for values in last.values() if values is not None]))
    bulk.remove(connection, schema.receipts, _ordered([_place(place) for place, values in last.items() if values is None]))


def _write_quarantine(connection: Connection, batches: Sequence[Batch]) -> None:
    """An object that leaves and comes again within the batches begins anew."""
    left: set[Place] = set()
    last: dict[Place, Values] = {}
    for batch in batches:
        leaving = {(receipt.route, receipt.key) for receipt in batch.receipts} | set(batch.released)
        for item in batch.quarantined:
            place = item.route, item.key
            if place not in leaving:
                last[place] = _quarantine_values(item, last.get(place), batch.now)
        left |= leaving
        for place in leaving & last.keys():
            del last[place]
    bulk.remove(connection, schema.quarantine, _ordered([_place(place) for place in left]))
    bulk.upsert(connection, schema.quarantine, _ordered(list(last.values())), kept=("first_at",), added=("attempts",))


def _ordered(rows: list[Values]) -> list[Values]:
    return sorted(rows, key=lambda row: (row["route"], row["key"]))


def _place(place: Place) -> Values:
    return {"route": place[0], "key": encode_key(place[1])}


def _receipt_values(receipt: Receipt, now: float) -> Values:
    return {
        "route": receipt.route,
        "key": encode_key(receipt.key),
        "source_version": receipt.source_version,
        "destination_version": receipt.destination_version,
        "source_listed": receipt.source_listed,
        "destination_listed": receipt.destination_listed,
        "size_bytes": receipt.size_bytes,
        "crc32c": receipt.crc32c,
        "verification": receipt.verification,
        "losses": json.dumps(receipt.losses) if receipt.losses else "[]",
        "workflow": receipt.workflow,
        "recorded_at": float(receipt.recorded_at or now),
    }


def _quarantine_values(item: Quarantined, before: Values | None, now: float) -> Values:
    """The row, on top of the one `before` it that is not written yet. Messages hold whatever a store answers."""
    return {
        "route": item.route,
        "key": encode_key(item.key),
        "reason": item.reason,
        "message": item.message.replace("\0", "\ufffd").encode("utf-8", "replace").decode(),
        "attempts": before["attempts"] + 1 if before else 1,
        "first_at": before["first_at"] if before else float(item.first_at or now),
        "last_at": float(item.last_at or now),
        "next_step": item.next_step,
    }
